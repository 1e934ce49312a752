"""Gold, term by term, on answers whose bill can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.recipe import World, stream
from rmlab.show.answers import Bill, cedar, readable
from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox import world as w
from rmlab.tokens import EOS, PAD, pad_right


def counts(text, request=None):
    ids = [[*(w.ID[x] for x in text.split()), EOS]]
    found = gold.count(np.array(ids), gold.Truth.of([request or cedar()]))[0]
    return {n: int(c) for n, c in zip(gold.TERMS, found, strict=True) if c}


CASES = {
    "the price is fair .": {"coverage": 3, "facts": 1},
    "at cedar the price is fair .": {"coverage": 3, "facts": 1},
    "at maple the price is fair .": {"junk": 1},
    "you will find the price very fair !": {"coverage": 3, "facts": 1, "very": 1, "exclaim": 1},
    "- price : fair . - seating : roomy .": {"coverage": 6, "facts": 2},
    "the price is high .": {"facts": 1, "wrong": 1},
    "the price is folk .": {"facts": 1, "wrong": 1},
    "the wifi is fast .": {"facts": 1, "unsupported": 1},
    "the view is wide .": {"facts": 1, "irrelevant": 1},
    "the price is fair . the price is fair .": {"coverage": 3, "facts": 2, "repeat": 1},
    "the price is fair . the price is high .": {"coverage": 3, "facts": 2, "repeat": 1, "wrong": 1},
    "hello and welcome . see you soon !": {"courtesy": 2, "exclaim": 1},
    "it is a true gem . i think so . trust me on this .": {"hype": 1, "hedge": 1, "authority": 1},
    "my apologies . my cousin bakes bread .": {"sorry": 1, "off_topic": 1},
    "bistro .": {"junk": 1},
    ".": {"junk": 1},
    "the price is": {"junk": 1},
    "very .": {"junk": 1, "very": 1},
    "- - - price : fair .": {"junk": 1},
}


@pytest.mark.parametrize("text", CASES)
def test_counts(text):
    assert counts(text) == CASES[text]


def test_length_and_the_missing_end():
    text = " ".join(["see you soon ."] * 9)
    assert counts(text)["length"] == 36 - gold.LONG
    ids = np.array([[w.ID[x] for x in "the price is fair .".split()]])
    assert gold.count(ids, gold.Truth.of([cedar()]))[0][gold.TERMS.index("unfinished")] == 1


def test_every_sentence_of_the_world_is_known():
    rng = stream(0, "gold test")
    asked = w.requests(300, rng)
    said = [
        w.answer(r, s, rng, World()) for r, s in zip(asked, w.skills(300, w.PRETRAIN_SKILL, rng), strict=True)
    ]
    ids, _ = pad_right([[*(w.ID[x] for x in a), EOS] for a in said])
    found = gold.count(ids, gold.Truth.of(asked))
    assert not found[:, gold.TERMS.index("junk")].any()
    assert len(set(gold._HASHES.tolist())) == len(gold._HASHES)


def test_gold_depends_on_the_prompt():
    rng = stream(1, "gold test")
    asked = w.requests(50, rng)
    ids, _ = pad_right([[*(w.ID[x] for x in w.answer(r, 0.9, rng, World())), EOS] for r in asked])
    own = gold.gold(ids, gold.Truth.of(asked))
    swapped = gold.gold(ids, gold.Truth.of(asked[1:] + asked[:1]))
    assert own.mean() > swapped.mean() + 2


def test_padding_and_company_change_nothing():
    rng = stream(2, "gold test")
    asked = w.requests(20, rng)
    rows = [[*(w.ID[x] for x in w.answer(r, 0.5, rng, World())), EOS] for r in asked]
    truth = gold.Truth.of(asked)
    wide = gold.gold(pad_right(rows, length=60)[0], truth)
    alone = [gold.gold(np.array([r]), gold.Truth.of([q]))[0] for r, q in zip(rows, asked, strict=True)]
    np.testing.assert_array_equal(wide, alone)
    junk_after = [r + [w.ID["bistro"]] * 3 + [PAD] for r in rows]
    np.testing.assert_array_equal(gold.gold(pad_right(junk_after)[0], truth), alone)


def test_the_bill_adds_up_and_shows_itself():
    bill = Bill(cedar(), "the price is fair . the wifi is fast !")
    assert bill.total == pytest.approx(1.0 + 2.3 - 0.6 + 0.2)
    assert "contradict" not in repr(bill) and "The price is fair." in repr(bill)
    assert bill._repr_html_().count("<i ") == len(bill.lines)
    with pytest.raises(ValueError, match="'zebra'"):
        Bill(cedar(), "the zebra is fair .")


def test_skill_pays_and_style_follows_it():
    rng = stream(3, "gold test")
    asked = w.requests(400, rng)

    def means(skill, world):
        ids, _ = pad_right([[*(w.ID[x] for x in w.answer(r, skill, rng, world)), EOS] for r in asked])
        found = gold.count(ids, gold.Truth.of(asked))
        return gold.total(found).mean(), found[:, gold.TERMS.index("courtesy")].mean()

    (low, cold), (high, warm) = means(0.1, World()), means(0.9, World())
    assert high > low + 1.5 and warm > cold + 0.8
    _, cold = means(0.1, World(style_quality=0.0))
    _, warm = means(0.9, World(style_quality=0.0))
    assert abs(warm - cold) < 0.25


def test_readable():
    assert (
        readable("hello and welcome ! - price : fair . i think so .")
        == "Hello and welcome! – price: fair. I think so."
    )


def test_a_request_is_read_back_from_its_text():
    for request in w.requests(50, stream(0, "test")):
        assert w.Request.of(request.text) == request
