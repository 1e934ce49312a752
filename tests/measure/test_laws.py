"""Laws of overoptimisation: planted coefficients, peaks by brute force, coverage, extrapolation."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.laws import FORMS, Law, bootstrap, extrapolation, fit, peak, value
from rmlab.measure.pool_curves import best_of_n_curves
from rmlab.optimise.best_of_n import kl_bound
from tests.measure.fake_scores import in_step, only

D = np.sqrt(kl_bound(2 ** np.arange(12)))  # (L,) of 2,048 answers
BETA = {"quadratic": 0.55, "log": 0.9, "log1p": 0.9, "power": 0.55}
GAMMA = {"power": 0.6}


def planted(form):
    alpha, beta, gamma = 2.0, BETA[form], GAMMA.get(form, np.nan)
    return Law(alpha, beta, gamma, *peak(form, alpha, beta, gamma))


def study(rng, form, replicates, prompts=64):
    """Gold (D, P, L) whose mean over replicates and prompts is the planted law, both with effects of their own."""
    shape = (replicates, 1), (1, prompts)
    alpha = 2.0 + 0.2 * rng.normal(size=shape[0]) + 0.5 * rng.normal(size=shape[1])
    beta = BETA[form] + 0.1 * rng.normal(size=shape[0]) + 0.3 * rng.normal(size=shape[1])
    gain = value(Law(alpha, beta, np.full(alpha.shape, GAMMA.get(form, np.nan)), 0, 0), form, D)
    noise = 0.4 * np.sqrt(D / D.max()) * rng.normal(size=gain.shape)
    return gain + noise + rng.normal(size=(1, prompts, 1))


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_law_is_fitted_exactly(form):
    law, exact = planted(form), form != "power"
    gain = value(law, form, D)
    assert gain[0] == 0
    got = fit(D, np.stack([gain, 2 * gain]), form)
    for x, true in zip(got, law, strict=True):
        np.testing.assert_allclose(x[0], true, rtol=1e-9 if exact else 2e-3)
    np.testing.assert_allclose(got.alpha[1], 2 * law.alpha, rtol=1e-9 if exact else 2e-3)
    inside, outside = extrapolation(D, gain, form, D[6])
    assert inside < 1e-3 and outside < 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha, beta, gamma", [(2.0, 0.8, 0.6), (0.7, 0.9, 1.7), (0.3, 0.2, 0.3)])
def test_the_peak_is_where_the_law_is_highest(form, alpha, beta, gamma):
    at, height = peak(form, alpha, beta, gamma)
    x = np.unique(np.concatenate([np.linspace(0, 3 * at, 30001), [at]]))
    curve = value(Law(alpha, beta, gamma, 0, 0), form, x)
    assert height == pytest.approx(curve.max(), rel=1e-9) and x[curve.argmax()] == pytest.approx(at, rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_a_law_that_only_rises_peaks_at_infinity_and_one_that_only_falls_at_the_start(form):
    assert peak(form, 1.0, -0.1, 0.5) == (np.inf, np.inf) and peak(form, -1.0, -0.1, 0.5) == (0, 0)
    if form != "log":  # whose slope at 0 is infinite
        assert peak(form, -1.0, 0.1, 0.5) == (0, 0)
    assert np.isnan(peak(form, np.nan, np.nan, 0.5)).all()


def test_the_laws_of_the_paper():
    assert peak("quadratic", 3.0, 0.5) == (3.0, 4.5)  # alpha / 2 beta, alpha^2 / 4 beta
    at, height = peak("log", 2.0, 0.5)
    assert at == pytest.approx(np.exp(3)) and height == pytest.approx(0.5 * np.exp(3))


def test_weights_say_which_points_count():
    gain = value(planted("quadratic"), "quadratic", D)
    gain[-1] += 5
    weights = np.where(np.arange(len(D)) == len(D) - 1, 0.0, 1.0)
    assert fit(D, gain, "quadratic", weights).beta == pytest.approx(0.55)
    assert abs(fit(D, gain, "quadratic").beta - 0.55) > 0.1
    design = np.stack([D, -(D**2)], 1)[1:]
    w = np.linspace(0.1, 1, len(D))
    theirs = np.linalg.solve(design.T * w[1:] @ design, design.T * w[1:] @ gain[1:])
    got = fit(D, gain, "quadratic", w)
    np.testing.assert_allclose([got.alpha, got.beta], theirs)


@pytest.mark.parametrize("form, replicates", [("quadratic", 10), ("quadratic", 3), ("log", 10), ("log1p", 5)])
def test_intervals_cover_at_their_rate(form, replicates):
    rng, law = np.random.default_rng(replicates), planted(form)
    hits = {name: [] for name in ("alpha", "beta", "peak_d", "peak_gain")}
    for _ in range(200):
        got = bootstrap(D, study(rng, form, replicates), form, rng, draws=400)
        for name, hit in hits.items():
            hit.append(getattr(got.low, name) <= getattr(law, name) <= getattr(got.high, name))
    for name, hit in hits.items():
        assert 0.90 <= np.mean(hit) <= 0.985, (name, np.mean(hit))


def test_the_search_for_gamma_is_the_best_of_a_fine_grid():
    rng = np.random.default_rng(3)
    gain = value(planted("power"), "power", D) + 0.02 * rng.normal(size=(5, len(D)))
    got = fit(D, gain, "power")
    for row, gamma in zip(gain, got.gamma, strict=True):
        fine = np.geomspace(0.05, 4, 4000)
        squares = [np.linalg.lstsq(np.stack([D, -(D ** (1 + g))], 1), row, rcond=None)[1][0] for g in fine]
        mine = np.linalg.lstsq(np.stack([D, -(D ** (1 + gamma))], 1), row, rcond=None)[1][0]
        assert mine <= min(squares) * 1.001


def test_the_form_that_made_the_curve_sees_farther_than_the_others():
    rng = np.random.default_rng(0)
    for form in ("quadratic", "log"):
        gain = (study(rng, form, 40, 400) - study(rng, form, 40, 400)[..., :1] * 0).mean((0, 1))
        gain = gain - gain[0]
        errors = {f: float(extrapolation(D, gain, f, D[6])[1]) for f in ("quadratic", "log")}
        assert min(errors, key=errors.get) == form, errors


def test_too_few_points_give_nan_and_one_replicate_an_interval_over_prompts():
    assert np.isnan(fit(D[:2], np.zeros((3, 2)), "quadratic").alpha).all()
    assert np.isnan(extrapolation(D[:4], np.zeros(4), "quadratic", D[3])).all()  # nothing beyond
    rng = np.random.default_rng(1)
    got = bootstrap(D, study(rng, "quadratic", 1), "quadratic", rng)
    assert got.low.alpha < got.law.alpha < got.high.alpha
    flat = bootstrap(D, np.ones((2, 5, len(D))), "quadratic", rng)
    assert flat.law.alpha == flat.low.beta == flat.high.alpha == 0


def test_what_cannot_be_read_is_named():
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="form"):
        fit(D, D, "cubic")
    with pytest.raises(ValueError, match="gain"):
        fit(D, D * np.nan, "log")
    with pytest.raises(ValueError, match="shapes"):
        fit(D, D[:-1], "log")
    with pytest.raises(ValueError, match="d and weights"):
        fit(-D, D, "log")
    broken = np.ones((2, 3, len(D)))
    broken[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="gold"):
        bootstrap(D, broken, "quadratic", rng)


def test_laws_of_shipped_rows_leave_absent_replicates_out():
    curves = best_of_n_curves(only(in_step(), "single", "finetune5"))[0]
    rows = ByPrompt.of(curves)
    ns, gold = rows.curve(ensemble="finetune5", aggregator="mean", pessimism="paper")
    d = np.sqrt(kl_bound(ns))
    got = bootstrap(d, gold, "quadratic", np.random.default_rng(0))
    absent = np.concatenate([gold, np.full_like(gold[:1], np.nan)])
    again = bootstrap(d, absent, "quadratic", np.random.default_rng(0))
    assert got.law == again.law or np.allclose(got.law[:2], again.law[:2])
    assert got.low.alpha == again.low.alpha < got.law.alpha
