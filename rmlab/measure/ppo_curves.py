"""Curves of PPO: what its evaluations saw, run by run, and a few answers as text.

Letters: P prompts, L evaluations of a run, U units.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.compare import Curve, Setting, keys_of, units_of
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
    return RunResult(
        **keys, replicate=run["replicate"], rows=rows, gold=gold, proxy=proxy, texts=run["texts"]
    )


def ppo_curves(scores: StudyScores) -> list[Curve]:
    """Runs that differ in their replicate alone as one curve; its KL is the mean of k1 at evaluations.

    The gain is over the runs against the single models on the same labels and backbone; None where one of those is missing.
    """
    groups: dict[Setting, list[tuple[RunResult, EnsembleResult]]] = defaultdict(list)
    for run, setting, ensemble in sorted(_runs(scores), key=lambda row: row[0].replicate):
        groups[setting].append((run, ensemble))
    alone = {
        (ensemble.parts[0].id, setting.regime): run.gold
        for setting, group in groups.items()
        for run, ensemble in group
        if setting.ensemble == SINGLE
    }
    return [_curve(setting, *zip(*group, strict=True), alone) for setting, group in groups.items()]


def run_rows(scores: StudyScores) -> pd.DataFrame:
    """Every run at every evaluation, as it was; pressure is the step, `adapted_kl_coef` the KL penalty by then."""
    table = []
    for run, setting, ensemble in _runs(scores):
        keys = keys_of(setting, stated_strength(run.aggregator))
        keys |= {"replicate": run.replicate, "draw": ensemble.draw, "members": "+".join(ensemble.members)}
        for row in run.rows:
            point = {"pressure": row["step"], "kl": row["eval_k1"], "kl_name": KL_NAME}
            others = {"adapted_kl_coef" if n == "kl_coef" else n: x for n, x in row.items() if n != "step"}
            table.append({**keys, **point, **others})
    return pd.DataFrame(table)


def answers(scores: StudyScores) -> pd.DataFrame:
    """Answers at the first, a middle and the last evaluation of every run without a KL penalty, on the first replicate.

    `tokens` is JSON, a list of [word, KL in nats, value, advantage].
    """
    names = ["ensemble", "method", "k", "aggregator", "kl_coef", "step_multiplier"]
    table = []
    for run, setting, _ in _runs(scores):
        if run.kl_coef != 0 or run.replicate != 0:
            continue
        steps = [row["step"] for row in run.rows]
        kept = {steps[0], steps[len(steps) // 2], steps[-1]}
        keys = {**{name: getattr(setting, name) for name in names}, "replicate": run.replicate}
        texts = [text for text in run.texts if text["step"] in kept]
        table += [{**keys, **text, "tokens": json.dumps(text["tokens"])} for text in texts]
    columns = [*names, "replicate", "step", "prompt", "answer", "gold", "proxy", "tokens"]
    return pd.DataFrame(table, columns=columns)


def _runs(scores: StudyScores) -> list[tuple[RunResult, Setting, EnsembleResult]]:
    """Every run beside its setting and the ensemble that it was trained against."""
    results = {(e.name, e.replicate): e for e in scores.ensembles}
    rows = []
    for run in scores.ppo_runs:
        e = results[run.ensemble, run.replicate]
        regime = {"optimiser": "ppo", "kl_coef": run.kl_coef, "step_multiplier": run.step_multiplier}
        rows.append((run, Setting(e.name, e.method, e.k, run.aggregator, **regime), e))
    return rows


def _curve(
    setting: Setting,
    runs: tuple[RunResult, ...],
    ensembles: tuple[EnsembleResult, ...],
    alone: dict[tuple, np.ndarray],
) -> Curve:
    """alone : (id of a single model, regime) -> gold (P, L) of the run against it."""

    def mean(column: str) -> np.ndarray:
        """(L,) over runs."""
        return np.mean([[row[column] for row in run.rows] for run in runs], 0)

    gold = np.stack([run.gold for run in runs])  # (U, P, L)
    rivals = [[(m.id, setting.regime) for m in e.rivals] for e in ensembles]
    known = all(run in alone for unit in rivals for run in unit)
    return Curve(
        setting,
        units_of(ensembles),
        pressure=np.array([row["step"] for row in runs[0].rows]),
        kl=mean("eval_k1"),
        kl_name=KL_NAME,
        gold=gold,
        proxy=np.stack([run.proxy for run in runs]),
        gain=gold - [np.mean([alone[run] for run in unit], 0) for unit in rivals] if known else None,
        strength=np.full(len(runs), stated_strength(setting.aggregator)),
        penalty=np.full(len(runs), np.nan),
        columns={name: mean(column) for name, column in COLUMNS.items()},
    )
