"""Herding drawn: what members share of their winner's error, how many of them count, how far more would help, what they buy.

Tables are those of `rmlab.measure.herding`, `rmlab.measure.ceiling` and `rmlab.measure.hacks`. All narrow enough for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.show.figures import apart, dotted, end_label, interval, legend, limits, pick, used, with_interval
from rmlab.show.figures_members import called, name
from rmlab.show.style import NEUTRAL, Figure, canvas, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NS = (1, 16, 256, 2048)  # of an axis of n
KINDS = {"predicted": ("o", "none"), "measured": ("o", "full"), "ceiling": ("|", "full")}
QUANTITIES = {"gold": "gold gained", "gap": "error (std)"}


def error_split(
    studies: Mapping[str, pd.DataFrame], ensembles: Sequence[str], rule: str = "mean", columns: int = 2
) -> Figure:
    """By how much an ensemble overrates its winner, against n, split: what all members share, and on top what is their own.

    `own` of the rows, the error of the members that chose, is the upper line, `shared`, that of one that did not, the lower;
    bars are 95%, over replicates and prompts. A panel an ensemble, of every study.

    studies : rows of `herding`, by the study's title; it is named where there are several
    """
    panels = [(title, table, ensemble) for title, table in studies.items() for ensemble in ensembles]
    rows = -(-len(panels) // columns)
    fig, grid = canvas(columns, 2.25 * columns, 0.9 + 1.7 * rows, rows=rows, sharex=True, sharey=True)
    axes, said = used(grid, len(panels)), []
    for i, (ax, (title, table, ensemble)) in enumerate(zip(axes, panels, strict=True)):
        r = pick(table, ensemble=ensemble, aggregator=rule)
        require(len(r) > 0, "ensemble and rule", (ensemble, rule), "one that the rows have")
        look = look_of(ensemble, r.method.iloc[0])
        ax.fill_between(r.n, 0, r.shared, color=look.color, alpha=0.4, lw=0)
        ax.fill_between(r.n, r.shared, r.own, color=look.color, alpha=0.15, lw=0)
        for column, dash in (("own", "-"), ("shared", (0, (5, 2)))):
            at = r[r.n.isin(NS)]
            ax.vlines(at.n, *limits(at, column), color=look.color, lw=1.3)
            ax.plot(r.n, r[column], color=look.color, ls=dash, lw=1.7)
        last = r.iloc[-1]
        heights = apart([last.own, last.shared], 0.1 * np.ptp(ax.get_ylim()))
        for label, height in zip(("all of it", "shared"), heights, strict=True):
            end_label(ax, label, last.n, height, (4, -3), fontsize=8.5)
        words = f"{title}: {name(ensemble)}" if len(studies) > 1 else name(ensemble)
        ax.set_title(words, loc="left", fontsize=9.5)
        _n_axis(ax, r.n, bottom=i + columns >= len(panels))
        if i % columns == 0:
            ax.set_ylabel("winner's error (std)", fontsize=9)
        share = with_interval(last, "shared_share")
        said.append(
            f"{words} at n = {last.n:,}: {last.own:.2f}, of which shared {last.shared:.2f}, a share of {share}"
        )
    axes[0].set_ylim(bottom=0)
    return Figure(fig, f"The winner's error, all and shared. {'; '.join(said)}.", "split")


def counting_members(
    studies: Mapping[str, pd.DataFrame], ensembles: Sequence[str], rule: str = "mean"
) -> Figure:
    """Effective members by the correlation of errors, among the N / n answers that an ensemble likes best, against n.

    95% bands over replicates; a panel a study, side by side.

    studies : rows of `herding`, by the panel's title; ensembles : of one size, which the title of the axis names
    """
    fig, grid = canvas(len(studies), 2.4 * len(studies) if len(studies) > 1 else 4.2, 3.1, sharey=True)
    axes, said = np.atleast_1d(grid).ravel(), []
    for ax, (title, table) in zip(axes, studies.items(), strict=True):
        for ensemble in ensembles:
            r = pick(table, ensemble=ensemble, aggregator=rule)
            r = r[r.effective_error.notna()]
            require(len(r) > 0, "ensemble", ensemble, "one that the rows have")
            look = look_of(ensemble, r.method.iloc[0])
            ax.fill_between(r.n, *limits(r, "effective_error"), color=look.color, alpha=0.15, lw=0)
            style = {**look.mark, "ls": look.dash, "ms": 4, "lw": 1.5}
            ax.plot(r.n, r.effective_error, label=name(ensemble), **style)
            ends = (with_interval(r.iloc[x], "effective_error") for x in (0, -1))
            said.append(f"{title}, {name(ensemble)}: {' at n = 1, '.join(ends)} at n = {r.n.iloc[-1]}")
        dotted(ax, y=1)
        _n_axis(ax, r.n)
        if len(studies) > 1:
            ax.set_title(title, loc="left", fontsize=9.5)
    k = sorted({int(pick(table, ensemble=x).k.iloc[0]) for table in studies.values() for x in ensembles})
    axes[0].set_ylabel(f"effective members of {' or '.join(map(str, k))}", fontsize=9)
    legend(fig, axes, 2)
    return Figure(fig, f"Effective members by errors. {'; '.join(said)}.", "counting")


def ceilings(table: pd.DataFrame, ensembles: Sequence[str], n: int) -> Figure:
    """Gold and error of large ensembles at n: predicted from two members, measured, and predicted for members without end.

    table : rows of `ceiling` of one study; intervals are 95%, over replicates and prompts; gold is above the mean answer's
    """
    fig, axes = canvas(2, 4.6, 1.0 + 0.34 * len(ensembles), sharey=True)
    said = []
    for ax, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
        for y, ensemble in enumerate(reversed(ensembles)):
            look = look_of(ensemble, ensemble.rstrip("0123456789").replace("grid", "mixed"))
            for shift, (kind, (marker, fill)) in zip((0.18, -0.18, 0.0), KINDS.items(), strict=True):
                r = pick(table, ensemble=ensemble, quantity=quantity, kind=kind, n=n)
                require(len(r) == 1, "row", (ensemble, quantity, kind, n), "one row of the table")
                r = r.iloc[0]
                if kind == "ceiling":
                    ax.plot([r.value], [y], "|", color=look.color, ms=22, mew=1.3)
                    continue
                interval(ax, y + shift, r.low, r.value, r.high, look._replace(marker=marker, fill=fill))
        ax.set_xlabel(f"{label}, n = {n:,}", fontsize=9)
        ax.tick_params(axis="x", labelsize=9)
        at = pick(table, quantity=quantity, n=n).set_index(["ensemble", "kind"]).value
        each = "; ".join(
            f"{name(x)} {at[x, 'predicted']:.2f}, {at[x, 'measured']:.2f}, {at[x, 'ceiling']:.2f}"
            for x in ensembles
        )
        said.append(f"{label}: {each}")
    axes[0].set_yticks(range(len(ensembles)), [name(x) for x in reversed(ensembles)], fontsize=8.5)
    axes[0].set_ylim(-0.6, len(ensembles) - 0.4)
    for kind, (marker, fill) in KINDS.items():
        size = 14 if kind == "ceiling" else 6
        words = "no end of members" if kind == "ceiling" else kind
        axes[0].plot([], [], marker, color=NEUTRAL, fillstyle=fill, ms=size, mew=1.3, ls="", label=words)
    legend(fig, axes, 3)
    return Figure(fig, f"Predicted, measured and ceiling at n = {n:,}. {'. '.join(said)}.", "ceiling")


def hack_arrows(
    table: pd.DataFrame,
    judges: Sequence[tuple[str, str]],
    labels: Mapping[str, str],
    n: int = 256,
) -> Figure:
    """How often an answer holds each term of gold's bill: among the policy's answers (open), and among winners of n.

    An arrow leads to the winners of the first judge; the others' are dots beside its point.

    Parameters
    ----------
    table : rows of `hacks` of one study
    judges : (ensemble, aggregator), each with its colour and marker
    labels : term to words, the terms that are shown, which stand by how much the first judge raises them
    n : of the winners
    """
    rates = {j: pick(table, ensemble=j[0], aggregator=j[1], n=n).set_index("term") for j in judges}
    for judge, rows in rates.items():
        absent = [term for term in labels if term not in rows.index]
        require(not absent, f"terms of {judge} at n = {n}", absent, "terms of the rows")
    first = rates[judges[0]].loc[list(labels)]
    terms = list((first.rate - first.before).sort_values().index)
    fig, ax = canvas(width=4.6, height=1.1 + 0.26 * len(terms))
    for y, term in enumerate(terms):
        r = first.loc[term]
        look = look_of(*judges[0])
        ax.annotate(
            "",
            (r.rate, y),
            (r.before, y),
            arrowprops={"arrowstyle": "-|>", "color": look.color, "lw": 1.3, "shrinkA": 3, "shrinkB": 0},
        )
        ax.plot([r.before], [y], "o", color=NEUTRAL, fillstyle="none", ms=6, mew=1.3)
    for i, (judge, rows) in enumerate(rates.items()):
        look = look_of(judge[0], judge[0].rstrip("0123456789"))
        heights = np.arange(len(terms)) - 0.2 * i
        ax.plot(rows.rate[terms], heights, ls="", ms=4.5, label=called(*judge), **look.mark)
    ax.plot([], [], "o", color=NEUTRAL, fillstyle="none", ms=6, mew=1.3, label="all answers")
    ax.set_yticks(range(len(terms)), [labels[x] for x in terms], fontsize=8.5)
    ax.set_ylim(-0.8, len(terms) - 0.4)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"share with it: all answers, winners of {n:,}", fontsize=9)
    legend(fig, ax, 2)
    said = "; ".join(
        f"{labels[x]} from {first.before[x]:.0%} to {', '.join(f'{rows.rate[x]:.0%}' for rows in rates.values())}"
        for x in reversed(terms)
    )
    who = ", ".join(called(*judge) for judge in judges)
    return Figure(fig, f"Share of answers with a term, before and among winners of {who}: {said}.", "bought")


def _n_axis(ax: Axes, ns: pd.Series, bottom: bool = True) -> None:
    """n on a logarithmic axis, with its ticks, and its name where it is at the bottom."""
    ax.set_xscale("log", base=4)
    ticks = [int(n) for n in ns if n in NS]
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    if bottom:
        ax.set_xlabel("n", fontsize=9)
        ax.tick_params(labelbottom=True)
