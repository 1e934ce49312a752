"""The pool: P prompts x N answers, sampled once, counted once; every aggregator and every n is arithmetic on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.recipe import stream_seed
from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox.world import Request
from rmlab.tokens import EOS, PAD


@dataclass(frozen=True)
class Pool:
    """Answers and what gold counts in them.

    tokens : (P, N, T) uint8, right-padded, `<eos>` included
    counts : (P, N, F) uint8, in the order of `rmlab.sources.sandbox.gold.TERMS`
    """

    tokens: np.ndarray
    counts: np.ndarray

    @property
    def gold(self) -> np.ndarray:
        """(P, N) float64, gold units."""
        return gold.total(self.counts)

    @property
    def lengths(self) -> np.ndarray:
        """(P, N) real tokens, `<eos>` counted."""
        return (self.tokens != PAD).sum(-1)

    @property
    def ended(self) -> np.ndarray:
        """(P, N) bool: the answer ends. One that does not is disqualified in best-of-n."""
        return (self.tokens == EOS).any(-1)

    def save(self, path: str | Path) -> None:
        np.savez_compressed(path, tokens=self.tokens, counts=self.counts)

    @classmethod
    def load(cls, paths: Sequence[str | Path]) -> Pool:
        """Read parts and join them along the prompts."""
        parts = [np.load(p) for p in paths]
        return cls(*(np.concatenate([part[name] for part in parts]) for name in ("tokens", "counts")))


def sample_pool(
    policy, requests: Sequence[Request], answers: int, max_answer: int, seed: int, *purpose: object
) -> Pool:
    """Sample `answers` answers to every request from a policy, and count what gold sees in them.

    The draw's stream is named by `purpose`.
    """
    from rmlab.optimise.sampling import sample

    prompts = [r.ids() for r in requests]
    drawn = sample(policy, prompts, answers, max_answer, stream_seed(seed, *purpose))
    tokens = drawn.ids.astype(np.uint8).reshape(len(prompts), answers, max_answer)
    truth = gold.Truth.of(list(requests))
    counts = np.stack([gold.count(tokens[i], truth.rows(np.full(answers, i))) for i in range(len(requests))])
    return Pool(tokens, counts)
