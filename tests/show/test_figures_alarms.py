"""Alarms plotted: gold saved as the rows say, of one kind of run alone, and warnings in time against those in vain."""

from __future__ import annotations

import pandas as pd
import pytest

from rmlab.measure.detectors import RULES
from rmlab.show import figures_alarms as figures
from rmlab.show.style import LOOKS
from tests.show.fake_rows import banded

SHOWN = ("judge_regret", "length_drift", "spread_rise")


def detectors(kl_coef: float | None = None) -> pd.DataFrame:
    """Rows of two ensembles, one without members that could differ."""
    table = []
    for j, ensemble in enumerate(("single", "finetune5")):
        rules = [r for r in ("peek", *SHOWN, "never") if r != "spread_rise" or j]
        for i, rule in enumerate(rules):
            row = {"ensemble": ensemble, "aggregator": "mean", "kl_coef": kl_coef, "rule": rule}
            row |= banded("saved", 0.3 - 0.05 * i - 0.02 * j, 0.06) | banded("caught", 0.6 - 0.1 * i, 0.1)
            table.append(row | banded("false_alarms", 0.05 * i, 0.02))
    return pd.DataFrame(table)


def dots(ax):
    return [(round(float(x.get_xdata()[0]), 6), round(float(x.get_ydata()[0]), 6)) for x in ax.lines
            if len(x.get_xdata()) == 1]  # fmt: skip


def test_every_rule_has_its_words():
    assert set(figures.WATCHERS) == {*RULES, "budget", "peek", "never"}
    assert len(set(figures.WATCHERS.values())) == len(figures.WATCHERS)


def test_rows_are_of_one_kind_of_run():
    table = detectors()
    one = figures.of_setting(table, ensemble="finetune5", aggregator="mean")
    assert list(one.index) == ["peek", *SHOWN, "never"]
    with pytest.raises(ValueError, match="one kind of run alone"):
        figures.of_setting(table, aggregator="mean")
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.of_setting(table, ensemble="heads5")
    ppo = pd.concat([detectors(0.0), detectors(0.05)])
    assert len(figures.of_setting(ppo, ensemble="single", kl_coef=0.05)) == 4


def test_gold_saved_stands_by_rule(panels):
    names = {"one": "single", "five": "finetune5"}
    rows = {t: figures.of_setting(detectors(), ensemble=e) for t, e in names.items()}
    figure = figures.saved_by_rule(rows, ["peek", *SHOWN], {"one": (0.25, 0.2, 0.3)})
    labels = [t.get_text() for t in panels[0].get_yticklabels()]
    order = ["budget", *SHOWN]
    assert labels == [figures.WATCHERS[r] for r in reversed(order)]
    for ax, (title, table) in zip(panels, rows.items(), strict=True):
        expected = [(round(table.saved[r], 6), 3 - order.index(r)) for r in SHOWN if r in table.index]
        expected += [(0.25, 3)] if title == "one" else []
        assert sorted(dots(ax)) == sorted(expected)
        bars = [
            x.get_xdata()
            for x in ax.lines
            if len(x.get_xdata()) == 2 and x.get_xdata()[0] != x.get_xdata()[1]
        ]
        assert sorted(map(list, bars))[0] == [
            table.loc[r, e]
            for r in [min(SHOWN, key=lambda r: table.saved_low.get(r, 1))]
            for e in ("saved_low", "saved_high")
        ]
        (gold,) = [x for x in ax.lines if x.get_color() == LOOKS["gold"].color]
        assert gold.get_xdata()[0] == table.saved["peek"]
    assert (
        "one: gold itself 0.30, budget of other runs 0.25 [0.20, 0.30], a second judge falls 0.25 [0.19, 0.31]"
        in figure.alt
    )
    assert "five: gold itself 0.28, a second judge falls 0.23" in figure.alt


def test_warnings_in_time_against_those_in_vain(panels):
    table = figures.of_setting(detectors(), ensemble="finetune5")
    figure = figures.warned({"five": table}, ["judge_regret", "spread_rise", "kl_budget"])
    (ax,) = panels
    assert sorted(dots(ax)) == sorted(
        (round(table.false_alarms[r], 6), round(table.caught[r], 6)) for r in ("judge_regret", "spread_rise")
    )
    assert {t.get_text() for t in ax.texts} == {figures.WATCHERS[r] for r in ("judge_regret", "spread_rise")}
    assert "five: a second judge falls 50% and 5%, members drift apart 30% and 15%" in figure.alt
