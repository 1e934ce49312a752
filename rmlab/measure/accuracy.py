"""Who is right about pairs? Accuracy, log loss and Brier score of margins against labels, and who beats whom.

A margin is a score of the first answer minus that of the second, in log odds of Bradley-Terry: P(first preferred) is
1 / (1 + exp(-margin)). A label is the share of votes for the first, 0 to 1. None of the numbers depends on which answer
comes first.

Letters: M pairs, K members, C clusters.
"""

from __future__ import annotations

import numpy as np

from rmlab.measure.clusters import Estimate, halves, mean_interval, share_interval
from rmlab.recipe import require


def agreement(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each margin sides with the majority: 1, 0, or 0.5 where the margin is 0; NaN where there is no majority.

    Parameters
    ----------
    margins : (M,) or (M, K), any unit, finite
    labels : (M,) shares of votes for the first answer; 0.5 has no majority

    Returns
    -------
    float64 of the margins' shape
    """
    margins, labels = _checked(margins, labels)
    majority = np.sign(labels - 0.5)
    return np.where(majority == 0, np.nan, (np.sign(margins) * majority + 1) / 2)


def accuracy(margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Share of pairs with a majority that a scorer sides with, ties half; Wilson's interval by clusters.

    margins, labels, clusters : (M,) each, as in `agreement` and `share_interval`
    """
    right = agreement(margins, labels)
    voted = ~np.isnan(right)
    require(bool(voted.any()), "labels", "0.5 throughout", "at least one pair with a majority")
    return share_interval(right[voted], np.asarray(clusters)[voted])


def log_losses(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log loss of each pair, y log(1 / p) + (1 - y) log(1 / (1 - p)), nats, the margins' shape: log 2 for a margin of 0."""
    margins, labels = _checked(margins, labels)
    return labels * np.logaddexp(0, -margins) + (1 - labels) * np.logaddexp(0, margins)


def brier_scores(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(p - y)^2 of each pair, the margins' shape: 0.25 for a margin of 0 (Brier 1950, one side of the pair)."""
    margins, labels = _checked(margins, labels)
    return (probability(margins) - labels) ** 2


def probability(margins: np.ndarray) -> np.ndarray:
    """Bradley-Terry's chance that the first answer is preferred, the margins' shape."""
    return np.exp(-np.logaddexp(0, -np.asarray(margins, np.float64)))


def best_of_other_half(right: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(M,) agreement of the best single member, chosen for each half of the clusters on the other half.

    A member that is best on the very rows it is measured on looks better than it is; chosen elsewhere it does not.

    right : (M, K) from `agreement`, without NaN; clusters : (M,), at least two of them
    """
    right = np.asarray(right, np.float64)
    second = halves(clusters)
    require(bool(second.any()), "clusters", 1, "at least two: one half chooses, the other measures")
    best = [right[~second].mean(0).argmax(), right[second].mean(0).argmax()]
    return np.where(second, right[:, best[0]], right[:, best[1]])


def difference(one: np.ndarray, other: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Mean of one minus other, (M,) each, paired row by row; t interval by clusters."""
    return mean_interval(np.asarray(one, np.float64) - np.asarray(other, np.float64), clusters)


def verdict(gap: Estimate, rival: str) -> str:
    """A difference in words, read off its interval: "better than", "worse than" or "not separated from" the rival."""
    if gap.low > 0:
        return f"better than {rival}"
    return f"worse than {rival}" if gap.high < 0 else f"not separated from {rival}"


def wrong_together(right: np.ndarray, clusters: np.ndarray) -> tuple[Estimate, float]:
    """Share of pairs on which every member is wrong, and what it would be if they erred apart: the product of their shares.

    right : (M, K) from `agreement`, without NaN; a tie is not wrong
    """
    wrong = np.asarray(right) == 0
    return share_interval(wrong.all(1), clusters), float(wrong.mean(0).prod())


def _checked(margins: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 margins (M,) or (M, K), and labels that broadcast over them."""
    margins, labels = np.asarray(margins, np.float64), np.asarray(labels, np.float64)
    fits = margins.ndim in (1, 2) and labels.shape == margins.shape[:1]
    require(fits, "labels' shape", labels.shape, f"one a pair, {margins.shape[:1]}")
    require(bool(np.isfinite(margins).all()), "margins", "NaN or infinity", "a score of every answer")
    inside = bool(((labels >= 0) & (labels <= 1)).all())
    require(inside, "labels", (labels.min(), labels.max()), "shares from 0 to 1")
    return margins, labels if margins.ndim == 1 else labels[:, None]
