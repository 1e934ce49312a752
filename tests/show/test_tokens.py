"""The token viewer: what is escaped, what is coloured how, and that its numbers are the row's."""

from __future__ import annotations

import json
import re

import pytest
from bs4 import BeautifulSoup

from rmlab.show.tokens import COSTS, FADE, SAVES, Tokens, signed

ANSWER = [
    ["the", 0.0, 0.5, 1.25],
    ["price", 2.0, -0.75, 0.001],
    ["is", -0.5, 0.0, -3.0],
    ["very", 1.0, 1.0, 0.1],
    ["<eos>", -0.004, 0.1, -0.1],
]


def row(tokens=ANSWER, **other):
    return {"step": 120, "gold": -1.5, "proxy": 2.25, "tokens": json.dumps(tokens), **other}


def page(**columns) -> BeautifulSoup:
    return BeautifulSoup(Tokens(row(**columns))._repr_html_(), "html.parser")


def cells(soup):
    return soup.select("span[title]")


def paint(cell):
    """(colour, tint, line) of a token."""
    tint, line = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", cell["style"])
    assert tint[0] == line[0]
    return tint[0], float(tint[1]), float(line[1])


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_the_table_holds_every_number_of_the_row():
    lines = page().select("tbody tr")
    assert [x.th.get_text() for x in lines] == [word for word, *_ in ANSWER]
    for line, (_, *numbers) in zip(lines, ANSWER, strict=True):
        assert [number(td.get_text()) for td in line.select("td")] == pytest.approx(numbers, abs=0.005)


def test_a_column_has_its_name_over_it():
    soup = page()
    assert [th.get_text() for th in soup.select("thead th")] == ["token", "KL, nats", "value", "advantage"]
    assert [td.get_text() for td in soup.select("tbody tr")[2].select("td")] == ["−0.50", "0.00", "−3.00"]


def test_the_total_is_the_sum_of_the_kl_and_of_nothing_else():
    soup = page()
    assert [td.get_text() for td in soup.select("tfoot td")] == ["+2.50", "", ""]
    assert soup.p.get_text() == "Step 120: gold −1.50, proxy +2.25, KL +2.50 nats"
    assert page(gold=0.0, step=0).p.get_text() == "Step 0: gold 0.00, proxy +2.25, KL +2.50 nats"


def test_a_total_is_of_exact_and_not_of_rounded_numbers():
    soup = page(tokens=[["a", 0.004, 0, 0]] * 10)
    assert soup.select("tfoot td")[0].get_text() == "+0.04"


def test_the_line_reads_in_order_with_the_kl_below_each_word():
    shown = cells(page())
    assert [c.find(string=True) for c in shown] == [word for word, *_ in ANSWER]
    assert [c.span.get_text() for c in shown] == ["0.0", "+2.0", "−0.5", "+1.0", "0.0"]
    assert shown[2]["title"] == "KL −0.50, value 0.00, advantage −3.00"


def test_what_costs_is_orange_and_what_saves_is_blue_by_its_size():
    the, price, is_, very, end = map(paint, cells(page()))
    assert {price[0], very[0]} == {COSTS} and {is_[0], end[0]} == {SAVES} != {COSTS}
    assert [x[2] for x in (the, price, is_, very, end)] == [0, 1, 0.25, 0.5, 0]
    assert price[1] == FADE and very[1] == pytest.approx(FADE / 2, abs=0.01) and the[1] == 0


def test_an_answer_that_costs_next_to_nothing_is_not_painted_as_if_it_did():
    assert paint(cells(page(tokens=[["a", 0.01, 0, 0]]))[0])[2] == 0.02


@pytest.mark.parametrize("word", ["<eos>", "<script>alert(1)</script>", "a & b", '"', "&lt;"])
def test_words_are_text(word):
    soup = page(tokens=[[word, 1.0, 0.0, 0.0]])
    assert cells(soup)[0].find(string=True) == word == soup.select_one("tbody th").get_text()
    assert not soup.select("script, eos")


def test_the_step_is_text():
    soup = page(step="<script>alert(1)</script>")
    assert soup.p.get_text().startswith("Step <script>alert(1)</script>: gold") and not soup.select("script")


def test_nothing_on_it_needs_a_script_or_the_network():
    viewer = Tokens(row())._repr_html_()
    assert not re.search(r"<script|https?:|url\(|onclick", viewer)
    assert {x.name for x in BeautifulSoup(viewer, "html.parser").find_all()} <= set(
        "div p span details summary table thead tbody tfoot tr th td".split()
    )
    assert "color:" not in viewer  # text keeps the page's colour, light or dark


def test_text_on_the_strongest_tint_is_read_on_light_and_dark():
    def light(colour):
        c = [x / 255 for x in colour]
        c = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in c]
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]

    for text, ground in (((0x22, 0x28, 0x32), (255, 255, 255)), ((0xCE, 0xD6, 0xDD), (0x12, 0x12, 0x12))):
        for colour in (COSTS, SAVES):
            tint = map(int, colour.split(","))
            mixed = [FADE * t + (1 - FADE) * g for t, g in zip(tint, ground, strict=True)]
            low, high = sorted((light(text), light(mixed)))
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_an_empty_answer_is_shown():
    soup = page(tokens=[])
    assert not cells(soup) and soup.select("tfoot td")[0].get_text() == "0.00"


def test_as_text():
    assert repr(Tokens(row())).splitlines() == [
        "Step 120: gold −1.50, proxy +2.25, KL +2.50 nats",
        "the(0.0) price(+2.0) is(−0.5) very(+1.0) <eos>(0.0)",
    ]


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.314, "+0.31"), (-2, "−2.00"), (0.0049, "0.00"), (-0.0049, "0.00"), (-0.006, "−0.01")],
)
def test_signs(x, text):
    assert signed(x) == text
