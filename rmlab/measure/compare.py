"""Ensembles against each other: curves of gold, proxy and gain under rising pressure, their ends, their differences.

A `Curve` is one ensemble under one aggregator and one optimiser, on each of its replicates; best-of-n, tilted policies and
PPO runs all end up as such (`pool_curves.py`, `ppo_curves.py`), and the four tables here are made of nothing else.

Letters: U units (an ensemble on one replicate each), P prompts, L points of a curve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import SINGLE
from rmlab.measure.intervals import CrossedBootstrap, percentile_interval

REFERENCE = "finetune5"  # the ensemble that others are compared with in a study that has it
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
CLAIMED = [
    ("heads3_1_epoch", "finetune3_3_epochs")
]  # Ahmed et al.: as good, under the minimum, in a third of the epochs


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
    def regime(self) -> tuple:
        """What two curves must share to be compared: the optimiser and how hard it is held back."""
        return self.optimiser, self.kl_coef, self.step_multiplier


@dataclass(frozen=True)
class Curve:
    """One setting's curves on each of its replicates.

    units : (U,) label draw and pretraining seeds of each, as `EnsembleResult.unit`
    replicates, members : (U,) for the table of replicates
    pressure : (L,) n, beta or step; kl : (L,) nats, by the formula named in kl_name
    gold, proxy, gain : (U, P, L); gain is gold minus that of single models on the same labels; None where there are none
    strength : the aggregator's, and penalty : the mean score lost to it at no pressure, means over units
    crossed : units carry their pretraining seeds; else replicates go in step and are paired by their number
    columns : further columns of the table of curves, (L,) each
    """

    setting: Setting
    units: list[tuple[int, tuple[int, ...]]]
    replicates: list[int]
    members: list[str]
    pressure: np.ndarray
    kl: np.ndarray
    kl_name: str
    gold: np.ndarray
    proxy: np.ndarray
    gain: np.ndarray | None
    strength: float = np.nan
    penalty: float = np.nan
    crossed: bool = False
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def resampled(self, quantity: str, bootstrap: CrossedBootstrap) -> np.ndarray:
        """The mean over units and prompts under every resample, (n_boot, L)."""
        draws, backbones = zip(*self.units, strict=True)
        return bootstrap.mean(getattr(self, quantity), draws, backbones)

    def mean(self, quantity: str) -> np.ndarray:
        """The mean over units and prompts, (L,)."""
        return np.mean([unit.mean(0) for unit in getattr(self, quantity)], 0)


def curves(every: list[Curve], bootstrap: CrossedBootstrap) -> pd.DataFrame:
    """Mean curves with 95% bands, a row a setting and pressure; `low` and `high` are the band of the gain."""
    frames = []
    for curve in every:
        frame = {
            **vars(curve.setting),
            "strength": curve.strength,
            "penalty": curve.penalty,
            "pressure": curve.pressure,
        }
        frame |= {"kl": curve.kl, "kl_name": curve.kl_name, **curve.columns}
        for quantity in ("proxy", "gold", "gain"):
            if getattr(curve, quantity) is not None:
                frame |= _banded(quantity, curve.mean(quantity), curve.resampled(quantity, bootstrap))
        frames.append(pd.DataFrame({**frame, "units": len(curve.units)}))
    return pd.concat(frames, ignore_index=True)


def replicates(every: list[Curve]) -> pd.DataFrame:
    """Every unit's own curve, averaged over prompts: what the bands are made of."""
    frames = []
    for curve in every:
        for u, (draw, _) in enumerate(curve.units):
            frame = {
                **vars(curve.setting),
                "replicate": curve.replicates[u],
                "draw": draw,
                "members": curve.members[u],
            }
            frame |= {"pressure": curve.pressure}
            for quantity in ("proxy", "gold", "gain"):
                if getattr(curve, quantity) is not None:
                    frame[quantity] = getattr(curve, quantity)[u].mean(0)
            frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def ends(every: list[Curve], bootstrap: CrossedBootstrap) -> pd.DataFrame:
    """Gold at the start, at its peak and at the end; rise, fall and change between them; the gain at the end; 95% bands.

    The peak is that of the mean curve and is held fixed in the bands. `falls` and `rises`: in how many units gold ends below
    its highest point before, and the proxy above its start.
    """
    rows = []
    for curve in every:
        mean, proxy, resampled = curve.mean("gold"), curve.mean("proxy"), curve.resampled("gold", bootstrap)
        top, by_unit = int(np.argmax(mean)), curve.gold.mean(1)  # (U, L)
        row = {**vars(curve.setting), "strength": curve.strength, "units": len(curve.units)}
        at = {
            "start": {0: 1},
            "peak": {top: 1},
            "end": {-1: 1},
            "rise": {top: 1, 0: -1},
            "fall": {-1: 1, top: -1},
        }
        for name, signs in {**at, "change": {-1: 1, 0: -1}}.items():
            if len(signs) < 2 and name in {"rise", "fall", "change"}:  # the peak is the start or the end
                signs = {0: 0}
            value, draws = (sum(sign * x[..., i] for i, sign in signs.items()) for x in (mean, resampled))
            row |= _one(name, value, draws)
        row |= {"peak_pressure": curve.pressure[top], "peak_kl": curve.kl[top]}
        row |= {"end_pressure": curve.pressure[-1], "end_kl": curve.kl[-1]}
        if curve.gain is not None:
            row |= _one("gain", curve.mean("gain")[-1], curve.resampled("gain", bootstrap)[:, -1])
        row |= {
            "proxy_start": proxy[0],
            "proxy_end": proxy[-1],
            "proxy_rises": bool((np.diff(proxy) > 0).all()),
        }
        proxies = curve.proxy.mean(1)
        row |= {
            "falls": int((by_unit[:, -1] < by_unit.max(1)).sum()),
            "rises": int((proxies[:, -1] > proxies[:, 0]).sum()),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(
    every: list[Curve], bootstrap: CrossedBootstrap, pairs: Iterable[tuple] | None = None
) -> pd.DataFrame:
    """Gold of one setting minus gold of another at equal pressure, under the same resamples: paired 95% bands.

    Parameters
    ----------
    pairs : of `Setting`s. None: `usual_pairs`

    Returns
    -------
    A row a pair and pressure. Only units of replicates that both have count, where replicates go in step.
    """
    known = {curve.setting: curve for curve in every}
    frames = []
    for one, other in dict.fromkeys(usual_pairs(known) if pairs is None else map(tuple, pairs)):
        if one == other or one not in known or other not in known:
            continue
        left, right = _shared(known[one], known[other])
        if left is None:
            continue
        draws = left.resampled("gold", bootstrap) - right.resampled("gold", bootstrap)
        low, high = percentile_interval(draws)
        frame = {"one": one.label, "other": other.label, "optimiser": one.optimiser, "kl_coef": one.kl_coef}
        frame |= {"step_multiplier": one.step_multiplier, "pressure": left.pressure}
        frame |= {"difference": left.mean("gold") - right.mean("gold"), "low": low, "high": high}
        frames.append(pd.DataFrame(frame))
    columns = [
        "one",
        "other",
        "optimiser",
        "kl_coef",
        "step_multiplier",
        "pressure",
        "difference",
        "low",
        "high",
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def usual_pairs(settings: Iterable[Setting]) -> list[tuple[Setting, Setting]]:
    """What a study compares: rules within an ensemble, methods at equal size and rule, variants with their plain form."""
    settings = list(settings)
    by_key = {(s.ensemble, s.aggregator, s.pessimism, s.regime): s for s in settings}
    sizes = {s.ensemble: s.k for s in settings if s.method == "heads" and s.ensemble == f"heads{s.k}"}
    most, fewest = (pick(sizes, key=sizes.get, default="") for pick in (max, min))
    out = []
    for s in settings:
        rules = (
            [(s.ensemble, "mean", "paper")]
            if s.pessimism == "paper" and s.aggregator in {"min", "mean_std"}
            else []
        )
        if s.aggregator == "mean" or s.aggregator == USUAL.get(s.method):
            rules.append((REFERENCE, "mean", "paper"))
        if s.aggregator == "min" and s.pessimism == "matched":
            rules.append((REFERENCE, "min", "matched"))
        if s.pessimism == "paper":
            plain = s.ensemble.split("_")[0]
            rules += [(other, s.aggregator, "paper") for other in (plain, f"finetune{s.k}")]
        if s.ensemble == most and s.aggregator in {"mean", "min"}:
            rules.append((fewest, s.aggregator, s.pessimism))
        if s.aggregator == "min":
            rules += [(other, "min", s.pessimism) for one, other in CLAIMED if one == s.ensemble]
        out += [(s, by_key[*rule, s.regime]) for rule in rules if (*rule, s.regime) in by_key]
    return out


def with_gain(every: list[Curve]) -> list[Curve]:
    """Curves with the gain over the single model's of the same regime, unit by unit; None where units do not match."""
    alone = {c.setting.regime: c for c in every if c.setting.ensemble == SINGLE}
    out = []
    for curve in every:
        single = alone.get(curve.setting.regime)
        matches = single is not None and single.replicates == curve.replicates
        gain = curve.gold - single.gold if matches else None
        out.append(Curve(**{**vars(curve), "gain": gain}))
    return out


def _shared(one: Curve, other: Curve) -> tuple[Curve | None, Curve | None]:
    """Both curves as they are where replicates are crossed, else on the replicates that both have."""
    if one.crossed:
        return one, other
    both = [r for r in one.replicates if r in other.replicates]
    return (_kept(one, both), _kept(other, both)) if both else (None, None)


def _kept(curve: Curve, replicates: list[int]) -> Curve:
    index = [curve.replicates.index(r) for r in replicates]
    rows = {n: [getattr(curve, n)[i] for i in index] for n in ("units", "replicates", "members")}
    arrays = {n: getattr(curve, n)[index] for n in ("gold", "proxy")}
    return Curve(
        **{**vars(curve), **rows, **arrays, "gain": None if curve.gain is None else curve.gain[index]}
    )


def _banded(quantity: str, mean: np.ndarray, draws: np.ndarray) -> dict:
    """{gold, gold_low, gold_high}, or {gain, low, high}; (L,) each."""
    low, high = percentile_interval(draws)
    stem = "" if quantity == "gain" else f"{quantity}_"
    return {quantity: mean, f"{stem}low": low, f"{stem}high": high}


def _one(name: str, value: float, draws: np.ndarray) -> dict:
    """The same for one number, draws (n_boot,)."""
    return {k: float(np.ravel(v)[0]) for k, v in _banded(name, np.array([value]), draws[:, None]).items()}
