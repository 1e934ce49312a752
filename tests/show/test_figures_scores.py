"""The figures of a table of scores show the rows they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_scores, style
from rmlab.workbench.scores import Scores
from tests.workbench.fake_tables import pairs_table, pool_table


@pytest.fixture
def axes(monkeypatch):
    seen = []

    def canvas(*args, **kw):
        fig, axes = style.canvas(*args, **kw)
        seen.extend(np.atleast_1d(axes).ravel())
        return fig, axes

    monkeypatch.setattr(figures_scores, "canvas", canvas)
    return seen


def test_reliability_has_a_line_a_scorer(axes):
    report = Scores.read(pairs_table(120), label="votes", length="words").report()
    figure = report.figure()
    mean = report.reliability[report.reliability.scorer == "mean"]
    (ax,) = axes
    lines = {line.get_label(): line for line in ax.lines}
    assert len(ax.lines) == 1 + 9
    np.testing.assert_allclose(lines["mean"].get_ydata(), mean.agreement)
    assert f"mean {mean.confidence.iloc[-1]:.2f} to {mean.agreement.iloc[-1]:.2f}" in figure.alt


def test_curves_show_worth_and_proxy(axes):
    report = Scores.read(pool_table(20, 16), gold="gold").report()
    figure = report.figure()
    rows = report.curves[(report.curves.optimiser == "best_of_n") & (report.curves.aggregator == "min")]
    worth, proxy = axes
    lines = {line.get_label(): line for line in worth.lines}
    np.testing.assert_allclose(lines["min"].get_ydata(), rows.gold)
    assert len(worth.lines) == len(proxy.lines) == 7 and worth.get_ylabel() == "worth by gold"
    assert f"min {rows.gold.iloc[-1]:.2f}" in figure.alt and "n = 16" in figure.alt


def test_members_alone_share_one_name(axes):
    table = pool_table(10, 8).drop(columns=["gold", "cat"])
    assert "held-out" in Scores.read(table).report().figure().alt
    named = [line for line in axes[0].lines if not line.get_label().startswith("_")]
    assert len(axes[0].lines) == 2 and [line.get_label() for line in named] == ["members"]
