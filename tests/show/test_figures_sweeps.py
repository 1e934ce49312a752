"""Along the axes of a sweep: every dot is its row, values stand in the recipe's order, members on their number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.sensitivity import mean_reactions
from rmlab.show import figures_sweeps as figures
from rmlab.show.figures import INK, pick
from rmlab.show.style import LOOKS, look_of
from tests.show.fake_rows import AXES, members_of_sweep, sweep


@pytest.fixture(scope="module")
def tables():
    return sweep()


def dots(ax, ensemble):
    """A judge's joined dots, by its look."""
    look = look_of(ensemble, ensemble.rstrip("0123456789"))
    found = [x for x in ax.lines if (x.get_color(), x.get_marker()) == (look.color, look.marker)]
    return found[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.1875, "0.1875"),
        ("8000", "8,000"),
        (100000, "100,000"),
        ("hidden=64 layers=2 heads=4 ff=192", "64 × 2"),
        ("a", "a"),
    ],
)
def test_values_in_words(value, words):
    assert figures.value_words(value) == words


def test_a_row_an_axis_gold_on_the_left_and_the_fall_on_the_right(tables, panels):
    curves, ends = tables
    figure = figures.sweeps(curves, ends, 64)
    grid = np.reshape(panels, (-1, 2))
    assert [row[0].get_xlabel() for row in grid] == [*AXES, "members, K"]
    for (left, right), (axis, values) in zip(grid, AXES.items(), strict=False):
        assert [t.get_text() for t in left.get_xticklabels()] == [figures.value_words(v) for v in values]
        for ensemble, rule in figures.JUDGES:
            keys = {"axis": axis, "ensemble": ensemble, "aggregator": rule}
            at = pick(curves, pressure=64, **keys)
            np.testing.assert_allclose(dots(left, ensemble).get_ydata(), at.gold)
            np.testing.assert_allclose(dots(right, ensemble).get_ydata(), pick(ends, **keys).fall_from_peak)
    r = pick(curves, axis="label flips", value="0.4", ensemble="heads3", aggregator="min", pressure=64).iloc[
        0
    ]
    assert "label flips, 3 linear heads, min: " in figure.alt and f"{r.gold:.2f} at 0.4" in figure.alt


def test_intervals_are_the_rows(tables, panels):
    curves, ends = tables
    figures.sweep(curves, ends, "sight", 64, [("finetune3", "min")])
    left, right = panels
    at = pick(curves, axis="sight", ensemble="finetune3", aggregator="min", pressure=64)
    fall = pick(ends, axis="sight", ensemble="finetune3", aggregator="min")
    for ax, low, high in (
        (left, at.gold_low, at.gold_high),
        (right, fall.fall_from_peak_low, fall.fall_from_peak_high),
    ):
        plotted = [p.vertices[:, 1] for p in ax.collections[0].get_paths()]
        np.testing.assert_allclose(plotted, np.stack([low, high], 1))


def test_members_stand_on_their_number(tables, panels):
    curves, ends = tables
    figures.sweep(curves, ends, "members", 64)
    ax = panels[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "3", "10", "16"]
    for ensemble, names in (
        ("finetune3", ("finetune2", "finetune3", "finetune10")),
        ("heads3", ("heads3", "heads16")),
    ):
        plotted = dots(ax, ensemble)
        keys = {"axis": "members", "aggregator": "min", "pressure": 64}
        golds = [pick(curves, ensemble=x, **keys).gold.iloc[0] for x in names]
        np.testing.assert_allclose(plotted.get_ydata(), golds)
    np.testing.assert_allclose(np.round(dots(ax, "heads3").get_xdata()), [2, 4])


def test_the_start_is_gold_at_n_1(tables, panels):
    curves, ends = tables
    figures.sweep(curves, ends, "pairs", 64)
    (start,) = (x for x in panels[0].lines if x.get_color() == INK)
    np.testing.assert_allclose(
        start.get_ydata(), pick(curves, axis="pairs", ensemble="single", pressure=1).gold
    )


def test_what_is_not_there_or_twice_there_is_refused(tables):
    curves, ends = tables
    with pytest.raises(ValueError, match="axis = 'joy': give one of label flips, pairs"):
        figures.sweep(curves, ends, "joy", 64)
    with pytest.raises(ValueError, match="n = 65: give one of 1, 2, 4"):
        figures.sweep(curves, ends, "pairs", 65)
    with pytest.raises(ValueError, match="one row of a judge a value"):
        figures.sweep(pd.concat([curves, curves]), ends, "pairs", 64)


def test_a_setting_that_a_judge_lacks_is_a_gap(tables, panels):
    curves, ends = tables
    fewer = [t[~((t.value == "0.1") & (t.ensemble == "heads3"))] for t in (curves, ends)]
    figures.sweep(*fewer, "label flips", 64)
    np.testing.assert_allclose(np.round(dots(panels[0], "heads3").get_xdata()), [0, 2])


def test_the_dial_shows_reaction_accuracy_and_gold(tables, panels):
    probes, accuracy = members_of_sweep()
    figure = figures.dial(tables[0], probes, accuracy)
    upper, middle, lower = panels
    expected = mean_reactions(probes)
    plotted = next(x for x in upper.lines if x.get_color() == LOOKS["single"].color)
    np.testing.assert_allclose(plotted.get_ydata(), expected.reaction)
    ends = [p.vertices[:, 1] for p in upper.collections[0].get_paths()]
    np.testing.assert_allclose(ends, expected[["low", "high"]])
    plotted = next(x for x in middle.lines if x.get_color() == LOOKS["single"].color)
    np.testing.assert_allclose(plotted.get_ydata(), [0.56, 0.64, 0.72])
    single = pick(tables[0], axis="sight", ensemble="single")
    gold = single.groupby("value", sort=False).gold
    series = [x.get_ydata() for x in lower.lines]
    for y, values in zip(series, (gold.first(), gold.max(), gold.last()), strict=True):
        np.testing.assert_allclose(y, values)
    assert [t.get_text() for t in lower.texts] == ["n = 1", "peak", "n = 1,024"]
    assert "sight 0.25: reaction -1.20 [-1.45, -0.95], right on 64%" in figure.alt
