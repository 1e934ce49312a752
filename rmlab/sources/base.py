"""What a study is about: a source of prompts and, where it has them, of documents, gold and probes.

A source is its settings: a frozen dataclass that a recipe holds, whose fields decide every number that its
methods give. Two kinds are meant: a closed world with a known gold reward, and text with a tokenizer, a
preference file and a larger reward model for gold.

Letters: P prompts, N answers a prompt, B rows, T tokens, F terms of gold's bill, C probes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.recipe import require
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

    @property
    def for_evaluation(self) -> Source:
        """The source that a pool's and an evaluation's prompts are drawn from: itself, unless it keeps them apart."""
        return self

    @property
    def for_training(self) -> Source:
        """The source whose prompts an optimiser trains on: itself, unless it keeps them apart."""
        return self

    @abstractmethod
    def prompts(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draw `count` prompts; the first ones do not depend on `count`."""

    def documents(self, kind: str, count: int, rng: np.random.Generator, sight: float = 0.0) -> Ids | None:
        """`count` documents to train a language model on, as ids; None where the source has none.

        kind : "records" (copying), "answers" (authors of every skill), "demonstrations" (better authors)
        sight : share of records and answers that say which of their facts are right, where the source has such
        """
        return None

    @property
    def checking_ids(self) -> tuple[tuple[int, ...], ...]:
        """Groups of ids that say which facts are right; each group is a loss term of its own in pretraining."""
        return ()

    def unchecked_answers(self, rows: int, rng: np.random.Generator) -> tuple[Ids, np.ndarray] | None:
        """Prompts with answers up to their EOS, and what of the last group of `checking_ids` would follow in truth.

        Returns
        -------
        (ids of B rows, (B, 2) int64: the place in that group as a square table, row and column), or None
        """
        return None

    def gold(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray | None:
        """The true reward of an answer to each of B prompts, (B,) float64, gold units; None where unknown.

        answers : ids (B, T), right-padded
        """
        return None

    def gold_terms(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray | None:
        """How often each term of `bill` occurs, (B, F) uint8; None where gold has no terms.

        Arguments are those of `gold`.
        """
        return None

    @property
    def bill(self) -> list[dict]:
        """Gold's terms, each with its name, label, values and slope; see `term_worth`."""
        return []

    def probes(self, prompts: Sequence[Prompt]) -> Probes | None:
        """One change each in a good answer to every prompt."""
        return None

    @property
    def probe_labels(self) -> dict[str, str]:
        """What each probe but "base" changes, in words: name -> label."""
        return {}

    def prompt(self, text: str) -> Prompt:
        """The prompt whose text it is."""
        raise ValueError(f"source = {type(self).__name__}: cannot read a prompt from its text")

    def ids(self, text: str) -> list[int]:
        """An answer's text as ids (T,), an EOS last; `text` is its inverse."""
        raise ValueError(f"source = {type(self).__name__}: cannot read text as ids")

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids (T,), special ids left out, as text."""
        raise ValueError(f"source = {type(self).__name__}: cannot write ids as text")


def term_worth(count: np.ndarray, values: Sequence[float], slope: float) -> np.ndarray:
    """What counts (...) of one term of a bill are worth: (...) float64, gold units.

    Count c is worth values[c], and `slope` for each one past the last.
    """
    count = np.asarray(count, np.int64)
    last = len(values) - 1
    return np.asarray(values)[np.minimum(count, last)] + slope * np.maximum(count - last, 0)


def check_answers(ids: np.ndarray, vocab_size: int, pad: int) -> np.ndarray:
    """Answers as a source takes them, right-padded ids (B, T): themselves, as int32.

    Raises
    ------
    ValueError
        Another shape, no integers, an id outside the vocabulary, an answer without a token.
    """
    ids = np.asarray(ids)
    good = ids.ndim == 2 and np.issubdtype(ids.dtype, np.integer)
    require(good, "answers", f"{ids.dtype} {ids.shape}", "integer ids (B, T)")
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    require(not len(outside), "ids in answers", outside[:1].tolist(), f"ids from 0 to {vocab_size - 1}")
    empty = np.flatnonzero((ids == pad).all(1))
    require(not len(empty), "empty rows of answers", empty[:1].tolist(), "at least one token, the EOS")
    return ids.astype(np.int32, copy=False)


def save_prompts(folder: str | Path, prompts: Sequence[Prompt]) -> None:
    """Write `prompts.jsonl`, a line a prompt: text and ids."""
    lines = [json.dumps({"text": p.text, "ids": list(p.ids)}) + "\n" for p in prompts]
    (Path(folder) / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def load_prompts(folder: str | Path) -> list[Prompt]:
    """Read what `save_prompts` wrote."""
    lines = (Path(folder) / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [Prompt(row["text"], tuple(row["ids"])) for row in map(json.loads, lines)]
