"""A budget in place of an alarm: stop where the runs of other replicates were best on average, whatever this one shows.

What an alarm has to beat. It needs gold of other runs, as the thresholds of `alarms.py` do, and of this run nothing.

Letters: U runs, P prompts, L points of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmlab.measure.alarms import by_replicate
from rmlab.recipe import require


def budgets(gold: np.ndarray, replicates: Sequence[int]) -> np.ndarray:
    """The point at which to stop each run: where mean gold of the other replicates' runs is highest, (U,) integers.

    gold : (U, L) mean gold of runs of one setting at the same L points; replicates : (U,) whose they are. Replicates count
    alike, however many runs they have; of equal points the first.

    Raises
    ------
    ValueError : shapes that differ, NaN, or one replicate alone, which has no others
    """
    gold, replicates = np.asarray(gold, np.float64), np.asarray(replicates)
    fit = gold.ndim == 2 and replicates.shape == gold.shape[:1]
    require(fit, "shapes of gold and replicates", (gold.shape, replicates.shape), "(U, L) and (U,)")
    require(not np.isnan(gold).any(), "gold", "NaN", "a number at every point")
    names = np.unique(replicates)
    require(len(names) > 1, "replicates", names.tolist(), "at least two: a budget comes from the others")
    means = np.stack([gold[replicates == r].mean(0) for r in names])
    return np.array([int(means[names != r].mean(0).argmax()) for r in replicates])


def budget_saves(gold: np.ndarray, replicates: Sequence[int]) -> tuple[float, float, float]:
    """Gold that stopping by `budgets` saves, above that of the run's end: mean, low and high of a 95% interval.

    The interval is that of `saved` in `alarms.verdict`: over replicates, and over prompts where gold has them; errors as in
    `budgets`, which sees gold averaged over prompts.

    gold : (U, L), or (U, P, L) of P prompts; replicates : (U,)
    """
    gold = np.asarray(gold, np.float64)
    require(gold.ndim in (2, 3), "shape of gold", gold.shape, "(U, L) or (U, P, L)")
    by_prompt = gold.reshape(len(gold), -1, gold.shape[-1])  # (U, P, L), P = 1 where there are none
    stops = budgets(by_prompt.mean(1), replicates)
    kept = np.stack([run[:, at] - run[:, -1] for run, at in zip(by_prompt, stops, strict=True)])
    return by_replicate(kept, np.asarray(replicates))
