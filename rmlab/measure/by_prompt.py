"""Gold and proxy of every replicate and prompt, so that a reader can compute every interval again.

Letters: S settings, D replicates, P prompts, L points of a curve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rmlab.measure.compare import Curve
from rmlab.recipe import require

NS = (1, 4, 16, 64, 256, 1024, 2048, 4096)  # of best-of-n
MOST = 12  # evaluations of a run
QUANTITIES = ("gold", "proxy", "rival")


@dataclass(frozen=True, eq=False)
class ByPrompt:
    """What the intervals of a study are made of, a replicate's instances averaged.

    settings : (S,) the keys of `rmlab.measure.compare.Setting`, and whatever else tells one from another
    pressure : (S, L) n or step, padded with NaN
    gold, proxy : (S, D, P, L) float32, of the winner or of the policy's answers; NaN where there is no such replicate
    rival : the same, gold of the replicate's single models at the same pressure; NaN where none were optimised
    """

    settings: list[dict[str, object]]
    pressure: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    rival: np.ndarray

    def __post_init__(self):
        S, L = self.pressure.shape
        require(len(self.settings) == S, "settings", len(self.settings), f"one for each of {S} rows")
        for name in QUANTITIES:
            shape = getattr(self, name).shape
            ok = len(shape) == 4 and (shape[0], shape[3]) == (S, L) and shape == self.gold.shape
            require(ok, f"{name}'s shape", shape, f"({S}, replicates, prompts, {L}), the same for all")

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> ByPrompt:
        """The points of curves that are kept: n of `NS`, or at most `MOST` evaluations with the first and the last."""
        curves = list(curves)
        kept = [kept_points(curve) for curve in curves]
        D = 1 + max(max(curve.replicates) for curve in curves)
        P, L = curves[0].gold.shape[1], max(len(points) for points in kept)
        pressure = np.full((len(curves), L), np.nan)
        arrays = {name: np.full((len(curves), D, P, L), np.nan, np.float32) for name in QUANTITIES}
        for s, (curve, points) in enumerate(zip(curves, kept, strict=True)):
            pressure[s, : len(points)] = curve.pressure[points]
            values = {"gold": curve.gold, "proxy": curve.proxy}
            if curve.gain is not None:
                values["rival"] = curve.gold - curve.gain
            for name, x in values.items():
                arrays[name][s][curve.replicates, :, : len(points)] = x[..., points]
        return cls([asdict(curve.setting) for curve in curves], pressure, **arrays)

    @classmethod
    def join(cls, parts: Sequence[tuple[dict[str, object], ByPrompt]]) -> ByPrompt:
        """Those of several studies as one: each setting gains its study's labels; what is missing of a shape is NaN."""
        settings = [{**labels, **setting} for labels, part in parts for setting in part.settings]
        size = np.max([part.gold.shape for _, part in parts], 0)

        def padded(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
            missing = [(0, 0), *((0, most - have) for most, have in zip(shape, x.shape[1:], strict=True))]
            return np.pad(x, missing, constant_values=np.nan)

        pressure = np.concatenate([padded(part.pressure, size[3:]) for _, part in parts])
        arrays = (np.concatenate([padded(getattr(p, n), size[1:]) for _, p in parts]) for n in QUANTITIES)
        return cls(settings, pressure, *arrays)

    def save(self, path: str | Path | BinaryIO) -> None:
        """Write one compressed npz, a path or an open file; the same values give the same bytes."""
        arrays = {name: getattr(self, name) for name in ("pressure", *QUANTITIES)}
        np.savez_compressed(path, settings=np.array(json.dumps(self.settings)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> ByPrompt:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        missing = sorted({"settings", "pressure", *QUANTITIES} - set(stored))
        require(
            not missing, str(path), f"a file without {', '.join(missing)}", "one that ByPrompt.save wrote"
        )
        return cls(json.loads(str(stored.pop("settings"))), **stored)

    def values(self, pressure: float, quantity: str = "gold", **setting: object) -> np.ndarray:
        """Gold of every replicate and prompt at a pressure, (D, P) float64: x of `two_way_interval`.

        Parameters
        ----------
        pressure : an n or a step that is stored
        quantity : "gold", "proxy", "rival", or "gain", which is gold minus rival
        setting : keys that tell the setting from all others: ensemble, aggregator, pessimism, kl_coef, ...

        Raises
        ------
        ValueError
            No setting or several with these keys, no such pressure or quantity; it names what there is.
        """
        known = (*QUANTITIES, "gain")
        require(quantity in known, "quantity", quantity, f"one of {', '.join(known)}")
        s = self._number_of(setting)
        at = np.flatnonzero(self.pressure[s] == pressure)
        stored = self.pressure[s][~np.isnan(self.pressure[s])]
        require(len(at) == 1, "pressure", pressure, f"one of {', '.join(f'{x:g}' for x in stored)}")
        point = (s, slice(None), slice(None), at[0])
        if quantity == "gain":
            return self.gold[point].astype(np.float64) - self.rival[point]
        return getattr(self, quantity)[point].astype(np.float64)

    def curve(self, **setting: object) -> tuple[np.ndarray, np.ndarray]:
        """The stored points of a setting: their pressure (L,) and gold (D, P, L) float64; keys as in `values`."""
        s = self._number_of(setting)
        stored = ~np.isnan(self.pressure[s])
        return self.pressure[s][stored], self.gold[s][..., stored].astype(np.float64)

    def _number_of(self, keys: dict[str, object]) -> int:
        """Which setting has these keys; a `ValueError` that names the values that each key has here unless it is one."""
        every = dict.fromkeys(name for setting in self.settings for name in setting)
        unknown = sorted(set(keys) - set(every))
        require(not unknown, "keys of a setting", unknown, f"some of {', '.join(every)}")
        same = [s for s, x in enumerate(self.settings) if all(x.get(n) == value for n, value in keys.items())]
        left = [self.settings[s] for s in same] or self.settings
        choices = {name: list(dict.fromkeys(x.get(name) for x in left)) for name in every}
        listed = "; ".join(f"{n} of {', '.join(map(str, c))}" for n, c in choices.items() if len(c) > 1)
        require(len(same) == 1, "setting", keys, f"keys of exactly one, not of {len(same)}: {listed}")
        return same[0]


def kept_points(curve: Curve) -> np.ndarray:
    """Which of a curve's L points are kept, as indices."""
    if curve.setting.optimiser != "ppo":
        return np.flatnonzero(np.isin(curve.pressure, NS))
    count, stride = len(curve.pressure), 1
    while 1 + (count - 1) // stride > MOST:
        stride *= 2
    return np.unique([*range(0, count, stride), count - 1])
