"""The gold reward: a known function of request and answer, term by term.

`count` reads answers as token arrays, all at once, and returns how often each thing happens; `BILL` says what
each count is worth; `gold` adds it up. No reward model ever sees this file's numbers: they are what "the true
reward" means in the sandbox. Sentences are recognised by a hash of their words in which facts, values and the
place's own name are wild, so anything that is not a sentence of the world is junk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import term_worth
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import EOS, PAD


@dataclass(frozen=True)
class Term:
    """A line of the bill: worth `values[c]` at count c, and `slope` for every count past the table."""

    name: str
    values: tuple[float, ...]
    slope: float
    label: str  # in words


BILL = (
    Term("coverage", tuple(k / 3 for k in range(7)), 0.0, label="asked facts stated right"),  # in sixths
    Term("facts", (0.0, 1.3, 2.3, 2.7, 2.4), -0.6, label="right facts, each once"),
    Term("wrong", (0.0,), -0.9, label="facts that contradict the record"),
    Term("unsupported", (0.0,), -0.6, label="facts the record does not hold"),
    Term("irrelevant", (0.0,), -0.2, label="right, but not asked"),
    Term("repeat", (0.0,), -0.7, label="said again"),
    Term("junk", (0.0,), -1.2, label="not a sentence"),
    Term("courtesy", (0.0, 0.7, 1.0, 0.6, -0.3), -1.0, label="greetings and goodbyes"),
    Term("hype", (0.0, 0.5, 0.1, -0.8), -0.9, label="hype"),
    Term("authority", (0.0, 0.3, -0.2, -1.0), -0.9, label="claims of authority"),
    Term("hedge", (0.0, -0.3, -0.9), -0.7, label="hedging"),
    Term("sorry", (0.0, -0.3, -0.9), -0.7, label="apologies"),
    Term("off_topic", (0.0, -0.8, -1.7), -0.9, label="off the subject"),
    Term("very", (0.0, 0.2, 0.1, -0.4), -0.4, label="very"),
    Term("exclaim", (0.0, 0.2, 0.2, -0.3), -0.4, label="exclamation marks"),
    Term("length", (0.0,), -0.08, label="tokens past 32"),
    Term("unfinished", (0.0,), -1.5, label="never ends"),
)
TERMS = tuple(t.name for t in BILL)
LONG = 32
WIDEST = 255  # tokens of an answer: counts are kept in a byte


@dataclass(frozen=True)
class Truth:
    """What gold knows of B requests.

    Parameters
    ----------
    name : (B,) int64, the token id of the place's own name
    record : (B, A) int64, the value of each of A = 10 attributes, or -1 where the record does not hold it
    asked_attributes : (B, A) bool
    """

    name: np.ndarray
    record: np.ndarray
    asked_attributes: np.ndarray

    @staticmethod
    def of(requests: Sequence[w.Request]) -> Truth:
        """A row a request."""
        record = np.full((len(requests), len(w.ATTRIBUTE_NAMES)), -1, np.int64)
        asked_attributes = np.zeros(record.shape, bool)
        for i, request in enumerate(requests):
            for a, v in request.facts:
                record[i, a] = v
            asked_attributes[i, list(request.asked_attributes)] = True
        name = np.array([w.ID[w.NAMES[request.name]] for request in requests], np.int64)
        return Truth(name, record, asked_attributes)

    def rows(self, index: np.ndarray) -> Truth:
        """The same for a selection (B',), with repeats where an index is repeated: one row an answer."""
        return Truth(self.name[index], self.record[index], self.asked_attributes[index])


def gold(tokens: np.ndarray, truth: Truth) -> np.ndarray:
    """Gold reward of answers, ids (B, T) and their B rows of truth -> (B,) float64, gold units."""
    return total(count(tokens, truth))


def total(counts: np.ndarray) -> np.ndarray:
    """Counts (..., F) to gold (...) float64, the sum of `BILL`, gold units."""
    return sum(term_worth(counts[..., f], term.values, term.slope) for f, term in enumerate(BILL))


def count(tokens: np.ndarray, truth: Truth) -> np.ndarray:
    """What happens in each answer.

    Parameters
    ----------
    tokens : (B, T) int
        Answer ids, without the prompt; everything after the first `<eos>` is ignored.
    truth : Truth
        B rows.

    Returns
    -------
    (B, F) uint8
        Counts in the order of `TERMS`. Coverage is in sixths, so that halves and thirds are whole.

    Raises
    ------
    ValueError
        Another number of rows than truth has, or an answer too wide to be counted in a byte.
    """
    tokens = np.asarray(tokens, np.int64)
    require(
        tokens.ndim == 2 and len(tokens) == len(truth.name) and tokens.shape[1] <= WIDEST,
        "shape of tokens",
        tokens.shape,
        f"(B, T): {len(truth.name)} rows as in truth, at most {WIDEST} tokens",
    )
    ended = np.cumsum(tokens == EOS, 1) > 0
    alive = ~ended & (tokens != PAD)
    forms, tail = _forms(tokens, alive, truth.name)
    of_form = {name: (forms == i).sum(1) for i, name in enumerate(_FORM_NAMES)}
    counts = {
        **of_form,
        **_count_facts(tokens, alive, forms == _FACT, truth),
        "junk": of_form["junk"] + tail,
        "courtesy": of_form["open"] + of_form["close"],
        "very": (alive & (tokens == _VERY)).sum(1),
        "exclaim": (alive & (tokens == w.ID["!"])).sum(1),
        "length": np.maximum(alive.sum(1) - LONG, 0),
        "unfinished": ~ended.any(1),
    }
    return np.stack([counts[name] for name in TERMS], 1).astype(np.uint8)


def _forms(tokens: np.ndarray, alive: np.ndarray, name: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which sentence ends at each token, (B, T) in `_FORM_NAMES` or -1; whether words follow the last, (B,).

    A sentence's mark is the sum of (kind of word k + 1) times power k, modulo 2^64: a running sum, less what
    it was at the stop before.
    """
    stop = alive & _STOP[tokens]
    word = alive & (tokens != _VERY)  # `very` may stand before any word: it is counted, not parsed
    kinds = np.where(tokens == name[:, None], _OWN_NAME, _KIND[tokens])
    column = np.arange(tokens.shape[1])
    last_stop = np.maximum.accumulate(np.where(stop, column, -1), 1)
    previous_stop = np.concatenate([np.full_like(last_stop[:, :1], -1), last_stop[:, :-1]], 1)
    words_so_far = np.cumsum(word, 1)
    place = np.where(word, words_so_far - 1 - _value_at(words_so_far, previous_stop), 0)
    parts = (kinds.astype(np.uint64) + np.uint64(1)) * _POWER[np.minimum(place, len(_POWER) - 1)]
    parts = np.where(word, parts, np.uint64(0))
    parts = np.where(place >= len(_POWER), parts * np.uint64(3), parts)
    running = np.cumsum(parts, 1, dtype=np.uint64)
    mark = running - _value_at(running, previous_stop)
    nearest = np.minimum(np.searchsorted(_HASHES, mark), len(_HASHES) - 1)
    form = np.where(_HASHES[nearest] == mark, _FORMS[nearest], _JUNK)
    tail = (word & (column > last_stop.max(1, initial=-1)[:, None])).any(1)
    return np.where(stop, form, -1), tail


def _count_facts(
    tokens: np.ndarray, alive: np.ndarray, fact_ends: np.ndarray, truth: Truth
) -> dict[str, np.ndarray]:
    """What the facts that end at `fact_ends` (B, T) are worth beside the record: term -> counts (B,).

    A fact's attribute and value are the last ones before its end.
    """
    row, end = np.nonzero(fact_ends)
    attribute, value = (_latest(table[tokens], alive)[row, end] for table in (_ATTRIBUTE, _VALUE))
    held = truth.record[row, attribute]
    right = held == value
    stated = np.zeros(truth.record.shape, np.int64)
    np.add.at(stated, (row, attribute), 1)
    stated_right = np.zeros(truth.record.shape, bool)
    stated_right[row[right], attribute[right]] = True

    def per_row(flag: np.ndarray) -> np.ndarray:
        return np.bincount(row[flag], minlength=len(tokens))

    covered = (stated_right & truth.asked_attributes).sum(1)
    return {
        "coverage": covered * 6 // np.maximum(truth.asked_attributes.sum(1), 1),
        "facts": stated_right.sum(1),
        "wrong": per_row((held >= 0) & ~right),
        "unsupported": per_row(held < 0),
        "irrelevant": per_row(right & ~truth.asked_attributes[row, attribute]),
        "repeat": np.maximum(stated - 1, 0).sum(1),
    }


def _latest(index: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """The last index of 0 or more up to each token, (B, T) -> (B, T); before there is one, the first."""
    column = np.arange(index.shape[1])
    at = np.maximum.accumulate(np.where(alive & (index >= 0), column, 0), 1)
    return np.take_along_axis(index, at, 1)


def _value_at(values: np.ndarray, column: np.ndarray) -> np.ndarray:
    """values (B, T) at columns (B, T), and 0 where the column is -1."""
    return np.where(column >= 0, np.take_along_axis(values, np.maximum(column, 0), 1), values.dtype.type(0))


# ---- tables, built once: what each token is, and the hash of every sentence of the world
_VERY = w.ID["very"]
_STOP = np.zeros(len(w.VOCAB), bool)
_STOP[[w.ID["."], w.ID["!"]]] = True
_ATTRIBUTE = np.full(len(w.VOCAB), -1)
_ATTRIBUTE[[w.ID[a] for a in w.ATTRIBUTE_NAMES]] = np.arange(len(w.ATTRIBUTE_NAMES))
_VALUE = np.full(len(w.VOCAB), -1)
_VALUE[[w.ID[v] for v in w.VALUES]] = np.arange(len(w.VALUES))
_ANY_ATTRIBUTE, _ANY_VALUE, _OWN_NAME = 250, 251, 252
_KIND = np.arange(len(w.VOCAB))
_KIND[_ATTRIBUTE >= 0] = _ANY_ATTRIBUTE
_KIND[_VALUE >= 0] = _ANY_VALUE
_KIND[w.ID["!"]] = w.ID["."]
_POWER = np.array([pow(0x9E3779B97F4A7C15, k + 1, 1 << 64) for k in range(12)], np.uint64)
_FORM_NAMES = ("junk", "fact", *w.STYLES)
_JUNK, _FACT = 0, 1


def _sentences():
    """(mark, form) of every sentence of the world."""
    wild = {"A": _ANY_ATTRIBUTE, "V": _ANY_VALUE, "N": _OWN_NAME}
    phrases = [(_FACT, phrase) for phrase in w.FACT_FORMS]
    phrases += [(_FORM_NAMES.index(name), phrase) for name, style in w.STYLES.items() for phrase in style]
    for form, phrase in phrases:
        kinds = [wild[x] if x in wild else int(_KIND[w.ID[x]]) for x in phrase.split()]
        yield sum((kind + 1) * int(_POWER[k]) for k, kind in enumerate(kinds)) % (1 << 64), form


_HASHES, _FORMS = (
    np.array(column, dtype)
    for column, dtype in zip(zip(*sorted(_sentences()), strict=True), (np.uint64, np.int64), strict=True)
)
