"""The same Hugging Face weights, run for what rmlab does all day: many answers to one prompt, and pairs of answers.

`open_prompts` encodes prompts once and reads whole answers on them: a prompt's keys and values are shared by its rows
and never copied. `open_variants` reads the same answers with several edited copies of the weights (adapters, dropout
masks), the layers below the lowest edit once for all. `read_pairs` is for training: a pair is one row,
[prompt | chosen | rejected]. `read_answers` gives every token of an answer, for PPO, and `read_ends` the last of a row;
both run on real tokens alone, and once on a beginning that rows share. Families with packed weights (`packed.py`) run on a
forward of our own, the top layer computed only where it is read; every other family runs on the model's own forward.
Tests hold the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rmlab.fast.packed import Packed, depth_of, packed, turn
from rmlab.tokens import last_index, pad_right

FEW = 256  # tokens that must be spared for it to pay to pack a model's weights and read rows once
Edits = Mapping[str, torch.Tensor]  # a trunk's parameters by name, edited


def open_prompts(model: nn.Module, prompts: torch.Tensor, room: int):
    """Prompts (P, T), encoded once: a function (ids (R, S), lengths (R,)) -> hidden (R, D) at each last real token.

    Parameters
    ----------
    model : a Hugging Face transformer (causal or sequence classification) in eval mode
    prompts : (P, T) int64, all of one length, no padding; P divides R, and rows are prompt-major
    room : most tokens an answer may have; ids are padded on the right
    """
    read = open_variants(model, [{}], prompts, room)
    return lambda ids, lengths: read(ids, lengths)[:, 0]


def open_variants(model: nn.Module, variants: Sequence[Edits], prompts: torch.Tensor, room: int):
    """Prompts (P, T), V edited copies of the weights: a function (ids (R, T), lengths (R,)) -> hidden (R, V, D).

    Layers below the lowest edited one run once; from there on each variant runs its own copy.
    """
    trunk = getattr(model, model.base_model_prefix)
    with torch.no_grad():
        base = packed(trunk)
        tops = [packed(trunk, edits) if edits else base for edits in variants]
    if base is None:
        return _each_on_the_model(trunk, variants, prompts)
    first = lowest_edit(variants, len(base.layers))
    below = _Prefix(base, prompts, room, range(first))
    above = [_Prefix(w, prompts, room, range(first, len(w.layers)), below.passed) for w in tops]

    @torch.no_grad()
    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = below.run(base.embed[ids], lengths)
        return torch.stack([top.run(x, lengths) for top in above], 1)

    return read


def lowest_edit(variants: Sequence[Edits], layers: int) -> int:
    """The first layer that any variant changes, 0 when one changes what is not in a layer (the embedding)."""
    where = [depth_of(name) for edits in variants for name in edits]
    return min((0 if d is None else d for d in where), default=layers - 1)


def read_pairs(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    edits: Edits | None = None,
) -> torch.Tensor:
    """Hidden state at the last token of B chosen, then of B rejected answers, (2B, D); gradients flow.

    A pair is one row [prompt | chosen | rejected]: the rejected answer does not see the chosen one and its
    positions restart after the prompt, so the result is that of two rows, and the prompt is read once.
    """
    trunk = getattr(model, model.base_model_prefix)
    weights = packed(trunk, edits)
    device = next(trunk.parameters()).device
    if weights is None:
        whole = [list(p) + list(a) for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
        return read_ends(trunk, *map(torch.from_numpy, pad_right(whole)), edits)
    ids, places, parts, ends = (torch.from_numpy(x).to(device) for x in lay_out(prompts, chosen, rejected))
    turns = weights.turns(0, int(places.max()) + 1)[places]
    time = ids.shape[1]
    seen = parts[:, None, :] == 0
    seen = (seen | (parts[:, None, :] == parts[:, :, None])) & torch.ones(
        time, time, dtype=torch.bool, device=device
    ).tril()
    mask = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)[:, None]
    rows = torch.arange(len(ids), device=device)[:, None]
    x = F.embedding(ids, weights.embed)
    for layer in range(len(weights.layers)):
        q, k, v = weights.qkv(layer, x, turns)
        if layer == len(weights.layers) - 1:  # the top layer is needed at the two last tokens only
            q, x, mask = (
                q.transpose(1, 2)[rows, ends].transpose(1, 2),
                x[rows, ends],
                mask[rows, 0, ends][:, None],
            )
        mixed = _attention(q, k, v, mask)
        x = weights.after(layer, x, mixed.transpose(1, 2).flatten(2))
    return weights.end(x).transpose(0, 1).flatten(0, 1)


def lay_out(prompts, chosen, rejected) -> tuple[np.ndarray, ...]:
    """Pairs as rows: ids, places (positions), parts (0 prompt, 1 chosen, 2 rejected), each (B, T), and ends (B, 2)."""
    lengths = np.array([[len(p), len(c), len(r)] for p, c, r in zip(prompts, chosen, rejected, strict=True)])
    reach = lengths.cumsum(1)
    at = np.arange(reach[:, 2].max())[None]
    parts = (at >= reach[:, :1]).astype(np.int64) + (at >= reach[:, 1:2])
    places = at - np.where(parts == 2, lengths[:, 1:2], 0)
    ids = np.zeros(parts.shape, np.int64)
    real = at < reach[:, 2:]
    ids[real] = np.concatenate([np.concatenate(row) for row in zip(prompts, chosen, rejected, strict=True)])
    return ids, places, parts, reach[:, 1:] - 1


def _attention(q, k, v, mask) -> torch.Tensor:
    """q (B, H, Q, W), k and v (B, H, T, W), mask (B, 1, Q, T) -> (B, H, Q, W)."""
    if (
        torch.is_autocast_enabled(q.device.type) and q.device.type == "cpu"
    ):  # bfloat16 has no fast fused backward
        weight = torch.softmax((q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + mask, -1)
        return weight.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def read_answers(body: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> torch.Tensor:
    """Hidden states that predict the answers' tokens, answer after answer, (N, D); gradients flow."""
    ids, mask = pad_right([p + a[:-1] for p, a in zip(prompts, answers, strict=True)])
    wanted = np.arange(ids.shape[1]) >= np.array([[len(p) - 1] for p in prompts])
    return _read(body, packed(body), ids, mask, wanted)


def read_ends(
    body: nn.Module, ids: torch.Tensor, mask: torch.Tensor, edits: Edits | None = None
) -> torch.Tensor:
    """Hidden states at the rows' last real tokens: ids and mask (B, T), padded on any side -> (B, D); gradients flow.

    Raises a `ValueError` where a row has no real token.
    """
    rows = zip(ids.cpu().numpy(), (mask != 0).cpu().numpy(), strict=True)
    ids, mask = pad_right([row[real] for row, real in rows])
    wanted = np.arange(ids.shape[1]) == last_index(mask)[:, None]
    spared = ids.size - _owned(first_alike(ids, mask), mask).sum()
    return _read(body, packed(body, edits) if spared >= FEW else None, ids, mask, wanted, edits)


def _read(
    body: nn.Module, weights: Packed | None, ids: np.ndarray, mask: np.ndarray, wanted: np.ndarray, edits: Edits | None = None
) -> torch.Tensor:  # fmt: skip
    """Hidden states at the places of ids (B, T) that are wanted, row after row.

    The packed forward runs on real tokens only, (n, D), and once on those with which several rows begin; rows are laid out
    (B, T) for attention alone, where the padding is to the right and never seen; the top layer ends at what is wanted.
    """
    device, wanted = next(body.parameters()).device, mask & wanted
    if weights is None:
        ids, mask, wanted = (torch.from_numpy(x).to(device) for x in (ids, mask.astype(np.int64), wanted))
        call = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        return torch.func.functional_call(body, dict(edits or {}), (), call).last_hidden_state[wanted]
    rows, time = ids.shape
    where, source, kept, asked = (torch.from_numpy(x).to(device) for x in _places(ids, mask, wanted))
    ids = torch.from_numpy(ids).to(device).view(-1)[where]
    turns = weights.turns(0, time)[where % time, None, None]  # (n, 1, 1, r / 2)
    heads = (where // time * weights.heads)[:, None] + torch.arange(weights.heads, device=device)
    taken = heads * time + (where % time)[:, None]  # (n, H) places in B x H x T
    x = F.embedding(ids, weights.embed)
    for layer in range(len(weights.layers)):
        mixed = _attend(*_LaidOut.apply(weights.flat(layer, x), turns, source))
        if layer == len(weights.layers) - 1:
            x, taken = _Taken.apply(x, kept), taken[kept]
        mixed = _Taken.apply(mixed.reshape(rows * weights.heads * time, -1), taken.view(-1))
        x = weights.after(layer, x, mixed.view(len(x), -1))
    return weights.end(x).index_select(0, asked)


def _places(ids: np.ndarray, mask: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which tokens of (B, T) the packed forward runs on, and what stands where.

    Returns
    -------
    where : (n,) places in B x T, one of each token's
    source : (B, T) which of the n stands there; token 0 in the padding
    kept : (m,) which of the n the top layer is computed for
    asked : (N,) which of the m each wanted place is
    """
    (rows, time), first = ids.shape, first_alike(ids, mask)
    where = _rounded(_owned(first, mask).reshape(-1))
    source = np.where(mask, _ranks(where, rows * time)[first * time + np.arange(time)], 0)
    read = np.zeros(len(where), bool)
    read[source[wanted]] = True
    kept = _rounded(read)
    return where, source, kept, _ranks(kept, len(where))[source[wanted]]


def _ranks(chosen: np.ndarray, count: int) -> np.ndarray:
    """Where each of `count` things is among the chosen, (count,); 0 if it is not."""
    ranks = np.zeros(count, np.int64)
    ranks[chosen] = np.arange(len(chosen))
    return ranks


def first_alike(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For each place of ids (B, T) one row of those that are equal up to it and at it, for all the same, (B, T) int64."""
    first = np.empty(ids.shape, np.int64)
    order = np.lexsort(np.where(mask, ids, -1).T[::-1])  # rows with a common beginning are neighbours
    first[order[0]] = order[0]
    for before, row in pairwise(order):
        same = np.logical_and.accumulate((ids[before] == ids[row]) & mask[before] & mask[row])
        first[row] = np.where(same, first[before], row)
    return first


def _owned(first: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where a token stands that no row before has: (B, T) bool, from `first_alike`."""
    return mask & (first == np.arange(len(first))[:, None])


def _rounded(flags: np.ndarray) -> np.ndarray:
    """Indices of the true flags (n,), in order; under autocast as many false ones behind them as make n a multiple of 64, if there are so many.

    oneDNN builds a kernel for each shape of a bfloat16 product that it has not met: odd numbers of tokens would make
    every minibatch a new shape. What the extra places compute is not read.
    """
    true = np.flatnonzero(flags)
    if not torch.is_autocast_enabled("cpu"):
        return true
    return np.concatenate([true, np.flatnonzero(~flags)[: -len(true) % 64]])


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention, (B, H, T, W) each; on a CPU in float32, where bfloat16 has no fast backward."""
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class _LaidOut(torch.autograd.Function):
    """q, k, v of n tokens (n, 3, H, W), rotated and put wherever `source` (B, T) names them: three of (B, H, T, W).

    `flat` is used up. A token's gradient is the sum over its places, which are all equally far on in their rows.
    """

    @staticmethod
    def forward(ctx, flat, turns, source):
        ctx.save_for_backward(turns, source)
        _, parts, heads, width = flat.shape
        part, head = (torch.arange(count, device=flat.device) for count in (parts, heads))
        rows = source[:, None] * parts * heads + head[:, None]  # (B, H, T)
        rows = rows + part[:, None, None, None] * heads  # (3, B, H, T)
        laid = turn(flat, turns).view(-1, width).index_select(0, rows.view(-1))
        return laid.view(*rows.shape, width).unbind(0)

    @staticmethod
    def backward(ctx, *grads):
        turns, source = ctx.saved_tensors
        _, heads, _, width = grads[0].shape
        laid = torch.cat([grad.transpose(1, 2).flatten(0, 1).flatten(1) for grad in grads], 1)
        flat = laid.new_zeros(len(turns), laid.shape[1]).index_add_(0, source.view(-1), laid)
        return turn(flat.view(-1, 3, heads, width), turns.conj()), None, None


class _Taken(torch.autograd.Function):
    """Rows x[where], each taken once at most: the gradient is put back without a sum."""

    @staticmethod
    def forward(ctx, x, where):
        ctx.save_for_backward(where)
        ctx.rows = len(x)
        return x.index_select(0, where)

    @staticmethod
    def backward(ctx, grad):
        (where,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, where, grad), None


class _Prefix:
    """Prompts' keys and values, (P, H, T, W) a layer, and the packed forward of the answers on it.

    `layers` runs a part of the stack, from the hidden states `entering` (P, T, D); `passed` are those that leave it.
    """

    @torch.no_grad()
    def __init__(self, weights: Packed, prompts: torch.Tensor, room: int, layers: range, entering=None):
        self.w, self.layers, (self.prompts, self.start) = weights, layers, prompts.shape
        self.ends = layers.stop == len(weights.layers)
        self.scale = 1 / math.sqrt(weights.width)
        self.turns = weights.turns(0, self.start + room)
        self.keys, self.values = {}, {}
        x = weights.embed[prompts] if entering is None else entering
        causal = x.new_full((self.start, self.start), -torch.inf).triu(1)
        for layer in layers:
            q, k, v = weights.qkv(layer, x, self.turns[: self.start])
            self.keys[layer], self.values[layer] = k, v
            seen = torch.softmax(q @ k.transpose(-1, -2) * self.scale + causal, -1) @ v
            x = weights.after(layer, x, seen.transpose(1, 2).flatten(2))
        self.passed = x

    @torch.no_grad()
    def run(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Answers' hidden states (R, T, D) through these layers: (R, D) at the last token where the stack ends, else (R, T, D)."""
        w, (rows, time, _) = self.w, x.shape
        turns = self.turns[self.start : self.start + time]
        causal = x.new_full((time, time), -torch.inf).triu(1)
        every, end = torch.arange(rows, device=x.device), lengths - 1
        for layer in self.layers:
            q, k, v = w.qkv(layer, x, turns)
            mask = causal
            if layer == len(w.layers) - 1:  # the top layer is needed at the last token only
                q, x = q[every, :, end][:, :, None], x[every, end][:, None]
                mask = causal[end][:, None, None]
            x = w.after(layer, x, self._attend(layer, q, k, v, mask))
        return w.end(x[:, 0]) if self.ends else x

    def _attend(self, layer: int, q, keys, values, mask) -> torch.Tensor:
        """q (P x R, H, T, W) over the prompt's keys and the rows' own (P x R, H, S, W) -> (P x R, T, H x W)."""
        rows, heads, time, width = q.shape
        share = (self.prompts, rows // self.prompts, heads, time, width)
        q = q * self.scale
        grouped = q.reshape(share).transpose(1, 2).reshape(self.prompts, heads, -1, width)  # (P, H, R x T, W)
        to_prompt = (grouped @ self.keys[layer].transpose(-1, -2)).view(
            self.prompts, heads, share[1], time, self.start
        )
        to_prompt = to_prompt.transpose(1, 2).reshape(rows, heads, time, self.start)
        to_own = q @ keys.transpose(-1, -2)
        to_own = to_own + mask
        weight = torch.softmax(torch.cat([to_prompt, to_own], -1), -1)
        on_prompt = (
            weight[..., : self.start].reshape(self.prompts, share[1], heads, time, self.start).transpose(1, 2)
        )
        seen = on_prompt.reshape(self.prompts, heads, -1, self.start) @ self.values[layer]
        seen = (
            seen.view(self.prompts, heads, share[1], time, width)
            .transpose(1, 2)
            .reshape(rows, heads, time, width)
        )
        seen = seen + weight[..., self.start :] @ values
        return seen.transpose(1, 2).reshape(rows, time, heads * width)


def _each_on_the_model(trunk: nn.Module, variants: Sequence[Edits], prompts: torch.Tensor):
    """`open_variants` on the model's own forward, one variant after another."""

    @torch.no_grad()
    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([prompts.repeat_interleave(len(ids) // len(prompts), 0), ids], 1)
        place = torch.arange(whole.shape[1], device=ids.device)[None]
        mask = (place < prompts.shape[1] + lengths[:, None]).long()
        call = {"input_ids": whole, "attention_mask": mask, "use_cache": False}
        rows, last = torch.arange(len(ids), device=ids.device), prompts.shape[1] + lengths - 1
        return torch.stack(
            [
                torch.func.functional_call(trunk, dict(e), (), call).last_hidden_state[rows, last]
                for e in variants
            ],
            1,
        )

    return read
