"""Probes: one change in a good answer, and gold's reaction to it."""

from __future__ import annotations

import numpy as np

from rmlab.recipe import stream
from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.probes import LABELS, answers, probes
from rmlab.sources.sandbox.vocabulary import EOS

REQUESTS = w.requests(40, stream(0, "probes"))


def test_probes_are_answers_with_their_lengths_and_gold():
    table = probes(REQUESTS)
    assert table.names[0] == "base" and set(table.names[1:]) == set(LABELS)
    assert table.ids.dtype == np.int32 and table.ids.shape[:2] == table.lengths.shape == table.gold.shape
    for request, ids, lengths, worths in zip(REQUESTS, table.ids, table.lengths, table.gold, strict=True):
        words = answers(request)
        for name, row, length, worth in zip(table.names, ids, lengths, worths, strict=True):
            assert [w.VOCAB[i] for i in row[: length - 1]] == words[name]
            assert row[length - 1] == EOS and not row[length:].any()
            assert worth == gold.gold(row[None], gold.Truth.of([request]))[0]


def test_probes_of_a_prompt_do_not_depend_on_the_others():
    few, many = probes(REQUESTS[:3]), probes(REQUESTS)
    np.testing.assert_array_equal(few.gold, many.gold[:3])
    np.testing.assert_array_equal(few.ids, many.ids[:3, :, : few.ids.shape[2]])


def test_gold_likes_no_change_and_only_one_thing_changes():
    truth = gold.Truth.of(REQUESTS)
    table = probes(REQUESTS)
    counts = {name: gold.count(table.ids[:, c], truth) for c, name in enumerate(table.names)}
    at = gold.TERMS.index
    sizes = np.array([len(r.asked_attributes) for r in REQUESTS])
    assert (table.gold[:, 1:] < table.gold[:, :1]).all()
    assert (counts["wrong"][:, at("wrong")] == sizes).all() and not counts["wrong"][:, at("coverage")].any()
    assert (counts["one_wrong"][:, at("wrong")] == 1).all()
    assert (counts["missing"][:, at("facts")] == sizes - 1).all()
    assert (counts["unasked"][:, at("irrelevant")] == counts["unasked"][:, at("facts")]).all()
    assert (counts["repeat"][:, at("repeat")] == 2).all() and (
        counts["openers"][:, at("courtesy")] == 5
    ).all()
    assert (counts["hype"][:, at("hype")] == 5).all() and (counts["authority"][:, at("authority")] == 5).all()
    assert (counts["off_topic"][:, at("off_topic")] == 1).all()
    assert (counts["exclaim"][:, at("exclaim")] == sizes + 2).all()
