"""Numbers under a fold: every row with its keys and its interval, escaped, and named for narrow pages."""

from __future__ import annotations

import pandas as pd
import pytest

from rmlab.show.folded import folded, html_table

ROWS = pd.DataFrame(
    {
        "ensemble": ["heads5", "<b>"],
        "aggregator": ["mean_std", "min"],
        "gold": [2.5, 1.0],
        "gold_low": [2.25, 0.5],
        "gold_high": [2.75, 1.5],
        "gain": [0.125, -0.5],
        "low": [0.0, -1.0],
        "high": [0.25, 0.0],
    }
)


def test_a_row_a_row_with_intervals_of_its_own_columns():
    page = folded(ROWS, ["ensemble", "aggregator"], ["gold", "gain"], digits=3)._repr_html_()
    assert page.startswith('<details class="ink ledger"><summary>The numbers</summary><table>')
    first, second = page.split("<tbody>")[1].split("</tr>")[:2]
    assert first == (
        '<tr><td data-head="ensemble">heads5</td><td data-head="aggregator">mean − std</td>'
        '<td data-head="gold">2.500 [2.250, 2.750]</td><td data-head="gain">0.125 [0.000, 0.250]</td>'
    )
    assert "&lt;b&gt;" in second and "-0.500 [-1.000, 0.000]" in second


def test_a_table_has_a_head_and_as_many_cells():
    text = html_table(["a & b", "c"], [["1", "2"], ["3", "4"]])
    assert text.count("<th>") == 2 and text.count("<td ") == 4 and "<th>a &amp; b</th>" in text
    with pytest.raises(ValueError, match="zip"):
        html_table(["a"], [["1", "2"]])


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"columns = \['proxy'\]: give some of ensemble"):
        folded(ROWS, ["ensemble"], ["proxy"])
