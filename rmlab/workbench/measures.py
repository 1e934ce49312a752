"""Scores to rows: every measurement of members, aggregators and length, in one tidy table.

Letters: R rows, K members, M pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure import accuracy, calibration, errors
from rmlab.measure.clusters import Estimate, mean_interval, share_interval
from rmlab.measure.score_curves import GOLD, HELD_OUT, ScoreCurve, curve_rows, fall, score_curves
from rmlab.reward.aggregate import aggregate, usual_strength

if TYPE_CHECKING:
    from rmlab.workbench.scores import Pairs, Scores

AGGREGATORS = ("mean", "min", "mean_std", "median")
COLUMNS = "measure scorer kind k aggregator part rival value low high units pairs verdict".split()
RIVALS = {
    "length": "{} answers alone",
    "words": "a {}",
}  # what a member must beat to have learnt anything else
BEST, PEAK = "the best member", "ends at its peak"
ABOUT = 1.1  # lengths within this factor are about the same
SHORTER, SAME, LONGER = "preferred is shorter", "about as long", "preferred is longer"


class Scorer(NamedTuple):
    """Something that scores an answer: a member, an aggregator over all members, or length.

    score : (R,) members in their own unit, aggregators in the members' mean unit
    """

    name: str
    kind: str
    k: int
    aggregator: str
    score: np.ndarray


class Comparison(NamedTuple):
    """A scorer on the labelled pairs: margins (M,), and whether it sides with the majority, NaN where there is none."""

    scorer: Scorer
    margins: np.ndarray
    right: np.ndarray


def scorers(scores: Scores) -> list[Scorer]:
    """Members, aggregators over them (none where K = 1), and length and a bag of words where they are known.

    Aggregators take aligned scores and are scaled back by the members' mean standard deviation, so that their margins
    are log odds as far as the members' are.
    """
    out = [Scorer(m, "member", 1, "mean", x) for m, x in zip(scores.members, scores.values.T, strict=True)]
    if scores.k > 1:
        aligned, unit = scores.aligned(), scores.unit()
        for name in AGGREGATORS:
            score = unit * aggregate(aligned, name, usual_strength(name))
            out.append(Scorer(name, "aggregator", scores.k, name, score))
    if scores.length is not None:
        out.append(Scorer("longer", "length", 0, "", scores.length))
    if scores.words is not None:
        out.append(Scorer("bag of words", "words", 0, "", scores.words))
    return out


def compared(scores: Scores, pairs: Pairs) -> list[Comparison]:
    """Every scorer on the pairs; length the way round that is right more often: as "longer" or "shorter"."""
    out = []
    for scorer in scorers(scores):
        margins = scorer.score[pairs.first] - scorer.score[pairs.second]
        right = accuracy.agreement(margins, pairs.labels)
        if scorer.kind == "length" and np.nanmean(right) < 0.5:
            scorer, margins, right = (
                scorer._replace(name="shorter", score=-scorer.score),
                -margins,
                1 - right,
            )
        out.append(Comparison(scorer, margins, right))
    return out


def accuracy_rows(scores: Scores) -> pd.DataFrame:
    """Accuracy, log loss, Brier score, calibration, and paired differences of accuracy, against label or gold.

    A row a measure and scorer, in `COLUMNS`. `part` is "all", a part by length ("preferred is shorter") or a group; the
    intervals of a group count its prompts. Differences are from the best member, chosen for each half of the clusters on
    the other half, and from length alone. `ece` and `temperature` have no interval. Length has accuracy alone: it is no
    log odds.
    """
    pairs = scores.pairs()
    voted = pairs.labels != 0.5
    rows, every = [], compared(scores, pairs)
    members = np.stack([c.right for c in every if c.scorer.kind == "member"], 1)[voted]
    baselines = [c for c in every if c.scorer.kind in RIVALS]
    clusters, count = pairs.clusters[voted], int(voted.sum())
    best = (
        accuracy.best_of_other_half(members, clusters)
        if scores.k > 1 and len(np.unique(clusters)) > 1
        else None
    )
    for c in every:
        rows.append(
            _row("accuracy", c.scorer, accuracy.accuracy(c.margins, pairs.labels, pairs.clusters), count)
        )
        if c.scorer.kind != "length":
            rows += _probability_rows(c, pairs)
        for baseline in baselines if c.scorer.kind not in RIVALS else ():
            gap = accuracy.difference(c.right[voted], baseline.right[voted], clusters)
            rival = RIVALS[baseline.scorer.kind].format(baseline.scorer.name)
            rows.append(_row("difference", c.scorer, gap, count, rival=rival))
        if c.scorer.kind == "aggregator" and best is not None:
            gap = accuracy.difference(c.right[voted], best, clusters)
            rows.append(_row("difference", c.scorer, gap, count, rival=BEST))
        for part, at, units in _parts(scores, pairs, voted):
            rows.append(_row("accuracy", c.scorer, share_interval(c.right[at], units[at]), at.sum(), part))
    return pd.DataFrame(rows, columns=COLUMNS)


def error_rows(scores: Scores) -> pd.DataFrame:
    """Do members err together: each two members' error correlation, their mean, effective members, and pairs all get wrong.

    Errors are against gold where there is gold, else against the label; a member that never errs is left out, and with
    fewer than two others there is no correlation. Needs K of at least 2. `wrong_apart` is what `wrong_together` would be
    if members erred independently.
    """
    truth = scores.label if scores.gold is None else scores.gold
    left = errors.errors(scores.values, truth, scores.prompts)
    members = np.flatnonzero(errors.erring(left))
    everyone = Scorer("all", "members", len(members), "", scores.values[:, 0])
    rows = []
    for i, j in combinations(members, 2):
        one = everyone._replace(name=scores.members[i], kind="member", k=1)
        both = errors.shared_error(left[:, [i, j]], scores.clusters)
        rows.append(_row("error_correlation", one, both, rival=scores.members[j]))
    if len(members) > 1:
        shared = errors.shared_error(left[:, members], scores.clusters)
        rows.append(_row("shared_error", everyone, shared))
        rows.append(_row("effective_members", everyone, errors.effective_errors(shared, len(members))))
    everyone = everyone._replace(k=scores.k)
    pairs = scores.pairs()
    voted = pairs.labels != 0.5
    right = np.stack([c.right for c in compared(scores, pairs) if c.scorer.kind == "member"], 1)[voted]
    together, apart = accuracy.wrong_together(right, pairs.clusters[voted])
    rows.append(_row("wrong_together", everyone, together, voted.sum()))
    rows.append(_row("wrong_apart", everyone, _alone(apart, together.clusters), voted.sum()))
    return pd.DataFrame(rows, columns=COLUMNS)


def pool_curves(scores: Scores) -> tuple[list[ScoreCurve], pd.DataFrame]:
    """Best-of-n and tilting by every member and aggregator, judged by gold, else by held-out members; and their rows."""
    pool = scores.pool()
    curves = score_curves(pool.scores, scores.members, AGGREGATORS, pool.there, pool.gold)
    return curves, curve_rows(curves, pool.clusters, HELD_OUT if pool.gold is None else GOLD)


def fall_rows(scores: Scores, curves: list[ScoreCurve]) -> pd.DataFrame:
    """How far each best-of-n curve falls from its peak to where verdicts are read, by its judge."""
    clusters, rows = scores.pool().clusters, []
    for curve in curves:
        if curve.optimiser == "best_of_n":
            single = curve.chooser in scores.members
            name = curve.chooser if single else curve.aggregator
            kind = "member" if single else "aggregator"
            drop = fall(curve, clusters)
            row = _row("fall", Scorer(name, kind, curve.k, curve.aggregator, curve.worth), drop)
            words = "falls" if drop.high < 0 else "rises" if drop.low > 0 else "not separated from its peak"
            rows.append({**row, "verdict": PEAK if drop[:3] == (0, 0, 0) else words})
    return pd.DataFrame(rows, columns=COLUMNS)


def _probability_rows(c: Comparison, pairs: Pairs) -> Iterator[dict]:
    """Rows about margins as log odds, over all pairs, those without a majority too."""
    M, count = len(pairs.labels), len(np.unique(pairs.clusters))
    losses = accuracy.log_losses(c.margins, pairs.labels)
    yield _row("log_loss", c.scorer, mean_interval(losses, pairs.clusters), M)
    brier = accuracy.brier_scores(c.margins, pairs.labels)
    yield _row("brier", c.scorer, mean_interval(brier, pairs.clusters), M)
    yield _row("ece", c.scorer, _alone(calibration.ece(c.margins, pairs.labels), count), M)
    error = calibration.calibration_error(c.margins, pairs.labels, pairs.clusters)
    yield _row("calibration_error", c.scorer, error, M)
    heat = calibration.temperature(c.margins, pairs.labels)
    yield _row("temperature", c.scorer, _alone(heat, count), M)


def _parts(scores: Scores, pairs: Pairs, voted: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, pairs (M,) bool, what an interval counts (M,)) of each part by length and by group with two clusters."""
    if scores.length is not None:
        first, second = scores.length[pairs.first], scores.length[pairs.second]
        preferred = np.where(pairs.labels > 0.5, first, second)
        other = np.where(pairs.labels > 0.5, second, first)
        short, long = preferred * ABOUT < other, preferred > other * ABOUT
        for name, at in ((SHORTER, short), (SAME, ~short & ~long), (LONGER, long)):
            if len(np.unique(pairs.clusters[at & voted])) > 1:
                yield name, at & voted, pairs.clusters
    if scores.groups is not None:
        prompts = scores.prompts[pairs.first]
        for name in pd.unique(scores.groups):
            at = (scores.groups[pairs.first] == name) & voted
            if len(np.unique(prompts[at])) > 1:
                yield f"group {name}", at, prompts


def _row(
    measure: str, scorer: Scorer, x: Estimate, pairs: int = 0, part: str = "all", rival: str = ""
) -> dict:
    verdict = accuracy.verdict(x, rival) if measure == "difference" else ""
    keys = (measure, scorer.name, scorer.kind, scorer.k, scorer.aggregator, part, rival)
    return dict(zip(COLUMNS, (*keys, *x, int(pairs), verdict), strict=True))


def _alone(value: float, clusters: int) -> Estimate:
    """A number without an interval."""
    return Estimate(value, np.nan, np.nan, clusters)
