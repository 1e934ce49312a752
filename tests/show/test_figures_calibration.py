"""Calibration plotted: rates, bins and dots are what the rows say, before and after, of the judge that is meant."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_calibration as figures
from rmlab.show.figures import pick
from rmlab.show.style import LOOKS
from tests.show import fake_measures as fake

JUDGES = [("single", "mean"), ("finetune5", "mean"), ("finetune5", "min")]


def dots(ax):
    """Value, height and filling of every dot with data, in the order of drawing."""
    points = [x for x in ax.lines if len(x.get_xdata()) == 1]
    return [(x.get_xdata()[0], x.get_ydata()[0], x.get_fillstyle()) for x in points]


def bars(ax):
    return [list(x.get_xdata()) for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]


def test_promises_are_drawn_twice_beside_what_gold_delivers(panels):
    table = fake.promised()
    figure = figures.promises({"sighted": table}, JUDGES)
    assert [ax.get_visible() for ax in panels] == [True, True, True, False]
    for ax, (ensemble, rule) in zip(panels, JUDGES, strict=False):
        rows = pick(table, ensemble=ensemble, aggregator=rule)
        plain, mended = (pick(rows, recalibration=x) for x in ("none", "temperature"))
        for line, rates in zip(ax.lines, (plain.promised, mended.promised, plain.delivered), strict=True):
            np.testing.assert_allclose(line.get_ydata(), rates)
        assert len({str(x._dash_pattern) for x in ax.lines}) == 3
        assert ax.lines[2].get_color() == LOOKS["gold"].color
        assert sorted(t.get_text() for t in ax.texts) == sorted(
            f"{x.iloc[-1]:.2f}" for x in (plain.promised, mended.promised, plain.delivered)
        )
        edges = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert edges.min() == plain.promised_low.min() and edges.max() == plain.promised_high.max()
    assert [ax.get_title(loc="left") for ax in panels[:2]] == ["one model", "5 finetuning seeds, mean"]
    words = "one model at n = 2,048: 0.60 as stated, 0.75 mended, 0.60 delivered"
    assert words in figure.alt


def test_promises_of_two_studies_name_them(panels):
    table = fake.promised()
    figures.promises({"blind": table.assign(delivered=0.5), "sighted": table}, [("single", "mean")])
    assert [ax.get_title(loc="left") for ax in panels] == ["blind: one model", "sighted: one model"]
    assert set(panels[0].lines[2].get_ydata()) == {0.5}
    with pytest.raises(ValueError, match="judge = "):
        figures.promises({"sighted": table}, [("heads16", "mean")])


def test_reliability_has_a_line_a_rule_and_bars_on_the_mean(panels):
    table = fake.reliability()
    figure = figures.reliability_panels({"sighted": table}, ["single", "finetune5"])
    mean, least = (pick(table, ensemble="finetune5", aggregator=x) for x in ("mean", "min"))
    lines = [x for x in panels[1].lines if len(x.get_xdata()) == 5]
    np.testing.assert_allclose(lines[0].get_xdata(), least.confidence)  # rules in the order of the legend
    np.testing.assert_allclose(lines[1].get_ydata(), mean.agreement)
    assert {str(x._dash_pattern) for x in lines} == {str(x._dash_pattern) for x in lines[:2]}
    (bar,) = panels[1].collections
    assert [list(s[:, 1]) for s in bar.get_segments()] == mean[["low", "high"]].to_numpy().tolist()
    assert "5 finetuning seeds (sighted): min says 0.82, right 0.92; mean says 0.81, right 0.91" in figure.alt
    with pytest.raises(ValueError, match="lora5"):
        figures.reliability_panels({"sighted": table}, ["lora5"])


def test_probabilities_before_are_open_and_after_full(panels):
    table = fake.calibration()
    figure = figures.calibration_dots(table, JUDGES)
    assert [ax.get_xlabel() for ax in panels] == list(figures.MEASURES.values())
    for ax, measure in zip(panels, figures.MEASURES, strict=True):
        plotted = dots(ax)
        for y, (ensemble, rule) in enumerate(reversed(JUDGES)):
            for recalibration, fill in (("none", "none"), ("temperature", "full")):
                row = pick(table, ensemble=ensemble, aggregator=rule, recalibration=recalibration).iloc[0]
                assert (row[measure], y, fill) in plotted
                assert [row[f"{measure}_low"], row[f"{measure}_high"]] in bars(ax)
        assert len(plotted) == 2 * len(JUDGES)
    assert "one model: ECE 0.100 to 0.070" in figure.alt
    with pytest.raises(ValueError, match="keys of one row, not of 0"):
        figures.calibration_dots(table, [("lora5", "mean")])


def test_doubt_is_read_among_all_answers_and_among_winners(panels):
    table = fake.uncertainty()
    scores = ["finetune5", "heads5", "mahalanobis"]
    figure = figures.sees_errors(table, scores)
    names = ["Mahalanobis distance", "spread of 5 linear heads", "spread of 5 finetuning seeds"]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == names
    for ax, error in zip(panels, ("absolute", "signed"), strict=True):
        plotted = {(round(x, 6), round(y), fill) for x, y, fill in dots(ax)}
        for y, score in enumerate(reversed(scores)):
            for n, fill in ((1, "none"), (256, "full")):
                row = pick(table, score=score, n=n, error=error).iloc[0]
                assert (round(row.auroc, 6), y, fill) in plotted
    colors = {x.get_color() for x in panels[0].lines}
    assert {LOOKS["heads"].color, figures.DISTANCE.color} <= colors
    assert "Mahalanobis distance 0.56 and 0.58 [0.55, 0.61]" in figure.alt
    with pytest.raises(ValueError, match="n = 128: give one of 1, 64, 256"):
        figures.sees_errors(table, scores, n=128)
