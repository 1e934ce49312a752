"""Do alarms that see no gold stop overoptimisation in time? PPO runs and best-of-n sweeps, on one footing.

What each run shows is read here; the rules are in `detectors.py`, what their alarms are worth in `alarms.py`.

Letters: L points of a run, P prompts, N answers a prompt, B answers of an evaluation, K members, J judges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rmlab.measure.alarms import Course, gold_of_stops, stops, verdict
from rmlab.measure.detectors import (
    RULES,
    TAIL,
    Seen,
    distribution_shift,
    outside_judges,
    repetition,
    suspicions,
)
from rmlab.measure.ensembles import EnsembleResult, RunResult, StudyScores
from rmlab.optimise.best_of_n import ess, kl_bound, n_grid, winner_chances
from rmlab.reward.aggregate import aggregate, usual_strength

AGGREGATORS = ("mean", "min", "mean_std")  # that best-of-n is watched under
EFFECTIVE = 10  # answers a prompt that stand behind the last n of a sweep
BOUNDS = ("peek", "never")  # an oracle's stop, and none
LISTED = (
    "single",
    "finetune5",
    "pretrain5",
    "heads5",
    "lora5",
    "grid15",
    "all",
)  # ensembles of sweeps by replicate
KEYS = ("where", "ensemble", "aggregator", "kl_coef", "step_multiplier")


def detectors(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """Every rule on every kind of run: how early it is, what it costs, how often it is wrong.

    `detectors`: a row a setting and rule, and rows over all settings (ensemble "all"), where thresholds are still each
    setting's own; columns as `alarms.verdict` says, `lead` in steps of PPO or doublings of n. Rule "peek" stops at gold's
    peak, "never" at the end. `alarms`: a row a run: where gold peaks and how far it falls (gold units), whether that is harm,
    and where each rule stops it (a step or n; empty where it does not). `detectors_replicates`: `regret` and `saved` of each
    replicate, averaged over its runs, of which `detectors` has the mean; of sweeps those of `LISTED`. No row where a rule has
    no threshold.
    """
    rows = [*_runs(scores), *_sweeps(scores)]
    kinds: dict[tuple, list[int]] = {}
    for i, (keys, _) in enumerate(rows):
        kinds.setdefault(keys, []).append(i)
        kinds.setdefault((keys[0], "all", "all", None, None), []).append(i)
    courses = [course for _, course in rows]
    found = {rule: stops(courses, rule) for rule in (*RULES, *BOUNDS)}  # (U,) each
    table, replicates = [], []
    for keys, places in kinds.items():
        group = [courses[i] for i in places]
        for rule in (*RULES, *BOUNDS):
            if rule in BOUNDS or any(rule in c.suspicions for c in group):
                table.append(_row(keys, rule, group, found[rule][places]))
                if keys[0] != "best_of_n" or keys[1] in LISTED:
                    replicates += _replicate_rows(keys, rule, group, found[rule][places])
    columns = [*KEYS, "rule", "replicate", "regret", "saved"]
    return {
        "detectors": pd.DataFrame(table),
        "detectors_replicates": pd.DataFrame(replicates, columns=columns),
        "alarms": _alarms(rows, found),
    }


def _row(keys: tuple, rule: str, courses: list[Course], found: np.ndarray) -> dict:
    """One row of `detectors`: lead in the unit of the pressure's axis."""
    row = verdict(courses, rule, found)
    step = 1.0 if keys[0] == "best_of_n" else float(np.median(np.diff(courses[0].pressure)))
    lead = {f"lead{end}": step * row.pop(f"lead_points{end}") for end in ("", "_low", "_high")}
    units = len({c.replicate for c in courses})
    return {**dict(zip(KEYS, keys, strict=True)), "rule": rule, "units": units, **lead, **row}


def _replicate_rows(keys: tuple, rule: str, courses: list[Course], found: np.ndarray) -> list[dict]:
    """Rows of `detectors_replicates`, one a replicate with a run that has a threshold."""
    replicates = np.array([c.replicate for c in courses])
    gold = {
        name: x.mean(1) for name, x in gold_of_stops(courses, found).items()
    }  # (U,), NaN without a threshold
    kept = ~np.isnan(found)
    about = {**dict(zip(KEYS, keys, strict=True)), "rule": rule}
    return [
        {**about, "replicate": r, **{name: x[kept & (replicates == r)].mean() for name, x in gold.items()}}
        for r in np.unique(replicates[kept]).tolist()
    ]


def _alarms(rows: list[tuple[tuple, Course]], found: dict[str, dict[int, int | None]]) -> pd.DataFrame:
    """A row a run."""
    table = []
    for i, (keys, c) in enumerate(rows):
        gold = c.gold.mean(1)
        row = dict(zip(KEYS, keys, strict=True)) | {"replicate": c.replicate, "number": c.number}
        row |= {"peak": c.pressure[c.peak], "end": c.pressure[-1], "fall": gold[c.peak] - gold[-1]}
        row["harmful"] = c.harmful
        for rule in RULES:
            at = found[rule][i]
            row[rule] = c.pressure[int(at)] if np.isfinite(at) else np.nan
        table.append(row)
    return pd.DataFrame(table)


def _runs(scores: StudyScores) -> Iterator[tuple[tuple, Course]]:
    """Every PPO run whose answers were recorded."""
    for run in scores.ppo_runs:
        if run.record is not None:
            keys = ("ppo", run.ensemble, run.aggregator, run.kl_coef, run.step_multiplier)
            seen, steps = seen_of_run(run), run.record["step"].astype(float)
            yield (
                keys,
                Course(run.replicate, keys[:3], steps, seen.kl, run.gold.T, suspicions(seen), run.number),
            )


def seen_of_run(run: RunResult) -> Seen:
    """What a PPO run shows at its evaluations."""
    record, views = run.record, run.views or {}
    members, tokens = record["scores"].astype(np.float64), record["lengths"].sum(1)  # (L, B, K), (L,)
    K = members.shape[-1]
    several = {}
    if K > 1:
        lowest = (members.argmin(-1)[..., None] == np.arange(K)).mean(1)
        several = {"spread": members.std(-1).mean(1), "members": members.mean(1), "lowest": lowest}
    judges, limit = views.get("judges"), views.get("training_distance")
    return Seen(
        record["k1"].mean(1, dtype=np.float64),
        record["proxy"].mean(1, dtype=np.float64),
        "rl",
        **several,
        judge=judges.mean((1, 2), dtype=np.float64) if judges is not None and judges.shape[-1] else None,
        shift=distribution_shift(record["proxy"]),
        length=record["lengths"].mean(1),
        unended=1 - record["ended"].mean(1),
        repetition=repetition(record["ids"], record["lengths"]),
        entropy=-record["logprob"].sum(1, dtype=np.float64) / tokens,
        start_logprob=record["ref_logprob"].sum(1, dtype=np.float64) / tokens,
        outliers=None if limit is None else (views["distance"] > np.quantile(limit, TAIL)).mean(1),
    )


def _sweeps(scores: StudyScores) -> Iterator[tuple[tuple, Course]]:
    """Best-of-n of every ensemble's first instance on each replicate, n up to where ten effective answers stand behind it."""
    ns = n_grid(scores.gold.shape[1])
    ns = ns[(ess(scores.gold.shape[1], ns) >= EFFECTIVE) | (ns < 4)]
    for e in scores.ensembles:
        if e.number == 0:
            for aggregator in AGGREGATORS if e.k > 1 else ("mean",):
                keys = ("best_of_n", e.name, aggregator, None, None)
                seen, gold = seen_of_sweep(scores, e, aggregator, ns)
                course = Course(e.replicate, keys[:3], ns.astype(float), seen.kl, gold, suspicions(seen))
                yield keys, course


def seen_of_sweep(
    scores: StudyScores, e: EnsembleResult, aggregator: str, ns: np.ndarray
) -> tuple[Seen, np.ndarray]:
    """What best-of-n shows at L values of n, exactly, from the pool; and gold (L, P), which it does not show."""
    pool = e.pool
    proxy = aggregate(pool, aggregator, usual_strength(aggregator)).astype(np.float64)
    chances = winner_chances(proxy, ns, scores.ended)  # (P, N, L)
    judges = outside_judges(e.parts, [m for m in scores.members if m.pool is not None])
    columns = {"gold": scores.gold[..., None], "proxy": proxy[..., None]}
    if judges:
        columns["judge"] = np.mean([m.pool for m in judges], 0)
    if scores.lengths is not None:
        columns["length"] = scores.lengths[..., None]
    if e.k > 1:
        lowest = pool.argmin(-1)[..., None] == np.arange(e.k)
        columns |= {"spread": pool.std(-1)[..., None], "members": pool, "lowest": lowest}
    values = np.concatenate([np.asarray(x, np.float64) for x in columns.values()], -1)  # (P, N, V)
    ends = np.cumsum([x.shape[-1] for x in columns.values()])[:-1]
    won = chances.transpose(0, 2, 1) @ values  # (P, L, V)
    gold = won[..., 0].T
    means = dict(zip(columns, np.split(won.mean(0), ends, -1), strict=True))
    del means["gold"]
    series = {n: x if n in {"members", "lowest"} else x[:, 0] for n, x in means.items()}
    weights = chances.reshape(-1, len(ns)) / len(proxy)
    return Seen(
        kl_bound(ns), law="best_of_n", shift=distribution_shift(proxy.ravel(), weights), **series
    ), gold
