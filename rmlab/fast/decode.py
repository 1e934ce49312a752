"""Many answers growing at once: the decoder that sampling runs on, a token a slot a step.

`open_decoder` encodes prompts of any lengths once; `Decoder.step` appends a token to every slot. Slots are (G, C): C
columns, each with a prompt that its G slots share. Few answers to many prompts are one column whose slots have prompts of
their own. Packed models keep keys and values in one block per layer, allocated once; `Decoder.shrink` moves the last
answers into the places of those that ended, so that dropping an answer costs one answer's move. On a GPU, where a small
step is bound by the launches of its kernels, nothing closes up: the step has fixed shapes, is recorded once as a CUDA
graph and replayed. Every other model runs on its own forward and cache (`plain.Decoder`), or, where its cache is not
keys and values alone, on its own forward without one (`plain.RowDecoder`). Tests hold all equal.

Letters: G slots a column, C columns, N = G x C slots, H heads, K key-value heads, Q = H / K, W width of a head,
L longest prompt, D hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from rmlab.fast import plain
from rmlab.fast.ids import check_rows, vocabulary
from rmlab.fast.packed import Packed, packed
from rmlab.fast.plain import Decoder, RowDecoder, has_plain_cache
from rmlab.recipe import require

SHARED = 16  # answers a prompt from which its keys are shared and not copied
WORTH = 8  # tokens of an answer from which a step is worth recording


@torch.no_grad()
def open_decoder(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers_per_prompt: int,
    max_new_tokens: int,
    pad: int = 0,
) -> Decoder:
    """Encode P prompts, one that comes again once, and make room for answers.

    Parameters
    ----------
    model : a Hugging Face causal language model in eval mode
    prompts : P lists of ids, none empty, of any lengths
    max_new_tokens : tokens an answer may have
    pad : an id that fills shorter prompts up, and is never seen

    Returns
    -------
    A decoder of P x answers_per_prompt slots; `Decoder.slots` (G, C) says which answer (prompt-major) each holds.

    Raises
    ------
    ValueError
        An empty prompt, an id outside the vocabulary, a model that sees ahead.
    """
    trunk = plain.trunk_of(model)
    device, known = plain.device_of(trunk), vocabulary(trunk)
    check_rows("pad", [[pad]], known)
    require(answers_per_prompt > 0, "answers_per_prompt", answers_per_prompt, "at least 1")
    require(max_new_tokens > 0, "max_new_tokens", max_new_tokens, "at least 1")
    rows, once = [row.tolist() for row in check_rows("prompts", prompts, known)], {}
    longest = max(map(len, rows))
    which = np.array([once.setdefault(tuple(row), len(once)) for row in rows])  # which of the distinct ones
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in once], device=device)
    gaps = torch.tensor([longest - len(row) for row in once], device=device)
    weights = packed(trunk, longest + max_new_tokens)
    if weights is None:
        kind = Decoder if has_plain_cache(trunk) else RowDecoder
        return kind(trunk, ids, gaps, which, answers_per_prompt, max_new_tokens)
    kind = RecordedDecoder if device.type == "cuda" else PackedDecoder
    return kind(weights, ids, gaps, which, answers_per_prompt, max_new_tokens)


class PackedDecoder(Decoder):
    """The packed forward, a cache of keys and values (2, N, K, S, W) a layer."""

    def __init__(
        self, weights: Packed, ids, gaps, which: np.ndarray, answers_per_prompt: int, max_new_tokens: int
    ):
        self.weights, length = weights, ids.shape[1]
        shared = answers_per_prompt >= SHARED
        answers = np.arange(len(which) * answers_per_prompt)
        self.slots = answers.reshape(-1, answers_per_prompt).T if shared else answers[:, None]
        self.columns = self.slots.shape[1]
        self.start = 0 if shared else length  # where an answer begins in the cache
        self.time = 0  # tokens of an answer so far
        order = torch.from_numpy(which[self.slots.reshape(-1) // answers_per_prompt]).to(ids.device)
        held = order[: len(which)] if shared else order  # prompts' keys are kept for a column, or for a slot
        position_ids = torch.arange(length + max_new_tokens, device=ids.device) - gaps[:, None]  # (P, L + S)
        rotations = weights.rotations(length + max_new_tokens)[position_ids.clamp_min(0)]  # (P, L + S, r / 2)
        gap = position_ids[:, :length] < 0  # (P, L)
        x, cached = weights.encode(weights.embed(ids), rotations[:, :length], range(len(weights.layers)), gap)
        self.last = weights.end(x[:, -1])[order]
        size = 2, len(answers), weights.key_heads, self.start + max_new_tokens, weights.width
        self.cache = [self.last.new_empty(size) for _ in weights.layers]
        self.prompt: list[
            tuple[torch.Tensor, torch.Tensor]
        ] = []  # keys (C, K, W, L) and values, where they are shared
        for cache, (k, v) in zip(self.cache, cached, strict=True):
            if shared:
                self.prompt.append((k.transpose(-1, -2).contiguous()[held], v.contiguous()[held]))
            else:
                cache[0, :, :, :length], cache[1, :, :, :length] = k[held], v[held]
        self.rotations = rotations[order if gap.any() else order[:1], length:]
        self.bias = None  # (C or N, 1, 1, L) over a prompt's gap, where prompts are of several lengths
        if gap.any():
            self.bias = self.last.new_zeros(gap.shape).masked_fill_(gap, -torch.inf)[held, None, None]

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `plain.Decoder.step`: a token a slot, (N,) -> hidden states (N, D)."""
        weights, at = self.weights, self.start + self.time
        x = weights.embed(tokens)
        for layer in range(len(weights.layers)):
            flat = weights.qkv(layer, x, self.rotations[:, self.time])  # (N, F, W)
            cache = self.cache[layer][:, : len(tokens)]
            cache[..., at, :] = self._keys(flat)
            x = weights.after(layer, x, self._attend(layer, flat, *cache[..., : at + 1, :].flatten(1, 2)))
        self.time += 1
        return weights.end(x)

    def _keys(self, flat: torch.Tensor) -> torch.Tensor:
        """Keys and values of (N, F, W), (2, N, K, W)."""
        return flat[:, self.weights.heads :].unflatten(1, (2, -1)).transpose(0, 1)

    def _attend(
        self, layer: int, flat: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen=None
    ) -> torch.Tensor:
        """q of (N, F, W), own keys and values (N x K, T, W), seen (T,), 0 or -inf, or None: all -> (N, H x W)."""
        slots, groups, width = len(flat), self.weights.key_heads, self.weights.width
        q = flat[:, : self.weights.heads].reshape(slots * groups, -1, width)  # (N x K, Q, W)
        own = torch.bmm(q, keys.transpose(1, 2))  # (N x K, Q, T)
        if seen is not None:
            own += seen
        if not self.prompt:
            if self.bias is not None:
                own.view(slots, groups, -1, own.shape[-1])[..., : self.start].add_(self.bias)
            return torch.bmm(torch.softmax(own, -1), values).view(slots, -1)
        past_keys, past_values = self.prompt[layer]  # (C, K, W, L), (C, K, L, W)
        there = self._by_column(q) @ past_keys  # (C, K, G x Q, L)
        if self.bias is not None:
            there += self.bias
        weight = torch.softmax(torch.cat([self._by_slot(there, q.shape), own], -1), -1)
        length = past_keys.shape[-1]
        on_prompt = self._by_slot(self._by_column(weight[..., :length]) @ past_values, q.shape)
        return torch.baddbmm(on_prompt, weight[..., length:], values).view(slots, -1)

    def _by_column(self, x: torch.Tensor) -> torch.Tensor:
        """(N x K, Q, ...) -> (C, K, G x Q, ...)."""
        return x.unflatten(0, (-1, self.columns, self.weights.key_heads)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _by_slot(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Back again, to (N x K, Q, ...) of this shape."""
        return x.unflatten(2, (-1, shape[1])).permute(2, 0, 1, 3, 4).flatten(0, 2)

    def _move(self, to: torch.Tensor, kept: torch.Tensor) -> None:
        reach = self.start + self.time
        for cache in self.cache:
            cache[:, to, :, :reach] = cache[:, kept[to], :, :reach]
        if len(self.rotations) > 1:
            self.rotations = self.rotations[kept]
        if self.bias is not None and not self.prompt:
            self.bias = self.bias[kept]


class RecordedDecoder(PackedDecoder):
    """A step that finds all it needs in tensors that stay where they are, so that a GPU can replay it.

    It attends over the whole cache, what has not come yet hidden by `seen`. Where there is no GPU to record it, it is called.
    """

    look = 16  # a look waits for the device, and can save no more than the steps after the last answer's end

    def __init__(
        self, weights: Packed, ids, gaps, which: np.ndarray, answers_per_prompt: int, max_new_tokens: int
    ):
        super().__init__(weights, ids, gaps, which, answers_per_prompt, max_new_tokens)
        for cache in self.cache:
            cache[..., self.start :, :] = 0  # hidden, and still multiplied: it must be finite
        self.tokens, self.hidden = ids.new_zeros(len(self.last)), torch.empty_like(self.last)
        self.at = ids.new_empty(1)  # where the next token stands
        self.seen = self.last.new_empty(self.start + max_new_tokens)
        self.replay = self._record() if ids.is_cuda and max_new_tokens >= WORTH else self._step
        self._begin()

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `plain.Decoder.step`: a token a slot, (N,) -> hidden states (N, D)."""
        self.tokens.copy_(tokens)
        self.replay()
        return self.hidden

    def shrink(self, going: np.ndarray) -> None:
        """Nothing closes up: the shapes stay."""

    def _begin(self) -> None:
        self.at.fill_(self.start)
        self.seen.fill_(-torch.inf)[: self.start] = 0

    @torch.no_grad()
    def _step(self) -> None:
        weights = self.weights
        self.seen.index_fill_(0, self.at, 0)
        rotations = self.rotations.index_select(1, self.at - self.start)[:, 0]
        x = weights.embed(self.tokens)
        for layer, cache in enumerate(self.cache):
            flat = weights.qkv(layer, x, rotations)
            cache.index_copy_(3, self.at, self._keys(flat).unsqueeze(3).to(cache.dtype))
            x = weights.after(layer, x, self._attend(layer, flat, *cache.flatten(1, 2), self.seen))
        self.hidden.copy_(weights.end(x))
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
