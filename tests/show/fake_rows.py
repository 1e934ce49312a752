"""Tables in the shape of the second edition's studies, with numbers of their own: no study is run for a figure's test."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.measure.claims import Claim
from rmlab.optimise.best_of_n import kl_bound

METHODS = {
    "single": "single",
    "finetune3": "finetune",
    "finetune5": "finetune",
    "pretrain3": "pretrain",
    "pretrain5": "pretrain",
    "heads3": "heads",
    "heads5": "heads",
    "lora5": "lora",
    "dropout5": "dropout",
    "laplace5": "laplace",
    "grid15": "mixed",
}
RULES = ("mean", "min", "mean_std")
NS = 2 ** np.arange(12)  # to 2,048
SIZES = ("hidden=32 layers=1 heads=2 ff=96", "hidden=64 layers=2 heads=4 ff=192")
AXES = {
    "label flips": ("0.0", "0.1", "0.4"),
    "pairs": ("500", "8000"),
    "size": SIZES,
    "sight": ("0.0", "0.25", "1.0"),
}
WORDS = ("holds", "fails", "undecided", "equivalent")


def size_of(ensemble: str) -> int:
    return int("".join(c for c in ensemble if c.isdigit()) or 1)


def banded(name: str, values: np.ndarray | float, half: float, stem: bool = True) -> dict[str, object]:
    prefix = f"{name}_" if stem else ""
    return {name: values, f"{prefix}low": values - half, f"{prefix}high": values + half}


def curve(ensemble: str, rule: str, number: int, ns: np.ndarray = NS, **labels: object) -> pd.DataFrame:
    """Gold that rises and falls with n; every number has heights of its own."""
    kl = kl_bound(ns.astype(float))
    gold = 2.7 + (0.6 + 0.02 * number) * kl - 0.11 * kl**2
    about = {**labels, "ensemble": ensemble, "method": METHODS.get(ensemble) or ensemble.rstrip("0123456789")}
    about |= {"k": size_of(ensemble), "aggregator": rule, "pessimism": labels.get("pessimism", "paper")}
    numbers = {**banded("gold", gold, 0.2 + 0.02 * number), **banded("proxy", kl / 2, 0.1)}
    numbers |= banded("gain", 0.05 * number - 0.2 + 0 * kl, 0.12, stem=False)
    return pd.DataFrame({**about, "optimiser": "best_of_n", "pressure": ns, "kl": kl, **numbers})


def best_of_n() -> pd.DataFrame:
    """Curves with every rule, matched ones too, whose gold is 100 too high: nobody may take them for the paper's."""
    judges = [("single", "mean"), *((e, rule) for e in METHODS if e != "single" for rule in RULES)]
    tables = [curve(*judge, i % 10) for i, judge in enumerate(judges)]
    matched = [curve(*j, i % 10, pessimism="matched") for i, j in enumerate(judges) if j[1] != "mean"]
    return pd.concat(
        [*tables, *(t.assign(gold=t.gold + 100, gain=t.gain + 100) for t in matched)], ignore_index=True
    )


def sweep() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and ends of a sweep over three axes of settings and one of members."""
    members = ("single", "finetune2", "finetune3", "finetune10", "heads1", "heads3", "heads16")
    axes = {**{axis: (values, ("single", "finetune3", "heads3")) for axis, values in AXES.items()}}
    axes["members"] = ((" ".join(members),), members)
    tables = []
    for axis, (values, ensembles) in axes.items():
        for v, value in enumerate(values):
            for i, ensemble in enumerate(ensembles):
                rules = ("mean", "min") if size_of(ensemble) > 1 else ("mean",)
                for j, rule in enumerate(rules):
                    number = 3 * v + i + 4 * j
                    tables.append(curve(ensemble, rule, number, NS[:11], axis=axis, value=value))
    curves = pd.concat(tables, ignore_index=True)
    keys = ["axis", "value", "ensemble", "method", "k", "aggregator", "pessimism"]
    ends = curves.groupby(keys, sort=False).gold.agg(lambda g: g.iloc[-1] - g.max()).reset_index()
    half = np.linspace(0.1, 0.5, len(ends))
    return curves, ends[keys].assign(**banded("fall_from_peak", ends.gold, half))


def members_of_sweep() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probes and accuracy along sight: replicates of two single models and of two heads."""
    probes, accuracy = [], []
    for v, value in enumerate(AXES["sight"]):
        about = {"axis": "sight", "value": value}
        for d in range(3):
            for member in ("f0", "f1", "h2.0", "h2.1"):
                off = 0.1 * d + (50 if member.startswith("h") else 0)
                row = {**about, "reward_model": f"d{d}/p0/{member}", "probe": "wrong"}
                probes.append({**row, "label": "every fact stated wrong", "reaction": -1.3 * v + off})
                accuracy.append(
                    {**about, "member": f"d{d}/p0/{member}", "accuracy": 0.55 + 0.08 * v + off / 10}
                )
    return pd.DataFrame(probes), pd.DataFrame(accuracy)


def ppo(betas: tuple[float, ...] = (0.05, 0.1)) -> pd.DataFrame:
    """Runs with two penalties against one model, five seeds under two rules, and others under the minimum; best-of-n's too."""
    judges = [
        ("single", "mean"),
        ("finetune5", "mean"),
        *((f"{m}5", "min") for m in ("finetune", "pretrain", "heads")),
    ]
    step, tables = np.arange(0, 121, 6), []
    for i, (ensemble, rule) in enumerate(judges):
        for beta in betas:
            far = step / 120 * (1 - 4 * beta)
            gold = 2.7 + (1 + 0.1 * i) * far - 1.2 * far**2
            about = {
                "ensemble": ensemble,
                "method": METHODS[ensemble],
                "k": size_of(ensemble),
                "aggregator": rule,
            }
            about |= {"pessimism": "paper", "optimiser": "ppo", "kl_coef": beta, "step_multiplier": 1}
            numbers = {"pressure": step, "kl": 12 * far - 1e-7, **banded("gold", gold, 0.3)}
            tables.append(pd.DataFrame({**about, **numbers}))
        tables.append(curve(ensemble, rule, i, step_multiplier=1, kl_coef=np.nan))
    return pd.concat(tables, ignore_index=True)


def ledger(claims: list[Claim]) -> pd.DataFrame:
    """A row a claim: the four verdicts in turn, the last claim not run, the second's interval far wider than others'."""
    rows = []
    for i, claim in enumerate(claims):
        row = {"claim": claim.id, "source": claim.source, "study": claim.study, "family": claim.family}
        if i == len(claims) - 1:
            rows.append({**row, "verdict": "not run"})
            continue
        unit = 0.05 if "." in claim.quantity else 0.4
        effect, half = unit * np.sin(i + 1.0), unit * (9 if i == 1 else 0.3 + 0.1 * (i % 4))
        row |= {"effect": effect, "low": effect - half, "high": effect + half, "p": 0.01, "p_adjusted": 0.04}
        word = WORDS[i % 4]
        rows.append(
            {**row, "replicates": 10, "verdict": word, "needed": 37 if word == "undecided" else np.nan}
        )
    return pd.DataFrame(rows)
