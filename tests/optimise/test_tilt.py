"""Policies on a pool: against enumeration, Monte Carlo and a numerical optimiser, and against each other."""

from itertools import product

import hypothesis
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rmlab.optimise import best_of_n as bon
from rmlab.optimise.tilt import (
    Frontier,
    best_of_n_policies,
    best_of_n_weights,
    beta_for_kl,
    chi_square_weights,
    ess,
    expected,
    frontier,
    kl,
    poisson_weights,
    soft_best_of_n_weights,
    tilt,
    tilted_weights,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)

OPTIMISERS = {  # each with strengths from weak to strong
    "tilted": (tilted_weights, [3.0, 1.0, 0.3]),
    "best of n": (best_of_n_weights, [2, 8, 40]),
    "Poisson": (poisson_weights, [0.5, 5.0, 40.0]),
    "soft best of n": (lambda r, n, ended=None: soft_best_of_n_weights(r, n, 0.5, ended), [2, 8, 40]),
    "chi-square": (chi_square_weights, [3.0, 1.0, 0.2]),
}
each = pytest.mark.parametrize("weights, strengths", OPTIMISERS.values(), ids=list(OPTIMISERS))

rows = st.lists(st.integers(-4, 4).map(lambda k: k / 2), min_size=1, max_size=5)  # few levels: many ties


def pool(seed=0, P=6, N=50):
    """Proxy, gold and who ended: with ties, without a normal shape, and gold that the proxy half sees."""
    rng = np.random.default_rng(seed)
    proxy = np.round(rng.gamma(2.0, size=(P, N)), 1)
    return proxy, 0.5 * proxy + rng.normal(size=(P, N)), rng.random((P, N)) < 0.8


def draws_of(proxy, n, pick):
    """The winner's exact law over all N^n ordered draws with replacement; `pick` gives one draw's chances."""
    w = np.zeros(len(proxy))
    for draw in product(range(len(proxy)), repeat=n):
        np.add.at(w, list(draw), pick(np.asarray(proxy)[list(draw)]) / len(proxy) ** n)
    return w


# --- the tilted policy


@quick
@hypothesis.given(rows, st.floats(0.05, 20))
def test_tilting_equals_enumeration(row, beta):
    r, gold = np.array(row), np.arange(len(row)) ** 2.0
    z = sum(np.exp(x / beta) for x in row)
    w = np.array([np.exp(x / beta) / z for x in row])
    front = tilt([row], [gold], [beta], floor=0)
    np.testing.assert_allclose(tilted_weights([row], beta)[0], w, rtol=1e-10)
    assert front.values[0, 0] == pytest.approx(sum(w * gold), rel=1e-10)
    assert front.kl[0, 0] == pytest.approx(sum(w * r) / beta - np.log(z / len(row)), abs=1e-10)
    assert front.ess[0, 0] == pytest.approx(1 / sum(w**2), rel=1e-10)


def test_the_ends_are_the_mean_and_the_best_answers():
    proxy, gold, _ = pool()
    proxy[0, :3] = 99.0  # three share the top
    front = tilt(proxy, gold, [np.inf, 1e12, 1e-12, 0], floor=0)
    top = proxy == proxy.max(1, keepdims=True)
    best = (gold * top).sum(1) / top.sum(1)
    np.testing.assert_allclose(front.values[:, :2], np.repeat(gold.mean(1)[:, None], 2, 1), rtol=1e-9)
    np.testing.assert_allclose(front.values[:, 2:], np.repeat(best[:, None], 2, 1), rtol=1e-12)
    np.testing.assert_allclose(front.kl[:, [0, 3]], np.stack([np.zeros(6), np.log(50 / top.sum(1))], 1))
    np.testing.assert_allclose(front.ess[:, [0, 3]], np.stack([np.full(6, 50.0), top.sum(1)], 1))


def test_tilting_is_stable_far_from_zero():
    proxy, gold, _ = pool(1)
    with np.errstate(all="raise", under="ignore"):
        far = tilt(1e6 + 1024 * proxy, gold, [1e-3, 700.0, 1e9], floor=0)
    near = tilt(proxy, gold, np.array([1e-3, 700.0, 1e9]) / 1024, floor=0)
    np.testing.assert_allclose(far.values, near.values, rtol=1e-6)  # an offset and a unit change nothing
    assert np.isfinite(far.kl).all() and (far.kl <= np.log(50)).all()


def test_proxy_and_kl_fall_as_beta_grows():
    proxy, _, ended = pool(2)
    front = tilt(proxy, proxy, np.geomspace(0.15, 50, 40), ended, floor=0)
    assert (np.diff(front.values, axis=1) < 0).all() and (np.diff(front.kl, axis=1) < 0).all()
    assert (np.diff(front.ess, axis=1) > 0).all()


def test_the_slope_in_one_over_beta_is_the_variance():
    """dE[r]/d(1/beta) = Var(r), for any value its covariance with r, and dKL/d(1/beta) = Var(r) / beta."""
    proxy, gold, ended = pool(3)
    beta, step = 0.7, 1e-5
    values = np.stack([proxy, gold], -1)
    front = tilt(proxy, values, 1 / (1 / beta + np.array([-step, step])), ended, floor=0)
    slope = (front.values[:, 1] - front.values[:, 0]) / (2 * step)
    w = tilted_weights(proxy, beta, ended)
    mean = expected(w, values)
    covariance = expected(w, values * proxy[..., None]) - mean * mean[:, :1]
    np.testing.assert_allclose(slope, covariance, rtol=1e-6, atol=1e-8)
    slope_kl = (front.kl[:, 1] - front.kl[:, 0]) / (2 * step)
    np.testing.assert_allclose(slope_kl, covariance[:, 0] / beta, rtol=1e-6)


def test_a_beta_a_prompt_equals_one_prompt_at_a_time():
    proxy, _, ended = pool(4)
    betas = np.array([0.0, 0.1, 0.5, 1.0, 9.0, np.inf])
    alone = [tilted_weights(proxy[[p]], betas[p], ended[[p]])[0] for p in range(6)]
    np.testing.assert_array_equal(tilted_weights(proxy, betas, ended), alone)


# --- equal KL


@quick
@hypothesis.given(st.integers(0, 10_000), st.floats(0.02, 0.98))
def test_beta_for_kl_inverts(seed, share):
    proxy, _, ended = pool(seed, P=4, N=30)
    low, high = kl(tilted_weights(proxy, np.inf, ended)), kl(tilted_weights(proxy, 0.0, ended))
    target = low.mean() + share * (high - low).mean()
    beta = beta_for_kl(proxy, target, ended)
    assert isinstance(beta, float)
    assert kl(tilted_weights(proxy, beta, ended)).mean() == pytest.approx(target, rel=1e-9)
    target = low.max() + share * (high.min() - low.max())
    each = beta_for_kl(proxy, target, ended, per_prompt=True)
    np.testing.assert_allclose(kl(tilted_weights(proxy, each, ended)), target, rtol=1e-9)
    slight = low.mean() + 1e-6
    assert kl(tilted_weights(proxy, beta_for_kl(proxy, slight, ended), ended)).mean() == pytest.approx(
        slight, abs=1e-9
    )
    np.testing.assert_allclose(beta_for_kl(1000 * proxy, target, ended, True), 1000 * each, rtol=1e-6)


@pytest.mark.parametrize("share", [1e-4, 0.5, 0.9999])
@pytest.mark.parametrize("each", [False, True])
def test_beta_for_kl_finds_its_way_through_scores_of_any_shape(share, each):
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(3, 40)) * 1e-6 + 1e4
    for proxy in (rng.standard_cauchy((3, 40)) * 1e3, np.exp(5 * rng.normal(size=(3, 40))), apart):
        high = kl(tilted_weights(proxy, 0.0))
        target = share * (high.min() if each else high.mean())
        found = kl(tilted_weights(proxy, beta_for_kl(proxy, target, per_prompt=each)))
        np.testing.assert_allclose(found if each else found.mean(), target, rtol=1e-9)


def test_beta_for_kl_survives_prompts_of_one_score_unless_each_must_reach_it():
    proxy, *_ = pool(5)
    proxy[2] = 7.0
    assert kl(tilted_weights(proxy, beta_for_kl(proxy, 1.0))).mean() == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(ValueError, match=r"kl_target = 1.0.*every prompt"):
        beta_for_kl(proxy, 1.0, per_prompt=True)


@each
def test_nothing_beats_the_tilted_policy_at_equal_kl(weights, strengths):
    """Gibbs: on random pools, with and without disqualified answers, prompt by prompt."""
    beaten = []
    for seed in range(8):
        proxy, _, ended = pool(seed, P=5, N=40)
        for strength, who in product(strengths, (None, ended)):
            w = weights(proxy, strength, who)
            for p, price in enumerate(kl(w)):
                mask = None if who is None else who[[p]]
                beta = beta_for_kl(proxy[[p]], price, mask)
                best = expected(tilted_weights(proxy[[p]], beta, mask), proxy[[p]])
                beaten.append(best[0] - expected(w[[p]], proxy[[p]])[0])
    assert min(beaten) >= -1e-8
    if weights is not tilted_weights:
        assert max(beaten) > 1e-3  # they differ, so the test has something to see


# --- best-of-n


@quick
@hypothesis.given(rows, st.integers(1, 4))
def test_best_of_n_equals_enumeration(row, n):
    exact = draws_of(row, n, lambda r: (r == r.max()) / (r == r.max()).sum())
    np.testing.assert_allclose(best_of_n_weights([row], n)[0], exact, atol=1e-12)


@quick
@hypothesis.given(st.integers(0, 10_000), st.integers(1, 200))
def test_best_of_n_stays_below_the_bound(seed, n):
    proxy, _, ended = pool(seed)
    free = kl(best_of_n_weights(proxy, n))
    assert (free <= bon.kl_bound(n) + 1e-12).all()
    assert (
        kl(best_of_n_weights(proxy, n, ended)) <= bon.kl_bound(n) + np.log(50 / ended.sum(1)) + 1e-12
    ).all()


def test_the_bound_is_nearly_met_without_ties_and_loose_with_them():
    proxy = np.random.default_rng(0).normal(size=(1, 20_000))
    assert kl(best_of_n_weights(proxy, 16))[0] == pytest.approx(bon.kl_bound(16), abs=1e-3)
    assert kl(best_of_n_weights(np.round(proxy), 16))[0] < bon.kl_bound(16) - 0.2


def test_without_replacement_it_is_the_estimator_and_its_kl_passes_the_bound():
    proxy, gold, ended = pool(6)
    for n in (1, 7, 30):
        w = best_of_n_weights(proxy, n, replace=False)
        np.testing.assert_allclose(expected(w, gold), bon.best_of_n(proxy, gold, [n])[:, 0], rtol=1e-12)
    w = best_of_n_weights(proxy, 9, ended, replace=False)
    for p in range(6):  # the estimator on the answers that ended
        alone = bon.best_of_n(proxy[[p]][:, ended[p]], gold[[p]][:, ended[p]], [9])[0, 0]
        assert expected(w[[p]], gold[[p]])[0] == pytest.approx(alone, rel=1e-12)
    line = np.arange(50.0)[None]
    last = best_of_n_weights(line, 50, replace=False)
    assert kl(last)[0] == pytest.approx(np.log(50)) and kl(last)[0] > bon.kl_bound(50)
    assert kl(best_of_n_weights(line, 25, replace=False))[0] <= np.log(25)
    with pytest.raises(ValueError, match=r"n = 50: give at most \d\d"):
        best_of_n_weights(proxy, 50, ended, replace=False)


def test_every_n_in_turn_is_each_alone():
    proxy, _, ended = pool(6)
    ns = [1, 3, 64]
    for n, w in zip(ns, best_of_n_policies(proxy, ns, ended), strict=True):
        np.testing.assert_array_equal(w, best_of_n_weights(proxy, n, ended))
        chosen = np.where(ended, proxy, -np.inf)
        below = (chosen[:, None] < chosen[..., None]).sum(2) - (~ended).sum(1, keepdims=True)
        alive = ended.sum(1, keepdims=True)
        ties = (chosen[:, None] == chosen[..., None]).sum(2)
        direct = (((below + ties) / alive) ** n - (below / alive) ** n) / ties * ended
        np.testing.assert_allclose(w, direct, atol=1e-12)


def test_both_draws_agree_while_n_is_small_beside_the_pool():
    proxy = np.random.default_rng(1).normal(size=(3, 4096))
    with_, without = (expected(best_of_n_weights(proxy, 16, replace=r), proxy) for r in (True, False))
    np.testing.assert_allclose(with_, without, rtol=2e-3)


# --- soft best-of-n


@quick
@hypothesis.given(rows, st.integers(1, 4), st.floats(0.02, 20))
def test_soft_best_of_n_equals_enumeration(row, n, tau):
    exact = draws_of(row, n, lambda r: np.exp((r - r.max()) / tau) / np.exp((r - r.max()) / tau).sum())
    np.testing.assert_allclose(soft_best_of_n_weights([row], n, tau)[0], exact, atol=1e-12)


def test_soft_best_of_n_has_the_right_limits():
    proxy, _, ended = pool(7)
    for n in (2, 16, 1000):
        cold = soft_best_of_n_weights(proxy, n, 1e-9, ended)
        np.testing.assert_allclose(cold, best_of_n_weights(proxy, n, ended), atol=1e-12)
    plain = ended / ended.sum(1, keepdims=True)
    np.testing.assert_allclose(soft_best_of_n_weights(proxy, 1, 0.3, ended), plain, rtol=1e-12)
    np.testing.assert_allclose(soft_best_of_n_weights(proxy, 16, np.inf, ended), plain, rtol=1e-12)
    target = tilted_weights(proxy, 0.3, ended)
    off = [np.abs(soft_best_of_n_weights(proxy, n, 0.3, ended) - target).max() for n in (10**3, 10**4, 10**8)]
    assert off[0] > 5 * off[1] and off[1] < 5e-3 and off[2] < 1e-6  # as 1/n


def test_soft_best_of_n_keeps_its_sum_over_a_wide_pool():
    """Before it is normalised: the quadrature misses nothing, over scores a thousand temperatures wide."""
    from rmlab.optimise.tilt import _soft_winners

    gaps = -np.sort(np.random.default_rng(2).gamma(2.0, size=2048))
    gaps -= gaps.max()
    for n, tau in product((1, 2, 64, 100_000), (0.01, 1.0, 100.0)):
        assert _soft_winners(gaps, n, tau).sum() == pytest.approx(1, abs=1e-12)


# --- Best-of-Poisson


def test_poisson_equals_monte_carlo():
    proxy = np.array([[0.0, 3.0, 1.0, 1.0, 2.0, 5.0]])
    mu, draws = 2.5, 400_000
    rng = np.random.default_rng(3)
    counts = 1 + rng.poisson(mu, draws)
    seen = np.where(
        np.arange(counts.max()) < counts[:, None], rng.integers(6, size=(draws, counts.max())), -1
    )
    score = np.append(proxy[0], -np.inf)[seen] + 1e-6 * rng.random(seen.shape)  # ties at random
    winners = np.bincount(seen[np.arange(draws), score.argmax(1)], minlength=6) / draws
    w = poisson_weights(proxy, mu)[0]
    assert np.abs(winners - w).max() < 5 * np.sqrt(0.25 / draws)
    assert np.abs(winners - best_of_n_weights(proxy, 3)[0]).max() > 0.01  # a plain n near 1 + mu is not it


def test_poisson_is_a_mixture_of_best_of_n_and_nearly_optimal():
    proxy, _, ended = pool(8)
    chance = np.exp(-3.0)
    mixture = np.zeros(proxy.shape)
    for extra in range(60):
        mixture += chance * best_of_n_weights(proxy, 1 + extra, ended)
        chance *= 3.0 / (extra + 1)
    np.testing.assert_allclose(poisson_weights(proxy, 3.0, ended), mixture, atol=1e-12)
    plain = ended / ended.sum(1, keepdims=True)
    np.testing.assert_allclose(poisson_weights(proxy, 0.0, ended), plain, rtol=1e-12)
    quantile = (np.arange(4000.0)[None] + 0.5) / 4000  # uniform rewards: the paper's setting
    w = poisson_weights(quantile, 10.0)
    best = tilted_weights(quantile, beta_for_kl(quantile, kl(w)[0]))
    assert 0 < expected(best, quantile)[0] - expected(w, quantile)[0] < 1e-2


# --- chi-square pessimism


@pytest.mark.parametrize("beta", [0.05, 0.4, 2.0, 50.0])
def test_chi_square_equals_a_numerical_optimum(beta):
    proxy, _, ended = pool(9, P=3, N=12)
    for p in range(3):
        r = proxy[p, ended[p]]
        M = len(r)

        def loss(w, r=r, M=M):
            return -(w @ r) + beta / 2 * np.mean((M * w - 1) ** 2)

        optimum = minimize(
            loss,
            np.full(M, 1 / M),
            jac=lambda w, r=r, M=M: -r + beta * (M * w - 1),
            bounds=[(0, 1)] * M,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        w = chi_square_weights(proxy, beta, ended)[p]
        assert loss(w[ended[p]]) <= loss(optimum.x) + 1e-9
        np.testing.assert_allclose(w[ended[p]], optimum.x, atol=1e-4)


def test_chi_square_has_its_formula_and_limits():
    proxy, _, ended = pool(10)
    w = chi_square_weights(proxy, 0.8, ended)
    for p in range(6):  # one threshold a prompt: M w = relu((r - c) / beta)
        r, mine, M = proxy[p, ended[p]], w[p, ended[p]], ended[p].sum()
        threshold = r - 0.8 * M * mine
        assert np.ptp(threshold[mine > 0]) < 1e-12 and (r[mine == 0] <= threshold[mine > 0][0] + 1e-12).all()
        assert (mine == 0).any() and (mine > 0).sum() > 1
    plain = ended / ended.sum(1, keepdims=True)
    np.testing.assert_allclose(chi_square_weights(proxy, 1e12, ended), plain, rtol=1e-9)
    np.testing.assert_allclose(chi_square_weights(proxy, 1e-9, ended), tilted_weights(proxy, 0, ended))


# --- what all share


@each
def test_weights_are_policies_that_follow_their_answers(weights, strengths):
    proxy, _, ended = pool(11)
    answers, prompts = np.random.default_rng(0).permutation(50), [3, 1, 0, 5, 2, 4]
    size, price = [], []
    for strength in strengths:
        w = weights(proxy, strength, ended)
        assert w.shape == proxy.shape and (w >= 0).all()
        np.testing.assert_allclose(w.sum(1), 1, rtol=1e-12)
        moved = weights(proxy[prompts][:, answers], strength, ended[prompts][:, answers])
        np.testing.assert_allclose(moved, w[prompts][:, answers], rtol=1e-9, atol=1e-15)
        rising = np.take_along_axis(w, np.argsort(np.where(ended, proxy, -np.inf), axis=1), axis=1)
        assert (np.diff(rising, axis=1) >= -1e-12).all()  # a better proxy never weighs less
        for p in range(6):
            assert all(np.ptp(w[p, ended[p] & (proxy[p] == x)]) < 1e-12 for x in set(proxy[p, ended[p]]))
        size, price = [*size, ess(w)], [*price, kl(w)]
    assert (np.diff(size, axis=0) < 0).all() and (np.diff(price, axis=0) > 0).all()  # stronger is dearer


@each
def test_a_disqualified_answer_weighs_nothing_whatever_its_score(weights, strengths):
    proxy, _, ended = pool(12)
    ended[4] = False  # nobody ended: the plain mean
    w = weights(proxy, strengths[1], ended)
    out = ~ended & ended.any(1, keepdims=True)
    assert out.sum() > 20 and (w[out] == 0).all()
    np.testing.assert_allclose(w[4], 1 / 50, rtol=1e-12)
    for junk in (1e9, -1e9, np.nan, np.inf):
        np.testing.assert_array_equal(weights(np.where(ended, proxy, junk), strengths[1], ended), w)
    alone = weights(proxy[[0]][:, ended[0]], strengths[1])
    np.testing.assert_allclose(w[0, ended[0]], alone[0], rtol=1e-9)
    assert kl(w)[0] == pytest.approx(kl(alone)[0] + np.log(50 / ended[0].sum()))


@each
def test_one_answer_and_equal_answers(weights, strengths):
    np.testing.assert_allclose(weights([[3.0]], strengths[2]), 1)
    np.testing.assert_allclose(weights(np.full((2, 9), -4.0), strengths[2]), 1 / 9, rtol=1e-12)


def test_thin_points_are_flagged_and_emptied():
    proxy, gold, ended = pool(13)
    betas = [10.0, 1.2, 1.0, 0.01]  # 39, 11, 9 and 2 answers in the first prompt
    front = tilt(proxy, gold, betas, ended)
    shown = tilt(proxy, gold, betas, ended, floor=0)
    assert isinstance(front, Frontier) and front.floor == 10
    assert front.represented[0].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(front.represented, shown.ess >= 10)
    np.testing.assert_array_equal(np.isnan(front.values), ~front.represented)
    np.testing.assert_array_equal(front.values[front.represented], shown.values[front.represented])
    assert np.isfinite(shown.values).all() and np.isfinite(front.kl).all()


def test_frontier_takes_any_optimiser_and_many_values():
    proxy, gold, ended = pool(14)
    values = np.stack([gold, proxy, gold**2], -1)
    front = frontier((best_of_n_weights(proxy, n, ended) for n in (1, 4)), values, [1, 4], floor=0)
    assert front.values.shape == (6, 2, 3) and front.kl.shape == front.ess.shape == (6, 2)
    for v in range(3):
        alone = expected(best_of_n_weights(proxy, 4, ended), values[..., v])
        np.testing.assert_allclose(front.values[:, 1, v], alone, rtol=1e-12)
    thin = frontier([best_of_n_weights(proxy, 500)], values, [500])
    assert np.isnan(thin.values).all() and not thin.represented.any()


ONES = np.ones((2, 4))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: tilt(np.zeros(4), ONES, [1]), r"proxy's shape = \(4,\): give scores \(P, N\)"),
        (lambda: tilt(np.zeros((2, 0)), ONES, [1]), r"proxy's shape = \(2, 0\)"),
        (lambda: tilt(ONES, np.ones((2, 3)), [1]), r"values' shape = \(2, 3\).*\(2, 4\)"),
        (lambda: tilt(ONES, np.full((2, 4), np.nan), [1]), "values = 'NaN or infinity'"),
        (lambda: tilt(np.full((2, 4), np.nan), ONES, [1]), "proxy = 'NaN or infinity'.*not ended"),
        (lambda: tilt([["a"]], [[1.0]], [1]), "proxy cannot be read .*: give one table"),
        (lambda: tilt(ONES, [[1.0], [1.0, 2.0]], [1]), "values cannot be read"),
        (lambda: tilt(ONES, ONES, [-1.0]), r"beta = -1.0: give 0 .*infinity"),
        (lambda: tilt(ONES, ONES, [np.nan]), "beta = nan"),
        (lambda: tilt(ONES, ONES, []), r"strengths' shape = \(0,\)"),
        (lambda: tilt(ONES, ONES, [1], ended=np.ones((2, 3), bool)), r"ended = .*bool \(2, 4\)"),
        (lambda: tilt(ONES, ONES, [1], ended=ONES), "ended = .*float64.*bool"),
        (lambda: tilted_weights(ONES, [1.0, 2.0, 3.0]), r"beta's shape = \(3,\).*\(2,\)"),
        (lambda: frontier([ONES / 4], ONES, [1, 2]), r"strengths' shape = \(2,\).*1 policies"),
        (lambda: beta_for_kl([[0.0, 1.0]], 0.7), r"kl_target = 0.7.*above 0 and below 0.693147"),
        (lambda: beta_for_kl([[0.0, 1.0]], 0.0), r"kl_target = 0.0"),
        (lambda: beta_for_kl(ONES, 0.1), r"kl_target = 0.1.*below 0 nats"),
        (lambda: best_of_n_weights(ONES, 0), "n = 0: give a whole number"),
        (lambda: best_of_n_weights(ONES, 1.5), "n = 1.5"),
        (lambda: best_of_n_weights(ONES, 5, replace=False), "n = 5: give at most 4"),
        (lambda: soft_best_of_n_weights(ONES, np.inf, 1.0), "n = inf"),
        (lambda: soft_best_of_n_weights(ONES, 2, 0.0), "tau = 0.0.*best_of_n_weights"),
        (lambda: poisson_weights(ONES, -1.0), "mu = -1.0"),
        (lambda: chi_square_weights(ONES, 0.0), "beta = 0.0"),
        (lambda: kl(ONES), r"w's row sums = \[4.0, 4.0\]"),
        (lambda: ess([0.5, 0.5]), r"w's shape = \(2,\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
