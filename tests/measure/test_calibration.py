"""Calibration of scorers whose true probability is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rmlab.measure.calibration import calibration_error, ece, reliability, temperature


def planted(rng, pairs, heat, clusters=None):
    """Margins that are `heat` times the true log odds, labels drawn from those, and clusters with an effect if named."""
    odds = rng.normal(0, 1.5, pairs)
    return heat * odds, (rng.random(pairs) < expit(odds)).astype(float)


def true_error(heat, bins=10):
    """Root mean square over bins of equal mass of confidence minus the chance to be right, for `planted` margins."""
    odds = np.sort(np.abs(np.random.default_rng(9).normal(0, 1.5, 400_000)))
    gap = (expit(heat * odds) - expit(odds)).reshape(bins, -1).mean(1)
    return float(np.sqrt((gap**2).mean()))


def test_ece_by_hand():
    """Twenty pairs make two bins: 10 pairs at 0.5 + of which half are right, 10 at 0.9 of which 7 are."""
    margins = np.repeat([0.01, np.log(9)], 10)
    labels = np.r_[np.repeat([1.0, 0.0], 5), np.repeat([1.0, 0.0], [7, 3])]
    expected = (abs(expit(0.01) - 0.5) + abs(0.9 - 0.7)) / 2
    assert ece(margins, labels) == pytest.approx(expected)
    turned = np.where(np.arange(20) % 2, -1, 1)
    assert ece(margins * turned, np.where(turned > 0, labels, 1 - labels)) == pytest.approx(expected)


def test_the_debiased_error_is_kumars_for_single_clusters():
    """sum_b w_b (d_b^2 - s_b^2 / n_b), s_b^2 the sample variance in the bin, times R / (R - 1) (n_b - 1) / n_b."""
    rng = np.random.default_rng(1)
    margins, labels = planted(rng, 300, 2.5)
    order = np.argsort(np.abs(margins))
    gap = (expit(np.abs(margins)) - np.where(margins > 0, labels, 1 - labels))[order].reshape(10, 30)
    expected = (gap.mean(1) ** 2 - gap.var(1) / 30 * 300 / 299).mean()
    assert calibration_error(margins, labels, np.arange(300)).value == pytest.approx(np.sqrt(expected))


def test_ties_have_no_error_and_confident_scorers_that_are_right_have_none():
    labels = np.repeat([1.0, 0.0], 20)
    assert ece(np.zeros(40), labels) == 0 and calibration_error(np.zeros(40), labels, np.arange(40))[:3] == (
        0,
        0,
        0,
    )
    sure = np.where(labels > 0, 50.0, -50.0)
    assert calibration_error(sure, labels, np.arange(40)).value == pytest.approx(0, abs=1e-12)
    assert np.isnan(calibration_error(*planted(np.random.default_rng(2), 40, 3), np.zeros(40, int))[:3]).all()


@pytest.mark.parametrize(("heat", "pairs"), [(1.0, 150), (1.0, 600), (2.0, 400), (4.0, 400)])
def test_the_interval_of_the_calibration_error_covers(heat, pairs):
    rng = np.random.default_rng(3)
    truth, values, plain, inside = true_error(heat), [], [], 0
    for _ in range(150):
        margins, labels = planted(rng, pairs, heat)
        value, low, high, _ = calibration_error(margins, labels, np.arange(pairs))
        values.append(value)
        plain.append(ece(margins, labels))
        inside += low <= truth + 1e-9 and truth <= high
        assert low <= value <= high
    assert inside / 150 >= 0.9
    if heat == 1:
        assert np.median(values) < np.median(plain)  # noise alone makes the plain one
    else:
        assert np.sqrt(np.mean(np.square(values))) == pytest.approx(truth, rel=0.05)


def test_clusters_that_go_together_widen_the_interval():
    margins, labels = planted(np.random.default_rng(4), 60, 2.0)
    many = [np.tile(x, 6) for x in (margins, labels)]
    alone = calibration_error(*many, np.arange(360))
    together = calibration_error(*many, np.tile(np.arange(60), 6))
    assert together.high - together.low > 1.5 * (alone.high - alone.low) and together.clusters == 60


def test_reliability_counts_every_pair_once():
    margins, labels = planted(np.random.default_rng(5), 500, 1.0)
    table = reliability(margins, labels, np.arange(500))
    assert table.pairs.sum() == 500 and len(table) == 10 and table.confidence.is_monotonic_increasing
    assert ((table.low <= table.confidence) & (table.confidence <= table.high)).sum() >= 8
    total = (np.sign(margins) * (labels - 0.5) + 0.5).mean()
    assert (table.agreement * table.pairs).sum() / 500 == pytest.approx(total)


@pytest.mark.parametrize("heat", [0.3, 1.0, 5.0])
def test_the_temperature_is_what_margins_were_heated_by(heat):
    assert temperature(*planted(np.random.default_rng(6), 20_000, heat)) == pytest.approx(heat, rel=0.05)
