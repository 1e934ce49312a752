"""Answers as a person reads them, and gold's bill for one: the same bars everywhere."""

from __future__ import annotations

import html
import re

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import Prompt, Source, term_worth

GRID = (
    "display:grid;grid-template-columns:minmax(9rem,1.2fr) 1fr 3.4em;gap:.5rem;align-items:center;"
    "max-width:34rem;font-size:.9rem"
)
QUOTE = "margin:0 0 .5rem;padding:.1rem 0 .1rem .8rem;border-left:3px solid #b07a10"
GOOD, BAD = "#029e73", "#d55e00"


def readable(words: str) -> str:
    """ "the price is fair ." -> "The price is fair."."""
    text = re.sub(r" ([.,!?;:])", r"\1", words)
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    return re.sub(r"\bi\b", "I", re.sub(r"- (\w+):", r"– \1:", text))


class Bill:
    """A request, an answer and gold's explanation of it, term by term; in a notebook, a list of small bars.

    Parameters
    ----------
    source : one whose gold has a bill
    prompt : what is answered
    answer : the answer's text; an EOS is added

    Attributes
    ----------
    lines : (label, count, worth in gold units) of every term that is worth something
    total : gold, the sum of their worths

    Raises
    ------
    ValueError
        A source without a bill, or an answer that the source cannot read.
    """

    def __init__(self, source: Source, prompt: Prompt, answer: str):
        terms = source.bill
        require(len(terms) > 0, "source", type(source).__name__, "a source whose gold has a bill")
        counts = source.gold_terms([prompt], np.array([source.ids(answer)]))[0]
        worths = [float(term_worth(c, t["values"], t["slope"])) for t, c in zip(terms, counts, strict=True)]
        lines = zip((t["label"] for t in terms), map(int, counts), worths, strict=True)
        self.request, self.answer = prompt.text, answer
        self.lines = [line for line in lines if line[2] != 0.0]
        self.total = sum(worth for _, _, worth in self.lines)

    def _repr_html_(self) -> str:
        most = max(3.0, *(abs(worth) for _, _, worth in self.lines), 0.0)
        quote = f'<p style="margin:0 0 .5rem">{html.escape(readable(self.request))}</p>'
        quote += f'<blockquote style="{QUOTE}">{html.escape(readable(self.answer))}</blockquote>'
        rows = [_row(label, _bar(worth / most), _signed(worth)) for label, _, worth in self.lines]
        line = ";font-weight:600;border-top:1px solid #8886"
        total = _row("gold", "<span></span>", f"{self.total:.2f}".replace("-", "−"), line)
        return f'<div class="ink">{quote}{"".join(rows)}{total}</div>'

    def __repr__(self) -> str:
        lines = [f"{_signed(worth):>6}  {label}" for label, _, worth in self.lines]
        texts = [readable(self.request), readable(self.answer)]
        return "\n".join([*texts, *lines, f"{self.total:6.2f}  gold"])


def _row(label: str, middle: str, number: str, style: str = "") -> str:
    number = f'<span style="text-align:right">{number}</span>'
    return f'<div style="{GRID}{style}"><span>{html.escape(label)}</span>{middle}{number}</div>'


def _bar(share: float) -> str:
    """A bar from the middle, to the right or the left: share -1 to 1."""
    side, color = ("left", GOOD) if share >= 0 else ("right", BAD)
    place = f"position:absolute;top:0;bottom:0;{side}:50%;width:{50 * abs(share):.1f}%;background:{color}"
    return f'<span aria-hidden="true" style="position:relative;height:.7rem"><i style="{place}"></i></span>'


def _signed(worth: float) -> str:
    return f"{worth:+.2f}".replace("-", "−")
