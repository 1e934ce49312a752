"""Copies, independent members, hand-computed cases and brute force."""

from itertools import combinations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rmlab.measure.diversity import (
    effective_members,
    leave_one_out,
    margin_correlation,
    mean_off_diagonal,
    min_shares,
    principal_angles,
    rank_correlation,
    spectral_entropy,
    top_agreement,
    verdict,
)
from rmlab.optimise.best_of_n import best_of_n
from rmlab.reward.aggregate import aggregate

P, N, K, M, D = 6, 40, 5, 300, 16


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return rng.normal(size=(P, N, K)).astype(np.float32), rng.normal(size=(P, N)), rng.random((P, N)) < 0.8


def copies(a):
    return np.repeat(a[..., :1], K, -1)


def test_copies_correlate_1_and_count_as_one(pool):
    scores, _, ended = pool
    heldout = copies(np.random.default_rng(1).normal(size=(M, 2, 1)).astype(np.float32))
    same = copies(scores)
    for c in (
        margin_correlation(heldout),
        rank_correlation(same, ended),
    ):
        np.testing.assert_allclose(c, 1, atol=1e-12)
        assert effective_members(c) == pytest.approx(1)
    assert top_agreement(same, 8, ended) == 1
    np.testing.assert_allclose(min_shares(same), 1 / K)
    np.testing.assert_allclose(leave_one_out(same, pool[1], "min", n=4), 0, atol=1e-12)
    heads = np.repeat(np.random.default_rng(2).normal(size=(1, D)), K, 0) * np.arange(1, K + 1)[:, None]
    np.testing.assert_allclose(principal_angles(heads), 0, atol=1e-6)
    assert spectral_entropy(heads) == pytest.approx(1)
    assert verdict(K, 1.0, "heads") == "5 heads, 1.0 effective: they are copies"


def test_independent_members_count_in_full():
    rng = np.random.default_rng(3)
    assert effective_members(margin_correlation(rng.normal(size=(20000, 2, K)))) == pytest.approx(K, abs=0.15)
    scores = rng.normal(size=(50, 400, K))
    assert effective_members(rank_correlation(scores)) == pytest.approx(K, abs=0.15)
    assert top_agreement(scores, 8) == pytest.approx(1 / 8, abs=0.01)
    np.testing.assert_allclose(min_shares(scores), 1 / K, atol=0.01)


def test_constant_members_give_numbers():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(P, N, 3)).astype(np.float32)
    scores[..., 1:] = np.float32(0.1), np.float32(-7.3)
    expected = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    heldout = scores.reshape(-1, 2, 3)
    for c in (margin_correlation(heldout), rank_correlation(scores)):
        np.testing.assert_array_equal(c, expected)


def test_a_constant_shift_between_the_two_sides_is_a_constant_margin():
    heldout = np.zeros((50, 2, 2))
    heldout[:, 0] = np.random.default_rng(5).normal(size=(50, 1)) + [0.3, 0]
    heldout[:, 1, 0] = heldout[:, 0, 0] - 0.3
    assert margin_correlation(heldout)[0, 1] == 0


def test_margins_by_hand():
    heldout = np.zeros((3, 2, 2))
    heldout[:, 0] = [[1, 1], [2, 3], [3, 2]]  # margins 1 2 3 and 1 3 2: correlation 1/2
    np.testing.assert_allclose(margin_correlation(heldout), [[1, 0.5], [0.5, 1]])
    assert effective_members(margin_correlation(heldout)) == pytest.approx(2 / 1.5)


def test_prompts_with_too_few_answers_are_left_out(pool):
    scores, _, ended = pool
    ended = ended.copy()
    ended[0] = False
    ended[1] = np.arange(N) == 3
    expected = rank_correlation(scores[2:], ended[2:])
    np.testing.assert_allclose(rank_correlation(scores, ended), expected, atol=1e-12)
    assert top_agreement(scores[[0, 2]], N, ended[[0, 2]]) == top_agreement(scores[2:3], N, ended[2:3])


def test_ranks_by_hand():
    scores = np.array([[[1, 10], [2, 20], [3, 30]], [[1, 3], [2, 2], [3, 1]]], float)
    np.testing.assert_allclose(rank_correlation(scores)[0, 1], 0, atol=1e-12)  # 1 and -1
    tied = np.array([[[1, 5], [2, 5], [3, 9]]], float)  # ranks 1 2 3 and 1.5 1.5 3
    assert rank_correlation(tied)[0, 1] == pytest.approx(np.sqrt(3) / 2)


@pytest.mark.parametrize("n", [1, 3, 8, N])
@pytest.mark.parametrize("masked", [False, True])
def test_top_agreement_equals_a_loop(pool, n, masked):
    scores, _, ended = pool
    mask = ended if masked else np.ones_like(ended)
    prompts = []
    for p in range(P):
        blocks = []
        for start in range(0, N - n + 1, n):
            rows = [i for i in range(start, start + n) if mask[p, i]]
            if rows:
                picks = [max(rows, key=lambda i: scores[p, i, k]) for k in range(K)]
                blocks.append(np.mean([picks[i] == picks[j] for i, j in combinations(range(K), 2)]))
        prompts.append(np.mean(blocks))
    assert top_agreement(scores, n, ended if masked else None) == pytest.approx(np.mean(prompts))


@pytest.mark.parametrize(
    ("aggregator", "strength"), [("mean", 1.0), ("min", 1.0), ("mean_std", 0.5), ("median", 1.0)]
)
def test_leave_one_out_equals_a_loop(pool, aggregator, strength):
    scores, gold, ended = pool
    worth = leave_one_out(scores, gold, aggregator, strength, 8, ended)
    assert worth.shape == (K,)
    whole = best_of_n(aggregate(scores, aggregator, strength), gold, [8], ended).mean()
    for k in range(K):
        rest = aggregate(scores[..., [j for j in range(K) if j != k]], aggregator, strength)
        assert worth[k] == whole - best_of_n(rest, gold, [8], ended).mean()


def test_a_member_that_knows_gold_helps_and_one_against_it_hurts():
    rng = np.random.default_rng(6)
    gold = rng.normal(size=(20, 64))
    scores = np.stack([gold, -gold, rng.normal(size=gold.shape)], -1)
    worth = leave_one_out(scores, gold, "mean", n=16)
    assert worth[0] > 0.3
    assert worth[1] < -0.3


def test_angles_and_rank_by_hand():
    heads = np.array([[2, 0, 0], [0, 5, 0], [-1, 0, 0], [1, 1, 0]])
    expected = [[0, 90, 180, 45], [90, 0, 90, 45], [180, 90, 0, 135], [45, 45, 135, 0]]
    np.testing.assert_allclose(principal_angles(heads), expected, atol=1e-9)
    assert spectral_entropy(np.eye(4)) == pytest.approx(4)
    assert spectral_entropy(heads[[0, 2]]) == pytest.approx(1)  # opposite heads span one line
    # two heads 60 degrees apart: squared singular values 3/2 and 1/2, shares 3/4 and 1/4
    two = np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    assert spectral_entropy(two) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_a_small_angle_is_exact():
    angle = 1e-7
    heads = np.array([[1, 0], [np.cos(np.radians(angle)), np.sin(np.radians(angle))]])
    assert principal_angles(heads)[0, 1] == pytest.approx(angle, rel=1e-6)


def test_min_shares_by_hand():
    np.testing.assert_allclose(min_shares([[1, 2], [3, 0], [4, 4], [0, 9]]), [2.5 / 4, 1.5 / 4])


def test_one_member():
    scores = np.random.default_rng(7).normal(size=(P, N, 1))
    assert effective_members(rank_correlation(scores)) == 1
    assert effective_members(margin_correlation(scores.reshape(-1, 2, 1))) == 1
    assert top_agreement(scores, 4) == 1
    assert min_shares(scores).tolist() == [1]
    assert principal_angles([[3, 4]]).tolist() == [[0]]
    assert spectral_entropy([[3, 4]]) == 1
    assert np.isnan(mean_off_diagonal([[1.0]]))
    assert verdict(1, np.nan, "heads") == "1 head, 1.0 effective"


def test_a_negative_correlation_counts_as_none():
    assert effective_members([[1, -0.8], [-0.8, 1]]) == 2


@pytest.mark.parametrize("k", [2, 5, 16, 100])
def test_the_verdict_turns_at_one_correlation_whatever_the_number(k):
    assert verdict(k, 0.91).endswith("effective: they are copies") and verdict(k, 0.89).endswith("effective")


def test_the_verdict_counts():
    assert verdict(5, 0.95, "heads") == "5 heads, 1.0 effective: they are copies"
    assert verdict(5, 0.5) == "5 members, 1.7 effective" and verdict(5, -0.2) == "5 members, 5.0 effective"


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(seed=st.integers(0, 10**6), k=st.integers(2, 6), shared=st.floats(0, 3))
def test_measures_keep_their_range_and_ignore_member_scale_and_order(seed, k, shared):
    rng = np.random.default_rng(seed)
    scores = shared * rng.normal(size=(3, 20, 1)) + rng.normal(size=(3, 20, k))
    order, scale = rng.permutation(k), rng.uniform(0.5, 2, k)
    for f in (rank_correlation, lambda s: margin_correlation(s.reshape(-1, 2, k))):
        c = f(scores)
        assert np.allclose(c, c.T) and (np.abs(c) <= 1).all() and (np.diag(c) == 1).all()
        np.testing.assert_allclose(
            f(scores * scale + 3)[np.ix_(order, order)], f(scores[..., order]), atol=1e-9
        )
        assert 1 <= effective_members(c) <= k
    assert 0 <= top_agreement(scores, 5) <= 1
    assert min_shares(scores).sum() == pytest.approx(1)
    heads = rng.normal(size=(k, 8))
    assert 1 <= spectral_entropy(heads) <= k + 1e-9
    np.testing.assert_allclose(spectral_entropy(heads[order] * scale[:, None]), spectral_entropy(heads))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: margin_correlation(s), r"heldout's shape.*\(M, 2, K\)"),
        (lambda s: margin_correlation(s[:1, :2]), "two pairs"),
        (lambda s: rank_correlation(s[0]), r"scores' shape.*\(P, N, K\)"),
        (lambda s: rank_correlation(s, np.ones((3, 3), bool)), "ended"),
        (lambda s: rank_correlation(s, np.zeros((P, N), bool)), "ended"),
        (lambda s: rank_correlation(s * np.nan), "scores = 'NaN'"),
        (lambda s: top_agreement(s, 0), "n = 0"),
        (lambda s: top_agreement(s, N + 1), f"N = {N}"),
        (lambda s: effective_members(np.ones((2, 3))), "correlation's shape"),
        (lambda s: effective_members([[1, np.nan], [np.nan, 1]]), "correlation = 'NaN"),
        (lambda s: principal_angles([[1, 0], [0, 0]]), "heads' lengths"),
        (lambda s: spectral_entropy([1, 2]), "heads' shape"),
        (lambda s: min_shares(np.zeros((0, 3))), "scores' shape"),
        (lambda s: leave_one_out(s[..., :1], s[..., 0], "mean"), "K = 1"),
        (lambda s: verdict(0, 1.0), "k = 0"),
        (lambda s: verdict(2, np.nan), "correlation = nan"),
    ],
)
def test_bad_input_is_named(pool, call, words):
    with pytest.raises(ValueError, match=words):
        call(pool[0])
