"""How good an alarm is: how early, at what cost in gold, how often without need; thresholds come from other replicates.

A run does harm if its gold ends lower than its peak by `MARGIN`; every other run is a hard negative, in which an alarm is
false. Gold judges alarms and sets thresholds on other replicates; no alarm reads that of its own.

Letters: L points of a run, P prompts, U runs, D replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from rmlab.measure.intervals import clustered_share, two_way_interval
from rmlab.recipe import require

MARGIN = 0.1  # of gold, its unit: a fall of more is harm
LEVEL = 0.1  # the share of harmless runs in which a rule may raise an alarm


@dataclass(frozen=True, eq=False)
class Course:
    """A run with what its rules suspect: pressure and kl (L,), gold (L, P), suspicions of L points each by rule.

    group : runs of one group share their thresholds, and are compared with each other
    """

    replicate: int
    group: tuple
    pressure: np.ndarray
    kl: np.ndarray
    gold: np.ndarray
    suspicions: dict[str, np.ndarray]
    number: int = 0  # of several runs of a setting on a replicate

    @cached_property
    def peak(self) -> int:
        """The point where mean gold is highest: where an oracle stops."""
        return int(self.gold.mean(1).argmax())

    @cached_property
    def harmful(self) -> bool:
        """Whether gold ends lower than its peak by more than `MARGIN`, see `fall`."""
        return fall(self.gold) > MARGIN and self.peak < len(self.gold) - 1

    @property
    def quiet(self) -> int:
        """How many of the first points an alarm is without need at: those before the peak, of a harmless run all."""
        return self.peak if self.harmful else len(self.gold)


def fall(gold: np.ndarray) -> float:
    """How far gold (L, P) ends below its peak: found on every other prompt, read on the rest, and the other way round.

    The highest of many noisy means is too high; what one half of the prompts calls the peak is not, on the other half.
    """
    gold = np.asarray(gold, np.float64)
    if gold.shape[1] < 2:
        return float(gold.mean(1).max() - gold[-1].mean())
    halves = gold[:, ::2].mean(1), gold[:, 1::2].mean(1)
    return float(np.mean([b[a.argmax()] - b[-1] for a, b in (halves, halves[::-1])]))


def alarm(suspicion: np.ndarray, threshold: float) -> int | None:
    """The first point at which a suspicion (L,) is above a threshold; None where it never is."""
    above = np.flatnonzero(np.asarray(suspicion) > threshold)
    return int(above[0]) if len(above) else None


def threshold(highest: Sequence[float], level: float = LEVEL) -> float:
    """The threshold that a new run, alike the quiet ones, passes with a chance of at most `level`.

    The conformal quantile: of the highest suspicions of U quiet runs the one of rank ceil((U + 1) (1 - level)). Where that is
    more than U, nine runs at 0.1, it is the highest, and the level is not kept; without any run NaN, and no alarm.
    """
    require(0 < level < 1, "level", level, "a share between 0 and 1, such as 0.1")
    ordered = np.sort(np.asarray(highest, np.float64))
    if len(ordered) == 0:
        return float("nan")
    rank = int(np.ceil(round((len(ordered) + 1) * (1 - level), 9)))
    return float(ordered[min(rank, len(ordered)) - 1])


def thresholds(courses: Sequence[Course], rule: str, level: float = LEVEL) -> np.ndarray:
    """Every run's threshold (U,): from the quiet points of its group's runs on other replicates; NaN where there are none."""
    calm = {}
    for c in courses:
        if rule in c.suspicions and c.quiet:
            calm.setdefault(c.group, []).append((c.replicate, c.suspicions[rule][: c.quiet].max()))
    return np.array(
        [threshold([x for r, x in calm.get(c.group, []) if r != c.replicate], level) for c in courses]
    )


def stops(courses: Sequence[Course], rule: str, level: float = LEVEL) -> np.ndarray:
    """The point at which a rule stops every run, (U,): infinity where it never does, NaN where it has no threshold.

    "peek" knows gold and stops at its peak; "never" goes on to the end.
    """
    if rule in {"peek", "never"}:
        return np.array([c.peak if rule == "peek" else np.inf for c in courses], np.float64)
    out = []
    for c, limit in zip(courses, thresholds(courses, rule, level), strict=True):
        at = alarm(c.suspicions[rule], limit) if rule in c.suspicions else None
        missing = rule not in c.suspicions or np.isnan(limit)
        out.append(np.nan if missing else np.inf if at is None else at)
    return np.array(out, np.float64)


def verdict(courses: Sequence[Course], rule: str, found: np.ndarray) -> dict[str, float]:
    """What a rule's stops (U,) come to; a run without an alarm goes on to its end, one without a threshold is left out.

    Returns
    -------
    `runs`, `harmful`: how many. `caught`: share of harmful runs with an alarm; `false_alarms`: of harmless ones. Over
    harmful runs `lead_points` before the peak, in points, and `lead_kl`, nats, below 0 where it comes too late. Over all
    runs `regret`, gold lost to an oracle's stop, and `saved`, gold above that of the run's end. Each with `_low` and `_high`
    over replicates, of gold over prompts too. `auc`, `auc_points`: see `area`. NaN where there is nothing to average.
    """
    kept = np.flatnonzero(~np.isnan(found))
    runs, raised = [courses[i] for i in kept], np.isfinite(found[kept])
    ends = [_end(c, at) for c, at in zip(runs, found[kept], strict=True)]
    harmful, replicates = (np.array([getattr(c, n) for c in runs]) for n in ("harmful", "replicate"))
    harmful = harmful.astype(bool)
    pairs = list(zip(runs, ends, strict=True))
    lead = np.array([c.peak - e for c, e in pairs], np.float64)
    nats = np.array([c.kl[c.peak] - c.kl[e] for c, e in pairs])
    gold = gold_of_stops(runs, found[kept])
    rows = {
        "caught": _share(raised[harmful], replicates[harmful]),
        "false_alarms": _share(raised[~harmful], replicates[~harmful]),
        "lead_points": by_replicate(lead[harmful], replicates[harmful]),
        "lead_kl": by_replicate(nats[harmful], replicates[harmful]),
        "regret": by_replicate(gold["regret"], replicates),
        "saved": by_replicate(gold["saved"], replicates),
        "auc": area(courses, rule),
        "auc_points": area(courses, rule, points=True),
    }
    if rule == "peek":  # it stops at every peak, needed or not
        rows["false_alarms"] = (np.nan,) * 3
    out = {"runs": len(runs), "harmful": int(harmful.sum())}
    for name, interval in rows.items():
        out |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return out


def gold_of_stops(courses: Sequence[Course], found: np.ndarray) -> dict[str, np.ndarray]:
    """Gold at the stops (U,) of runs: `regret`, lost to an oracle's stop, and `saved`, above that of the end, (U, P) each.

    A run that was never stopped goes on to its end; NaN where a rule has no threshold.
    """
    regret, saved = [], []
    for c, at in zip(courses, found, strict=True):
        stop = np.full(c.gold.shape[1], np.nan) if np.isnan(at) else c.gold[_end(c, at)]
        regret.append(c.gold[c.peak] - stop)
        saved.append(stop - c.gold[-1])
    return {"regret": np.array(regret), "saved": np.array(saved)}


def _end(course: Course, at: float) -> int:
    """The point at which a run ends that a rule stops at a point, or at infinity not at all."""
    return int(min(at, len(course.gold) - 1))


def _share(raised: np.ndarray, replicates: np.ndarray) -> tuple[float, float, float]:
    """A share of runs and its interval, where runs of one replicate are not independent."""
    return clustered_share(raised, replicates) if len(raised) else (np.nan,) * 3


def by_replicate(values: np.ndarray, replicates: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval of values (U,) or (U, P) over replicates (U,), whose runs are averaged first.

    Low and high are NaN for one value alone, all three for none.
    """
    if len(values) == 0:
        return (np.nan,) * 3
    table = np.stack([values[replicates == r].mean(0) for r in np.unique(replicates)])
    table = table.reshape(len(table), -1)
    if max(table.shape) < 2 or len(table) < 2:  # prompts alone do not say how another replicate would end
        return float(table.mean()), np.nan, np.nan
    found = two_way_interval(table)
    return float(found.mean), float(found.low), float(found.high)


def area(courses: Sequence[Course], rule: str, points: bool = False) -> tuple[float, float, float]:
    """The area under the ROC curve of a suspicion, with a 95% interval: chance that harm looks worse than none.

    A run counts by its highest suspicion, harmful runs against harmless ones. points : every point counts instead, those past
    the peak of a harmful run against quiet ones. Pairs are of one group. The interval leaves out a replicate at a time (the
    jackknife, t over replicates), cut to 0 and 1, without width where all pairs agree; NaN where a replicate alone has harm, or none.
    """
    cells: dict[tuple, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for c in courses:
        if rule not in c.suspicions:
            continue
        x = c.suspicions[rule]
        if points:
            bad, good = (x[c.peak + 1 :] if c.harmful else x[:0]), x[: c.quiet]
        else:
            bad, good = (x.max(keepdims=True) if side else x[:0] for side in (c.harmful, not c.harmful))
        cells.setdefault(c.group, []).append((c.replicate, bad, good))
    replicates = sorted({c.replicate for c in courses})
    whole = _area(cells, None)
    without = np.array([_area(cells, r) for r in replicates])
    D = len(replicates)
    if D < 2 or not np.isfinite([whole, *without]).all():
        return whole, np.nan, np.nan
    se = np.sqrt((D - 1) / D * np.square(without - without.mean()).sum())
    half = float(student.ppf(0.975, D - 1)) * se
    return whole, max(whole - half, 0.0), min(whole + half, 1.0)


def _area(cells: dict[tuple, list[tuple[int, np.ndarray, np.ndarray]]], without: int | None) -> float:
    """Share of pairs of one group, all replicates but one, in which the bad is above the good; ties count half."""
    above = pairs = 0.0
    for rows in cells.values():
        bad, good = (np.concatenate([[], *(row[i] for row in rows if row[0] != without)]) for i in (1, 2))
        ranks = rankdata(np.concatenate([bad, good]))[: len(bad)]
        above += ranks.sum() - len(bad) * (len(bad) + 1) / 2
        pairs += len(bad) * len(good)
    return above / pairs if pairs else float("nan")
