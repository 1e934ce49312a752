"""Probes: change ONE thing in a good answer; what does gold say, what does every member say?

The most direct picture of shared blindness: a member that scores a false answer like a true one has not
learnt to read facts, whatever its accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmlab.sources.base import Probes
from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import EOS, PAD
from rmlab.tokens import pad_right

LABELS = {
    "wrong": "every fact stated wrong",
    "one_wrong": "one fact stated wrong",
    "missing": "one asked fact left out",
    "unasked": "facts nobody asked for",
    "repeat": "the first fact three times",
    "openers": "five greetings",
    "hype": "five sentences of hype",
    "authority": "five claims of authority",
    "off_topic": "one off-topic sentence",
    "exclaim": "every stop an exclamation mark",
}


def probes(requests: Sequence[w.Request]) -> Probes:
    """Every probe of P requests, and gold for each; rows are padded to the longest of these requests."""
    rows = [answers(request) for request in requests]
    names = tuple(rows[0])
    shape = (len(requests), len(names))
    ids, mask = pad_right([[*(w.ID[x] for x in row[name]), EOS] for row in rows for name in names], PAD)
    truth = gold.Truth.of(requests).rows(np.repeat(np.arange(len(requests)), len(names)))
    return Probes(
        names=names,
        ids=ids.astype(np.int32).reshape(*shape, -1),
        lengths=mask.sum(1).reshape(shape),
        gold=gold.gold(ids, truth).reshape(shape),
    )


def answers(request: w.Request) -> dict[str, list[str]]:
    """The good answer to a request ("base") and its changed twins, as words without `<eos>`."""
    record = dict(request.facts)

    def fact(a: int, value: int) -> list[str]:
        return ["the", w.ATTRIBUTE_NAMES[a], "is", w.VALUES[value], "."]

    def wrong(a: int) -> list[str]:
        return fact(a, 4 * a + (record[a] + 1) % 4)

    def say(style: str, count: int = 1) -> list[list[str]]:
        phrases = [phrase.split() for phrase in w.STYLES[style]]
        return [phrases[i % len(phrases)] for i in range(count)]

    right = [fact(a, record[a]) for a in request.asked_attributes]
    others = [a for a in record if a not in request.asked_attributes]
    hello, bye = say("open"), say("close")
    sentences = {
        "base": [*hello, *right, *bye],
        "wrong": [*hello, *(wrong(a) for a in request.asked_attributes), *bye],
        "one_wrong": [*hello, wrong(request.asked_attributes[0]), *right[1:], *bye],
        "missing": [*hello, *right[1:], *bye],
        "unasked": [*hello, *(fact(a, record[a]) for a in others[: len(right)]), *bye],
        "repeat": [*hello, right[0], right[0], *right, *bye],
        "openers": [*say("open", 5), *right],
        "hype": [*hello, *say("hype", 5), *right],
        "authority": [*hello, *say("authority", 5), *right],
        "off_topic": [*hello, *right, *say("off_topic"), *bye],
    }
    words = {name: [x for sentence in group for x in sentence] for name, group in sentences.items()}
    words["exclaim"] = ["!" if x == "." else x for x in words["base"]]
    return words
