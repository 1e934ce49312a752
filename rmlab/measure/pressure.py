"""From PPO runs to rows: curves, ends, differences and answers, with bands over requests and replicates.

Letters: P requests, L evaluations of a run, U replicates.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.intervals import CrossedBootstrap, percentile_interval

KEY = ("line", "how", "beta", "longer")
SINGLE = "single"


def write(out: Path, folders: list[Path], exact: pd.DataFrame, recipe: dict, id: str) -> None:
    """Write `runs`, `curves`, `ends`, `differences`, `answers` and `exact`, the table of `frontier`, as CSV into `out`."""
    runs = [read(f) for f in folders]
    about = {"study": recipe["name"], "recipe": id, "seed": recipe["seed"]}
    resample = CrossedBootstrap(
        recipe["pressure"]["requests"], recipe["labels"]["draws"], 1, seed=recipe["seed"]
    )
    tables = {"runs": per_run(runs), "curves": curves(runs, resample), "ends": ends(runs, resample),
              "differences": differences(runs, resample), "answers": answers(runs), "exact": exact}  # fmt: skip
    for name, table in tables.items():
        for column, value in reversed(about.items()):
            table.insert(0, column, value)
        table.to_csv(Path(out) / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")


def read(folder: Path) -> dict:
    """One run: what it was, its rows at evaluations, and gold and proxy by request, (L, P)."""
    run = json.loads((folder / "run.json").read_text())
    seen = [r for r in run["rows"] if "gold" in r]
    by_request = {w: np.array([r.pop(f"{w}_by_request") for r in seen]) for w in ("gold", "proxy")}
    return {
        **run["what"],
        "beta": run["beta"],
        "seen": seen,
        "all": run["rows"],
        "texts": run["texts"],
        **by_request,
    }


def grouped(runs: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that differ in their replicate alone, in its order."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: r["replicate"]):
        groups[tuple(run[k] for k in KEY)].append(run)
    return groups


def rival(groups: dict[tuple, list[dict]], key: tuple) -> list[dict]:
    """The single model's runs at the same price and length."""
    return groups.get((SINGLE, "mean", *key[2:]), [])


def per_run(runs: list[dict]) -> pd.DataFrame:
    """Every run at every evaluation, as it was."""
    return pd.DataFrame([
        {**{k: run[k] for k in ("line", "kind", "how", "beta", "longer", "replicate")}, **row} for run in runs for row in run["seen"]
    ])  # fmt: skip


def curves(runs: list[dict], resample: CrossedBootstrap) -> pd.DataFrame:
    """Means over replicates at every evaluation, with paired 95% bands: a row a line, aggregator, beta, length and step."""
    groups, frames = grouped(runs), []
    for key, some in groups.items():
        frame = {
            **dict(zip(KEY, key, strict=True)),
            "kind": some[0]["kind"],
            "step": [r["step"] for r in some[0]["seen"]],
        }
        for name, column in (("k1", "watched_k1"), ("k3", "watched_k3"), ("length", "watched_length"), ("ended", "watched_ended"), ("disagreement", "disagreement")):  # fmt: skip
            frame[name] = np.mean([[r[column] for r in run["seen"]] for run in some], 0)
        for what in ("gold", "proxy"):
            frame |= _banded(what, some, resample, [run[what] for run in some])
        others = rival(groups, key)
        if len(others) == len(some):
            frame |= _banded(
                "gain", some, resample, [a["gold"] - b["gold"] for a, b in zip(some, others, strict=True)]
            )
        frames.append(pd.DataFrame({**frame, "units": len(some)}))
    return pd.concat(frames, ignore_index=True)


def ends(runs: list[dict], resample: CrossedBootstrap) -> pd.DataFrame:
    """Where each goes: gold at the start, at the peak of the mean curve and at the end; fall, and gain over the single model.

    `falls` and `rises`: in how many replicates gold ends below its highest evaluation before, and the proxy above its start.
    """
    groups, out = grouped(runs), []
    for key, some in groups.items():
        gold = np.stack([run["gold"] for run in some])  # (U, L, P)
        mean = gold.mean((0, 2))
        top = int(mean.argmax())
        k1 = np.mean([[r["watched_k1"] for r in run["seen"]] for run in some], 0)
        row = {
            **dict(zip(KEY, key, strict=True)),
            "kind": some[0]["kind"],
            "units": len(some),
            "start": mean[0],
        }
        row |= {
            "peak": mean[top],
            "step_peak": some[0]["seen"][top]["step"],
            "k1_peak": k1[top],
            "k1_end": k1[-1],
        }
        row |= {k: v[0] for k, v in _banded("end", some, resample, list(gold[:, -1:])).items()}
        row |= {
            k: v[0]
            for k, v in _banded("fall", some, resample, list(gold[:, -1:] - gold[:, top : top + 1])).items()
        }
        row |= {
            k: v[0] for k, v in _banded("change", some, resample, list(gold[:, -1:] - gold[:, :1])).items()
        }
        others = rival(groups, key)
        if len(others) == len(some):
            apart = [a["gold"][-1:] - b["gold"][-1:] for a, b in zip(some, others, strict=True)]
            row |= {k: v[0] for k, v in _banded("gain", some, resample, apart).items()}
        proxy = np.stack([run["proxy"] for run in some]).mean(2)  # (U, L)
        row |= {
            "rises": int((proxy[:, -1] > proxy[:, 0]).sum()),
            "falls": int((gold.mean(2)[:, -1] < gold.mean(2).max(1)).sum()),
        }
        row |= {"proxy_start": proxy[:, 0].mean(), "proxy_end": proxy[:, -1].mean()}
        out.append(row)
    return pd.DataFrame(out)


def differences(runs: list[dict], resample: CrossedBootstrap) -> pd.DataFrame:
    """Gold at the end, one minus the other, paired: min and mean - std against mean within a line, lines against finetune."""
    groups, out = grouped(runs), []
    for key in groups:
        line, how, *price = key
        others = [(line, "mean", *price)] if how != "mean" else []
        others += [k for k in groups if k[1:] == key[1:] and k[0].startswith("finetune") and k[0] != line]
        for other in others:
            if other not in groups or len(groups[other]) != len(groups[key]):
                continue
            apart = [a["gold"][-1:] - b["gold"][-1:] for a, b in zip(groups[key], groups[other], strict=True)]
            band = _banded("diff", groups[key], resample, apart)
            out.append({"one": f"{line} {how}", "other": f"{other[0]} {other[1]}", "beta": key[2], "longer": key[3],
                        **{k: v[0] for k, v in band.items()}})  # fmt: skip
    return pd.DataFrame(out)


def answers(runs: list[dict]) -> pd.DataFrame:
    """Answers at the first, a middle and the last evaluation of every run without a price, on the first replicate.

    `tokens` is JSON, a list of [word, KL in nats, value, advantage].
    """
    out = []
    for run in runs:
        steps = [r["step"] for r in run["seen"]]
        kept = {steps[0], steps[len(steps) // 2], steps[-1]}
        if run["beta"] == 0 and run["replicate"] == 0:
            what = {k: run[k] for k in ("line", "how", "beta", "longer", "replicate")}
            out += [
                {**what, **t, "tokens": json.dumps(t["tokens"])} for t in run["texts"] if t["step"] in kept
            ]
    return pd.DataFrame(out)


def summary(folder: str | Path) -> str:
    """The ends as text."""
    table = pd.read_csv(Path(folder) / "ends.csv")

    def cell(r, what: str) -> str:
        return f"{r[what]:6.2f} [{r[what + '_lo']:6.2f}, {r[what + '_hi']:6.2f}]" if pd.notna(r[what]) else ""

    lines = [f"{'line':<12}{'aggregator':<11}{'beta':>5} {'steps':>6}  {'start':>6} {'peak':>6} {'at KL':>6}  {'end':<23} {'KL':>6}  {'fall from the peak':<23} gain over single"]  # fmt: skip
    for _, r in table.iterrows():
        lines.append(f"{r.line:<12}{r.how:<11}{r.beta:>5g} {'x' + str(r.longer):>6}  {r.start:6.2f} {r.peak:6.2f} {r.k1_peak:6.1f}  {cell(r, 'end'):<23} {r.k1_end:6.1f}  {cell(r, 'fall'):<23} {cell(r, 'gain')}".rstrip())  # fmt: skip
    lines.append(
        "95% bands: paired bootstrap over requests and replicates. Gold units; KL: k1, nats an answer."
    )
    return "\n".join(lines)


def _banded(name: str, some: list[dict], resample: CrossedBootstrap, values: list[np.ndarray]) -> dict:
    """{name, name_lo, name_hi}, (L,) each, from (L, P) a replicate."""
    stacked = np.stack(values).transpose(0, 2, 1)  # (U, P, L)
    draws = resample.mean(stacked, [run["replicate"] for run in some], [(0,)] * len(some))
    low, high = percentile_interval(draws)
    return {name: stacked.mean((0, 1)), f"{name}_lo": low, f"{name}_hi": high}
