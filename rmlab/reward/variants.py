"""Members that are edits of one base: adapters merged into its weights, or units dropped from them.

A variant is the base model with a part of its trunk's parameters edited, and a head. Scoring runs the layers
below the lowest edit once for all members; above it each member has a merged copy, or, where `memory` has no
room for K copies, as many at a time as fit.

Letters: B rows, T and S tokens, D hidden, K members, V of them at a time, R answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from rmlab.fast.plain import Edits
from rmlab.fast.prefix import open_variants
from rmlab.fast.rows import read_ends, read_pairs
from rmlab.recipe import require
from rmlab.reward.classifier import require_linear_head
from rmlab.reward.ensemble import CHUNK_TOKENS, Ids, Read, RewardEnsemble
from rmlab.reward.model import activations_per_token
from rmlab.tokens import SpecialTokens


class Variants(RewardEnsemble):
    """K edited copies of a base's trunk, each with its head. Subclasses give `edits(k)` and `heads`.

    Parameters
    ----------
    model : the base, a sequence classification model with one label, whose own head is not used
    members : K
    """

    heads: torch.Tensor  # (K, D)

    def __init__(self, model: nn.Module, members: int):
        require(members >= 1, "k", members, "at least 1")
        require_linear_head(model)
        super().__init__(members, SpecialTokens.of(model), next(model.parameters()).device)
        self.model = model.eval()

    @property
    def trunk(self) -> nn.Module:
        """The base's transformer, without edits."""
        return getattr(self.model, self.model.base_model_prefix)

    def edits(self, k: int) -> Edits:
        """Member k's edited parameters of the trunk, by name."""
        raise NotImplementedError  # pragma: no cover - in the subclasses

    def each_head(self, hidden: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Hidden states (..., V, D) of the members from `first` on -> scores (..., V), float32."""
        return (hidden.float() * self.heads[first : first + hidden.shape[-2]].float()).sum(-1)

    def raw_forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Raw scores of whole rows, ids and mask (B, T) -> (B, K), one member after another."""
        out = [read_ends(self.trunk, ids, mask, self.edits(k)) for k in range(self.members)]
        return self.each_head(torch.stack(out, 1))

    def raw_pair_scores(self, prompts: Ids, chosen: Ids, rejected: Ids) -> torch.Tensor:
        """Raw scores of B chosen, then B rejected answers, (2B, K)."""
        out = [read_pairs(self.model, prompts, chosen, rejected, self.edits(k)) for k in range(self.members)]
        return self.each_head(torch.stack(out, 1))

    def prompt_scorer(
        self, prompts: torch.Tensor, max_new_tokens: int, members: Sequence[int] | None = None
    ) -> Read:
        """Raw scores (R, V) of answers on their prompts' cache, by all members or neighbours of them."""
        members = range(self.members) if members is None else members
        read = open_variants(self.model, [self.edits(k) for k in members], prompts, max_new_tokens)
        return lambda ids, lengths: self.each_head(read(ids, lengths), members[0])

    def floats_per_token(self) -> int:
        """Floats that a scored token needs at a time, at most."""
        return activations_per_token(self.model.config)

    def raw_scores(
        self,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """As `RewardEnsemble.raw_scores`; half of `memory` (bytes) is for merged copies of weights."""
        require(memory is None or memory > 0, "memory", memory, "a number of bytes above 0")
        copy = 4 * sum(w.numel() for w in self.trunk.parameters())
        fit = self.members if memory is None else max(1, min(self.members, memory // 2 // copy))
        limits = {"chunk_tokens": chunk_tokens, "memory": memory and max(1, memory // 2)}
        parts = []
        for start in range(0, self.members, fit):
            group = range(start, min(start + fit, self.members))
            scorer = partial(self.prompt_scorer, members=group)
            parts.append(self.score_in_chunks(scorer, len(group), prompt, ids, lengths, **limits))
        return np.concatenate(parts, -1)
