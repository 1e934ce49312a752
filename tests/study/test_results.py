"""Measurements read what stages wrote, and write one schema."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from rmlab.recipe import Replicates
from rmlab.sources.base import term_worth
from rmlab.study.members import instances_of, trained_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS, tiny, tiny_constructions, tiny_ppo
from rmlab.study.results import ALIGNED, MEASUREMENTS, Measure, measure, read_scores


def folders(name, measurement, store):
    return {
        group: [store.path(t) for t in tasks]
        for group, tasks in plan(PRESETS[name]())[measurement].inputs.items()
    }


def test_which_measurements_a_recipe_has():
    assert set(plan(tiny())) == {
        "comparison",
        "transfer",
        "agreement",
        "accuracy",
        "diversity",
        "herding",
        "hacks",
        "calibration",
        "promised",
        "costs",
        "laws",
        "probes",
        "checks",
        "explorer",
    }
    one = dataclasses.replace(tiny_ppo(), replicates=Replicates(2, 1, 1), ensembles=tiny_ppo().ensembles[:1])
    assert "transfer" in plan(tiny_constructions())
    assert not {"transfer", "agreement"} & set(plan(one))  # a single model has nobody to be compared with
    assert "herding" not in plan(one) and "hacks" in plan(one)  # nor with whom to err
    assert "ceiling" in plan(PRESETS["best_of_n"]()) and "ceiling" not in plan(
        tiny_constructions()
    )  # pairs alone
    assert "uncertainty" in plan(tiny_constructions()) and "uncertainty" not in plan(tiny_ppo())
    assert "detectors" in plan(tiny_constructions()) and "detectors" in plan(
        tiny_ppo()
    )  # not with one replicate


def test_scores_are_read_by_id_and_put_together(tiny_studies):
    recipe, store = tiny_constructions(), tiny_studies["artifacts"]
    scores = read_scores(recipe, **folders("tiny_constructions", "comparison", store))
    assert [m.id for m in scores.members] == [s.id for s in trained_of(recipe)]
    members = {m.id: m for m in scores.members}
    for result, instance in zip(scores.ensembles, instances_of(recipe), strict=True):
        assert (result.name, result.replicate) == (instance.spec.name, instance.replicate)
        together = np.concatenate([members[p.id].pool for p in instance.parts], -1)
        np.testing.assert_array_equal(result.pool, together)
        assert [r.id for r in result.rivals] == [r.id for r in instance.rivals]
    assert scores.terms.shape == (3, 32, len(scores.term_names)) and scores.term_names[2] == "wrong"
    worth = [
        term_worth(scores.terms[..., i], t["values"], t["slope"]) for i, t in enumerate(recipe.source.bill)
    ]
    np.testing.assert_allclose(np.sum(worth, 0), scores.gold, atol=1e-9)  # names and counts are in one order
    assert scores.gold.shape == scores.ended.shape == (3, 32) and members["d0/p0/heads2"].heads.shape == (
        2,
        16,
    )


def test_a_members_scale_is_that_of_its_alignment(tiny_studies):
    """Raw differences, Bradley-Terry's log odds, are the aligned ones times it."""
    from rmlab.reward.ensemble import load
    from rmlab.reward.folder import CARD
    from rmlab.reward.training import PairIds, raw_score_pairs

    assert ALIGNED == f"model/{CARD}"
    store = tiny_studies["artifacts"]
    scores = read_scores(tiny_constructions(), **folders("tiny_constructions", "accuracy", store))
    tasks = plan(tiny_constructions())["accuracy"].inputs["members"]
    assert {m.method for m in scores.members} >= {"single", "heads", "lora", "dropout", "laplace", "average"}
    for m, task in zip(scores.members, tasks, strict=True):
        ensemble = load(store.path(task) / "model", device="cpu")
        pairs = PairIds.load(store.path(task.inputs["heldout"]))
        raw = raw_score_pairs(ensemble, pairs)
        difference = (m.heldout[:, 0] - m.heldout[:, 1]) * m.scale
        np.testing.assert_allclose(difference, raw[:, 0] - raw[:, 1], rtol=1e-3, atol=1e-5)
    for e in scores.ensembles:
        np.testing.assert_array_equal(e.scale, np.concatenate([m.scale for m in e.parts]))


def test_a_measurement_writes_tables_led_by_the_study(tiny_studies, tmp_path):
    store = tiny_studies["artifacts"]
    measure(tmp_path, Measure("accuracy", tiny()), **folders("tiny", "accuracy", store))
    table = pd.read_csv(tmp_path / "accuracy.csv")
    assert list(table)[:3] == ["study", "recipe", "seed"] and set(table.study) == {"tiny"}
    assert (tmp_path / "accuracy.csv").read_bytes() == (tiny_studies["tiny"] / "accuracy.csv").read_bytes()


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_says_what_it_reads(name):
    assert set(MEASUREMENTS[name].reads) <= {
        "scores",
        "pool",
        "probes",
        "prompts",
        "sensitivity",
        "runs",
        "checks",
        "distances",
        "views",
    }
    assert MEASUREMENTS[name].function.__doc__
