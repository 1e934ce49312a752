"""What figures share: rows picked by their keys, bands, intervals, reference lines, labels. No torch: figures read tables.

A figure takes rows as `rmlab.show.rows.rows` gives them and returns a `rmlab.show.style.Figure`, whose alternative text
says with numbers what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.show.style import NEUTRAL, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK = "#111111"  # becomes the text's colour, see `Figure`


def pick(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows in which every named column has the given value."""
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def one_curve(table: pd.DataFrame, **keys: object) -> pd.DataFrame:
    """The rows of one curve; a `ValueError` where no curve has these keys, or several have.

    Of a table that tells `pessimism`, the paper's is meant unless `keys` name another.
    """
    keys = {"pessimism": "paper", **keys} if "pessimism" in table else keys
    curve = pick(table, **keys)
    require(len(curve) > 0, "curve", keys, "keys of some rows of the table")
    twice = int(curve.pressure.duplicated().sum())
    require(twice == 0, f"curve {keys}", f"{twice} pressures twice", "keys of one curve alone")
    return curve


def limits(table: pd.DataFrame | pd.Series, column: str) -> tuple:
    """The ends of a column's 95% band: `gold_low` and `gold_high`, or plain `low` and `high` of what the table is about."""
    stem = f"{column}_" if f"{column}_low" in table else ""
    return table[f"{stem}low"], table[f"{stem}high"]


def with_interval(row: pd.Series, column: str, digits: int = 2, sign: bool = False) -> str:
    """A number with its 95% interval, as prose has it: "-0.62 [-1.11, -0.13]"; with `sign`, "+" before what is above 0."""
    value, low, high = (f"{x:{'+' if sign else ''}.{digits}f}" for x in (row[column], *limits(row, column)))
    return f"{value} [{low}, {high}]"


def line(ax: Axes, curve: pd.DataFrame, column: str, look: Look, label: str = "") -> None:
    """A curve over KL, with its label at its end where it has one."""
    ax.plot(curve.kl, curve[column], color=look.color, ls=look.dash, label=label)
    if label:
        end_label(ax, label, curve.kl.iloc[-1], curve[column].iloc[-1])


def band(ax: Axes, curve: pd.DataFrame, column: str, look: Look, label: str, at_end: bool = True) -> None:
    """A curve over KL with its 95% band; the label at its end, or kept for a legend."""
    ax.fill_between(curve.kl, *limits(curve, column), color=look.color, alpha=0.15, lw=0)
    ax.plot(curve.kl, curve[column], ls=look.dash, label=label, ms=3, **look.mark)
    if at_end:
        end_label(ax, label, curve.kl.iloc[-1], curve[column].iloc[-1])


def interval(ax: Axes, y: float, low: float, value: float, high: float, look: Look) -> None:
    """A value and its interval, lying at height y."""
    ax.plot([low, high], [y, y], "-", color=look.color, lw=1.6)
    ax.plot([value], [y], ls="", ms=6, **look.mark)


def end_label(
    ax: Axes,
    text: str,
    x: float,
    y: float,
    offset: tuple[float, float] = (6, -3),
    xycoords: str | tuple[str, str] = "data",
    fontsize: float = 9,
) -> None:
    """A label beside a point, in points from it; it may stand outside the axes."""
    ax.annotate(
        text,
        (x, y),
        offset,
        xycoords=xycoords,
        textcoords="offset points",
        fontsize=fontsize,
        annotation_clip=False,
    )


def start_level(ax: Axes, gold: float) -> None:
    """The gold that everything starts from, as a dashed level."""
    ax.axhline(gold, color=INK, lw=0.9, ls=(0, (4, 3)))


def dotted(ax: Axes, x: float | None = None, y: float | None = None) -> None:
    """A dotted line right through, upright at x or level at y."""
    if x is not None:
        ax.axvline(x, color=INK, lw=0.8, ls=":")
    if y is not None:
        ax.axhline(y, color=INK, lw=0.8, ls=":")


def margin(ax: Axes, width: float) -> None:
    """Differences too small to matter, as a light upright band about 0, which is dotted."""
    ax.axvspan(-width, width, color=NEUTRAL, alpha=0.18, lw=0)
    dotted(ax, x=0)


def apart(values: list[float], least: float) -> list[float]:
    """Heights of labels beside `values`: the same, but moved up where two would be nearer than `least`."""
    heights, floor = [0.0] * len(values), -np.inf
    for i in np.argsort(values, kind="stable"):
        heights[i] = floor = max(values[i], floor + least)
    return heights


def used(axes: np.ndarray, count: int) -> np.ndarray:
    """The first `count` axes of a grid, (count,); the others are hidden."""
    axes = np.atleast_1d(axes).ravel()
    for ax in axes[count:]:
        ax.set_visible(False)
    return axes[:count]


def n_axis(
    ax: Axes,
    ns: pd.Series | np.ndarray,
    fontsize: float = 10,
    marked: Sequence[int] = (1, 4, 16, 64, 256, 1024, 4096),
) -> None:
    """n along the top edge of an axis whose bottom is best-of-n's KL; of `marked` those that the rows have."""
    from rmlab.optimise.best_of_n import kl_bound

    shown = [int(n) for n in ns if n in marked]
    top = ax.secondary_xaxis("top")
    top.set_xticks([float(kl_bound(n)) for n in shown], [f"{n:,}" for n in shown])
    top.set_xlabel("n", fontsize=fontsize)
    top.spines["top"].set_visible(False)
    top.tick_params(length=0, labelsize=fontsize)


def legend(fig: Canvas, axes: Axes | np.ndarray, columns: int) -> None:
    """One legend below the panels, of everything that one of them names."""
    handles: dict[str, object] = {}
    for ax in np.atleast_1d(axes).ravel():
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    style = {"loc": "outside lower center", "ncols": columns, "fontsize": 8.5, "frameon": False}
    fig.legend(handles.values(), handles, **style)
