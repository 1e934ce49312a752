"""The figures about where members come from and whether they differ, drawn from the rows of the constructions study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rmlab.reward.methods import METHODS
from rmlab.show.figures import INK, dotted, interval, legend, limits, pick
from rmlab.show.style import LOOKS, Figure, canvas, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {  # of ensembles whose name is not their method and their number of members
    "single": "one model",
    "single_1_epoch": "one model, 1 epoch",
    "single_3_epochs": "one model, 3 epochs",
    "finetune3_1_epoch": "3 finetuning seeds, 1 epoch",
    "finetune3_3_epochs": "3 finetuning seeds, 3 epochs",
    "heads3_1_epoch": "3 heads, 1 epoch",
    "heads3_3_epochs": "3 heads, 3 epochs",
    "heads5_bootstrap": "5 heads, bootstrap",
    "heads5_anchor": "5 heads, anchored",
    "heads5_l2": "5 heads, L2",
    "heads5_init_x10": "5 heads, initialised 10x larger",
    "heads5_mlp": "5 heads with a hidden layer",
    "frozen5_none": "5 frozen heads, no penalty",
    "frozen5_l2": "5 frozen heads, L2",
    "frozen5_l2_early": "5 frozen heads, L2, 2 epochs",
    "frozen5_anchor": "5 frozen heads, anchored",
    "frozen5_bootstrap": "5 frozen heads, L2, bootstrap",
    "frozen5_anchor_bootstrap": "5 frozen heads, both",
    "lora5_two_stage": "5 LoRA adapters, two stages",
    "lora5_top": "5 LoRA adapters, last layer",
    "average5": "weight average of 5",
    "average5_probed": "weight average of 5, probed head",
    "mixed9": "finetuning + pretraining seeds",
    "mixed15": "seeds + heads + LoRA",
    "grid15": "5 x 3 grid of seeds",
    "grid25": "5 x 5 grid of seeds",
}


def name(ensemble: str) -> str:
    """An ensemble in words: "lora5" -> "5 LoRA adapters"; one whose name is not its method's is called by that name."""
    method = ensemble.rstrip("0123456789")
    if method in METHODS and ensemble not in NAMES:
        return f"{ensemble[len(method) :]} {LOOKS[method].label}"
    return NAMES.get(ensemble, ensemble)


def called(ensemble: str, aggregator: str) -> str:
    """An ensemble and its aggregator in words: "5 finetuning seeds, min"."""
    return name(ensemble) if ensemble == "single" else f"{name(ensemble)}, {aggregator.replace('_', ' − ')}"


def cost(
    curves: pd.DataFrame,
    costs: pd.DataFrame,
    names: Sequence[str],
    aggregator: str = "mean",
    n: int | None = None,
) -> Figure:
    """What an ensemble costs to train and to score, in single models, and how much gold it gains over one at n.

    n : of best-of-n, or the largest there is
    """
    fig, axes = canvas(1, 4.4, 5.6, rows=2, sharex=True)
    most = int(curves.pressure.max()) if n is None else n
    end = pick(curves, aggregator=aggregator, pessimism="paper", pressure=most).set_index("ensemble")
    costs = costs.set_index("ensemble")
    for ax, stage in zip(axes, ("train", "score"), strict=True):
        times = costs[f"{stage}_seconds_x"]
        for x in names:
            r, look = end.loc[x], look_of(x, end.method[x])
            ax.plot([times[x], times[x]], limits(r, "gain"), "-", color=look.color, lw=1.2, alpha=0.6)
            ax.plot([times[x]], [r.gain], ls="", ms=8, label=name(x), **look.mark)
        dotted(ax, y=0)
        ax.set_xscale("log", base=2)
        ticks = 2.0 ** np.arange(0, np.ceil(np.log2(times[list(names)].max())) + 0.1)
        ax.set_xticks(ticks, [f"{t:g}x" for t in ticks])
        ax.minorticks_off()
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(f"time to {stage}, in single models", fontsize=9)
        ax.set_ylabel(f"gold gained, n = {most:,}", fontsize=9)
    legend(fig, axes[0], 2)
    said = "; ".join(
        f"{name(x)} {end.gain[x]:+.2f} for {costs.train_seconds_x[x]:.1f} times the training "
        f"and {costs.score_seconds_x[x]:.1f} times the scoring"
        for x in names
    )
    return Figure(fig, f"Gold gained against cost: {said}.", "price")


def effective(table: pd.DataFrame, series: dict[str, list[str]], column: str = "effective_error") -> Figure:
    """Members paid for against members that differ: series is method -> ensembles of growing K.

    Bands are 95%, Student's t over replicates, within 1 and K; there are none for a single replicate.
    """
    fig, ax = canvas(height=4.0)
    table = table.set_index("ensemble")
    ks = sorted({int(table.k[x]) for names in series.values() for x in names})
    most = ks[-1]
    ax.plot([1, most], [1, most], color=INK, lw=0.8, ls=":")
    ax.annotate("all different", (most, most), (-14, 0), textcoords="offset points", fontsize=9, ha="right")
    said = []
    for method, names in series.items():
        r, look = table.loc[names], LOOKS[method]
        half = student.ppf(0.975, (r.units - 1).clip(lower=1)) * r[f"{column}_se"]
        low, high = (r[column] - half).clip(lower=1), np.minimum(r[column] + half, r.k)
        ax.fill_between(r.k, low, high, color=look.color, alpha=0.15, lw=0)
        ax.plot(r.k, r[column], color=look.color, ls=look.dash, marker=look.marker, label=look.label)
        said.append(f"{names[-1]} {r[column].iloc[-1]:.1f}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(ks, ks)
    ax.set_yticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
    ax.minorticks_off()
    ax.set_xlabel("members paid for, K")
    ax.set_ylabel("effective members")
    legend(fig, ax, len(series))
    return Figure(fig, f"Effective members: {'; '.join(said)}.", "eff")


def diversity(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """How alike the members of each ensemble are: on held-out margins, and in their errors on a pool's answers.

    Rows of before errors were measured have `corr_tail` instead, the scores' correlation on each prompt's best answers.
    """
    fig, ax = canvas(width=7.6, height=0.8 + 0.27 * len(names))
    table = table.set_index("ensemble")
    other, words = "corr_error", "errors on a pool's answers"
    if other not in table:
        other, words = "corr_tail", "the best answers to each prompt"
    fills = {"corr_margin": "full", other: "none"}
    for y, x in enumerate(reversed(names)):
        r, look = table.loc[x], look_of(x, table.method[x])
        ax.plot([r[other], r.corr_margin], [y, y], "-", color=look.color, lw=1.2, alpha=0.6)
        for column, fill in fills.items():
            ax.plot([r[column]], [y], look.marker, color=look.color, ms=7, fillstyle=fill)
    _ensembles_axis(ax, names)
    labels = ("held-out pairs", words)
    for label, fill in zip(labels, fills.values(), strict=True):
        ax.plot([], [], "o", color="#949494", fillstyle=fill, ms=7, label=label)
    fig.legend(loc="outside upper center", ncols=2, fontsize=8.5, frameon=False)
    dotted(ax, x=1)
    dotted(ax, x=0)
    ax.set_xlabel("mean correlation between two members (1: copies)")
    said = "; ".join(f"{name(x)} {table.corr_margin[x]:.2f} and {table[other][x]:.2f}" for x in names)
    alt = f"Correlation between members, {labels[0]} and {words}: {said}."
    return Figure(fig, alt, "diverse")


def gains(
    curves: pd.DataFrame, names: Sequence[str], columns: Sequence[tuple[str, str]], n: int | None = None
) -> Figure:
    """Gold gained over the single model at n, or the largest there is, with 95% bands; a panel an (aggregator, pessimism)."""
    n = int(curves.pressure.max()) if n is None else n
    fig, axes = canvas(len(columns), 8.4, 1.1 + 0.24 * len(names), sharey=True, sharex=True)
    axes = np.atleast_1d(axes)
    k = curves.groupby("ensemble").k.first()
    said = []
    for ax, (aggregator, pessimism) in zip(axes, columns, strict=True):
        end = pick(curves, aggregator=aggregator, pessimism=pessimism, pressure=n).set_index("ensemble")
        for y, x in enumerate(reversed(names)):
            if x not in end.index:
                absent = "one model" if k[x] == 1 else "no penalty to match"
                ax.annotate(absent, (0, y), (3, 0), textcoords="offset points", fontsize=7, va="center")
                continue
            r = end.loc[x]
            low, high = limits(r, "gain")
            interval(ax, y, low, r.gain, high, look_of(x, r.method))
            said.append(f"{name(x)} {aggregator} {pessimism} {r.gain:+.2f}")
        dotted(ax, x=0)
        matched = ", equal penalty" if pessimism == "matched" else ""
        ax.set_xlabel(f"{aggregator.replace('_', ' − ')}{matched}\ngold gained, n = {n:,}")
    _ensembles_axis(axes[0], names)
    return Figure(fig, f"Gold gained over one model at n = {n}: {'; '.join(said)}.", "win")


def _ensembles_axis(ax: Axes, names: Sequence[str]) -> None:
    """Ensembles by name, from the top."""
    ax.set_yticks(range(len(names)), [name(x) for x in reversed(names)], fontsize=8.5)
