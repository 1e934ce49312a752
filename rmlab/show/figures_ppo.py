"""The figures about PPO and the price of KL, drawn from the rows of the PPO study."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.show.figures_best_of_n import pick
from rmlab.show.figures_members import name
from rmlab.show.style import LOOKS, Figure, canvas

KL_AXIS = "square root of the KL from the start, k1 (nats an answer)"


def hacked(curves: pd.DataFrame, runs: pd.DataFrame, longer: int = 1) -> Figure:
    """One reward model, no price: proxy and gold against the square root of the KL, every run and their mean."""
    fig, (upper, lower) = canvas(1, 7.2, 4.8, rows=2, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    where = {"line": "single", "how": "mean", "beta": 0.0, "longer": longer}
    mean, every = pick(curves, **where), pick(runs, **where)
    x, right = _root(mean.k1), ("axes fraction", "data")
    for ax, what in ((upper, "gold"), (lower, "proxy")):
        look = LOOKS[what]
        for _, one in every.groupby("replicate"):
            ax.plot(_root(one.watched_k1), one[what], color=look.color, lw=0.8, alpha=0.6)
        ax.fill_between(x, mean[f"{what}_lo"], mean[f"{what}_hi"], color=look.color, alpha=0.15, lw=0)
        ax.plot(x, mean[what], color=look.color, ls=look.dash, marker=look.marker, ms=3)
        ax.axhline(mean[what].iloc[0], color="#111111", lw=0.9, ls=(0, (4, 3)))
        ax.annotate(look.label, (1, mean[what].iloc[-1]), (4, -3), xycoords=right, textcoords="offset points", fontsize=9, annotation_clip=False)  # fmt: skip
    at, top, end = mean.gold.idxmax(), mean.loc[mean.gold.idxmax()], mean.iloc[-1]
    upper.plot(x[at], top.gold, "o", color=LOOKS["gold"].color, ms=8)
    upper.annotate(f"peak, step {top.step:.0f}", (x[at], top.gold), (8, 6), textcoords="offset points", fontsize=9)  # fmt: skip
    upper.annotate(f"step {end.step:.0f}", (1, end.gold), (4, -14), xycoords=right, textcoords="offset points", fontsize=9, annotation_clip=False)  # fmt: skip
    upper.annotate("start", (1, mean.gold.iloc[0]), (-2, 4), xycoords=right, textcoords="offset points", fontsize=9, ha="right")  # fmt: skip
    upper.set_ylabel("gold reward")
    lower.set_ylabel("proxy (std)")
    lower.set_xlabel(KL_AXIS)
    alt = f"Under PPO gold goes from {mean.gold.iloc[0]:.2f} to a peak of {top.gold:.2f} at step {top.step:.0f} and down to {end.gold:.2f} at step {end.step:.0f}, where the KL is {end.k1:.0f} nats; the proxy rises from {mean.proxy.iloc[0]:.2f} to {end.proxy:.2f}."  # fmt: skip
    return Figure(fig, alt, f"hacked{longer}")


OPTIMISERS = {  # dash, marker, what it is called
    "best_of_n": ("-", "o", "best of n, exact KL"),
    "tilt": ((0, (5, 2)), "^", "tilted policy, exact KL"),
    "ppo": ((0, (1, 1.3)), "s", "PPO, no price, KL estimated by k1"),
}
PRICES = [("-", "s"), ((0, (5, 2)), "^"), ((0, (3, 1, 1, 1)), "D"), ((0, (1, 1.3)), "o")]  # of a nat, rising
INK = "#111111"  # the text's colour
FLOOR = 10  # effective answers a request: below, one lucky answer decides a point


def called(line: str, how: str) -> str:
    """A line and its aggregator in words: "5 finetuning seeds, min"."""
    return name(line) if line == "single" else f"{name(line)}, {how.replace('_', ' − ')}"


def axis(curves: pd.DataFrame, exact: pd.DataFrame, lines: list[tuple[str, str]]) -> Figure:
    """Gold against the root of KL: best-of-n, the tilted policy and PPO without a price, a panel a line."""
    fig, axes = canvas(len(lines), 8.6, 3.8, sharey=True, sharex=True)
    said = []
    for ax, (line, how) in zip(np.atleast_1d(axes), lines, strict=True):
        found = {
            o: pick(exact[exact.ess >= FLOOR], line=line, how=how, optimiser=o) for o in ("best_of_n", "tilt")
        }
        found["ppo"] = pick(curves, line=line, how=how, beta=0.0, longer=1).rename(columns={"k1": "kl"})
        for optimiser, some in found.items():
            dash, marker, label = OPTIMISERS[optimiser]
            color, x = LOOKS[some.kind.iloc[0]].color, _root(some.kl)
            if optimiser == "ppo":  # its KL goes back and forth, so that a band would fold over itself
                ax.vlines(x, some.gold_lo, some.gold_hi, color=color, lw=1.2, alpha=0.3)
            else:
                ax.fill_between(x, some.gold_lo, some.gold_hi, color=color, alpha=0.12, lw=0)
            ax.plot(x, some.gold, color=color, ls=dash, marker=marker, ms=3)
            said.append(
                f"{called(line, how)}, {label}: up to a KL of {some.kl.max():.1f}, "
                f"gold at most {some.gold.max():.2f} and {some.gold.iloc[-1]:.2f} at the end"
            )
        ax.axhline(found["ppo"].gold.iloc[0], color=INK, lw=0.9, ls=(0, (4, 3)))
        ax.text(0.03, 0.04, called(line, how), transform=ax.transAxes, fontsize=9)
        ax.set_xlabel("√KL (√nats)")
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("gold reward")
    for dash, marker, label in OPTIMISERS.values():
        first.plot([], [], color=INK, ls=dash, marker=marker, ms=4, label=label)
    _legend(fig, first, 3)
    return Figure(fig, "Gold against the root of KL. " + "; ".join(said) + ".", "axis")


def rivals(found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Proxy and gold against the root of KL on one pool: name -> (KL, proxy, gold); the first is a line."""
    fig, axes = canvas(2, 8.4, 3.6, sharex=True)
    for i, (label, (kl, *values)) in enumerate(found.items()):
        for ax, what, y in zip(axes, ("proxy (std)", "gold reward"), values, strict=True):
            style = {"ls": "-", "lw": 1.2} if i == 0 else {"ls": "", "marker": "oD^x+"[i - 1], "ms": 5}
            ax.plot(
                np.sqrt(kl),
                y,
                color=INK if i == 0 else LOOKS["single"].color,
                fillstyle="none",
                label=label,
                **style,
            )
            ax.set_ylabel(what)
            ax.set_xlabel("√KL (√nats), exact on the pool")
    _legend(fig, axes[0], 3)
    said = "; ".join(
        f"{label}, KL {kl[-1]:.1f}: proxy {p[-1]:.2f}, gold {g[-1]:.2f}"
        for label, (kl, p, g) in found.items()
    )
    alt = f"Proxy and gold against KL for {len(found)} optimisers. At the end of each: {said}."
    return Figure(fig, alt, "rivals")


def prices(ends: pd.DataFrame, lines: list[str], hows=("mean", "min", "mean_std")) -> Figure:
    """Gold at the end of PPO against the price of KL: a panel an aggregator, the one model in each."""
    fig, axes = canvas(len(hows), 8.6, 4.0, sharey=True)
    some = pick(ends, longer=1)
    betas, said = sorted(some.beta.unique()), []
    for ax, how in zip(axes, hows, strict=True):
        for i, line in enumerate(("single", *lines)):
            rule = "mean" if line == "single" else how
            r = pick(some, line=line, how=rule).sort_values("beta")
            look, x = LOOKS[r.kind.iloc[0]], np.arange(len(betas)) + 0.09 * (i - len(lines) / 2)
            ax.vlines(x, r.end_lo, r.end_hi, color=look.color, lw=1.2, alpha=0.6)
            ax.plot(
                x, r.end, color=look.color, ls=look.dash, lw=1.4, marker=look.marker, ms=5, label=name(line)
            )
            if line != "single" or how == hows[0]:
                said.append(f"{called(line, rule)} {', '.join(f'{e:.2f}' for e in r.end)}")
        ax.axhline(some.start.iloc[0], color=INK, lw=0.9, ls=(0, (4, 3)))
        ax.set_xticks(range(len(betas)), [f"{b:g}" for b in betas])
        ax.set_xlabel(f"{how.replace('_', ' − ')}\nprice of a nat of KL, β")
    axes[0].set_ylabel("gold at the end of PPO")
    _legend(fig, axes[0], 3)
    asked = ", ".join(f"{b:g}" for b in betas)
    return Figure(fig, f"Gold at the end for prices {asked}: {'; '.join(said)}.", "price")


def stopping(curves: pd.DataFrame, lines: list[tuple[str, str]]) -> Figure:
    """Gold against the root of KL at every price, a panel a line: is a price the same as stopping early?"""
    fig, axes = canvas(len(lines), 8.6, 3.9, sharey=True, sharex=True)
    said = []
    for ax, (line, how) in zip(np.atleast_1d(axes), lines, strict=True):
        some = pick(curves, line=line, how=how, longer=1)
        for (beta, r), (dash, marker) in zip(some.groupby("beta"), PRICES, strict=False):
            color, x = LOOKS[r.kind.iloc[0]].color, _root(r.k1)
            ax.plot(x, r.gold, color=color, ls=dash, lw=1.3)
            ax.plot(x.iloc[-1:], r.gold.iloc[-1:], marker, color=color, ms=7, ls="")
            ax.annotate(
                f"β = {beta:g}",
                (x.iloc[-1], r.gold.iloc[-1]),
                (7, 3),
                textcoords="offset points",
                fontsize=9,
                annotation_clip=False,
            )
            end = f"gold {r.gold.iloc[-1]:.2f} at a KL of {r.k1.iloc[-1]:.1f}"
            said.append(f"{called(line, how)} at {beta:g}: {end}")
        ax.axhline(some.gold.iloc[0], color=INK, lw=0.9, ls=(0, (4, 3)))
        ax.text(0.03, 0.04, called(line, how), transform=ax.transAxes, fontsize=9)
        ax.set_xlabel("√KL (√nats), k1")
        ax.margins(x=0.12)
    np.atleast_1d(axes)[0].set_ylabel("gold reward")
    return Figure(fig, "Where each price ends: " + "; ".join(said) + ".", "stop")


def at_kl(kl, values, nats: float) -> float:
    """The value where a curve's KL first reaches `nats`, straight between points; NaN where it never does."""
    kl, values = np.asarray(kl), np.asarray(values)
    later = np.flatnonzero(kl >= nats)
    if not len(later):
        return np.nan
    i = max(later[0], 1)
    return float(np.interp(nats, kl[i - 1 : i + 1], values[i - 1 : i + 1]))


def same_price(ends: pd.DataFrame, gold: float) -> float:
    """The lowest price at which one model's PPO ends with this much gold, between prices by a straight line.

    0 where it needs none, infinity where no price of the study is enough.
    """
    r = pick(ends, line="single", how="mean", longer=1).sort_values("beta")
    beta, end = r.beta.to_numpy(), np.maximum.accumulate(r.end.to_numpy())
    if gold > end[-1]:
        return np.inf
    i = max(int(np.argmax(end >= gold)), 1)
    return float(np.interp(gold, end[i - 1 : i + 1], beta[i - 1 : i + 1]))


def exchange(ends: pd.DataFrame, lines: list[str], hows=("mean", "min", "mean_std")) -> Figure:
    """The price on one model that buys as much gold as an ensemble without one, and what its band becomes."""
    some, most = pick(ends, longer=1, beta=0.0), float(ends.beta.max())
    fig, ax = canvas(width=7.6, height=1.2 + 0.27 * len(lines) * len(hows))
    rows, said, furthest = [(line, how) for how in hows for line in lines], [], 0.0
    for y, (line, how) in enumerate(reversed(rows)):
        r = pick(some, line=line, how=how).iloc[0]
        low, at, high = (same_price(ends, g) for g in (r.end_lo, r.end, r.end_hi))
        look, furthest = LOOKS[r.kind], max(furthest, high)
        ax.plot([low, min(high, most)], [y, y], "-", color=look.color, lw=1.6)
        ax.plot([min(at, most)], [y], look.marker, color=look.color, ms=6)
        if at > most:
            ax.annotate(
                "more than the study has",
                (most, y),
                (8, -3),
                textcoords="offset points",
                fontsize=8,
                annotation_clip=False,
            )
        said.append(f"{called(line, how)} {at:.3f}")
    ax.axvline(0, color=INK, lw=0.8, ls=":")
    ax.set_yticks(range(len(rows)), [called(*x) for x in reversed(rows)], fontsize=8.5)
    ax.set_xlim(-0.02 * most, min(most, 1.15 * furthest))
    ax.set_xlabel("price of a nat on one model that ends with the same gold, β")
    alt = f"Price on one model worth as much as the ensemble: {'; '.join(reversed(said))}."
    return Figure(fig, alt, "worth")


def far(curves: pd.DataFrame, usual: int) -> Figure:
    """The long runs: gold against the step, marked where the usual run ends; the KL where the long one does."""
    fig, ax = canvas(height=4.0)
    some, said, ends = pick(curves[curves.longer > 1], beta=0.0), [], []
    for (line, how), r in some.groupby(["line", "how"], sort=False):
        look, both = LOOKS[r.kind.iloc[0]], r.iloc[[r.step.to_numpy().searchsorted(usual), -1]]
        ax.fill_between(r.step, r.gold_lo, r.gold_hi, color=look.color, alpha=0.12, lw=0)
        ax.plot(r.step, r.gold, color=look.color, ls=look.dash, lw=1.6)
        ax.plot(both.step, both.gold, look.marker, color=look.color, ms=8, ls="", label=called(line, how))
        ends.append((both.gold.iloc[1], f"{both.k1.iloc[1]:.0f} nats"))
        told = (f"gold {x.gold:.2f} at step {x.step}, {x.k1:.0f} nats" for x in both.itertuples())
        said.append(f"{called(line, how)}: {' and '.join(told)}")
    floor, apart = -np.inf, 0.07 * np.ptp(some[["gold_lo", "gold_hi"]].to_numpy())
    for gold, label in sorted(ends):  # from below, none on another
        floor = max(gold, floor + apart)
        ax.annotate(
            label,
            (some.step.max(), floor),
            (9, -3),
            textcoords="offset points",
            fontsize=9,
            annotation_clip=False,
        )
    ax.axhline(some.gold.iloc[0], color=INK, lw=0.9, ls=(0, (4, 3)))
    ax.axvline(usual, color=INK, lw=0.8, ls=":")
    ax.annotate(
        "the other runs end here",
        (usual, 0),
        (4, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=9,
    )
    ax.set_ylabel("gold reward")
    ax.set_xlabel("step of PPO")
    _legend(fig, ax, 3)
    return Figure(fig, "Four times as long. " + "; ".join(said) + ".", "far")


def _legend(fig, ax, columns: int) -> None:
    fig.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        fontsize=8.5,
        frameon=False,
    )


def _root(kl: pd.Series) -> pd.Series:
    return np.sqrt(kl.clip(lower=0))
