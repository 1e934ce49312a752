"""Laws of overoptimisation drawn: fitted below a cut and tested beyond it, coefficients against members, slopes, choices.

Tables are `curves` and those of `rmlab.measure.law_tables` and `rmlab.measure.choice_tables`. All narrow enough for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rmlab.measure import laws
from rmlab.measure.law_tables import CUT, ENOUGH
from rmlab.optimise.best_of_n import kl_bound
from rmlab.recipe import require
from rmlab.show.figures import (
    INK,
    dotted,
    interval,
    legend,
    limits,
    one_curve,
    pick,
    used,
    with_interval,
)
from rmlab.show.figures_members import called, name
from rmlab.show.style import LOOKS, NEUTRAL, Figure, canvas, look_of

FORMS = {  # of `rmlab.measure.laws`, with a dash
    "quadratic": ("d (α − βd)", (0, (5, 2))),
    "log1p": ("d (α − β log(1 + d))", (0, (1, 1.3))),
    "log": ("d (α − β log d)", (0, (4, 1, 1, 1))),
    "power": ("d (α − βd^γ)", (0, (8, 2))),
}
RULES = {  # of choices, in words
    "all": "all there are",
    "members": "members, no labels",
    "certificate": "certificate",
    "tilt": "tilt",
    "hedge_tune": "HedgeTune",
    "law": "peak of the law",
}


def fit_points(curve: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a law is fitted to, of one curve of best-of-n: d in root nats, gold gained since n = 1, and weights, (L,) each.

    As in `rmlab.measure.law_tables`: a point with fewer than 10 effective answers a prompt weighs less in proportion.
    """
    gold = curve.gold.to_numpy(np.float64)
    weights = np.minimum(curve.ess.to_numpy(np.float64) / ENOUGH, 1.0)
    return np.sqrt(curve.kl.to_numpy(np.float64)), gold - gold[0], weights


def beyond_the_cut(
    studies: Mapping[str, pd.DataFrame],
    judges: Sequence[tuple[str, str]],
    forms: Sequence[str] = ("quadratic", "log1p"),
    cut: int = CUT,
    columns: int = 2,
) -> Figure:
    """Gold gained against d, the root of KL, with laws that saw no more than best of `cut`, drawn on to the end.

    Dots are the mean curve with its 95% intervals, those of gold at each n; a panel a judge, of every study.

    Parameters
    ----------
    studies : rows of `curves`, by the study's title; it is named where there are several
    judges : (ensemble, aggregator)
    forms : of `rmlab.measure.laws.FORMS`
    """
    panels = [(title, table, judge) for title, table in studies.items() for judge in judges]
    rows = -(-len(panels) // columns)
    fig, grid = canvas(columns, 2.25 * columns, 0.9 + 1.75 * rows, rows=rows, sharex=True, sharey=True)
    axes, said = used(grid, len(panels)), []
    edge = float(np.sqrt(kl_bound(cut)))
    for i, (ax, (title, table, judge)) in enumerate(zip(axes, panels, strict=True)):
        curve = one_curve(table, ensemble=judge[0], aggregator=judge[1], optimiser="best_of_n")
        look = look_of(judge[0], curve.method.iloc[0])
        d, gain, weights = fit_points(curve)
        low, high = (x.to_numpy() - curve.gold.iloc[0] for x in limits(curve, "gold"))
        ax.axvspan(edge, d[-1], color=NEUTRAL, alpha=0.14, lw=0)
        ax.vlines(d[1:], low[1:], high[1:], color=look.color, lw=1.3)
        ax.plot(d, gain, ls="", ms=4.5, **look.mark)
        x, ends = np.linspace(0, d[-1], 100), []
        for form in forms:
            label, dash = FORMS[form]
            law = laws.fit(d, gain, form, weights * (d <= edge + 1e-9))
            with np.errstate(divide="ignore", invalid="ignore"):
                ax.plot(x[1:], laws.value(law, form, x[1:]), color=INK, ls=dash, lw=1.3, label=label)
            ends.append(f"{label} says {float(laws.value(law, form, d[-1:])[0]):.2f}")
        words = f"{title}: {called(*judge)}" if len(studies) > 1 else called(*judge)
        ax.set_title(words, loc="left", fontsize=9.5)
        if i + columns >= len(panels):
            ax.set_xlabel("d = √KL bound", fontsize=9)
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel("gold gained", fontsize=9)
        said.append(
            f"{words}: {gain.max():.2f} at its highest, {gain[-1]:.2f} at the end, where {' and '.join(ends)}"
        )
    axes[0].text(edge, 0.03, " not seen", fontsize=8, va="bottom")
    axes[0].set_ylim(bottom=0)
    legend(fig, axes, 2)
    alt = f"Gold gained, and laws fitted up to best of {cut}. {'; '.join(said)}."
    return Figure(fig, alt, "cut")


def coefficients(table: pd.DataFrame, rule: str = "min", form: str = "quadratic") -> Figure:
    """alpha and beta of every ensemble's law under one rule, against its members; one model is an ensemble of one.

    table : rows of `laws` of one study; intervals are 95%, over replicates and prompts
    """
    table = pick(table, form=form, pessimism="paper")
    table = table[(table.aggregator == rule) | (table.ensemble == "single")]
    require(len(table) > 1, "rule", rule, "one that the rows have")
    fig, axes = canvas(2, 4.6, 3.2, sharex=True)
    said, seen = [], {}
    for r in table.itertuples():
        shift = 1 + 0.05 * (seen.setdefault(r.k, 0) - 2)
        seen[r.k] += 1
        look = look_of(r.ensemble, r.method)
        for ax, column in zip(axes, ("alpha", "beta"), strict=True):
            value, low, high = (getattr(r, f"{column}{end}") for end in ("", "_low", "_high"))
            ax.vlines(r.k * shift, low, high, color=look.color, lw=1.3)
            label = "one model" if r.ensemble == "single" else LOOKS[r.method].label
            ax.plot([r.k * shift], [value], ls="", ms=5.5, label=label, **look._replace(fill="full").mark)
        said.append(f"{name(r.ensemble)} {r.alpha:.2f} and {r.beta:.2f}")
    for ax, title in zip(axes, ("α: how fast it starts", "β: how it bends"), strict=True):
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xscale("log", base=2)
        ks = sorted(table.k.unique())
        ax.set_xticks(ks, ks)
        ax.minorticks_off()
        ax.set_xlabel("members", fontsize=9)
    legend(fig, axes, 3)
    words = rule.replace("_", " − ")
    return Figure(fig, f"alpha and beta of the law under the {words}: {'; '.join(said)}.", "alphabeta")


def goodhart_slopes(table: pd.DataFrame, judges: Sequence[tuple[str, str]]) -> Figure:
    """Gold a unit of the proxy: among most answers (open), and among the 64 that the proxy likes best (full).

    Equal slopes are regressional Goodhart, a lower one at the top extremal. Intervals are 95%, over replicates and prompts.

    table : rows of `goodhart` of one study; judges : (ensemble, aggregator), from the top
    """
    fig, ax = canvas(width=4.6, height=1.0 + 0.29 * len(judges))
    said = []
    for y, (ensemble, rule) in enumerate(reversed(judges)):
        r = pick(table, ensemble=ensemble, aggregator=rule)
        require(len(r) == 1, "judge", (ensemble, rule), "one that the rows have")
        r = r.iloc[0]
        look = look_of(ensemble, r.method)._replace(marker="o")
        ax.annotate(
            "",
            (r.slope_top, y),
            (r.slope_body, y),
            arrowprops={"arrowstyle": "-", "color": look.color, "lw": 0.8, "ls": ":"},
        )
        for part, fill in (("body", "none"), ("top", "full")):
            ends = r[[f"slope_{part}_low", f"slope_{part}", f"slope_{part}_high"]]
            interval(ax, y, *ends, look._replace(fill=fill))
        said.insert(
            0,
            f"{called(ensemble, rule)} {with_interval(r, 'slope_body')} and {with_interval(r, 'slope_top')}",
        )
    dotted(ax, x=0)
    ax.set_yticks(range(len(judges)), [called(*j) for j in reversed(judges)], fontsize=8.5)
    ax.set_ylim(-0.6, len(judges) - 0.4)
    ax.set_xlabel("gold per standard deviation of proxy", fontsize=9)
    top = int(table.top.iloc[0])
    for fill, label in (("none", "most answers"), ("full", f"the top {top} a prompt")):
        ax.plot([], [], "o", color=NEUTRAL, fillstyle=fill, ms=6, mew=1.3, label=label)
    legend(fig, ax, 2)
    return Figure(fig, f"Slopes of gold on the proxy, most answers and the top: {'; '.join(said)}.", "slopes")


def regrets(
    table: pd.DataFrame, judges: Sequence[tuple[str, str]], rules: Mapping[str, str] = RULES
) -> Figure:
    """Gold that a rule leaves on the table, below the best n for the same prompts, a line a rule and a marker a judge.

    table : rows of `choices` of one study; judges : (ensemble, aggregator); rules : those shown, from the top, in words.
    Intervals are 95%, over replicates and prompts.
    """
    fig, ax = canvas(width=4.6, height=1.1 + 0.1 * len(rules) * (1 + len(judges)))
    said = []
    for y, (rule, label) in enumerate(reversed(rules.items())):
        each = []
        for i, (ensemble, aggregator) in enumerate(judges):
            r = pick(table, ensemble=ensemble, aggregator=aggregator, rule=rule)
            if not len(r):  # one model has no members that could disagree
                continue
            r = r.iloc[0]
            look = look_of(ensemble, r.method)
            height = y + 0.75 * (0.5 - (i + 0.5) / len(judges))
            interval(ax, height, r.regret_low, r.regret, r.regret_high, look)
            each.append(f"{called(ensemble, aggregator)} {r.regret:.2f}")
        said.insert(0, f"{label}: {', '.join(each)}")
    for ensemble, aggregator in judges:
        look = look_of(ensemble, pick(table, ensemble=ensemble).method.iloc[0])
        ax.plot([], [], ls="", ms=6, label=called(ensemble, aggregator), **look.mark)
    dotted(ax, x=0)
    ax.set_yticks(range(len(rules)), list(reversed(rules.values())), fontsize=8.5)
    ax.set_ylim(-0.55, len(rules) - 0.45)
    ax.set_xlabel("gold below the best n", fontsize=9)
    legend(fig, ax, 2)
    return Figure(fig, f"Gold left on the table by rules that choose n. {'; '.join(said)}.", "regret")
