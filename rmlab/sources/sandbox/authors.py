"""The sandbox's authors: answers by writers of varied skill, and the documents that a model is trained on.

Better authors get more facts right *and* write with more warmth, so in the data style tells quality. Nothing
makes that so in the tail that an optimiser finds.
"""

from __future__ import annotations

import numpy as np

from rmlab.sources.sandbox.vocabulary import EOS
from rmlab.sources.sandbox.world import ATTRIBUTE_NAMES, FACT_FORMS, ID, NAMES, STYLES, VALUES, Request

STYLE_MEANS = {  # mean count of each style for the least and the most skilled author
    "open": (0.10, 0.95),
    "close": (0.10, 1.05),
    "hype": (0.10, 0.75),
    "hedge": (0.40, 0.10),
    "authority": (0.05, 0.50),
    "sorry": (0.20, 0.04),
    "off_topic": (0.25, 0.03),
}
POLICY_SKILL = (2.0, 1.3)  # Beta parameters of author skill in the policy's tuning data
PRETRAIN_SKILL = (1.3, 1.2)  # and in pretraining


def skills(count: int, beta: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Author skills from a Beta distribution, (count,) float64 from 0 to 1."""
    return rng.beta(*beta, count)


def answer(
    request: Request,
    skill: float,
    rng: np.random.Generator,
    style_quality: float = 1.0,
    max_new_tokens: int = 44,
) -> list[str]:
    """An author's answer as words, without `<eos>`; written anew until it fits.

    Parameters
    ----------
    skill : 0 to 1; a skilled author covers more, errs less and, as far as style goes with skill, is warmer
    style_quality : 0: style says nothing about an author's skill; 1: it follows skill
    max_new_tokens : most tokens of an answer, `<eos>` included
    """
    while True:
        words = _draft(request, skill, rng, style_quality)
        if 0 < len(words) < max_new_tokens:
            return words


def _draft(request: Request, skill: float, rng: np.random.Generator, style_quality: float) -> list[str]:
    record = dict(request.facts)
    listing = rng.random() < 0.12 + 0.15 * skill
    facts = [
        _fact(request, a, record[a], skill, listing, rng)
        for a in request.asked_attributes
        if rng.random() < 0.30 + 0.66 * skill
    ]
    for a in record:
        if a not in request.asked_attributes and rng.random() < 0.22 - 0.14 * skill:
            facts.append(_fact(request, a, record[a], skill, listing, rng))
    for a in range(len(ATTRIBUTE_NAMES)):
        if a not in record and rng.random() < 0.05 * (1 - skill):
            facts.append(_fact(request, a, int(4 * a + rng.integers(4)), skill, listing, rng, free=True))
    if facts and rng.random() < 0.18 - 0.12 * skill:
        facts.append(facts[rng.integers(len(facts))])
    tone = skill if rng.random() < style_quality else rng.random()
    styles = {name: _style(name, tone, rng) for name in STYLES}
    body = [*styles["hedge"], *styles["authority"], *styles["hype"], *styles["off_topic"], *facts]
    body = [body[i] for i in rng.permutation(len(body))]
    excited = 0.02 + 0.16 * tone
    words: list[str] = []
    for sentence in (*styles["sorry"], *styles["open"], *body, *styles["close"]):
        words += sentence
        if rng.random() < excited:
            words[-1] = "!"
    return words


def _fact(
    request: Request,
    attribute: int,
    value: int,
    skill: float,
    listing: bool,
    rng: np.random.Generator,
    free: bool = False,
) -> list[str]:
    """A sentence that states a fact, by chance a wrong one; a `free` value is kept."""
    if not free and rng.random() > 0.62 + 0.36 * skill:
        value = 4 * attribute + int(rng.integers(4))
    form = FACT_FORMS[3] if listing else FACT_FORMS[rng.integers(3)]
    words = {"A": [ATTRIBUTE_NAMES[attribute]], "N": [NAMES[request.name]], "V": [VALUES[value]]}
    if rng.random() < 0.08 + 0.08 * skill:
        words["V"] = ["very", *words["V"]]
    return [w for part in form.split() for w in words.get(part, [part])]


def fact_sentence(request: Request, attribute: int, value: int, rng: np.random.Generator) -> list[str]:
    """A sentence that states a fact as it is, in one of the forms."""
    return _fact(request, attribute, value, 1.1, bool(rng.random() < 0.2), rng)


def _style(name: str, tone: float, rng: np.random.Generator) -> list[list[str]]:
    low, high = STYLE_MEANS[name]
    count = rng.poisson(rng.gamma(5.0, (low + (high - low) * tone) / 5.0))
    return [STYLES[name][rng.integers(len(STYLES[name]))].split() for _ in range(count)]


def record_document(request: Request, rng: np.random.Generator) -> list[int]:
    """A document that copies: a request, then its facts again, reordered or as sentences; ids (T,)."""
    facts = [request.facts[i] for i in rng.permutation(len(request.facts))]
    words: list[str] = []
    plain = rng.random() < 0.5
    for a, v in facts:
        words += [ATTRIBUTE_NAMES[a], VALUES[v], ";"] if plain else _fact(request, a, v, 1.1, False, rng)
    return [*request.ids(), *(ID[w] for w in words), EOS]


def answer_document(
    request: Request,
    skill: float,
    rng: np.random.Generator,
    style_quality: float = 1.0,
    max_new_tokens: int = 44,
) -> list[int]:
    """A request and an answer with its `<eos>`, ids (T,); arguments are those of `answer`."""
    words = answer(request, skill, rng, style_quality, max_new_tokens)
    return [*request.ids(), *(ID[w] for w in words), EOS]
