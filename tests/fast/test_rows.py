"""Pairs, answers and last tokens, packed: equal to the reference with gradients, whatever stands beside a row."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import plain, rows
from rmlab.fast.packed import packed
from rmlab.fast.plain import trunk_of
from rmlab.fast.rows import first_alike, read_answers, read_ends, read_pairs
from rmlab.tokens import pad_right
from tests.fast.families import PACKED, PLAIN, alone, close, every, ragged, same_gradients

WEIGH = torch.randn(400, 32, generator=torch.Generator().manual_seed(5))
FEWER = {name: PACKED[name] for name in ("llama", "qwen2", "qwen3", "mistral_window", "neox")}


def in_groups(seed: int) -> tuple[list, list]:
    """Answers of several lengths, three to a prompt and in no order; two begin alike, two are the same."""
    prompts, answers = ragged(seed, 4), ragged(seed + 1, 12)
    prompts = [prompts[i % 4] for i in range(12)]
    answers[4], answers[8] = answers[0] + [7, 8], list(answers[0])
    return prompts, answers


@every(PACKED)
def test_the_packed_families_are_packed(lm):
    assert packed(trunk_of(lm), 40) is not None


@every(PLAIN)
def test_the_others_are_not(lm):
    assert packed(trunk_of(lm), 40) is None


@every(PACKED, PLAIN)
def test_a_pair_equals_two_rows_with_gradients(lm):
    prompts, chosen, rejected = ragged(0), ragged(1), ragged(2)
    got = read_pairs(lm, prompts, chosen, rejected)
    whole = [p + a for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
    close(got, torch.stack([alone(lm, row)[-1] for row in whole]))
    ways = [
        lambda: read_pairs(lm, prompts, chosen, rejected),
        lambda: plain.read_pairs(trunk_of(lm), prompts, chosen, rejected),
    ]
    same_gradients(lm, WEIGH, ways)


@every(PACKED, PLAIN)
def test_every_token_of_an_answer_equals_the_reference_with_gradients(lm):
    prompts, answers = in_groups(3)
    got = read_answers(trunk_of(lm), prompts, answers)
    pairs = list(zip(prompts, answers, strict=True))
    close(got, torch.cat([alone(lm, p + a[:-1])[len(p) - 1 :] for p, a in pairs]))
    ways = [
        lambda: read_answers(trunk_of(lm), prompts, answers),
        lambda: plain.read_answers(trunk_of(lm), prompts, answers),
    ]
    same_gradients(lm, WEIGH, ways)


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("side", ["right", "left", "both", "none"])
@every(FEWER, PLAIN)
def test_last_tokens_equal_those_of_rows_alone_whatever_the_padding(lm, side, few, monkeypatch):
    monkeypatch.setattr(rows, "FEW", few)
    whole = [p + a for p, a in zip(*in_groups(6), strict=True)]
    if side == "none":
        whole = [(row * 40)[:40] for row in whole]
    ids, mask = torch.full((12, 40), -100), torch.zeros(12, 40, dtype=torch.bool)
    for i, row in enumerate(whole):
        at = {"right": 0, "left": 40 - len(row), "both": i, "none": 0}[side]
        ids[i, at : at + len(row)], mask[i, at : at + len(row)] = torch.tensor(row), True
    close(read_ends(trunk_of(lm), ids, mask), torch.stack([alone(lm, row)[-1] for row in whole]))


@every(FEWER, PLAIN)
def test_edited_weights_take_the_place_of_the_models_own(lm):
    edits = {
        n: 1.5 * w for n, w in trunk_of(lm).named_parameters() if w.ndim == 2 or "norm" in n or "ln" in n
    }
    prompts, chosen, rejected = ragged(7), ragged(8), ragged(9)
    got = read_pairs(lm, prompts, chosen, rejected, edits)
    whole = [p + a for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
    want = torch.stack([alone(lm, row, edits)[-1] for row in whole])
    close(got, want)
    ids, mask = map(torch.from_numpy, pad_right(whole, pad=0))
    close(read_ends(trunk_of(lm), ids, mask, edits), want)


@pytest.mark.parametrize("grouped", [False, True])
@every(FEWER)
def test_bfloat16_reads_rounded_up_tokens_and_no_padding(lm, grouped):
    """Neither what fills tokens up to a multiple of 64 nor its gradient may reach what is read."""
    model = copy.deepcopy(lm)
    with torch.no_grad():  # large weights would hide the small difference that is looked for
        for weight in model.parameters():
            weight.mul_(0.3 if weight.ndim > 1 else 1.0)
    prompts, answers = in_groups(3) if grouped else (ragged(3, 11), ragged(4, 11))
    found = []
    for way in (read_answers, plain.read_answers):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=way is read_answers):
            out = way(trunk_of(model), prompts, answers)
        (out.float() * WEIGH[: len(out)]).sum().backward()
        found.append(
            (out.detach().float(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        )
    (out, grads), (want, right) = found
    torch.testing.assert_close(out, want, atol=0.06, rtol=0.06)
    for name, grad in right.items():
        assert (grads[name] - grad).norm() <= 0.1 * grad.norm(), name


def test_large_activations_do_not_overflow_in_half_precision(fresh):
    model = fresh("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 3] = 1000.0
    prompts, answers = [[7, 8]] * 40, [[9, 7]] * 40
    want, half = read_pairs(model, prompts, answers, answers), copy.deepcopy(model).half()
    got = read_pairs(half, prompts, answers, answers).float()
    assert packed(half.model, 4) is not None and want.abs().max() > 1
    torch.testing.assert_close(got, want, atol=0.03, rtol=0.03)


def test_a_beginning_that_rows_share_is_found_and_no_other():
    alike = [[5, 6, 7], [5, 6], [6, 6, 7], [5, 6, 7, 8], [5, 9, 7, 8], [5, 6, 7]]
    ids, mask = pad_right(alike, pad=6)  # a pad that is also a token
    first = first_alike(ids, mask)
    for b, row in enumerate(alike):
        for t in range(len(row)):
            same = [i for i, other in enumerate(alike) if other[: t + 1] == row[: t + 1]]
            assert first[b, t] in same and {int(first[i, t]) for i in same} == {int(first[b, t])}
    assert (mask & (first == np.arange(len(alike))[:, None])).sum() == 4 + 3 + 3  # the trie's nodes


def test_what_padding_is_filled_with_changes_nothing(fresh, monkeypatch):
    model, (prompts, answers) = fresh("qwen3"), in_groups(1)
    before = read_answers(trunk_of(model), prompts, answers)
    monkeypatch.setattr(rows, "pad_right", lambda lists, pad: pad_right(lists, pad=17))
    assert torch.equal(read_answers(trunk_of(model), prompts, answers), before)


@every({"llama": PACKED["llama"], "gpt2": PLAIN["gpt2"]})
@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (([[5]], [[6]], [[]]), "rejected"),
        (([[5]], [[]], [[6]]), "chosen"),
        (([[]], [[5]], [[6]]), "prompts"),
        (([[5]], [[-100]], [[6]]), "-100"),
        (([[5]], [[6]], [[110]]), "110"),
        (([[5]], [[6.5]], [[7]]), "whole numbers"),
        (([[5], [6]], [[6]], [[7]]), "as many"),
        (([], [], []), "at least one"),
    ],
)
def test_what_is_no_pair_is_refused(lm, lists, words):
    with pytest.raises(ValueError, match=words):
        read_pairs(lm, *lists)


def test_what_are_no_answers_or_rows_is_refused(fresh):
    trunk = trunk_of(fresh("llama"))
    with pytest.raises(ValueError, match="answers"):
        read_answers(trunk, [[5]], [[]])
    with pytest.raises(ValueError, match="-1"):
        read_answers(trunk, [[-1]], [[6]])
    ids, mask = torch.tensor([[5, 6], [7, 8]]), torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="no real token"):
        read_ends(trunk, ids, mask)
    with pytest.raises(ValueError, match="300"):
        read_ends(trunk, torch.tensor([[5, 300]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"nothing\.weight"):
        read_ends(trunk, ids, torch.ones(2, 2), {"nothing.weight": torch.ones(1)})
