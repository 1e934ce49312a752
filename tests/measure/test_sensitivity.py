"""Reactions and accuracy over replicates: single models alone, a replicate's averaged first, Student's t over them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from rmlab.measure.sensitivity import (
    accuracy_gold_correlation,
    chosen_against_accuracy,
    mean_accuracy,
    mean_reactions,
)

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


def models_of(correlation: float, shift: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two replicates of 400 models whose accuracy and gold correlate; the second replicate is better at both by `shift`."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 2, 400))
    y = correlation * x + np.sqrt(1 - correlation**2) * z
    names = [f"d{d}/p{i}/f0" for d in range(2) for i in range(400)]
    draw, n = np.repeat([0, 1], 400), [16] * 800
    gold = (y + shift * np.arange(2)[:, None]).ravel()
    accuracy = (x + shift * np.arange(2)[:, None]).ravel()
    replicates = {"ensemble": "single", "members": names, "draw": draw, "pressure": n, "gold": gold}
    return pd.DataFrame(replicates), pd.DataFrame({"member": names, "accuracy": accuracy})


def test_accuracy_and_gold_correlate_within_a_replicate_not_between_them():
    for correlation in (0.0, 0.6):
        models = chosen_against_accuracy(*models_of(correlation, shift=50.0), 16)
        assert models.groupby("draw")[["accuracy", "gold"]].mean().abs().to_numpy().max() < 1e-9
        found = accuracy_gold_correlation(models)
        assert found["corr"] == pytest.approx(correlation, abs=0.08) and found.units == 2


def test_models_of_another_study_and_n_that_is_not_there_are_refused():
    replicates, accuracy = models_of(0.5, 0.0)
    with pytest.raises(ValueError, match="n = 17: give one of 16"):
        chosen_against_accuracy(replicates, accuracy, 17)
    with pytest.raises(ValueError, match=r"members without an accuracy = .'d0/p0/f0'"):
        chosen_against_accuracy(replicates, accuracy[1:], 16)


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="probe = 'joy': give one of missing, wrong"):
        mean_reactions(PROBES, "joy")
    with pytest.raises(ValueError, match="no single model"):
        mean_reactions(PROBES[PROBES.reward_model == "gold"])
