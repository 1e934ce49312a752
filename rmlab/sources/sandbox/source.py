"""The sandbox as a source: a closed world whose gold reward is known and explains itself term by term."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import Ids, Probes, Prompt, Source, check_answers
from rmlab.sources.sandbox import authors, checks, gold, probes, world
from rmlab.sources.sandbox.vocabulary import EOS, SPECIAL_TOKENS, SPECIALS

RECAPS = 0.3  # share of copied records among plain pretraining answers: without them copying is forgotten


@dataclass(frozen=True)
class Sandbox(Source):
    """How well style tells quality, and how long an answer may be."""

    style_quality: float = 1.0  # 0: style says nothing about an author's skill; 1: it follows skill
    max_new_tokens: int = 44  # of an answer, <eos> included

    special = SPECIAL_TOKENS
    vocab_size = len(world.VOCAB)

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        value = self.style_quality
        require(0 <= value <= 1, "source.style_quality", value, "a share from 0 to 1")
        tokens = self.max_new_tokens
        require(20 <= tokens <= 64, "source.max_new_tokens", tokens, "a number of tokens from 20 to 64")

    def prompts(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draw `count` requests; the first ones do not depend on `count`."""
        return [request.prompt() for request in world.requests(count, rng)]

    def documents(self, kind: str, count: int, rng: np.random.Generator, sight: float = 0.0) -> Ids:
        """`count` documents as ids: "records" (copying), "answers" (any skill), "demonstrations" (better).

        sight : share of records and answers that check facts, see `checks.py`; the others are plain
        """
        kinds = ("records", "answers", "demonstrations")
        require(kind in kinds, "kind", kind, f"one of {', '.join(kinds)}")
        requests = world.requests(count, rng)
        beta = authors.POLICY_SKILL if kind == "demonstrations" else authors.PRETRAIN_SKILL
        skills = authors.skills(count, beta, rng)
        style = (self.style_quality, self.max_new_tokens)
        rows = []
        for request, skill in zip(requests, skills, strict=True):
            checked = kind != "demonstrations" and rng.random() < sight
            if checked and kind == "records":
                rows.append(checks.tagged_record(request, rng))
            elif checked:
                rows.append(checks.checked_answer(request, skill, rng, *style))
            elif kind == "records" or (kind == "answers" and rng.random() < RECAPS):
                rows.append(authors.record_document(request, rng))
            else:
                rows.append(authors.answer_document(request, skill, rng, *style))
        return rows

    @property
    def checking_ids(self) -> tuple[tuple[int, ...], ...]:
        """The tags after values, and the counts after `<eos>`: each a loss term of its own in pretraining."""
        return (checks.TAG_IDS, checks.COUNT_IDS)

    def unchecked_answers(self, rows: int, rng: np.random.Generator) -> tuple[Ids, np.ndarray]:
        """Requests with answers up to `<eos>`, half of them misquoted, and how many values are right and wrong, (B, 2)."""
        return checks.unchecked_answers(rows, rng)

    def gold(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray:
        """The true reward of an answer to each of B prompts, (B,) float64, gold units; see `gold_terms`."""
        return gold.total(self.gold_terms(prompts, answers))

    def gold_terms(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray:
        """How often each term of `bill` occurs in the answer to each of B prompts, (B, F) uint8.

        answers : ids (B, T), right-padded

        Raises
        ------
        ValueError
            A prompt that is no request of the sandbox, an id outside the vocabulary, an empty answer.
        """
        answers = check_answers(answers, self.vocab_size, self.special.pad)
        require(len(prompts) == len(answers), "prompts", len(prompts), f"one an answer, {len(answers)}")
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        truth = gold.Truth.of([_request(prompt) for prompt in place])
        return gold.count(answers, truth.rows(np.array([place[prompt] for prompt in prompts], np.int64)))

    @property
    def bill(self) -> list[dict]:
        """Gold's terms: name, label, values, slope; coverage counts in sixths of the asked facts."""
        return [{**dataclasses.asdict(term), "values": list(term.values)} for term in gold.BILL]

    def probes(self, prompts: Sequence[Prompt]) -> Probes:
        """One change each in a good answer to every prompt."""
        require(len(prompts) > 0, "prompts", len(prompts), "at least one")
        return probes.probes([_request(prompt) for prompt in prompts])

    @property
    def probe_labels(self) -> dict[str, str]:
        """What each probe but "base" changes, in words: name -> label."""
        return dict(probes.LABELS)

    def prompt(self, text: str) -> Prompt:
        """The prompt whose text it is; a `ValueError` for a text that is no request of the sandbox."""
        return world.Request.of(text).prompt()

    def ids(self, text: str) -> list[int]:
        """An answer's words as ids (T,), `<eos>` last; a `ValueError` for a word of no sandbox."""
        words = text.split()
        unknown = [word for word in words if word not in world.WORDS]
        mend = "words of the sandbox's vocabulary, rmlab.sources.sandbox.world.WORDS"
        require(not unknown, "answer holds", unknown[:1], mend)
        return [*(world.ID[word] for word in words), EOS]

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids (T,) as words with blanks between them, special ids left out."""
        outside = [int(i) for i in ids if not 0 <= i < self.vocab_size]
        require(not outside, "ids", outside[:1], f"ids from 0 to {self.vocab_size - 1}")
        return " ".join(world.VOCAB[i] for i in ids if i >= len(SPECIALS))


@lru_cache(maxsize=65536)
def _request(prompt: Prompt) -> world.Request:
    """The request that a prompt is, read from its text; a `ValueError` where the ids say something else."""
    request = world.Request.of(prompt.text)
    right = list(prompt.ids) == request.ids()
    require(right, "prompt.ids", prompt.ids, f"the ids of its text, {request.ids()}")
    return request
