"""Means over what best-of-n keeps: of one score's winners that ended, of an ensemble's instances, with their intervals.

An answer that never ended cannot win but where nothing else was drawn. Such winners are left out here: every number is
a mean over winners that ended, so that at n = 1 it is the mean over the answers that did.

Letters: P prompts, N answers a prompt, K members, D replicates, V values of an answer, L values of n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmlab.measure.ensembles import EnsembleResult
from rmlab.measure.errors import errors
from rmlab.measure.intervals import Interval, mean_interval
from rmlab.optimise.best_of_n import best_of_n
from rmlab.recipe import require

INSTANCES = 3  # of an ensemble on a replicate: pretraining seeds have thirty, which share their members


def winner_means(score: np.ndarray, values: np.ndarray, ns: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Expected values of the answer that best-of-n keeps, given that it ended; exact, by `best_of_n`.

    Parameters
    ----------
    score : (P, N) what chooses, any unit, finite
    values : (P, N, V) what an answer is worth, any units; not read where it never ended
    ns : (L,) numbers of answers drawn, 1 to N
    ended : (P, N) bool

    Returns
    -------
    (P, L, V) in the values' units; NaN for a prompt without an answer that ended
    """
    score, values, ended = np.asarray(score), np.asarray(values, np.float64), np.asarray(ended)
    fits = values.ndim == 3 and values.shape[:2] == score.shape == ended.shape and ended.dtype == bool
    require(
        fits,
        "values' shape",
        values.shape,
        f"(P, N, V) over the score's {score.shape}, and ended bool (P, N)",
    )
    there = ended[..., None]
    table = np.concatenate([np.where(there, values, 0.0), there], -1)
    best = best_of_n(np.where(ended, score, -np.inf), table, ns)
    with np.errstate(invalid="ignore"):
        return best[..., :-1] / best[..., -1:]


def member_errors(pool: np.ndarray, gold: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """What gold does not explain of scores, within prompts: `rmlab.measure.errors.errors` on the answers that ended.

    Parameters
    ----------
    pool : (P, N, K) scores, any unit; gold : (P, N); ended : (P, N) bool

    Returns
    -------
    (P, N, K) float64 in the scores' units, of mean 0 over a prompt's answers that ended; 0 for those that did not
    """
    left = np.zeros(pool.shape)
    left[ended] = errors(pool[ended], gold[ended], np.nonzero(ended)[0])
    return left


def centred(values: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Values (P, N) without each prompt's mean over the answers that ended, float64; 0 for those that did not."""
    values = np.where(ended, np.asarray(values, np.float64), 0.0)
    means = values.sum(1, keepdims=True) / np.maximum(ended.sum(1, keepdims=True), 1)
    return np.where(ended, values - means, 0.0)


def some_instances(group: Sequence[EnsembleResult], most: int = INSTANCES) -> dict[int, list[EnsembleResult]]:
    """An ensemble's instances by replicate, at most so many of each, as far apart in their order as they can be."""
    by_replicate: dict[int, list[EnsembleResult]] = {}
    for e in group:
        by_replicate.setdefault(e.replicate, []).append(e)
    return {
        replicate: [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
        for replicate, rows in by_replicate.items()
    }


def interval(x: np.ndarray) -> Interval:
    """The two-way 95% interval of values (D, P, L), prompts left out where a replicate has NaN: arrays (L,).

    NaN where no prompt is left; the mean alone where one replicate and one prompt are.
    """
    x = np.asarray(x, np.float64)
    columns = []
    for values in np.moveaxis(x, -1, 0):  # (D, P)
        columns.append(mean_interval(values[:, np.isfinite(values).all(0)]))
    return Interval(*(np.array(column, np.float64) for column in zip(*columns, strict=True)))


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
    """The interval of mean(above) / mean(below), both (D, P, L), by the delta method: arrays (L,).

    NaN where the mean below is no more than rounding. Fit where that mean is several of its standard errors from 0.
    """
    high, low = interval(above).mean, interval(below).mean
    apart = np.abs(low) > 1e-9
    low = np.where(apart, low, np.nan)
    ratio = high / low
    return interval(ratio + (above - ratio * below) / low)
