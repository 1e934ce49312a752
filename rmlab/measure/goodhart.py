"""Regressional or extremal: does gold follow the proxy to the top, and are the errors' tails heavy?

Gao et al. (2210.10760, Section 4.2 and Eq. 1): where a proxy is truth plus independent light-tailed noise, E[gold | proxy]
is a line, and choosing by the proxy only shrinks the gain (regressional Goodhart). Where the line bends down among the
answers of the highest proxy, the choice itself changes what the proxy means (extremal Goodhart). With errors of heavy tails
the best answers by the proxy are the largest errors, and no pressure is safe (2407.14503).

Letters: D replicates, P prompts, N answers a prompt, R errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from rmlab.measure.intervals import Interval, two_way_interval
from rmlab.recipe import require

TOP = 64  # answers a prompt: the ones that optimisation reaches
TAIL = 0.01  # of the errors


class Slopes(NamedTuple):
    """Slopes of gold on the proxy, gold units a unit of the proxy: among the top, among the others, and top minus body."""

    body: Interval
    top: Interval
    difference: Interval


def moments(
    proxy: np.ndarray, gold: np.ndarray, ended: np.ndarray, top: int = TOP
) -> tuple[np.ndarray, np.ndarray]:
    """Sums that slopes are made of, each prompt's mean taken off: proxy times gold, and proxy squared.

    Both variables are centred within the prompt and the part. Choosing by the proxy leaves a slope on the proxy as it is.

    Parameters
    ----------
    proxy, gold : (P, N), any units; ended : (P, N) bool, False leaves an answer out
    top : answers of the highest proxy a prompt; a prompt with fewer than four times as many gives a quarter of what it has

    Returns
    -------
    (P, 2) twice, the body first, then the top, divided by the part's answers; 0 where a part has fewer than 2.
    """
    fits = proxy.ndim == 2 and proxy.shape == gold.shape == ended.shape
    require(fits, "proxy's shape", proxy.shape, f"(P, N) as gold's {gold.shape} and ended's {ended.shape}")
    crossed, squared = np.zeros((len(proxy), 2)), np.zeros((len(proxy), 2))
    for p, (x, y, keep) in enumerate(zip(proxy, gold, ended, strict=True)):
        x, y = x[keep].astype(np.float64), y[keep].astype(np.float64)
        split = len(x) - min(top, len(x) // 4)
        order = np.argpartition(x, split - 1) if 0 < split < len(x) else np.arange(len(x))
        for i, part in enumerate((order[:split], order[split:])):
            if len(part) > 1:
                apart = x[part] - x[part].mean()
                crossed[p, i], squared[p, i] = (apart * y[part]).mean(), np.square(apart).mean()
    return crossed, squared


def slopes(crossed: np.ndarray, squared: np.ndarray) -> Slopes:
    """Slopes over all replicates and prompts with 95% intervals, from `moments` (D, P, 2) twice.

    A ratio of means; its interval is that of the linearised ratio, over replicates and prompts both.
    """
    crossed, squared = np.asarray(crossed, np.float64), np.asarray(squared, np.float64)
    scale = squared.mean((0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = crossed.mean((0, 1)) / scale
        cells = slope + (crossed - slope * squared) / scale  # (D, P, 2), of mean slope
    if not np.isfinite(cells).all():
        nan = Interval(*[np.float64(np.nan)] * 5)
        return Slopes(nan, nan, nan)
    body, top = (two_way_interval(cells[..., i]) for i in (0, 1))
    return Slopes(body, top, two_way_interval(cells[..., 1] - cells[..., 0]))


def hill(errors: np.ndarray, share: float = TAIL) -> float:
    """Hill's (1975) tail index of the largest errors: how fast P(error > x) falls, as a power of x.

    One over the mean of log(error / threshold) over the share of largest errors. Heavy tails have a small index, 2 or less
    an infinite variance; tails lighter than any power have none, and give a number that grows as the share falls:
    compare with `gaussian_hill` of the same share.

    Parameters
    ----------
    errors : (R,) around 0, any unit; proxy above truth is positive
    share : of the errors that count as the tail, above 0 and below 1/2

    Returns
    -------
    The index; NaN where the tail has fewer than 10 errors or its threshold is not above 0
    """
    require(0 < share < 0.5, "share", share, "a number above 0 and below 0.5")
    ranked = np.sort(np.asarray(errors, np.float64).ravel())
    k = int(share * len(ranked))
    if k < 10 or ranked[-k - 1] <= 0:
        return float("nan")
    mean = np.log(ranked[-k:] / ranked[-k - 1]).mean()
    return float(1 / mean) if mean > 0 else float("inf")


def gaussian_hill(share: float = TAIL) -> float:
    """What `hill` tends to for normal errors of mean 0: 1 / E[log(x / q) | x > q], q the normal's quantile of 1 - share."""
    q = norm.isf(share)
    mean = quad(lambda x: np.log(x / q) * norm.pdf(x), q, np.inf)[0] / share
    return float(1 / mean)
