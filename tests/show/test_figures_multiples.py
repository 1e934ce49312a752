"""Small panels and dots: what is drawn is what the rows say, the paper's pessimism unless another is meant."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_multiples as figures
from rmlab.show.figures import pick
from rmlab.show.style import LOOKS
from tests.show.fake_rows import best_of_n

ONE = ("single", "mean")
PANELS = [
    ("finetuning seeds", [ONE, ("finetune5", "mean"), ("finetune5", "min")]),
    ("heads", [ONE, ("heads3", "min")]),
    ("LoRA", [ONE, ("lora5", "mean_std")]),
]


@pytest.fixture(scope="module")
def curves():
    return best_of_n()


def lines(ax):
    return [x for x in ax.lines if len(x.get_xdata()) > 2]


def test_each_panel_has_its_judges_with_bands_and_peaks(curves, panels):
    figure = figures.small_multiples(curves, PANELS)
    assert [ax.get_visible() for ax in panels] == [True, True, True, False]
    for ax, (title, judges) in zip(panels, PANELS, strict=False):
        assert ax.get_title(loc="left") == title
        assert [t.get_text() for t in ax.texts] == [
            "one model" if e == "single" else rule.replace("_", " − ") for e, rule in judges
        ]
        peaks = [x for x in ax.lines if len(x.get_xdata()) == 1]
        for plotted, peak, band, (ensemble, rule) in zip(
            lines(ax), peaks, ax.collections, judges, strict=True
        ):
            r = pick(curves, ensemble=ensemble, aggregator=rule, pessimism="paper")
            np.testing.assert_allclose(plotted.get_xdata(), r.kl)
            np.testing.assert_allclose(plotted.get_ydata(), r.gold)
            assert peak.get_ydata()[0] == r.gold.max() and peak.get_xdata()[0] == r.kl[r.gold.idxmax()]
            edges = band.get_paths()[0].vertices[:, 1]
            assert edges.min() == r.gold_low.min() and edges.max() == r.gold_high.max()
    r = pick(curves, ensemble="heads3", aggregator="min", pessimism="paper")
    top = r.loc[r.gold.idxmax()]
    words = (
        f"3 linear heads, min: peak {top.gold:.2f} at n = {top.pressure}, {r.gold.iloc[-1]:.2f} at n = 2048"
    )
    assert words in figure.alt and figure.alt.count("one model:") == 1


def test_panels_share_their_axes_and_the_level_is_that_of_n_1(curves, panels):
    figures.small_multiples(curves, PANELS)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in panels[:3]}) == 1
    for ax in panels[:3]:
        (level,) = (x for x in ax.lines if len(x.get_xdata()) == 2 and set(x.get_xdata()) == {0, 1})
        assert set(level.get_ydata()) == {pick(curves, ensemble="single").gold.iloc[0]}


def test_two_rules_of_one_ensemble_differ_without_colour(curves, panels):
    figures.small_multiples(curves, PANELS)
    _, mean, least = lines(panels[0])
    assert mean.get_color() == least.get_color() == LOOKS["finetune"].color
    assert mean._dash_pattern != least._dash_pattern
    fills = [x.get_fillstyle() for x in panels[0].lines if len(x.get_xdata()) == 1]
    assert fills == ["full", "full", "none"]


def test_labels_at_the_ends_do_not_lie_on_each_other(curves, panels):
    flat = curves.assign(gold=np.where(curves.pressure == 2048, 2.0, curves.gold))
    figures.small_multiples(flat, PANELS[:1])
    heights = sorted(t.xy[1] for t in panels[0].texts)
    assert min(np.diff(heights)) >= 0.08 * np.ptp(panels[0].get_ylim())


def test_equal_penalties_are_drawn_when_meant(curves, panels):
    figures.small_multiples(curves, [("heads", [("heads5", "min")])], pessimism="matched")
    assert min(lines(panels[0])[0].get_ydata()) > 90
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.small_multiples(curves, [("heads", [("heads7", "min")])])


def test_dots_are_sorted_gains_with_their_intervals(curves, panels):
    judges = [("finetune5", "mean"), ("heads5", "min"), ("lora5", "mean_std"), ("grid15", "min")]
    figure = figures.gains_dots(curves, 256, judges)
    (ax,) = panels
    rows = [
        pick(curves, ensemble=e, aggregator=r, pessimism="paper", pressure=256).iloc[0] for e, r in judges
    ]
    rows.sort(key=lambda r: r.gain)
    dots = [x for x in ax.lines if len(x.get_xdata()) == 1]
    bars = [
        x
        for x in ax.lines
        if len(x.get_xdata()) == 2 and len(set(x.get_ydata())) == 1 and x.get_linestyle() == "-"
    ]
    assert [x.get_xdata()[0] for x in dots] == [r.gain for r in rows]
    assert [list(x.get_xdata()) for x in bars] == [[r.low, r.high] for r in rows]
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert (
        names[-1] == figures.called(rows[-1].ensemble, rows[-1].aggregator)
        and "5 x 3 grid of seeds, min" in names
    )
    top = rows[-1]
    assert f"largest first: {names[-1]} {top.gain:+.2f} [{top.low:+.2f}, {top.high:+.2f}]" in figure.alt
    margin = ax.patches[0]
    assert (margin.get_x(), margin.get_x() + margin.get_width()) == (-0.1, 0.1)


def test_an_n_that_is_not_there_is_named(curves):
    with pytest.raises(ValueError, match="n = 300: give one of 1, 2, 4"):
        figures.gains_dots(curves, 300, [("heads5", "min")])


def test_the_same_judge_in_two_studies_is_a_panel_each(curves, panels):
    lower = curves.assign(gold=curves.gold - 1, gold_low=curves.gold_low - 1, gold_high=curves.gold_high - 1)
    figure = figures.side_by_side({"blind": lower, "sighted": curves}, [ONE])
    one = pick(curves, ensemble="single")
    for ax, title, shift in zip(panels, ("blind", "sighted"), (1, 0), strict=True):
        assert ax.get_title(loc="left") == title
        np.testing.assert_allclose(lines(ax)[0].get_ydata(), one.gold - shift)
    assert f"blind, one model: peak {one.gold.max() - 1:.2f}" in figure.alt
    assert f"sighted, one model: peak {one.gold.max():.2f}" in figure.alt
