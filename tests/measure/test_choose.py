"""Rules for the strength: HedgeTune against analytic roots, policies against their optimisers, members without gold."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure import choose
from rmlab.measure.certificate import Labels
from rmlab.measure.choose import (
    cdf_slope,
    families,
    hedge_tune,
    law_choice,
    members_choice,
    n_choices,
    quantiles,
)
from rmlab.optimise.best_of_n import kl_bound
from rmlab.optimise.tilt import (
    best_of_n_weights,
    chi_square_weights,
    poisson_weights,
    soft_best_of_n_weights,
    tilted_weights,
)

M = 4096
UPTO = np.arange(1, M + 1) / M
BELOW = UPTO - 1 / M


def gold_of(a: float, b: float, m: int) -> np.ndarray:
    """Mean of a u - b u^m over each answer's share of the quantiles."""
    return M * (a * (UPTO**2 - BELOW**2) / 2 - b * (UPTO ** (m + 1) - BELOW ** (m + 1)) / (m + 1))


@pytest.mark.parametrize("a, b, m", [(1.0, 0.3, 10), (1.0, 0.15, 40), (2.0, 0.1, 100)])
def test_hedge_tune_finds_the_analytic_root_of_best_of_n(a, b, m):
    """E_n[u^k] = n / (n + k), so the slope in n is a / (n + 1)^2 - b m / (n + m)^2."""
    root = np.sqrt(b * m / a)
    n = (m - root) / (root - 1)
    got = hedge_tune("best_of_n", BELOW, UPTO, gold_of(a, b, m), np.full(M, 1 / M), 4096)
    assert got == pytest.approx(n, rel=5e-3) and n > 1


def test_hedge_tune_finds_the_best_poisson_of_a_fine_search():
    gold = gold_of(1.0, 0.15, 40)
    mus = np.linspace(0.5, 60, 4000)
    cdf = [u * np.exp(mus[:, None] * (u - 1)) for u in (UPTO, BELOW)]
    best = mus[((cdf[0] - cdf[1]) @ gold).argmax()]
    got = hedge_tune("poisson", BELOW, UPTO, gold, np.full(M, 1 / M), 4095)
    assert got == pytest.approx(best, rel=0.02) and 1 < best < 50


@pytest.mark.parametrize("family", choose.FAMILIES)
def test_hedge_tune_goes_to_the_ends_where_gold_only_rises_or_falls(family):
    most = 1000.0
    assert hedge_tune(family, BELOW, UPTO, UPTO, np.full(M, 1 / M), most) == pytest.approx(most)
    assert hedge_tune(family, BELOW, UPTO, -UPTO, np.full(M, 1 / M), most) == (
        1 if family == "best_of_n" else 0
    )


@pytest.mark.parametrize("family", choose.FAMILIES)
def test_the_slope_of_the_cdf_is_that_of_finite_differences(family):
    u = np.linspace(0, 1, 50)
    cdf = {"best_of_n": lambda t: u**t, "poisson": lambda t: u * np.exp(t * (u - 1))}[family]
    for theta in (1.0, 7.5, 90.0):
        numeric = (cdf(theta + 1e-5) - cdf(theta - 1e-5)) / 2e-5
        np.testing.assert_allclose(cdf_slope(family, theta, u), numeric, atol=1e-8)
    with pytest.raises(ValueError, match="family"):
        cdf_slope("soft", 1.0, u)


def test_of_several_roots_the_one_of_most_gold_is_taken():
    gold = np.where(UPTO < 0.6, 0, np.where(UPTO < 0.8, 1.0, np.where(UPTO < 0.9, -1.0, 0)))
    gold = np.where((UPTO > 0.98) & (UPTO < 0.995), 6.0, gold)
    n = hedge_tune("best_of_n", BELOW, UPTO, gold, np.full(M, 1 / M), 4096)
    ns = np.arange(1, 1000)
    curve = (UPTO ** ns[:, None] - BELOW ** ns[:, None]) @ gold
    assert n == pytest.approx(ns[curve.argmax()], rel=0.02)


def test_families_are_the_optimisers_policies():
    rng = np.random.default_rng(0)
    proxy, gold, ended = rng.normal(size=(5, 64)), rng.normal(size=(5, 64)), rng.random((5, 64)) < 0.8
    every = families(proxy, gold, ended)
    assert set(every) == {"best_of_n", "poisson", "tilt", "chi_square", "soft"}
    reference = {
        "best_of_n": lambda s: best_of_n_weights(proxy, s, ended),
        "poisson": lambda s: poisson_weights(proxy, s - 1, ended),
        "tilt": lambda s: tilted_weights(proxy, s, ended),
        "chi_square": lambda s: chi_square_weights(proxy, s, ended),
        "soft": lambda s: soft_best_of_n_weights(proxy, 64, s, ended),
    }
    for name, family in every.items():
        assert (np.diff(family.kl.mean(0)) > -1e-9).all(), name  # from weak to strong
        for i in (1, 3, len(family.strengths) - 1):
            np.testing.assert_allclose(family.weights[i], reference[name](family.strengths[i]), atol=1e-12)
            np.testing.assert_allclose(family.gold[:, i], (family.weights[i] * gold).sum(1), atol=1e-12)
        np.testing.assert_allclose(family.weights[0], ended / ended.sum(1, keepdims=True))
    assert "soft" not in families(proxy, gold, ended, soft=False)


def test_choices_of_n():
    assert n_choices(16).tolist() == [1, 2, 3, 4, 6, 8, 12, 16] and n_choices(1).tolist() == [1]
    ns = n_choices(2048).astype(float)
    d = np.sqrt(kl_bound(ns))
    assert law_choice(ns, d * (2 - 0.8 * d)) == np.abs(d - 1.25).argmin()
    assert law_choice(ns, d * (1 + d)) == len(ns) - 1 and law_choice(ns, -d) == 0 == law_choice(ns[:1], d[:1])
    assert choose.nearest(ns, 5.0) == ns.tolist().index(6)


def test_labels_know_their_quantiles():
    rng = np.random.default_rng(0)
    proxy, ended = rng.integers(0, 6, (3, 20)).astype(float), rng.random((3, 20)) < 0.7
    p, i = np.nonzero(ended)
    labels = Labels(p, i, np.zeros(len(p)), np.ones(len(p)))
    below, upto, ties = quantiles(proxy, ended, labels)
    for j in range(len(p)):
        row = proxy[p[j]][ended[p[j]]]
        own = proxy[p[j], i[j]]
        assert below[j] == pytest.approx((row < own).mean()) and upto[j] == pytest.approx((row <= own).mean())
        assert ties[j] == (row == own).sum()


def test_members_go_as_far_as_they_agree():
    """Members with errors of their own alone: more is better. Where noise of one member is all there is, members say stop."""
    rng = np.random.default_rng(0)
    ns, ended = 2 ** np.arange(9), np.ones((20, 256), bool)
    truth = rng.normal(size=(20, 256, 1))
    right = members_choice(truth + 0.3 * rng.normal(size=(20, 256, 5)), "mean", ns, ended)
    assert np.median(ns[right]) >= 128
    noise = members_choice(rng.normal(size=(20, 256, 5)), "mean", ns, ended)
    assert np.median(ns[noise]) <= 2
    with pytest.raises(ValueError, match="K"):
        members_choice(truth, "mean", ns, ended)
