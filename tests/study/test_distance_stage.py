"""Distances of the tiny study's pool: by name, from the model's own features, and the same in a second run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from rmlab.measure.distances import fit_mahalanobis
from rmlab.optimise.pool import Pool
from rmlab.reward.laplace import around
from rmlab.reward.model import RewardModel
from rmlab.reward.training import PairIds
from rmlab.sources.base import load_prompts
from rmlab.study.distance_stage import ScoreDistances, score_distances
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan
from rmlab.study.presets import tiny_constructions, tiny_ppo, tiny_sweeps
from rmlab.study.results import read_scores
from rmlab.study.run import last_tasks, plans

NAMES = ["mahalanobis", "laplace", "caution", "sngp"]


@pytest.fixture(scope="module")
def last():
    return plan(tiny_constructions())


@pytest.fixture(scope="module")
def folders(tiny_studies, last):
    """Of replicate 1: the inputs' folders by name, and the arrays that were written."""
    store, task = tiny_studies["artifacts"], last["uncertainty"].inputs["distances"][1]
    inputs = {
        n: [store.path(t) for t in x] if isinstance(x, list) else store.path(x)
        for n, x in task.inputs.items()
    }
    return inputs, dict(np.load(store.path(task) / "distances.npz"))


def states(inputs, prompt: int) -> np.ndarray:
    """Last hidden states of a prompt's answers, one plain row after another."""
    reward = RewardModel.load(inputs["member"] / "model")
    listed = [x for p in inputs["prompts"] for x in load_prompts(p)]
    pool = Pool.load([p / "pool.npz" for p in inputs["pool"]])
    rows = []
    for ids, length in zip(pool.ids[prompt], pool.lengths[prompt], strict=True):
        whole = torch.tensor([[*listed[prompt].ids, *ids[:length].tolist()]])
        with torch.no_grad():
            rows.append(reward.trunk(input_ids=whole).last_hidden_state[0, -1].numpy())
    return np.array(rows)


def typical(inputs) -> np.ndarray:
    """Last hidden states of the training pairs' answers."""
    reward, pairs, rows = RewardModel.load(inputs["member"] / "model"), PairIds.load(inputs["pairs"]), []
    for answers in (pairs.chosen, pairs.rejected):
        for prompt, answer in zip(pairs.prompts, answers, strict=True):
            with torch.no_grad():
                rows.append(reward.trunk(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1].numpy())
    return np.array(rows)


def test_every_distance_is_a_finite_number_of_every_answer(folders):
    _, arrays = folders
    assert list(arrays) == NAMES
    for name, u in arrays.items():
        assert u.shape == (3, 32) and u.dtype == np.float32 and np.isfinite(u).all() and (u >= 0).all(), name
        assert u.std() > 0, name


def test_mahalanobis_is_that_of_the_models_own_features(folders):
    inputs, arrays = folders
    expected = fit_mahalanobis(typical(inputs))(states(inputs, 2))
    np.testing.assert_allclose(arrays["mahalanobis"][2], expected, rtol=2e-3)


def test_laplace_is_the_laplace_models_own(folders):
    inputs, arrays = folders
    reward, pairs = RewardModel.load(inputs["member"] / "model"), PairIds.load(inputs["pairs"])
    listed = [x for p in inputs["prompts"] for x in load_prompts(p)]
    pool = Pool.load([p / "pool.npz" for p in inputs["pool"]])
    laplace = around(reward, pairs, 2, seed=0)
    expected = laplace.score_std(np.array(listed[1].ids), pool.ids[1], pool.lengths[1])
    np.testing.assert_allclose(arrays["laplace"][1], expected, rtol=1e-3)


def test_a_second_run_writes_the_same_and_another_seed_other_random_parts(folders, tmp_path):
    inputs, arrays = folders
    for name, settings in (("same", ScoreDistances(0, 1)), ("other", ScoreDistances(1, 1))):
        (tmp_path / name).mkdir()
        score_distances(tmp_path / name, settings, **inputs)
        again = np.load(tmp_path / name / "distances.npz")
        alike = [n for n in NAMES if np.array_equal(again[n], arrays[n])]
        assert alike == (NAMES if name == "same" else ["mahalanobis", "laplace"])


def test_a_member_of_several_heads_is_refused(folders, tiny_studies, last, tmp_path):
    inputs, _ = folders
    scored = [t for t in last["accuracy"].inputs["members"] if t.settings.method == "heads"]
    heads = tiny_studies["artifacts"].path(scored[0])
    with pytest.raises(ValueError, match="single model"):
        score_distances(tmp_path, ScoreDistances(0, 0), **{**inputs, "member": heads})


def test_each_replicate_is_scored_once_on_its_first_single_model_and_its_own_pairs(last):
    tasks = last["uncertainty"].inputs["distances"]
    assert [t.settings.draw for t in tasks] == [0, 1] and len({t.key for t in tasks}) == 2
    for draw, task in enumerate(tasks):
        member = task.inputs["member"].settings
        assert (member.method, member.draw, member.finetune) == ("single", draw, 0)
        assert member.backbones == (2 * draw,)
        assert task.inputs["pairs"].key == task.inputs["member"].inputs["pairs"].key


def test_studies_without_the_measurement_have_no_such_task():
    for recipe in (tiny_ppo(), tiny_sweeps()):
        stages = {t.stage.__name__ for t in all_tasks(last_tasks(plans(recipe)))}
        assert "score_pool" in stages and "score_distances" not in stages


def test_tables_have_a_row_an_ensemble_and_a_distance(tiny_studies, last):
    store, read = tiny_studies["artifacts"], last["uncertainty"].inputs
    scores = read_scores(tiny_constructions(), **{n: [store.path(t) for t in x] for n, x in read.items()})
    assert [list(x) for x in scores.distances] == [NAMES] * 2
    several = ["finetune2", "pretrain2", "heads2", "lora2", "dropout2", "laplace2", "mixed3"]
    seen, bounds = (
        pd.read_csv(tiny_studies["tiny_constructions"] / f"{n}.csv") for n in ("uncertainty", "bounds")
    )
    assert list(seen.score.unique()) == [*several, *NAMES] and seen.auroc.between(0, 1).all()
    assert (
        set(bounds.rule) == {"none", "matched", "coverage"}
        and (bounds[bounds.n == 1].gain.abs() < 1e-9).all()
    )
    rows = pd.read_csv(tiny_studies["tiny_constructions"] / "replicates.csv")
    first = rows[(rows.ensemble == "single") & rows.members.isin(["d0/p0/f0", "d1/p0/f0"])]
    gold = first.groupby("pressure").gold.mean()
    np.testing.assert_allclose(bounds[bounds.score == "single"].gold, gold, atol=1e-3)
