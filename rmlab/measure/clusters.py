"""Intervals by clusters: how far a mean would move with other prompts, or other groups of prompts.

Rows of one cluster (a prompt, a topic, an annotator) stand or fall together, so a cluster counts once. A mean over rows
has the cluster-robust variance in its bias-reduced form, CR2, and Satterthwaite's degrees of freedom under independent
rows (Bell and McCaffrey 2002; Imbens and Kolesar 2016, Section 4); with clusters of one size these are the variance of
the cluster means and C - 1.

Letters: R rows, C clusters, V columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from rmlab.recipe import require

LEVEL = 0.95


class Estimate(NamedTuple):
    """A number, the ends of its 95% interval (NaN where one cluster or none stands behind it), and the clusters."""

    value: float
    low: float
    high: float
    clusters: int


def mean_interval(x: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The mean over rows and its t interval by clusters.

    Parameters
    ----------
    x : (R,) finite, any unit; for a paired comparison the differences, row by row
    clusters : (R,) whole numbers of 0 or more, one a cluster
    """
    x, clusters = _rows(x, clusters)
    value = float(x.mean())
    half = half_width(x - value, clusters)
    return Estimate(value, value - half, value + half, len(np.unique(clusters)))


def share_interval(x: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The mean of rows between 0 and 1 and its interval, which stays inside [0, 1] and has a width at 0 and 1 too.

    Wilson's interval with the effective number of rows p (1 - p) / V in place of R, at most R, and t in place of z
    (Dean and Pagano 2015; V as in `mean_interval`). Where all rows are 0, or all 1, the clusters are that number.
    """
    x, clusters = _rows(x, clusters)
    require(bool((x >= 0).all() and (x <= 1).all()), "x", (x.min(), x.max()), "shares from 0 to 1")
    p, C = float(x.mean()), len(np.unique(clusters))
    if C < 2:
        return Estimate(p, np.nan, np.nan, C)
    error, df = standard_error(x - p, clusters)
    sure = p in (0.0, 1.0)
    n = C if sure else min(len(x), p * (1 - p) / error**2 if error > 0 else np.inf)
    t2 = float(student.ppf((1 + LEVEL) / 2, C - 1 if sure else df)) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = np.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n**2))) / (1 + t2 / n)
    return Estimate(p, float(max(0.0, centre - half)), float(min(1.0, centre + half)), C)


def half_width(influence: np.ndarray, clusters: np.ndarray) -> float:
    """Half the width of a t interval: t(.975, df) times the standard error; NaN with one cluster.

    influence, clusters : as in `standard_error`
    """
    error, df = standard_error(influence, clusters)
    return float(student.ppf((1 + LEVEL) / 2, df)) * error


def standard_error(influence: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom of an estimate that is, to first order, a mean over rows.

    Parameters
    ----------
    influence : (R,) each row's share in the estimate, of mean 0: x - mean(x) for a mean
    clusters : (R,) whole numbers of 0 or more

    Returns
    -------
    (error, df): error in the estimate's unit, df from 1 to C - 1; both NaN with one cluster
    """
    influence, clusters = _rows(influence, clusters)
    sizes = np.bincount(clusters)
    share = sizes[sizes > 0] / len(influence)  # (C,)
    if len(share) < 2:
        return np.nan, np.nan
    sums = np.bincount(clusters, influence)[sizes > 0]
    error = np.sqrt((sums**2 / (1 - share)).sum()) / len(influence)
    a = share**2 / (1 - share)  # tr(V)^2 / tr(V^2) of the C terms of the variance, in closed form
    return float(error), float(1 / ((share**2).sum() + a.sum() ** 2 - (a**2).sum()))


def covariance(influence: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Covariance (V, V) of V estimates from their influences (R, V), by clusters, times C / (C - 1)."""
    influence, clusters = np.asarray(influence, np.float64), np.asarray(clusters)
    used, codes = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(used), influence.shape[1]))
    np.add.at(sums, codes, influence)
    C = len(used)
    return (sums.T @ sums) * (C / (C - 1) if C > 1 else np.nan) / len(influence) ** 2


def halves(clusters: np.ndarray) -> np.ndarray:
    """(R,) bool: every second cluster, whole. What one half chooses, such as a best member, the other half measures."""
    _, codes = np.unique(clusters, return_inverse=True)
    return codes % 2 == 1


def _rows(x: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, clusters = np.asarray(x, np.float64), np.asarray(clusters)
    require(x.ndim == 1 and len(x) > 0, "x's shape", x.shape, "rows (R,), at least one")
    require(clusters.shape == x.shape, "clusters' shape", clusters.shape, f"one number a row, {x.shape}")
    require(bool(np.isfinite(x).all()), "x", "NaN or infinity", "finite rows: leave out what has no value")
    return x, clusters
