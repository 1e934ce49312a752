"""Ids at the door: lists of them, and right-padded blocks, checked against the model's vocabulary.

A model's embedding takes -100 for the word 100 places before its end, or fails far from where the id came in; an
empty answer is read at another one's end. Both are refused here, once, with the ids that are at fault.

Letters: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rmlab.recipe import require


def vocabulary(trunk: nn.Module) -> int:
    """How many ids a model's embedding knows; the largest is one less.

    Raises a `ValueError` where a model does not say which its embedding is.
    """
    try:
        return len(trunk.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError):
        mend = "a transformers model that says what its input embedding is"
        raise ValueError(f"embedding of {type(trunk).__name__} = None: give {mend}") from None


def check_rows(name: str, rows: Sequence[Sequence[int]], vocabulary: int) -> list[np.ndarray]:
    """B lists of ids as B arrays (T,) int64.

    Raises
    ------
    ValueError
        No row, an empty row, an id that is no whole number or outside the vocabulary; it names `name` and the ids.
    """
    arrays = [np.asarray(row) for row in rows]
    empty = [i for i, row in enumerate(arrays) if not row.size]
    require(
        len(arrays) > 0 and not empty, name, f"{len(arrays)} rows, empty: {empty}", "rows of at least one id"
    )
    flat = np.concatenate(arrays)
    require(flat.dtype.kind in "iu", name, flat.dtype.name, "ids: whole numbers")
    _refuse(name, flat[(flat < 0) | (flat >= vocabulary)].tolist(), vocabulary)
    return [row.astype(np.int64, copy=False) for row in arrays]


def check_block(
    name: str, ids: torch.Tensor, lengths: torch.Tensor, vocabulary: int, most: int
) -> torch.Tensor:
    """Right-padded ids (B, T) with lengths (B,) of real tokens; what stands in the padding becomes 0.

    Raises
    ------
    ValueError
        An empty row, a row longer than the block, a block longer than `most`, an id outside the vocabulary.
    """
    time = ids.shape[1]
    require(
        time <= most,
        f"{name}.shape",
        tuple(ids.shape),
        f"at most {most} tokens a row, as was said at the start",
    )
    right = bool(((lengths >= 1) & (lengths <= time)).all())
    require(right, f"lengths of {name}", lengths.tolist(), f"1 to {time} tokens a row")
    real = torch.arange(time, device=ids.device) < lengths[:, None]
    _refuse(name, ids[real & ((ids < 0) | (ids >= vocabulary))].tolist(), vocabulary)
    return ids.masked_fill(~real, 0)


def _refuse(name: str, outside: list[int], vocabulary: int) -> None:
    require(
        not outside, name, sorted(set(outside))[:8], f"ids from 0 to {vocabulary - 1}, the model's vocabulary"
    )
