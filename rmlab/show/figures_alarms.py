"""Alarms drawn: gold that each rule saves, of best-of-n or of PPO, and how often rules warn in time and in vain.

Tables are those of `rmlab.measure.watched_runs`. All narrow enough for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.show.figures import INK, apart, dotted, end_label, interval, used, with_interval
from rmlab.show.style import LOOKS, NEUTRAL, Figure, Look, canvas

WATCHERS = {  # rules of `rmlab.measure.watched_runs`, a budget and bounds, in words
    "peek": "gold itself",
    "budget": "budget of other runs",
    "judge_regret": "a second judge falls",
    "judge_gap": "a second judge lags",
    "length_drift": "length drifts",
    "predicted_peak": "the proxy bends",
    "proxy_slope": "the proxy slows",
    "spread_rise": "members drift apart",
    "spread_slope": "they drift apart fast",
    "member_regret": "one member falls",
    "lowest_entropy": "one member decides",
    "score_shift": "scores shift",
    "unended_rise": "answers do not end",
    "repetition_rise": "answers repeat",
    "entropy_fall": "entropy falls",
    "start_logprob_fall": "unlike the start",
    "outlier_share": "outliers",
    "kl_budget": "KL, as an alarm",
    "never": "never stop",
}
BOUNDS = ("peek", "never")  # no rules: what gold would save, and nothing
ALARM = Look("#0173b2", "-", "o", "an alarm, without gold of its run")
OTHERS = Look(NEUTRAL, "-", "D", "a budget, from gold of other runs")


def of_setting(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows of one kind of run, a row a rule, indexed by it.

    table : rows of `detectors`; where : its keys, such as ensemble and aggregator, of PPO kl_coef and step_multiplier too

    Raises
    ------
    ValueError : no rows of these keys, or those of several kinds of run
    """
    for column, value in where.items():
        table = table[table[column] == value]
    require(len(table) > 0, "setting", where, "keys of some rows of detectors")
    require(not table.rule.duplicated().any(), "setting", where, "keys of one kind of run alone")
    return table.set_index("rule")


def saved_by_rule(
    panels: Mapping[str, pd.DataFrame],
    rules: Sequence[str],
    budgets: Mapping[str, Sequence[float]] | None = None,
    columns: int = 2,
) -> Figure:
    """Gold that stopping by a rule saves, above that of a run's end, a panel a kind of run and a line a rule, with 95% intervals.

    Parameters
    ----------
    panels : rows of `of_setting` by title
    rules : from the top, of `WATCHERS`; a panel without a rule has no dot there. "peek" is what gold itself would save
    budgets : mean, low and high of a budget's saving by title, drawn above the rules
    """
    budgets = dict(budgets or {})
    names = [*(["budget"] if budgets else []), *(r for r in rules if r != "peek")]
    fig, grid = canvas(
        columns, 4.9, (0.7 + 0.21 * len(names)) * -(-len(panels) // columns) + 0.35,
        rows=-(-len(panels) // columns), sharex=True, sharey=True,
    )  # fmt: skip
    said = []
    for i, (ax, (title, table)) in enumerate(zip(used(grid, len(panels)), panels.items(), strict=True)):
        each = []
        for y, rule in enumerate(reversed(names)):
            if rule == "budget" and title in budgets:
                value, low, high = budgets[title]
                interval(ax, y, low, value, high, OTHERS)
                each.append(f"{WATCHERS[rule]} {value:.2f} [{low:.2f}, {high:.2f}]")
            elif rule in table.index:
                r = table.loc[rule]
                interval(ax, y, r.saved_low, r.saved, r.saved_high, ALARM)
                each.append(f"{WATCHERS[rule]} {with_interval(r, 'saved')}")
        if "peek" in rules:
            ax.axvline(table.saved["peek"], color=LOOKS["gold"].color, lw=1.6)
            each.append(f"gold itself {table.saved['peek']:.2f}")
        dotted(ax, x=0)
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_yticks(range(len(names)), [WATCHERS[r] for r in reversed(names)], fontsize=8.5)
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.tick_params(axis="x", labelsize=8.5, labelbottom=True)
        if i + columns >= len(panels):
            ax.set_xlabel("gold saved", fontsize=9)
        said.append(f"{title}: {', '.join(reversed(each))}")
    return Figure(fig, f"Gold saved by stopping, against the run's end. {'; '.join(said)}.", "saved")


def warned(panels: Mapping[str, pd.DataFrame], rules: Sequence[str], least: float = 0.062) -> Figure:
    """Share of harmful runs in which a rule warns against that of harmless runs, a panel a study; chance is the diagonal.

    panels : rows of `of_setting` by title; rules : of `WATCHERS`; least : of the vertical axis between names. Bars: 95%.
    """
    fig, axes = canvas(len(panels), 2.45 * len(panels), 2.7, sharex=True, sharey=True)
    said = []
    for ax, (title, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        shown = table.loc[[r for r in rules if r in table.index]]
        edge = 0.05 + float(shown.false_alarms.max())
        ax.plot([0, edge], [0, edge], color=INK, lw=0.8, ls=":")
        for r, y in zip(shown.itertuples(), apart(shown.caught.tolist(), least), strict=True):
            ax.plot([r.false_alarms] * 2, [r.caught_low, r.caught_high], color=ALARM.color, lw=1, alpha=0.6)
            ax.plot([r.false_alarms], [r.caught], ls="", ms=5, **ALARM.mark)
            ax.plot([r.false_alarms, edge], [r.caught, y], color=INK, lw=0.5)
            end_label(ax, WATCHERS[r.Index], edge, y, (2, -3), fontsize=8)
        ax.set(xlim=(-0.01, edge + 0.24), ylim=(-0.03, max(0.75, float(shown.caught_high.max()))))
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xlabel("warned, of harmless runs", fontsize=9)
        each = [f"{WATCHERS[r.Index]} {r.caught:.0%} and {r.false_alarms:.0%}" for r in shown.itertuples()]
        said.append(f"{title}: {', '.join(each)}")
    np.atleast_1d(axes)[0].set_ylabel("warned, of harmful runs", fontsize=9)
    return Figure(fig, f"Warned of harmful runs and of harmless ones. {'; '.join(said)}.", "warned")
