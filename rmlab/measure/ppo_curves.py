"""Curves of PPO: what its evaluations saw, run by run, and a few answers as text.

Letters: P prompts, L evaluations of a run, U runs of a curve.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.compare import Curve, Setting, curve_of, keys_of, units_of
from rmlab.measure.ensembles import SINGLE, EnsembleResult, RunResult, StudyScores
from rmlab.measure.pool_curves import stated_strength

KL_NAME = "k1 (nats an answer)"
COLUMNS = {"k3": "eval_k3", "length": "eval_length", "ended": "eval_ended", "disagreement": "disagreement"}


def read_run(folder: Path) -> RunResult:
    """One run from the `run.json` that its stage wrote."""
    run = json.loads((Path(folder) / "run.json").read_text())
    rows = [row for row in run["rows"] if "gold" in row]  # those with an evaluation
    gold, proxy = (np.array([row.pop(f"{q}_by_prompt") for row in rows]).T for q in ("gold", "proxy"))
    keys = {n: run["setting"][n] for n in ("ensemble", "aggregator", "kl_coef", "step_multiplier")}
    keys |= {"replicate": run["replicate"], "number": run["setting"].get("number", 0)}
    return RunResult(**keys, rows=rows, gold=gold, proxy=proxy, texts=run["texts"])


def ppo_curves(scores: StudyScores) -> list[Curve]:
    """Runs that differ in their replicate alone, and those against its single models, as one curve; its KL is the mean k1.

    The gain is over the mean of a replicate's runs against single models, of the same regime; None where one has no such run.
    """
    groups: dict[Setting, list[tuple[RunResult, EnsembleResult]]] = defaultdict(list)
    for run, setting, ensemble in sorted(_runs(scores), key=lambda row: (row[0].replicate, row[0].number)):
        groups[setting].append((run, ensemble))
    rivals: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for setting, group in groups.items():
        for run, _ in group if setting.ensemble == SINGLE else ():
            rivals[run.replicate, setting.regime].append(run.gold)
    alone = {key: np.mean(runs, 0) for key, runs in rivals.items()}
    return [_curve(setting, *zip(*group, strict=True), alone) for setting, group in groups.items()]


def run_rows(scores: StudyScores) -> pd.DataFrame:
    """Every run at every evaluation, as it was; pressure is the step, `adapted_kl_coef` the KL penalty by then."""
    table = []
    for run, setting, ensemble in _runs(scores):
        keys = keys_of(setting, stated_strength(run.aggregator))
        keys |= {"replicate": run.replicate, "draw": run.replicate, "members": "+".join(ensemble.members)}
        for row in run.rows:
            point = {"pressure": row["step"], "kl": row["eval_k1"], "kl_name": KL_NAME}
            others = {"adapted_kl_coef" if n == "kl_coef" else n: x for n, x in row.items() if n != "step"}
            table.append({**keys, **point, **others})
    return pd.DataFrame(table)


def answers(scores: StudyScores) -> pd.DataFrame:
    """A few answers at every evaluation of the first replicate's runs, of several single models the first alone.

    `tokens` is JSON, a list of [word, KL in nats, value, advantage], at the first, a middle and the last evaluation; empty
    at the others, which would fill a page.
    """
    names = ["ensemble", "method", "k", "aggregator", "kl_coef", "step_multiplier"]
    table = []
    for run, setting, _ in _runs(scores):
        if run.replicate != 0 or run.number != 0:
            continue
        steps = [row["step"] for row in run.rows]
        kept = {steps[0], steps[len(steps) // 2], steps[-1]}
        keys = {**{name: getattr(setting, name) for name in names}, "replicate": run.replicate}
        for text in run.texts:
            tokens = text["tokens"] if text["step"] in kept else []
            table.append({**keys, **text, "tokens": json.dumps(tokens)})
    columns = [*names, "replicate", "step", "prompt", "answer", "gold", "proxy", "tokens"]
    return pd.DataFrame(table, columns=columns)


def _runs(scores: StudyScores) -> list[tuple[RunResult, Setting, EnsembleResult]]:
    """Every run beside its setting and the ensemble that it was trained against."""
    results = {(e.name, e.replicate, e.number): e for e in scores.ensembles}
    rows = []
    for run in scores.ppo_runs:
        e = results[run.ensemble, run.replicate, run.number]
        regime = {"optimiser": "ppo", "kl_coef": run.kl_coef, "step_multiplier": run.step_multiplier}
        rows.append((run, Setting(e.name, e.method, e.k, run.aggregator, **regime), e))
    return rows


def _curve(
    setting: Setting,
    runs: tuple[RunResult, ...],
    ensembles: tuple[EnsembleResult, ...],
    alone: dict[tuple, np.ndarray],
) -> Curve:
    """alone : (replicate, regime) -> gold (P, L), the mean of the runs against its single models."""

    def mean(column: str) -> np.ndarray:
        """(L,) over runs."""
        return np.mean([[row[column] for row in run.rows] for run in runs], 0)

    values = {name: np.stack([getattr(run, name) for run in runs]) for name in ("gold", "proxy")}  # (U, P, L)
    if all((run.replicate, setting.regime) in alone for run in runs):
        rival = np.stack([alone[run.replicate, setting.regime] for run in runs])
        values["gain"] = values["gold"] - (values["gold"] if setting.ensemble == SINGLE else rival)
    steps, count = np.array([row["step"] for row in runs[0].rows]), len(runs)
    strength = np.full(count, stated_strength(setting.aggregator))
    columns = {name: mean(column) for name, column in COLUMNS.items()}
    axis = (steps, mean("eval_k1"), KL_NAME)
    return curve_of(setting, units_of(ensembles), axis, values, strength, np.full(count, np.nan), columns)
