"""Resuming a run: to the same bits, or one error that names the file and the mend."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re

import numpy as np
import pytest
import torch

from rmlab.optimise.checkpoint import read_checkpoint, write_checkpoint
from rmlab.optimise.ppo import train
from rmlab.recipe import Ppo
from rmlab.tokens import SpecialTokens

BOS, SEP = 1, 3
QUICK = Ppo(
    steps=3,
    batch=8,
    max_new_tokens=5,
    epochs=2,
    minibatches=2,
    lr=3e-3,
    kl_coef=0.1,
    eval_every=2,
    save_every=2,
)
HARD = dataclasses.replace(QUICK, steps=5, target_kl=0.05, batch=6)


class Killed(BaseException):
    """A kill: nothing in the package catches it."""


def prompts(rng, count):
    return [[BOS, *rng.choice((5, 6, 7), rng.integers(1, 3)), SEP] for _ in range(count)]


def fives(prompts, answers):
    """Does the answer hold a 5?"""
    return np.array([float(5 in answer) for answer in answers])


def eval_fn(run):
    return {"gold": np.float64(run.step)}


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def whole(tiny_policy):
    """value_trunk -> an uninterrupted run: its settings, rows and weights."""

    @functools.cache
    def run(value_trunk):
        settings, policy = dataclasses.replace(HARD, value_trunk=value_trunk), tiny_policy()
        return settings, train(policy, prompts, fives, settings, 3, eval_fn), weights(policy)

    return run


# killed


KILLS = [  # the step at whose end, in whose reward, or at the end of whose checkpoint a run is killed
    *(("shared", "on_step", step) for step in range(6)),
    *(("shared", "reward", step) for step in (0, 1, 4)),
    *(("shared", "write", step) for step in (1, 3, 5)),
    *(("own", where, 3) for where in ("on_step", "reward", "write")),
]


@pytest.mark.parametrize(("value_trunk", "where", "step"), KILLS)
def test_a_killed_run_goes_on_to_the_same_bits(
    tiny_policy, whole, tmp_path, monkeypatch, value_trunk, where, step
):
    settings, rows, after = whole(value_trunk)
    calls = itertools.count()

    def die(*args):
        if next(calls) == step:
            raise Killed
        return fives(*args) if where == "reward" else None

    def die_in_write(
        *args,
    ):  # at the first checkpoint that ends the step or comes after it, before it is in place
        if next(calls) == sum(end < step for end in (1, 3, 5)):
            raise Killed
        move(*args)

    move = os.replace
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if where == "write":
            patch.setattr(os, "replace", die_in_write)
        reward, on_step = (die if where == name else None for name in ("reward", "on_step"))
        train(tiny_policy(), prompts, reward or fives, settings, 3, eval_fn, tmp_path, on_step)
    policy = tiny_policy()
    assert train(policy, prompts, fives, settings, 3, eval_fn, tmp_path) == rows
    assert same(weights(policy), after)


def test_a_finished_run_is_read_and_not_run_again(tiny_policy, tmp_path):
    """But for step 0, whose prompts and rewards say that it is the same run."""
    policy, rare, calls = tiny_policy(), dataclasses.replace(QUICK, save_every=9), []

    def reward(prompts, answers):
        calls.append(len(answers))
        return fives(prompts, answers)

    rows = train(policy, prompts, reward, rare, 0, folder=tmp_path)
    assert len(calls) == 4
    again = tiny_policy()
    assert train(again, prompts, reward, rare, 0, folder=tmp_path) == rows
    assert len(calls) == 5
    assert same(weights(again), weights(policy)) and [f.name for f in tmp_path.iterdir()] == ["ppo.pt"]


# another run's


@pytest.fixture(scope="module")
def folder(tiny_policy, tmp_path_factory):
    """A run's folder, not to be written to."""
    path = tmp_path_factory.mktemp("run")
    train(tiny_policy(), prompts, fives, QUICK, 0, folder=path)
    return path


@pytest.mark.parametrize("changed", ["lr", "seed", "policy", "eos", "prompts", "reward"])
def test_a_folder_of_another_run_is_refused(tiny_policy, folder, changed):
    settings = dataclasses.replace(QUICK, lr=0.5) if changed == "lr" else QUICK
    ask = (lambda rng, n: [[BOS, 7, SEP]] * n) if changed == "prompts" else prompts
    judge = (lambda p, a: fives(p, a) + 0.01 * np.arange(len(a))) if changed == "reward" else fives
    special = SpecialTokens(0, (5,)) if changed == "eos" else None
    messages = {
        "lr": r"^lr of the run in .*ppo\.pt = 0\.003: give it again, not 0\.5",
        "seed": "^seed of the run in .* = 0: give it again, not 1",
        "policy": "^policy of the run in ",
        "eos": r"^eos of the run in .* = \(2,\): give it again, not \(5,\)",
        "prompts": r"^prompts of step 0 of the run in .*ppo\.pt = .*: give that run's again, or another folder",
        "reward": r"^reward of step 0 of the run in .*ppo\.pt = .*: give that run's again, or another folder",
    }
    policy = tiny_policy(seed=2 if changed == "policy" else 1)
    with pytest.raises(ValueError, match=messages[changed]):
        train(policy, ask, judge, settings, int(changed == "seed"), folder=folder, special=special)


# damaged


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "text": lambda data: b"not a checkpoint\n" * 20,
    "a bit flipped": flipped,
    "a bit of the checksum flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "grown": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_error_with_the_mend(tiny_policy, folder, tmp_path, damage):
    path = tmp_path / "ppo.pt"
    path.write_bytes(DAMAGES[damage]((folder / "ppo.pt").read_bytes()))
    message = (
        rf"^checkpoint {re.escape(str(path))} = .* bytes that are not what was written.*: give .*delete it"
    )
    with pytest.raises(ValueError, match=message):
        train(tiny_policy(), prompts, fives, QUICK, 0, folder=tmp_path)
    path.unlink()
    assert len(train(tiny_policy(), prompts, fives, QUICK, 0, folder=tmp_path)) == 4


@pytest.mark.parametrize("part", ["step", "rows", "optimiser", "critic"])
def test_a_whole_file_of_the_wrong_content_is_one_error_with_the_mend(tiny_policy, folder, tmp_path, part):
    state, path = read_checkpoint(folder / "ppo.pt"), tmp_path / "ppo.pt"
    if part == "optimiser":
        del state[part]
    else:
        state[part] = {"step": 99, "rows": state["rows"][:1], "critic": {}}[part]
    write_checkpoint(path, state)
    place = re.escape(f"of the run in {path}")
    name = {"optimiser": "parts", "critic": "critic"}.get(part, "step and rows")
    with pytest.raises(ValueError, match=rf"^{name} {place}.*: give .*delete it"):
        train(tiny_policy(), prompts, fives, QUICK, 0, folder=tmp_path)


def test_it_is_a_plain_torch_file(folder):
    ours, theirs = read_checkpoint(folder / "ppo.pt"), torch.load(folder / "ppo.pt", weights_only=True)
    assert set(ours) == set(theirs) and ours["rows"] == theirs["rows"] and ours["step"] == 4
