"""Means over winners that ended, against enumeration of all draws."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rmlab.measure.errors import errors
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.winners import (
    INSTANCES,
    centred,
    interval,
    member_errors,
    ratio_interval,
    some_instances,
    winner_means,
)
from tests.measure.fake_scores import grid


def test_a_mean_over_winners_is_that_over_all_draws_whose_winner_ended():
    rng = np.random.default_rng(0)
    score, values = rng.normal(size=(3, 7)), rng.normal(size=(3, 7, 2))
    ended = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0]], bool)
    values[~ended] = np.nan  # not read
    score[~ended] = 99.0
    found = winner_means(score, values, np.array([1, 2, 5, 7]), ended)
    assert found.shape == (3, 4, 2)
    for p in range(3):
        for i, n in enumerate((1, 2, 5, 7)):
            kept = [[a for a in draw if ended[p, a]] for draw in combinations(range(7), n)]
            won = [values[p, max(draw, key=lambda a: score[p, a])] for draw in kept if draw]
            np.testing.assert_allclose(found[p, i], np.mean(won, 0))


def test_a_prompt_where_nothing_ended_has_no_winner():
    ended = np.array([[True, True], [False, False]])
    found = winner_means(np.ones((2, 2)), np.ones((2, 2, 1)), np.array([1, 2]), ended)
    np.testing.assert_array_equal(found[..., 0], [[1, 1], [np.nan, np.nan]])


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="values' shape"):
        winner_means(np.ones((2, 3)), np.ones((2, 3)), np.array([1]), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="values' shape"):
        winner_means(np.ones((2, 3)), np.ones((2, 3, 1)), np.array([1]), np.ones((2, 3)))


def test_errors_and_centred_values_are_read_where_answers_ended():
    rng = np.random.default_rng(1)
    pool, gold, ended = rng.normal(size=(4, 9, 2)), rng.normal(size=(4, 9)), rng.random((4, 9)) < 0.7
    left = member_errors(pool, gold, ended)
    np.testing.assert_allclose(left[ended], errors(pool[ended], gold[ended], np.nonzero(ended)[0]))
    assert (left[~ended] == 0).all()
    np.testing.assert_allclose(left.sum(1), 0, atol=1e-12)
    from_mean = centred(gold, ended)
    for p in range(4):
        np.testing.assert_allclose(from_mean[p, ended[p]], gold[p, ended[p]] - gold[p, ended[p]].mean())
    assert (from_mean[~ended] == 0).all()
    np.testing.assert_array_equal(centred([[1.0, 3.0]], np.zeros((1, 2), bool)), 0)


def test_instances_are_taken_apart_from_each_other_on_every_replicate():
    e = grid().ensembles[0]
    group = [replace(e, replicate=r, number=i) for r in (0, 1) for i in range(9 if r else 2)]
    kept = some_instances(group)
    assert [x.number for x in kept[0]] == [0, 1]
    assert len(kept[1]) == INSTANCES and [x.number for x in kept[1]] == [0, 4, 8]


def test_an_interval_leaves_out_prompts_that_a_replicate_lacks():
    x = np.random.default_rng(2).normal(size=(3, 5, 3))
    x[1, 2, 0] = np.nan
    x[:, :, 1] = np.nan
    band = interval(x)
    whole = two_way_interval(np.delete(x[..., 0], 2, 1))
    np.testing.assert_allclose([band.mean[0], band.low[0], band.high[0]], whole[:3])
    assert np.isnan(band.mean[1]) and np.isnan(band.low[1])
    np.testing.assert_allclose(band.high[2], two_way_interval(x[..., 2]).high)
    alone = interval(np.full((1, 1, 1), 4.0))
    assert alone.mean[0] == 4 and np.isnan(alone.low[0]) and np.isnan(alone.high[0])


def test_the_interval_of_a_ratio_covers_it():
    """Of 400 studies of 5 replicates and 30 prompts with a ratio of 1 / 2, .92 to .98 cover it."""
    rng, covered = np.random.default_rng(3), []
    for _ in range(400):
        below = 2 + rng.normal(size=(5, 1, 1)) * 0.2 + rng.normal(size=(5, 30, 1))
        above = 1 + 0.3 * (below - 2) + rng.normal(size=(5, 1, 1)) * 0.1 + rng.normal(size=(5, 30, 1)) * 0.5
        band = ratio_interval(above, below)
        assert band.mean[0] == pytest.approx(above.mean() / below.mean())
        covered.append(band.low[0] < 0.5 < band.high[0])
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.isnan(ratio_interval(np.ones((2, 3, 1)), np.zeros((2, 3, 1))).mean[0])
