"""The best-of-n estimator against brute force over every subset."""

from fractions import Fraction
from itertools import combinations
from math import comb

import hypothesis
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from rmlab.optimise.best_of_n import KL_NAME, best_of_n, ess, kl_bound, n_grid, winner_chances, winner_weights

quick = settings(max_examples=50, deadline=None, derandomize=True)


def brute_force(proxy, gold, n, mask=None):
    """Mean value of the winner over all subsets of size n of one prompt's answers; ties at random."""
    mask = [True] * len(proxy) if mask is None else mask
    rank = [(bool(m), p if m else 0.0) for m, p in zip(mask, proxy, strict=True)]
    total = 0.0
    for subset in combinations(range(len(proxy)), n):
        best = max(rank[i] for i in subset)
        total += np.mean([gold[i] for i in subset if rank[i] == best])
    return total / comb(len(proxy), n)


pools = st.integers(1, 7).flatmap(
    lambda N: st.tuples(
        st.lists(st.integers(-2, 2).map(float), min_size=N, max_size=N),  # few levels: many ties
        st.lists(st.floats(-5, 5, width=32), min_size=N, max_size=N),
        st.lists(st.booleans(), min_size=N, max_size=N),
    )
)


@quick
@hypothesis.given(pools)
def test_equals_brute_force_with_ties(pool):
    proxy, gold, _ = pool
    ns = range(1, len(proxy) + 1)
    expected = [brute_force(proxy, gold, n) for n in ns]
    np.testing.assert_allclose(best_of_n([proxy], [gold], ns)[0], expected, atol=1e-10)


@quick
@hypothesis.given(pools)
def test_equals_brute_force_with_a_mask(pool):
    proxy, gold, mask = pool
    ns = range(1, len(proxy) + 1)
    expected = [brute_force(proxy, gold, n, mask) for n in ns]
    np.testing.assert_allclose(best_of_n([proxy], [gold], ns, np.array([mask]))[0], expected, atol=1e-10)


@quick
@hypothesis.given(st.integers(1, 40), st.data())
def test_weights_equal_exact_fractions(N, data):
    n = data.draw(st.integers(1, N))
    exact = [float(Fraction(comb(i - 1, n - 1), comb(N, n))) for i in range(1, N + 1)]
    np.testing.assert_allclose(winner_weights(N, n)[:, 0], exact, rtol=1e-12)


def test_ends_of_the_curve():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(6, 30)), rng.normal(size=(6, 30))
    curve = best_of_n(proxy, gold, [1, 30])
    np.testing.assert_allclose(curve[:, 0], gold.mean(1))
    np.testing.assert_allclose(curve[:, 1], gold[np.arange(6), proxy.argmax(1)])
    proxy[:, :4] = 9.0  # four answers share the top
    np.testing.assert_allclose(best_of_n(proxy, gold, [30])[:, 0], gold[:, :4].mean(1))
    constant = best_of_n(np.zeros((6, 30)), gold, n_grid(30))
    np.testing.assert_allclose(constant, np.repeat(gold.mean(1)[:, None], 5, 1))


def test_the_order_of_answers_and_prompts_does_not_matter():
    """Gold follows its answer: permuting rows or columns of the pool leaves every curve unchanged."""
    rng = np.random.default_rng(1)
    proxy, gold = rng.integers(0, 9, (5, 40)).astype(float), rng.normal(size=(5, 40))
    mask = rng.random((5, 40)) < 0.8
    curve = best_of_n(proxy, gold, n_grid(40), mask)
    answers, prompts = rng.permuted(np.tile(np.arange(40), (5, 1)), axis=1), rng.permutation(5)

    def moved(x):
        return np.take_along_axis(x, answers, 1)[prompts]

    again = best_of_n(moved(proxy), moved(gold), n_grid(40), moved(mask))
    np.testing.assert_allclose(again, curve[prompts], atol=1e-12)
    # and gold left behind by its answers is another curve
    assert np.abs(best_of_n(moved(proxy), gold, n_grid(40)).mean(0) - curve.mean(0)).max() > 0.01


def test_only_the_order_of_the_proxy_counts_and_its_own_curve_rises():
    rng = np.random.default_rng(2)
    proxy, gold = rng.normal(size=(4, 64)), rng.normal(size=(4, 64))
    ns = n_grid(64)
    np.testing.assert_allclose(best_of_n(np.exp(proxy), gold, ns), best_of_n(proxy, gold, ns), atol=1e-12)
    assert (np.diff(best_of_n(proxy, proxy, ns), axis=1) > 0).all()


def test_many_values_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(3)
    proxy, values = rng.integers(0, 6, (5, 20)), rng.normal(size=(5, 20, 3))
    together = best_of_n(proxy, values, [1, 3, 20])
    assert together.shape == (5, 3, 3)
    for v in range(3):
        np.testing.assert_allclose(together[..., v], best_of_n(proxy, values[..., v], [1, 3, 20]), atol=1e-12)


def test_disqualified_answers_win_only_alone():
    proxy, gold = np.array([[9.0, 8.0, 1.0, 0.0]]), np.array([[-100.0, -50.0, 1.0, 2.0]])
    mask = np.array([[False, False, True, True]])
    # of the 6 pairs one is both disqualified, worth their mean -75; of the 4 triples none is
    assert best_of_n(proxy, gold, [2], mask)[0, 0] == pytest.approx((-75 + 1 + 2 + 1 + 2 + 1) / 6)
    assert best_of_n(proxy, gold, [3], mask)[0, 0] == pytest.approx((1 + 2 + 1 + 1) / 4)
    assert best_of_n(proxy, gold, [4], mask)[0, 0] == 1.0
    assert best_of_n(proxy, gold, [1], mask)[0, 0] == pytest.approx(gold.mean())
    nobody = best_of_n(proxy, gold, [1, 4], np.zeros((1, 4), bool))
    np.testing.assert_allclose(nobody, gold.mean())


def test_a_large_pool_is_finite_and_normalised():
    N = 65536
    ns = [*n_grid(N).tolist(), N - 1, 12345]
    weights = winner_weights(N, ns)
    assert np.isfinite(weights).all() and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-9)
    assert (np.diff(weights, axis=0) >= 0).all()  # a better rank never wins less often
    # the mean winner of a uniform proxy: E[rank] = n (N + 1) / (n + 1)
    mean_rank = np.arange(1, N + 1) @ weights
    np.testing.assert_allclose(mean_rank, np.array(ns) * (N + 1) / (np.array(ns) + 1), rtol=1e-9)


def test_effective_sample_size():
    np.testing.assert_allclose(ess(50, [1, 50]), [50, 1])
    np.testing.assert_allclose(ess(512, [256]), [3.0], rtol=0.01)
    np.testing.assert_allclose(ess(12600, [12500, 8192, 1024]), [1.016, 2.08, 23.6], rtol=0.003)
    alpha = np.array([0.01, 0.1, 0.5])
    np.testing.assert_allclose(ess(10000, alpha * 10000), (2 - alpha) / alpha, rtol=0.01)


def test_the_kl_axis_is_an_upper_bound_and_says_so():
    np.testing.assert_allclose(kl_bound([1, 64, 1000, 60000]), [0, 3.17, 5.91, 10.0], atol=0.01)
    assert "upper bound" in KL_NAME
    # an exact case: 3 answers of chance p, ranked; best-of-n gives rank k the chance F_k^n - F_{k-1}^n
    p = np.array([0.5, 0.3, 0.2])
    top = np.concatenate([[0], np.cumsum(p)])
    for n in (1, 2, 8, 100):
        q = np.diff(top**n)
        q, r = q[q > 0], p[q > 0]
        assert (q * np.log(q / r)).sum() <= kl_bound(n) + 1e-12


def test_n_grid():
    assert n_grid(1).tolist() == [1]
    assert n_grid(4096).tolist() == [2**k for k in range(13)]
    assert n_grid(100).tolist() == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(proxy=np.zeros(4)), r"proxy's shape = \(4,\)"),
        (dict(values=np.zeros((2, 3))), r"values' shape = \(2, 3\).*\(2, 4\)"),
        (dict(ns=[0]), r"ns = \[0\].*1 to N = 4"),
        (dict(ns=[5]), r"ns = \[5\]"),
        (dict(ns=[1.5]), r"ns = \[1.5\]"),
        (dict(ns=[]), "ns"),
        (dict(proxy=np.full((2, 4), np.nan)), "proxy.*NaN"),
        (dict(values=np.full((2, 4), np.inf)), "values"),
        (dict(mask=np.ones((2, 4))), "mask.*bool"),
        (dict(proxy=[[1.0, None, 3.0, 4.0]] * 2), "proxy = 'NaN': give a score for every answer"),
        (dict(proxy=[["a"] * 4] * 2), "proxy cannot be read .*: give one table of float32 or float64"),
        (dict(values=[[1.0], [1.0, 2.0]]), "values cannot be read"),
    ],
)
def test_bad_input_is_named(change, words):
    args = dict(proxy=np.zeros((2, 4)), values=np.zeros((2, 4)), ns=[1, 2]) | change
    with pytest.raises(ValueError, match=words):
        best_of_n(**args)


def test_chances_are_the_estimator_as_weights():
    rng = np.random.default_rng(5)
    proxy, mask = rng.integers(0, 9, (5, 40)), rng.random((5, 40)) < 0.7
    mask[0] = False
    values = rng.normal(size=(5, 40))
    for one in (None, mask):
        chances = winner_chances(proxy, n_grid(40), one)
        assert (chances >= 0).all() and np.allclose(chances.sum(1), 1)
        direct = best_of_n(proxy, values, n_grid(40), one)
        np.testing.assert_allclose(np.einsum("pnl,pn->pl", chances, values), direct, atol=1e-12)
    for arguments, match in [
        (([1.0, 2.0], [1]), "proxy's shape"),
        (([[np.nan, 2.0]], [1]), "proxy"),
        (([[1.0, 2.0]], [1], [[1, 0]]), "mask"),
    ]:
        with pytest.raises(ValueError, match=match):
            winner_chances(*arguments)
