"""What a table of scores says, as text for 80 columns, as tidy rows, and as a folder.

Letters: K members, P prompts, N answers a prompt.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rmlab.files import write_atomic
from rmlab.measure import calibration
from rmlab.measure.score_curves import primary
from rmlab.optimise.tilt import ESS_FLOOR
from rmlab.reward.aggregate import AGGREGATORS as RULES
from rmlab.reward.aggregate import usual_strength
from rmlab.workbench import measures
from rmlab.workbench.measures import AGGREGATORS, BEST, PEAK

if TYPE_CHECKING:
    from rmlab.measure.score_curves import ScoreCurve
    from rmlab.show.style import Figure
    from rmlab.workbench.scores import Scores

WIDTH = 80
NAME = 12  # columns of a scorer's name
FEW = 20  # clusters below which an interval is wide and rests on its t
ODD = 3.0  # a temperature above this, or below its inverse: scores that are hardly log odds


@dataclass(frozen=True, eq=False)
class ScoreReport:
    """A report on a table of scores: `print` it, take its `rows()`, `save` it.

    measures : the tidy rows, see `rmlab.workbench.measures.COLUMNS`
    curves : rows of best-of-n and tilting where the table is a pool, else None
    reliability : rows of the reliability diagram by scorer where there is a label, else None
    """

    text: str
    measures: pd.DataFrame
    curves: pd.DataFrame | None
    reliability: pd.DataFrame | None

    @classmethod
    def of(cls, scores: Scores) -> ScoreReport:
        """Measure everything that the table allows: labels give accuracy, gold that and curves, neither curves alone."""
        frames, curves, rows, reliability = [], None, [], None
        if scores.judged_by is not None:
            frames.append(measures.accuracy_rows(scores))
            if scores.k > 1:
                frames.append(measures.error_rows(scores))
        if scores.label is None and (scores.gold is not None or scores.k > 1):
            rows, curves = measures.pool_curves(scores)
            if len(np.unique(scores.clusters)) > 1:
                frames.append(measures.fall_rows(scores, rows))
        if scores.label is not None:
            reliability = _reliability(scores)
        columns = pd.DataFrame(columns=measures.COLUMNS)
        table = pd.concat(frames, ignore_index=True) if frames else columns
        return cls(_text(scores, table, rows, curves), table, curves, reliability)

    def rows(self) -> pd.DataFrame:
        """The measurements, a row each: what is measured, of which scorer, on which part, and its interval."""
        return self.measures.copy()

    def figure(self) -> Figure | None:
        """The reliability of pairs or the curves of a pool; None where there is neither."""
        from rmlab.show import figures_scores

        if self.curves is not None:
            return figures_scores.score_curves(self.curves)
        if self.reliability is None:
            return None
        tables = dict(iter(self.reliability.groupby("scorer", sort=False)))
        return figures_scores.reliability(tables)

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.txt, measures.csv, curves.csv or reliability.csv, and figure.png; returns what was written.

        The figure needs matplotlib; without it the others are written all the same.
        """
        folder = Path(folder)
        tables = {"measures": self.measures, "curves": self.curves, "reliability": self.reliability}
        content = {"report.txt": self.text + "\n"}
        content |= {f"{n}.csv": t.to_csv(index=False) for n, t in tables.items() if t is not None}
        for name, text in content.items():
            write_atomic(folder / name, text)
        try:
            figure = self.figure()
        except ModuleNotFoundError as missing:
            if missing.name != "matplotlib":
                raise
            figure = None
        if figure is not None:
            figure.save(folder / "figure.png")
        return [folder / name for name in content] + [folder / "figure.png"] * (figure is not None)

    def __str__(self) -> str:
        return self.text


def _reliability(scores: Scores) -> pd.DataFrame:
    pairs = scores.pairs()
    frames = []
    for c in measures.compared(scores, pairs):
        if c.scorer.kind != "length":
            table = calibration.reliability(c.margins, pairs.labels, pairs.clusters)
            frames.append(table.assign(scorer=c.scorer.name))
    return pd.concat(frames, ignore_index=True)


def _text(
    scores: Scores, table: pd.DataFrame, curves: list[ScoreCurve], curve_table: pd.DataFrame | None
) -> str:
    """The whole report."""
    parts = [_read_lines(scores)]
    if scores.judged_by is not None:
        parts += [_accuracy_lines(scores, table), _separation_lines(table)]
        parts.append(_part_lines(table))
        if scores.k > 1:
            parts.append(_error_lines(scores, table))
    if curve_table is not None:
        parts.append(_curve_lines(curves, curve_table, table))
    if len(parts) == 1:
        parts.append(["Nothing to hold one member against: give a label, gold or a second member."])
    parts.append(list(_warnings(scores, table)))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _read_lines(scores: Scores) -> list[str]:
    """What was read, which rows are used where, and on what footing members stand."""
    sizes, count = np.bincount(scores.prompts), len(np.unique(scores.clusters))
    answers = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    shape = f"{len(sizes)} pairs" if scores.label is not None else f"{len(sizes)} prompts, {answers} answers"
    lines = [f"rmlab report: {scores.source}"]
    lines += _wrapped(f"{scores.rows} rows read, all used: {shape}, {scores.k} members")
    lines += _wrapped(f"members: {', '.join(scores.members)}")
    if scores.unused:
        lines += _wrapped(f"columns not used: {', '.join(scores.unused)}")
    if scores.judged_by is not None:
        pairs = scores.pairs()
        ties = int((pairs.labels == 0.5).sum())
        text = f"right is what the {scores.judged_by} says, on {len(pairs.labels) - ties} pairs"
        if scores.label is None:
            text += " (each prompt's answers paired off at random, each used once)"
        lines += _wrapped(text + (f"; {ties} without a majority are out of accuracy" if ties else ""))
    lines += _wrapped(f"intervals: 95%, t over {count} clusters ({scores.cluster_noun})")
    if scores.k > 1:
        lines += _wrapped(
            f"aggregators: each member at mean 0 and standard deviation 1 over all {len(scores.values)} answers, then in "
            f"the members' mean unit; {_rules()}"
        )
    return lines


def _accuracy_lines(scores: Scores, table: pd.DataFrame) -> list[str]:
    """A line a scorer: accuracy, log loss, Brier score, calibration."""
    whole = table[table.part == "all"].set_index(["measure", "scorer"])
    head = (
        f"{'':<{NAME}} {'accuracy':<17} {'log loss':>8} {'Brier':>6} {'ECE':>5} {'debiased RMS':>17} {'T':>5}"
    )
    lines = [f"How often right, against the {scores.judged_by}", head]
    for scorer in table[table.measure == "accuracy"].scorer.unique():
        line = f"{_cut(scorer):<{NAME}} {_share(whole.loc[('accuracy', scorer)]):<17}"
        if ("brier", scorer) in whole.index:
            numbers = {m: whole.loc[(m, scorer)] for m in ("log_loss", "brier", "ece", "calibration_error")}
            heat = whole.loc[("temperature", scorer)].value
            line += f" {numbers['log_loss'].value:>8.3f} {numbers['brier'].value:>6.3f} {_plain(numbers['ece'].value):>5}"
            line += f" {_share(numbers['calibration_error']):>17} {heat:>5.2f}"
        lines.append(line.rstrip())
    return lines + _wrapped(
        "ECE: up to 10 bins of equal mass, biased upward by noise. Debiased RMS: root mean square calibration error (Kumar et "
        "al. 1909.10155) with its interval. T: the temperature that fits best; above 1 is over-confident."
    )


def _separation_lines(table: pd.DataFrame) -> list[str]:
    """Each paired difference of accuracy with its verdict."""
    gaps = table[table.measure == "difference"]
    if gaps.empty:
        return []
    lines = ["What is separated (paired differences of accuracy)"]
    gaps = gaps.sort_values("rival", kind="stable", key=lambda x: x != BEST)
    for _, row in gaps.iterrows():
        lines.append(f"{_cut(row.scorer):<{NAME}} {_gap(row):<22} {row.verdict}")
    for rival, group in gaps.groupby("rival", sort=False):
        better = group[group.low > 0].scorer.tolist()
        everyone = "all of them" if len(better) == len(group) else ", ".join(better) or "none of them"
        lines += _wrapped(f"separated above {rival}: {everyone}")
    chosen = f"{BEST[0].upper()}{BEST[1:]}: chosen for each half of the clusters on the other half. "
    return lines + _wrapped(
        chosen * bool((gaps.rival == BEST).any()) + "Descriptive: 95% each, not adjusted for their number."
    )


def _part_lines(table: pd.DataFrame, most: int = 12) -> list[str]:
    """Accuracy of the mean, or of a lone member, by length and by group: the largest parts, of twenty pairs or more."""
    parts = table[(table.measure == "accuracy") & (table.part != "all")]
    if parts.empty:
        return []
    name = "mean" if (parts.scorer == "mean").any() else parts.scorer.iloc[0]
    parts = parts[parts.scorer == name]
    shown = parts[parts.pairs >= FEW].sort_values("pairs", ascending=False, kind="stable")[:most].sort_index()
    lines = [f"Accuracy of {name} by part"]
    lines += [f"{_cut(r.part, 24):<24} {_share(r):<17} {r.pairs:>6} pairs" for _, r in shown.iterrows()]
    left = len(parts) - len(shown)
    return lines + [f"  {left} parts more, smaller ones, are in the rows"] * (left > 0)


def _error_lines(scores: Scores, table: pd.DataFrame) -> list[str]:
    """Do members err together?"""
    by_measure = table[table.kind == "members"].set_index("measure")
    two = table[table.measure == "error_correlation"].sort_values("value")
    lines = [
        f"Do the members err together (errors against {'gold' if scores.gold is not None else 'the label'})"
    ]
    if "shared_error" in by_measure.index:
        shared, effective = by_measure.loc["shared_error"], by_measure.loc["effective_members"]
        lines += _wrapped(f"mean correlation of two members' errors {_share(shared)}")
        if len(two) > 1:
            low, high = (
                f"{_plain(r.value)} ({r.scorer}, {r.rival})" for _, r in two.iloc[[0, -1]].iterrows()
            )
            lines += _wrapped(f"least {low}, most {high}")
        ends = f"[{effective.low:.1f}, {effective.high:.1f}]"
        count = f"{shared.k} members" + f" of {scores.k}, the rest never err," * bool(shared.k < scores.k)
        lines += _wrapped(f"{count} average errors away like {effective.value:.1f} {ends} independent ones")
    else:
        lines += _wrapped("fewer than two members err at all: nothing to correlate")
    both, apart = by_measure.loc["wrong_together"], by_measure.loc["wrong_apart"]
    lines += _wrapped(
        f"all wrong at once on {_percent(both.value)} of pairs; on {_percent(apart.value)} if each erred by itself"
    )
    if scores.gold is None:
        lines += _wrapped(
            "a label hides by how much: what members rightly agree on beyond it counts as error"
        )
    return lines


def _curve_lines(curves: list[ScoreCurve], rows: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Best-of-n at the point where verdicts are read."""
    at = primary(curves[0])
    best = rows[rows.optimiser == "best_of_n"]
    n = sorted(best.pressure.unique())[at]
    read, judge = best[best.pressure == n], best.judge.iloc[0]
    ess = read.ess.iloc[0]
    lines = [f"Best of n, judged by {judge}, at n = {n:g} ({ess:.0f} effective answers a prompt)"]
    lines.append(f"{'':<{NAME}} {'worth':<20} {'above members alone':<23} from its peak")
    falls = table[table.measure == "fall"].set_index("scorer")
    for _, row in read.iterrows():
        name = row.aggregator if row.ensemble == "all" else row.ensemble
        worth = _gap(pd.Series({"value": row.gold, "low": row.gold_low, "high": row.gold_high}), ".2f")
        gain = _gap(pd.Series({"value": row.gain, "low": row.low, "high": row.high}))
        drop = "" if name not in falls.index else _gap(falls.loc[name])
        drop = "at its peak" if name in falls.index and falls.verdict[name] == PEAK else drop
        lines.append(f"{_cut(name):<{NAME}} {worth:<20} {gain:<23} {drop}".rstrip())
    start = round(best[best.pressure == 1].gold.mean(), 2) + 0.0  # no -0.00
    lines += _wrapped(
        f"n = 1 is worth {start:.2f}. The peak of each half of the clusters is found on the other."
    )
    lines += _tilted_lines([c for c in curves if c.optimiser == "tilt"])
    if judge != "gold":
        lines += _wrapped(
            "No gold: all members but one choose, the one held out judges (in standard deviations), averaged over who is "
            "held out. It rises with any error that all members share."
        )
    return lines


def _tilted_lines(curves: list[ScoreCurve]) -> list[str]:
    """Exact tilting at the largest KL at which ten effective answers a prompt stand behind every curve, or the least."""
    enough = np.flatnonzero(np.min([c.points.ess for c in curves], 0) >= ESS_FLOOR)
    at = int(enough.max(initial=0))
    worth = [
        f"{c.aggregator if c.chooser == 'all' else c.chooser} {c.worth[:, at].mean():.2f}" for c in curves
    ]
    return _wrapped(f"Tilted exactly to a KL of {curves[0].points.kl[at]:.2f} nats: {', '.join(worth)}.")


def _warnings(scores: Scores, table: pd.DataFrame) -> Iterator[str]:
    """What a reader should know before believing the rest, a line or more each."""
    count, sizes = len(np.unique(scores.clusters)), np.bincount(scores.prompts)
    if count < FEW:
        mend = "; leave the group out if prompts are independent" * (scores.groups is not None)
        few = f"only {count} {scores.cluster_noun}: intervals are wide"
        yield from _warning((few if count > 1 else "one cluster: no intervals") + mend)
    if scores.judged_by is None:
        yield from _warning("no label and no gold: nothing here says who is right")
    elif scores.label is None and sizes.min() < np.median(sizes) / 2:
        yield from _warning(f"curves end at n = {sizes.min()}, the fewest answers of a prompt")
    whole = table[table.part == "all"]
    for _, row in whole[(whole.measure == "accuracy") & (whole.kind == "member")].iterrows():
        if row.high < 0.5:
            yield from _warning(f"{row.scorer} is wrong more often than right: is its sign turned round?")
    heats = whole[(whole.measure == "temperature") & (whole.kind == "member")]
    odd = heats[(heats.value > ODD) | (heats.value < 1 / ODD)].scorer.tolist()
    if odd:
        yield from _warning(
            f"scores of {', '.join(odd)} are hardly log odds (T far from 1): read no log loss, Brier score or ECE of "
            "theirs, nor of aggregators over them"
        )
    counts = [m for m, column in zip(scores.members, scores.values.T, strict=True) if _counts(column)]
    if 0 < len(counts) < scores.k:
        yield from _warning(
            f"{', '.join(counts)}: whole numbers up to {scores.values[:, scores.members.index(counts[0])].max():g}, "
            "and read as scores; if they are lengths or counts, name the length, or the members without them"
        )
    copies = table[(table.measure == "error_correlation") & (table.value > 0.999)]
    for _, row in copies.iterrows():
        yield from _warning(f"{row.scorer} and {row.rival} are copies")


def _counts(column: np.ndarray) -> bool:
    """Whether scores (R,) look like a count of something: whole, none below 0, and beyond any scale of 10."""
    return bool((column % 1 == 0).all() and column.min() >= 0 and column.max() > 10)


def _rules() -> str:
    """The aggregators that need a formula, in words: "mean_std is mean - 1 std"."""
    spread = [a for a in AGGREGATORS if RULES[a].strength is not None]
    return "; ".join(f"{a} is {RULES[a].label.replace('λ', f'{usual_strength(a):g}')}" for a in spread)


def _warning(text: str) -> list[str]:
    return textwrap.wrap(f"! {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _wrapped(text: str) -> list[str]:
    indent = {"initial_indent": "  ", "subsequent_indent": "    "}
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, **indent)


def _plain(x: float) -> str:
    """.757, -.03: without the zero that says nothing."""
    return "-" if np.isnan(x) else f"{x:.3f}".replace("0.", ".", 1)


def _share(row: pd.Series) -> str:
    """ ".757 [.710, .798]"."""
    ends = "" if np.isnan(row.low) else f" [{_plain(row.low)}, {_plain(row.high)}]"
    return _plain(row.value) + ends


def _gap(row: pd.Series, form: str = "+.3f") -> str:
    """ "+0.013 [-0.010, +0.036]"."""
    ends = "" if np.isnan(row.low) else f" [{row.low:{form}}, {row.high:{form}}]"
    return f"{row.value:{form}}{ends}"


def _percent(x: float) -> str:
    return f"{100 * x:.1f}%"


def _cut(name: str, width: int = NAME) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
