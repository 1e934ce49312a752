"""A budget is read off the other replicates alone, each of which counts once."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.alarms import Course, verdict
from rmlab.measure.budget import budget_saves, budgets


def test_a_budget_is_the_best_point_of_the_others():
    gold = [[0, 1, 0], [0, 0, 5], [0, 2, 1]]
    assert budgets(gold, [0, 1, 2]).tolist() == [2, 1, 2]  # 0: 0 + 2, 5 + 1; 1: 1 + 2, 0 + 1; 2: 1 + 0, 0 + 5


def test_a_run_and_its_own_replicate_do_not_count():
    gold = np.array([[0.0, 1, 0], [0, 1, 0], [3, 0, 0], [0, 0, 1]])
    before = budgets(gold, [0, 0, 1, 2])
    changed = gold.copy()
    changed[:2] = [[0, 0, 99], [99, 0, 0]]
    assert before[0] == before[1] == 0
    assert budgets(changed, [0, 0, 1, 2])[:2].tolist() == before[:2].tolist()


def test_replicates_count_alike():
    many = [[0, 1.0, 0]] * 5
    assert budgets([*many, [0, 0, 1.5], [0, 0, 0]], [0] * 5 + [1, 2])[-1] == 2


@pytest.mark.parametrize(
    "gold,replicates,named",
    [
        ([[0, 1]], [0], "at least two"),
        ([[0, 1], [1, 0]], [0, 0], "at least two"),
        ([[0, np.nan], [1, 0]], [0, 1], "NaN"),
        ([[0, 1], [1, 0]], [0], r"\(U, L\) and \(U,\)"),
    ],
)
def test_what_has_no_budget_is_named(gold, replicates, named):
    with pytest.raises(ValueError, match=named):
        budgets(gold, replicates)


def test_what_a_budget_saves_is_what_the_same_stops_of_a_rule_save():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(6, 8, 5)) + np.array([0, 1, 3, 2, 1])  # (U, P, L)
    at = budgets(gold.mean(1), range(6))
    assert set(at.tolist()) <= {2, 3}
    courses = []
    for r in range(6):  # an alarm that goes off where the budget ends
        series = {"kl_budget": np.where(np.arange(5) >= at[r], 1.0, 0.0)}
        courses.append(Course(r, ("best_of_n",), np.arange(5.0), np.arange(5.0), gold[r].T, series))
    row = verdict(courses, "kl_budget", at.astype(float))
    assert budget_saves(gold, range(6)) == pytest.approx((row["saved"], row["saved_low"], row["saved_high"]))
    mean = budget_saves(gold.mean(1), range(6))
    assert mean[0] == pytest.approx(row["saved"]) and mean[1] < mean[0] < mean[2]
    with pytest.raises(ValueError, match="shape of gold"):
        budget_saves(gold[0, 0], range(6))
