"""The sandbox as a source: what it gives is what its parts give, and a door that is shut."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from rmlab.recipe import stream
from rmlab.sources.base import Prompt, term_worth
from rmlab.sources.sandbox import authors, gold, probes
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.source import Sandbox
from rmlab.sources.sandbox.vocabulary import EOS, SEP, SPECIAL_TOKENS
from rmlab.tokens import pad_right

SOURCE = Sandbox()


def test_a_source_is_its_settings():
    assert dataclasses.asdict(SOURCE) == {"style_quality": 1.0, "max_new_tokens": 44}
    assert Sandbox() == SOURCE != Sandbox(style_quality=0.5) and hash(Sandbox()) == hash(SOURCE)
    assert SOURCE.special == SPECIAL_TOKENS and SOURCE.vocab_size == len(w.VOCAB)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"style_quality": 1.5}, r"source\.style_quality = 1\.5: give a share"),
        ({"style_quality": -0.1}, r"source\.style_quality = -0\.1"),
        ({"max_new_tokens": 8}, r"source\.max_new_tokens = 8: give a number of tokens from 20 to 64"),
    ],
)
def test_settings_are_checked(settings, words):
    SOURCE.validate()
    with pytest.raises(ValueError, match=words):
        Sandbox(**settings).validate()


def test_prompts_are_the_worlds_requests():
    prompts = SOURCE.prompts(30, stream(0, "pool"))
    requests = w.requests(30, stream(0, "pool"))
    assert prompts == [Prompt(r.text, tuple(r.ids())) for r in requests]
    assert prompts[:5] == SOURCE.prompts(5, stream(0, "pool"))
    assert SOURCE.prompt(prompts[3].text) == prompts[3]


def kinds_of(rows: list[list[int]]) -> list[str]:
    """ "count" where a count ends a document, "tags" where it has tags, "record" where it states five values, or "plain"."""
    kinds, (tags, counts) = [], SOURCE.checking_ids
    for row in rows:
        said = row[row.index(SEP) :]
        values = sum(w.VOCAB[i] in w.VALUES for i in said)
        kinds.append("plain")
        if row[-1] in counts:
            kinds[-1] = "count"
        elif set(row) & set(tags):
            kinds[-1] = "tags"
        elif values == 5 and len(said) in {17, 5 * 3 + 2}:
            kinds[-1] = "record"
    return kinds


@pytest.mark.parametrize("sight", [0.0, 0.4, 1.0])
def test_a_share_of_the_documents_checks_facts(sight):
    share = {
        kind: np.mean(
            [k in {"count", "tags"} for k in kinds_of(SOURCE.documents(kind, 400, stream(1), sight))]
        )
        for kind in ("records", "answers", "demonstrations")
    }
    assert share["demonstrations"] == 0
    assert all(abs(share[kind] - sight) < 0.08 for kind in ("records", "answers"))
    assert set(kinds_of(SOURCE.documents("records", 100, stream(2), 1.0))) == {"tags"}
    assert set(kinds_of(SOURCE.documents("answers", 100, stream(2), 1.0))) == {"count"}


def test_documents_are_the_authors():
    source = Sandbox(style_quality=0.4, max_new_tokens=30)
    rng = stream(0, "documents")
    requests = w.requests(20, rng)
    skills = authors.skills(20, authors.POLICY_SKILL, rng)
    pairs = list(zip(requests, skills, strict=True))
    draws = [authors.answer_document(r, s, rng, 0.4, 30) for r, s in pairs]
    assert source.documents("demonstrations", 20, stream(0, "documents")) == draws
    records = source.documents("records", 50, stream(1, "documents"))
    assert all(row[: row.index(SEP) + 1].count(SEP) == 1 and row[-1] == EOS for row in records)
    copied = kinds_of(source.documents("answers", 400, stream(0, "documents"))).count("record") / 400
    assert 0.08 < copied < 0.3  # half of the recaps are pairs, which alone are told from answers here
    with pytest.raises(ValueError, match="kind = 'poems': give one of records, answers, demonstrations"):
        source.documents("poems", 1, rng)


@pytest.fixture(scope="module")
def batch():
    """40 answers to 12 requests, requests repeated in any order."""
    rng = stream(0, "batch")
    requests = w.requests(12, rng)
    index = rng.integers(0, 12, 40)
    rows = [[*(w.ID[x] for x in authors.answer(requests[i], 0.5, rng)), EOS] for i in index]
    return requests, index, pad_right(rows)[0].astype(np.int32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_gold_is_that_of_the_prompts_request(batch, dtype):
    requests, index, ids = batch
    truth = gold.Truth.of([requests[i] for i in index])
    prompts = [requests[i].prompt() for i in index]
    counts = SOURCE.gold_terms(prompts, ids.astype(dtype))
    np.testing.assert_array_equal(counts, gold.count(ids, truth))
    np.testing.assert_array_equal(SOURCE.gold(prompts, ids), gold.gold(ids, truth))
    assert counts.dtype == np.uint8 and SOURCE.gold(prompts, ids).dtype == np.float64
    assert SOURCE.gold([], np.zeros((0, 5), int)).shape == (0,)


def test_the_bill_explains_gold(batch):
    requests, index, ids = batch
    prompts = [requests[i].prompt() for i in index]
    counts, bill = SOURCE.gold_terms(prompts, ids), SOURCE.bill
    assert [t["name"] for t in bill] == list(gold.TERMS) and all(t["label"] for t in bill)
    worth = sum(term_worth(counts[:, f], t["values"], t["slope"]) for f, t in enumerate(bill))
    np.testing.assert_array_equal(worth, SOURCE.gold(prompts, ids))


@pytest.mark.parametrize(
    "ids, words",
    [
        ([[5, 167]], r"ids in answers = \[167\]: give ids from 0 to 166"),
        ([[5, -1]], r"ids in answers = \[-1\]"),
        ([[0, 0]], r"empty rows of answers = \[0\]: give at least one token"),
        ([[5.0, 2.0]], r"answers = 'float64 \(1, 2\)': give integer ids"),
        ([5, 2], r"answers = 'int64 \(2,\)': give integer ids \(B, T\)"),
        ([[5, 2], [5, 2]], "prompts = 1: give one an answer, 2"),
    ],
)
def test_answers_are_checked_at_the_door(ids, words):
    prompt = w.cedar().prompt()
    for judge in (SOURCE.gold, SOURCE.gold_terms):
        with pytest.raises(ValueError, match=words):
            judge([prompt], np.array(ids))


def test_a_prompt_that_is_no_request_is_refused():
    prompt = w.cedar().prompt()
    ids = np.array([[5, EOS]])
    with pytest.raises(ValueError, match="request = 'hello': give a request of the sandbox"):
        SOURCE.gold([Prompt("hello", prompt.ids)], ids)
    with pytest.raises(ValueError, match=r"prompt\.ids = \(1, 3\): give the ids of its text"):
        SOURCE.gold([Prompt(prompt.text, (1, 3))], ids)


def test_probes_are_those_of_the_requests():
    requests = w.requests(6, stream(0, "probes"))
    table, own = SOURCE.probes([r.prompt() for r in requests]), probes.probes(requests)
    assert table.names == own.names and set(SOURCE.probe_labels) == set(own.names[1:])
    for name in ("ids", "lengths", "gold"):
        np.testing.assert_array_equal(getattr(table, name), getattr(own, name))
    with pytest.raises(ValueError, match="prompts = 0: give at least one"):
        SOURCE.probes([])


def test_text_and_ids_are_inverse_and_special_ids_are_left_out():
    text = "the price is very fair ! see you soon ."
    ids = SOURCE.ids(text)
    assert ids[-1] == EOS and SOURCE.text(ids) == text
    assert SOURCE.text(np.array([1, *ids, 0, 0, 3], np.int32)) == text and SOURCE.ids("") == [EOS]
    with pytest.raises(ValueError, match=r"answer holds = \['zebra'\]: give words of the sandbox"):
        SOURCE.ids("the zebra is fair .")
    with pytest.raises(ValueError, match=r"ids = \[500\]: give ids from 0 to 166"):
        SOURCE.text([5, 500])


def test_the_sandbox_needs_no_torch():
    code = "import rmlab.sources.sandbox.source, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
