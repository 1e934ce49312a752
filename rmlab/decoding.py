"""Many answers growing at once: the decoder that sampling runs on, a token a slot a step.

`open_decoder` encodes prompts of any lengths once; `Decoder.step` appends a token to every slot. Slots are
(G, C): C columns, each with a prompt that its G slots share. Few answers to many prompts are one column whose slots
have prompts of their own. Families with packed weights (`packed.py`) keep keys and values in one block per layer,
allocated once; `Decoder.shrink` moves the last answers into the places of those that ended, so that dropping an answer
costs one answer's move. Every other family runs on the model's own forward and cache. Tests hold the two equal.

Letters: G slots a column, C columns, N = G x C slots, H heads, W width of a head, L longest prompt, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rmlab.packed import Packed, packed, turn
from rmlab.tokens import PAD

SHARED = 16  # answers a prompt from which its keys are shared and not copied


def open_decoder(model: nn.Module, prompts: Sequence[Sequence[int]], rows: int, room: int) -> Decoder:
    """Encode P prompts and make room for answers.

    Parameters
    ----------
    model : a Hugging Face causal language model in eval mode
    prompts : P lists of ids, none empty, of any lengths
    rows : answers a prompt
    room : tokens an answer may have

    Returns
    -------
    A decoder of P x rows slots; `Decoder.slots` (G, C) says which answer (prompt-major) each holds.
    """
    trunk = getattr(model, model.base_model_prefix)
    device = next(trunk.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + list(p) for p in prompts], device=device)
    gaps = torch.tensor([width - len(p) for p in prompts], device=device)
    with torch.no_grad():
        weights = packed(trunk)
        if weights is None:
            return ModelDecoder(trunk, ids, gaps, rows, room)
        return PackedDecoder(weights, ids, gaps, rows, room)


class Decoder:
    """Answers that grow. Hidden states are after the final norm, one a slot, (N, D)."""

    slots: np.ndarray  # (G, C) which answer, prompt-major, is in a slot
    last: torch.Tensor  # (N, D) hidden state of the prompt's last token, slot by slot

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to every slot, (N,) -> hidden (N, D)."""
        raise NotImplementedError  # pragma: no cover - the two below

    def shrink(self, going: np.ndarray) -> torch.Tensor | None:
        """Drop slots whose answer is done, where it pays; going (G, C) bool.

        Returns the slots (N',) of before that are there after, in their new order, or None where nothing changed. A
        column keeps as many slots as the longest one needs; what is kept beyond `going` is to be ignored.
        """
        count, columns = going.shape
        need = int(going.sum(0).max())
        if need > 15 * count // 16:
            return None
        holes, tails = ~going[:need].T, going[need:].T  # column by column
        tail = np.argwhere(tails)
        rank = np.arange(len(tail)) - np.searchsorted(tail[:, 0], tail[:, 0])
        hole = np.argwhere(holes)
        hole = hole[np.searchsorted(hole[:, 0], tail[:, 0]) + rank]
        to = hole[:, 1] * columns + hole[:, 0]
        source = (tail[:, 1] + need) * columns + tail[:, 0]
        kept = np.arange(need * columns)
        kept[to] = source
        self.slots = self.slots.reshape(-1)[kept].reshape(need, columns)
        self._move(torch.from_numpy(to), torch.from_numpy(source), torch.from_numpy(kept))
        return torch.from_numpy(kept)

    def _move(self, to: torch.Tensor, source: torch.Tensor, kept: torch.Tensor) -> None:
        raise NotImplementedError  # pragma: no cover


class PackedDecoder(Decoder):
    """The packed forward, a cache (N, H, W, room) of keys and (N, H, room, W) of values a layer."""

    def __init__(self, weights: Packed, ids: torch.Tensor, gaps: torch.Tensor, rows: int, room: int):
        self.w, (prompts, length) = weights, ids.shape
        self.scale = 1 / math.sqrt(weights.width)
        shared = rows >= SHARED
        answers = np.arange(prompts * rows)
        self.slots = answers.reshape(prompts, rows).T if shared else answers[:, None]
        self.columns = self.slots.shape[1]
        self.start = 0 if shared else length  # where an answer begins in the cache
        self.time = 0  # tokens of an answer so far
        wide, long = weights.width, self.start + room
        empty = weights.embed.new_empty
        self.keys = [empty(len(answers), weights.heads, wide, long) for _ in weights.layers]
        self.values = [empty(len(answers), weights.heads, long, wide) for _ in weights.layers]
        self.prompt: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer, where it is shared
        at = (torch.arange(length + room, device=ids.device) - gaps[:, None]).clamp_min(0)  # (P, L + room)
        cos, sin = (angle[at][:, None] for angle in weights.angles(0, length + room))
        place = torch.arange(length, device=ids.device)
        gap = place < gaps[:, None]  # (P, L)
        seen = ~gap[:, None] & (place <= place[:, None]) | (place == place[:, None])
        bias = weights.embed.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None]
        x = weights.embed[ids]
        for layer in range(len(weights.layers)):
            q, k, v = weights.qkv(layer, x, cos[:, :, :length], sin[:, :, :length])
            if shared:
                self.prompt.append((k.transpose(-1, -2).contiguous(), v.contiguous()))
            else:
                self.keys[layer].unflatten(0, (prompts, rows))[..., :length] = k.transpose(-1, -2)[:, None]
                self.values[layer].unflatten(0, (prompts, rows))[..., :length, :] = v[:, None]
            if layer == len(weights.layers) - 1:  # the top layer is needed at the last token only
                q, x, bias = q[:, :, -1:], x[:, -1:], bias[:, :, -1:]
            mixed = torch.softmax(q @ k.transpose(-1, -2) * self.scale + bias, -1) @ v
            x = weights.after(layer, x, mixed.transpose(1, 2).flatten(2))
        order = torch.from_numpy(self.slots.reshape(-1) // rows).to(ids.device)
        self.last = weights.end(x[:, -1])[order]
        turned = order if gap.any() else order[:1]
        self.cos, self.sin = cos[turned, 0, length:, None, None], sin[turned, 0, length:, None, None]
        self.bias = None  # (C or N, 1, 1, L) over a prompt's gap, where prompts are of several lengths
        if gap.any():
            bias = weights.embed.new_zeros(gap.shape).masked_fill_(gap, -torch.inf)[:, None, None]
            self.bias = bias if shared else bias[order]

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        w, t, slots = self.w, self.time, len(tokens)
        at = self.start + t
        x = w.embed[tokens]
        for layer in range(len(w.layers)):
            q, k, v = turn(w.flat(layer, x), self.cos[:, t], self.sin[:, t]).unbind(1)  # (N, H, W)
            keys, values = self.keys[layer][:slots], self.values[layer][:slots]
            keys[..., at] = k
            values[:, :, at] = v
            mixed = self._attend(
                layer, q, keys[..., : at + 1].flatten(0, 1), values[:, :, : at + 1].flatten(0, 1)
            )
            x = w.after(layer, x, mixed)
        self.time += 1
        return w.end(x)

    def _attend(self, layer: int, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """q (N, H, W), own keys (N x H, W, T) and values (N x H, T, W) -> (N, H x W)."""
        slots, heads, width = q.shape
        own = torch.bmm(q.reshape(-1, 1, width), keys)  # (N x H, 1, T)
        if not self.prompt:
            own = own.mul_(self.scale).view(slots, heads, -1)
            if self.bias is not None:
                own[..., : self.start] += self.bias[:, 0]
            weight = torch.softmax(own, -1)
            return torch.bmm(weight.view(slots * heads, 1, -1), values).view(slots, -1)
        past_keys, past = self.prompt[layer]  # (C, H, W, L), (C, H, L, W)
        group = (slots // self.columns, self.columns, heads, width)
        there = q.view(group).permute(1, 2, 0, 3) @ past_keys  # (C, H, G, L)
        if self.bias is not None:
            there += self.bias
        there = there.permute(2, 0, 1, 3).reshape(slots * heads, 1, -1)
        length = there.shape[-1]
        weight = torch.softmax(torch.cat([there, own], -1).mul_(self.scale), -1)
        on = weight[..., :length].view(*group[:3], length).permute(1, 2, 0, 3)
        seen = (on @ past).permute(2, 0, 1, 3).reshape(slots * heads, 1, width)
        return torch.baddbmm(seen, weight[..., length:], values).view(slots, -1)

    def _move(self, to, source, kept) -> None:
        reach = self.start + self.time
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[to, :, :, :reach] = keys[source, :, :, :reach]
            values[to, :, :reach] = values[source, :, :reach]
        if len(self.cos) > 1:
            self.cos, self.sin = self.cos[kept], self.sin[kept]
        if self.bias is not None and not self.prompt:
            self.bias = self.bias[kept]


class ModelDecoder(Decoder):
    """Any family, on the model's own forward and a cache that is expanded to the slots."""

    def __init__(self, trunk: nn.Module, ids: torch.Tensor, gaps: torch.Tensor, rows: int, room: int):
        from transformers import DynamicCache

        self.trunk, self.cache = trunk, DynamicCache(config=trunk.config)
        self.slots = np.arange(len(ids) * rows)[:, None]
        place = torch.arange(ids.shape[1] + room, device=ids.device)[None] - gaps[:, None]
        mask, place = (place >= 0).long(), place.clamp_min(0)
        self.time = ids.shape[1]
        hidden = self._run(ids, mask[:, : self.time], place[:, : self.time])
        self.last = hidden[:, -1].repeat_interleave(rows, 0)
        self.mask, self.place = mask.repeat_interleave(rows, 0), place.repeat_interleave(rows, 0)
        if rows > 1:
            self.cache.batch_repeat_interleave(rows)

    @torch.no_grad()
    def _run(self, ids, mask, place) -> torch.Tensor:
        call = {"input_ids": ids, "attention_mask": mask, "position_ids": place}
        return self.trunk(**call, past_key_values=self.cache, use_cache=True).last_hidden_state

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        t, self.time = self.time, self.time + 1
        return self._run(tokens[:, None], self.mask[:, : t + 1], self.place[:, t : t + 1])[:, 0]

    def _move(self, to, source, kept) -> None:
        kept = kept.to(self.mask.device)
        self.cache.batch_select_indices(kept)
        self.mask, self.place = self.mask[kept], self.place[kept]
