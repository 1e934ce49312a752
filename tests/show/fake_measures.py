"""Tables in the shape of calibration, herding and laws, with numbers of their own: no study is run for a figure's test."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.measure import laws
from rmlab.optimise.best_of_n import kl_bound
from tests.show.fake_rows import METHODS, banded, size_of

JUDGES = (("single", "mean"), ("finetune5", "mean"), ("finetune5", "min"), ("heads5", "mean"))
NS = np.array([1, 4, 16, 64, 256, 2048])


def about(ensemble: str) -> dict[str, object]:
    return {"ensemble": ensemble, "method": METHODS[ensemble], "k": size_of(ensemble)}


def promised() -> pd.DataFrame:
    tables = []
    for j, (ensemble, rule) in enumerate(JUDGES):
        for i, recalibration in enumerate(("none", "temperature")):
            rise = np.linspace(0, 1, len(NS))
            rates = banded("promised", 0.5 + (0.1 + 0.15 * i + 0.01 * j) * rise, 0.01)
            rates |= banded("delivered", 0.5 + 0.2 * rise - (0.1 + 0.02 * j) * rise**2, 0.02)
            keys = {**about(ensemble), "aggregator": rule, "recalibration": recalibration, "n": NS}
            tables.append(pd.DataFrame({**keys, **rates}))
    return pd.concat(tables, ignore_index=True)


def reliability() -> pd.DataFrame:
    tables = []
    for j, (ensemble, rule) in enumerate(JUDGES):
        stated = np.linspace(0.52, 0.8, 5) + 0.01 * j
        right = {"agreement": stated + 0.1, "low": stated + 0.05, "high": stated + 0.15, "pairs": 100}
        tables.append(pd.DataFrame({**about(ensemble), "aggregator": rule, "confidence": stated, **right}))
    return pd.concat(tables, ignore_index=True)


def calibration() -> pd.DataFrame:
    rows = []
    for j, (ensemble, rule) in enumerate(JUDGES):
        for i, recalibration in enumerate(("none", "temperature", "isotonic")):
            row = {**about(ensemble), "aggregator": rule, "recalibration": recalibration}
            for m, measure in enumerate(("ece", "brier", "log_loss")):
                row |= banded(measure, 0.1 * (m + 1) + 0.01 * j - 0.03 * i, 0.005)
            rows.append(row)
    return pd.DataFrame(rows)


def uncertainty() -> pd.DataFrame:
    rows = []
    for j, score in enumerate(("finetune5", "heads5", "mahalanobis", "sngp")):
        for n in (1, 64, 256):
            for e, error in enumerate(("absolute", "signed")):
                value = 0.5 + 0.03 * j + 0.02 * (n > 64) + 0.05 * e
                rows.append({"score": score, "n": n, "error": error, **banded("auroc", value, 0.03)})
    return pd.DataFrame(rows)


def herding() -> pd.DataFrame:
    tables = []
    for j, ensemble in enumerate(("finetune5", "pretrain5", "heads5")):
        for i, rule in enumerate(("mean", "min")):
            own = 0.1 * np.log2(NS) * (1 - 0.3 * i)
            shared = own * (0.5 + 0.1 * j)
            effective = np.where(NS <= 256, 1.5 - 0.04 * np.log2(NS) + 0.1 * j + i, np.nan)
            numbers = {**banded("own", own, 0.05), **banded("shared", shared, 0.04)}
            numbers |= banded("shared_share", np.full(len(NS), 0.5 + 0.1 * j), 0.02)
            numbers |= banded("effective_error", effective, 0.1)
            tables.append(pd.DataFrame({**about(ensemble), "aggregator": rule, "n": NS, **numbers}))
    return pd.concat(tables, ignore_index=True)


def ceiling() -> pd.DataFrame:
    rows = []
    for j, ensemble in enumerate(("finetune5", "grid15")):
        for q, quantity in enumerate(("gold", "gap")):
            for i, kind in enumerate(("predicted", "measured", "difference", "ceiling")):
                for n in (16, 256):
                    value = 1 + 0.1 * i + 0.2 * j + q + n / 1000
                    row = {"ensemble": ensemble, "quantity": quantity, "kind": kind, "n": n}
                    rows.append({**row, **banded("value", value, 0.05, stem=False)})
    return pd.DataFrame(rows)


def hacks() -> pd.DataFrame:
    rows = []
    for j, (ensemble, rule) in enumerate(JUDGES[:3]):
        for t, term in enumerate(("wrong", "repeat", "courtesy")):
            before = 0.3 + 0.1 * t
            for n in (256, 2048):
                rate = before + (t - 1) * 0.2 + 0.02 * j - 0.01 * (n > 256)
                rows.append({"ensemble": ensemble, "aggregator": rule, "n": n, "term": term, "rate": rate})
                rows[-1]["before"] = before
    return pd.DataFrame(rows)


def curves(alpha: float = 1.6, beta: float = 0.5) -> pd.DataFrame:
    """Gold that follows the quadratic law exactly: two judges, the second bends half as much; matched rows 100 too high."""
    tables = []
    for j, (ensemble, rule) in enumerate(JUDGES[:2]):
        ns = 2 ** np.arange(12)
        d = np.sqrt(kl_bound(ns.astype(float)))
        gold = 2.7 + d * (alpha - beta / (1 + j) * d)
        for pessimism, extra in (("paper", 0.0), ("matched", 100.0)):
            keys = {**about(ensemble), "aggregator": rule, "pessimism": pessimism, "optimiser": "best_of_n"}
            numbers = {"pressure": ns, "kl": d**2, "ess": 2048 / ns, **banded("gold", gold + extra, 0.1)}
            tables.append(pd.DataFrame({**keys, **numbers}))
    return pd.concat(tables, ignore_index=True)


def law_rows() -> pd.DataFrame:
    rows = []
    for j, ensemble in enumerate(("single", "finetune3", "heads3", "finetune5", "grid15")):
        for rule in ("mean",) if ensemble == "single" else ("mean", "min"):
            for form in laws.FORMS:
                row = {**about(ensemble), "aggregator": rule, "pessimism": "paper", "form": form}
                off = 10 * (form != "quadratic") + 5 * (rule == "mean") * (ensemble != "single")
                row |= banded("alpha", 1.6 + 0.01 * j + off, 0.05) | banded(
                    "beta", 0.6 - 0.05 * j + off, 0.02
                )
                rows.append(row)
    return pd.DataFrame(rows)


def goodhart() -> pd.DataFrame:
    rows = []
    for j, (ensemble, rule) in enumerate(JUDGES):
        row = {**about(ensemble), "aggregator": rule, "top": 64}
        rows.append({**row, **banded("slope_body", 1.1 + 0.1 * j, 0.05), **banded("slope_top", -1 + j, 0.5)})
    return pd.DataFrame(rows)


def choices() -> pd.DataFrame:
    rows = []
    for j, (ensemble, rule) in enumerate(JUDGES):
        for i, name in enumerate(("all", "members", "certificate", "tilt", "hedge_tune", "law", "oracle")):
            if name == "members" and ensemble == "single":
                continue
            row = {**about(ensemble), "aggregator": rule, "rule": name}
            rows.append({**row, **banded("regret", 0.7 - 0.1 * i + 0.01 * j, 0.03)})
    return pd.DataFrame(rows)
