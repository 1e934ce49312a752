"""Errors of members with a planted correlation."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.clusters import Estimate
from rmlab.measure.diversity import effective_members
from rmlab.measure.errors import (
    effective_errors,
    erring,
    error_correlation,
    errors,
    shared_error,
    tail_error_correlation,
)


def equicorrelated(rng, rows, k, rho):
    return np.sqrt(rho) * rng.normal(size=(rows, 1)) + np.sqrt(1 - rho) * rng.normal(size=(rows, k))


@pytest.mark.parametrize("k", [2, 5, 16])
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_effective_members_of_equicorrelated_errors(k, rho):
    """Members of other slopes, offsets and scales on gold, whose errors correlate by rho: K / (1 + (K - 1) rho)."""
    rng = np.random.default_rng(k)
    prompts = np.repeat(np.arange(400), 8)
    gold = rng.normal(size=3200) + rng.normal(size=400)[prompts]
    noise = equicorrelated(rng, 3200, k, rho)
    scores = (gold[:, None] * rng.uniform(0.5, 2, k) + noise) * rng.uniform(0.1, 10, k) + rng.normal(size=k)
    scores += 3 * rng.normal(size=(400, k))[prompts]  # a prompt's own level is no error
    shared = shared_error(errors(scores, gold, prompts), prompts)
    assert shared.value == pytest.approx(rho, abs=0.05) and shared.low < rho < shared.high
    effective = effective_errors(shared, k)
    assert effective.value == pytest.approx(k / (1 + (k - 1) * rho), rel=0.1)
    assert effective.low < effective.value < effective.high


@pytest.mark.parametrize("k", [2, 5, 16])
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("top", [4, 32])
def test_choosing_the_tail_by_the_members_mean_does_not_bend_their_number(k, rho, top):
    rng = np.random.default_rng(k)
    prompts = np.repeat(np.arange(200), 256)
    gold = rng.normal(size=len(prompts))
    scores = gold[:, None] + equicorrelated(rng, len(prompts), k, rho)
    left = errors(scores, gold, prompts)
    mean = scores.mean(1)
    expected = k / (1 + (k - 1) * rho)
    assert effective_members(tail_error_correlation(left, mean, prompts, top)) == pytest.approx(
        expected, rel=0.1
    )
    whole = tail_error_correlation(left, mean, prompts, 256)
    np.testing.assert_allclose(whole, error_correlation(left), atol=1e-12)
    best = np.argpartition(mean.reshape(200, 256), -top, 1)[:, -top:] + 256 * np.arange(200)[:, None]
    chosen = errors(scores[best.ravel()], gold[best.ravel()], np.repeat(np.arange(200), top))
    naive = effective_members(error_correlation(chosen))
    if top == 4:
        assert naive > 1.1 * expected  # without the correction


def test_members_of_other_scales_and_slopes_are_not_bent_either():
    rng = np.random.default_rng(7)
    prompts = np.repeat(np.arange(300), 200)
    gold = rng.normal(size=len(prompts))
    noise = equicorrelated(rng, len(prompts), 4, 0.5) * [0.5, 1, 2, 3]
    scores = gold[:, None] * [0.2, 1, 1, 2] + noise + 5 * rng.normal(size=(300, 4))[prompts]
    found = tail_error_correlation(errors(scores, gold, prompts), scores.mean(1), prompts, 10)
    np.testing.assert_allclose(found, np.where(np.eye(4), 1, 0.5), atol=0.08)


@pytest.mark.parametrize("apart, sign", [(3.0, -1), (0.2, 1)])
def test_members_that_part_or_close_ranks_in_the_tail_are_seen(apart, sign):
    """Beyond one standard deviation of what they share, their own errors grow or shrink."""
    rng = np.random.default_rng(8)
    prompts = np.repeat(np.arange(200), 256)
    gold, shared = rng.normal(size=(2, len(prompts), 1))
    own = rng.normal(size=(len(prompts), 5)) * np.where(gold + shared > 1.5, apart, 1)
    scores = gold + shared + own
    left = errors(scores, gold[:, 0], prompts)
    tail, pool = tail_error_correlation(left, (gold + shared)[:, 0], prompts, 16), error_correlation(left)
    assert sign * (tail[0, 1] - pool[0, 1]) > 0.15


def test_copies_are_copies_in_the_tail_too():
    rng = np.random.default_rng(9)
    prompts, gold = np.repeat(np.arange(20), 30), rng.normal(size=600)
    scores = np.repeat((gold + rng.normal(size=600))[:, None], 3, 1)
    np.testing.assert_allclose(
        tail_error_correlation(errors(scores, gold, prompts), scores.mean(1), prompts, 5), 1, atol=1e-9
    )


def test_the_order_of_rows_is_no_matter():
    rng = np.random.default_rng(10)
    prompts, gold = np.repeat([0, 1, 2, 3], [9, 30, 1, 12]), rng.normal(size=52)
    left, proxy = errors(rng.normal(size=(52, 3)), gold, prompts), rng.normal(size=52)
    order = rng.permutation(52)
    moved = tail_error_correlation(left[order], proxy[order], prompts[order], 6)
    np.testing.assert_allclose(moved, tail_error_correlation(left, proxy, prompts, 6))
    with pytest.raises(ValueError, match="top = 1"):
        tail_error_correlation(left, proxy, prompts, 1)
    with pytest.raises(ValueError, match="errors' shape"):
        tail_error_correlation(left, proxy[1:], prompts, 6)
    with pytest.raises(ValueError, match="errors of members"):
        tail_error_correlation(left * [0, 1, 1], proxy, prompts, 6)


def test_errors_are_orthogonal_to_truth_and_of_mean_0_in_each_prompt():
    rng = np.random.default_rng(0)
    prompts, gold, scores = np.repeat([0, 1, 2], [2, 3, 4]), rng.normal(size=9), rng.normal(size=(9, 2))
    left = errors(scores, gold, prompts)
    for p in range(3):
        np.testing.assert_allclose(left[prompts == p].sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(gold @ left, 0, atol=1e-12)
    np.testing.assert_allclose(errors(scores + gold[:, None] * 3, gold, prompts), left, atol=1e-12)


def test_labels_of_pairs_are_truth_too():
    """Margins of 1.2 times the label's sign plus errors that correlate by 0.6."""
    rng = np.random.default_rng(1)
    sign = rng.choice([-1.0, 1.0], 2000)
    margins = 1.2 * sign[:, None] + equicorrelated(rng, 2000, 4, 0.6)
    scores = np.stack([margins, -margins], 1).reshape(4000, 4) / 2
    labels = np.stack([sign > 0, sign < 0], 1).reshape(4000).astype(float)
    prompts = np.repeat(np.arange(2000), 2)
    assert shared_error(errors(scores, labels, prompts), prompts).value == pytest.approx(0.6, abs=0.03)


def test_the_interval_of_the_mean_correlation_covers():
    rng = np.random.default_rng(2)
    clusters, inside = np.repeat(np.arange(40), 4), 0
    for _ in range(800):
        e = 0.6 * equicorrelated(rng, 40, 4, 0.4)[clusters] + 0.8 * equicorrelated(rng, 160, 4, 0.4)
        _, low, high, _ = shared_error(e - e.mean(0), clusters)
        inside += low <= 0.4 <= high
    assert 0.92 <= inside / 800 <= 0.975


def test_two_members_have_their_pearson_correlation():
    e = np.random.default_rng(3).normal(size=(50, 2))
    e -= e.mean(0)
    expected = np.corrcoef(e.T)
    np.testing.assert_allclose(error_correlation(e), expected)
    assert shared_error(e, np.arange(50)).value == pytest.approx(expected[0, 1])


def test_copies_are_one_member_and_opposites_are_no_more_than_all():
    e = np.random.default_rng(4).normal(size=(50, 1))
    copies = shared_error(np.repeat(e, 3, 1), np.arange(50))
    assert copies.value == pytest.approx(1) and effective_errors(copies, 3).value == pytest.approx(1)
    assert effective_errors(Estimate(-0.2, -0.4, 0.1, 50), 3)[:3] == pytest.approx((3, 3 / 1.2, 3))
    assert np.isnan(effective_errors(Estimate(0.5, np.nan, np.nan, 1), 3).low)


def test_bad_errors_are_refused():
    prompts = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="constant within every prompt"):
        errors(np.ones((4, 2)), np.array([1.0, 1, 2, 2]), prompts)
    with pytest.raises(ValueError, match="scores' shape"):
        errors(np.ones((4, 2)), np.ones(3), prompts)
    with pytest.raises(ValueError, match="at least two members"):
        shared_error(np.array([[1.0], [-1.0]]), np.arange(2))
    never = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert erring(never).tolist() == [True, False]
    with pytest.raises(ValueError, match="differ from the truth"):
        error_correlation(never)
