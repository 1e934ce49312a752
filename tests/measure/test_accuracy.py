"""Accuracy of margins by hand, symmetry in which answer comes first, the best member chosen elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rmlab.measure.accuracy import (
    accuracy,
    agreement,
    best_of_other_half,
    brier_scores,
    difference,
    log_losses,
    probability,
    verdict,
    wrong_together,
)
from rmlab.measure.clusters import Estimate, share_interval

MARGINS = np.array([2.0, -1.0, 0.0, 0.5, -3.0])
LABELS = np.array([1.0, 1.0, 1.0, 0.5, 0.2])


def test_agreement_by_hand():
    np.testing.assert_array_equal(agreement(MARGINS, LABELS), [1, 0, 0.5, np.nan, 1])
    two = agreement(np.stack([MARGINS, -MARGINS], 1), LABELS)
    np.testing.assert_array_equal(two[:, 1], [0, 1, 0.5, np.nan, 0])


def test_accuracy_leaves_out_pairs_without_a_majority():
    estimate = accuracy(MARGINS, LABELS, np.arange(5))
    assert estimate == share_interval(np.array([1, 0, 0.5, 1]), np.arange(4)) and estimate.value == 0.625
    with pytest.raises(ValueError, match="majority"):
        accuracy(MARGINS, np.full(5, 0.5), np.arange(5))


def test_losses_by_hand_and_at_the_extremes():
    p = expit(MARGINS)
    np.testing.assert_allclose(probability(MARGINS), p)
    np.testing.assert_allclose(
        log_losses(MARGINS, LABELS), -LABELS * np.log(p) - (1 - LABELS) * np.log(1 - p)
    )
    np.testing.assert_allclose(brier_scores(MARGINS, LABELS), (p - LABELS) ** 2)
    assert log_losses(np.array([0.0]), np.array([1.0]))[0] == pytest.approx(np.log(2))
    np.testing.assert_allclose(log_losses(np.array([-1e4, 1e4]), np.array([1.0, 1.0])), [1e4, 0])


@pytest.mark.parametrize("measure", [agreement, log_losses, brier_scores])
def test_which_answer_comes_first_says_nothing(measure):
    np.testing.assert_allclose(measure(-MARGINS, 1 - LABELS), measure(MARGINS, LABELS))


def test_bad_margins_and_labels_are_refused():
    for margins, labels, message in (
        (MARGINS, LABELS[:2], "labels' shape"),
        (MARGINS * np.nan, LABELS, "margins"),
        (MARGINS, LABELS + 1, "shares from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement(margins, labels)


def test_the_best_member_is_chosen_on_the_other_half():
    right = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)  # each is perfect on one half of the clusters
    assert best_of_other_half(right, np.array([0, 2, 1, 3])).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="at least two"):
        best_of_other_half(right, np.zeros(4, int))


def test_a_choice_on_the_same_rows_flatters_and_one_on_the_other_half_does_not():
    rng = np.random.default_rng(0)
    clusters, same, elsewhere, covers = np.arange(100), [], [], 0
    for _ in range(600):
        right = (rng.random((100, 8)) < 0.7).astype(float)
        best = best_of_other_half(right, clusters)
        same.append(right.mean(0).max())
        elsewhere.append(best.mean())
        gap = difference((rng.random(100) < 0.7).astype(float), best, clusters)
        covers += gap.low <= 0 <= gap.high
    assert np.mean(same) > 0.75 and np.mean(elsewhere) == pytest.approx(0.7, abs=0.006)
    assert 0.925 <= covers / 600 <= 0.975


def test_verdicts_in_words():
    assert verdict(Estimate(0.1, 0.02, 0.2, 9), "length") == "better than length"
    assert verdict(Estimate(-0.1, -0.2, -0.02, 9), "length") == "worse than length"
    assert verdict(Estimate(0.1, -0.02, 0.2, 9), "length") == "not separated from length"
    assert verdict(Estimate(0.1, np.nan, np.nan, 1), "length") == "not separated from length"


def test_members_wrong_together():
    right = np.array([[0, 0], [0, 1], [1, 0], [0.5, 0]])
    together, apart = wrong_together(right, np.arange(4))
    assert together.value == 0.25 and apart == 0.5 * 0.75
