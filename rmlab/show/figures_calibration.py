"""Calibration drawn: promised and delivered win rates, reliability, how well probabilities do, and whether doubt sees errors.

Tables are those of `rmlab.measure.promised`, `rmlab.measure.study_calibration` and `rmlab.measure.uncertainty`. All narrow
enough for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.show.figures import (
    INK,
    apart,
    dotted,
    end_label,
    interval,
    legend,
    limits,
    pick,
    used,
    with_interval,
)
from rmlab.show.figures_members import called, name
from rmlab.show.style import LOOKS, NEUTRAL, Figure, Look, canvas, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN, MENDED = "none", "temperature"  # recalibrations
STATED = (("promised, as stated", PLAIN, (0, (1, 1.3))), ("promised, mended", MENDED, (0, (5, 2))))
MEASURES = {"ece": "ECE", "brier": "Brier", "log_loss": "log loss (nats)"}
RULES = {  # of reliability: a dash and a marker a rule
    "min": ((0, (1, 1.3)), "v"),
    "mean": ("-", "o"),
    "max": ((0, (5, 2)), "^"),
    "mean_std": ((0, (4, 1, 1, 1)), "s"),
}
DOUBTS = {  # scores of doubt that are no ensemble's spread
    "mahalanobis": "Mahalanobis distance",
    "laplace": "Laplace variance",
    "caution": "caution",
    "sngp": "Gaussian process",
}
DISTANCE = LOOKS["average"]
ERRORS = {
    "absolute": "errs much",
    "signed": "is overrated much",
}  # a kind of error, and what it is of an answer


def promises(
    studies: Mapping[str, pd.DataFrame], judges: Sequence[tuple[str, str]], columns: int = 2
) -> Figure:
    """The win rate of best-of-n's winner over a random answer, against n: promised twice, and delivered by gold.

    Promised as the scores state it, and after a temperature fitted on held-out pairs. Bands are 95%, over replicates and
    prompts; a panel a judge, of every study. Both rates are 1/2 at n = 1.

    Parameters
    ----------
    studies : rows of `promised`, by the study's title; it is named where there are several
    judges : (ensemble, aggregator)
    columns : panels side by side
    """
    panels = [(title, table, judge) for title, table in studies.items() for judge in judges]
    rows = -(-len(panels) // columns)
    fig, grid = canvas(columns, 2.3 * columns, 0.8 + 1.7 * rows, rows=rows, sharex=True, sharey=True)
    axes, said = used(grid, len(panels)), []
    for i, (ax, (title, table, (ensemble, rule))) in enumerate(zip(axes, panels, strict=True)):
        table = pick(table, ensemble=ensemble, aggregator=rule)
        require(len(table) > 0, "judge", (ensemble, rule), "one that the rows have")
        for label, recalibration, dash in STATED:
            look = LOOKS["proxy"]._replace(dash=dash)
            _rate_line(ax, pick(table, recalibration=recalibration), "promised", look, label)
        delivered = pick(table, recalibration=PLAIN)
        _rate_line(ax, delivered, "delivered", LOOKS["gold"], "delivered by gold")
        ends = [float(x.get_ydata()[-1]) for x in ax.lines]
        words = called(ensemble, rule)
        ax.set_title(f"{title}: {words}" if len(studies) > 1 else words, loc="left", fontsize=9.5)
        n = int(delivered.n.iloc[-1])
        ax.set_xscale("log", base=4)
        ticks = [x for x in delivered.n if x in (1, 16, 256, 2048)]
        ax.set_xticks(ticks, [f"{x:,}" for x in ticks])
        ax.minorticks_off()
        if i + columns >= len(panels):
            ax.set_xlabel("n", fontsize=9)
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel("win rate", fontsize=9)
        where = f"{title}, {words}" if len(studies) > 1 else words
        said.append(
            f"{where} at n = {n:,}: {ends[0]:.2f} as stated, {ends[1]:.2f} mended, {ends[2]:.2f} delivered"
        )
    least = 0.08 * np.ptp(axes[0].get_ylim())
    for ax in axes:
        ends = [(x.get_xdata()[-1], float(x.get_ydata()[-1])) for x in ax.lines]
        for (n, rate), height in zip(ends, apart([rate for _, rate in ends], least), strict=True):
            end_label(ax, f"{rate:.2f}", n, height, (4, -3), fontsize=8.5)
    legend(fig, axes, 2)
    alt = f"Promised and delivered win rates of winners over a random answer. {'; '.join(said)}."
    return Figure(fig, alt, "promise")


def reliability_panels(
    studies: Mapping[str, pd.DataFrame], ensembles: Sequence[str], columns: int = 2
) -> Figure:
    """The share of held-out pairs that come out as stated against the stated probability, a panel an ensemble.

    Above the dotted line a judge is right more often than it says. Bars are 95%; on the mean alone, where there are
    several rules.

    studies : rows of `reliability`, by the study's title; ensembles : names that they have
    """
    panels = [(title, table, ensemble) for title, table in studies.items() for ensemble in ensembles]
    rows = -(-len(panels) // columns)
    fig, grid = canvas(columns, 2.3 * columns, 0.9 + 1.9 * rows, rows=rows, sharex=True, sharey=True)
    axes, said = used(grid, len(panels)), []
    for i, (ax, (title, table, ensemble)) in enumerate(zip(axes, panels, strict=True)):
        table = pick(table, ensemble=ensemble)
        require(len(table) > 0, "ensemble", ensemble, "one that the rows have")
        ax.plot([0.5, 1], [0.5, 1], color=INK, lw=0.8, ls=":")
        look, tops = look_of(ensemble, table.method.iloc[0]), []
        for rule in (x for x in RULES if x in set(table.aggregator)):
            bins = pick(table, aggregator=rule)
            dash, marker = RULES[rule]
            style = {"marker": marker, "ls": dash, "ms": 4, "lw": 1.3}
            ax.plot(bins.confidence, bins.agreement, color=look.color, markevery=[-1], **style)
            ax.plot([], [], color=NEUTRAL, label=rule.replace("_", " − "), **style)
            if rule == "mean":
                ax.vlines(bins.confidence, bins.low, bins.high, color=look.color, lw=1.1)
            top = bins.iloc[-1]
            tops.append(f"{rule.replace('_', ' − ')} says {top.confidence:.2f}, right {top.agreement:.2f}")
        label = name(ensemble)
        ax.set_title(f"{title}: {label}" if len(studies) > 1 else label, loc="left", fontsize=9.5)
        ax.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
        if i + columns >= len(panels):
            ax.set_xlabel("stated probability", fontsize=9)
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel("share that is right", fontsize=9)
        said.append(f"{label} ({title}): {'; '.join(tops)}")
    axes[0].text(0.52, 0.98, "under-confident", fontsize=8, va="top")
    axes[0].text(1.0, 0.52, "over-confident", fontsize=8, ha="right")
    legend(fig, axes, 4)
    alt = f"Reliability on held-out pairs, the bin of the highest probabilities. {'. '.join(said)}."
    return Figure(fig, alt, "relied")


def calibration_dots(
    table: pd.DataFrame, judges: Sequence[tuple[str, str]], measures: Mapping[str, str] = MEASURES
) -> Figure:
    """How good a judge's probabilities are on held-out pairs: as they are (open) and divided by a temperature (full).

    table : rows of `calibration` of one study; judges : (ensemble, aggregator), from the top; measures : column to label.
    All are better when lower; intervals are 95%, over replicates.
    """
    fig, axes = canvas(len(measures), 4.6, 0.9 + 0.24 * len(judges), sharey=True)
    axes, said = np.atleast_1d(axes), []
    for ax, (column, label) in zip(axes, measures.items(), strict=True):
        for y, (ensemble, rule) in enumerate(reversed(judges)):
            for recalibration, fill in ((PLAIN, "none"), (MENDED, "full")):
                row = _one(table, ensemble=ensemble, aggregator=rule, recalibration=recalibration)
                look = look_of(ensemble, row.method)._replace(fill=fill, marker="o")
                interval(ax, y, row[f"{column}_low"], row[column], row[f"{column}_high"], look)
        ax.set_xlabel(label, fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.locator_params(axis="x", nbins=2)
    for ensemble, rule in judges:
        before, after = (
            _one(table, ensemble=ensemble, aggregator=rule, recalibration=x) for x in (PLAIN, MENDED)
        )
        pairs = ", ".join(f"{label} {before[c]:.3f} to {after[c]:.3f}" for c, label in measures.items())
        said.append(f"{called(ensemble, rule)}: {pairs}")
    axes[0].set_yticks(range(len(judges)), [called(*j) for j in reversed(judges)], fontsize=8.5)
    for fill, label in (("none", "as stated"), ("full", "at its temperature")):
        axes[0].plot([], [], "o", color=NEUTRAL, fillstyle=fill, ms=6, mew=1.3, label=label)
    legend(fig, axes, 2)
    return Figure(fig, f"Probabilities of held-out pairs, before and after. {'; '.join(said)}.", "calibrated")


def sees_errors(
    table: pd.DataFrame,
    scores: Sequence[str],
    n: int = 256,
    errors: Mapping[str, str] = ERRORS,
) -> Figure:
    """How well scores of doubt rank one model's errors: AUROC among all answers (open) and among winners of n (full).

    Spreads are in their ensemble's colour, distances from training answers in one of their own; at the dotted line a
    score is blind. Intervals are 95%, over replicates and prompts.

    table : rows of `uncertainty` of one study; scores : from the top; errors : kind of error to a panel's title
    """
    require(n in set(table.n), "n", n, f"one of {', '.join(str(x) for x in sorted(set(table.n)))}")
    fig, axes = canvas(len(errors), 4.6, 1.1 + 0.25 * len(scores), sharey=True, sharex=True)
    axes, said = np.atleast_1d(axes), []
    for ax, (error, title) in zip(axes, errors.items(), strict=True):
        for y, score in enumerate(reversed(scores)):
            look = DISTANCE if score in DOUBTS else look_of(score, score.rstrip("0123456789"))
            for drawn_from, fill, shift in ((1, "none", 0.14), (n, "full", -0.14)):
                row = _one(table, score=score, n=drawn_from, error=error)
                looked = look._replace(fill=fill, marker="o")
                interval(ax, y + shift, *row[["auroc_low", "auroc", "auroc_high"]], looked)
        dotted(ax, x=0.5)
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xlabel("AUROC", fontsize=9)
        each = "; ".join(
            f"{doubt(x)} {_one(table, score=x, n=1, error=error).auroc:.2f} and "
            f"{with_interval(_one(table, score=x, n=n, error=error), 'auroc')}"
            for x in scores
        )
        said.append(f"An answer that {title}: {each}.")
    axes[0].set_yticks(range(len(scores)), [doubt(x) for x in reversed(scores)], fontsize=8.5)
    for fill, label in (("none", "all answers"), ("full", f"winners of {n:,}")):
        axes[0].plot([], [], "o", color=NEUTRAL, fillstyle=fill, ms=6, mew=1.3, label=label)
    legend(fig, axes, 2)
    return Figure(fig, f"AUROC of doubt, all answers and winners of {n:,}. {' '.join(said)}", "doubt")


def doubt(score: str) -> str:
    """A score of doubt in words: a distance by its name, of an ensemble its spread: "spread of 5 linear heads"."""
    return DOUBTS.get(score) or f"spread of {name(score)}"


def _one(table: pd.DataFrame, **where: object) -> pd.Series:
    """The one row with these keys."""
    rows = pick(table, **where)
    require(len(rows) == 1, "row", where, f"keys of one row, not of {len(rows)}")
    return rows.iloc[0]


def _rate_line(ax: Axes, rows: pd.DataFrame, column: str, look: Look, label: str) -> None:
    """A rate against n with its band."""
    ax.fill_between(rows.n, *limits(rows, column), color=look.color, alpha=0.15, lw=0)
    ax.plot(rows.n, rows[column], color=look.color, ls=look.dash, lw=1.8, label=label)
