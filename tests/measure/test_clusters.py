"""Intervals by clusters: hand-computed cases, and how often they cover what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp

from rmlab.measure.clusters import (
    covariance,
    half_width,
    halves,
    mean_interval,
    share_interval,
    standard_error,
)


def test_clusters_of_one_row_give_students_interval():
    x = np.random.default_rng(0).normal(size=20)
    expected = ttest_1samp(x, 0).confidence_interval(0.95)
    value, low, high, count = mean_interval(x, np.arange(20))
    np.testing.assert_allclose((value, low, high), (x.mean(), expected.low, expected.high), rtol=1e-12)
    assert count == 20


def test_clusters_of_equal_size_are_students_interval_of_their_means():
    x = np.random.default_rng(1).normal(size=(8, 5)) + np.random.default_rng(2).normal(size=(8, 1))
    clusters = np.repeat(np.arange(8), 5)
    expected = ttest_1samp(x.mean(1), 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(x.ravel(), clusters)[1:3], (expected.low, expected.high))
    assert standard_error(x.ravel() - x.mean(), clusters)[1] == pytest.approx(7)


def test_the_variance_is_unbiased_and_the_degrees_match_it_for_clusters_of_any_size():
    """With independent rows: E V = 1 / R, and V has the variance 2 / df of a chi-square of its degrees of freedom."""
    clusters = np.repeat(np.arange(6), [1, 2, 3, 5, 8, 13])
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(20_000, len(clusters)))
    sizes = np.bincount(clusters)
    sums = (draws - draws.mean(1, keepdims=True)) @ np.eye(6)[clusters]
    V = (sums**2 / (1 - sizes / len(clusters))).sum(1) / len(clusters) ** 2
    error, df = standard_error(draws[0] - draws[0].mean(), clusters)
    assert error**2 == pytest.approx(V[0]) and V.mean() == pytest.approx(1 / len(clusters), rel=0.03)
    assert 2 * V.mean() ** 2 / V.var() == pytest.approx(df, rel=0.06) and 1 < df < 5


def test_one_cluster_has_no_interval_and_bad_rows_are_refused():
    assert np.isnan(mean_interval([1.0, 2.0], [4, 4])[1:3]).all()
    value, low, high, count = share_interval([1.0, 0.0], [0, 0])
    assert (value, count) == (0.5, 1) and np.isnan([low, high]).all()
    assert np.isnan(half_width([1.0, -1.0], [0, 0]))
    with pytest.raises(ValueError, match="NaN"):
        mean_interval([1.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="clusters' shape"):
        mean_interval([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        share_interval([1.0, 2.0], [0, 1])


def test_a_share_of_single_rows_is_wilsons_with_t():
    x = np.repeat([1.0, 0.0], [30, 10])
    p, n, q2 = 0.75, 39.0, t.ppf(0.975, 39) ** 2  # V divides by R - 1
    middle, half = (
        (p + q2 / 2 / n) / (1 + q2 / n),
        np.sqrt(q2 * (p * (1 - p) / n + q2 / 4 / n**2)) / (1 + q2 / n),
    )
    np.testing.assert_allclose(share_interval(x, np.arange(40))[1:3], (middle - half, middle + half))


def test_a_share_of_0_or_1_has_a_width():
    value, low, high, _ = share_interval(np.ones(30), np.repeat(np.arange(10), 3))
    assert value == high == 1 and low == pytest.approx(10 / (10 + t.ppf(0.975, 9) ** 2))
    assert share_interval(np.zeros(30), np.repeat(np.arange(10), 3))[1:3] == pytest.approx((0, 1 - low))


def test_covariance_of_one_column_is_the_squared_error():
    x = np.random.default_rng(5).normal(size=(12, 2))
    x -= x.mean(0)
    clusters = np.repeat(np.arange(4), 3)
    S = covariance(x, clusters)
    assert S[0, 0] == pytest.approx(standard_error(x[:, 0], clusters)[0] ** 2)
    sums = x.reshape(4, 3, 2).sum(1)
    assert S[0, 1] == pytest.approx((sums[:, 0] * sums[:, 1]).sum() * 4 / 3 / 144)


def test_halves_keep_clusters_whole():
    clusters = np.array([7, 7, 3, 3, 9, 5])
    second = halves(clusters)
    assert second.tolist() == [False, False, False, False, True, True]  # of 3, 5, 7, 9 every second


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_intervals_of_means_cover(effect):
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(15), rng.integers(1, 9, 15))
    inside = 0
    for _ in range(1500):
        x = effect * rng.normal(size=15)[clusters] + rng.normal(size=len(clusters))
        _, low, high, _ = mean_interval(x, clusters)
        inside += low <= 0 <= high
    assert 0.925 <= inside / 1500 <= 0.975


@pytest.mark.parametrize("share", [0.6, 0.9, 0.97])
def test_intervals_of_shares_cover(share):
    """Answers right by a probit with an effect of the cluster: a correlation of 0.3 inside it."""
    rng = np.random.default_rng(12)
    clusters = np.repeat(np.arange(30), rng.integers(1, 7, 30))
    inside = 0
    for _ in range(1500):
        latent = np.sqrt(0.3) * rng.normal(size=30)[clusters] + np.sqrt(0.7) * rng.normal(size=len(clusters))
        _, low, high, _ = share_interval((latent < norm.ppf(share)).astype(float), clusters)
        inside += low <= share <= high
    assert 0.925 <= inside / 1500 <= 0.99
