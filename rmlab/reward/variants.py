"""Members that are edits of one base: adapters merged into its weights, or units dropped from them.

A variant is the base model with some of its trunk's parameters edited, and a head. Scoring runs the layers below
the lowest edit once for all members; above it each member has a merged copy, or, where `memory` has no room for
K copies, as many at a time as fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rmlab.fast.prefix import Edits, open_variants, read_ends, read_pairs
from rmlab.recipe import require
from rmlab.reward.model import CHUNK_TOKENS, Scorer
from rmlab.tokens import SpecialTokens


class Variants(Scorer):
    """K edited copies of a base's trunk, each with its head. Subclasses give `edits(k)` and `heads`.

    model : the base, a sequence classification model with one label, whose own head is not used
    """

    heads: torch.Tensor  # (K, D)

    def __init__(self, model: nn.Module, members: int):
        super().__init__()
        require(members >= 1, "k", members, "at least 1")
        self.model, self.members = model.eval(), members
        self.special = SpecialTokens.of(model)
        self.unaligned(members)
        self.to(next(model.parameters()).device)

    @property
    def trunk(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix)

    def edits(self, k: int) -> Edits:
        """Member k's edited parameters of the trunk, by name."""
        raise NotImplementedError  # pragma: no cover - in the subclasses

    def each_head(self, hidden: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Hidden states (..., V, D) of the members from `first` on -> scores (..., V), float32."""
        return (hidden.float() * self.heads[first : first + hidden.shape[-2]].float()).sum(-1)

    def raw(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out = [read_ends(self.trunk, ids, mask, self.edits(k)) for k in range(self.members)]
        return self.each_head(torch.stack(out, 1))

    def pair_scores(self, prompts, chosen, rejected) -> torch.Tensor:
        out = [read_pairs(self.model, prompts, chosen, rejected, self.edits(k)) for k in range(self.members)]
        return self.each_head(torch.stack(out, 1))

    def reader(self, prompt: torch.Tensor, room: int, members: Sequence[int] | None = None):
        members = range(self.members) if members is None else members
        read = open_variants(self.model, [self.edits(k) for k in members], prompt, room)
        return lambda ids, lengths: self.each_head(read(ids, lengths), members[0])

    def widest(self) -> int:
        config = self.model.config
        return 6 * config.hidden_size + 3 * config.intermediate_size + 256 * config.num_attention_heads

    def score(
        self, prompt: np.ndarray, ids: np.ndarray, lengths: np.ndarray, chunk_tokens: int = CHUNK_TOKENS, memory: int | None = None
    ) -> np.ndarray:  # fmt: skip
        """As `Scorer.score`; `memory` (bytes) also bounds the merged copies, half of it for them."""
        require(memory is None or memory > 0, "memory", memory, "a number of bytes above 0")
        copy = 4 * sum(w.numel() for w in self.trunk.parameters())
        fit = self.members if memory is None else max(1, min(self.members, memory // 2 // copy))
        if fit == self.members:
            return super().score(prompt, ids, lengths, chunk_tokens, memory and max(1, memory // 2))
        parts = [
            _Some(self, range(k, min(k + fit, self.members))).score(prompt, ids, lengths, chunk_tokens, max(1, memory // 2))
            for k in range(0, self.members, fit)
        ]  # fmt: skip
        return np.concatenate(parts, -1)


class _Some(Scorer):
    """A few members of a `Variants`, scored together."""

    def __init__(self, whole: Variants, few: range):
        super().__init__()
        self.whole, self.few, self.members = [whole], few, len(few)
        self.unaligned(len(few))
        self.to(whole.centre.device)

    def reader(self, prompt: torch.Tensor, room: int):
        return self.whole[0].reader(prompt, room, self.few)

    def widest(self) -> int:
        return self.whole[0].widest()
