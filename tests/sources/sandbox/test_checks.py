"""Documents that check facts say what gold's own reading of them says."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.recipe import stream
from rmlab.sources.sandbox import authors, checks, gold
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import EOS, SEP
from rmlab.tokens import pad_right

TAGS = dict(zip(checks.TAG_IDS, w.TAGS, strict=True))


def said(ids: list[int]) -> list[str]:
    """The words after the request."""
    return [w.VOCAB[i] for i in ids[ids.index(SEP) + 1 :]]


@pytest.mark.parametrize(
    "text, tagged, count",
    [
        ("the price is fair .", "the price is fair right .", "r1w0"),
        ("- price : high . it is a true gem .", "- price : high wrong . it is a true gem .", "r0w1"),
        ("the wifi is very fast !", "the wifi is very fast wrong !", "r0w1"),
        ("hello and welcome .", "hello and welcome .", "r0w0"),
        ("the view is wide . " * 5, "the view is wide right . " * 5, "r3w0"),
    ],
)
def test_tags_and_counts_of_an_answer(text, tagged, count):
    words = text.split()
    assert checks.tagged(w.cedar(), words) == tagged.split() and checks.count(w.cedar(), words) == count


def test_a_tagged_record_says_of_every_value_whether_it_is_so():
    rng, shares = stream(0, "tagged"), []
    for request in w.requests(100, rng):
        ids = checks.tagged_record(request, rng)
        assert ids[: len(request.ids())] == request.ids() and ids[-1] == EOS
        words, held = said(ids)[:-1], dict(request.facts)
        groups = [words[i : i + 4] for i in range(0, len(words), 4)]
        assert len(groups) == 10 and all(group[3] == ";" for group in groups)
        for attribute, value, tag, _ in groups:
            a, v = w.ATTRIBUTE_NAMES.index(attribute), w.VALUES.index(value)
            assert v // 4 == a and tag == w.TAGS[held[a] != v]
            shares.append(tag == "wrong")
    assert 0.44 < np.mean(shares) < 0.56


def test_a_checked_answer_ends_in_the_count_that_gold_would_give():
    rng = stream(0, "checked")
    requests = w.requests(400, rng)
    rows = [checks.checked_answer(r, 0.5, rng, 1.0, 44) for r in requests]
    tagged, wrong = 0, 0
    for request, ids in zip(requests, rows, strict=True):
        *words, end, count = said(ids)
        assert end == "<eos>" and count in w.COUNTS
        plain = [x for x in words if x not in w.TAGS]
        assert count == checks.count(request, plain) and words in (plain, checks.tagged(request, plain))
        tagged, wrong = tagged + (words != plain), wrong + (count[-1] != "0")
    assert 0.35 < tagged / 400 < 0.65 and 0.5 < wrong / 400 < 0.95


def test_counts_agree_with_gold_on_answers():
    rng = stream(1, "checked")
    requests = w.requests(300, rng)
    answers = [checks.misquoted(authors.answer(r, 0.5, rng), 0.5, rng) for r in requests]
    rows = [[*(w.ID[x] for x in words), EOS] for words in answers]
    terms = gold.count(pad_right(rows)[0], gold.Truth.of(requests))
    bad = terms[:, [gold.TERMS.index(name) for name in ("wrong", "unsupported")]].sum(1)
    counted = [int(checks.count(r, words)[-1]) for r, words in zip(requests, answers, strict=True)]
    assert (np.minimum(bad, w.MOST_COUNTED) == counted).all()


def test_misquoting_keeps_words_and_attributes():
    rng = stream(2, "checked")
    words = "the price is fair . the view is wide .".split()
    assert checks.misquoted(words, 0.0, rng) == words
    rows = [checks.misquoted(words, 1.0, rng) for _ in range(400)]
    assert {row[3] for row in rows} == set(w.ATTRIBUTES["price"])
    assert {row[8] for row in rows} == set(w.ATTRIBUTES["view"])
    assert all([*row[:3], *row[4:8], row[9]] == [*words[:3], *words[4:8], words[9]] for row in rows)
    assert 0.18 < np.mean([row[3] == "fair" for row in rows]) < 0.32


def test_unchecked_answers_come_with_the_counts_that_would_follow():
    ids, counts = checks.unchecked_answers(200, stream(3, "checked"))
    assert len(ids) == 200 and counts.shape == (200, 2) and all(row[-1] == EOS for row in ids)
    for row, (right, wrong) in zip(ids, counts, strict=True):
        text = " ".join(w.VOCAB[i] for i in row[1 : row.index(SEP)])
        words = said(row)[:-1]
        assert checks.count(w.Request.of(text), words) == f"r{right}w{wrong}" and not set(words) & set(w.TAGS)
    assert 0.2 < (counts[:, 1] == 0).mean() < 0.7
