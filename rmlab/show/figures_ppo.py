"""The figures about PPO and the KL penalty, drawn from the rows of the PPO study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rmlab.show.figures import INK, dotted, end_label, interval, legend, one_curve, pick, start_level, used
from rmlab.show.figures_members import called, name
from rmlab.show.style import LOOKS, NEUTRAL, Figure, canvas, look_of

KL_AXIS = "square root of the KL from the start, k1 (nats an answer)"
OPTIMISERS = {  # dash, marker, what it is called
    "best_of_n": ("-", "o", "best of n, exact KL"),
    "tilt": ((0, (5, 2)), "^", "tilted policy, exact KL"),
    "ppo": ((0, (1, 1.3)), "s", "PPO, {penalty}, KL estimated by k1"),
}
PENALTIES = [("-", "s"), ((0, (5, 2)), "^"), ((0, (3, 1, 1, 1)), "D"), ((0, (1, 1.3)), "o")]  # rising
RULES = ("mean", "min", "mean_std")
FLOOR = 10  # effective answers a prompt: below, one lucky answer decides a point


def hacked(curves: pd.DataFrame, replicates: pd.DataFrame, step_multiplier: int = 1) -> Figure:
    """One reward model, no KL penalty: proxy and gold against the square root of the KL, every run and their mean."""
    fig, (upper, lower) = canvas(1, 7.2, 4.8, rows=2, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    keys = {"ensemble": "single", "optimiser": "ppo", "kl_coef": 0.0, "step_multiplier": step_multiplier}
    mean, runs = pick(curves, **keys), pick(replicates, **keys)
    x, right = _root(mean.kl), ("axes fraction", "data")
    apart = [
        name for name in ("replicate", "members") if name in runs
    ]  # a replicate may have several single models
    for ax, quantity in ((upper, "gold"), (lower, "proxy")):
        look, y = LOOKS[quantity], mean[quantity]
        for _, run in runs.groupby(apart):
            ax.plot(_root(run.kl), run[quantity], color=look.color, lw=0.8, alpha=0.6)
        ax.fill_between(
            x, mean[f"{quantity}_low"], mean[f"{quantity}_high"], color=look.color, alpha=0.15, lw=0
        )
        ax.plot(x, y, color=look.color, ls=look.dash, marker=look.marker, ms=3)
        start_level(ax, y.iloc[0])
        end_label(ax, look.label, 1, y.iloc[-1], (4, -3), right)
    at, top, end = mean.gold.idxmax(), mean.loc[mean.gold.idxmax()], mean.iloc[-1]
    upper.plot(x[at], top.gold, "o", color=LOOKS["gold"].color, ms=8)
    peak = f"peak, step {top.pressure:.0f}"
    upper.annotate(peak, (x[at], top.gold), (8, 6), textcoords="offset points", fontsize=9)
    end_label(upper, f"step {end.pressure:.0f}", 1, end.gold, (4, -14), right)
    start = {"xycoords": right, "textcoords": "offset points", "fontsize": 9, "ha": "right"}
    upper.annotate("start", (1, mean.gold.iloc[0]), (-2, 4), **start)
    upper.set_ylabel("gold reward")
    lower.set_ylabel("proxy (std)")
    lower.set_xlabel(KL_AXIS)
    alt = (
        f"Under PPO gold goes from {mean.gold.iloc[0]:.2f} to a peak of {top.gold:.2f} at step {top.pressure:.0f} and down to "
        f"{end.gold:.2f} at step {end.pressure:.0f}, where the KL is {end.kl:.0f} nats; the proxy rises from "
        f"{mean.proxy.iloc[0]:.2f} to {end.proxy:.2f}."
    )
    return Figure(fig, alt, f"hacked{step_multiplier}")


def optimisers(curves: pd.DataFrame, judges: Sequence[tuple[str, str]], kl_coef: float = 0.0) -> Figure:
    """Gold against the root of KL: best-of-n, the tilted policy and PPO at one KL penalty, a panel a judge.

    judges : (ensemble, aggregator)
    """
    penalty = "no KL penalty" if kl_coef == 0 else f"β = {kl_coef:g}"
    fig, axes = canvas(len(judges), 8.6, 3.8, sharey=True, sharex=True)
    axes = np.atleast_1d(axes)
    said = []
    for ax, (ensemble, aggregator) in zip(axes, judges, strict=True):
        judge = called(ensemble, aggregator)
        for optimiser, (dash, marker, label) in OPTIMISERS.items():
            exact, label = optimiser != "ppo", label.format(penalty=penalty)
            curve = _reached(curves, optimiser, (ensemble, aggregator), kl_coef)
            if curve.empty:
                continue
            color, x = LOOKS[curve.method.iloc[0]].color, _root(curve.kl)
            if exact:
                ax.fill_between(x, curve.gold_low, curve.gold_high, color=color, alpha=0.12, lw=0)
            else:  # its KL goes back and forth, so that a band would fold over itself
                ax.vlines(x, curve.gold_low, curve.gold_high, color=color, lw=1.2, alpha=0.3)
            ax.plot(x, curve.gold, color=color, ls=dash, marker=marker, ms=3)
            said.append(
                f"{judge}, {label}: up to a KL of {curve.kl.max():.1f}, "
                f"gold at most {curve.gold.max():.2f} and {curve.gold.iloc[-1]:.2f} at the end"
            )
        start_level(ax, curve.gold.iloc[0])  # of PPO, the last
        ax.text(0.03, 0.04, judge, transform=ax.transAxes, fontsize=9)
        ax.set_xlabel("√KL (√nats)")
    axes[0].set_ylabel("gold reward")
    for dash, marker, label in OPTIMISERS.values():
        label = label.format(penalty=penalty)
        axes[0].plot([], [], color=INK, ls=dash, marker=marker, ms=4, label=label)
    legend(fig, axes[0], 3)
    return Figure(fig, f"Gold against the root of KL. {'; '.join(said)}.", "axis")


def rivals(reached: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Proxy and gold against the root of KL on one pool: name -> (KL, proxy, gold); the first is a line."""
    fig, axes = canvas(2, 8.4, 3.6, sharex=True)
    for i, (label, (kl, *values)) in enumerate(reached.items()):
        style = {"ls": "-", "lw": 1.2} if i == 0 else {"ls": "", "marker": "oD^x+"[i - 1], "ms": 5}
        style |= {"color": INK if i == 0 else LOOKS["single"].color, "fillstyle": "none", "label": label}
        for ax, y in zip(axes, values, strict=True):
            ax.plot(np.sqrt(kl), y, **style)
    for ax, quantity in zip(axes, ("proxy (std)", "gold reward"), strict=True):
        ax.set_ylabel(quantity)
        ax.set_xlabel("√KL (√nats), exact on the pool")
    legend(fig, axes[0], 3)
    said = "; ".join(
        f"{label}, KL {kl[-1]:.1f}: proxy {proxy[-1]:.2f}, gold {gold[-1]:.2f}"
        for label, (kl, proxy, gold) in reached.items()
    )
    alt = f"Proxy and gold against KL for {len(reached)} optimisers. At the end of each: {said}."
    return Figure(fig, alt, "rivals")


def penalties(ends: pd.DataFrame, ensembles: Sequence[str], aggregators: Sequence[str] = RULES) -> Figure:
    """Gold at the end of PPO against the KL penalty: a panel an aggregator, the one model in each; what was run is shown."""
    usual = pick(ends, step_multiplier=1)
    ran = set(zip(usual.ensemble, usual.aggregator, strict=True))
    aggregators = [rule for rule in aggregators if any((ensemble, rule) in ran for ensemble in ensembles)]
    fig, axes = canvas(len(aggregators), 2.6 + 2.0 * len(aggregators), 4.0, sharey=True, squeeze=False)
    betas, said = sorted(usual.kl_coef.unique()), []
    for ax, aggregator in zip(axes[0], aggregators, strict=True):
        for i, ensemble in enumerate(("single", *ensembles)):
            rule = "mean" if ensemble == "single" else aggregator
            if (ensemble, rule) not in ran:
                continue
            r = pick(usual, ensemble=ensemble, aggregator=rule).sort_values("kl_coef")
            x = np.array([betas.index(b) for b in r.kl_coef]) + 0.09 * (i - len(ensembles) / 2)
            look = look_of(ensemble, r.method.iloc[0])
            ax.vlines(x, r.end_low, r.end_high, color=look.color, lw=1.2, alpha=0.6)
            ax.plot(x, r.end, ls=look.dash, lw=1.4, ms=5, label=name(ensemble), **look.mark)
            if ensemble != "single" or aggregator == aggregators[0]:
                said.append(f"{called(ensemble, rule)} {', '.join(f'{e:.2f}' for e in r.end)}")
        start_level(ax, usual.start.iloc[0])
        ax.set_xticks(range(len(betas)), [f"{b:g}" for b in betas])
        ax.set_xlabel(f"{aggregator.replace('_', ' − ')}\nKL penalty per nat, β")
    axes[0, 0].set_ylabel("gold at the end of PPO")
    legend(fig, axes, 3)
    shown = ", ".join(f"{b:g}" for b in betas)
    return Figure(fig, f"Gold at the end for KL penalties {shown}: {'; '.join(said)}.", "price")


def at_penalties(
    curves: pd.DataFrame, judges: Sequence[tuple[str, str]], kl_coefs: Sequence[float], columns: int = 2
) -> Figure:
    """Gold against the root of KL under a few KL penalties: an ensemble a panel, one model in each, intervals at the ends.

    Parameters
    ----------
    curves : rows of a PPO study
    judges : (ensemble, aggregator), a panel each
    kl_coefs : the penalties; at most four, which differ by dash and marker
    columns : panels side by side; two can be read on a phone
    """
    rows = -(-len(judges) // columns)
    fig, grid = canvas(columns, 2.2 * columns, 1.0 + 1.6 * rows, rows=rows, sharex=True, sharey=True)
    axes, said = used(grid, len(judges)), []
    for i, (ax, judge) in enumerate(zip(axes, judges, strict=True)):
        for who in (("single", "mean"), judge):
            for beta, (dash, marker) in zip(kl_coefs, PENALTIES, strict=False):
                keys = {"optimiser": "ppo", "kl_coef": beta, "step_multiplier": 1}
                run = one_curve(curves, ensemble=who[0], aggregator=who[1], **keys)
                end, color = run.iloc[-1], LOOKS[run.method.iloc[0]].color
                ax.plot(_root(run.kl), run.gold, color=color, ls=dash, lw=1.3)
                x = _root(run.kl.iloc[-1:]).iloc[0]
                ax.vlines(
                    [x], end.gold_low, end.gold_high, color=color, lw=1.0 if who[0] == "single" else 1.8
                )
                ax.plot([x], [end.gold], marker, color=color, ms=6)
                said.append(
                    f"{called(*who)} at {beta:g}: {end.gold:.2f} [{end.gold_low:.2f}, {end.gold_high:.2f}] "
                    f"at a KL of {end.kl:.1f}"
                )
        start_level(ax, run.gold.iloc[0])
        ax.set_title(called(*judge), loc="left", fontsize=9.5, weight="bold")
        if i + columns >= len(judges):
            ax.set_xlabel("√KL (√nats), k1", fontsize=9)
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel("gold", fontsize=9)
    axes[0].plot([], [], color=LOOKS["single"].color, lw=3, label="one model")
    for beta, (dash, marker) in zip(kl_coefs, PENALTIES, strict=False):
        axes[0].plot([], [], color=NEUTRAL, ls=dash, marker=marker, ms=5, label=f"β = {beta:g}")
    legend(fig, axes[0], 1 + len(kl_coefs))
    alt = f"Gold against KL under PPO; at the end: {'; '.join(dict.fromkeys(said))}."
    return Figure(fig, alt, "held")


def stopping(curves: pd.DataFrame, judges: Sequence[tuple[str, str]]) -> Figure:
    """Gold against the root of KL at every penalty, a panel a judge: is a penalty the same as stopping early?

    judges : (ensemble, aggregator)
    """
    fig, axes = canvas(len(judges), 8.6, 3.9, sharey=True, sharex=True)
    axes = np.atleast_1d(axes)
    said = []
    for ax, (ensemble, aggregator) in zip(axes, judges, strict=True):
        keys = {"optimiser": "ppo", "step_multiplier": 1}
        runs = pick(curves, ensemble=ensemble, aggregator=aggregator, **keys)
        for (beta, r), (dash, marker) in zip(runs.groupby("kl_coef"), PENALTIES, strict=False):
            color, x, end = LOOKS[r.method.iloc[0]].color, _root(r.kl), r.iloc[-1]
            ax.plot(x, r.gold, color=color, ls=dash, lw=1.3)
            ax.plot(x.iloc[-1:], r.gold.iloc[-1:], marker, color=color, ms=7, ls="")
            end_label(ax, f"β = {beta:g}", x.iloc[-1], end.gold, (7, 3))
            said.append(
                f"{called(ensemble, aggregator)} at {beta:g}: gold {end.gold:.2f} at a KL of {end.kl:.1f}"
            )
        start_level(ax, runs.gold.iloc[0])
        ax.text(0.03, 0.04, called(ensemble, aggregator), transform=ax.transAxes, fontsize=9)
        ax.set_xlabel("√KL (√nats), k1")
        ax.margins(x=0.12)
    axes[0].set_ylabel("gold reward")
    return Figure(fig, f"Where each penalty ends: {'; '.join(said)}.", "stop")


def at_kl(kl: pd.Series | np.ndarray, values: pd.Series | np.ndarray, nats: float) -> float:
    """The value where a curve's KL first reaches `nats`, straight between points; NaN where it never does."""
    kl, values = np.asarray(kl), np.asarray(values)
    later = np.flatnonzero(kl >= nats)
    if not len(later):
        return np.nan
    i = max(later[0], 1)
    return float(np.interp(nats, kl[i - 1 : i + 1], values[i - 1 : i + 1]))


def same_penalty(ends: pd.DataFrame, gold: float) -> float:
    """The lowest KL penalty at which one model's PPO ends with this much gold, between penalties by a straight line.

    The study's lowest where it needs no more than that, infinity where no penalty of the study is enough.
    """
    r = pick(ends, ensemble="single", aggregator="mean", step_multiplier=1).sort_values("kl_coef")
    beta, end = r.kl_coef.to_numpy(), np.maximum.accumulate(r.end.to_numpy())
    if gold > end[-1]:
        return np.inf
    i = max(int(np.argmax(end >= gold)), 1)
    return float(np.interp(gold, end[i - 1 : i + 1], beta[i - 1 : i + 1]))


def exchange(ends: pd.DataFrame, ensembles: Sequence[str], aggregators: Sequence[str] = RULES) -> Figure:
    """The penalty on one model that buys as much gold as an ensemble under the study's lowest one, and what its band becomes."""
    least, most = float(ends.kl_coef.min()), float(ends.kl_coef.max())
    free = pick(ends, step_multiplier=1, kl_coef=least)
    ran = set(zip(free.ensemble, free.aggregator, strict=True))
    judges = [(ensemble, rule) for rule in aggregators for ensemble in ensembles if (ensemble, rule) in ran]
    fig, ax = canvas(width=7.6, height=1.2 + 0.27 * len(judges))
    said, furthest = [], least
    for y, (ensemble, aggregator) in enumerate(reversed(judges)):
        r = pick(free, ensemble=ensemble, aggregator=aggregator).iloc[0]
        low, at, high = (same_penalty(ends, gold) for gold in (r.end_low, r.end, r.end_high))
        furthest = max(furthest, high)
        interval(ax, y, min(low, most), min(at, most), min(high, most), look_of(ensemble, r.method))
        if at > most:
            end_label(ax, "more than the study has", most, y, (8, -3), fontsize=8)
        said.append(f"{called(ensemble, aggregator)} {at:.3f}")
    dotted(ax, x=least)
    ax.set_yticks(range(len(judges)), [called(*x) for x in reversed(judges)], fontsize=8.5)
    ax.set_xlim(least - 0.02 * (most - least), min(most, least + 1.15 * (furthest - least)))
    under = f" as an ensemble at β = {least:g}" if least else ""
    ax.set_xlabel(f"KL penalty per nat, β, on one model that ends with the same gold{under}")
    alt = f"KL penalty on one model worth as much as the ensemble{f' at {least:g}' * (least > 0)}: {'; '.join(reversed(said))}."
    return Figure(fig, alt, "worth")


def long_runs(curves: pd.DataFrame, usual: int) -> Figure:
    """The long runs: gold against the step, marked at the usual run's last step; the KL where the long one ends."""
    fig, ax = canvas(height=4.0)
    runs, said, ends = pick(curves[curves.step_multiplier > 1], kl_coef=0.0), [], []
    for judge, r in runs.groupby(["ensemble", "aggregator"], sort=False):
        look, both = LOOKS[r.method.iloc[0]], r.iloc[[r.pressure.to_numpy().searchsorted(usual), -1]]
        ax.fill_between(r.pressure, r.gold_low, r.gold_high, color=look.color, alpha=0.12, lw=0)
        ax.plot(r.pressure, r.gold, color=look.color, ls=look.dash, lw=1.6)
        ax.plot(both.pressure, both.gold, look.marker, color=look.color, ms=8, ls="", label=called(*judge))
        ends.append((both.gold.iloc[1], f"{both.kl.iloc[1]:.0f} nats"))
        marks = (f"gold {x.gold:.2f} at step {x.pressure:.0f}, {x.kl:.0f} nats" for x in both.itertuples())
        said.append(f"{called(*judge)}: {' and '.join(marks)}")
    floor, apart = -np.inf, 0.07 * np.ptp(runs[["gold_low", "gold_high"]].to_numpy())
    for gold, label in sorted(ends):  # from below, none on another
        floor = max(gold, floor + apart)
        end_label(ax, label, runs.pressure.max(), floor, (9, -3))
    start_level(ax, runs.gold.iloc[0])
    dotted(ax, x=usual)
    foot = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 9}
    ax.annotate("the other runs end here", (usual, 0), (4, 4), **foot)
    ax.set_ylabel("gold reward")
    ax.set_xlabel("step of PPO")
    legend(fig, ax, 3)
    return Figure(fig, f"Four times as long. {'; '.join(said)}.", "far")


def _reached(curves: pd.DataFrame, optimiser: str, judge: tuple[str, str], kl_coef: float) -> pd.DataFrame:
    """A judge's curve under PPO at a penalty, or an exact one's points with enough effective answers, if there are any."""
    keys = {"optimiser": optimiser, "ensemble": judge[0], "aggregator": judge[1]}
    if optimiser == "ppo":
        return one_curve(curves, kl_coef=kl_coef, step_multiplier=1, **keys)
    return pick(curves[curves.ess >= FLOOR], **keys)


def _root(kl: pd.Series) -> pd.Series:
    return np.sqrt(kl.clip(lower=0))
