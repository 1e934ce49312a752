"""Label noise, drawn by pair id: not by order, not by member, so every member sees the same mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rmlab.recipe import require


def uniform(ids: Sequence[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for every id, (B,) float64: the id's own, whatever stands beside it."""
    key = f"{seed}:".encode()
    words = [hashlib.blake2b(key + i.encode(), digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(words), ">u8").astype(np.float64) / 2.0**64


def flip_mask(ids: Sequence[str], rate: float, seed: int) -> np.ndarray:
    """Which labels to turn round, (B,) bool; about `rate` of them."""
    require(0 <= rate < 0.5, "rate", rate, "a share from 0 up to 0.5")
    return uniform(ids, seed) < rate


def bradley_terry_flips(margins, ids: Sequence[str], temperature: float, seed: int) -> np.ndarray:
    """Which labels a Bradley-Terry annotator gets wrong, (B,) bool.

    margins : (B,) gold of the better answer minus gold of the other, at least 0, gold units
    temperature : above 0; the better answer wins with probability sigma(margin / temperature)
    """
    require(temperature > 0, "temperature", temperature, "a positive temperature")
    return uniform(ids, seed) > 1 / (1 + np.exp(-np.asarray(margins, np.float64) / temperature))
