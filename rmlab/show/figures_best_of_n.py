"""Every figure of the book, drawn from rows. No torch here: figures read tables, never models."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.show.style import LOOKS, Figure, canvas, n_axis

KL_LABEL = "KL from the policy, log n − (n−1)/n, upper bound (nats)"


def pick(table: pd.DataFrame, **where) -> pd.DataFrame:
    """The rows in which every named column has the given value."""
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def overoptimisation(curves: pd.DataFrame, own: pd.DataFrame | None = None) -> Figure:
    """The proxy climbs, gold peaks and falls: one reward model, mean over all of the study's."""
    fig, (upper, lower) = canvas(1, 7.2, 4.8, rows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1.5]})
    one = pick(curves, construction="single")
    band(upper, one, "gold", LOOKS["gold"], "gold: what it was worth")
    band(lower, one, "proxy", LOOKS["proxy"], "proxy: what was optimised")
    start_line(upper, one)
    _peak(upper, one)
    if own is not None:
        mine = pick(own, construction="single")
        _line(upper, mine, "gold", LOOKS["you"], "your run")
        _line(lower, mine, "proxy", LOOKS["you"], "")
    upper.set_ylabel("gold reward")
    lower.set_ylabel("proxy (std)")
    lower.set_xlabel(KL_LABEL)
    n_axis(upper, one.n)
    top, end = one.loc[one.gold.idxmax()], one.iloc[-1]
    alt = (
        f"Gold reward against KL: from {one.gold.iloc[0]:.2f} at n = 1 up to {top.gold:.2f} at n = {top.n}, then down to "
        f"{end.gold:.2f} at n = {end.n}. Below, the proxy rises all the way, from {one.proxy.iloc[0]:.2f} to {end.proxy:.2f}."
    )
    return Figure(fig, alt, "over")


def constructions(curves: pd.DataFrame, aggregators=("mean", "min")) -> Figure:
    """Gold against KL for each construction, one panel an aggregator, with the single model in both."""
    fig, axes = canvas(len(aggregators), 8.4, 3.9, sharey=True)
    one = pick(curves, construction="single")
    for ax, how in zip(np.atleast_1d(axes), aggregators, strict=True):
        band(ax, one, "gold", LOOKS["single"], "single")
        for name, k in _families(curves):
            some = pick(curves, construction=name, k=k, aggregator=how)
            band(ax, some, "gold", LOOKS[name], f"{k} {LOOKS[name].label}")
        start_line(ax, one)
        n_axis(ax, one.n)
        ax.set_xlabel("KL, upper bound (nats)")
        ax.text(0.02, 0.03, f"aggregator: {how}", transform=ax.transAxes, weight="bold")
    np.atleast_1d(axes)[0].set_ylabel("gold reward")
    lines, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5, frameon=False)
    end = pick(curves, n=curves.n.max())
    said = "; ".join(f"{r.construction} {r.k} {r.aggregator} {r.gold:.2f}" for r in end.itertuples() if r.aggregator in aggregators and r.construction != "oracle")  # fmt: skip
    return Figure(
        fig, f"Gold reward against KL for every construction. At n = {curves.n.max()}: {said}.", "cons"
    )


def transfer(table: pd.DataFrame) -> Figure:
    """The winner of one model, judged by itself, its siblings, its cousins and gold."""
    fig, ax = canvas(height=4.0)
    looks = {"self": (LOOKS["single"], "by itself"), "finetune": (LOOKS["finetune"], "by other finetuning seeds"),
             "pretrain": (LOOKS["pretrain"], "by other pretraining seeds"), "gold": (LOOKS["gold"], "by gold")}  # fmt: skip
    for judge, (look, label) in looks.items():
        some = pick(table, judge=judge)
        if len(some):
            band(ax, some, "z", look, label)
    ax.axhline(0, color="#111111", lw=0.8, ls=":")
    ax.set_xlabel(KL_LABEL)
    ax.set_ylabel("judged score (std)")
    n_axis(ax, table.n.unique())
    end = table[table.n == table.n.max()].set_index("judge").z
    return Figure(fig, f"Standardised score of one model's winner at n = {table.n.max()}: " + ", ".join(f"{j} {z:.2f}" for j, z in end.items()) + ".", "trans")  # fmt: skip


def agreement(table: pd.DataFrame) -> Figure:
    """How alike two members are on held-out pairs, in the pool, and at its top."""
    fig, ax = canvas(height=3.2)
    where = {
        "corr_heldout": "held-out pairs",
        "corr_pool": "all answers to a prompt",
        "corr_tail": "its 64 best",
    }
    relations = [r for r in ("heads 5", "heads 3", "finetune", "pretrain") if (table.relation == r).any()]
    for y, relation in enumerate(relations):
        look = LOOKS[relation.split()[0]]
        some = table[table.relation == relation]
        for shift, (column, fill) in zip(
            (0.22, 0.0, -0.22), zip(where, ("full", "left", "none"), strict=True), strict=True
        ):
            ax.plot(some[column], np.full(len(some), y + shift), "|", color=look.color, alpha=0.35, ms=7)
            ax.plot(
                [some[column].mean()],
                [y + shift],
                look.marker,
                color=look.color,
                ms=8,
                fillstyle=fill,
                markerfacecoloralt="none",
            )
    names = {
        "finetune": "two finetuning seeds",
        "pretrain": "two pretraining seeds",
        "heads 3": "two of 3 heads",
        "heads 5": "two of 5 heads",
    }
    ax.set_yticks(range(len(relations)), [names[r] for r in relations])
    ax.set_ylim(-0.6, len(relations) - 0.3)
    for label, fill in zip(where.values(), ("full", "left", "none"), strict=True):
        ax.plot([], [], "o", color="#949494", fillstyle=fill, markerfacecoloralt="none", ms=8, label=label)
    fig.legend(loc="outside upper center", ncols=3, fontsize=8.5, frameon=False)
    ax.axvline(0, color="#111111", lw=0.8, ls=":")
    ax.set_xlabel("correlation between two members")
    means = table.groupby("relation")[list(where)].mean()
    alt = "Correlation between two members: " + "; ".join(f"{names[r]} {means.loc[r, 'corr_heldout']:.2f} on held-out pairs, {means.loc[r, 'corr_tail']:.2f} among the best" for r in relations) + "."  # fmt: skip
    return Figure(fig, alt, "agree")


def gains(
    curves: pd.DataFrame, ns=(16, 256, 4096), aggregators=("mean", "median", "min", "mean_std", "uwo")
) -> Figure:
    """Gold minus the single models', paired, with 95% bands: does an ensemble help, and where?"""
    ns = [n for n in ns if n in set(curves.n)]
    fig, axes = canvas(len(ns), 8.4, 4.2, sharey=True)
    lines = [(name, k, how) for name, k in _families(curves) for how in aggregators]
    for ax, n in zip(np.atleast_1d(axes), ns, strict=True):
        for y, (name, k, how) in enumerate(reversed(lines)):
            r = pick(curves, construction=name, k=k, aggregator=how, n=n).iloc[0]
            look = LOOKS[name]
            ax.plot([r.gain_lo, r.gain_hi], [y, y], "-", color=look.color, lw=1.6)
            ax.plot([r.gain], [y], look.marker, color=look.color, ms=6)
        ax.axvline(0, color="#111111", lw=0.8, ls=":")
        ax.set_xlabel(f"gold gained over single\nat n = {n:,}")
    labels = [f"{k} {LOOKS[name].label}: {how.replace('_', ' − ')}" for name, k, how in reversed(lines)]
    np.atleast_1d(axes)[0].set_yticks(range(len(lines)), labels, fontsize=8)
    last = pick(curves, n=ns[-1])
    said = "; ".join(
        f"{r.construction} {r.k} {r.aggregator} {r.gain:+.2f}"
        for r in last.itertuples()
        if (r.construction, r.k, r.aggregator) in set(lines)
    )
    return Figure(fig, f"Paired gold gain over single models at n = {ns[-1]}: {said}.", "gains")


def probes(table: pd.DataFrame) -> Figure:
    """One change in a good answer: gold's reaction, and every member's, as a share of their spread."""
    fig, (left, right) = canvas(2, 8.4, 3.8, sharey=True, gridspec_kw={"width_ratios": [1, 1.6]})
    gold = pick(table, judge="gold")
    order = list(gold.sort_values("reaction").probe)
    labels = dict(zip(gold.probe, gold.label, strict=True))
    singles = table[table.judge.str.contains("/f")]
    for y, probe in enumerate(reversed(order)):
        left.barh(y, gold[gold.probe == probe].reaction.iloc[0], color=LOOKS["gold"].color, height=0.55)
        seen = singles[singles.probe == probe].reaction
        right.plot(seen, np.full(len(seen), y), "|", color=LOOKS["single"].color, alpha=0.5, ms=9)
        right.plot([seen.mean()], [y], "s", color=LOOKS["single"].color, ms=6)
    for ax, label in ((left, "gold's reaction (gold units)"), (right, "members' reactions (std)")):
        ax.axvline(0, color="#111111", lw=0.8, ls=":")
        ax.set_xlabel(label)
    left.set_yticks(range(len(order)), [labels[p] for p in reversed(order)])
    mean = singles.groupby("probe").reaction.mean()
    alt = "Reaction to one change: " + "; ".join(f"{labels[p]} gold {gold[gold.probe == p].reaction.iloc[0]:+.1f}, members {mean[p]:+.2f}" for p in order) + "."  # fmt: skip
    return Figure(fig, alt, "probe")


def draws(units: pd.DataFrame) -> Figure:
    """Every single reward model's gold curve, one panel a label draw, the draw's mean over them."""
    singles = pick(units, construction="single")
    every = sorted(singles.draw.unique())
    fig, axes = canvas(len(every), 8.4, 2.9, sharey=True)
    for ax, d in zip(np.atleast_1d(axes), every, strict=True):
        some = singles[singles.draw == d]
        for _, one in some.groupby("members"):
            ax.plot(np.log2(one.n), one.gold, color=LOOKS["single"].color, lw=0.7, alpha=0.45)
        mean = some.groupby("n").gold.mean()
        ax.plot(np.log2(mean.index), mean, color=LOOKS["gold"].color, lw=2.4)
        ax.set_xticks(np.log2(mean.index)[::3], [f"{n:,}" for n in mean.index[::3]])
        ax.set_xlabel(f"n (label draw {d})")
    np.atleast_1d(axes)[0].set_ylabel("gold reward")
    ends = singles[singles.n == singles.n.max()].groupby("draw").gold.mean()
    return Figure(fig, "Gold curves of every single model by label draw; mean gold at the largest n: " + ", ".join(f"draw {d} {g:.2f}" for d, g in ends.items()) + ".", "draws")  # fmt: skip


def sight(table: pd.DataFrame) -> Figure:
    """Reaction to an answer whose every fact is wrong, by size and number of clean pairs."""
    fig, ax = canvas(height=3.4)
    looks = list(LOOKS.values())
    for i, ((hidden, layers), some) in enumerate(table.groupby(["hidden", "layers"])):
        look = looks[1 + 2 * i] if i < 3 else looks[-1]
        mean = some.groupby("pairs").wrong.mean()
        label = f"{some.parameters.iloc[0] / 1e6:.2f} M parameters ({hidden} × {layers})"
        ax.plot(some.pairs, some.wrong, look.marker, color=look.color, alpha=0.4, ms=5)
        ax.plot(mean.index, mean, look.marker, ls=look.dash, color=look.color, label=label)
    ax.axhline(0, color="#111111", lw=0.8, ls=":")
    ax.set_xscale("log")
    ax.set_xticks(sorted(table.pairs.unique()), [f"{p:,}" for p in sorted(table.pairs.unique())])
    ax.minorticks_off()
    ax.set_xlabel("clean preference pairs")
    ax.set_ylabel("reaction to every fact wrong (std)")
    ax.legend(fontsize=8, frameon=False)
    mean = table.groupby(["hidden", "layers", "pairs"]).wrong.mean()
    return Figure(fig, "Mean reaction to wrong facts: " + "; ".join(f"{h} x {n} on {p} pairs {x:+.2f}" for (h, n, p), x in mean.items()) + ".", "sight")  # fmt: skip


def _families(curves: pd.DataFrame) -> list[tuple[str, int]]:
    some = curves[~curves.construction.isin(["single", "oracle", "pretrain_all"])]
    order = {"finetune": 0, "pretrain": 1, "heads": 2}
    return sorted(set(zip(some.construction, some.k, strict=True)), key=lambda x: (order[x[0]], x[1]))


def _line(ax, some: pd.DataFrame, what: str, look, label: str) -> None:
    ax.plot(some.kl, some[what], color=look.color, ls=look.dash, label=label)
    if label:
        ax.annotate(
            label,
            (some.kl.iloc[-1], some[what].iloc[-1]),
            (6, -3),
            textcoords="offset points",
            fontsize=9,
            annotation_clip=False,
        )


def band(ax, some: pd.DataFrame, what: str, look, label: str) -> None:
    ax.fill_between(some.kl, some[f"{what}_lo"], some[f"{what}_hi"], color=look.color, alpha=0.15, lw=0)
    ax.plot(some.kl, some[what], color=look.color, ls=look.dash, label=label, marker=look.marker, ms=3)
    if what != "gold" or look is LOOKS["gold"]:
        ax.annotate(
            label,
            (some.kl.iloc[-1], some[what].iloc[-1]),
            (6, -3),
            textcoords="offset points",
            fontsize=9,
            annotation_clip=False,
        )


def start_line(ax, some: pd.DataFrame) -> None:
    ax.axhline(some.gold.iloc[0], color="#111111", lw=0.9, ls=(0, (4, 3)))
    ax.annotate(
        "a uniform pick",
        (some.kl.iloc[-1], some.gold.iloc[0]),
        (6, -3),
        textcoords="offset points",
        fontsize=9,
        annotation_clip=False,
    )


def _peak(ax, some: pd.DataFrame) -> None:
    top = some.loc[some.gold.idxmax()]
    ax.plot([top.kl], [top.gold], "o", color=LOOKS["gold"].color, ms=8)
    ax.annotate(
        f"peak, n = {top.n}", (top.kl, top.gold), (0, 9), textcoords="offset points", ha="center", fontsize=9
    )
