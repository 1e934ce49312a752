"""Ensembles against each other: curves of gold, proxy and gain under rising pressure, their ends, their differences.

A `Curve` is one ensemble under one aggregator and one optimiser, on each of its replicates; best-of-n, tilted policies and
PPO runs all end up as such (`pool_curves.py`, `ppo_curves.py`), and the four tables here are made of nothing else. Every
interval is the two-way t of `intervals.py`, over replicates and prompts.

Letters: D replicates, U units (the instances of an ensemble on them), P prompts, L points of a curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import ORACLE, EnsembleResult
from rmlab.measure.inference import fall
from rmlab.measure.intervals import Interval, columns_of, two_way_interval

REFERENCE = "finetune5"  # the ensemble that others are compared with, where a study has it
USUAL = {  # the aggregator that a method's paper uses, or the one as near to it as there is
    "finetune": "uwo",  # Coste et al. 2310.02743, Eq. 5
    "pretrain": "min",
    "heads": "min",  # Ahmed et al. 2406.01013
    "lora": "mean_std",  # Zhang et al. 2401.16635
    "dropout": "mean_std",
    "laplace": "mean_std",
    "average": "mean",
    "mixed": "min",
}
CLAIMED = {  # under the minimum: three heads, one epoch, are as good as three models that need three (Ahmed et al.)
    "heads3_1_epoch": "finetune3_3_epochs"
}
REGIME = ("optimiser", "kl_coef", "step_multiplier")


@dataclass(frozen=True)
class Setting:
    """What tells one curve from another: the keys of every table."""

    ensemble: str
    method: str
    k: int
    aggregator: str
    pessimism: str = "paper"  # or "matched": every ensemble loses the same mean score to its penalty
    optimiser: str = "best_of_n"
    kl_coef: float | None = None  # of PPO
    step_multiplier: int = 1  # of PPO: 1 for a run of the usual length

    @property
    def label(self) -> str:
        """The ensemble and its aggregator: "heads5 min", "heads5 min matched"."""
        return " ".join([self.ensemble, self.aggregator] + ["matched"] * (self.pessimism == "matched"))

    @property
    def regime(self) -> tuple[str, float | None, int]:
        """What two curves must share to be compared: the optimiser and how hard it is held back."""
        return tuple(getattr(self, name) for name in REGIME)


def keys_of(setting: Setting, strength: float = np.nan, penalty: float = np.nan) -> dict[str, object]:
    """A setting as the leading columns of a table, with its aggregator's strength and the penalty; NaN where there is none."""
    keys = {n: getattr(setting, n) for n in ("ensemble", "method", "k", "aggregator", "pessimism")}
    keys |= {"strength": strength, "penalty": penalty, **dict(zip(REGIME, setting.regime, strict=True))}
    return {name: np.nan if value is None else value for name, value in keys.items()}


class Unit(NamedTuple):
    """One of an ensemble's instances: its replicate, and its members' ids joined by "+"."""

    replicate: int
    members: str


def units_of(group: Sequence[EnsembleResult]) -> list[Unit]:
    """The units of one ensemble's instances, (U,)."""
    return [Unit(e.replicate, "+".join(e.members)) for e in group]


@dataclass(frozen=True, eq=False)
class Curve:
    """One setting's curves, a replicate's instances averaged prompt by prompt.

    units : (U,) the instances
    pressure : (L,) n, beta or step; kl : (L,) nats, by the formula named in kl_name
    gold, proxy, gain : (D, P, L); gain is gold minus that of single models of the same replicate; None without any
    by_unit : the same quantities by name, (U, L) means over prompts
    strength : (U,) the aggregator's, NaN where it has none; penalty : (U,) mean score lost to it at no pressure, or NaN
    columns : further columns of the table of curves, (L,) each
    """

    setting: Setting
    units: list[Unit]
    pressure: np.ndarray
    kl: np.ndarray
    kl_name: str
    gold: np.ndarray
    proxy: np.ndarray
    gain: np.ndarray | None
    by_unit: dict[str, np.ndarray]
    strength: np.ndarray
    penalty: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def replicates(self) -> list[int]:
        """The replicates' numbers, (D,)."""
        return sorted({unit.replicate for unit in self.units})

    def keys(self, unit: int | slice = slice(None)) -> dict[str, object]:
        """The leading columns of every table, with the strength and penalty of one unit or their means."""
        return keys_of(self.setting, np.mean(self.strength[unit]), np.mean(self.penalty[unit]))

    @property
    def quantities(self) -> dict[str, np.ndarray]:
        """Proxy, gold and, where there is one, the gain, (D, P, L) each."""
        every = {name: getattr(self, name) for name in ("proxy", "gold", "gain")}
        return {name: values for name, values in every.items() if values is not None}


def curve_of(
    setting: Setting,
    units: list[Unit],
    axis: tuple[np.ndarray, np.ndarray, str],
    values: dict[str, np.ndarray],
    strength: np.ndarray,
    penalty: np.ndarray,
    columns: dict[str, np.ndarray],
) -> Curve:
    """A curve from its instances: a replicate's are averaged, so that each counts once however many instances it holds.

    axis : pressure (L,), kl (L,) and the name of its formula; values : gold, proxy and, where there is one, gain, (U, P, L)
    """
    numbers = np.array([unit.replicate for unit in units])

    def averaged(x: np.ndarray) -> np.ndarray:
        """(D, P, L)."""
        return np.stack([x[numbers == replicate].mean(0) for replicate in np.unique(numbers)])

    means = {name: averaged(x) for name, x in values.items()}
    by_unit = {name: x.mean(1) for name, x in values.items()}
    gold, proxy, gain = (means.get(name) for name in ("gold", "proxy", "gain"))
    return Curve(setting, units, *axis, gold, proxy, gain, by_unit, strength, penalty, columns)


def curves(every: Iterable[Curve]) -> pd.DataFrame:
    """Mean curves with 95% intervals, a row a setting and pressure; `low` and `high` are those of the gain.

    `units` is the number of replicates. Where that is 1, the intervals cover other prompts alone, as `covers` says.
    """
    frames = []
    for curve in every:
        frame = {**curve.keys(), "pressure": curve.pressure, "kl": curve.kl, "kl_name": curve.kl_name}
        frame |= curve.columns
        for quantity, values in curve.quantities.items():
            frame |= interval_columns(quantity, values)
        frames.append(pd.DataFrame({**frame, **covered(curve.gold)}))
    return pd.concat(frames, ignore_index=True)


def replicates(every: Iterable[Curve]) -> pd.DataFrame:
    """Every instance's own curve, averaged over prompts; a replicate's are averaged before any interval."""
    frames = []
    for curve in every:
        for u, unit in enumerate(curve.units):
            about = {"replicate": unit.replicate, "draw": unit.replicate, "members": unit.members}
            values = {quantity: curve.by_unit[quantity][u] for quantity in curve.quantities}
            frames.append(pd.DataFrame({**curve.keys(u), **about, "pressure": curve.pressure, **values}))
    return pd.concat(frames, ignore_index=True)


def ends(every: Iterable[Curve]) -> pd.DataFrame:
    """Gold at the start, at its peak and at the end, the fall between them, and the gain at the end; 95% intervals.

    `fall` is the end minus the start. `peak` is the highest point of the mean curve, which noise alone makes high: its
    interval is that of a point fixed beforehand. `fall_from_peak` is the end minus a peak that was chosen elsewhere, on
    other prompts and, where there are several, other replicates (`inference.fall`).
    """
    rows = []
    for curve in every:
        gold, proxy = curve.gold, curve.proxy.mean((0, 1))
        top = int(np.argmax(gold.mean((0, 1))))
        row = curve.keys()
        for name, at in {"start": 0, "peak": top, "end": -1}.items():
            row |= interval_columns(name, gold[..., at])
        drop = fall(gold)
        row |= _banded("fall", drop.change) | _banded("fall_from_peak", drop.from_peak)
        row |= {"peak_pressure": curve.pressure[top], "peak_kl": curve.kl[top]}
        row |= {"end_pressure": curve.pressure[-1], "end_kl": curve.kl[-1], "kl_name": curve.kl_name}
        if curve.gain is not None:
            row |= interval_columns("gain", curve.gain[..., -1])
        row |= {"proxy_start": proxy[0], "proxy_end": proxy[-1]}
        row |= {"proxy_rises": bool((np.diff(proxy) > 0).all())}
        rows.append({**row, **covered(gold)})
    return pd.DataFrame(rows)


def comparisons(
    every: Iterable[Curve], pairs: Iterable[tuple[Setting, Setting]] | None = None
) -> pd.DataFrame:
    """Gold of one setting minus gold of another at equal pressure, replicate by replicate and prompt by prompt.

    Descriptive: many pairs, each with a 95% interval of its own and no adjustment for how many there are.

    Parameters
    ----------
    pairs : None: `usual_pairs`; those whose two settings are not both among the curves are left out

    Returns
    -------
    A row a pair and pressure, over the replicates that both have.
    """
    known = {curve.setting: curve for curve in every}
    frames = []
    for one, other in dict.fromkeys(usual_pairs(known) if pairs is None else pairs):
        if one == other or one not in known or other not in known:
            continue
        left, right = known[one], known[other]
        shared = sorted({*left.replicates} & {*right.replicates})
        if not shared:
            continue
        golds = [c.gold[[c.replicates.index(replicate) for replicate in shared]] for c in (left, right)]
        regime = {name: value for name, value in keys_of(one).items() if name in REGIME}
        frame = {"one": one.label, "other": other.label, **regime, "pressure": left.pressure}
        difference = golds[0] - golds[1]
        frame |= {**interval_columns("difference", difference), **covered(difference)}
        frames.append(pd.DataFrame(frame))
    columns = ["one", "other", *REGIME, "pressure", "difference", "low", "high", "units", "covers"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def usual_pairs(settings: Iterable[Setting]) -> list[tuple[Setting, Setting]]:
    """What a study compares, under one regime each: aggregators with the mean, methods with others, variants with plain ones.

    The mean of an ensemble, and the aggregator that its method is known with (`USUAL`), against the mean of the reference;
    its matched minimum against that of the reference; any aggregator against the mean within an ensemble, against the same
    one of the plain form ("lora5" of "lora5_top") and of as many finetuning seeds; most heads against fewest; and `CLAIMED`.
    """
    settings = [s for s in settings if s.ensemble != ORACLE]
    reference = reference_of({s.ensemble: s.k for s in settings if s.method == "finetune"})
    heads = {s.ensemble: s.k for s in settings if s.method == "heads" and s.ensemble == f"heads{s.k}"}
    most, fewest = (pick(heads, key=heads.get, default=None) for pick in (max, min))
    known = {(s.ensemble, s.aggregator, s.pessimism, s.regime): s for s in settings}
    pairs = []
    for s in settings:
        others = _others(s, reference)
        if s.ensemble == most and s.aggregator in {"mean", "min"}:
            others.append((fewest, s.aggregator, s.pessimism))
        partners = (known.get((*other, s.regime)) for other in others)
        pairs += [(s, partner) for partner in partners if partner not in {None, s}]
    return list(dict.fromkeys(pairs))


def reference_of(sizes: Mapping[str, int]) -> str | None:
    """The ensemble that others are compared with, of finetuning seeds: "finetune5", or else the one with most members.

    sizes : K of every ensemble of finetuning seeds by name; None where none has more than one
    """
    sizes = {name: k for name, k in sizes.items() if k > 1}
    return REFERENCE if REFERENCE in sizes else max(sizes, key=sizes.get, default=None)


def _others(s: Setting, reference: str | None) -> list[tuple[str | None, str, str]]:
    """(ensemble, aggregator, pessimism) that a setting is compared with."""
    others = []
    if s.aggregator in {"mean", USUAL.get(s.method)} and s.pessimism == "paper":
        others.append((reference, "mean", "paper"))
    if s.aggregator == "min" and s.pessimism == "matched":
        others.append((reference, "min", "matched"))
    if s.pessimism == "paper":
        plain, alike = s.ensemble.split("_")[0], f"finetune{s.k}"
        others += [(s.ensemble, "mean", "paper")] + [(e, s.aggregator, "paper") for e in (plain, alike)]
    if s.aggregator == "min" and s.ensemble in CLAIMED:
        others.append((CLAIMED[s.ensemble], "min", s.pessimism))
    return others


def interval_columns(quantity: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """{gold, gold_low, gold_high}, or {gain, low, high}: the mean of values (D, P, ...) over both and its 95% interval."""
    return _banded(quantity, two_way_interval(values))


def covered(values: np.ndarray) -> dict[str, object]:
    """How many replicates values (D, P, ...) are of, as `units`, and what an interval of their mean covers."""
    return {"units": len(values), "covers": "replicates and prompts" if len(values) > 1 else "prompts"}


def _banded(quantity: str, interval: Interval) -> dict[str, np.ndarray]:
    """An interval as columns, those of gain and difference without their name."""
    return columns_of(quantity, interval, "" if quantity in {"gain", "difference"} else None)
