"""What a method costs: estimated before, measured while it runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmlab.recipe import Size
from rmlab.study.cost import Meter, estimate, estimates, matrices, model_units, relative_cost
from rmlab.study.presets import tiny_constructions

RECIPE = tiny_constructions()


def test_estimates_count_parameters_right(tiny_studies):
    costs = pd.read_csv(tiny_studies["tiny_constructions"] / "costs.csv").set_index("ensemble")
    assert (costs[["train_seconds", "score_seconds"]] > 0).all().all()
    assert costs.trained_parameters.le(costs.parameters).all()
    for spec in RECIPE.ensembles:
        expected = estimate(RECIPE, spec)["parameters"]
        assert costs.parameters[spec.name] == pytest.approx(expected, rel=0.01), spec.name


def test_estimates_name_every_ensemble():
    text = estimates(RECIPE)
    assert all(spec.name in text for spec in RECIPE.ensembles) and "GFLOP" in text


def test_more_members_cost_more_and_heads_do_not():
    assert relative_cost(RECIPE, "finetune", {"k": 5}) == (5, 5) and relative_cost(
        RECIPE, "heads", {"k": 5}
    ) == (1, 1)


def test_sizes_are_in_units_of_the_sandboxs():
    assert model_units(Size()) == 1 and matrices(Size(hidden=8, layers=1, ff=16)) == 4 * 64 + 3 * 8 * 16


def test_the_meter_sees_memory_that_was_freed_again():
    with Meter() as spent:
        block = np.ones(16 * 2**20)  # 128 MB
        del block
    if not np.isnan(spent.peak_mb):  # known on Linux
        assert 100 < spent.peak_mb < 300
    assert spent.seconds > 0
