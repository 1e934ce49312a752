"""Views of a run's answers: other models' own scores, distances that are Mahalanobis's, nothing that knows gold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from rmlab.optimise.reward import member_scores
from rmlab.reward.ensemble import Union, load
from rmlab.sources.base import load_prompts
from rmlab.study.members import instances_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS, tiny_ppo
from rmlab.study.run_scores import features, mahalanobis


@pytest.fixture(scope="module")
def views(tiny_studies):
    """The tasks that score runs, and the store."""
    return plan(tiny_ppo())["detectors"].inputs["views"], tiny_studies["artifacts"]


def test_every_run_has_its_views_and_the_recipe_without_runs_none(views):
    tasks, _ = views
    assert [t.inputs["run"].key for t in tasks] == [
        t.key for t in plan(tiny_ppo())["comparison"].inputs["runs"]
    ]
    assert plan(PRESETS["tiny_constructions"]())["detectors"].inputs["views"] == []


def test_judges_were_not_optimised_against(views):
    for recipe in (tiny_ppo(), PRESETS["ppo"]()):
        instances = {(i.spec.name, i.replicate, i.number): i for i in instances_of(recipe)}
        for task in plan(recipe)["detectors"].inputs["views"]:
            run = task.inputs["run"]
            keys = dict(run.settings.setting)
            parts = instances[keys["ensemble"], run.settings.replicate, keys.get("number", 0)].parts
            judges = task.settings.judges
            assert len(judges) == len(task.inputs["judges"]) == 2 and not set(judges) & {p.id for p in parts}
            assert not {t.key for t in task.inputs["judges"]} & {t.key for t in run.inputs["reward_models"]}
            assert all(j.startswith(f"d{run.settings.replicate}/") for j in judges)
            homes = {p.backbone for p in parts}
            if len(homes) < recipe.replicates.backbones - 1:
                assert not {f"p{h}" for h in homes} & {j.split("/")[1] for j in judges}
            assert task.inputs["reward_model"].key == run.inputs["reward_models"][0].key
            assert task.inputs["pairs"].settings.name == f"draw{run.settings.replicate}"


def test_views_are_the_judges_own_scores_and_distances(views):
    tasks, store = views
    for task in (
        tasks[0],
        next(t for t in tasks if dict(t.inputs["run"].settings.setting)["ensemble"] == "lora2"),
    ):
        with np.load(store.path(task) / "views.npz") as arrays:
            found = {name: arrays[name] for name in arrays.files}
        with np.load(store.path(task.inputs["run"]) / "evaluations.npz") as arrays:
            ids, lengths = arrays["ids"], arrays["lengths"]
        prompts = [list(p.ids) for p in load_prompts(store.path(task.inputs["prompts"]))]
        rows = [p for p in prompts for _ in range(tiny_ppo().ppo_study.answers)]
        answers = [row[:n].tolist() for row, n in zip(ids[-1], lengths[-1], strict=True)]
        judges = [load(store.path(t) / "model") for t in task.inputs["judges"]]
        expected = np.concatenate([member_scores(j, rows, answers) for j in judges], 1)
        np.testing.assert_allclose(found["judges"][-1], expected, atol=1e-5)
        assert found["judges"].shape == (*lengths.shape, 2) and found["distance"].shape == lengths.shape
        assert (found["distance"] > 0).all()
        squares = np.square(found["training_distance"].astype(float)).mean()
        assert 0 < squares <= 16  # the trace of a covariance and its inverse: as many as there are features


def test_a_runs_record_has_its_rows_gold(views):
    tasks, store = views
    folder = store.path(tasks[0].inputs["run"])
    rows = [row for row in json.loads((folder / "run.json").read_text())["rows"] if "gold" in row]
    with np.load(folder / "evaluations.npz") as arrays:
        assert arrays["step"].tolist() == [row["step"] for row in rows]
        np.testing.assert_allclose(arrays["gold"].mean(1), [row["gold"] for row in rows])
        np.testing.assert_allclose(arrays["k1"].mean(1), [row["eval_k1"] for row in rows], atol=1e-5)


def test_features_are_what_the_first_members_head_reads(views):
    tasks, store = views
    names = {dict(t.inputs["run"].settings.setting)["ensemble"]: t for t in tasks}
    prompts, answers = [[5, 6], [7, 8, 9]], [[10, 11, 12], [13]]
    for name in ("single", "lora2"):
        model = load(store.path(names[name].inputs["reward_model"]) / "model")
        found = features(model, prompts, answers)
        head = model.linear.weight[0] if name == "single" else model.heads[0]
        raw = found @ head.detach().double().numpy()
        rows = [p + a for p, a in zip(prompts, answers, strict=True)]
        for i, row in enumerate(rows):
            ids = torch.tensor([row])
            assert raw[i] == pytest.approx(model.raw_forward(ids, ids >= 0)[0, 0].item(), abs=1e-5)
    with pytest.raises(ValueError, match="reward model = 'Union'"):
        features(Union([model]), prompts, answers)


def test_distances_are_mahalanobiss():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + 3
    rows = rng.normal(size=(20, 4)) * 5
    inverse = np.linalg.inv(np.cov(reference.T, ddof=0))
    expected = cdist(rows, reference.mean(0)[None], "mahalanobis", VI=inverse)[:, 0]
    np.testing.assert_allclose(mahalanobis(rows, reference, ridge=0), expected)
    assert np.square(mahalanobis(reference, reference, ridge=0)).mean() == pytest.approx(4)
    flat = np.concatenate([reference, reference[:, :1]], 1)  # a direction that does not vary
    assert np.isfinite(mahalanobis(flat, flat)).all()


@pytest.mark.parametrize(
    ("rows", "reference"), [((2, 3), (5, 4)), ((2, 3), (1, 3)), ((3,), (5, 3))], ids=["width", "one", "flat"]
)
def test_what_has_no_distance_is_refused(rows, reference):
    with pytest.raises(ValueError, match="rows and reference"):
        mahalanobis(np.ones(rows), np.random.default_rng(0).normal(size=reference))
    with pytest.raises(ValueError, match="variance of the reference"):
        mahalanobis(np.ones((2, 3)), np.ones((4, 3)))
