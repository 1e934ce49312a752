"""The gold reward: a known function of request and answer, term by term.

`count` reads answers as token arrays, all at once, and returns how often each thing happens; `BILL` says
what each count is worth; `gold` adds it up. No reward model ever sees this file's numbers: they are what
"the true reward" means in the sandbox. Sentences are recognised by a hash of their words in which facts,
values and the place's own name are wild, so anything that is not a sentence of the world is junk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmlab.sources.sandbox import world as w
from rmlab.tokens import EOS, PAD


@dataclass(frozen=True)
class Term:
    """A line of the bill: worth `values[c]` at count c, and `slope` for every count past the table."""

    name: str
    label: str
    values: tuple[float, ...]
    slope: float

    def worth(self, count: np.ndarray) -> np.ndarray:
        """Counts (...) to gold units (...)."""
        count = np.asarray(count, np.int64)
        last = len(self.values) - 1
        return np.asarray(self.values)[np.minimum(count, last)] + self.slope * np.maximum(count - last, 0)


BILL = (
    Term("coverage", "asked facts stated right (sixths)", tuple(k / 3 for k in range(7)), 0.0),
    Term("facts", "facts stated", (0.0, 1.3, 2.3, 2.7, 2.4), -0.6),
    Term("wrong", "facts that contradict the record", (0.0,), -0.9),
    Term("unsupported", "facts the record does not hold", (0.0,), -0.6),
    Term("irrelevant", "right, but not asked", (0.0,), -0.2),
    Term("repeat", "said again", (0.0,), -0.7),
    Term("junk", "not a sentence", (0.0,), -1.2),
    Term("courtesy", "greetings and goodbyes", (0.0, 0.7, 1.0, 0.6, -0.3), -1.0),
    Term("hype", "hype", (0.0, 0.5, 0.1, -0.8), -0.9),
    Term("authority", "claims of authority", (0.0, 0.3, -0.2, -1.0), -0.9),
    Term("hedge", "hedging", (0.0, -0.3, -0.9), -0.7),
    Term("sorry", "apologies", (0.0, -0.3, -0.9), -0.7),
    Term("off_topic", "off the subject", (0.0, -0.8, -1.7), -0.9),
    Term("very", "very", (0.0, 0.2, 0.1, -0.4), -0.4),
    Term("exclaim", "exclamation marks", (0.0, 0.2, 0.2, -0.3), -0.4),
    Term("length", "tokens past 32", (0.0,), -0.08),
    Term("unfinished", "never ends", (0.0,), -1.5),
)
TERMS = tuple(t.name for t in BILL)
LONG = 32


@dataclass(frozen=True)
class Truth:
    """What gold knows of P requests: the place's own name, its facts, what is asked.

    name (P,) token ids; record (P, A) value index or -1; asked (P, A) bool; A = 10 attributes.
    """

    name: np.ndarray
    record: np.ndarray
    asked: np.ndarray

    @staticmethod
    def of(requests: list[w.Request]) -> Truth:
        record = np.full((len(requests), len(w.ATTRIBUTE_NAMES)), -1, np.int64)
        asked = np.zeros(record.shape, bool)
        for i, r in enumerate(requests):
            for a, v in r.facts:
                record[i, a] = v
            asked[i, list(r.asked)] = True
        return Truth(np.array([w.ID[w.NAMES[r.name]] for r in requests], np.int64), record, asked)

    def rows(self, index) -> Truth:
        """The same for a selection, with repeats if asked for: one row an answer."""
        return Truth(self.name[index], self.record[index], self.asked[index])


def gold(tokens: np.ndarray, truth: Truth) -> np.ndarray:
    """Gold reward of answers, (B, T) token ids and their B rows of truth -> (B,) float64, gold units."""
    return total(count(tokens, truth))


def total(counts: np.ndarray) -> np.ndarray:
    """Counts (..., F) to gold (...), the sum of `BILL`."""
    return sum(term.worth(counts[..., f]) for f, term in enumerate(BILL))


def explain(tokens: np.ndarray, truth: Truth) -> list[tuple[str, int, float]]:
    """One answer's bill: (label, count, contribution) for every term that contributes; it sums to `gold`."""
    counts = count(np.atleast_2d(tokens), truth)[0]
    lines = [(t.label, int(c), float(t.worth(c))) for t, c in zip(BILL, counts, strict=True)]
    return [line for line in lines if line[2] != 0.0]


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
    """
    tokens = np.asarray(tokens, np.int64)
    if tokens.ndim != 2 or len(tokens) != len(truth.name):
        raise ValueError(
            f"tokens has shape {tokens.shape}, truth {len(truth.name)} rows: give (B, T) and B rows"
        )
    rows, width = tokens.shape
    ended = np.cumsum(tokens == EOS, 1) > 0
    alive = ~ended & (tokens != PAD)
    finished = ended.any(1)
    stop = alive & _STOP[tokens]
    word = alive & (tokens != _VERY)  # `very` may stand before any word: it is counted, not parsed

    kinds = _KIND[tokens]
    kinds = np.where(tokens == truth.name[:, None], _OWN_NAME, kinds)
    column = np.arange(width)
    previous_stop = _before(np.maximum.accumulate(np.where(stop, column, -1), 1), -1)
    place = np.cumsum(word, 1) - 1
    place = np.where(word, place - _take(np.cumsum(word, 1), previous_stop), 0)
    parts = np.where(
        word,
        (kinds.astype(np.uint64) + np.uint64(1)) * _POWER[np.minimum(place, len(_POWER) - 1)],
        np.uint64(0),
    )
    parts = np.where(place >= len(_POWER), parts * np.uint64(3), parts)
    running = np.cumsum(parts, 1, dtype=np.uint64)
    mark = running - _take(running, previous_stop)
    found = np.searchsorted(_HASHES, mark)
    known = _HASHES[np.minimum(found, len(_HASHES) - 1)] == mark
    form = np.where(stop & known, _FORMS[np.minimum(found, len(_HASHES) - 1)], np.where(stop, _JUNK, -1))

    counts = {name: (form == i).sum(1) for i, name in enumerate(_CATEGORIES)}
    tail = (word & (column > np.where(stop, column, -1).max(1, initial=-1)[:, None])).any(1)
    fact_at = form == _FACT
    a = _ATTRIBUTE[
        _take_at(tokens, np.maximum.accumulate(np.where(alive & (_ATTRIBUTE[tokens] >= 0), column, 0), 1))
    ]
    v = _VALUE[_take_at(tokens, np.maximum.accumulate(np.where(alive & (_VALUE[tokens] >= 0), column, 0), 1))]
    b, t = np.nonzero(fact_at)
    attr, value = a[b, t], v[b, t]
    held = truth.record[b, attr]
    right = held == value
    said = np.zeros(truth.record.shape, np.int64)
    np.add.at(said, (b, attr), 1)
    said_right = np.zeros(truth.record.shape, bool)
    said_right[b[right], attr[right]] = True

    def per_row(flag: np.ndarray) -> np.ndarray:
        return np.bincount(b[flag], minlength=rows)

    out = {
        "coverage": (said_right & truth.asked).sum(1) * 6 // np.maximum(truth.asked.sum(1), 1),
        "facts": fact_at.sum(1),
        "wrong": per_row((held >= 0) & ~right),
        "unsupported": per_row(held < 0),
        "irrelevant": per_row(right & ~truth.asked[b, attr]),
        "repeat": np.maximum(said - 1, 0).sum(1),
        "junk": counts["junk"] + tail,
        "courtesy": counts["open"] + counts["close"],
        "very": (alive & (tokens == _VERY)).sum(1),
        "exclaim": (alive & (tokens == w.ID["!"])).sum(1),
        "length": np.maximum(alive.sum(1) - LONG, 0),
        "unfinished": ~finished,
    }
    return np.stack([out[n] if n in out else counts[n] for n in TERMS], 1).astype(np.uint8)


def _before(values: np.ndarray, first) -> np.ndarray:
    return np.concatenate([np.full_like(values[:, :1], first), values[:, :-1]], 1)


def _take_at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index, 1)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values at `index`, and 0 where the index is -1."""
    return np.where(index >= 0, np.take_along_axis(values, np.maximum(index, 0), 1), values.dtype.type(0))


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
_CATEGORIES = ("junk", "fact", *w.STYLES)
_JUNK, _FACT = 0, 1


def _sentences():
    wild = {"A": _ANY_ATTRIBUTE, "V": _ANY_VALUE, "N": _OWN_NAME}
    phrases = [(_FACT, p) for p in w.FACT_FORMS]
    phrases += [(_CATEGORIES.index(name), p) for name, ps in w.STYLES.items() for p in ps]
    for form, phrase in phrases:
        ids = [wild[x] if x in wild else int(_KIND[w.ID[x]]) for x in phrase.split()]
        yield sum((i + 1) * int(_POWER[k]) for k, i in enumerate(ids)) % (1 << 64), form


_HASHES, _FORMS = (
    np.array(x, t)
    for x, t in zip(zip(*sorted(_sentences()), strict=True), (np.uint64, np.int64), strict=True)
)
