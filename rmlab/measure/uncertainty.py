"""Does an uncertainty see the error of one reward model, and what is it worth as a penalty?

Every uncertainty of a study is put to the same single model of each replicate: the standard deviation over an ensemble's
members ("disagreement"), and the single model's own distances from its training answers ("distance"). An ideal one is
large where the model errs, among typical answers and among winners, whose errors are what optimisation picks.

Letters: P prompts, N answers a prompt, D replicates, L numbers of answers drawn n, E kinds of error, C columns, B winners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rmlab.measure import errors
from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores, by_name
from rmlab.measure.intervals import columns_of, mean_interval
from rmlab.measure.pool_curves import are_copies, matched_penalty
from rmlab.optimise.best_of_n import best_of_n, ess, n_grid, winner_chances
from rmlab.recipe import Recipe, require, stream
from rmlab.reward.methods import members_of

WINNERS_OF = (64, 256)  # answers drawn, where winners are looked at
RESTS_ON = 8  # winners of n are looked at where n is at most N / 8: about 15 effective answers a prompt
TOP = 0.1  # of a prompt's answers: those with the largest errors are the event
FAR = 0.99  # quantile of the policy's own answers beyond which an answer is an outlier
BUDGET = 100  # winners whose gold is known, of each half of the prompts
COVERED = 0.9  # of them, by the bound
ERRORS = ("absolute", "signed")


@dataclass(frozen=True, eq=False)
class _Replicate:
    """What every uncertainty of a replicate is held against: its single model, how that errs, and who wins by it.

    proxy, gold, truth (P, N): the single model's score; gold; gold with the proxy's mean and standard deviation; ended (P, N)
    weights (P, N, L): of answers, sum 1 a prompt: uniform first, then chances to win; event (P, N, E) bool; rank (P, N, L, E):
    of the errors; labelled (2, B, 2): prompt and answer of the winners whose gold is known, those of even prompts first
    """

    proxy: np.ndarray
    gold: np.ndarray
    truth: np.ndarray
    ended: np.ndarray
    weights: np.ndarray
    event: np.ndarray
    rank: np.ndarray
    labelled: np.ndarray


def is_measured(recipe: Recipe) -> bool:
    """Whether a recipe has what this measurement reads: best-of-n at equal penalties, several members, two prompts."""
    several = any(members_of(e.method, dict(e.options)) > 1 for e in recipe.ensembles)
    return recipe.matched and recipe.ppo_study is None and several and recipe.pool.prompts > 1


def uncertainty(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """How well each uncertainty sees the single model's error, `uncertainty`, and best-of-n under each, `bounds`.

    The single model is a replicate's first; of an ensemble it is the first instance there. Ensembles whose members are
    copies have no uncertainty and are left out, as are prompts with fewer than two answers that end. Intervals are over
    replicates and prompts.

    Returns
    -------
    uncertainty : a row a score, a number of answers drawn n (1: the policy's own answers; else the single model's winners)
        and an error, "absolute" or "signed": what `rmlab.measure.errors` leaves of the single model's scores within prompts.
        `auroc`, the chance that of two answers to a prompt, one with an error among its largest tenth and one without, the
        first has the larger score (.5: blind); `corr_rank`, Spearman's correlation within prompts; both with answers weighted
        by their chance to win. `share`, of the answers so weighted, with an error in that tenth; `outliers`, beyond the 99%
        quantile of the score over the policy's own answers: the outlier probability of 2510.13694, for any score and with its
        threshold from the answers themselves.
    uncertainty_replicates : `auroc` and `corr_rank` of each replicate
    bounds : a row a score, a `rule` for lambda and an n: best-of-n of proxy - lambda u. "matched": the mean of lambda u at
        n = 1 is `matched_penalty`; "coverage": `covering_strength` on 100 winners of the largest n in `uncertainty` whose gold is
        known, of the other half of the prompts; "none": the proxy as it is, the row of "single". `strength` is the mean lambda, `penalty` the mean of lambda u
        at n = 1; `gold`, and its `gain` over the single model with `low` and `high`; `coverage`, how often the bound lies below
        gold among the single model's winners, and `coverage_chosen` among its own. For coverage gold has the mean and the
        standard deviation of the proxy over the policy's answers.
    """
    kept = scores.ended.sum(1) >= 2
    require(kept.sum() > 1, "pool", f"{kept.sum()} prompts", "two prompts or more with two answers that end")
    ns = np.array([1, *winners_of(scores.gold.shape[1])])
    target, seen, bounded = matched_penalty(scores), {}, {}
    ensembles, singles, distances = _disagreeing(scores), _first(scores, SINGLE), scores.distances
    require(len(distances) == len(singles), "distances", f"{len(distances)} replicates", f"{len(singles)}")
    kinds = dict.fromkeys(ensembles, "disagreement") | dict.fromkeys(distances[0], "distance")
    for number, single in enumerate(singles):
        one = _replicate(single, scores, kept, ns)
        grid = _Grid(one)
        bounded.setdefault((SINGLE, "none"), []).append(grid.bound(np.zeros_like(one.proxy), np.zeros(2)))
        for name in kinds:
            u = ensembles[name][number].pool.std(-1) if name in ensembles else distances[number][name]
            u = u[kept].astype(np.float64)
            seen.setdefault(name, []).append(_seen(u, one))
            matched = np.full(2, target / u[one.ended].mean())
            covering = [_covering(u, one, half) for half in (1, 0)]  # from the other half
            for rule, strengths in (("matched", matched), ("coverage", np.array(covering))):
                bounded.setdefault((name, rule), []).append(grid.bound(u, strengths))
    replicates = [single.replicate for single in singles]
    return {
        "uncertainty": _seen_rows(seen, kinds, ns),
        "uncertainty_replicates": _seen_by_replicate(seen, kinds, ns, replicates),
        "bounds": _bound_rows(bounded, kinds, scores),
    }


def winners_of(answers: int) -> list[int]:
    """The n whose winners are looked at in a pool of N answers: 64 and 256 where N is large enough, else N / 8."""
    return [n for n in WINNERS_OF if n * RESTS_ON <= answers] or [max(answers // RESTS_ON, 2)]


def weight_below(keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How much weight stands below each answer of its prompt, and half of what stands beside it, itself included.

    Parameters
    ----------
    keys : (P, N), any unit, finite; weights : (P, N, C), 0 or more

    Returns
    -------
    (P, N, C) float64: with weights of sum 1 the mid-rank as a share
    """
    keys, weights = np.asarray(keys), np.asarray(weights, np.float64)
    require(bool(np.isfinite(keys).all()), "keys", "NaN or infinity", "a finite number an answer")
    (P, N), C = keys.shape, weights.shape[-1]
    order = np.argsort(keys, axis=1, kind="stable")
    sorted_keys = np.take_along_axis(keys, order, 1)
    ranked = np.take_along_axis(weights, order[..., None], 1)
    up_to = np.cumsum(ranked, 1).reshape(P * N, C)
    first = np.ones((P, N), bool)
    first[:, 1:] = sorted_keys[:, 1:] != sorted_keys[:, :-1]
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], P * N) - 1
    before = up_to[starts] - ranked.reshape(P * N, C)[starts]
    middle = np.repeat((before + up_to[ends]) / 2, ends - starts + 1, 0).reshape(P, N, C)
    below = np.empty_like(middle)
    np.put_along_axis(below, order[..., None], middle, 1)
    return below


def covering_strength(proxy: np.ndarray, u: np.ndarray, truth: np.ndarray, covered: float = COVERED) -> float:
    """The smallest lambda of 0 or more at which proxy - lambda u lies at or below the truth on a share of labelled answers.

    Parameters
    ----------
    proxy, truth : (B,), one unit; u : (B,), 0 or more, any unit
    covered : the share, above 0 and at most 1
    """
    proxy, u, truth = (np.asarray(x, np.float64) for x in (proxy, u, truth))
    require(len(proxy) > 0, "labelled answers", 0, "at least one")
    require(0 < covered <= 1, "covered", covered, "a share above 0")
    smallest = 1e-9 * max(
        float(u.max()), 1e-300
    )  # nothing covers an answer without uncertainty whose truth is lower
    needed = np.sort((proxy - truth) / np.maximum(u, smallest))
    return max(0.0, float(needed[int(np.ceil(covered * len(needed) - 1e-9)) - 1]))


def _first(scores: StudyScores, name: str) -> list[EnsembleResult]:
    """An ensemble's first instance on each replicate."""
    found: dict[int, EnsembleResult] = {}
    for e in by_name(scores.ensembles)[name]:
        found.setdefault(e.replicate, e)
    return list(found.values())


def _disagreeing(scores: StudyScores) -> dict[str, list[EnsembleResult]]:
    """The first instance on each replicate of every ensemble whose members differ, by name."""
    first = {e.name: _first(scores, e.name) for e in scores.ensembles if e.k > 1}
    return {
        name: group for name, group in first.items() if not any(are_copies(e, scores.ended) for e in group)
    }


def _replicate(single: EnsembleResult, scores: StudyScores, kept: np.ndarray, ns: np.ndarray) -> _Replicate:
    """What uncertainties are held against on a replicate, prompts `kept` alone."""
    proxy = single.pool[kept][..., 0].astype(np.float64)
    gold, ended = scores.gold[kept], scores.ended[kept]
    spread = proxy[ended].std() / max(gold[ended].std(), 1e-300)
    truth = proxy[ended].mean() + spread * (gold - gold[ended].mean())
    signed = np.zeros(proxy.shape)
    signed[ended] = errors.errors(proxy[ended][:, None], gold[ended], np.nonzero(ended)[0])[:, 0]
    both = np.stack([np.abs(signed), signed], -1)  # (P, N, E)
    weights = winner_chances(proxy, ns, ended) * ended[..., None]
    weights /= weights.sum(1, keepdims=True)
    ranks = [weight_below(both[..., i], weights) for i in range(len(ERRORS))]
    labelled, chances = [], weights[..., -1]
    for half in range(2):
        rng = stream(scores.recipe.seed, "labelled winners", single.replicate, half)
        prompts = rng.choice(np.arange(half, len(proxy), 2), BUDGET)
        answers = [rng.choice(proxy.shape[1], p=chances[p]) for p in prompts]
        labelled.append(np.stack([prompts, answers], 1))
    event = np.stack([_largest(both[..., i], ended) for i in range(len(ERRORS))], -1)
    return _Replicate(proxy, gold, truth, ended, weights, event, np.stack(ranks, -1), np.array(labelled))


def _largest(values: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """(P, N) bool: whether a value is among the largest tenth of its prompt's answers that ended, at least one."""
    order = np.argsort(np.where(ended, -values, np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(values.shape[1]), values.shape), 1)
    return rank < np.maximum(1, np.round(TOP * ended.sum(1)))[:, None]


def _seen(u: np.ndarray, one: _Replicate) -> tuple[np.ndarray, ...]:
    """Of an uncertainty (P, N): ordered and all pairs of the AUROC, rank correlations and shares, (P, L, E), and outliers (P, L)."""
    (P, N, L), E = one.weights.shape, len(ERRORS)
    without = one.weights[..., None] * ~one.event[:, :, None]  # (P, N, L, E)
    below = weight_below(u, without.reshape(P, N, L * E)).reshape(P, N, L, E)
    weight = one.weights[..., None] * one.event[:, :, None]
    ordered, share = (weight * below).sum(1), weight.sum(1)
    pairs = share * without.sum(1)
    rank = weight_below(u, one.weights)[..., None]
    correlation = _correlation(rank, one.rank, one.weights[..., None])
    far = u > np.quantile(u[one.ended], FAR)
    return ordered, pairs, correlation, share, np.einsum("pnl,pn->pl", one.weights, far)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlations over axis 1; 0 where one of them does not vary."""
    x, y = (z - (weights * z).sum(1, keepdims=True) for z in (x, y))
    both = (weights * x * y).sum(1)
    spread = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return np.divide(both, spread, out=np.zeros_like(both), where=spread > 1e-12)


def _covering(u: np.ndarray, one: _Replicate, half: int) -> float:
    """`covering_strength` of an uncertainty (P, N) on a half's labelled winners."""
    at = tuple(one.labelled[half].T)
    return covering_strength(one.proxy[at], u[at], one.truth[at])


class _Grid:
    """Best-of-n of a replicate at every n of its grid, under any bound."""

    def __init__(self, one: _Replicate):
        self.one, self.ns = one, n_grid(one.proxy.shape[1])
        self.alone = best_of_n(one.proxy, one.gold, self.ns, one.ended)  # (P, L)
        self.chances = winner_chances(one.proxy, self.ns, one.ended)

    def bound(self, u: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Under proxy - strength u, a strength for even and one for odd prompts: gold, gain, coverage and coverage_chosen
        (4, P, L); the mean strength; the mean penalty at n = 1.
        """
        one = self.one
        penalty = u * strengths[np.arange(len(u)) % 2][:, None]
        covered = (one.truth >= one.proxy - penalty).astype(np.float64)
        best = best_of_n(one.proxy - penalty, np.stack([one.gold, covered], -1), self.ns, one.ended)
        coverage = np.einsum("pnl,pn->pl", self.chances, covered)
        rows = np.stack([best[..., 0], best[..., 0] - self.alone, coverage, best[..., 1]])
        return rows, float(strengths.mean()), float(penalty[one.ended].mean())


def _seen_rows(seen: dict[str, list], kinds: dict[str, str], ns: np.ndarray) -> pd.DataFrame:
    rows = []
    for name, replicates in seen.items():
        ordered, pairs, rank, share, outliers = (np.array(x) for x in zip(*replicates, strict=True))
        total = pairs.mean((0, 1))
        ratio = np.divide(ordered.mean((0, 1)), total, out=np.full(total.shape, np.nan), where=total > 0)
        # the ratio of two means, linearised: its mean is the ratio and its spread that of the ratio's estimate
        auroc = ratio + (ordered - ratio * pairs) / np.where(total > 0, total, np.nan)
        for i, n in enumerate(ns):
            for j, error in enumerate(ERRORS):
                about = {"score": name, "kind": kinds[name], "n": int(n), "error": error}
                about |= columns_of("auroc", mean_interval(auroc[..., i, j]))
                about |= columns_of("corr_rank", mean_interval(rank[..., i, j]))
                about |= {"share": share[..., i, j].mean(), "outliers": outliers[..., i].mean()}
                rows.append(about | {"units": len(replicates)})
    return pd.DataFrame(rows)


def _seen_by_replicate(
    seen: dict[str, list], kinds: dict[str, str], ns: np.ndarray, replicates: Sequence[int]
) -> pd.DataFrame:
    rows = []
    for name, numbers in seen.items():
        for replicate, (ordered, pairs, rank, *_) in zip(replicates, numbers, strict=True):
            total = pairs.mean(0)  # (L, E)
            auroc = np.divide(ordered.mean(0), total, out=np.full(total.shape, np.nan), where=total > 0)
            for i, n in enumerate(ns):
                for j, error in enumerate(ERRORS):
                    about = {"score": name, "kind": kinds[name], "n": int(n), "error": error}
                    about |= {"replicate": replicate, "auroc": auroc[i, j]}
                    rows.append(about | {"corr_rank": rank[:, i, j].mean()})
    return pd.DataFrame(rows)


def _bound_rows(
    bounded: dict[tuple[str, str], list], kinds: dict[str, str], scores: StudyScores
) -> pd.DataFrame:
    rows, ns = [], n_grid(scores.gold.shape[1])
    answers = ess(scores.gold.shape[1], ns)
    for (name, rule), replicates in bounded.items():
        values, strength, penalty = (np.array(x) for x in zip(*replicates, strict=True))
        for i, n in enumerate(ns):
            gold, gain, coverage, chosen = np.moveaxis(values[..., i], 1, 0)  # (D, P) each
            about = {"score": name, "kind": kinds.get(name, SINGLE), "rule": rule, "n": int(n)}
            about |= {"strength": strength.mean(), "penalty": penalty.mean()}
            about |= columns_of("gold", mean_interval(gold)) | columns_of("gain", mean_interval(gain), "")
            about |= columns_of("coverage", mean_interval(coverage)) | {"coverage_chosen": chosen.mean()}
            rows.append(about | {"ess": answers[i], "units": len(replicates)})
    return pd.DataFrame(rows)
