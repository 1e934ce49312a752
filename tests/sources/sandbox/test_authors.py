"""Authors: skill pays, style follows it as far as it is told to, and answers fit."""

from __future__ import annotations

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


def test_an_answer_document_is_a_request_and_an_answer():
    rng = stream(0, "documents")
    for request in w.requests(50, rng):
        ids = authors.answer_document(request, 0.6, rng)
        assert ids[: len(request.ids())] == request.ids() and ids[-1] == EOS and ids.count(EOS) == 1
