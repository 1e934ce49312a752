"""Sampling answers: temperature 1, no top-k, no top-p, log-probabilities captured on the way.

The sampler is the policy that is evaluated: what it never samples (see `rmlab.tokens.SpecialTokens`) is
renormalised away, so the log-probabilities are those of the distribution that is drawn from. Every token of
every answer has a random number of its own, drawn before the first: neither what other answers do nor `chunk`
changes an answer.

Letters: P prompts, N answers a prompt, R = P x N answers, T tokens, D hidden, V vocabulary, S slots that grow
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rmlab.fast.decode import open_decoder
from rmlab.optimise.head import Head
from rmlab.recipe import require
from rmlab.tokens import SpecialTokens

Read = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """Sampled answers, right-padded and prompt-major.

    Parameters
    ----------
    ids : (R, T) int32, the EOS included, PAD behind it
    logprobs : (R, T) float32, nats, 0 on padding
    lengths : (R,) int32 real tokens, the EOS counted
    ended : (R,) bool, False where `max_new_tokens` cut an answer before an EOS
    values : (R, T) float32 what `read` gave for each token, 0 on padding; None where nothing was to be read
    """

    ids: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    values: np.ndarray | None = None


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers_per_prompt: int,
    max_new_tokens: int,
    seed: int,
    special: SpecialTokens | None = None,
    chunk: int = 512,
    read: Read | None = None,
) -> Answers:
    """Draw N answers to every prompt.

    Parameters
    ----------
    model : causal language model in eval mode that ends in one linear layer
    prompts : P lists of ids, none empty, of any lengths
    answers_per_prompt : N
    max_new_tokens : most tokens an answer may have, the EOS included
    seed : the samples' seed; the same seed gives the same answers
    special : what ends an answer, what pads it and what is never sampled; None reads it from the model
    chunk : about how many answers grow at once
    read : hidden states that predict a token, (S, D) -> (S,): read on the way and kept, as by a critic

    Raises
    ------
    ValueError
        Empty prompts, ids that the model does not embed, no PAD or no EOS, a head that is more than linear.
    """
    head = Head(model, special)
    prompts = head.check_prompts(prompts)
    require(answers_per_prompt >= 1, "answers_per_prompt", answers_per_prompt, "at least 1")
    require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    head.check_model(prompts[0])
    sampler = _Sampler(head, read)
    noise = torch.Generator(device=sampler.device).manual_seed(seed)
    parts, each = [], max(1, chunk // answers_per_prompt)
    for start in range(0, len(prompts), each):
        block = prompts[start : start + each]
        for begun in range(0, answers_per_prompt, chunk):
            count = min(chunk, answers_per_prompt - begun)
            uniform = torch.rand(len(block) * count, max_new_tokens, generator=noise, device=sampler.device)
            with torch.autocast(sampler.device.type, enabled=False):
                parts.append(sampler.grow(block, count, uniform))
    ids, logprobs, values = (torch.cat(x).cpu().numpy() for x in zip(*parts, strict=True))
    lengths = head.special.lengths(ids).astype(np.int32)  # PAD is never sampled
    ended = head.special.ended(ids)
    return Answers(ids.astype(np.int32), logprobs, lengths, ended, None if read is None else values)


class _Sampler:
    """A head laid out for drawing.

    matrix : (D, V), at the head's scale
    offset : (V,) the head's bias or 0; without a cap the ban is in it
    ban : (V,) 0, or -inf where a token is never sampled
    goes_on : (V,) bool, False where a token is an EOS
    """

    def __init__(self, head: Head, read: Read | None):
        weight = head.linear.weight
        self.model, self.read, self.device, self.pad = head.model, read, weight.device, head.special.pad
        self.matrix = weight.float().T.contiguous()
        bias = head.linear.bias
        self.offset = torch.zeros(len(weight), device=self.device) if bias is None else bias.float().clone()
        if head.scale != 1:
            self.matrix, self.offset = self.matrix * head.scale, self.offset * head.scale
        self.ban = torch.zeros(len(weight), device=self.device)
        self.ban[list(head.special.never_sampled)] = -torch.inf
        self.capped = head.capped if head.cap else None
        if self.capped is None:
            self.offset += self.ban
        self.goes_on = torch.ones(len(weight), dtype=torch.bool, device=self.device)
        self.goes_on[list(head.special.eos)] = False

    def draw(self, hidden: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and logprobs (S,), by the inverse of the distribution function.

        hidden : (S, D)
        uniform : (S,) in [0, 1)
        """
        logits = torch.addmm(self.offset, hidden.float(), self.matrix)
        if self.capped is not None:
            logits = self.capped(logits) + self.ban
        logits -= logits.amax(-1, keepdim=True)
        cumulative = logits.exp().cumsum_(-1)
        whole = cumulative[:, -1:]
        token = torch.searchsorted(cumulative, uniform[:, None] * whole, right=True)
        token.clamp_max_(len(self.offset) - 1)
        return token[:, 0], (logits.gather(1, token) - whole.log())[:, 0]

    def grow(self, prompts: list[list[int]], count: int, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Decode `count` answers to each prompt on uniform (R, T): ids, logprobs and values, each (R, T)."""
        decoder = open_decoder(self.model, prompts, count, uniform.shape[1], self.pad)
        ids = torch.full(uniform.shape, self.pad, dtype=torch.long, device=self.device)
        logprobs, values = torch.zeros_like(uniform), torch.zeros_like(uniform)
        at = torch.from_numpy(decoder.slots.reshape(-1)).to(self.device)  # (S,) the answer in each slot
        going = torch.ones(len(at), dtype=torch.bool, device=self.device)
        hidden = decoder.last
        for t in range(uniform.shape[1]):
            token, logprob = self.draw(hidden, uniform[at, t])
            token = torch.where(going, token, self.pad)
            ids[at, t], logprobs[at, t] = token, torch.where(going, logprob, 0.0)
            if self.read is not None:
                values[at, t] = torch.where(going, self.read(hidden).float(), 0.0)
            going &= self.goes_on[token]
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
        return ids, logprobs, values
