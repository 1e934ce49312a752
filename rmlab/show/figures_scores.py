"""The figures of a table of scores: reliability of its pairs, curves of its pool. They draw the rows of the workbench."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rmlab.show.figures import INK, band, legend, n_axis, pick
from rmlab.show.style import LOOKS, Figure, canvas

AGGREGATORS = {
    "mean": LOOKS["proxy"],
    "min": LOOKS["lora"],
    "mean_std": LOOKS["pretrain"],
    "median": LOOKS["finetune"],
}


def reliability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Agreement with the labels against stated confidence: calibrated scorers lie on the dotted line.

    tables : by scorer, from `rmlab.measure.calibration.reliability`; aggregators have bars, 95% by clusters, members are
        thin lines
    """
    fig, ax = canvas(height=4.2)
    ax.plot([0.5, 1], [0.5, 1], color=INK, lw=0.8, ls=":")
    last = {}
    for name, table in tables.items():
        last[name] = f"{name} {table.confidence.iloc[-1]:.2f} to {table.agreement.iloc[-1]:.2f}"
        look = AGGREGATORS.get(name)
        if look is None:
            label = "members" if len(ax.lines) == 1 else None  # one name for all of them
            ax.plot(table.confidence, table.agreement, color=LOOKS["heads"].color, lw=0.9, label=label)
            continue
        ax.plot(
            table.confidence, table.agreement, look.marker, ls=look.dash, color=look.color, ms=5, label=name
        )
        if name == "mean":
            ax.vlines(table.confidence, table.low, table.high, color=look.color, lw=1.2)
    ax.set_xlabel("stated probability of the favoured answer")
    ax.set_ylabel("share of votes for it")
    legend(fig, ax, 5)
    alt = f"Reliability; highest stated probability to share of votes: {', '.join(last.values())}."
    return Figure(fig, alt, "reliable")


def score_curves(curves: pd.DataFrame) -> Figure:
    """Worth and proxy against KL: aggregators with 95% bands by clusters, members as thin lines.

    curves : from `rmlab.measure.score_curves.curve_rows`; best-of-n, or tilting where there is no best-of-n
    """
    tilted = not (curves.optimiser == "best_of_n").any()
    curves = pick(curves, optimiser="tilt" if tilted else "best_of_n")
    judge = curves.judge.iloc[0]
    fig, axes = canvas(2, 8.4, 4.0)
    single = curves[curves.k == 1]
    for name, curve in single.groupby("ensemble", sort=False):
        if name != "all":
            for ax, column in zip(axes, ("gold", "proxy"), strict=True):
                label = None if ax.lines else "members"
                ax.plot(curve.kl, curve[column], color=LOOKS["heads"].color, lw=0.9, label=label)
    for name, curve in pick(curves, ensemble="all").groupby("aggregator", sort=False):
        for ax, column in zip(axes, ("gold", "proxy"), strict=True):
            band(ax, curve, column, AGGREGATORS.get(name, LOOKS["average"]), str(name), at_end=False)
    for ax, label in zip(axes, (f"worth by {judge}", "proxy (std)"), strict=True):
        ax.set_ylabel(label)
        ax.set_xlabel("KL, exact on the pool (nats)" if tilted else "KL, upper bound (nats)")
        if not tilted:
            n_axis(ax, np.unique(curves.pressure))
    legend(fig, axes[0], 5)
    ends = curves.loc[curves.groupby(["ensemble", "aggregator"], sort=False).kl.idxmax()]
    names = np.where(ends.ensemble == "all", ends.aggregator, ends.ensemble)
    said = "; ".join(f"{name} {gold:.2f}" for name, gold in zip(names, ends.gold, strict=True))
    optimiser = "tilting" if tilted else "best-of-n"
    at = f"{ends.kl.max():.1f} nats" if tilted else f"n = {ends.pressure.max():g}"
    return Figure(fig, f"Worth by {judge} of {optimiser} against KL; at {at}: {said}.", "scores")
