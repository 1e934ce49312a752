"""What changes with one setting: gold and its fall along the axes of a sweep, and how far judges read facts.

Tables are a sweep's: `curves`, `ends`, `probes` and `accuracy` with the columns `axis` and `value`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.sensitivity import mean_accuracy, mean_reactions
from rmlab.recipe import require
from rmlab.show.figures import INK, apart, dotted, end_label, legend, limits, one_curve, pick, start_level
from rmlab.show.figures_members import called
from rmlab.show.style import LOOKS, Figure, Look, canvas, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGES = (("single", "mean"), ("finetune3", "min"), ("heads3", "min"))


class Points(NamedTuple):
    """A quantity along an axis: labels (V,) of its values, and the rows (V,) of the quantity; NaN where there is none."""

    labels: list[str]
    rows: pd.DataFrame


def value_words(value: object) -> str:
    """A value of an axis as a tick says it: "0.1875", "8,000", "64 × 2" of a size."""
    text = str(value)
    if size := re.match(r"hidden=(\d+) layers=(\d+)", text):
        return f"{size[1]} × {size[2]}"
    try:
        return f"{float(text):,g}" if float(text) < 1e5 else f"{float(text):,.0f}"
    except ValueError:
        return text


def along(table: pd.DataFrame, axis: str, ensemble: str, aggregator: str) -> Points:
    """The rows of one judge along an axis, a row a value, in the table's order.

    An axis with one value, a list of ensembles, is one of members: its values are the K of ensembles named as this one is
    but for the number, and one single model is K = 1.

    table : rows of one pressure, or `ends`; a `ValueError` where a value has several rows of this judge or no such axis is
    """
    rows = pick(table, axis=axis, aggregator=aggregator)
    rows = pick(rows, pessimism="paper") if "pessimism" in rows else rows
    known = list(dict.fromkeys(table["axis"]))
    require(axis in known, "axis", axis, f"one of {', '.join(known)}")
    if pick(table, axis=axis).value.nunique() > 1:
        rows = pick(rows, ensemble=ensemble)
        keys = rows.value.astype(str)
        order = dict.fromkeys(pick(table, axis=axis).value.astype(str))
    else:
        stem = ensemble.rstrip("0123456789")
        rows = rows[rows.ensemble.str.fullmatch(re.escape(stem) + r"\d*")].sort_values("k")
        keys = rows.k.astype(str)
        order = dict.fromkeys(str(k) for k in sorted(pick(table, axis=axis).k.unique()))
    require(not keys.duplicated().any(), f"axis {axis}", list(keys), "one row of a judge a value")
    return Points([value_words(x) for x in order], rows.set_index(keys).reindex(list(order)))


def sweep(
    curves: pd.DataFrame, ends: pd.DataFrame, axis: str, n: int, judges: Sequence[tuple[str, str]] = JUDGES
) -> Figure:
    """Gold at n, and its fall from the peak, against the values of one axis, with 95% intervals."""
    return sweeps(curves, ends, n, judges, [axis])


def sweeps(
    curves: pd.DataFrame,
    ends: pd.DataFrame,
    n: int,
    judges: Sequence[tuple[str, str]] = JUDGES,
    axes: Sequence[str] | None = None,
) -> Figure:
    """Gold at n (left) and its fall from the peak to the end (right) along every axis, a row an axis.

    Parameters
    ----------
    curves, ends : of a sweep; the fall is `fall_from_peak`, from a peak that other prompts and replicates chose
    n : of best-of-n, one of the table's pressures
    judges : (ensemble, aggregator)
    axes : their names, or all of the table's, in its order
    """
    shown = list(axes) if axes is not None else list(dict.fromkeys(curves["axis"]))
    at, start = pick(curves, pressure=n), pick(curves, pressure=curves.pressure.min())
    require(len(at) > 0, "n", n, f"one of {', '.join(str(p) for p in sorted(curves.pressure.unique()))}")
    height = 0.9 + 1.3 * len(shown)
    fig, grid = canvas(2, 4.6, height, rows=len(shown), sharey="col", squeeze=False)
    said = []
    for row, axis in zip(grid, shown, strict=True):
        for ax, table, column in zip(row, (at, ends), ("gold", "fall_from_peak"), strict=True):
            for i, judge in enumerate(judges):
                points = along(table, axis, *judge)
                _dots(ax, points, column, look_of(judge[0], points.rows.method.dropna().iloc[0]), i, judges)
                said += [f"{axis}, {called(*judge)}: {_said(points, column)}"] if column == "gold" else []
            ax.set_xlabel("members, K" if axis == "members" else axis, fontsize=9)
        _start_levels(row[0], along(start, axis, *judges[0]))
        dotted(row[1], y=0)
    for ax, title in zip(grid[0], (f"gold at n = {n:,}", "end − peak, gold"), strict=True):
        ax.set_title(title, loc="left", fontsize=9.5)
    legend(fig, grid, min(len(judges), 2))
    stem = "sweeps" if axes is None else "-".join(["sweep", *(re.sub(r"\W+", "", x) for x in shown)])
    return Figure(fig, f"Gold at n = {n}. {'; '.join(said)}.", stem)


def dial(
    curves: pd.DataFrame,
    probes: pd.DataFrame,
    accuracy: pd.DataFrame,
    axis: str = "sight",
    probe: str = "wrong",
) -> Figure:
    """Single models along sight: their reaction to a probe, their accuracy, and the gold they choose; 95% intervals.

    Gold is shown at n = 1, at the peak of the mean curve, which noise alone makes high, and at the largest n.
    """
    reactions, right = (
        mean_reactions(pick(probes, axis=axis), probe),
        mean_accuracy(pick(accuracy, axis=axis)),
    )
    require(
        list(reactions.value) == list(right.value),
        f"axis {axis}",
        list(right.value),
        "the values of the probes",
    )
    marks = pd.DataFrame(
        [_marks(one_curve(curves, axis=axis, value=v, ensemble="single")) for v in reactions.value]
    )
    fig, (upper, middle, lower) = canvas(
        1, 4.2, 5.0, rows=3, sharex=True, gridspec_kw={"height_ratios": [1, 0.8, 1.2]}
    )
    x = np.arange(len(reactions))
    for ax, table, column in ((upper, reactions, "reaction"), (middle, right, "accuracy")):
        look = LOOKS["single"]
        ax.vlines(x, table.low, table.high, color=look.color, lw=1.6)
        ax.plot(x, table[column], color=look.color, ls=look.dash, lw=1.4, marker=look.marker, ms=6)
    dotted(upper, y=0)
    dotted(middle, y=0.5)
    _gold_levels(lower, x, marks, f"n = {int(curves.pressure.max()):,}")
    titles = (f"reaction to {_probe_words(probes, probe)} (std)", "right on held-out pairs", "gold")
    for ax, title in zip((upper, middle, lower), titles, strict=True):
        ax.set_title(title, loc="left", fontsize=9.5)
    lower.set_xticks(x, [value_words(v) for v in reactions.value])
    lower.set_xlabel(axis)
    said = "; ".join(
        f"{axis} {value_words(v)}: reaction {r:+.2f} [{a:+.2f}, {b:+.2f}], right on {c:.0%}, gold {m.start:.2f}, {m.peak:.2f} "
        f"at n = {m.at:.0f}, {m.end:.2f} at the end"
        for v, r, a, b, c, m in zip(
            *(reactions[c] for c in ("value", "reaction", "low", "high")),
            right.accuracy,
            marks.itertuples(),
            strict=True,
        )
    )
    return Figure(fig, f"Single models along {axis}. {said}.", "dial")


def _gold_levels(ax: Axes, x: np.ndarray, marks: pd.DataFrame, most: str) -> None:
    """Gold at n = 1, at the peak and at the largest n, labelled at their ends."""
    color = LOOKS["gold"].color
    ax.plot(x, marks.start, color=INK, lw=0.9, ls=(0, (4, 3)))
    for point, shift, dash, marker in (("peak", -0.04, "-", "o"), ("end", 0.04, (0, (1, 1.3)), "X")):
        ax.vlines(x + shift, marks[f"{point}_low"], marks[f"{point}_high"], color=color, lw=1.6)
        ax.plot(x + shift, marks[point], color=color, ls=dash, lw=1.4, marker=marker, ms=6)
    last = [float(marks[point].iloc[-1]) for point in ("start", "peak", "end")]
    heights = apart(last, 0.11 * np.ptp(ax.get_ylim()))
    for label, height in zip(("n = 1", "peak", most), heights, strict=True):
        end_label(ax, label, x[-1], height, (12, -3))


def _marks(curve: pd.DataFrame) -> dict[str, float]:
    """Gold of a curve at its start, its peak and its end, with intervals; `at`, the pressure of the peak."""
    points = {"start": curve.iloc[0], "peak": curve.loc[curve.gold.idxmax()], "end": curve.iloc[-1]}
    row = {"at": points["peak"].pressure}
    for point, r in points.items():
        row |= {point: r.gold, f"{point}_low": r.gold_low, f"{point}_high": r.gold_high}
    return row


def _probe_words(probes: pd.DataFrame, probe: str) -> str:
    return str(pick(probes, probe=probe).label.iloc[0])


def _dots(
    ax: Axes, points: Points, column: str, look: Look, i: int, judges: Sequence[tuple[str, str]]
) -> None:
    """One judge's dots with their intervals, a little beside the others', joined."""
    x = np.arange(len(points.labels)) + 0.1 * (i - (len(judges) - 1) / 2)
    rows = points.rows
    ax.vlines(x, *limits(rows, column), color=look.color, lw=1.3)
    there = rows[column].notna().to_numpy()
    style = {"ls": look.dash, "lw": 1.2, "ms": 5, **look.mark}
    ax.plot(x[there], rows[column][there], label=called(*judges[i]), **style)
    ax.set_xlim(-0.5, len(points.labels) - 0.5)
    ax.set_xticks(range(len(points.labels)), points.labels, fontsize=8)


def _start_levels(ax: Axes, points: Points) -> None:
    """Gold at the lowest pressure, value by value, or right through where the axis is of members."""
    if points.rows.gold.notna().sum() == 1:
        start_level(ax, points.rows.gold.dropna().iloc[0])
        return
    ax.plot(np.arange(len(points.labels)), points.rows.gold, color=INK, lw=0.9, ls=(0, (4, 3)))


def _said(points: Points, column: str) -> str:
    pairs = zip(points.labels, points.rows[column], strict=True)
    return ", ".join(f"{y:.2f} at {label}" for label, y in pairs if pd.notna(y))
