"""What figures share: rows are picked by every key, bands come from the columns that hold them, labels stand where lines end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmlab.optimise.best_of_n import kl_bound
from rmlab.show import figures
from rmlab.show.style import LOOKS, canvas

CURVE = pd.DataFrame(
    {
        "kl": [0.0, 1.0, 2.0],
        "gold": [1.0, 2.0, 1.5],
        "gold_low": [0.5, 1.0, 0.5],
        "gold_high": [1.5, 3.0, 2.5],
    }
)


@pytest.fixture
def ax():
    import matplotlib.pyplot as plt

    fig, ax = canvas()
    yield ax
    plt.close(fig)


def test_pick_takes_the_rows_in_which_every_column_has_its_value():
    table = pd.DataFrame({"ensemble": ["a", "a", "b"], "k": [1, 2, 1], "gold": [0.1, 0.2, 0.3]})
    assert list(figures.pick(table, ensemble="a", k=1).gold) == [0.1]
    assert list(figures.pick(table, k=1).gold) == [0.1, 0.3]
    assert figures.pick(table, ensemble="c").empty


def test_limits_are_the_columns_own_or_the_tables():
    row = pd.Series({"gain": 0.2, "low": 0.1, "high": 0.3, "gold": 2.0, "gold_low": 1.0, "gold_high": 3.0})
    assert figures.limits(row, "gain") == (0.1, 0.3)
    assert figures.limits(row, "gold") == (1.0, 3.0)
    low, high = figures.limits(CURVE, "gold")
    assert list(low) == [0.5, 1.0, 0.5] and list(high) == [1.5, 3.0, 2.5]


def test_a_number_stands_with_its_interval():
    row = pd.Series({"gain": 0.254, "low": -0.1, "high": 0.3, "gold": 1.0, "gold_low": 0.5, "gold_high": 2.0})
    assert figures.with_interval(row, "gain", sign=True) == "+0.25 [-0.10, +0.30]"
    assert figures.with_interval(row, "gold", digits=1) == "1.0 [0.5, 2.0]"


@pytest.mark.parametrize("at_end", [True, False])
def test_a_band_holds_its_curve_and_is_labelled_at_its_end_or_in_a_legend(ax, at_end):
    figures.band(ax, CURVE, "gold", LOOKS["heads"], "five heads", at_end)
    edges = ax.collections[0].get_paths()[0].vertices
    assert {tuple(e) for e in edges} >= {(1.0, 1.0), (1.0, 3.0), (2.0, 0.5), (2.0, 2.5)}
    assert (
        list(ax.lines[0].get_ydata()) == [1.0, 2.0, 1.5] and ax.lines[0].get_color() == LOOKS["heads"].color
    )
    assert [(t.get_text(), t.xy) for t in ax.texts] == ([("five heads", (2.0, 1.5))] if at_end else [])
    assert ax.get_legend_handles_labels()[1] == ["five heads"]


def test_a_line_without_a_label_has_none(ax):
    figures.line(ax, CURVE, "gold", LOOKS["you"])
    assert not ax.texts and list(ax.lines[0].get_xdata()) == [0.0, 1.0, 2.0]


def test_an_interval_lies_at_its_height(ax):
    figures.interval(ax, 3, 0.1, 0.2, 0.4, LOOKS["lora"])
    bar, mark = ax.lines
    assert list(bar.get_xdata()) == [0.1, 0.4] and set(bar.get_ydata()) == {3}
    assert (mark.get_xdata()[0], mark.get_ydata()[0], mark.get_marker()) == (0.2, 3, "P")


def test_dotted_lines_stand_or_lie(ax):
    figures.dotted(ax, x=0)
    figures.dotted(ax, y=2)
    upright, level = ax.lines
    assert set(upright.get_xdata()) == {0} and set(level.get_ydata()) == {2}


def test_the_upper_axis_reads_n_where_the_lower_one_has_its_kl(ax):
    ax.set_xlim(0, 8)
    figures.n_axis(ax, pd.Series([1, 2, 4, 256, 4096]))
    (top,) = ax.child_axes
    assert [t.get_text() for t in top.get_xticklabels()] == ["1", "4", "256", "4,096"]
    np.testing.assert_allclose(top.get_xticks(), kl_bound(np.array([1, 4, 256, 4096])))


def test_one_curve_is_one_curve_of_the_papers_pessimism():
    table = pd.DataFrame(
        {"ensemble": ["a", "a", "a", "b"], "pressure": [1, 2, 1, 1], "gold": [0.1, 0.2, 9.0, 5.0]}
    )
    table["pessimism"] = ["paper", "paper", "matched", "paper"]
    assert list(figures.one_curve(table, ensemble="a").gold) == [0.1, 0.2]
    assert list(figures.one_curve(table, ensemble="a", pessimism="matched").gold) == [9.0]
    assert list(figures.one_curve(table.drop(columns="pessimism")[:2], ensemble="a").gold) == [0.1, 0.2]
    with pytest.raises(ValueError, match="1 pressures twice"):
        figures.one_curve(table)
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.one_curve(table, ensemble="c")


def test_labels_are_moved_apart_from_below_and_keep_their_order():
    assert figures.apart([3.0, 1.0, 1.05], 0.5) == [3.0, 1.0, 1.5]
    assert figures.apart([1.0, 1.0], 0.5) == [1.0, 1.5]
    assert figures.apart([2.0, 0.0], 0.5) == [2.0, 0.0]


def test_a_margin_is_a_band_about_a_dotted_zero(ax):
    figures.margin(ax, 0.1)
    (band,), (zero,) = ax.patches, ax.lines
    ends = ax.transData.inverted().transform(band.get_extents())[
        :, 0
    ]  # a rectangle, before Matplotlib 3.9 a polygon
    assert ends == pytest.approx([-0.1, 0.1]) and set(zero.get_xdata()) == {0}


def test_axes_that_are_not_used_are_hidden_and_a_legend_is_of_all(ax):
    fig, grid = canvas(2, rows=2)
    kept = figures.used(grid, 3)
    assert len(kept) == 3 and [a.get_visible() for a in grid.ravel()] == [True, True, True, False]
    for i, a in enumerate(kept):
        a.plot([0], [0], label="ab"[min(i, 1)])
    figures.legend(fig, grid, 2)
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b"]
