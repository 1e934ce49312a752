"""Label noise, drawn by pair id: not by order, not by member, so every member sees the same mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rmlab.recipe import require, stream_seed


def label_pairs(
    gold: np.ndarray, ids: Sequence[str], flips: float, temperature: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of two answers an annotator with noise prefers.

    Parameters
    ----------
    gold : (M, 2), gold units
    ids : (M,) names of the pairs; a pair's noise is its name's own
    flips : share of labels turned round, 0 up to 0.5
    temperature : 0: gold's sign; above 0: a Bradley-Terry draw at this temperature, gold units
    seed : the recipe's; the noise is drawn from its streams "flips" and "bradley-terry"

    Returns
    -------
    first_is_chosen : (M,) bool
    keep : (M,) bool, False where gold is tied: there is nothing to prefer
    margin : (M,) float64, gold of the chosen answer less the other's; below 0 where the label is wrong
    """
    gold = np.asarray(gold, np.float64)
    ok = gold.shape == (len(ids), 2) and bool(np.isfinite(gold).all())
    require(ok, "gold", f"shape {gold.shape}", f"finite numbers (M, 2), a row for each of {len(ids)} ids")
    margin = gold[:, 0] - gold[:, 1]
    turned = flip_mask(ids, flips, stream_seed(seed, "flips"))
    if temperature:
        stream = stream_seed(seed, "bradley-terry")
        turned = turned ^ bradley_terry_flips(np.abs(margin), ids, temperature, stream)
    first_is_chosen = (margin > 0) ^ turned
    return first_is_chosen, margin != 0, np.where(first_is_chosen, margin, -margin)


def flip_mask(ids: Sequence[str], rate: float, seed: int) -> np.ndarray:
    """Which labels to turn round, (M,) bool; about `rate` of them, from 0 up to 0.5."""
    require(0 <= rate < 0.5, "rate", rate, "a share from 0 up to 0.5")
    return uniform(ids, seed) < rate


def bradley_terry_flips(margins: np.ndarray, ids: Sequence[str], temperature: float, seed: int) -> np.ndarray:
    """Which labels a Bradley-Terry annotator gets wrong, (M,) bool.

    margins : (M,) gold of the better answer less gold of the other, at least 0, gold units
    temperature : above 0; the better answer wins with probability sigma(margin / temperature)
    """
    require(temperature > 0, "temperature", temperature, "a positive temperature")
    return uniform(ids, seed) > 1 / (1 + np.exp(-np.asarray(margins, np.float64) / temperature))


def uniform(ids: Sequence[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for every id, (M,) float64: the id's own, whatever stands beside it."""
    key = f"{seed}:".encode()
    hashes = [hashlib.blake2b(key + i.encode(), digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.float64) / 2.0**64
