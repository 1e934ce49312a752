"""Intervals: how far a mean would move with other prompts and other replicates of the training.

`two_way_interval` is for replicates that are independent, everything random in training drawn anew for each, its
backbones too. A paired comparison subtracts first, per replicate and prompt.

Letters: D replicates, P prompts, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from rmlab.recipe import require


class Interval(NamedTuple):
    """A mean and its t interval; arrays of one shape (...), or floats where that is ().

    `se` is the standard error of the mean in its unit and `df` its degrees of freedom: low and high are
    mean -/+ t(df) se.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray
    df: np.ndarray


def two_way_interval(x: np.ndarray, level: float = 0.95) -> Interval:
    """The t interval of a mean over replicates and prompts, both random and crossed.

    The variance of the mean is that of the two-way random-effects model with one value a cell (Searle, Casella and
    McCulloch 1992, Variance Components): from the mean squares of replicates R, of prompts Q and of the residuals E
    of the additive model, V = max(R + Q - E, E) / (D P). Its degrees of freedom are Satterthwaite's (1946),
    (R + Q - E)^2 / (R^2 / (D - 1) + Q^2 / (P - 1) + E^2 / ((D - 1) (P - 1))), at least 1, with one correction: in
    this quotient alone R counts (D + 1) / (D - 1) fold and Q (P + 1) / (P - 1) fold. Without it a small R, by chance,
    gives the interval the prompts' degrees of freedom just when V is too small, and three replicates cover 92%.

    Simulated coverage of 95% at P = 20 and 200, from no spread of replicates to one of 8 / sqrt(P) times the residual
    noise: .93 to .97 for D = 3, 5 and 10 where prompts differ by as much as the noise; up to .99 (too wide, never
    too narrow) where neither prompts nor replicates have an effect of their own; .91 or more for D = 2.

    What it does not cover is what all replicates share: one policy, gold reward, world and recipe.

    Parameters
    ----------
    x : (D, P, ...) a value a replicate and prompt, any unit, no NaN. A paired comparison is the interval of x - y,
        with the same replicates and prompts in both. D = 1: the replicate stays fixed, and this is Student's
        interval over prompts alone. P = 1: Student's over replicates alone. One of the two must be 2 or more.
    level : the interval's, between 0 and 1

    Returns
    -------
    Interval, arrays (...). Where all values are equal, se is 0 and low and high are the mean.
    """
    require(0 < level < 1, "level", level, "a share between 0 and 1, such as 0.95")
    x = np.asarray(x, np.float64)
    ok = x.ndim >= 2 and min(x.shape[:2]) > 0 and max(x.shape[:2]) > 1
    require(ok, "x's shape", x.shape, "(replicates, prompts, ...) with at least two of one of them")
    bad = int((~np.isfinite(x)).sum())
    require(bad == 0, "x", f"{bad} values NaN or infinite", "a finite value for every replicate and prompt")
    D, P = x.shape[:2]
    mean = x.mean((0, 1))
    variance, df = _two_way_variance(x, mean) if min(D, P) > 1 else _one_way_variance(x)
    rounding = (1e-14 * np.abs(x).max((0, 1))) ** 2
    still = variance <= rounding
    se = np.sqrt(np.where(still, 0.0, variance))
    df = np.where(still, max(min(D, P) - 1, 1), df)
    half = student.ppf((1 + level) / 2, df) * se
    return Interval(mean, mean - half, mean + half, se, df[()])


def mean_interval(x: np.ndarray, level: float = 0.95) -> Interval:
    """`two_way_interval` where one can be had, and a mean without ends where not.

    x : (D, P, ...), any unit. One value, D and P of 1: that value, its ends NaN. No value, or nothing but NaN: NaN
    throughout. Values of which some alone are NaN are an error, as in `two_way_interval`.
    """
    x = np.asarray(x, np.float64)
    if x.size and max(x.shape[:2]) > 1 and not np.isnan(x).all():
        return two_way_interval(x, level)
    missing = np.full(x.shape[2:], np.nan)[()]
    return Interval(x[0, 0] if x.shape[:2] == (1, 1) else missing, *[missing] * 4)


def columns_of(name: str, interval: Interval, stem: str | None = None) -> dict[str, np.ndarray]:
    """An interval as columns of a table, {name, name_low, name_high}; with a stem {name, <stem>low, <stem>high}."""
    stem = f"{name}_" if stem is None else stem
    return {name: interval.mean, f"{stem}low": interval.low, f"{stem}high": interval.high}


def _two_way_variance(x: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the mean (...) and its degrees of freedom, of x (D, P, ...) with D and P of 2 or more."""
    D, P = x.shape[:2]
    replicate, prompt = x.mean(1), x.mean(0)
    residual = x - replicate[:, None] - prompt[None] + mean
    R, Q = P * replicate.var(0, ddof=1), D * prompt.var(0, ddof=1)
    E = np.square(residual).sum((0, 1)) / ((D - 1) * (P - 1))
    variance = np.maximum(R + Q - E, E) / (D * P)
    R, Q = R * (D + 1) / (D - 1), Q * (P + 1) / (P - 1)
    below = R**2 / (D - 1) + Q**2 / (P - 1) + E**2 / ((D - 1) * (P - 1))
    above = np.maximum(R + Q - E, E) ** 2
    df = np.divide(above, below, out=np.ones_like(above), where=below > 0)
    return variance, np.maximum(df, 1.0)


def _one_way_variance(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_two_way_variance`, of x (1, P, ...) or (D, 1, ...): only the other factor is random."""
    values = x[0] if len(x) == 1 else x[:, 0]
    variance = values.var(0, ddof=1) / len(values)
    return variance, np.full(np.shape(variance), len(values) - 1.0)


def clustered_share(
    correct: np.ndarray, groups: Sequence[str], level: float = 0.95
) -> tuple[float, float, float]:
    """A share of pairs and its interval, where pairs of one group are not independent.

    Wilson's interval at the number of independent pairs that has the variance of the share when groups are
    left out one at a time (the jackknife), with Student's t for as many groups of equal size as these are worth
    (Kish). Where no group moves the share, as when all are right, each group counts once.

    Parameters
    ----------
    correct : (M,) from 0 to 1
    groups : (M,) what each pair belongs to, such as its prompt
    level : the interval's, between 0 and 1

    Returns
    -------
    (share, low, high); low and high are NaN for a single group
    """
    require(0 < level < 1, "level", level, "a share between 0 and 1, such as 0.95")
    correct = np.asarray(correct, np.float64)
    M = len(correct)
    require(M > 0 and len(groups) == M, "pairs and their groups", (M, len(groups)), "as many of both")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    right, size = np.bincount(index, correct), np.bincount(index)  # (G,)
    G, share = len(size), float(correct.mean())
    if G == 1:
        return share, float("nan"), float("nan")
    without = (right.sum() - right) / (M - size)
    variance = (G - 1) / G * np.square(without - without.mean()).sum()
    n = min(share * (1 - share) / variance, M) if variance > 1e-12 else G
    n = max(n, 1.0)
    freedom = max(M**2 / np.square(size).sum() - 1, 1.0)
    z = float(student.ppf((1 + level) / 2, freedom))
    centre, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, float((centre - half) / (1 + z**2 / n)), float((centre + half) / (1 + z**2 / n))
