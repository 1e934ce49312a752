"""Is a stated probability the share that comes true? Reliability, calibration error, and the temperature that mends it.

Which answer of a pair comes first says nothing, so a pair is turned until its probability is at least a half: a
confidence, held against the share of votes for the side that is favoured. Confidences fall into bins of equal mass.

Letters: M pairs, B bins.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import ncx2

from rmlab.measure.accuracy import log_losses, probability
from rmlab.measure.clusters import LEVEL, Estimate, covariance, share_interval
from rmlab.recipe import require

BINS = 10
FEWEST = 10  # pairs in a bin


def ece(margins: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean over pairs of abs(mean confidence - mean agreement) of their bin (Naeini et al. 2015).

    Noise alone makes it positive, the more so the fewer pairs: read `calibration_error` beside it.

    margins, labels : (M,), as in `rmlab.measure.accuracy`; bins : at most, of equal mass and no fewer than ten pairs
    """
    gap, codes = _gaps(margins, labels, bins)
    return float(np.abs(np.bincount(codes, gap)).sum() / len(gap))


def calibration_error(
    margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray, bins: int = BINS
) -> Estimate:
    """Root mean square calibration error over bins, debiased, with an interval by clusters.

    The debiased estimator of Kumar et al. (1909.10155, Section 4): sum_b w_b d_b^2 minus what noise adds to it, with
    d_b the mean confidence minus the mean agreement of bin b and w_b its share of the pairs. The noise is the trace of
    the covariance S of sqrt(w_b) d_b by clusters, which also holds for soft labels; a difference below 0 counts as 0.
    The interval inverts the noncentral chi-square whose first two moments are those of the sum (Satterthwaite's scale
    tr(S^2) / tr(S)), so it reaches 0 where noise explains all that is seen. Binning hides what varies inside a bin:
    the number is a lower bound on the error without bins (same paper, Section 3).

    margins, labels : as in `ece`; clusters : (M,)
    """
    total, S = _binned_squares(margins, labels, clusters, bins)
    trace, count = float(np.trace(S)), len(np.unique(clusters))
    if count < 2:  # nothing tells noise from error
        return Estimate(np.nan, np.nan, np.nan, count)
    value = float(np.sqrt(max(0.0, total - trace)))
    if trace == 0:
        return Estimate(value, value, value, count)
    scale = float((S**2).sum()) / trace
    low, high = (
        np.sqrt(scale * _noncentrality(total / scale, trace / scale, at))
        for at in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    return Estimate(value, float(low), float(max(high, value)), count)


def debiased_square(margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray, bins: int = BINS) -> float:
    """The square of `calibration_error` before a difference below 0 counts as 0: what replicates average without bias.

    Below 0 where noise alone would make more than is seen; NaN with one cluster. In single clusters it is high by the noise
    over the pairs of a bin, 1.5e-5 at 1,000 pairs. Arguments as in `calibration_error`.
    """
    total, S = _binned_squares(margins, labels, clusters, bins)
    return total - float(np.trace(S))


def reliability(
    margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray, bins: int = BINS
) -> pd.DataFrame:
    """What a reliability diagram shows: a row a bin, its mean confidence, and the share of votes for the favoured side.

    Returns
    -------
    columns confidence, agreement, low, high (95%, by clusters), pairs
    """
    gap, codes = _gaps(margins, labels, bins)
    confidence = _folded(margins, labels)[0]
    rows = []
    for code in range(codes.max() + 1):
        at = codes == code
        share = share_interval(np.clip(confidence[at] - gap[at], 0, 1), np.asarray(clusters)[at])
        rows.append((confidence[at].mean(), share.value, share.low, share.high, int(at.sum())))
    return pd.DataFrame(rows, columns=["confidence", "agreement", "low", "high", "pairs"])


def temperature(margins: np.ndarray, labels: np.ndarray) -> float:
    """The T, from 0.01 to 100, at which margins / T have the least log loss (Guo et al. 1706.04599, Section 4).

    1 for calibrated log odds, above 1 for over-confident ones, and 1 where all margins are 0, which none changes. It is
    fitted on these very pairs: a diagnosis, not a mend; `rmlab.measure.recalibrate` fits on others.
    """
    margins = np.asarray(margins, np.float64)
    if not margins.any():
        return 1.0
    ends = (np.log(0.01), np.log(100.0))
    fit = minimize_scalar(
        lambda log_t: log_losses(margins / np.exp(log_t), labels).mean(), bounds=ends, method="bounded"
    )
    return float(np.exp(fit.x))


def _folded(margins: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (M,) of at least a half, and the share of votes for the favoured side; half each at a margin of 0."""
    margins, labels = np.asarray(margins, np.float64), np.asarray(labels, np.float64)
    votes = np.where(margins > 0, labels, np.where(margins < 0, 1 - labels, 0.5))
    return probability(np.abs(margins)), votes


def _gaps(margins: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence minus votes of each pair (M,), and its bin 0..B-1; equal confidences share a bin."""
    confidence, votes = _folded(margins, labels)
    require(bins >= 1, "bins", bins, "at least 1")
    count = max(1, min(int(bins), len(confidence) // FEWEST))
    edges = np.quantile(confidence, np.arange(1, count) / count)
    _, codes = np.unique(np.searchsorted(edges, confidence, "right"), return_inverse=True)
    return confidence - votes, codes


def _binned_squares(
    margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray, bins: int
) -> tuple[float, np.ndarray]:
    """sum_b w_b d_b^2, and the covariance (B, B) of sqrt(w_b) d_b by clusters; NaN with one cluster."""
    gap, codes = _gaps(margins, labels, bins)
    sizes = np.bincount(codes)
    d = np.bincount(codes, gap) / sizes  # (B,)
    weight = np.sqrt(sizes / len(gap))
    inside = (
        np.eye(len(sizes))[codes] * (gap - d[codes])[:, None] * len(gap) / sizes
    )  # influence of d, (M, B)
    return float((weight * d) @ (weight * d)), covariance(inside * weight, clusters)


def _noncentrality(x: float, df: float, level: float) -> float:
    """The noncentrality at which x is the `level` quantile of the chi-square; 0 where it lies below that already."""
    if ncx2.cdf(x, df, 0.0) <= level:
        return 0.0
    top = (np.sqrt(x) + 10) ** 2  # at which x is far in the lower tail
    return float(brentq(lambda nc: ncx2.cdf(x, df, nc) - level, 0.0, top))
