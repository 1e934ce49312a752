"""The ledger as a reader sees it: claims as dots with intervals, and a table of what papers say and what the rows say.

Both take claims and the ledger's table, `rmlab.measure.claims.ledger(claims, data)`; a part of that table is drawn alone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.measure.claims import DESCRIPTIVE, READ_AT_A_POINT, Claim, small
from rmlab.recipe import require
from rmlab.reward.methods import METHODS
from rmlab.show.figures import INK
from rmlab.show.figures_members import called, name
from rmlab.show.figures_sweeps import value_words
from rmlab.show.folded import Page, html_table
from rmlab.show.style import LOOKS, NEUTRAL, Figure, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {
    "holds": ("o", "full"),
    "equivalent": ("s", "full"),
    "fails": ("X", "full"),
    "undecided": ("o", "none"),
}
SIGNS = {"greater": ">", "less": "<", "equivalent": "≈"}
WHERE = {"best_of_n": "blind", "ppo": "PPO", "ppo_free": "PPO"}  # what a study's claims are marked with
GROUPS = {"family", "source"}
WIDTH = 56  # letters a line of a claim
LINE = 0.17  # inches


def statement(claim: Claim) -> str:
    """A claim as a relation, so that the difference of its sides is what the ledger's effect is.

    "blind: 5 finetuning seeds, min > one model"; "one model: end < peak", gold at the last n and at a peak that other
    prompts chose.
    """
    sign = SIGNS[claim.direction]
    left, right = (_side(keys, claim) if keys else "" for keys in (claim.left, claim.right))
    if claim.quantity == "gain" and not right:
        right = name("single")
    if claim.quantity in {"fall", "change"}:
        start = "peak" if claim.quantity == "fall" else "start"
        of = f"end {sign} {start}" if not right and claim.null == 0 else ""
        text = f"{left}: {of}" if of else f"end − {start}: {left} {sign} {right or f'{claim.null:g}'}"
    else:
        of = "" if claim.quantity in {"gold", "gain"} else f"{_unit(claim)}: "
        text = f"{of}{left} {sign} {right or f'{claim.null:g}'}"
    mark, betas = WHERE.get(claim.study), _penalties(claim)
    if mark == "PPO" and len(betas) == 1:
        mark = f"PPO, β = {betas[0]:g}"
    return f"{mark}{',' if ': ' in text else ':'} {text}" if mark else text


def verdicts(claims: Iterable[Claim], table: pd.DataFrame, by: str = "source") -> Figure:
    """Every claim of the ledger as a relation, its effect with the 95% interval, and the verdict as a word and a marker.

    The band at 0 is the claim's own margin; an interval that leaves the panel ends in an arrow. Narrow enough for a phone.

    Parameters
    ----------
    claims : at least those of the table
    table : the ledger, or some of its rows
    by : what heads a panel: "family", or "source", of which the part before a comma is taken
    """
    require(by in GROUPS, "by", by, f"one of {sorted(GROUPS)}")
    claims = {claim.id: claim for claim in claims}
    panels: dict[tuple[str, str], list] = {}
    for row in table.itertuples():
        claim = claims[row.claim]
        panels.setdefault((getattr(row, by).split(",")[0], _unit(claim)), []).append((claim, row))
    feet = [np.cumsum([len(_lines(claim)) + 1.5 for claim, _ in rows]) for rows in panels.values()]
    heights = [foot[-1] + 0.5 for foot in feet]
    size = (3.9, LINE * sum(heights) + 0.55 * len(panels))
    fig, axes = canvas(1, *size, rows=len(panels), squeeze=False, gridspec_kw={"height_ratios": heights})
    last = {unit: heading for heading, unit in panels}
    for ax, foot, ((heading, unit), rows) in zip(axes[:, 0], feet, panels.items(), strict=True):
        ax.set_xlim(*_reach([pair for (_, other), some in panels.items() if other == unit for pair in some]))
        for y, (claim, row) in zip(foot, rows, strict=True):
            _claim_line(ax, 0.75 - y, claim, row)
        ax.set_ylim(-0.3 - foot[-1], 0.2)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_title(heading, loc="left", fontsize=10, weight="bold")
        if last[unit] == heading:
            ax.set_xlabel(f"left side minus right side, {_axis_words(unit)}", fontsize=9)
    said = "; ".join(_said(claims[row.claim], row) for row in table.itertuples())
    return Figure(fig, f"{len(table)} claims and what the rows say. {said}.", "claims")


def ledger_table(
    claims: Iterable[Claim], table: pd.DataFrame, papers: Mapping[str, str] | None = None
) -> Page:
    """The papers and us: each claim, what its source says, our effect with its interval, and the verdict.

    Parameters
    ----------
    claims : at least those of the table
    table : the ledger, or some of its rows
    papers : what a source found, in words, by the claim's id; elsewhere the source alone is named
    """
    claims, papers = {claim.id: claim for claim in claims}, dict(papers or {})
    unknown = sorted(set(papers) - set(table.claim))
    require(not unknown, "papers", unknown, "ids of claims of the table")
    rows, folded = [], []
    for row in table.itertuples():
        claim = claims[row.claim]
        found = f"{papers[row.claim]} ({claim.source})" if row.claim in papers else claim.source
        ran = row.verdict != "not run"
        we = f"{row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}]" if ran else "–"
        we += f", {_unit(claim)}" if ran and _unit(claim) != "gold" else ""
        rows.append([claim.text, found, we, _verdict_words(row, claim.margin)])
        p = "p" if row.family == DESCRIPTIVE else "Holm's p"
        p += " < 0.001" if row.p_adjusted < 0.001 else f" = {row.p_adjusted:.2g}"
        numbers = f"{row.replicates:.0f} replicates, {p}" if ran else "–"
        folded.append([statement(claim), _read_words(claim), f"{claim.margin:g}", numbers])
    shown = html_table(["claim", "they", "we", "verdict"], rows)
    units = sorted({_axis_words(_unit(claims[x])) for x in table.claim})
    head = ["as a relation", "read", "margin", "evidence"]
    details = f"<details><summary>The numbers</summary><p>Effects: {'; '.join(units)}, the left side minus the right.</p>"
    details += f"{html_table(head, folded)}</details>"
    return Page(f'<div class="ink ledger">{shown}{details}</div>')


def _side(keys: dict[str, object], claim: Claim) -> str:
    """One side of a claim in words."""
    if "ensemble" not in keys:
        return ", ".join(f"{key} {value}" for key, value in keys.items())
    if "axis" in keys and "value" in keys:
        words = f"{keys['axis']} {value_words(keys['value'])}"
        return words if claim.right else f"{words}, {name(keys['ensemble'])}"
    words = called(keys["ensemble"], keys["aggregator"]) if "aggregator" in keys else name(keys["ensemble"])
    words += ", equal penalty" * (keys.get("pessimism") == "matched")
    return words + (f" at β = {keys['kl_coef']:g}" if len(_penalties(claim)) > 1 else "")


def _penalties(claim: Claim) -> list[float]:
    """The KL penalties of a claim's sides, each once."""
    sides = [keys for keys in (claim.left, claim.right) if keys and "kl_coef" in keys]
    return list(dict.fromkeys(keys["kl_coef"] for keys in sides))


def _unit(claim: Claim) -> str:
    """What a claim's effect is measured in: claims of one unit share an axis."""
    if "." not in claim.quantity:
        return "proxy" if claim.quantity == "proxy" else "gold"
    column = claim.quantity.split(".")[1]
    return {"corr_error": "correlation of errors"}.get(column, column.replace("_", " "))


def _axis_words(unit: str) -> str:
    return {"gold": "gold", "proxy": "proxy (std)"}.get(unit, unit)


def _read_words(claim: Claim) -> str:
    """Where a claim is read."""
    if claim.quantity in READ_AT_A_POINT:
        return f"{claim.study} at {claim.at:,g}"
    return claim.study if "." in claim.quantity else f"{claim.study}, whole curve"


def _verdict_words(row: tuple, margin: float) -> str:
    """The verdict, the replicates that an undecided claim would need, and whether what holds is too small to matter."""
    if small(row, margin):
        return f"{row.verdict}, by less than matters"
    needed = row.verdict == "undecided" and np.isfinite(row.needed)
    return f"{row.verdict} (needs {row.needed:,.0f} replicates)" if needed else row.verdict


def _said(claim: Claim, row: tuple) -> str:
    if row.verdict == "not run":
        return f"{statement(claim)}: not run"
    return f"{statement(claim)}: {row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}], {row.verdict}"


def _color(claim: Claim) -> str:
    """The colour of a claim's left side, that of its method; of one that is not known, neutral."""
    stem = re.match("[a-z]*", str(claim.left.get("ensemble", "")))[0]
    method = {"grid": "mixed", "frozen": "heads"}.get(stem, stem)
    return LOOKS[method].color if method in METHODS else NEUTRAL


def _reach(pairs: list[tuple[Claim, tuple]]) -> tuple[float, float]:
    """Limits that hold every effect, margin and interval; but the widest seventh may leave where they would halve the rest."""
    most = max(claim.margin for claim, _ in pairs)
    rows = [row for _, row in pairs if row.verdict != "not run"]
    effects, lows, highs = ([getattr(row, c) for row in rows] for c in ("effect", "low", "high"))
    low, high = min([-most, *lows]), max([most, *highs])
    if rows:
        left, right = (np.quantile(lows, 0.15), np.quantile(highs, 0.85))
        left, right = min([left, -most, *effects]), max([right, most, *effects])
        low, high = (left, right) if high - low > 2 * (right - left) else (low, high)
    room = 0.06 * (high - low)
    return float(low - room), float(high + room)


def _lines(claim: Claim) -> list[str]:
    """A claim's relation, broken into lines of a phone."""
    text = statement(claim)
    for unit in (" = ", " − "):  # what is not broken
        text = text.replace(unit, unit.replace(" ", "\xa0"))
    return [line.replace("\xa0", " ") for line in textwrap.wrap(text, WIDTH)]


def _claim_line(ax: Axes, at: float, claim: Claim, row: tuple) -> None:
    """A claim's interval, dot and verdict at a height, and above it the claim in words; heights in lines."""
    wide = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    ax.annotate("\n".join(_lines(claim)), (0, at + 0.6), (0, 0), fontsize=9, va="bottom", **wide)
    left, right = ax.get_xlim()
    ax.annotate(row.verdict, (1, at), (8, 0), fontsize=9, va="center", **wide)
    ax.fill_between([-claim.margin, claim.margin], at - 0.5, at + 0.5, color=NEUTRAL, alpha=0.22, lw=0)
    ax.plot([0, 0], [at - 0.5, at + 0.5], color=INK, lw=0.8)
    if row.verdict == "not run":
        return
    color, (marker, fill) = _color(claim), MARKERS[row.verdict]
    ax.plot([max(row.low, left), min(row.high, right)], [at, at], "-", color=color, lw=1.6)
    for end, beyond, arrow in ((left, row.low < left, "<"), (right, row.high > right, ">")):
        if beyond:
            ax.plot([end], [at], arrow, color=color, ms=5, clip_on=False)
    ax.plot([row.effect], [at], marker, color=color, ms=7, fillstyle=fill, mew=1.4, zorder=3)
