"""Recalibration finds what was planted, and changes nobody's order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rmlab.measure.accuracy import agreement, log_losses, probability
from rmlab.measure.calibration import debiased_square, temperature
from rmlab.measure.recalibrate import by_isotonic, by_temperature, cross_fitted
from tests.measure.test_calibration import planted

FITS = (by_temperature, by_isotonic)


@pytest.mark.parametrize("heat", [0.3, 1.0, 5.0])
def test_a_temperature_undoes_what_was_planted(heat):
    fit = by_temperature(*planted(np.random.default_rng(0), 20_000, heat))
    np.testing.assert_allclose(fit(np.array([-2.0, 0, 3])), np.array([-2.0, 0, 3]) / heat, rtol=0.05)


@pytest.mark.parametrize("heat", [0.4, 4.0])
@pytest.mark.parametrize("fit", FITS)
def test_a_mended_scorer_is_calibrated_on_the_other_half(fit, heat):
    margins, labels = planted(np.random.default_rng(1), 6000, heat)
    clusters = np.arange(6000)
    before = debiased_square(margins, labels, clusters)
    mended = cross_fitted(fit, margins, labels, clusters)
    after = debiased_square(mended, labels, clusters)
    assert (
        before > 0.05**2 and after < 0.02**2
    )  # sampling: sqrt(10 / 6000 / 6) / sqrt(10) is about 0.005 a bin
    assert log_losses(mended, labels).mean() < log_losses(margins, labels).mean() - 0.01
    assert temperature(mended, labels) == pytest.approx(1, abs=0.1)


def test_isotonic_mends_what_no_temperature_can():
    """Margins of 1 are right in .9 of cases and margins of 3 in .6: the two become one level, their mean."""
    margins = np.repeat([0.5, 1.0, 3.0], 4000)
    right = np.random.default_rng(2).random(12_000) < np.repeat([0.55, 0.9, 0.6], 4000)
    chances = probability(by_isotonic(margins, right.astype(float))(np.array([0.5, 1, 3, 9])))
    np.testing.assert_allclose(chances, [0.55, 0.75, 0.75, 0.75], atol=0.03)
    assert chances[1] == chances[2] == chances[3]


def test_a_pair_read_on_one_half_was_fitted_on_the_other():
    margins, labels = planted(np.random.default_rng(3), 400, 2.0)
    even, odd = np.arange(400) % 2 == 0, np.arange(400) % 2 == 1
    for fit in FITS:
        out = cross_fitted(fit, margins, labels, np.arange(400))
        np.testing.assert_array_equal(out[even], fit(margins[odd], labels[odd])(margins[even]))
        spoilt = np.where(even, 1 - labels, labels)
        np.testing.assert_array_equal(cross_fitted(fit, margins, spoilt, np.arange(400))[even], out[even])


@pytest.mark.parametrize("fit", FITS)
def test_turning_a_pair_turns_its_log_odds(fit):
    margins, labels = planted(np.random.default_rng(4), 500, 2.0)
    turned = np.where(np.arange(500) % 2, -1.0, 1.0)
    other = fit(margins * turned, np.where(turned > 0, labels, 1 - labels))
    x = np.linspace(-8, 8, 101)
    mapped = fit(margins, labels)(x)
    np.testing.assert_allclose(other(x), mapped, atol=1e-9)
    np.testing.assert_array_equal(mapped, -fit(margins, labels)(-x))


@pytest.mark.parametrize("fit", FITS)
def test_a_recalibrated_proxy_has_the_same_winners(fit):
    """Of any answers, the winner beats each other one at a half or more, and no order is turned round."""
    rng = np.random.default_rng(5)
    mapped = fit(*planted(rng, 800, 3.0))
    scores = rng.normal(0, 3, (50, 16))
    apart = mapped(scores[:, :, None] - scores[:, None, :])  # (50, 16, 16) of the first over the second
    best = scores.argmax(1)
    assert (np.take_along_axis(apart, best[:, None, None], 1) >= 0).all()
    order = np.argsort(scores, 1)
    against_one = np.take_along_axis(apart[:, :, 0], order, 1)  # chances over one and the same answer
    steps = np.diff(against_one, axis=1)
    assert (steps >= 0).all()
    assert (steps > 0).all() == (fit is by_temperature)  # isotonic regression ties
    right = agreement(scores[:, 0] - scores[:, 1], np.ones(50))
    mended = agreement(mapped(scores[:, 0] - scores[:, 1]), np.ones(50))
    assert ((mended == right) | (mended == 0.5)).all()


def test_scorers_without_an_exception_or_without_a_hint_stay_finite():
    margins = np.linspace(0.1, 2, 40)
    sure = by_isotonic(margins, np.ones(40))(np.array([-5.0, 0, 0.1, 5]))
    np.testing.assert_allclose(expit(sure), [1 / 42, 0.5, 41 / 42, 41 / 42])
    wrong = by_isotonic(margins, np.zeros(40))(np.array([-5.0, 0, 0.1, 5]))
    np.testing.assert_array_equal(wrong, 0.0)  # no map that rises does better than a coin
    assert temperature(np.zeros(40), np.ones(40)) == 1
    assert by_temperature(np.zeros(40), np.ones(40))(3.0) == 3
    with pytest.raises(ValueError, match="clusters"):
        cross_fitted(by_temperature, margins, np.ones(40), np.zeros(40, int))
