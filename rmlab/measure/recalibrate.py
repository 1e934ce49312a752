"""Recalibration: log odds that say what comes true, fitted on one half of the pairs and read on the other.

A map takes margins to log odds, odd in the margin, as turning a pair round turns its margin. It never falls, so it
leaves the preferred answer of a pair preferred, and best-of-n of one score its winner: after dividing by a temperature
each other answer still has less, and under isotonic regression, which has steps, no more than that. What changes is
how sure one is.

Letters: M pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rmlab.measure.calibration import temperature
from rmlab.measure.clusters import halves
from rmlab.recipe import require

Map = Callable[[np.ndarray], np.ndarray]  # margins (...) to log odds (...)
HALF = 0.5 + 1e-9  # a chance below it is a half and rounding


def by_temperature(margins: np.ndarray, labels: np.ndarray) -> Map:
    """Margins divided by the temperature of these pairs (Guo et al. 1706.04599, Section 4.2).

    margins, labels : (M,), as in `rmlab.measure.accuracy`
    """
    heat = temperature(margins, labels)
    return lambda x: np.asarray(x, np.float64) / heat


def by_isotonic(margins: np.ndarray, labels: np.ndarray) -> Map:
    """Isotonic regression of labels on margins (Zadrozny and Elkan 2002), straight between points, level beyond.

    Each pair counts both ways round, which makes the map odd. A chance is at most 1 - 1 / (M + 2), Laplace's rule: M
    pairs without an exception do not make one impossible.

    margins, labels : (M,), as in `rmlab.measure.accuracy`
    """
    from sklearn.isotonic import IsotonicRegression

    margins, labels = np.asarray(margins, np.float64), np.asarray(labels, np.float64)
    fit = IsotonicRegression(out_of_bounds="clip")
    fit.fit(np.concatenate([margins, -margins]), np.concatenate([labels, 1 - labels]))
    most = 1 - 1 / (len(margins) + 2)

    def log_odds(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        chance = fit.predict(np.abs(x).ravel()).reshape(x.shape)
        chance = np.where(chance < HALF, 0.5, np.minimum(chance, most))
        return np.sign(x) * np.log(chance / (1 - chance))

    return log_odds


def cross_fitted(
    fit: Callable[[np.ndarray, np.ndarray], Map],
    margins: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
) -> np.ndarray:
    """Log odds of every pair, (M,), by the map that the other half of the clusters fitted.

    fit : `by_temperature` or `by_isotonic`; margins, labels, clusters : (M,), two clusters or more
    """
    margins, labels = np.asarray(margins, np.float64), np.asarray(labels, np.float64)
    second = halves(clusters)
    require(bool(second.any()), "clusters", 1, "at least two: one half fits, the other is read")
    out = np.empty(len(margins))
    for read in (second, ~second):
        out[read] = fit(margins[~read], labels[~read])(margins[read])
    return out
