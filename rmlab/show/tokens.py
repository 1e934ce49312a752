"""An answer seen token by token: what each token costs in KL, what the critic expects, the advantage."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping

COSTS, SAVES = "213,94,0", "1,115,178"  # orange and blue
FADE = 0.35  # of the strongest tint, under text in the page's colour
CELL = (
    "display:inline-block;padding:.1rem .25rem 0;margin:0 .1rem .35rem 0;"
    "text-align:center;line-height:1.25;border-radius:.2rem"
)
COLUMNS = ("token", "KL, nats", "value", "advantage")


class Tokens:
    """An answer token by token: the KL that each adds, the critic's value, the advantage; reads without a kernel.

    Parameters
    ----------
    row : a row of the PPO study's `answers`: `step`, `gold`, `proxy` and `tokens`, JSON of [word, KL in nats, value,
        advantage]

    Attributes
    ----------
    tokens : (word, KL, value, advantage) of each
    kl : their sum, nats
    said : a sentence: the step, gold, proxy and KL
    """

    def __init__(self, row: Mapping):
        self.tokens = [(word, *map(float, numbers)) for word, *numbers in json.loads(row["tokens"])]
        self.kl = sum(kl for _, kl, _, _ in self.tokens)
        scores = f"gold {signed(row['gold'])}, proxy {signed(row['proxy'])}, KL {signed(self.kl)} nats"
        self.said = f"Step {row['step']}: {scores}"

    def _repr_html_(self) -> str:
        most = max([0.5, *(abs(kl) for _, kl, _, _ in self.tokens)])
        words = " ".join(_cell(*token, most) for token in self.tokens)
        names = "".join(f'<th scope="col"{_align(i)}>{x}</th>' for i, x in enumerate(COLUMNS))
        body = "".join(_table_row(word, map(signed, numbers)) for word, *numbers in self.tokens)
        foot = _table_row("all", [signed(self.kl), "", ""])
        return (
            f'<div class="ink" style="max-width:44rem">'
            f'<p style="margin:.2rem 0 .4rem;font-weight:600">{html.escape(self.said)}</p><p style="margin:0">{words}</p>'
            f'<details style="margin:.2rem 0 .6rem"><summary>every token</summary><table style="margin:.3rem 0">'
            f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table></details></div>"
        )

    def __repr__(self) -> str:
        return f"{self.said}\n" + " ".join(f"{word}({signed(kl, 1)})" for word, kl, _, _ in self.tokens)


def _cell(word: str, kl: float, value: float, advantage: float, most: float) -> str:
    """A word over the KL it adds; the stronger the tint and the line below, the more."""
    colour, share = COSTS if kl > 0 else SAVES, abs(kl) / most
    tint = (
        f"background:rgba({colour},{FADE * share:.2f});border-bottom:.2rem solid rgba({colour},{share:.2f})"
    )
    about = f"KL {signed(kl)}, value {signed(value)}, advantage {signed(advantage)}"
    number = f'<span style="display:block;font-size:.75em">{signed(kl, 1)}</span>'
    return f'<span style="{CELL};{tint}" title="{about}">{html.escape(word)}{number}</span>'


def _table_row(word: str, numbers: Iterable[str]) -> str:
    head = f'<th scope="row" style="text-align:left;padding:.1rem .6rem;font-weight:inherit">{html.escape(word)}</th>'
    return f"<tr>{head}{''.join(f'<td{_align(1)}>{x}</td>' for x in numbers)}</tr>"


def _align(column: int) -> str:
    return f' style="text-align:{"right" if column else "left"};padding:.1rem .6rem"'


def signed(x: float, digits: int = 2) -> str:
    """With its sign, and none where it rounds to nothing: "+0.31", "−2.00", "0.00"."""
    shown = round(float(x), digits)
    return f"{shown:+.{digits}f}".replace("-", "−") if shown else f"{0:.{digits}f}"
