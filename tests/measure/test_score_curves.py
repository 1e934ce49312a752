"""Curves of a pool of scores: brute force on prompts of unequal length, members that judge each other, falls without a fall."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rmlab.measure.clusters import mean_interval
from rmlab.measure.score_curves import (
    GOLD,
    HELD_OUT,
    Point,
    ScoreCurve,
    curve_rows,
    fall,
    primary,
    score_curves,
)
from rmlab.optimise import best_of_n, tilt
from rmlab.reward.aggregate import aggregate

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def pool():
    """Six prompts of 5 to 9 answers, padded to 9."""
    rng = np.random.default_rng(0)
    there = np.arange(9) < np.array([5, 6, 7, 8, 9, 9])[:, None]
    gold = np.where(there, rng.normal(size=(6, 9)), 0)
    scores = np.where(there[..., None], gold[..., None] + rng.normal(size=(6, 9, 3)), 0)
    return scores, gold, there


def of(curves, chooser, aggregator="mean", optimiser="best_of_n"):
    return next(
        c for c in curves if (c.chooser, c.aggregator, c.optimiser) == (chooser, aggregator, optimiser)
    )


def test_best_of_n_is_the_mean_over_all_subsets_of_real_answers(pool):
    scores, gold, there = pool
    curve = of(score_curves(scores, NAMES, ("mean", "min"), there, gold), "all", "min")
    assert curve.points.pressure.tolist() == [1, 2, 4] and curve.k == 3
    proxy = aggregate(scores, "min")
    for p, N in enumerate(there.sum(1)):
        for column, n in enumerate((1, 2, 4)):
            picks = [max(subset, key=lambda i: proxy[p, i]) for subset in combinations(range(N), n)]
            assert curve.worth[p, column] == pytest.approx(np.mean(gold[p, picks]))
            assert curve.proxy[p, column] == pytest.approx(np.mean(proxy[p, picks]))
    np.testing.assert_allclose(curve.points.kl, best_of_n.kl_bound([1, 2, 4]))
    assert curve.points.ess[0] == pytest.approx(there.sum(1).mean())


def test_tilting_reaches_the_same_kl_with_and_without_padding(pool):
    scores, gold, there = pool
    curves = score_curves(scores, NAMES, ("mean",), there, gold)
    points = {c.chooser: c.points.kl for c in curves if c.optimiser == "tilt"}
    for kl in points.values():
        np.testing.assert_allclose(kl, (0.25, 0.5, 1.0, 1.5), atol=1e-6)
    assert len(points) == 4
    even = score_curves(scores[:, :5], NAMES, ("mean",), np.ones((6, 5), bool), gold[:, :5])
    wide = np.zeros((6, 9, 3)), np.zeros((6, 9)), np.zeros((6, 9), bool)
    for full, part in zip(wide, (scores[:, :5], gold[:, :5], True), strict=True):
        full[:, :5] = part
    padded = score_curves(wide[0], NAMES, ("mean",), wide[2], wide[1])
    for one, other in zip(even, padded, strict=True):
        np.testing.assert_allclose(one.worth, other.worth, atol=1e-6)
        np.testing.assert_allclose(one.points.kl, other.points.kl, atol=1e-6)
    at = of(even, "a", optimiser="tilt")
    expected = tilt.tilt(scores[:, :5, 0], gold[:, :5], at.points.pressure, floor=0)
    np.testing.assert_allclose(at.worth, expected.values, atol=1e-9)


def test_without_gold_the_member_that_is_held_out_judges(pool):
    scores, _, there = pool
    curves = score_curves(scores, NAMES, ("mean",), there)
    everyone, one = of(curves, "all"), of(curves, "b")
    full = there.all(1)  # prompts that are not padded
    pairs = [(aggregate(np.delete(scores, k, -1), "mean"), scores[..., k]) for k in range(3)]
    expected = np.mean(
        [best_of_n.best_of_n(proxy[full], judge[full], [1, 2, 4]) for proxy, judge in pairs], 0
    )
    np.testing.assert_allclose(everyone.worth[full], expected)
    assert everyone.k == 2 and one.k == 1
    by_others = [best_of_n.best_of_n(scores[full, :, 1], scores[full, :, k], [1, 2, 4]) for k in (0, 2)]
    np.testing.assert_allclose(one.worth[full], np.mean(by_others, 0))
    two = score_curves(scores[..., :2], NAMES[:2], ("mean",), there)
    assert {c.chooser for c in two} == {"a", "b"}  # nobody is left to aggregate
    with pytest.raises(ValueError, match="second member"):
        score_curves(scores[..., :1], NAMES[:1], ("mean",), there)


def test_rows_have_the_studies_columns_and_paired_gains(pool):
    scores, gold, there = pool
    curves = score_curves(scores, NAMES, ("mean", "mean_std"), there, gold)
    rows = curve_rows(curves, np.arange(6), GOLD)
    names = (
        "ensemble method k aggregator strength optimiser pressure kl kl_name proxy gold gain low high units"
    )
    assert set(names.split()) <= set(rows) and set(rows.judge) == {GOLD} and set(rows.units) == {6}
    assert set(rows.kl_name) == {best_of_n.KL_NAME, tilt.KL_NAME}
    at = rows[(rows.aggregator == "mean_std") & (rows.optimiser == "best_of_n")].iloc[2]
    alone = np.mean([of(curves, name).worth[:, 2] for name in NAMES], 0)
    gain = mean_interval(of(curves, "all", "mean_std").worth[:, 2] - alone, np.arange(6))
    assert (at.gain, at.low, at.high) == pytest.approx(gain[:3]) and at.strength == 1 and at.pressure == 4
    singles = rows[(rows.ensemble != "all") & (rows.optimiser == "best_of_n") & (rows.pressure == 4)]
    assert singles.gain.sum() == pytest.approx(0) and singles.strength.isna().all()
    assert set(curve_rows(score_curves(scores, NAMES, (), there), np.arange(6), HELD_OUT).judge) == {HELD_OUT}


def curve_of(worth, ess=(64, 30, 15, 4)):
    points = Point(np.array([1, 2, 4, 8]), np.zeros(4), np.array(ess, float))
    return ScoreCurve("all", 3, "mean", "best_of_n", points, worth, worth)


def test_verdicts_are_read_where_ten_answers_stand_behind_them():
    worth = np.zeros((4, 4))
    assert primary(curve_of(worth)) == 2 and primary(curve_of(worth, (8, 4, 2, 1))) == 1


def test_a_fall_is_no_artefact_of_its_peak():
    rng = np.random.default_rng(1)
    drops, false = [], 0
    for _ in range(400):
        drop = fall(curve_of(rng.normal(size=(60, 4))), np.arange(60))
        drops.append(drop.value)
        false += drop.high < 0
    assert abs(np.mean(drops)) < 0.02 and false / 400 < 0.05
    real = rng.normal(size=(60, 4)) * 0.1 + np.array([0, 2, 1, 0])
    assert fall(curve_of(real), np.arange(60)).value == pytest.approx(-1, abs=0.1)
