"""Intervals and bands: how far a mean would move with other prompts and other replicates of the training.

`two_way_interval` is for replicates that are independent, everything random in training drawn anew for each, its
backbones too. A paired comparison subtracts first, per replicate and prompt.

`CrossedBootstrap` is for units that share label draws and pretraining seeds. One `CrossedBootstrap` is drawn and used for every curve of a comparison, so the difference of two curves is the
difference of two arrays, prompt by prompt and seed by seed: a paired bootstrap.

Letters: D replicates, U units (an ensemble or a single model each), P prompts, L points of a curve.
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


class CrossedBootstrap:
    """Bootstrap weights over prompts, label draws and pretraining seeds, drawn once.

    What the band covers: the prompts of the pool, the label draws and the pretraining seeds, each resampled
    as a whole and crossed (Owen 2007, the pigeonhole bootstrap, which errs on the wide side). Finetuning
    seeds are averaged inside their label draw and pretraining seed, and their noise is seen through those.

    What it does not cover: another policy, gold reward, world or recipe; the sampling of the N answers,
    which is small while the effective sample size times P is large; a factor with one level only, which
    stays fixed; and other pretraining seeds for an ensemble over all of them, whose weight no resample can
    change. With three label draws the percentiles are coarse: read such a band as the spread that was seen,
    not as an exact 95%.

    Each factor of size m draws m - 1 levels with replacement, which makes the bootstrap variance of a mean
    the unbiased s^2 / m (Rao and Wu 1988); drawing m would make it a third too small at m = 3.

    Parameters
    ----------
    prompts, draws, backbones : number of prompts, of label draws, of pretraining seeds; at least 1 each
    n_boot : number of bootstrap resamples
    seed : of the weights; the same sizes and seed give the same weights
    """

    def __init__(self, prompts: int, draws: int = 1, backbones: int = 1, n_boot: int = 1000, seed: int = 0):
        sizes = {"prompts": prompts, "draws": draws, "backbones": backbones, "n_boot": n_boot}
        for name, size in sizes.items():
            require(size >= 1, name, size, "at least 1")
        rng = np.random.default_rng(seed)
        self.prompts = _weights(rng, prompts, n_boot)  # (n_boot, P)
        self.draws = _weights(rng, draws, n_boot)
        self.backbones = _weights(rng, backbones, n_boot)

    def mean(
        self, curves: np.ndarray, unit_draw: Sequence[int], unit_backbones: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """The mean curve of a set of units under every resample.

        Parameters
        ----------
        curves : (U, P, L) one curve a unit and prompt, any unit of value
        unit_draw : (U,) the label draw each unit was trained on, 0 to draws - 1
        unit_backbones : for each unit the pretraining seeds its members use, one a member, 0 to
            backbones - 1: [[0], [1]] for two single models, [[0, 1, 2]] for an ensemble over three

        Returns
        -------
        (n_boot, L). A unit weighs its label draw's weight times the mean weight of its members' pretraining
        seeds. A resample in which no unit weighs anything is NaN, and `percentile_interval` leaves it out; where draws
        and seeds are crossed there is none.
        """
        curves, weights = self._units(curves, unit_draw, unit_backbones)
        U, P, L = curves.shape
        over_prompts = self.prompts @ curves.transpose(1, 0, 2).reshape(P, U * L)
        return np.einsum("bu,bul->bl", weights, over_prompts.reshape(-1, U, L))

    def _units(
        self, curves: np.ndarray, unit_draw: Sequence[int], unit_backbones: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The curves (U, P, L) and the units' weights (n_boot, U), rows summing to 1 or all NaN."""
        curves = np.asarray(curves, np.float64)
        P, D, S = self.prompts.shape[1], self.draws.shape[1], self.backbones.shape[1]
        require(curves.ndim == 3 and curves.shape[1] == P, "curves' shape", curves.shape, f"(U, {P}, L)")
        U = len(curves)
        draw = np.asarray(unit_draw)
        ok = draw.shape == (U,) and draw.min() >= 0 and draw.max() < D
        require(ok, "unit_draw", unit_draw, f"{U} of 0..{D - 1}")
        share, count = np.zeros((S, U)), len(unit_backbones)
        require(count == U, "unit_backbones' length", count, f"one list a unit, {U}")
        for u, seeds in enumerate(unit_backbones):
            ok = len(seeds) > 0 and min(seeds) >= 0 and max(seeds) < S
            require(ok, f"unit_backbones[{u}]", list(seeds), f"at least one pretraining seed of 0..{S - 1}")
            np.add.at(share[:, u], list(seeds), 1 / len(seeds))
        weights = self.draws[:, draw] * (self.backbones @ share)
        total = weights.sum(1, keepdims=True)
        return curves, np.divide(weights, total, out=np.full_like(weights, np.nan), where=total > 0)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the percentile interval of bootstrap samples (n_boot, ...), NaN resamples left out.

    Parameters
    ----------
    samples : from `CrossedBootstrap.mean`, or a difference of two such arrays of one `CrossedBootstrap`
    level : share of the samples inside, between 0 and 1

    Returns
    -------
    (low, high), each of shape (...)
    """
    require(0 < level < 1, "level", level, "a share between 0 and 1, such as 0.95")
    samples = np.asarray(samples)
    samples = samples[~np.isnan(samples.reshape(len(samples), -1)).any(1)]
    mend = "units whose label draws and pretraining seeds are crossed"
    require(len(samples) > 0, "samples", "all NaN", mend)
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def _weights(rng: np.random.Generator, size: int, n_boot: int) -> np.ndarray:
    """(n_boot, size), rows summing to 1; all ones for a factor of one level, which is not resampled."""
    if size == 1:
        return np.ones((n_boot, 1))
    return rng.multinomial(size - 1, np.full(size, 1 / size), n_boot) / (size - 1)


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
