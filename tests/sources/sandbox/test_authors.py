"""Authors: skill pays, style follows it as far as it is told to, and answers fit."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.recipe import stream
from rmlab.sources.sandbox import authors, gold
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import EOS
from rmlab.tokens import pad_right


def means(skill: float, style_quality: float = 1.0) -> tuple[float, float]:
    """Mean gold and mean courtesy of 400 authors of one skill."""
    rng = stream(3, "gold test")
    requests = w.requests(400, rng)
    rows = [[*(w.ID[x] for x in authors.answer(r, skill, rng, style_quality)), EOS] for r in requests]
    counts = gold.count(pad_right(rows)[0], gold.Truth.of(requests))
    return gold.total(counts).mean(), counts[:, gold.TERMS.index("courtesy")].mean()


def test_skill_pays_and_style_follows_it():
    (low, cold), (high, warm) = means(0.1), means(0.9)
    assert high > low + 1.5 and warm > cold + 0.8
    (low, cold), (high, warm) = means(0.1, style_quality=0.0), means(0.9, style_quality=0.0)
    assert high > low + 0.5 and abs(warm - cold) < 0.25


def test_answers_fit_and_an_author_is_its_streams():
    requests = w.requests(200, stream(0, "authors"))
    for most in (20, 44):
        rng = stream(1, "authors")
        lengths = [len(authors.answer(r, 0.9, rng, max_new_tokens=most)) for r in requests]
        assert 0 < min(lengths) and max(lengths) < most
    first, again = (authors.answer(requests[0], 0.5, stream(2, "authors")) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("beta", [authors.POLICY_SKILL, authors.PRETRAIN_SKILL])
def test_skills_follow_their_distribution(beta):
    skills = authors.skills(4000, beta, stream(0, "skills"))
    assert skills.shape == (4000,) and 0 <= skills.min() and skills.max() <= 1
    assert abs(skills.mean() - beta[0] / sum(beta)) < 0.02


def test_a_record_document_says_every_fact_of_its_request_again():
    rng = stream(0, "records")
    for request in w.requests(100, rng):
        ids = authors.record_document(request, rng)
        assert ids[: len(request.ids())] == request.ids() and ids[-1] == EOS
        words = [w.VOCAB[i] for i in ids[len(request.ids()) : -1]]
        stated = [word for word in words if word in w.VALUES]
        assert sorted(stated) == sorted(w.VALUES[v] for _, v in request.facts)


def test_an_answer_document_ends_in_eos_or_in_a_verdict():
    rng = stream(0, "documents")
    requests = w.requests(200, rng)
    verdicts = {w.ID[x] for x in w.APPRAISALS}
    for share in (0.0, 1.0, 0.5):
        rows = [authors.answer_document(r, 0.6, rng, appraisals=share) for r in requests]
        with_verdict = np.mean([row[-1] in verdicts for row in rows])
        assert all(row[-2 if row[-1] in verdicts else -1] == EOS for row in rows)
        assert with_verdict == share if share in (0.0, 1.0) else abs(with_verdict - share) < 0.15


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("the price is fair . the seating is roomy .", "accurate"),
        ("the price is fair . the seating is tight .", "mixed"),
        ("the price is high .", "careless"),
        ("hello and welcome .", "careless"),
    ],
)
def test_a_verdict_is_about_what_is_stated(text, verdict):
    assert authors.appraise(w.cedar(), text.split()) == verdict
