"""Bands: a paired bootstrap over prompts, label draws and pretraining seeds.

A band covers what would change if the study were run again with other prompts, other labels and other
pretraining seeds from the same world. It does not cover another world, policy or training recipe, and with
three label draws it knows little of draws: read it with the per-draw rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Resample:
    """Bootstrap weights, drawn once; every curve averaged under them is paired with every other.

    Parameters
    ----------
    prompts, draws, backbones : how many there are of each
    count : resamples S
    seed : of the resampling
    """

    def __init__(self, prompts: int, draws: int, backbones: int, count: int = 500, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.prompt = _weights(rng, prompts, count)
        self.draw = _weights(rng, draws, count)
        self.backbone = _weights(rng, backbones, count)

    def mean(self, curves: np.ndarray, draw: Sequence[int], backbones: Sequence[Sequence[int]]) -> np.ndarray:
        """Weighted means of U units' curves (U, P, L) -> (S, L).

        draw : (U,) the label draw of each unit; backbones : U lists, the pretraining seeds of its members.
        A unit's weight is its draw's times the mean of its backbones'.
        """
        unit = np.stack([self.draw[:, d] * self.backbone[:, list(b)].mean(1) for d, b in zip(draw, backbones, strict=True)], 1)
        empty = unit.sum(1) == 0  # a resample that left out all of these units: fall back on equal weights
        unit[empty] = 1.0
        unit /= unit.sum(1, keepdims=True)
        by_prompt = np.einsum("su,upl->spl", unit, curves, optimize=True)
        return np.einsum("sp,spl->sl", self.prompt / self.prompt.sum(1, keepdims=True), by_prompt)


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of bootstrap samples (S, L): the ends (L,), (L,)."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def _weights(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1 / size), count).astype(np.float64)
