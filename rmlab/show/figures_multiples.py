"""Many methods beside one judge: curves in small panels, and gains as dots on one scale. Narrow enough for a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.show.figures import (
    apart,
    end_label,
    interval,
    limits,
    margin,
    n_axis,
    one_curve,
    pick,
    start_level,
    used,
)
from rmlab.show.figures_members import called
from rmlab.show.style import Figure, canvas, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 0.1  # gold: a smaller difference does not matter, as the claims say


def small_multiples(
    curves: pd.DataFrame,
    panels: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    columns: int = 2,
    **keys: object,
) -> Figure:
    """Best-of-n's gold against KL in small panels on the same axes: a few judges in each, with 95% bands and their peaks.

    The dashed level is that of n = 1; a dot is the highest point of a mean curve, which noise alone makes high.

    Parameters
    ----------
    curves : rows of one study
    panels : (title, judges), a judge being (ensemble, aggregator); usually one model and an ensemble in each
    columns : panels side by side; two can be read on a phone
    keys : whatever else tells a curve from another, such as pessimism="matched" or optimiser="best_of_n"
    """
    return _panels([(title, curves, judges) for title, judges in panels], columns, keys, "multi")


def side_by_side(
    studies: Mapping[str, pd.DataFrame], judges: Sequence[tuple[str, str]], columns: int = 2, **keys: object
) -> Figure:
    """The same judges in several studies, a panel a study, drawn as by `small_multiples`.

    studies : `curves` of each, by the title of its panel; judges, columns, keys : as there
    """
    return _panels([(title, curves, judges) for title, curves in studies.items()], columns, keys, "studies")


def gains_dots(
    curves: pd.DataFrame, n: int, judges: Sequence[tuple[str, str]], pessimism: str = "paper"
) -> Figure:
    """Gold gained over one model at n, paired, as dots with 95% intervals from the largest gain to the smallest.

    curves : rows of one study; judges : (ensemble, aggregator); the band around 0 is a difference that does not matter
    """
    rows = []
    for ensemble, aggregator in judges:
        curve = one_curve(curves, ensemble=ensemble, aggregator=aggregator, pessimism=pessimism)
        at = pick(curve, pressure=n)
        require(len(at) == 1, "n", n, f"one of {', '.join(f'{p:g}' for p in curve.pressure)}")
        rows.append(at.iloc[0])
    rows.sort(key=lambda r: r.gain)
    fig, ax = canvas(width=4.6, height=0.8 + 0.25 * len(rows))
    margin(ax, MARGIN)
    for y, r in enumerate(rows):
        low, high = limits(r, "gain")
        interval(ax, y, low, r.gain, high, look_of(r.ensemble, r.method))
    ax.set_yticks(range(len(rows)), [called(r.ensemble, r.aggregator) for r in rows], fontsize=9)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(f"gold gained, n = {n:,}", fontsize=9)
    said = "; ".join(
        f"{called(r.ensemble, r.aggregator)} {r.gain:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
        for r in reversed(rows)
    )
    return Figure(fig, f"Gold gained over one model at n = {n}, largest first: {said}.", "dots")


def _panels(
    panels: list[tuple[str, pd.DataFrame, Sequence[tuple[str, str]]]], columns: int, keys: dict, stem: str
) -> Figure:
    """Panels of (title, curves, judges) on the same axes."""
    rows = -(-len(panels) // columns)
    size = (columns, 2.2 * columns, 0.9 + 1.6 * rows)
    fig, grid = canvas(*size, rows=rows, sharex=True, sharey=True)
    axes, ends, said = used(grid, len(panels)), [], []
    several = len({id(curves) for _, curves, _ in panels}) > 1
    for ax, (title, curves, judges) in zip(axes, panels, strict=True):
        plotted = [_small_curve(ax, curves, judge, keys) for judge in judges]
        start_level(ax, plotted[0][0].gold.iloc[0])
        ends.append([(curve.kl.iloc[-1], float(curve.gold.iloc[-1]), label) for curve, label, _ in plotted])
        said += [f"{title}, {words}" if several else words for *_, words in plotted]
    least = 0.085 * np.ptp(axes[0].get_ylim())
    for i, (ax, (title, curves, _), labels) in enumerate(zip(axes, panels, ends, strict=True)):
        heights = apart([gold for _, gold, _ in labels], least)
        for (kl, _, label), height in zip(labels, heights, strict=True):
            end_label(ax, label, kl, height, (5, -3), fontsize=8.5)
        ax.set_title(title, loc="left", fontsize=9.5, weight="bold")
        if i + columns >= len(panels):
            ax.set_xlabel("KL, upper bound", fontsize=9)
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel("gold", fontsize=9)
        if i < columns:
            n_axis(ax, curves.pressure.unique(), 8, (1, 16, 256, 2048))
    return Figure(fig, f"Gold against KL. {'; '.join(dict.fromkeys(said))}.", stem)


def _small_curve(
    ax: Axes, curves: pd.DataFrame, judge: tuple[str, str], keys: dict[str, object]
) -> tuple[pd.DataFrame, str, str]:
    """Draw one judge's curve: its rows, its label, and what is seen in words.

    A second curve of one look, another aggregator of the same ensemble, has a dash of its own and an open marker.
    """
    ensemble, aggregator = judge
    curve = one_curve(curves, ensemble=ensemble, aggregator=aggregator, **keys)
    look = look_of(ensemble, curve.method.iloc[0])
    again = look.color in {line.get_color() for line in ax.lines}
    look = look._replace(dash=(0, (5, 1, 1, 1, 1, 1)), fill="none") if again else look
    top, end = curve.loc[curve.gold[::-1].idxmax()], curve.iloc[-1]
    ax.fill_between(curve.kl, *limits(curve, "gold"), color=look.color, alpha=0.15, lw=0)
    ax.plot(curve.kl, curve.gold, color=look.color, ls=look.dash, lw=1.6)
    ax.plot([top.kl], [top.gold], ls="", ms=6, **look.mark)
    label = "one model" if ensemble == "single" else aggregator.replace("_", " − ")
    peak = f"peak {top.gold:.2f} at n = {top.pressure:g}, {end.gold:.2f} at n = {end.pressure:g}"
    return curve, label, f"{called(ensemble, aggregator)}: {peak}"
