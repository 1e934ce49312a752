"""Many answers to one prompt: the prompt is encoded once, and answers are read whole on its keys and values.

`open_prompts` encodes prompts once; their keys and values are shared by their rows and never copied. `open_variants`
reads the same answers with several edited copies of the weights (adapters, dropout masks), the layers below the lowest
edit once for all. The top layer is computed only where it is read. Models without a packed form run on their own forward.

Letters: P prompts, R rows of answers (prompt-major), L tokens of a prompt, S of an answer, V copies, D hidden, H heads,
G key-value heads, W width of a head, Q = H / G x S: the queries of an answer that share a key-value head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from rmlab.fast import plain
from rmlab.fast.ids import check_block, check_rows, vocabulary
from rmlab.fast.packed import Packed, depth_of, packed
from rmlab.fast.plain import Edits
from rmlab.fast.rows import read_answers, read_ends, read_pairs
from rmlab.recipe import require

__all__ = ["Edits", "open_prompts", "open_variants", "read_answers", "read_ends", "read_pairs"]


def open_prompts(model: nn.Module, prompts: torch.Tensor, max_new_tokens: int) -> Callable:
    """Prompts (P, L), encoded once: a function (ids (R, S), lengths (R,)) -> hidden (R, D) at each last real token.

    Parameters
    ----------
    model : a Hugging Face transformer (causal or sequence classification) in eval mode
    prompts : (P, L) ids, all of one length, no padding; P divides R, and rows are prompt-major
    max_new_tokens : most tokens an answer may have; ids are padded on the right, with anything

    Raises
    ------
    ValueError
        An empty prompt or answer, an answer that is too long, an id outside the vocabulary.
    """
    read = open_variants(model, [{}], prompts, max_new_tokens)
    return lambda ids, lengths: read(ids, lengths)[:, 0]


def open_variants(
    model: nn.Module, variants: Sequence[Edits], prompts: torch.Tensor, max_new_tokens: int
) -> Callable:
    """Prompts (P, L), V edited copies of the weights: a function (ids (R, S), lengths (R,)) -> hidden (R, V, D).

    Layers below the lowest edited one run once; from there on each variant runs its own copy. Errors as `open_prompts`,
    and one where an edit is of a parameter that is not there.
    """
    trunk = plain.trunk_of(model)
    known, longest = vocabulary(trunk), prompts.shape[1] + max_new_tokens
    rows = check_rows("prompts", prompts.cpu().numpy(), known)
    for edits in variants:
        plain.check_edits(trunk, edits)
    with torch.no_grad():
        base = packed(trunk, longest)
        tops = [packed(trunk, longest, edits) if edits else base for edits in variants]
    if base is None:
        run = plain.open_variants(trunk, variants, np.stack(rows))
    else:
        run = _on_prompts(base, tops, lowest_edit(variants, len(base.layers)), prompts, longest)

    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        require(
            len(ids) % len(rows) == 0, "rows", len(ids), f"as many answers to each of {len(rows)} prompts"
        )
        return run(check_block("ids", ids, lengths, known, max_new_tokens), lengths)

    return read


def lowest_edit(variants: Sequence[Edits], layers: int) -> int:
    """The first layer that any variant changes, 0 when one changes what is not in a layer (the embedding)."""
    where = [depth_of(name) for edits in variants for name in edits]
    return min((0 if depth is None else depth for depth in where), default=layers - 1)


@torch.no_grad()
def _on_prompts(
    base: Packed, tops: Sequence[Packed], first: int, prompts: torch.Tensor, longest: int
) -> Callable:
    """`open_variants` on packed weights that differ from layer `first` on."""
    below = _Prefix(base, base.embed(prompts), longest, range(first))
    above = [
        _Prefix(top, below.passed if first else top.embed(prompts), longest, range(first, len(top.layers)))
        for top in tops
    ]

    @torch.no_grad()
    def run(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = below.run(base.embed(ids), lengths) if first else None
        return torch.stack([top.run(top.weights.embed(ids) if x is None else x, lengths) for top in above], 1)

    return run


class _Prefix:
    """Some layers of a packed model with the keys and values of prompts: answers run through them on these.

    `passed` (P, L, D) is what leaves the layers at the prompts.
    """

    def __init__(self, weights: Packed, x: torch.Tensor, longest: int, layers: range):
        """x (P, L, D): the prompts' hidden states that enter the layers."""
        self.weights, self.layers, (self.prompts, self.start, _) = weights, layers, x.shape
        self.rotations = weights.rotations(longest)
        self.passed, cached = weights.encode(x, self.rotations[: self.start], layers)
        self.cached = [(k.transpose(-1, -2).contiguous(), v.contiguous()) for k, v in cached]

    def run(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Answers' hidden states (R, S, D) through these layers: (R, D) at the last token where the model ends, else (R, S, D)."""
        weights, (rows, time, _) = self.weights, x.shape
        rotations = self.rotations[self.start : self.start + time]
        causal = x.new_full((time, time), -torch.inf).triu(1)
        every, end = torch.arange(rows, device=x.device), lengths - 1
        for layer, cached in zip(self.layers, self.cached, strict=True):
            q, k, v = weights.split(weights.qkv(layer, x, rotations))
            mask = causal
            if layer == len(weights.layers) - 1:  # the top layer is needed at the last token only
                q, x = q[every, :, end][:, :, None], x[every, end][:, None]
                mask = causal[end][:, None, None, None]
            x = weights.after(layer, x, self._attend(q, k, v, mask, *cached))
        return weights.end(x[:, 0]) if self.layers.stop == len(weights.layers) else x

    def _attend(self, q, k, v, mask, past_keys, past_values) -> torch.Tensor:
        """q (R, H, S, W) over the prompts' keys (P, G, W, L) and the rows' own, k and v (R, G, S, W) -> (R, S, H x W)."""
        (rows, heads, time, width), groups = q.shape, k.shape[1]
        q = q.reshape(rows, groups, -1, width)  # heads that share keys are more queries, (R, G, Q, W)
        own = q @ k.transpose(-1, -2)
        own.unflatten(2, (-1, time)).add_(mask)
        on_prompt = self._by_row(self._by_prompt(q) @ past_keys, rows)
        weight = torch.softmax(torch.cat([on_prompt, own], -1), -1)
        mixed = self._by_row(self._by_prompt(weight[..., : self.start]) @ past_values, rows)
        mixed = mixed + weight[..., self.start :] @ v
        return mixed.reshape(rows, heads, time, width).transpose(1, 2).flatten(2)

    def _by_prompt(self, x: torch.Tensor) -> torch.Tensor:
        """(R, G, Q, ...) -> (P, G, R / P x Q, ...)."""
        return x.unflatten(0, (self.prompts, -1)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        """Back again."""
        return x.unflatten(2, (rows // self.prompts, -1)).transpose(1, 2).flatten(0, 1)
