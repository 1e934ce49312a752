"""Whole rows of tokens, read once: pairs of answers, every token of an answer, the last token of a row.

All three are one question: the hidden states of rows from some token on. The packed forward runs on real tokens
only, and once on those with which several rows begin (the two answers of a pair, the answers of a prompt); rows are laid
out (B, T) for attention alone, and the top layer is computed only where it is read.

Letters: B rows or pairs, T tokens, D hidden, N tokens that are read, n different tokens, F heads of q, k and v side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from rmlab.fast import plain
from rmlab.fast.ids import check_rows, vocabulary
from rmlab.fast.packed import Packed, attention, packed
from rmlab.fast.plain import Edits, trunk_of
from rmlab.recipe import require
from rmlab.tokens import last_index, pad_right

FEW = 256  # tokens that must be spared for it to pay to pack a model's weights to read rows once


def read_pairs(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    edits: Edits | None = None,
) -> torch.Tensor:
    """Hidden state at the last token of B chosen, then of B rejected answers, (2B, D); gradients flow.

    Parameters
    ----------
    model : a Hugging Face transformer (causal or sequence classification)
    prompts, chosen, rejected : B lists of ids each, none empty
    edits : parameters of its trunk to run with, in the place of its own

    Raises
    ------
    ValueError
        An empty prompt or answer, an id outside the vocabulary, an edit of a parameter that is not there.
    """
    trunk = trunk_of(model)
    prompts, *sides = _checked(trunk, prompts=prompts, chosen=chosen, rejected=rejected)
    rows = [np.concatenate([p, a]) for side in sides for p, a in zip(prompts, side, strict=True)]
    return _read(trunk, rows, np.array([len(row) - 1 for row in rows]), edits)


def read_answers(
    trunk: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Hidden states that predict the answers' tokens, answer after answer, (N, D); gradients flow. Errors as `read_pairs`."""
    prompts, answers = _checked(trunk, prompts=prompts, answers=answers)
    rows = [np.concatenate([p, a[:-1]]) for p, a in zip(prompts, answers, strict=True)]
    return _read(trunk, rows, np.array([len(p) - 1 for p in prompts]))


def read_ends(
    trunk: nn.Module, ids: torch.Tensor, mask: torch.Tensor, edits: Edits | None = None
) -> torch.Tensor:
    """Hidden states at the rows' last real tokens: ids and mask (B, T), padded on any side -> (B, D); gradients flow.

    Raises a `ValueError` where a row has no real token or an id outside the vocabulary.
    """
    last_index(mask)
    whole = zip(ids.cpu().numpy(), (mask != 0).cpu().numpy(), strict=True)
    (rows,) = _checked(trunk, ids=[row[real] for row, real in whole])
    return _read(trunk, rows, np.array([len(row) - 1 for row in rows]), edits, FEW)


def _checked(trunk: nn.Module, **lists: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """Lists of ids that go together, as arrays."""
    counts = {name: len(rows) for name, rows in lists.items()}
    require(len(set(counts.values())) == 1, "rows", counts, "as many of each")
    return [check_rows(name, rows, vocabulary(trunk)) for name, rows in lists.items()]


def _read(
    trunk: nn.Module, rows: list[np.ndarray], starts: np.ndarray, edits: Edits | None = None, few: int = 0
) -> torch.Tensor:
    """Hidden states of each row from its token starts[b] on, row after row, (N, D): `plain.read_rows`, faster.

    few : run on the model's own forward where packing would spare fewer tokens than this, of padding and beginnings
    """
    plain.check_edits(trunk, edits)
    ids, mask = pad_right(rows, pad=0)
    owner = first_alike(ids, mask)
    owned = mask & (owner == np.arange(len(ids))[:, None])
    weights = packed(trunk, ids.shape[1], edits) if ids.size - owned.sum() >= few else None
    if weights is None:
        return plain.read_rows(trunk, rows, starts, edits)
    time = np.arange(ids.shape[1])
    tokens = np.flatnonzero(owned)  # (n,) places in B x T, one of each different token's
    rank = np.zeros(ids.size, np.int64)
    rank[tokens] = np.arange(len(tokens))
    source = np.where(mask, rank[owner * len(time) + time], 0)  # (B, T) which of the n stands at a place
    kept = np.flatnonzero(mask & (time >= starts[:, None]))
    return _forward(weights, ids, tokens, source, kept)


def _forward(
    weights: Packed, ids: np.ndarray, tokens: np.ndarray, source: np.ndarray, kept: np.ndarray
) -> torch.Tensor:
    """The packed forward on `tokens` of ids (B, T), laid out by `source` for attention: hidden states at `kept`, (N, D)."""
    device, shape = weights.table.device, ids.shape
    position_ids, tops = tokens % shape[1], source.reshape(-1)[kept]
    arrays = ids.reshape(-1)[tokens], position_ids, tokens, source.reshape(-1), kept, tops
    ids, position_ids, tokens, source, kept, tops = (torch.from_numpy(x).to(device) for x in arrays)
    rotations = weights.rotations(shape[1])[position_ids]
    x = weights.embed(ids)
    for layer in range(len(weights.layers)):
        flat = weights.qkv(layer, x, rotations)  # (n, F, W)
        laid = flat.flatten(1).index_select(0, source).view(*shape, *flat.shape[1:])
        mixed = attention(*weights.split(laid)).flatten(
            0, 1
        )  # (B x T, H x W); padding is on the right and never seen
        if layer == len(weights.layers) - 1:
            x, tokens = x.index_select(0, tops), kept
        x = weights.after(layer, x, mixed.index_select(0, tokens))
    return weights.end(x)


def first_alike(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For each place of ids (B, T) one row of those that are equal up to it and at it, for all the same, (B, T) int64."""
    first = np.empty(ids.shape, np.int64)
    order = np.lexsort(np.where(mask, ids, -1).T[::-1])  # rows with a common beginning are neighbours
    first[order[0]] = order[0]
    for before, row in pairwise(order):
        same = np.logical_and.accumulate((ids[before] == ids[row]) & mask[before] & mask[row])
        first[row] = np.where(same, first[before], row)
    return first
