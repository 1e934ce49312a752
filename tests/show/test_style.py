"""The style: things are told apart on light and dark, with and without colour; a figure follows the page."""

from __future__ import annotations

import re

import pytest

from rmlab.reward.methods import METHODS
from rmlab.show.style import LOOKS, Figure, canvas, look_of


def light(colour: str) -> float:
    """Relative luminance."""
    c = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    c = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in c]
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("ground", ["#ffffff", "#121212"])
def test_contrast_is_three_to_one(name, ground):
    low, high = sorted((light(LOOKS[name].color), light(ground)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_methods_differ_without_colour():
    looks = [
        (look.dash, look.marker, look.fill) for name, look in LOOKS.items() if name not in {"gold", "proxy"}
    ]
    assert len(set(looks)) == len(looks)


def test_a_figure_follows_the_theme_and_keeps_its_ids_to_itself():
    fig, ax = canvas()
    ax.plot([0, 1], [0, 1], color="#111111", label="a < b")
    ax.set_xlabel("words stay text")
    figure = Figure(fig, 'a line from "0" to 1', "mine")
    assert "#111111" not in figure.svg and "currentColor" in figure.svg and ">words stay text<" in figure.svg
    assert 'aria-label="a line from &quot;0&quot; to 1"' in figure.svg and repr(figure).endswith(figure.alt)
    ids = set(re.findall(r'\bid="([^"]+)"', figure.svg))
    assert ids and all(x.startswith("mine-") for x in ids)
    assert {x[1:] for x in re.findall(r'href="([^"]+)"', figure.svg)} <= ids
    fig, ax = canvas()
    ax.plot([0, 1], [0, 1], color="#111111", label="a < b")
    other = Figure(fig, "another of its kind on the page", "mine")
    assert not ids & set(re.findall(r'\bid="([^"]+)"', other.svg))


def test_an_ensemble_looks_like_its_method_and_three_members_are_open():
    assert look_of("heads5", "heads") == LOOKS["heads"] and look_of("grid15", "mixed") == LOOKS["mixed"]
    for method in ("finetune", "pretrain", "heads"):
        five, three = look_of(f"{method}5", method), look_of(f"{method}3", method)
        assert (three.color, three.marker) == (five.color, five.marker)
        assert three.dash != five.dash and (five.fill, three.fill) == ("full", "none")
    assert look_of("heads3", "heads").mark["fillstyle"] == "none"


def test_every_method_has_a_look_of_its_own():
    assert set(METHODS) <= set(LOOKS)
