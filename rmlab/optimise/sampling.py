"""Sampling answers: temperature 1, no top-k, no top-p, log-probabilities captured on the way.

The sampler is the policy that is evaluated: what it forbids (PAD, BOS, SEP, UNK) is renormalised away, so
the log-probabilities are those of the distribution that is drawn from. Finished rows are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rmlab.fastpath import open_prompts
from rmlab.recipe import need
from rmlab.tokens import EOS, NEVER_SAMPLED, PAD


@dataclass(frozen=True)
class Answers:
    """Sampled answers, right-padded: ids (R, T) int64, logp (R, T) float32 (0 on padding), lengths (R,) int64.

    An answer that never ended has T tokens and no `<eos>` (`ended` is False).
    """

    ids: np.ndarray
    logp: np.ndarray
    lengths: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        return (self.ids == EOS).any(-1)


@torch.no_grad()
def sample(
    model: nn.Module, prompts: np.ndarray, rows: int, max_answer: int, seed: int, chunk: int = 512
) -> Answers:
    """Draw `rows` answers to every prompt.

    Parameters
    ----------
    model : causal language model in eval mode
    prompts : (P, T) int64 ids, all of one length (group prompts by length; there is no padding)
    rows : N answers a prompt
    max_answer : most tokens an answer may have, `<eos>` included
    seed : the draw's seed; the same seed and chunk give the same answers

    Returns
    -------
    Answers with R = P x N rows, prompt-major.
    """
    prompts = np.asarray(prompts, np.int64)
    need(
        prompts.ndim == 2 and prompts.size > 0,
        "prompts",
        prompts.shape,
        "an array (P, T) of ids of one length",
    )
    need(rows >= 1, "rows", rows, "at least 1")
    need(max_answer >= 1, "max_answer", max_answer, "at least 1")
    place = next(model.parameters()).device
    noise = torch.Generator(device=place).manual_seed(seed)
    head = model.get_output_embeddings().weight
    ban = torch.zeros(head.shape[0], device=place)
    ban[list(NEVER_SAMPLED)] = -torch.inf
    parts = []
    for block, count in _blocks(len(prompts), rows, chunk):
        ids = torch.from_numpy(prompts[block]).to(place)
        if count > 1 and len(ids) > 1:  # few answers to many prompts: a prompt row each
            ids, count = ids.repeat_interleave(count, 0), 1
        parts.append(_draw(model, ids, count, max_answer, head, ban, noise))
    ids, logp = (np.concatenate([p[i] for p in parts]) for i in range(2))
    return Answers(ids, logp, (ids != PAD).sum(1))


def _blocks(prompts: int, rows: int, chunk: int):
    """Pieces of about `chunk` rows: (slice of prompts, rows each), in prompt-major order."""
    if rows >= chunk // 2:
        for p in range(prompts):
            for start in range(0, rows, chunk):
                yield slice(p, p + 1), min(chunk, rows - start)
    else:
        each = max(1, chunk // rows)
        for start in range(0, prompts, each):
            yield slice(start, start + each), rows


def _draw(model, prompts, count: int, max_answer: int, head, ban, noise) -> tuple[np.ndarray, np.ndarray]:
    """Decode one block; returns ids and logp, (rows, max_answer)."""
    total = len(prompts) * count
    place = prompts.device
    prefix = open_prompts(model, prompts, count, max_answer)
    out = torch.full((total, max_answer), PAD, dtype=torch.long, device=place)
    logp = torch.zeros((total, max_answer), device=place)
    alive = torch.arange(total, device=place)
    hidden = prefix.last.repeat_interleave(count, 0)
    for t in range(max_answer):
        logits = torch.log_softmax(hidden.float() @ head.float().T + ban, -1)
        cumulative = logits.exp().cumsum(-1)
        draw = torch.rand(len(alive), 1, generator=noise, device=place) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, draw, right=True).clamp_max_(head.shape[0] - 1)
        out[alive, t] = token[:, 0]
        logp[alive, t] = logits.gather(1, token)[:, 0]
        going = token[:, 0] != EOS
        if t + 1 == max_answer or not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0]
            alive, token = alive[kept], token[kept]
            prefix.keep(kept)
        hidden = prefix.step(token[:, 0])
    return out.cpu().numpy(), logp.cpu().numpy()
