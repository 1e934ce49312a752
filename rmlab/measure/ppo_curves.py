"""Curves of PPO: what its evaluations saw, run by run, and a few answers as text.

Letters: P prompts, L evaluations of a run, U replicates.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.compare import Curve, Setting, with_gain

KL_NAME = "k1 (nats an answer)"
COLUMNS = {"k3": "eval_k3", "length": "eval_length", "ended": "eval_ended", "disagreement": "disagreement"}


def read_run(folder: Path) -> dict:
    """One run: `setting` (a `Setting`), replicate, its rows at evaluations, gold and proxy by prompt (L, P), and texts."""
    run = json.loads((Path(folder) / "run.json").read_text())
    rows = [row for row in run["rows"] if "gold" in row]
    by_prompt = {q: np.array([row.pop(f"{q}_by_prompt") for row in rows]) for q in ("gold", "proxy")}
    setting = Setting(**run["setting"], optimiser="ppo")
    return {
        "setting": setting,
        "replicate": run["replicate"],
        "rows": rows,
        "texts": run["texts"],
        **by_prompt,
    }


def ppo_curves(runs: list[dict]) -> list[Curve]:
    """Runs that differ in their replicate alone as one curve; its KL is the mean of k1 at evaluations."""
    groups: dict[Setting, list[dict]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["replicate"]):
        groups[run["setting"]].append(run)
    curves = []
    for setting, group in groups.items():
        means = {
            c: np.mean([[row[key] for row in run["rows"]] for run in group], 0) for c, key in COLUMNS.items()
        }
        curves.append(
            Curve(
                setting,
                units=[(run["replicate"], (0,)) for run in group],
                replicates=[run["replicate"] for run in group],
                members=[setting.ensemble] * len(group),
                pressure=np.array([row["step"] for row in group[0]["rows"]]),
                kl=np.mean([[row["eval_k1"] for row in run["rows"]] for run in group], 0),
                kl_name=KL_NAME,
                gold=np.stack([run["gold"].T for run in group]),
                proxy=np.stack([run["proxy"].T for run in group]),
                gain=None,
                columns=means,
            )
        )
    return with_gain(curves)


def run_rows(runs: list[dict]) -> pd.DataFrame:
    """Every run at every evaluation, as it was; pressure is the step."""
    rows = []
    for run in runs:
        keys = {**vars(run["setting"]), "replicate": run["replicate"], "draw": run["replicate"]}
        rows += [
            {**keys, "pressure": row["step"], "kl": row["eval_k1"], "kl_name": KL_NAME, **row}
            for row in run["rows"]
        ]
    return pd.DataFrame(rows).drop(columns="step")


def answers(runs: list[dict]) -> pd.DataFrame:
    """Answers at the first, a middle and the last evaluation of every run without a KL penalty, on the first replicate.

    `tokens` is JSON, a list of [word, KL in nats, value, advantage].
    """
    out = []
    for run in runs:
        steps, setting = [row["step"] for row in run["rows"]], run["setting"]
        if setting.kl_coef != 0 or run["replicate"] != 0:
            continue
        kept = {steps[0], steps[len(steps) // 2], steps[-1]}
        names = ("ensemble", "method", "k", "aggregator", "kl_coef", "step_multiplier")
        keys = {name: getattr(setting, name) for name in names} | {"replicate": run["replicate"]}
        out += [{**keys, **t, "tokens": json.dumps(t["tokens"])} for t in run["texts"] if t["step"] in kept]
    return pd.DataFrame(out)
