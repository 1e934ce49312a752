"""The figures of best-of-n and of what members agree on, drawn from the rows of a best-of-n study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.measure.sensitivity import accuracy_gold_correlation, chosen_against_accuracy
from rmlab.show.figures import (
    band,
    dotted,
    end_label,
    line,
    n_axis,
    one_curve,
    pick,
    start_level,
)
from rmlab.show.style import LOOKS, Figure, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KL_LABEL = "KL, log n − (n−1)/n, upper bound (nats)"


def overoptimisation(curves: pd.DataFrame, own: pd.DataFrame | None = None) -> Figure:
    """The proxy climbs, gold peaks and falls: one reward model, mean over all of the study's; own is a quick study's."""
    fig, (upper, lower) = canvas(1, 4.9, 4.6, rows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1.5]})
    single = one_curve(curves, ensemble="single")
    band(upper, single, "gold", LOOKS["gold"], "gold")
    band(lower, single, "proxy", LOOKS["proxy"], "proxy")
    _uniform_pick(upper, single)
    top, end = single.loc[single.gold[::-1].idxmax()], single.iloc[-1]  # of rounded rows that tie, the last
    upper.plot([top.kl], [top.gold], "o", color=LOOKS["gold"].color, ms=8)
    peak = f"peak, n = {top.pressure}"
    upper.annotate(peak, (top.kl, top.gold), (0, 9), textcoords="offset points", ha="center", fontsize=9)
    if own is not None:
        mine = one_curve(own, ensemble="single")
        line(upper, mine, "gold", LOOKS["you"], "your run")
        line(lower, mine, "proxy", LOOKS["you"])
    upper.set_ylabel("gold reward")
    lower.set_ylabel("proxy (std)")
    lower.set_xlabel(KL_LABEL)
    n_axis(upper, single.pressure)
    alt = (
        f"Gold reward against KL: from {single.gold.iloc[0]:.2f} at n = 1 up to {top.gold:.2f} at n = {top.pressure}, then "
        f"down to {end.gold:.2f} at n = {end.pressure}. Below, the proxy rises all the way, from "
        f"{single.proxy.iloc[0]:.2f} to {end.proxy:.2f}."
    )
    return Figure(fig, alt, "over")


def transfer(table: pd.DataFrame) -> Figure:
    """The winner of one model, judged by itself, its siblings, its cousins and gold."""
    fig, ax = canvas(width=4.9, height=3.6)
    labels = {
        "self": (LOOKS["single"], "itself"),
        "finetune": (LOOKS["finetune"], "finetuning seeds"),
        "pretrain": (LOOKS["pretrain"], "pretraining seeds"),
        "gold": (LOOKS["gold"], "gold"),
    }
    for judge, (look, label) in labels.items():
        curve = pick(table, judged_by=judge)
        if len(curve):
            band(ax, curve, "score", look, label)
    dotted(ax, y=0)
    ax.set_xlabel(KL_LABEL)
    ax.set_ylabel("judged score (std)")
    n_axis(ax, table.pressure.unique())
    most = table.pressure.max()
    end = pick(table, pressure=most).set_index("judged_by").score
    said = ", ".join(f"{judge} {score:.2f}" for judge, score in end.items())
    return Figure(fig, f"Standardised score of one model's winner at n = {most}: {said}.", "trans")


def accuracy_and_gold(
    replicates: pd.DataFrame, accuracy: pd.DataFrame, ns: Sequence[int] = (16, 64, 256)
) -> Figure:
    """Does accuracy on held-out pairs tell which single model chooses well? A dot a model, a panel an n.

    Both are minus the mean of the model's replicate; r is the correlation within replicates with its 95% interval.
    """
    fig, axes = canvas(len(ns), 6.4, 2.6, sharey=True, squeeze=False)
    said = []
    for ax, n in zip(axes[0], ns, strict=True):
        models = chosen_against_accuracy(replicates, accuracy, n)
        r = accuracy_gold_correlation(models)
        ax.plot(100 * models.accuracy, models.gold, ".", color=LOOKS["single"].color, ms=4, alpha=0.5)
        dotted(ax, x=0, y=0)
        ax.set_title(f"n = {n:,}: r = {r['corr']:.2f}", loc="left", fontsize=9.5)
        ax.set_xlabel("accuracy (points)", fontsize=9)
        said.append(f"{r['corr']:.2f} [{r.low:.2f}, {r.high:.2f}] at n = {n:,}")
    axes[0, 0].set_ylabel("gold chosen", fontsize=9)
    return Figure(fig, f"Correlation of accuracy and gold among single models: {'; '.join(said)}.", "tell")


def agreement(table: pd.DataFrame) -> Figure:
    """How alike two members are on held-out pairs, in the pool, and in their errors there."""
    fig, ax = canvas(width=4.9, height=3.4)
    columns = {
        "corr_heldout": ("held-out pairs", "full"),
        "corr_pool": ("all answers to a prompt", "left"),
        "corr_error": ("their errors", "none"),
    }
    names = {
        "heads 5": "two of 5 heads",
        "heads 3": "two of 3 heads",
        "finetune": "two finetuning seeds",
        "pretrain": "two pretraining seeds",
    }
    relations = [r for r in names if (table.relation == r).any()]
    for y, relation in enumerate(relations):
        look, pairs = LOOKS[relation.split()[0]], pick(table, relation=relation)
        for shift, (column, (_, fill)) in zip((0.22, 0.0, -0.22), columns.items(), strict=True):
            style = {"color": look.color, "fillstyle": fill, "markerfacecoloralt": "none"}
            faint = min(0.35, 20 / len(pairs))  # hundreds of pairs lie on each other
            ax.plot(pairs[column], np.full(len(pairs), y + shift), "|", color=look.color, alpha=faint, ms=7)
            ax.plot([pairs[column].mean()], [y + shift], look.marker, ms=8, **style)
    ax.set_yticks(range(len(relations)), [names[r] for r in relations])
    ax.set_ylim(-0.6, len(relations) - 0.3)
    for label, fill in columns.values():
        ax.plot([], [], "o", color="#949494", fillstyle=fill, markerfacecoloralt="none", ms=8, label=label)
    fig.legend(loc="outside upper center", ncols=3, fontsize=8.5, frameon=False)
    dotted(ax, x=0)
    ax.set_xlabel("correlation between two members")
    means = table.groupby("relation")[list(columns)].mean()
    said = "; ".join(
        f"{names[r]} {means.corr_heldout[r]:.2f} on held-out pairs, {means.corr_error[r]:.2f} of their errors"
        for r in relations
    )
    return Figure(fig, f"Correlation between two members: {said}.", "agree")


def probes(table: pd.DataFrame) -> Figure:
    """One change in a good answer: every single model's reaction (ticks), their mean, and gold's as a number."""
    gold = pick(table, reward_model="gold").sort_values("reaction").set_index("probe")
    singles = table[table.reward_model.str.contains("/f")]
    mean = singles.groupby("probe").reaction.mean()
    fig, ax = canvas(width=4.8, height=0.8 + 0.3 * len(gold))
    look = LOOKS["single"]
    for y, probe in enumerate(reversed(gold.index)):
        reactions = singles[singles.probe == probe].reaction
        ax.plot(reactions, np.full(len(reactions), y), "|", color=look.color, alpha=0.2, ms=9)
        ax.plot([mean[probe]], [y], "s", color=look.color, ms=7, mec="white", mew=1)
        number = f"{gold.reaction[probe]:.1f}".replace("-", "−")
        end_label(ax, number, 1, y, (4, -3), ("axes fraction", "data"))
    dotted(ax, x=0)
    ax.set_yticks(range(len(gold)), list(gold.label[::-1]), fontsize=9)
    ax.set_xlabel("judges' reactions (std)", fontsize=9)
    ax.set_title("gold's", loc="right", fontsize=9)
    said = "; ".join(
        f"{gold.label[p]} gold {gold.reaction[p]:+.1f}, members {mean[p]:+.2f}" for p in gold.index
    )
    return Figure(fig, f"Reaction to one change: {said}.", "probe")


def _uniform_pick(ax: Axes, single: pd.DataFrame) -> None:
    """The level of n = 1, named at its end."""
    start_level(ax, single.gold.iloc[0])
    end_label(ax, "a uniform pick", 1.0, single.gold.iloc[0], xycoords=("axes fraction", "data"))
