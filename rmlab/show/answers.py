"""Answers as a person reads them, and gold's bill for one: the same bars everywhere."""

from __future__ import annotations

import html
import re

from rmlab.sources.sandbox import gold, world
from rmlab.tokens import EOS


def readable(words: str) -> str:
    """ "the price is fair ." -> "The price is fair."."""
    text = re.sub(r" ([.,!?;:])", r"\1", words)
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    return re.sub(r"\bi\b", "I", re.sub(r"- (\w+):", r"– \1:", text))


class Bill:
    """Gold's explanation of an answer to a request, term by term; in a notebook, a list of small bars.

    answer : the answer's words, without `<eos>`. Raises a `ValueError` for a word the world does not have.
    """

    def __init__(self, request: world.Request, answer: str):
        unknown = [w for w in answer.split() if w not in world.ID]
        if unknown:
            raise ValueError(
                f"answer holds {unknown[0]!r}: use words of the sandbox's vocabulary, rmlab.sources.sandbox.world.WORDS"
            )
        self.answer = answer
        ids = [[*(world.ID[w] for w in answer.split()), EOS]]
        lines = gold.explain(ids, gold.Truth.of([request]))
        self.lines = [(label.removesuffix(" (sixths)"), count, worth) for label, count, worth in lines]
        self.total = sum(worth for _, _, worth in self.lines)

    def _repr_html_(self) -> str:
        most = max(3.0, *(abs(worth) for _, _, worth in self.lines), 0.0)
        grid = "display:grid;grid-template-columns:minmax(9rem,1.2fr) 1fr 3.4em;gap:.5rem;align-items:center;max-width:34rem;font-size:.9rem"
        rows = []
        for label, _, worth in self.lines:
            side, color = ("left", "#029e73") if worth >= 0 else ("right", "#d55e00")
            bar = f'<i style="position:absolute;top:0;bottom:0;{side}:50%;width:{50 * abs(worth) / most:.1f}%;background:{color}"></i>'
            track = f'<span aria-hidden="true" style="position:relative;height:.7rem">{bar}</span>'
            rows.append(
                f'<div style="{grid}"><span>{html.escape(label)}</span>{track}<span style="text-align:right">{_signed(worth)}</span></div>'
            )
        total = f'<div style="{grid};font-weight:600;border-top:1px solid #8886"><span>gold</span><span></span><span style="text-align:right">{_signed(self.total)[0:] if self.total < 0 else f"{self.total:.2f}"}</span></div>'
        quote = f'<blockquote style="margin:0 0 .5rem;padding:.1rem 0 .1rem .8rem;border-left:3px solid #b07a10">{html.escape(readable(self.answer))}</blockquote>'
        return f'<div class="ink">{quote}{"".join(rows)}{total}</div>'

    def __repr__(self) -> str:
        return "\n".join(
            [
                readable(self.answer),
                *(f"{_signed(worth):>6}  {label}" for label, _, worth in self.lines),
                f"{self.total:6.2f}  gold",
            ]
        )


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−")


def cedar() -> world.Request:
    """The book's recurring request: the cedar bistro's seating and price."""
    facts = (("view", "wide"), ("walk", "short"), ("seating", "roomy"), ("price", "fair"), ("music", "folk"))
    at = world.ATTRIBUTE_NAMES.index
    pairs = tuple((at(a), world.VALUES.index(v)) for a, v in facts)
    return world.Request(
        world.NAMES.index("cedar"), world.KINDS.index("bistro"), pairs, (at("seating"), at("price"))
    )
