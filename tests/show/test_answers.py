"""An answer as a person reads it, and gold's bill for one as text and as bars."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from bs4 import BeautifulSoup

from rmlab.show.answers import Bill, readable
from rmlab.sources.base import Prompt, Source
from rmlab.sources.sandbox.source import Sandbox
from rmlab.sources.sandbox.world import cedar
from rmlab.tokens import SpecialTokens

SANDBOX, PROMPT = Sandbox(), cedar().prompt()
HACKED = "hello and welcome ! - price : very high ! - price : high ! see you soon !"


class Hostile(Source):
    """A source whose labels and answers are markup: a letter an id, one term that counts them."""

    special = SpecialTokens(0, (1,))
    vocab_size = 0x110000
    max_new_tokens = 64

    def prompts(self, count, rng):
        return [Prompt("p", (2,))] * count

    @property
    def bill(self):
        return [{"name": "letters", "label": "<b>&\"'</b>", "values": [0.0, 1.0], "slope": 0.5}]

    def gold_terms(self, prompts, answers):
        return (answers > 1).sum(1)[:, None].astype(np.uint8)

    def ids(self, text):
        return [*map(ord, text), 1]


@pytest.mark.parametrize(
    "words, text",
    [
        ("the price is fair .", "The price is fair."),
        (
            "hello and welcome ! - price : fair . i think so .",
            "Hello and welcome! – price: fair. I think so.",
        ),
        ("", ""),
    ],
)
def test_readable(words, text):
    assert readable(words) == text


def test_the_bill_adds_up_to_gold():
    bill = Bill(SANDBOX, PROMPT, "the price is fair . the wifi is fast !")
    assert bill.total == pytest.approx(1.0 + 1.3 - 0.6 + 0.2)
    assert bill.total == pytest.approx(SANDBOX.gold([PROMPT], np.array([SANDBOX.ids(bill.answer)]))[0])
    assert [line[:2] for line in bill.lines] == [
        ("asked facts stated right", 3),
        ("right facts, each once", 1),
        ("facts the record does not hold", 1),
        ("exclamation marks", 1),
    ]


def test_the_bill_as_text():
    lines = repr(Bill(SANDBOX, PROMPT, "the price is fair . the wifi is fast !")).split("\n")
    assert lines[:2] == [readable(PROMPT.text), "The price is fair. The wifi is fast!"]
    assert lines[2:4] == [" +1.00  asked facts stated right", " +1.30  right facts, each once"]
    assert lines[4] == " −0.60  facts the record does not hold" and lines[-1] == "  1.90  gold"


def test_the_bill_as_bars_says_the_same_as_its_text():
    bill = Bill(SANDBOX, PROMPT, HACKED)
    page = BeautifulSoup(bill._repr_html_(), "html.parser")
    assert page.p.text == readable(PROMPT.text) and page.blockquote.text == readable(HACKED)
    rows = [[span.text for span in row.find_all("span", recursive=False)] for row in page.div.find_all("div")]
    assert [(row[0], row[2]) for row in rows[:-1]] == [
        (label, f"{worth:+.2f}".replace("-", "−")) for label, _, worth in bill.lines
    ]
    assert (rows[-1][0], rows[-1][2]) == ("gold", f"{bill.total:.2f}".replace("-", "−"))
    bars = page.find_all("i")
    sides = ["right" if "right:50%" in bar["style"] else "left" for bar in bars]
    assert sides == ["left" if worth > 0 else "right" for _, _, worth in bill.lines] and len(set(sides)) == 2
    widths = [float(re.search(r"width:([\d.]+)%", bar["style"])[1]) for bar in bars]
    assert max(widths) <= 50 and all(bar.parent["aria-hidden"] == "true" for bar in bars)
    np.testing.assert_allclose(
        widths, [50 * abs(x) / max(3, *(abs(y) for *_, y in bill.lines)) for *_, x in bill.lines], atol=0.06
    )


def test_an_answer_that_is_worth_nothing_has_a_bill():
    bill = Bill(Hostile(), Prompt("p", (2,)), "")
    assert bill.lines == [] and bill.total == 0 and repr(bill).endswith("  0.00  gold")
    assert "0.00" in bill._repr_html_()


def test_markup_in_labels_and_answers_is_text():
    answer = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp;"
    bill = Bill(Hostile(), Prompt(f"p{answer}", (2,)), answer)
    page = BeautifulSoup(bill._repr_html_(), "html.parser")
    assert not page.find_all(["script", "img", "b"])
    assert page.blockquote.text == readable(answer) and page.div.div.span.text == "<b>&\"'</b>"


def test_what_cannot_be_billed_is_refused():
    with pytest.raises(ValueError, match="'zebra'"):
        Bill(SANDBOX, PROMPT, "the zebra is fair .")
    with pytest.raises(ValueError, match="request = 'p': give a request of the sandbox"):
        Bill(SANDBOX, Prompt("p", (2,)), "the price is fair .")

    class Silent(Hostile):
        bill = ()

    with pytest.raises(ValueError, match="source = 'Silent': give a source whose gold has a bill"):
        Bill(Silent(), PROMPT, "a")


def test_answers_are_shown_without_torch_and_without_the_sandbox():
    code = "import rmlab.show.answers, sys; print([m for m in sys.modules if m == 'torch' or 'sandbox' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
