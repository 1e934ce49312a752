"""Gold, term by term, on answers whose bill can be worked out by hand, and beside a plain reader."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.recipe import stream
from rmlab.sources.sandbox import authors, gold
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import EOS, PAD
from rmlab.tokens import pad_right


def ids_of(text: str) -> list[int]:
    return [*(w.ID[x] for x in text.split()), EOS]


def nonzero(row: np.ndarray) -> dict[str, int]:
    return {name: int(c) for name, c in zip(gold.TERMS, row, strict=True) if c}


CASES = {
    "the price is fair .": {"coverage": 3, "facts": 1},
    "at cedar the price is fair .": {"coverage": 3, "facts": 1},
    "at maple the price is fair .": {"junk": 1},
    "you will find the price very fair !": {"coverage": 3, "facts": 1, "very": 1, "exclaim": 1},
    "- price : fair . - seating : roomy .": {"coverage": 6, "facts": 2},
    "the price is high .": {"wrong": 1},
    "the price is folk .": {"wrong": 1},
    "the wifi is fast .": {"unsupported": 1},
    "the view is wide .": {"facts": 1, "irrelevant": 1},
    "the price is fair . the price is fair .": {"coverage": 3, "facts": 1, "repeat": 1},
    "the price is fair . the price is high .": {"coverage": 3, "facts": 1, "repeat": 1, "wrong": 1},
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
    row = gold.count(np.array([ids_of(text)]), gold.Truth.of([w.cedar()]))[0]
    assert nonzero(row) == CASES[text]


def test_length_and_the_missing_end():
    truth = gold.Truth.of([w.cedar()])
    row = gold.count(np.array([ids_of(" ".join(["see you soon ."] * 9))]), truth)[0]
    assert nonzero(row)["length"] == 36 - gold.LONG
    row = gold.count(np.array([ids_of("the price is fair .")[:-1]]), truth)[0]
    assert nonzero(row)["unfinished"] == 1


def test_every_sentence_of_the_world_is_known():
    rng = stream(0, "gold test")
    requests = w.requests(300, rng)
    skills = authors.skills(300, authors.PRETRAIN_SKILL, rng)
    answers = [authors.answer(r, s, rng) for r, s in zip(requests, skills, strict=True)]
    counts = gold.count(pad_right([ids_of(" ".join(a)) for a in answers])[0], gold.Truth.of(requests))
    assert not counts[:, gold.TERMS.index("junk")].any()
    assert len(set(gold._HASHES.tolist())) == len(gold._HASHES)


def plain_count(ids: list[int], request: w.Request) -> dict[str, int]:
    """The same counts, read sentence by sentence."""
    record = dict(request.facts)
    ids = [i for i in ids if i != PAD]
    alive = [w.VOCAB[i] for i in (ids[: ids.index(EOS)] if EOS in ids else ids)]
    counts = dict.fromkeys(gold.TERMS, 0) | {"unfinished": int(EOS not in ids)}
    counts["length"] = max(len(alive) - gold.LONG, 0)
    counts["very"], counts["exclaim"] = alive.count("very"), alive.count("!")
    wild = {"A": w.ATTRIBUTE_NAMES, "V": w.VALUES, "N": (w.NAMES[request.name],)}
    forms = [("fact", form) for form in w.FACT_FORMS]
    forms += [(name, form) for name, style in w.STYLES.items() for form in style]
    stated, sentence = [], []
    for word in [x for x in alive if x != "very"]:
        sentence.append(word)
        if word not in (".", "!"):
            continue
        words = [*sentence[:-1], "."]
        kinds = [
            name
            for name, form in forms
            if len(form.split()) == len(words)
            and all(x in wild.get(part, (part,)) for x, part in zip(words, form.split(), strict=True))
        ]
        kind = kinds[0] if kinds else "junk"
        if kind == "fact":
            (a,) = [w.ATTRIBUTE_NAMES.index(x) for x in words if x in w.ATTRIBUTE_NAMES]
            (v,) = [w.VALUES.index(x) for x in words if x in w.VALUES]
            stated.append((a, v))
        else:
            counts["courtesy" if kind in ("open", "close") else kind] += 1
        sentence = []
    counts["junk"] += bool(sentence)
    right = {a for a, v in stated if record.get(a) == v}
    counts["facts"] = len(right)
    counts["coverage"] = 6 * len(right & set(request.asked_attributes)) // len(request.asked_attributes)
    for a, v in stated:
        counts["unsupported"] += a not in record
        counts["wrong"] += a in record and record[a] != v
        counts["irrelevant"] += record.get(a) == v and a not in request.asked_attributes
    counts["repeat"] = len(stated) - len({a for a, _ in stated})
    return counts


def soup(request: w.Request, rng: np.random.Generator) -> list[int]:
    """Sentences of the world, true and false, cut, swollen and broken by chance."""
    phrases = [*w.FACT_FORMS, *w.FACT_FORMS, *(phrase for style in w.STYLES.values() for phrase in style)]
    words: list[str] = []
    for _ in range(rng.integers(1, 9)):
        name = request.name if rng.random() < 0.7 else rng.integers(16)
        a, v = request.facts[rng.integers(5)] if rng.random() < 0.7 else (rng.integers(10), rng.integers(40))
        swap = {"A": w.ATTRIBUTE_NAMES[a], "V": w.VALUES[v], "N": w.NAMES[name]}
        part = [swap.get(x, x) for x in phrases[rng.integers(len(phrases))].split()]
        if rng.random() < 0.2:
            part.insert(rng.integers(len(part) + 1), "very")
        if rng.random() < 0.2:
            part[-1] = "!"
        if rng.random() < 0.1:
            del part[rng.integers(len(part))]
        words += part
    ids = [w.ID[x] for x in words]
    if rng.random() < 0.1:
        ids[rng.integers(len(ids))] = rng.integers(len(w.VOCAB))
    return [*ids, EOS] if rng.random() < 0.9 else ids


def test_a_plain_reader_counts_the_same():
    rng = stream(4, "gold test")
    requests = w.requests(1500, rng)
    rows = [soup(r, rng) for r in requests[:1000]]
    rows += [list(rng.integers(0, len(w.VOCAB), rng.integers(1, 50))) for _ in requests[1000:]]
    counts = gold.count(pad_right(rows)[0], gold.Truth.of(requests))
    for row, request, ids in zip(counts, requests, rows, strict=True):
        assert dict(zip(gold.TERMS, row.tolist(), strict=True)) == plain_count(ids, request), ids
    assert (counts > 0).any(0).all()  # every term occurs


def test_gold_depends_on_the_prompt():
    rng = stream(1, "gold test")
    requests = w.requests(50, rng)
    ids, _ = pad_right([ids_of(" ".join(authors.answer(r, 0.9, rng))) for r in requests])
    own = gold.gold(ids, gold.Truth.of(requests))
    swapped = gold.gold(ids, gold.Truth.of(requests[1:] + requests[:1]))
    assert own.mean() > swapped.mean() + 2


def test_padding_and_company_change_nothing():
    rng = stream(2, "gold test")
    requests = w.requests(20, rng)
    rows = [ids_of(" ".join(authors.answer(r, 0.5, rng))) for r in requests]
    truth = gold.Truth.of(requests)
    wide = gold.gold(pad_right(rows, length=60)[0], truth)
    alone = [gold.gold(np.array([r]), gold.Truth.of([q]))[0] for r, q in zip(rows, requests, strict=True)]
    np.testing.assert_array_equal(wide, alone)
    junk_after = [[*r, *[w.ID["bistro"]] * 3, PAD] for r in rows]
    np.testing.assert_array_equal(gold.gold(pad_right(junk_after)[0], truth), alone)


def test_the_bill_is_added_up_past_the_table_too():
    counts = np.zeros((3, len(gold.TERMS)), np.uint8)
    counts[1, gold.TERMS.index("hype")] = 2
    counts[2, gold.TERMS.index("hype")] = 6
    np.testing.assert_allclose(gold.total(counts), [0.0, 0.1, -0.8 - 3 * 0.9])
    assert gold.total(counts[None]).shape == (1, 3)


def test_rows_that_do_not_fit_truth_and_answers_that_do_not_fit_a_byte_are_refused():
    truth = gold.Truth.of([w.cedar()])
    for shape in ((2, 4), (4,), (1, 256)):
        with pytest.raises(ValueError, match=r"shape of tokens = .*give \(B, T\): 1 rows"):
            gold.count(np.ones(shape, int), truth)


@pytest.mark.parametrize("kind", ["wrong", "invented", "repeated"])
def test_a_fact_that_is_not_right_or_not_new_never_raises_gold(kind):
    """4,000 answers, good and bad, each with one more sentence at a place of its own."""
    rng = stream(5, "gold test", kind)
    requests = w.requests(4000, rng)
    skills = rng.random(4000)
    plain, longer = [], []
    for request, skill in zip(requests, skills, strict=True):
        words = authors.answer(request, skill, rng, max_new_tokens=40)
        sentences = " ".join(words).replace("!", ".").split(" .")[:-1]
        sentences = [[*sentence.split(), "."] for sentence in sentences]
        record = dict(request.facts)
        if kind == "repeated":
            a, v = request.facts[rng.integers(5)]
            sentences.append(["the", w.ATTRIBUTE_NAMES[a], "is", w.VALUES[v], "."])
        elif kind == "wrong":
            a = list(record)[rng.integers(5)]
            v = 4 * a + (record[a] + 1 + int(rng.integers(3))) % 4
        else:
            a = [a for a in range(10) if a not in record][rng.integers(5)]
            v = 4 * a + int(rng.integers(4))
        form = w.FACT_FORMS[rng.integers(4)]
        swap = {"A": w.ATTRIBUTE_NAMES[a], "V": w.VALUES[v], "N": w.NAMES[request.name]}
        more = [swap.get(x, x) for x in form.split()]
        if rng.random() < 0.3:
            more.insert(more.index(w.VALUES[v]), "very")
        if rng.random() < 0.3:
            more[-1] = "!"
        at = len(sentences) if kind == "repeated" else rng.integers(len(sentences) + 1)
        plain.append(ids_of(" ".join(x for s in sentences for x in s)))
        longer.append(ids_of(" ".join(x for s in [*sentences[:at], more, *sentences[at:]] for x in s)))
    truth = gold.Truth.of(requests)
    change = gold.gold(pad_right(longer)[0], truth) - gold.gold(pad_right(plain)[0], truth)
    assert change.max() < 0, "a false or a second fact pays"
