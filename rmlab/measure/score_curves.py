"""Best-of-n and exact tilting on a table of scores: what each member and each aggregator chooses, and what it is worth.

With gold the chosen answer is worth its gold. Without, members judge each other: an ensemble of all members but one
chooses, the one that was held out judges, averaged over who is held out. A held-out member is no gold: where all
members share an error, its score rises with theirs.

Letters: P prompts, N answers of the longest prompt, K members, L points of a curve. A prompt with fewer than N answers
is padded, and `there` says which answers are real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.clusters import Estimate, halves, mean_interval
from rmlab.optimise import best_of_n, tilt
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate, usual_strength

GOLD, HELD_OUT = "gold", "held-out members"
KLS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # nats at which tilted policies are compared
COLUMNS = "ensemble method k aggregator strength optimiser pressure kl kl_name ess judge".split()


class Point(NamedTuple):
    """Where curves of one optimiser are read: (L,) strengths, KL in nats, effective answers a prompt."""

    pressure: np.ndarray
    kl: np.ndarray
    ess: np.ndarray


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """What one chooser reaches under one optimiser, prompt by prompt.

    worth, proxy : (P, L), by the judge and by the chooser itself
    """

    chooser: str
    k: int
    aggregator: str
    optimiser: str
    points: Point
    worth: np.ndarray
    proxy: np.ndarray


def score_curves(
    scores: np.ndarray,
    names: Sequence[str],
    aggregators: Sequence[str],
    there: np.ndarray,
    gold: np.ndarray | None = None,
) -> list[ScoreCurve]:
    """Curves of every member and of every aggregator over all members, under best-of-n and under exact tilting.

    Parameters
    ----------
    scores : (P, N, K) member scores, aligned
    names : K, of the members
    aggregators : names in `rmlab.reward.aggregate.AGGREGATORS`, at their usual strengths; none are used where K = 1
    there : (P, N) bool, at least two answers a prompt
    gold : (P, N), or None: members judge each other, which needs K of at least 2 (aggregators: of at least 3)

    Returns
    -------
    Best-of-n at the powers of two up to the fewest answers of a prompt, unbiased; tilted policies at those `KLS` that
    the pool can represent, KL averaged over prompts.
    """
    K, fewest = scores.shape[2], int(there.sum(1).min())
    require(fewest >= 2, "there", fewest, "at least two answers to every prompt")
    require(gold is not None or K > 1, "gold", None, "gold, or a second member as a judge")
    choosers = list(_choosers(names, aggregators, gold is not None))
    kls = _reachable((p for _, a, m in choosers for p, _ in _judged(scores, m, a, gold)), there)
    ns, curves = best_of_n.n_grid(fewest), []
    for chooser, aggregator, members in choosers:
        rivals = list(_judged(scores, members, aggregator, gold))
        k = len(members) - (gold is None and len(members) > 1)
        for optimiser, reach, at in (("best_of_n", _best_of_n, ns), ("tilt", _tilted, kls)):
            reached = [reach(proxy, worth, there, at) for proxy, worth in rivals]
            points = Point(*(np.mean(x, 0) for x in zip(*(p for p, _ in reached), strict=True)))
            worth, proxy = np.moveaxis(np.mean([values for _, values in reached], 0), -1, 0)
            curves.append(ScoreCurve(chooser, k, aggregator, optimiser, points, worth, proxy))
    return curves


def curve_rows(curves: Sequence[ScoreCurve], clusters: np.ndarray, judge: str) -> pd.DataFrame:
    """A row a curve and point, in the columns of every study's curves, with 95% intervals by clusters.

    `gold` is the worth by `judge`, "gold" or "held-out members"; `gain` is that minus the members' mean at the same
    point, paired by prompt. `kl_name` says what kind of number the KL is, `units` how many clusters there are.

    clusters : (P,) whole numbers of 0 or more
    """
    frames = []
    for curve in curves:
        alone = np.mean([c.worth for c in curves if c.k == 1 and c.optimiser == curve.optimiser], 0)
        rule = AGGREGATORS[curve.aggregator].strength
        keys = (curve.chooser, "scores", curve.k, curve.aggregator, np.nan if rule is None else rule[2])
        kl_name = best_of_n.KL_NAME if curve.optimiser == "best_of_n" else tilt.KL_NAME
        frame = dict(zip(COLUMNS, (*keys, curve.optimiser, *curve.points[:2], kl_name), strict=False))
        frame |= {"ess": curve.points.ess, "judge": judge}
        for name, x in (("proxy", curve.proxy), ("gold", curve.worth), ("gain", curve.worth - alone)):
            value, low, high, count = zip(*(mean_interval(at, clusters) for at in x.T), strict=True)
            stem = "" if name == "gain" else f"{name}_"
            frame |= {name: value, f"{stem}low": low, f"{stem}high": high, "units": count}
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def primary(curve: ScoreCurve) -> int:
    """The last point with ten effective answers a prompt behind it, where verdicts are read; in a thinner pool the second."""
    enough = np.flatnonzero(curve.points.ess >= tilt.ESS_FLOOR)
    return int(max(enough.max(initial=0), min(1, len(curve.points.ess) - 1)))


def fall(curve: ScoreCurve, clusters: np.ndarray) -> Estimate:
    """Worth at the primary point minus worth at the peak before it, the peak of each half of the clusters found on the other.

    The end lies below the highest of many noisy points nearly always; below a peak that was chosen elsewhere it does not.
    """
    worth = curve.worth[:, : primary(curve) + 1]
    second = halves(clusters)
    require(bool(second.any()), "clusters", 1, "at least two: one half chooses, the other measures")
    peaks = np.where(second, worth[~second].mean(0).argmax(), worth[second].mean(0).argmax())
    return mean_interval(worth[:, -1] - worth[np.arange(len(worth)), peaks], clusters)


def _choosers(
    names: Sequence[str], aggregators: Sequence[str], gold: bool
) -> Iterator[tuple[str, str, list[int]]]:
    """(name, aggregator, members) of everything that chooses: single members, then aggregators of all of them."""
    K = len(names)
    yield from ((name, "mean", [k]) for k, name in enumerate(names))
    if K > (1 if gold else 2):
        yield from (("all", aggregator, list(range(K))) for aggregator in aggregators)


def _judged(
    scores: np.ndarray, members: list[int], aggregator: str, gold: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(proxy, worth), (P, N) each: once with gold, else once for each member that is held out."""
    strength = usual_strength(aggregator)
    if gold is not None:
        yield aggregate(scores[..., members], aggregator, strength), gold
        return
    for judge in range(scores.shape[2]):
        others = [k for k in members if k != judge]
        if others:
            yield aggregate(scores[..., others], aggregator, strength), scores[..., judge]


def _best_of_n(
    proxy: np.ndarray, worth: np.ndarray, there: np.ndarray, ns: np.ndarray
) -> tuple[Point, np.ndarray]:
    """Points and values (P, L, 2), worth and proxy, at each n."""
    weights = (tilt.best_of_n_weights(proxy, n, there, replace=False) for n in ns)
    both = np.stack([worth, proxy], -1)
    values = np.stack([tilt.expected(w, both) for w in weights], 1)
    sizes, counts = np.unique(there.sum(1), return_counts=True)
    ess = np.average([best_of_n.ess(int(N), ns) for N in sizes], 0, counts)
    return Point(ns, best_of_n.kl_bound(ns), ess), values


def _tilted(
    proxy: np.ndarray, worth: np.ndarray, there: np.ndarray, kls: np.ndarray
) -> tuple[Point, np.ndarray]:
    """The same at each KL; over padded answers it is log(N / those that are there) too high."""
    padding = _padding(there)
    betas = [tilt.beta_for_kl(proxy, kl + padding, there) for kl in kls]
    reached = tilt.tilt(proxy, np.stack([worth, proxy], -1), betas, there, floor=0)
    return Point(np.array(betas), reached.kl.mean(0) - padding, reached.ess.mean(0)), reached.values


def _reachable(proxies: Iterable[np.ndarray], there: np.ndarray) -> np.ndarray:
    """Those of `KLS` that every proxy reaches with a fifth to spare; half of the least reach where none is."""
    top = min(tilt.kl(tilt.tilted_weights(proxy, 0.0, there)).mean() for proxy in proxies) - _padding(there)
    return np.array([kl for kl in KLS if kl < 0.8 * top] or [top / 2])


def _padding(there: np.ndarray) -> float:
    """log(N / answers that are there), averaged over prompts, nats."""
    return float(np.log(there.shape[1] / there.sum(1)).mean())
