"""Do an ensemble's scores say how often it is right? Reliability on held-out pairs, in the policy's own distribution.

A reward model's difference of raw scores is Bradley-Terry's log odds. Stored scores are aligned, so a difference is
taken back to raw units by the member's scale, and that of an aggregate of several members by the mean of their scales.
Held-out labels are clean. Where training labels were flipped, a model that is right about those is under-confident
about these: its temperature is below 1.

Letters: M held-out pairs, K members, D replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rmlab.measure import accuracy
from rmlab.measure import calibration as pairwise
from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores, by_name
from rmlab.measure.intervals import columns_of, mean_interval
from rmlab.measure.recalibrate import by_isotonic, by_temperature, cross_fitted
from rmlab.reward.aggregate import aggregate, usual_strength

RULES = ("mean", "min", "max", "mean_std")  # of several members
DIAGRAMS = (SINGLE, "finetune5", "pretrain5", "heads5", "lora5")  # ensembles with rows in `reliability`
REPLICATE_NUMBERS = ("accuracy", "ece", "square_error", "brier", "log_loss", "log_temperature")
NUMBERS = ("accuracy", "ece", "calibration_error", "brier", "log_loss", "temperature")


def calibration(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """Calibration of every ensemble under `RULES`, before and after recalibration, and a diagram's bins.

    Returns
    -------
    `calibration` : a row an ensemble, aggregator and recalibration ("none", "temperature", "isotonic", each fitted on
        one half of the pairs and read on the other, both ways); `units` replicates, `pairs` M. A number with its
        `_low` and `_high`, Student's 95% over replicates, whose instances are averaged first; NaN with one replicate.
        `accuracy`, ties half; `ece`, which noise alone makes positive; `calibration_error`, root of the mean over
        replicates of the debiased square, whose ends below 0 are 0; `brier`; `log_loss`, nats; `temperature`,
        geometric mean of the one that these log odds would still be mended by
    `calibration_replicates` : the same of each replicate, before its mean: `square_error` is the debiased square, which
        may be below 0, `log_temperature` the mean log
    `reliability` : a row a bin of those of `DIAGRAMS` that the study has, as they are, all instances and replicates
        pooled: `confidence`, `agreement` with gold, `low` and `high` (95%, by pairs or by replicates, whichever is
        wider), and `pairs`, each counted once an instance
    """
    rows, bins, replicates = [], [], []
    for name, group in by_name(scores.ensembles).items():
        about = {"ensemble": name, "method": group[0].method, "k": group[0].k}
        for rule in rules_of(group[0].k):
            margins = [heldout_margins(e, rule) for e in group]
            for recalibration, (numbers, table) in _by_recalibration(group, margins).items():
                keys = {**about, "aggregator": rule, "recalibration": recalibration}
                rows.append({**keys, "units": len(table), "pairs": len(margins[0]), **_averages(table)})
                columns = dict(zip(REPLICATE_NUMBERS, table.T, strict=True))
                replicates.append(pd.DataFrame({**keys, "replicate": numbers, **columns}))
            if name in DIAGRAMS:
                table = _reliability(group, margins)
                bins.append(pd.DataFrame({**about, "aggregator": rule, **table}))
    columns = [*about, "aggregator", "confidence", "agreement", "low", "high", "pairs"]
    reliability = pd.concat(bins, ignore_index=True) if bins else pd.DataFrame(columns=columns)
    by_replicate = pd.concat(replicates, ignore_index=True)
    return {
        "calibration": pd.DataFrame(rows),
        "calibration_replicates": by_replicate,
        "reliability": reliability,
    }


def rules_of(k: int) -> tuple[str, ...]:
    """The aggregators of K members; of one there is only itself."""
    return RULES if k > 1 else ("mean",)


def log_odds(scores: np.ndarray, scale: np.ndarray, rule: str) -> np.ndarray:
    """One score in log odds, (...) float64, from aligned ones (..., K): the aggregate times the mean of scales (K,)."""
    combined = aggregate(scores, rule, usual_strength(rule))
    return combined.astype(np.float64) * float(np.mean(scale))


def heldout_margins(e: EnsembleResult, rule: str) -> np.ndarray:
    """Log odds that the chosen answer of a held-out pair is preferred, (M,)."""
    odds = log_odds(e.heldout, e.scale, rule)  # (M, 2)
    return odds[:, 0] - odds[:, 1]


def _by_recalibration(
    group: Sequence[EnsembleResult], margins: Sequence[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By recalibration: the replicates (D,), and `_numbers` of each, (D, 6), means over its instances.

    margins : (M,) of each instance
    """
    pairs = len(margins[0])
    labels, clusters = (
        np.ones(pairs),
        np.arange(pairs),
    )  # the answer chosen comes first; a prompt has one pair
    numbers: dict[str, list[tuple[float, ...]]] = {}
    for x in margins:
        numbers.setdefault("none", []).append(_numbers(x, labels, clusters))
        for name, fit in (("temperature", by_temperature), ("isotonic", by_isotonic)):
            mended = cross_fitted(fit, x, labels, clusters)
            numbers.setdefault(name, []).append(_numbers(mended, labels, clusters))
    replicate = np.array([e.replicate for e in group])
    each = np.unique(replicate)
    return {
        name: (each, np.stack([np.array(x)[replicate == d].mean(0) for d in each]))
        for name, x in numbers.items()
    }


def _averages(table: np.ndarray) -> dict[str, float]:
    """`NUMBERS` with their intervals, from `_numbers` of the replicates (D, 6)."""
    row = {}
    for column, values in zip(NUMBERS, table.T, strict=True):
        row |= _averaged(column, values)
    return row


def _numbers(margins: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> tuple[float, ...]:
    """`NUMBERS` of one instance, on the scale that is averaged: error squared, log of temperature."""
    return (
        float(accuracy.agreement(margins, labels).mean()),
        pairwise.ece(margins, labels),
        pairwise.debiased_square(margins, labels, clusters),
        float(accuracy.brier_scores(margins, labels).mean()),
        float(accuracy.log_losses(margins, labels).mean()),
        float(np.log(pairwise.temperature(margins, labels))),
    )


def _averaged(column: str, values: np.ndarray) -> dict[str, float]:
    """The mean over replicates (D,) with the ends of its interval, back on the number's own scale."""
    columns = columns_of(column, mean_interval(values[:, None]))
    if column == "calibration_error":
        return {name: float(np.sqrt(np.maximum(x, 0.0))) for name, x in columns.items()}
    if column == "temperature":
        return {name: float(np.exp(x)) for name, x in columns.items()}
    return columns


def _reliability(group: Sequence[EnsembleResult], margins: Sequence[np.ndarray]) -> pd.DataFrame:
    """Bins of all instances together: they share pairs, and replicates share models; each may cluster."""
    pooled, pairs = np.concatenate(margins), len(margins[0])
    labels = np.ones(len(pooled))
    replicates = np.repeat([e.replicate for e in group], pairs)
    table = pairwise.reliability(pooled, labels, np.tile(np.arange(pairs), len(group)))
    other = pairwise.reliability(pooled, labels, replicates)  # NaN with one replicate
    table["low"] = np.fmin(table["low"], other["low"])
    table["high"] = np.fmax(table["high"], other["high"])
    return table
