"""The figures about where members come from and whether they differ, drawn from the rows of the constructions study."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.show.figures_best_of_n import pick
from rmlab.show.style import LOOKS, Figure, canvas

NAMES = {  # of lines, in words
    "single": "one model", "single_1_epoch": "one model, 1 epoch", "single_3_epochs": "one model, 3 epochs",
    "finetune3_1_epoch": "3 finetuning seeds, 1 epoch", "finetune3_3_epochs": "3 finetuning seeds, 3 epochs",
    "heads3_1_epoch": "3 heads, 1 epoch", "heads3_3_epochs": "3 heads, 3 epochs", "heads5_bootstrap": "5 heads, bootstrap",
    "heads5_anchor": "5 heads, anchored", "heads5_l2": "5 heads, L2", "heads5_init_x10": "5 heads, initialised 10x larger",
    "heads5_mlp": "5 heads with a hidden layer", "frozen5_none": "5 frozen heads, no penalty", "frozen5_l2": "5 frozen heads, L2",
    "frozen5_l2_early": "5 frozen heads, L2, 2 epochs", "frozen5_anchor": "5 frozen heads, anchored",
    "frozen5_bootstrap": "5 frozen heads, L2, bootstrap", "frozen5_anchor_bootstrap": "5 frozen heads, both",
    "lora5_two_stage": "5 LoRA adapters, two stages", "lora5_top": "5 LoRA adapters, last layer",
    "average5": "weight average of 5", "average5_probed": "weight average of 5, probed head",
    "mixed9": "finetuning + pretraining seeds", "mixed15": "seeds + heads + LoRA", "grid25": "5 x 5 grid of seeds",
}  # fmt: skip


def name(line: str) -> str:
    """A line in words: "lora5" -> "5 LoRA adapters"."""
    kind = line.rstrip("0123456789")
    return NAMES.get(line) or f"{line[len(kind) :]} {LOOKS[kind].label}"


def price(league: pd.DataFrame, costs: pd.DataFrame, lines: list[str], how: str = "mean") -> Figure:
    """What a construction costs to train and to score, in single models, and how much gold it gains over one."""
    fig, axes = canvas(2, 8.4, 4.0, sharey=True)
    end = pick(league, aggregator=how, pessimism="paper", n=league.n.max()).set_index("name")
    costs = costs.set_index("name")
    for ax, what, label in zip(
        axes, ("train_seconds_x", "score_seconds_x"), ("training", "scoring"), strict=True
    ):
        for x in lines:
            r, look, cost = end.loc[x], LOOKS[end.loc[x].kind], costs.loc[x, what]
            ax.plot([cost, cost], [r.gain_lo, r.gain_hi], "-", color=look.color, lw=1.2, alpha=0.6)
            ax.plot([cost], [r.gain], look.marker, color=look.color, ms=8, label=name(x))
        ax.axhline(0, color="#111111", lw=0.8, ls=":")
        ax.set_xscale("log", base=2)
        ticks = 2.0 ** np.arange(0, np.ceil(np.log2(costs.loc[lines, what].max())) + 0.1)
        ax.set_xticks(ticks, [f"{t:g}x" for t in ticks])
        ax.minorticks_off()
        ax.set_xlabel(f"{label} time, in single models")
    axes[0].set_ylabel(f"gold gained over one model, n = {league.n.max():,}")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    said = "; ".join(f"{name(x)} {end.gain[x]:+.2f} for {costs.train_seconds_x[x]:.1f} times the training and {costs.score_seconds_x[x]:.1f} times the scoring" for x in lines)  # fmt: skip
    return Figure(fig, f"Gold gained against cost: {said}.", "price")


def effective(members: pd.DataFrame, series: dict[str, list[str]], column: str = "effective_tail") -> Figure:
    """Members paid for against members that differ: series is kind -> lines of growing K."""
    fig, ax = canvas(height=4.0)
    table = members.set_index("name")
    most = max(table.k[x] for some in series.values() for x in some)
    ax.plot([1, most], [1, most], color="#111111", lw=0.8, ls=":")
    ax.annotate("all different", (most, most), (-14, 0), textcoords="offset points", fontsize=9, ha="right")
    said = []
    for kind, some in series.items():
        r, look = table.loc[some], LOOKS[kind]
        low, high = (r[column] + s * 1.96 * r[f"{column}_se"] for s in (-1, 1))
        ax.fill_between(r.k, low, high, color=look.color, alpha=0.15, lw=0)
        ax.plot(r.k, r[column], color=look.color, ls=look.dash, marker=look.marker, label=look.label)
        said.append(f"{some[-1]} {r[column].iloc[-1]:.1f}")
    ks = sorted({int(table.k[x]) for some in series.values() for x in some})
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(ks, ks)
    ax.set_yticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
    ax.minorticks_off()
    ax.set_xlabel("members paid for, K")
    ax.set_ylabel("effective members")
    fig.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(series),
        fontsize=8.5,
        frameon=False,
    )
    return Figure(fig, "Effective members: " + "; ".join(said) + ".", "eff")


def diversity(members: pd.DataFrame, lines: list[str]) -> Figure:
    """How alike the members of each line are: on held-out margins, and on the answers they would pick."""
    fig, ax = canvas(width=7.6, height=0.8 + 0.27 * len(lines))
    table = members.set_index("name")
    for y, x in enumerate(reversed(lines)):
        r = table.loc[x]
        look = LOOKS[r.kind]
        ax.plot([r.corr_tail, r.corr_margin], [y, y], "-", color=look.color, lw=1.2, alpha=0.6)
        for column, fill in (("corr_margin", "full"), ("corr_tail", "none")):
            ax.plot([r[column]], [y], look.marker, color=look.color, ms=7, fillstyle=fill)
    ax.set_yticks(range(len(lines)), [name(x) for x in reversed(lines)], fontsize=8.5)
    for label, fill in (("held-out pairs", "full"), ("the best answers to each prompt", "none")):
        ax.plot([], [], "o", color="#949494", fillstyle=fill, ms=7, label=label)
    fig.legend(loc="outside upper center", ncols=2, fontsize=8.5, frameon=False)
    ax.axvline(1, color="#111111", lw=0.8, ls=":")
    ax.axvline(0, color="#111111", lw=0.8, ls=":")
    ax.set_xlabel("mean correlation between two members (1: copies)")
    said = "; ".join(f"{name(x)} {table.corr_margin[x]:.2f} and {table.corr_tail[x]:.2f}" for x in lines)
    return Figure(fig, f"Correlation between members on held-out pairs and on the best answers: {said}.", "diverse")  # fmt: skip


def gains(league: pd.DataFrame, lines: list[str], columns: list[tuple[str, str]], n: int | None = None) -> Figure:  # fmt: skip
    """Gold gained over the single model, with 95% bands; a panel an (aggregator, pessimism)."""
    n = n or int(league.n.max())
    fig, axes = canvas(len(columns), 8.4, 1.1 + 0.24 * len(lines), sharey=True, sharex=True)
    said = []
    for ax, (how, pessimism) in zip(np.atleast_1d(axes), columns, strict=True):
        end = pick(league, aggregator=how, pessimism=pessimism, n=n).set_index("name")
        for y, x in enumerate(reversed(lines)):
            if x not in end.index:
                alone = league.k[league.name == x].iloc[0] == 1
                ax.annotate(
                    "one model" if alone else "no penalty to match",
                    (0, y),
                    (3, 0),
                    textcoords="offset points",
                    fontsize=7,
                    va="center",
                )
                continue
            r = end.loc[x]
            look = LOOKS[r.kind]
            ax.plot([r.gain_lo, r.gain_hi], [y, y], "-", color=look.color, lw=1.6)
            ax.plot([r.gain], [y], look.marker, color=look.color, ms=6)
            said.append(f"{name(x)} {how} {pessimism} {r.gain:+.2f}")
        ax.axvline(0, color="#111111", lw=0.8, ls=":")
        ax.set_xlabel(
            f"{how.replace('_', ' − ')}{', equal penalty' if pessimism == 'matched' else ''}\ngold gained, n = {n:,}"
        )
    np.atleast_1d(axes)[0].set_yticks(range(len(lines)), [name(x) for x in reversed(lines)], fontsize=8.5)
    return Figure(fig, f"Gold gained over one model at n = {n}: " + "; ".join(said) + ".", "win")


def card(costs: pd.DataFrame, members: pd.DataFrame, line: str) -> str:
    """A line's cost card as Markdown: what it takes, in single models, and what comes out."""
    c, m = costs.set_index("name").loc[line], members.set_index("name").loc[line]
    taken = ", ".join(
        f"{what} {c[f'{column}_x']:.2f}x"
        for what, column in (
            ("training", "train_seconds"), ("scoring", "score_seconds"), ("parameters", "parameters"), ("peak memory", "peak_mb")
        )
    )  # fmt: skip
    judged = f"right on {m.accuracy:.1%} of held-out pairs"
    differ = f", {m.effective:.1f} effective members of {m.k}" if m.k > 1 else ""
    return f"**{name(line)}**: {taken}; {judged}{differ}."
