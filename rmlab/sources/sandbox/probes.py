"""Probes: change ONE thing in a good answer; what does gold say, what does every member say?

The most direct picture of shared blindness: a member that scores a false answer like a true one has not
learnt to read facts, whatever its accuracy.
"""

from __future__ import annotations

import numpy as np

from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox import world as w
from rmlab.tokens import EOS, pad_right

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


def answers(request: w.Request) -> dict[str, list[str]]:
    """The good answer to a request ("base") and its changed twins, as words."""
    truth = dict(request.facts)

    def fact(a: int, value: int) -> list[str]:
        return ["the", w.ATTRIBUTE_NAMES[a], "is", w.VALUES[value], "."]

    def wrong(a: int) -> list[str]:
        return fact(a, 4 * a + (truth[a] + 1) % 4)

    def say(style: str, count: int = 1) -> list[list[str]]:
        phrases = [s.split() for s in w.STYLES[style]]
        return [phrases[i % len(phrases)] for i in range(count)]

    right = [fact(a, truth[a]) for a in request.asked]
    others = [a for a in truth if a not in request.asked]
    hello, bye = say("open"), say("close")
    out = {
        "base": [*hello, *right, *bye],
        "wrong": [*hello, *(wrong(a) for a in request.asked), *bye],
        "one_wrong": [*hello, wrong(request.asked[0]), *right[1:], *bye],
        "missing": [*hello, *right[1:], *bye],
        "unasked": [*hello, *(fact(a, truth[a]) for a in others[: len(right)]), *bye],
        "repeat": [*hello, right[0], right[0], *right, *bye],
        "openers": [*say("open", 5), *right],
        "hype": [*hello, *say("hype", 5), *right],
        "authority": [*hello, *say("authority", 5), *right],
        "off_topic": [*hello, *right, *say("off_topic"), *bye],
    }
    words = {name: [x for s in sentences for x in s] for name, sentences in out.items()}
    words["exclaim"] = ["!" if x == "." else x for x in words["base"]]
    return words


def table(requests: list[w.Request]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every probe of every request.

    Returns
    -------
    names : probe names, "base" first
    tokens : (P, C, T) int64 right-padded answers, `<eos>` included
    gold : (P, C) gold reward
    """
    made = [answers(r) for r in requests]
    names = list(made[0])
    rows = [[w.ID[x] for x in m[n]] + [EOS] for m in made for n in names]
    ids, _ = pad_right(rows)
    truth = gold.Truth.of(requests).rows(np.repeat(np.arange(len(requests)), len(names)))
    shape = (len(requests), len(names))
    return names, ids.reshape(*shape, -1), gold.gold(ids, truth).reshape(shape)


def reaction(scores: np.ndarray) -> np.ndarray:
    """Mean change against the good answer, scores (P, C, ...) with "base" first -> (C - 1, ...)."""
    return (scores[:, 1:] - scores[:, :1]).mean(0)
