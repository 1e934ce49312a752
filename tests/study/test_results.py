"""Measurements read what stages wrote, and write one schema."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from rmlab.recipe import Replicates
from rmlab.study.members import instances_of, trained_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS, tiny, tiny_constructions, tiny_ppo
from rmlab.study.results import MEASUREMENTS, Measure, measure, read_scores


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
        "costs",
        "probes",
        "checks",
        "explorer",
    }
    one = dataclasses.replace(tiny_ppo(), replicates=Replicates(2, 1, 1), ensembles=tiny_ppo().ensembles[:1])
    assert "transfer" in plan(tiny_constructions()) and "fact_sensitivity" not in plan(tiny_ppo())
    assert not {"transfer", "agreement"} & set(plan(one))  # a single model has nobody to be compared with
    assert "fact_sensitivity" in plan(PRESETS["full"]())
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
    assert scores.gold.shape == scores.ended.shape == (3, 32) and members["d0/p0/heads2"].heads.shape == (
        2,
        16,
    )


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
        "views",
    }
    assert MEASUREMENTS[name].function.__doc__
