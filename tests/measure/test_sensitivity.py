"""Reactions and accuracy over replicates: single models alone, a replicate's averaged first, Student's t over them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from rmlab.measure.sensitivity import mean_accuracy, mean_reactions

PROBES = pd.DataFrame(
    [
        ("gold", "wrong", -4.0),
        ("d0/p0/f0", "wrong", -1.0),
        ("d0/p1/f0", "wrong", -3.0),
        ("d1/p0/f0", "wrong", -3.0),
        ("d2/p0/f0", "wrong", -4.0),
        ("d0/p0/h3.1", "wrong", 50.0),
        ("d0/p0/f0/e3", "wrong", 50.0),
        ("d10/p0/f0", "missing", 9.0),
    ],
    columns=["reward_model", "probe", "reaction"],
)


def test_a_replicates_models_count_once_and_the_interval_is_students():
    (row,) = mean_reactions(PROBES).itertuples(index=False)
    values = np.array([-2.0, -3.0, -4.0])
    half = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert row.reaction == -3 and row.units == 3
    assert (row.low, row.high) == pytest.approx((-3 - half, -3 + half))


def test_a_row_a_setting_in_the_tables_order():
    table = pd.concat(
        [PROBES.assign(axis="sight", value=v, reaction=PROBES.reaction * v) for v in (1.0, 0.5)]
    )
    found = mean_reactions(table)
    assert list(found.value) == [1.0, 0.5] and list(found.axis) == ["sight"] * 2
    assert list(found.reaction) == [-3.0, -1.5]


def test_replicate_ten_is_not_replicate_one_and_one_replicate_has_no_interval():
    table = PROBES.replace({"probe": {"missing": "wrong"}})
    assert mean_reactions(table).units[0] == 4
    row = mean_reactions(PROBES, "missing").iloc[0]
    assert row.reaction == 9 and row.units == 1 and np.isnan(row.low) and np.isnan(row.high)


def test_accuracy_is_of_single_models():
    table = pd.DataFrame(
        {"member": ["d0/p0/f0", "d1/p0/f0", "d0/p0/h3.0"], "accuracy": [0.6, 0.8, 0.1], "draw": [0, 1, 0]}
    )
    row = mean_accuracy(table).iloc[0]
    assert row.accuracy == pytest.approx(0.7) and row.units == 2
    half = student.ppf(0.975, 1) * 0.1
    assert row.high - row.accuracy == pytest.approx(half)


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="probe = 'joy': give one of missing, wrong"):
        mean_reactions(PROBES, "joy")
    with pytest.raises(ValueError, match="no single model"):
        mean_reactions(PROBES[PROBES.reward_model == "gold"])
