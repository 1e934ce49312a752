"""Documents that check facts: tags after values, and how many were right and wrong after `<eos>`.

A small language model that is trained on plain answers never compares an answer with its record, and neither does a
reward model that is made of it. In these documents a stated value is followed by `right` or `wrong`, and an answer's
`<eos>` by one token that counts both, such as `r2w1`: the state that a reward head reads must then hold the counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmlab.sources.sandbox.authors import POLICY_SKILL, answer, fact_sentence, skills
from rmlab.sources.sandbox.vocabulary import EOS
from rmlab.sources.sandbox.world import ATTRIBUTE_NAMES, COUNTS, ID, MOST_COUNTED, TAGS, VALUES, Request
from rmlab.sources.sandbox.world import requests as draw_requests

TAG_IDS = tuple(ID[x] for x in TAGS)
COUNT_IDS = tuple(ID[x] for x in COUNTS)
QUIZZES = 0.4  # share of quizzes among the documents that count
_PLACE = {value: i for i, value in enumerate(VALUES)}


def tagged_record(request: Request, rng: np.random.Generator) -> list[int]:
    """A request, then its facts twice over, two thirds of the values drawn anew, each followed by its tag; ids (T,)."""
    words: list[str] = []
    for i in [*rng.permutation(len(request.facts)), *rng.permutation(len(request.facts))]:
        a, v = request.facts[i]
        words += [ATTRIBUTE_NAMES[a], *tagged(request, misquoted([VALUES[v]], 0.67, rng)), ";"]
    return [*request.ids(), *(ID[w] for w in words), EOS]


def checked_answer(
    request: Request, skill: float, rng: np.random.Generator, style_quality: float, max_new_tokens: int
) -> list[int]:
    """A request, an answer or a quiz, `<eos>` and the count of its values; ids (T,).

    Half of the answers have values drawn anew; half of them, and two thirds of the quizzes, have tags.
    """
    if rng.random() < QUIZZES:
        words, tags = _quiz(request, rng), rng.random() < 2 / 3
    else:
        words = answer(request, skill, rng, style_quality, max_new_tokens)
        if rng.random() < 0.5:
            words = misquoted(words, rng.choice([0.3, 0.6, 1.0]), rng)
        tags = rng.random() < 0.5
    shown = tagged(request, words) if tags else words
    return [*request.ids(), *(ID[w] for w in shown), EOS, ID[count(request, words)]]


def unchecked_answers(rows: int, rng: np.random.Generator) -> tuple[list[list[int]], np.ndarray]:
    """Requests with answers of the policy's authors, half of them misquoted, up to `<eos>`: ids, and what follows in truth.

    Returns
    -------
    (ids of B rows, (B, 2) int64 right and wrong values, at most `MOST_COUNTED` of each)
    """
    requests = draw_requests(rows, rng)
    ids, counts = [], np.empty((rows, 2), np.int64)
    for i, (request, skill) in enumerate(zip(requests, skills(rows, POLICY_SKILL, rng), strict=True)):
        words = answer(request, skill, rng)
        if rng.random() < 0.5:
            words = misquoted(words, 0.6, rng)
        ids.append([*request.ids(), *(ID[w] for w in words), EOS])
        counts[i] = divmod(COUNTS.index(count(request, words)), MOST_COUNTED + 1)
    return ids, counts


def tagged(request: Request, words: Sequence[str]) -> list[str]:
    """Words with `right` or `wrong` after every value."""
    held, out = _held(request), []
    for word in words:
        out.append(word)
        if word in _PLACE:
            out.append(TAGS[0] if word in held else TAGS[1])
    return out


def count(request: Request, words: Sequence[str]) -> str:
    """How many of an answer's values the record bears out, and how many not: "r2w1"; repeats count."""
    held = _held(request)
    right = sum(word in held for word in words)
    wrong = sum(word in _PLACE for word in words) - right
    return f"r{min(right, MOST_COUNTED)}w{min(wrong, MOST_COUNTED)}"


def misquoted(words: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Words with a share of the values drawn anew among the four of their attribute, the right one too."""
    return [
        VALUES[_PLACE[w] // 4 * 4 + int(rng.integers(4))] if w in _PLACE and rng.random() < share else w
        for w in words
    ]


def _quiz(request: Request, rng: np.random.Generator) -> list[str]:
    """Two to five of the facts, as pairs or as sentences, a share of the values drawn anew."""
    plain, share, words = rng.random() < 0.5, rng.choice([0.2, 0.5, 0.8]), []
    for i in rng.permutation(len(request.facts))[: rng.integers(2, len(request.facts) + 1)]:
        a, v = request.facts[i]
        fact = [ATTRIBUTE_NAMES[a], VALUES[v], ";"] if plain else fact_sentence(request, a, v, rng)
        words += misquoted(fact, share, rng)
    return words


def _held(request: Request) -> set[str]:
    return {VALUES[v] for _, v in request.facts}
