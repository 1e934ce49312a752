"""Many answers growing at once: the decoder that sampling runs on, a token a slot a step.

`open_decoder` encodes prompts of any lengths once; `Decoder.step` appends a token to every slot. Slots are
(G, C): C columns, each with a prompt that its G slots share. Few answers to many prompts are one column whose slots
have prompts of their own. Families with packed weights (`packed.py`) keep keys and values in one block per layer,
allocated once; `Decoder.shrink` moves the last answers into the places of those that ended, so that dropping an answer
costs one answer's move. On a GPU, where a small step is bound by the launches of its kernels, nothing closes up: the step
has fixed shapes, is recorded once as a CUDA graph and replayed. Every other family runs on the model's own forward and
cache. Tests hold all equal.

Letters: G slots a column, C columns, N = G x C slots, H heads, W width of a head, L longest prompt, D hidden.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from rmlab.fast.packed import Packed, packed, turn

PAD = 0  # a filler

SHARED = 16  # answers a prompt from which its keys are shared and not copied
WORTH = 8  # tokens of an answer from which a step is worth recording


def open_decoder(model: nn.Module, prompts: Sequence[Sequence[int]], rows: int, room: int) -> Decoder:
    """Encode P prompts, one that comes again once, and make room for answers.

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
    width, once = max(map(len, prompts)), {}
    which = np.array([once.setdefault(tuple(p), len(once)) for p in prompts])  # which of the distinct ones
    ids = torch.tensor([[PAD] * (width - len(p)) + list(p) for p in once], device=device)
    gaps = torch.tensor([width - len(p) for p in once], device=device)
    with torch.no_grad():
        weights = packed(trunk)
        if weights is None:
            return ModelDecoder(trunk, ids, gaps, which, rows, room)
        kind = RecordedDecoder if device.type == "cuda" else PackedDecoder
        return kind(weights, ids, gaps, which, rows, room)


class Decoder:
    """Answers that grow. Hidden states are after the final norm, one a slot, (N, D)."""

    slots: np.ndarray  # (G, C) which answer, prompt-major, is in a slot
    last: torch.Tensor  # (N, D) hidden state of the prompt's last token, slot by slot
    look: int = 1  # after how many steps it is worth a look which answers go on

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to every slot, (N,) -> hidden (N, D), which the next step may write over."""
        raise NotImplementedError  # pragma: no cover - the three below

    def shrink(self, going: np.ndarray) -> torch.Tensor | None:
        """Drop slots whose answer is done, where it pays; going (G, C) bool.

        Returns the slots (N',) of before that are there after, in their new order, or None where nothing changed. A
        column keeps as many slots as the longest one needs; what is kept beyond `going` is to be ignored.
        """
        count, columns = going.shape
        longest = int(going.sum(0).max())
        if longest > 15 * count // 16:
            return None
        holes, tails = ~going[:longest].T, going[longest:].T  # column by column
        tail = np.argwhere(tails)
        rank = np.arange(len(tail)) - np.searchsorted(tail[:, 0], tail[:, 0])
        hole = np.argwhere(holes)
        hole = hole[np.searchsorted(hole[:, 0], tail[:, 0]) + rank]
        to = hole[:, 1] * columns + hole[:, 0]
        source = (tail[:, 1] + longest) * columns + tail[:, 0]
        kept = np.arange(longest * columns)
        kept[to] = source
        self.slots = self.slots.reshape(-1)[kept].reshape(longest, columns)
        self._move(torch.from_numpy(to), torch.from_numpy(source), torch.from_numpy(kept))
        return torch.from_numpy(kept)

    def _move(self, to: torch.Tensor, source: torch.Tensor, kept: torch.Tensor) -> None:
        raise NotImplementedError  # pragma: no cover


class PackedDecoder(Decoder):
    """The packed forward, a cache of keys and values (2, N, H, room, W) a layer."""

    def __init__(self, weights: Packed, ids, gaps, which: np.ndarray, rows: int, room: int):
        self.w, length = weights, ids.shape[1]
        self.scale = 1 / math.sqrt(weights.width)
        shared = rows >= SHARED
        answers = np.arange(len(which) * rows)
        self.slots = answers.reshape(-1, rows).T if shared else answers[:, None]
        self.columns = self.slots.shape[1]
        self.start = 0 if shared else length  # where an answer begins in the cache
        self.time = 0  # tokens of an answer so far
        size = 2, len(answers), weights.heads, self.start + room, weights.width
        self.cache = [weights.embed.new_empty(size) for _ in weights.layers]
        self.prompt: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer, where it is shared
        order = torch.from_numpy(which[self.slots.reshape(-1) // rows]).to(ids.device)
        held = order[: len(which)] if shared else order  # keys are kept for a column, or for a slot
        at = (torch.arange(length + room, device=ids.device) - gaps[:, None]).clamp_min(0)  # (P, L + room)
        turns = weights.turns(0, length + room)[at]  # (P, L + room, r / 2)
        place = torch.arange(length, device=ids.device)
        gap = place < gaps[:, None]  # (P, L)
        seen = ~gap[:, None] & (place <= place[:, None]) | (place == place[:, None])
        bias = weights.embed.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None]
        x = weights.embed[ids]
        for layer in range(len(weights.layers)):
            q, k, v = weights.qkv(layer, x, turns[:, :length])
            if shared:
                self.prompt.append((k.transpose(-1, -2).contiguous()[held], v.contiguous()[held]))
            else:
                for cache, one in zip(self.cache[layer], (k, v), strict=True):
                    cache[:, :, :length] = one[held]
            if layer == len(weights.layers) - 1:  # the top layer is needed at the last token only
                q, x, bias = q[:, :, -1:], x[:, -1:], bias[:, :, -1:]
            mixed = torch.softmax(q @ k.transpose(-1, -2) * self.scale + bias, -1) @ v
            x = weights.after(layer, x, mixed.transpose(1, 2).flatten(2))
        self.last = weights.end(x[:, -1])[order]
        self.turns = turns[order if gap.any() else order[:1], length:, None, None]
        self.bias = None  # (C or N, 1, 1, L) over a prompt's gap, where prompts are of several lengths
        if gap.any():
            bias = weights.embed.new_zeros(gap.shape).masked_fill_(gap, -torch.inf)[:, None, None]
            self.bias = bias[held]

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        w, t, slots = self.w, self.time, len(tokens)
        at = self.start + t
        x = w.embed[tokens]
        for layer in range(len(w.layers)):
            flat = turn(w.flat(layer, x), self.turns[:, t])  # (N, 3, H, W)
            cache = self.cache[layer][:, :slots]
            cache[..., at, :] = flat[:, 1:].transpose(0, 1)
            x = w.after(layer, x, self._attend(layer, flat[:, 0], *cache[..., : at + 1, :].flatten(1, 2)))
        self.time += 1
        return w.end(x)

    def _attend(
        self, layer: int, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen=None
    ) -> torch.Tensor:
        """q (N, H, W), own keys and values (N x H, T, W), seen (T,), 0 or -inf, or None: all -> (N, H x W)."""
        slots, heads, width = q.shape
        q = q.reshape(-1, 1, width)
        plus, beta = (q[:1, :, :1], 0) if seen is None else (seen, 1)
        own = torch.baddbmm(plus, q, keys.transpose(1, 2), beta=beta, alpha=self.scale)  # (N x H, 1, T)
        if not self.prompt:
            if self.bias is not None:
                own.view(slots, heads, 1, -1)[..., : self.start].add_(self.bias)
            return torch.bmm(torch.softmax(own, -1), values).view(slots, -1)
        past_keys, past = self.prompt[layer]  # (C, H, W, L), (C, H, L, W)
        group = (slots // self.columns, self.columns, heads, width)
        there = (q * self.scale).view(group).permute(1, 2, 0, 3) @ past_keys  # (C, H, G, L)
        if self.bias is not None:
            there += self.bias
        there = there.permute(2, 0, 1, 3).reshape(slots * heads, 1, -1)
        length = there.shape[-1]
        weight = torch.softmax(torch.cat([there, own], -1), -1)
        on = weight[..., :length].view(*group[:3], length).permute(1, 2, 0, 3)
        on_prompt = (on @ past).permute(2, 0, 1, 3).reshape(slots * heads, 1, width)
        return torch.baddbmm(on_prompt, weight[..., length:], values).view(slots, -1)

    def _move(self, to, source, kept) -> None:
        reach = self.start + self.time
        for cache in self.cache:
            cache[:, to, :, :reach] = cache[:, source, :, :reach]
        if len(self.turns) > 1:
            self.turns = self.turns[kept]
        if self.bias is not None and not self.prompt:
            self.bias = self.bias[kept]


class RecordedDecoder(PackedDecoder):
    """A step that finds all it needs in tensors that stay where they are, so that a GPU can replay it.

    It attends over the whole cache, what has not come yet hidden by `seen`. Where there is no GPU to record it, it is called.
    """

    look = 16  # a look waits for the device, and can save no more than the steps after the last answer's end

    def __init__(self, weights: Packed, ids, gaps, which: np.ndarray, rows: int, room: int):
        super().__init__(weights, ids, gaps, which, rows, room)
        for cache in self.cache:
            cache[..., self.start :, :] = 0  # hidden, and still multiplied: it must be finite
        self.tokens, self.hidden = ids.new_zeros(len(self.last)), torch.empty_like(self.last)
        self.at = ids.new_empty(1)  # where the next token stands
        self.seen = self.last.new_empty(self.start + room)
        self.replay = self._record() if ids.is_cuda and room >= WORTH else self._step
        self._begin()

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens.copy_(tokens)
        self.replay()
        return self.hidden

    def shrink(self, going: np.ndarray) -> None:
        return None

    def _begin(self) -> None:
        self.at.fill_(self.start)
        self.seen.fill_(-torch.inf)[: self.start] = 0

    @torch.no_grad()
    def _step(self) -> None:
        w = self.w
        self.seen.index_fill_(0, self.at, 0)
        turns = self.turns.index_select(1, self.at - self.start)[:, 0]
        x = w.embed[self.tokens]
        for layer, cache in enumerate(self.cache):
            flat = turn(w.flat(layer, x), turns)
            cache.index_copy_(3, self.at, flat[:, 1:].transpose(0, 1).unsqueeze(3).to(cache.dtype))
            x = w.after(layer, x, self._attend(layer, flat[:, 0], *cache.flatten(1, 2), self.seen))
        self.hidden.copy_(w.end(x))
        self.at += 1

    def _record(self) -> Callable[[], None]:  # pragma: no cover - on a GPU alone
        with torch.cuda.device(self.at.device):
            now, aside = torch.cuda.current_stream(), _aside(self.at.device)
            aside.wait_stream(now)
            with torch.cuda.stream(aside):
                for _ in range(2):  # what libraries do in their first calls cannot be recorded
                    self._begin()
                    self._step()
            now.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._step()
        return graph.replay


@functools.cache
def _aside(device: torch.device) -> torch.cuda.Stream:  # pragma: no cover - on a GPU alone
    """A device's one stream to record on: libraries keep memory for every stream that they have seen."""
    return torch.cuda.Stream(device)


class ModelDecoder(Decoder):
    """Any family, on the model's own forward and a cache that is expanded to the slots."""

    def __init__(self, trunk: nn.Module, ids, gaps, which: np.ndarray, rows: int, room: int):
        from transformers import DynamicCache

        self.trunk, self.cache = trunk, DynamicCache(config=trunk.config)
        self.slots = np.arange(len(which) * rows)[:, None]
        place = torch.arange(ids.shape[1] + room, device=ids.device)[None] - gaps[:, None]
        mask, place = (place >= 0).long(), place.clamp_min(0)
        self.time = ids.shape[1]
        hidden = self._run(ids, mask[:, : self.time], place[:, : self.time])
        order = torch.from_numpy(which.repeat(rows)).to(ids.device)
        self.last, self.mask, self.place = hidden[order, -1], mask[order], place[order]
        if len(order) > len(ids):
            self.cache.batch_select_indices(order)

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
