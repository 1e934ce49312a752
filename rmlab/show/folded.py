"""Tables in a page: cards on a phone, and a figure's numbers folded below it."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd

from rmlab.recipe import require
from rmlab.show.figures import with_interval


class Page:
    """A piece of HTML, as a notebook shows it."""

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table of text; each cell names its column, so that a narrow page can show a row as a card."""
    names = [html.escape(name) for name in head]
    body = ""
    for row in rows:
        cells = zip(names, map(html.escape, row), strict=True)
        body += "<tr>" + "".join(f'<td data-head="{name}">{cell}</td>' for name, cell in cells) + "</tr>"
    top = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def folded(
    rows: pd.DataFrame,
    keys: Sequence[str],
    quantities: Sequence[str],
    digits: int = 2,
    summary: str = "The numbers",
) -> Page:
    """A figure's rows as a table that opens on a tap: the keys, and each quantity with its 95% interval.

    Parameters
    ----------
    rows : such as those of `curves` at one n
    keys : columns that name a row; underscores are read as minus signs in aggregators, as in `mean_std`
    quantities : columns with an interval: "gold" beside `gold_low` and `gold_high`, "gain" beside `low` and `high`
    digits : after the point
    summary : what is tapped
    """
    missing = [name for name in (*keys, *quantities) if name not in rows]
    require(not missing, "columns", missing, f"some of {', '.join(map(str, rows))}")
    cells = []
    for _, row in rows.iterrows():
        words = [str(row[key]).replace("_", " − ") if key == "aggregator" else str(row[key]) for key in keys]
        cells.append([*words, *(with_interval(row, quantity, digits) for quantity in quantities)])
    inside = html_table([*keys, *quantities], cells)
    return Page(f'<details class="ink ledger"><summary>{html.escape(summary)}</summary>{inside}</details>')
