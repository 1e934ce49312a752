"""A budget is read off the other replicates alone, each of which counts once."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.budget import budgets


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
