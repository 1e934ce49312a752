"""Sampling answers: temperature 1, no top-k, no top-p, log-probabilities captured on the way.

The sampler is the policy that is evaluated: what it forbids (PAD, BOS, SEP, UNK) is renormalised away, so
the log-probabilities are those of the distribution that is drawn from. Every token of every answer has a random number
of its own, drawn before the first: neither what other answers do nor `chunk` changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rmlab.fast.decode import open_decoder
from rmlab.recipe import require
from rmlab.tokens import EOS, NEVER_SAMPLED, PAD


@dataclass(frozen=True)
class Answers:
    """Sampled answers, right-padded: ids (R, T) int64, logp (R, T) float32 (0 on padding), lengths (R,) int64.

    An answer that never ended has T tokens and no `<eos>` (`ended` is False). `values` (R, T) float32 is what `read`
    gave for each token, 0 on padding, or None where nothing was to be read.
    """

    ids: np.ndarray
    logp: np.ndarray
    lengths: np.ndarray
    values: np.ndarray | None = None

    @property
    def ended(self) -> np.ndarray:
        return (self.ids == EOS).any(-1)


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    rows: int,
    max_answer: int,
    seed: int,
    chunk: int = 512,
    read: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Answers:
    """Draw `rows` answers to every prompt.

    Parameters
    ----------
    model : causal language model in eval mode
    prompts : P lists of ids, none empty, of any lengths
    rows : N answers a prompt
    max_answer : most tokens an answer may have, `<eos>` included
    seed : the draw's seed; the same seed gives the same answers
    chunk : about how many answers grow at once
    read : hidden states that predict a token, (n, D) -> (n,): read on the way and kept, as a critic's values are

    Returns
    -------
    Answers with R = P x N rows, prompt-major.
    """
    prompts = [[int(t) for t in p] for p in prompts]
    empty = [i for i, p in enumerate(prompts) if not p]
    require(
        prompts and not empty, "prompts", f"{len(prompts)} lists, empty: {empty}", "lists of ids, none empty"
    )
    require(rows >= 1, "rows", rows, "at least 1")
    require(max_answer >= 1, "max_answer", max_answer, "at least 1")
    matrix = model.get_output_embeddings().weight
    head = _Head(matrix.float().T.contiguous(), _ban(matrix), read)
    noise = torch.Generator(device=matrix.device).manual_seed(seed)
    parts, each = [], max(1, chunk // rows)
    for start in range(0, len(prompts), each):
        block = prompts[start : start + each]
        for begun in range(0, rows, chunk):
            count = min(chunk, rows - begun)
            uniform = torch.rand(len(block) * count, max_answer, generator=noise, device=matrix.device)
            with torch.autocast(matrix.device.type, enabled=False):
                parts.append(_draw(model, block, count, uniform, head))
    ids, logp, values = (torch.cat(x).cpu().numpy() for x in zip(*parts, strict=True))
    return Answers(ids, logp, (ids != PAD).sum(1), None if read is None else values)


@dataclass(frozen=True)
class _Head:
    """What turns hidden states into draws: matrix (D, V), ban (V,) of 0 and -inf, and what else is read."""

    matrix: torch.Tensor
    ban: torch.Tensor
    read: Callable | None

    def draw(self, hidden: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden (n, D), uniform (n,) in [0, 1) -> tokens (n,) by the inverse of the distribution function, and logp (n,)."""
        logits = torch.addmm(self.ban, hidden.float(), self.matrix)
        logits -= logits.amax(-1, keepdim=True)
        cumulative = logits.exp().cumsum_(-1)
        whole = cumulative[:, -1:]
        token = torch.searchsorted(cumulative, uniform[:, None] * whole, right=True)
        token.clamp_max_(len(self.ban) - 1)
        return token[:, 0], (logits.gather(1, token) - whole.log())[:, 0]


def _ban(matrix: torch.Tensor) -> torch.Tensor:
    ban = torch.zeros(len(matrix), device=matrix.device)
    ban[list(NEVER_SAMPLED)] = -torch.inf
    return ban


def _draw(model, prompts: list, rows: int, uniform: torch.Tensor, head: _Head) -> tuple[torch.Tensor, ...]:
    """Decode one block on uniform (P x rows, T): ids, logp and values, each (P x rows, T)."""
    decoder = open_decoder(model, prompts, rows, uniform.shape[1])
    ids = torch.full(uniform.shape, PAD, dtype=torch.long, device=uniform.device)
    logp, values = torch.zeros_like(uniform), torch.zeros_like(uniform)
    at = torch.from_numpy(decoder.slots.reshape(-1)).to(uniform.device)
    going = torch.ones(len(at), dtype=torch.bool, device=uniform.device)
    hidden = decoder.last
    for t in range(uniform.shape[1]):
        token, found = head.draw(hidden, uniform[at, t])
        token = torch.where(going, token, PAD)
        ids[at, t], logp[at, t] = token, torch.where(going, found, 0.0)
        if head.read is not None:
            values[at, t] = torch.where(going, head.read(hidden).float(), 0.0)
        going &= token != EOS
        if t + 1 == uniform.shape[1]:
            break
        if t % decoder.look == 0:
            still = going.cpu().numpy()
            if not still.any():
                break
            kept = decoder.shrink(still.reshape(decoder.slots.shape))
            if kept is not None:
                at, token, going = at[kept], token[kept], going[kept]
        hidden = decoder.step(token)
    return ids, logp, values
