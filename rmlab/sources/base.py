"""What a study is about: a source gives prompts and, where it has them, documents, gold, its explanation and probes.

A source is its settings: a frozen dataclass that a recipe holds, whose fields decide every number that its methods give.
Two kinds are meant: a closed world with a known gold reward, and text with a tokenizer, a preference file and a larger
reward model for gold.

Letters: P prompts, N answers a prompt, B rows, T tokens, F terms of gold's bill, C probes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.tokens import SpecialTokens

Ids = list[list[int]]


@dataclass(frozen=True)
class Prompt:
    """What a policy answers: its text, and its ids as the policy reads them, special ids included."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Probes:
    """One change each in a good answer: C answers to each of P prompts, the unchanged one first."""

    names: tuple[str, ...]  # (C,) "base" first
    ids: np.ndarray  # (P, C, T) int32, right-padded
    lengths: np.ndarray  # (P, C) real tokens
    gold: np.ndarray  # (P, C) float64, gold units


class Source(ABC):
    """What every source can do; the optional methods say so by returning None."""

    special: SpecialTokens
    vocab_size: int
    max_new_tokens: int  # of an answer, the EOS included

    @abstractmethod
    def prompts(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draw `count` prompts; the first ones do not depend on `count`."""

    def documents(self, kind: str, count: int, rng: np.random.Generator) -> Ids | None:
        """`count` documents to train a language model on, as ids; None where the source has none.

        kind : "records" (copying), "answers" (of authors of every skill), "demonstrations" (of better authors)
        """
        return None

    def gold(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray | None:
        """The true reward of an answer to each prompt: B prompts, ids (B, T) right-padded -> (B,) float64, gold units."""
        return None

    def gold_terms(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray | None:
        """How often each term of gold's bill occurs, (B, F) uint8 in the order of `bill`; None where gold has no terms."""
        return None

    @property
    def bill(self) -> list[dict]:
        """Gold's terms: name, label, values, slope: count c is worth values[c], and slope for each one past the last."""
        return []

    def probes(self, prompts: Sequence[Prompt]) -> Probes | None:
        """One change each in a good answer to every prompt."""
        return None

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids (T,), special ids left out, as text."""
        raise ValueError(f"source = {type(self).__name__}: cannot write ids as text")


def save_prompts(folder: str | Path, prompts: Sequence[Prompt]) -> None:
    """Write `prompts.jsonl`, a line a prompt: text and ids."""
    lines = [json.dumps({"text": p.text, "ids": list(p.ids)}) for p in prompts]
    (Path(folder) / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_prompts(folder: str | Path) -> list[Prompt]:
    """Read what `save_prompts` wrote."""
    lines = (Path(folder) / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [Prompt(row["text"], tuple(row["ids"])) for row in map(json.loads, lines)]
