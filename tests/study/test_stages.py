"""Each stage by itself, on what the tiny study left."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from rmlab.optimise.pool import Pool
from rmlab.recipe import stream
from rmlab.reward.ensemble import load
from rmlab.reward.training import PairIds, score_pairs
from rmlab.sources.base import load_prompts
from rmlab.sources.sandbox.source import Sandbox
from rmlab.study import stages
from rmlab.study.plan import plan, shared_inputs
from rmlab.study.presets import tiny


@pytest.fixture(scope="module")
def inputs(tiny_studies):
    return shared_inputs(tiny()), tiny_studies["artifacts"]


def test_the_first_prompts_do_not_depend_on_how_many_are_drawn(tmp_path):
    texts = []
    for i, (count, start) in enumerate([(3, 0), (8, 0), (2, 1)]):
        (tmp_path / str(i)).mkdir()
        stages.draw_prompts(tmp_path / str(i), stages.DrawPrompts(Sandbox(), 0, ("pool",), count, start))
        texts.append([p.text for p in load_prompts(tmp_path / str(i))])
    assert texts[0] == texts[1][:3] and texts[2] == texts[1][1:3] and len(set(texts[1])) == 8


def test_gold_adds_gold_and_changes_no_answer(inputs):
    shared, store = inputs
    judged = Pool.load([store.path(shared.pool[0]) / "pool.npz"])
    bare = Pool.load([store.path(shared.pool[0].inputs["answers"]) / "pool.npz"])
    assert bare.gold is None and (bare.ids == judged.ids).all() and judged.gold.shape == (3, 32)
    prompts = load_prompts(store.path(shared.prompts[0]))
    again = Sandbox().gold([prompts[0]] * 32, judged.ids[0])
    np.testing.assert_allclose(judged.gold[0], again)


def test_pairs_are_two_answers_to_one_prompt_in_golds_order(inputs):
    shared, store = inputs
    pairs, source = PairIds.load(store.path(shared.heldout)), Sandbox()
    prompts = {p.ids: p for p in load_prompts(store.path(shared.heldout.inputs["prompts"]))}
    assert 0 < len(pairs) <= 16
    for prompt, chosen, rejected in zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True):
        golds = [source.gold([prompts[tuple(prompt)]], np.array([side]))[0] for side in (chosen, rejected)]
        assert golds[0] > golds[1]


def test_a_member_is_aligned_on_the_heldout_answers_and_its_scores_are_kept(inputs, tiny_studies):
    shared, store = inputs
    tasks = plan(tiny())["accuracy"].inputs["members"]
    folder = store.path(tasks[0])
    heldout = np.load(folder / "heldout.npy")
    flat = heldout.reshape(-1, heldout.shape[-1])
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-4)
    ensemble = load(folder / "model")
    assert ensemble.aligned
    np.testing.assert_allclose(
        score_pairs(ensemble, PairIds.load(store.path(shared.heldout))), heldout, atol=1e-5
    )
    card = json.loads((folder / "member.json").read_text())
    assert card["facts"]["hidden"] == 16 and card["cost"]["train_seconds"] > 0


def test_a_pools_scores_are_the_ensembles_own(inputs, tiny_studies):
    shared, store = inputs
    task = plan(tiny())["costs"].inputs["scores"][0]
    scores = np.load(store.path(task) / "scores.npy")
    ensemble = load(store.path(task.inputs["member"]) / "model")
    pool, prompts = (
        Pool.load([store.path(shared.pool[0]) / "pool.npz"]),
        load_prompts(store.path(shared.prompts[0])),
    )
    again = ensemble.score(np.array(prompts[1].ids), pool.ids[1], pool.lengths[1])
    np.testing.assert_allclose(scores[1], again, atol=1e-5)


def test_probes_are_scored_with_the_unchanged_answer_first(inputs, tiny_studies):
    _, store = inputs
    task = plan(tiny())["probes"].inputs["probes"][0]
    probes = np.load(store.path(task) / "probes.npy")
    prompts = load_prompts(store.path(task.inputs["prompts"][0]))
    expected = Sandbox().probes(prompts)
    assert probes.shape == (3, len(expected.names), 1) and expected.names[0] == "base"
    ensemble = load(store.path(task.inputs["member"]) / "model")
    again = ensemble.score(np.array(prompts[0].ids), expected.ids[0], expected.lengths[0])
    np.testing.assert_allclose(probes[0], again, atol=1e-5)


def test_a_backbones_counts_are_its_own_guesses(tmp_path, inputs, monkeypatch):
    """One that always knows, one that always says "none right, none wrong"."""
    import torch

    from rmlab import backbone
    from rmlab.sources.sandbox import checks

    shared, store = inputs
    settings = stages.ReadChecks(Sandbox(), seed=0, rows=60)
    _, counts = checks.unchecked_answers(60, stream(0, "checks"))
    truth = torch.zeros(60, 16)
    truth[torch.arange(60), torch.tensor(counts[:, 0] * 4 + counts[:, 1])] = 1
    nothing = torch.eye(16)[:1].repeat(60, 1)
    for name, shares, expected in (("knows", truth, (1.0, 1.0)), ("none", nothing, (counts == 0).mean(0))):
        monkeypatch.setattr(backbone, "next_token_shares", lambda *_, shares=shares: shares)
        (tmp_path / name).mkdir()
        stages.read_checks(tmp_path / name, settings, store.path(shared.backbones[0]))
        found = json.loads((tmp_path / name / "checks.json").read_text())
        assert (found["right"], found["wrong"]) == pytest.approx(tuple(expected))
        commonest = [np.bincount(column).max() / 60 for column in counts.T]
        assert [found["right_commonest"], found["wrong_commonest"]] == pytest.approx(commonest)


def test_every_backbones_counts_are_a_row(tiny_studies):
    table = pd.read_csv(tiny_studies["tiny_constructions"] / "checks.csv")
    assert table[["replicate", "backbone"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table[["right", "wrong"]].to_numpy().min() >= 0 and table.right_commonest.nunique() == 1
