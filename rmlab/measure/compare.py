"""Ensembles against each other: curves of gold, proxy and gain under rising pressure, their ends, their differences.

A `Curve` is one ensemble under one aggregator and one optimiser, on each of its replicates; best-of-n, tilted policies and
PPO runs all end up as such (`pool_curves.py`, `ppo_curves.py`), and the four tables here are made of nothing else.

Letters: U units (an ensemble on one replicate each), P prompts, L points of a curve.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import ORACLE, EnsembleResult
from rmlab.measure.intervals import CrossedBootstrap, percentile_interval

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
QUANTITIES = ("proxy", "gold", "gain")


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
    """An ensemble on one replicate: its number, how the bootstrap weighs it, and its members' ids joined by "+"."""

    replicate: int
    draw: int
    backbones: tuple[int, ...]
    members: str


def units_of(group: Sequence[EnsembleResult]) -> list[Unit]:
    """The units of one ensemble's replicates."""
    return [Unit(e.replicate, *e.unit, "+".join(e.members)) for e in group]


@dataclass(frozen=True, eq=False)
class Curve:
    """One setting's curves on each of its replicates.

    pressure : (L,) n, beta or step; kl : (L,) nats, by the formula named in kl_name
    gold, proxy, gain : (U, P, L); gain is gold minus that of single models on the same labels; None where there are none
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
    strength: np.ndarray
    penalty: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def keys(self, unit: int | slice = slice(None)) -> dict[str, object]:
        """The leading columns of every table, with the strength and penalty of one unit or their means."""
        return keys_of(self.setting, np.mean(self.strength[unit]), np.mean(self.penalty[unit]))

    def resampled(self, quantity: str, bootstrap: CrossedBootstrap) -> np.ndarray:
        """The mean of gold, proxy or gain over units and prompts under every resample, (n_boot, L)."""
        draws, backbones = ([getattr(u, name) for u in self.units] for name in ("draw", "backbones"))
        return bootstrap.mean(getattr(self, quantity), draws, backbones)

    def mean(self, quantity: str) -> np.ndarray:
        """The mean of gold, proxy or gain over units and prompts, (L,)."""
        return getattr(self, quantity).mean((0, 1))

    def on(self, draws: Container[int]) -> Curve:
        """The same on some label draws alone."""
        index = [i for i, unit in enumerate(self.units) if unit.draw in draws]
        arrays = {n: getattr(self, n)[index] for n in ("gold", "proxy", "strength", "penalty")}
        gain = None if self.gain is None else self.gain[index]
        return replace(self, units=[self.units[i] for i in index], gain=gain, **arrays)


def curves(every: Iterable[Curve], bootstrap: CrossedBootstrap) -> pd.DataFrame:
    """Mean curves with 95% bands, a row a setting and pressure; `low` and `high` are the band of the gain."""
    frames = []
    for curve in every:
        frame = {**curve.keys(), "pressure": curve.pressure, "kl": curve.kl, "kl_name": curve.kl_name}
        frame |= curve.columns
        for quantity in QUANTITIES:
            if getattr(curve, quantity) is not None:
                frame |= _banded(quantity, curve.mean(quantity), curve.resampled(quantity, bootstrap))
        frames.append(pd.DataFrame({**frame, "units": len(curve.units)}))
    return pd.concat(frames, ignore_index=True)


def replicates(every: Iterable[Curve]) -> pd.DataFrame:
    """Every unit's own curve, averaged over prompts: what the bands are made of."""
    frames = []
    for curve in every:
        for u, unit in enumerate(curve.units):
            about = {"replicate": unit.replicate, "draw": unit.draw, "members": unit.members}
            frame = {**curve.keys(u), **about, "pressure": curve.pressure}
            for quantity in QUANTITIES:
                if getattr(curve, quantity) is not None:
                    frame[quantity] = getattr(curve, quantity)[u].mean(0)
            frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def ends(every: Iterable[Curve], bootstrap: CrossedBootstrap) -> pd.DataFrame:
    """Gold at the start, at its peak and at the end; rise, fall and change between them; the gain at the end; 95% bands.

    The peak is that of the mean curve and is held fixed in the bands. `falls` and `rises`: in how many units gold ends below
    its highest point before, and the proxy above its start.
    """
    rows = []
    for curve in every:
        mean, proxy, resampled = curve.mean("gold"), curve.mean("proxy"), curve.resampled("gold", bootstrap)
        top = int(np.argmax(mean))
        row = curve.keys()
        for name, at in {"start": 0, "peak": top, "end": -1}.items():
            row |= _banded(name, mean[at], resampled[:, at])
        for name, (after, before) in {"rise": (top, 0), "fall": (-1, top), "change": (-1, 0)}.items():
            row |= _banded(name, mean[after] - mean[before], resampled[:, after] - resampled[:, before])
        row |= {"peak_pressure": curve.pressure[top], "peak_kl": curve.kl[top]}
        row |= {"end_pressure": curve.pressure[-1], "end_kl": curve.kl[-1], "kl_name": curve.kl_name}
        if curve.gain is not None:
            row |= _banded("gain", curve.mean("gain")[-1], curve.resampled("gain", bootstrap)[:, -1])
        row |= {"proxy_start": proxy[0], "proxy_end": proxy[-1]}
        row |= {"proxy_rises": bool((np.diff(proxy) > 0).all())}
        gold_by_unit, proxy_by_unit = curve.gold.mean(1), curve.proxy.mean(1)  # (U, L)
        row |= {"falls": int((gold_by_unit[:, -1] < gold_by_unit.max(1)).sum())}
        row |= {"rises": int((proxy_by_unit[:, -1] > proxy_by_unit[:, 0]).sum())}
        rows.append({**row, "units": len(curve.units)})
    return pd.DataFrame(rows)


def comparisons(
    every: Iterable[Curve],
    bootstrap: CrossedBootstrap,
    pairs: Iterable[tuple[Setting, Setting]] | None = None,
) -> pd.DataFrame:
    """Gold of one setting minus gold of another at equal pressure, under the same resamples: paired 95% bands.

    Parameters
    ----------
    pairs : None: `usual_pairs`; those whose two settings are not both among the curves are left out

    Returns
    -------
    A row a pair and pressure, over the label draws that both have.
    """
    known = {curve.setting: curve for curve in every}
    frames = []
    for one, other in dict.fromkeys(usual_pairs(known) if pairs is None else pairs):
        if one == other or one not in known or other not in known:
            continue
        shared = {u.draw for u in known[one].units} & {u.draw for u in known[other].units}
        if not shared:
            continue
        left, right = known[one].on(shared), known[other].on(shared)
        resampled = left.resampled("gold", bootstrap) - right.resampled("gold", bootstrap)
        difference = left.mean("gold") - right.mean("gold")
        regime = {name: value for name, value in keys_of(one).items() if name in REGIME}
        frame = {"one": one.label, "other": other.label, **regime, "pressure": left.pressure}
        frames.append(pd.DataFrame({**frame, **_banded("difference", difference, resampled)}))
    columns = ["one", "other", *REGIME, "pressure", "difference", "low", "high"]
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


def _banded(quantity: str, mean: np.ndarray, resampled: np.ndarray) -> dict[str, np.ndarray]:
    """{gold, gold_low, gold_high}, or {gain, low, high}, (L,) each from resamples (n_boot, L), or numbers from (n_boot,)."""
    low, high = percentile_interval(resampled)
    stem = "" if quantity in {"gain", "difference"} else f"{quantity}_"
    return {quantity: mean, f"{stem}low": low, f"{stem}high": high}
