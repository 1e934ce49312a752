"""Do members err together at the answers that best-of-n keeps? What of the winner's overrating all of them believe.

Eisenstein et al. 2312.09244 call it herding: an ensemble helps against errors that its members make apart, and not
against those that they share. A member's score is slope x gold + error, within prompts (`rmlab.measure.errors`). The
gap of an aggregate is its error at its own winner, in members' standard deviations: what the winner's score holds that
gold does not.

The split. With c what all members of one kind believe wrongly and u_k what member k adds by chance, e_k = c + u_k, the
winner of some members has c high and their own u high. A member that did not choose has its u independent of the
choice, so its error at the winner has the expectation of c there, whatever the distributions: that is the shared part,
without bias. The choosers' own error minus it is the expectation of their u: what the choice took from chance, which
more members remove. Members that have all chosen cannot tell the two apart. So K - 1 choose and the one left out is
read, in turn: the split is that of an ensemble of K - 1.

Letters: P prompts, N answers a prompt, K members, D replicates, L values of n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rmlab.measure.clusters import Estimate
from rmlab.measure.compare import covered
from rmlab.measure.diversity import mean_off_diagonal
from rmlab.measure.ensembles import EnsembleResult, MemberScores, StudyScores, by_name
from rmlab.measure.errors import effective_errors
from rmlab.measure.intervals import columns_of
from rmlab.measure.winners import (
    centred,
    interval,
    member_errors,
    ratio_interval,
    some_instances,
    winner_means,
)
from rmlab.optimise.best_of_n import n_grid
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

RULES = ("mean", "min")
REPLICATES_AT = (1, 64, 256)  # n with rows by replicate
FEWEST = 8  # answers a prompt that a correlation of the tail needs
COLUMNS = (
    "ensemble method k aggregator n score gap own shared idiosyncratic stranger".split()
)  # of an empty table


def herding(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """The gap between proxy and gold at best-of-n's winner and what of it members share: a row an ensemble, rule and n.

    Ensembles of K > 1 under their mean and their min; at most three instances a replicate, averaged before the
    intervals over replicates and prompts (`_low`, `_high`). Scores and errors are in members' standard deviations, at
    winners that ended.

    Returns
    -------
    `herding`, and `herding_replicates`: own, shared, idiosyncratic, corr_error and unanimous of each replicate at n of
    `REPLICATES_AT`.

    By the winner of all K members: `score`, the aggregate at its winner, above its mean over the prompt's answers;
    `gap`, the part of it that is error of the aggregate itself (the rest is slope x gold).

    By the winners of K - 1 members, averaged over who is left out: `own`, mean error of the K - 1 that chose (under
    the mean, the gap of an ensemble of K - 1; under the min, how much its members overrate on average, while the min's
    own `gap` also counts that they agree there more than elsewhere). `shared`, error of the one left out: the
    expectation of what all members of the kind believe wrongly at that winner. `idiosyncratic`, own minus shared;
    `shared_share`, mean shared over mean own. `stranger`, mean error of the replicate's single models on backbones
    that none of the K - 1 stands on: of the shared part, what labels and world alone give, so that shared minus
    stranger belongs to backbone and kind; NaN where every backbone has chosen. What all single models of a study
    share, such as their size, no stranger can tell.

    A member of a union (a grid of backbones and seeds) has siblings of its backbone among the choosers, so its
    `shared` is that of a further seed on one of the same backbones. Heads, adapters, masks and posterior draws stand
    on one encoder, which is in their shared part, and those trained together are no fresh draws of each other.

    Herding in errors: `corr_error` and `effective_error`, by `tail_correlations` on the N / n answers of each prompt
    that the aggregate likes best, intervals over replicates; NaN below eight answers.

    Herding in choice: `unanimous`, the chance that all K members pick the same answer of n; 1 / n to the power K - 1
    for members that know nothing of each other.
    """
    alone = {m.id: member_errors(m.pool, scores.gold, scores.ended)[..., 0] for m in scores.singles}
    frames, by_replicate = [], []
    for name, group in by_name(scores.ensembles).items():
        if group[0].k == 1:
            continue
        found = [[_numbers(e, scores, alone) for e in rows] for rows in some_instances(group).values()]
        for rule in RULES:
            keys = {"ensemble": name, "method": group[0].method, "k": group[0].k, "aggregator": rule}
            replicates = [_averaged([numbers[rule] for numbers in rows]) for rows in found]
            frames.append(pd.DataFrame({**keys, **_columns(replicates, group[0].k)}))
            for replicate, numbers in zip(some_instances(group), replicates, strict=True):
                by_replicate.append(pd.DataFrame({**keys, "replicate": replicate, **_means(numbers)}))
    joined = (
        pd.concat(x, ignore_index=True) if x else pd.DataFrame(columns=COLUMNS)
        for x in (frames, by_replicate)
    )
    return dict(zip(("herding", "herding_replicates"), joined, strict=True))


def split_gap(
    pool: np.ndarray,
    errors: np.ndarray,
    strangers: Sequence[np.ndarray | None],
    ended: np.ndarray,
    aggregator: str,
) -> np.ndarray:
    """Errors at the winners of K - 1 members, at every n of `n_grid`: their own, the left-out member's, a stranger's.

    Parameters
    ----------
    pool : (P, N, K) member scores, aligned, K at least 2
    errors : (P, N, K) from `rmlab.measure.winners.member_errors`
    strangers : K, for each member that may be left out the errors (P, N) of one that knows no chooser, or None
    ended : (P, N) bool
    aggregator : "mean" or "min", by which the K - 1 choose

    Returns
    -------
    (P, L, 3), averaged over the member left out: own, shared, stranger (NaN unless there always is one)
    """
    K, ns = pool.shape[2], n_grid(pool.shape[1])
    require(K > 1, "K", K, "at least two members: one that chooses, one that did not")
    require(len(strangers) == K, "strangers", len(strangers), f"one for each of {K} members, or None")
    total = errors.sum(-1)
    split = np.zeros((len(pool), len(ns), 3))
    for k, stranger in enumerate(strangers):
        chooser = aggregate(np.delete(pool, k, -1), aggregator)
        values = [(total - errors[..., k]) / (K - 1), errors[..., k]]
        values += [] if stranger is None else [stranger]
        read = winner_means(chooser, np.stack(values, -1), ns, ended)
        split[..., : len(values)] += read / K
        if stranger is None:
            split[..., 2] = np.nan
    return split


def tail_correlations(
    errors: np.ndarray, proxy: np.ndarray, ended: np.ndarray, tops: Sequence[int]
) -> np.ndarray:
    """The mean correlation of two members' errors, as tails of several sizes show it, freed of the choice of the tail.

    `rmlab.measure.errors.tail_error_correlation`, whose reasons hold here, at all sizes for one sorting. Errors at the
    winners themselves, or weighted by the chance to win, correlate less the larger n is, whatever the members: winners
    are alike in what members share. The tail of n here is the N / n answers of a prompt that the proxy likes best: the
    winner of n lies in it 63% of the time or more.

    Parameters
    ----------
    errors : (P, N, K), 0 where an answer never ended
    proxy : (P, N) what chooses
    ended : (P, N) bool
    tops : (T,) answers a prompt

    Returns
    -------
    (T,) Pearson correlations, means over pairs of members; NaN below eight answers, or for members that do not err
    """
    K = errors.shape[2]
    proxy = centred(proxy, ended)
    free, power = ended.sum() - ended.any(1).sum(), (proxy**2).sum()
    slope = (errors * proxy[..., None]).sum((0, 1)) / power if power > 0 else np.zeros(K)
    order = np.argsort(np.where(ended, -proxy, np.inf), axis=1, kind="stable")
    left = np.take_along_axis(errors - proxy[..., None] * slope, order[..., None], 1)
    there = np.take_along_axis(ended, order, 1)
    means = []
    for top in tops:
        tail, answers = left[:, :top], there[:, :top].sum(1)  # those that ended come first
        sums = (tail * there[:, :top, None]).sum(1)
        tail = (tail - (sums / np.maximum(answers, 1)[:, None])[:, None]) * there[:, :top, None]
        tail_free = np.maximum(answers - 1, 0).sum()
        if top < FEWEST or tail_free < 2:
            means.append(np.nan)
            continue
        rows = tail.reshape(-1, K)
        covariance = rows.T @ rows / tail_free + np.outer(slope, slope) * power / free
        spread = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(mean_off_diagonal(np.clip(covariance / np.outer(spread, spread), -1, 1)))
    return np.array(means)


def unanimity(pool: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """The share of draws of n answers of which all K members pick the same, at every n of `n_grid`.

    Parameters
    ----------
    pool : (P, N, K) member scores; the order of a prompt's answers is random, so blocks of n in a row are draws of n
    ended : (P, N) bool: False disqualifies an answer; a block where none ended is left out

    Returns
    -------
    (P, L), averaged over a prompt's N // n blocks; NaN where none is left. Ties go to the answer that comes first.
    """
    best = np.where(ended[..., None], pool, -np.inf)  # (P, blocks, K)
    pick = np.broadcast_to(np.arange(pool.shape[1])[:, None], best.shape)
    shares = []
    for _ in n_grid(pool.shape[1]):
        alive = best[..., 0] > -np.inf
        same = (pick == pick[..., :1]).all(-1) & alive
        with np.errstate(invalid="ignore"):
            shares.append(same.sum(1) / alive.sum(1))
        even = best.shape[1] // 2 * 2  # a block of 2 n is two of n
        left, right = (slice(start, even, 2) for start in (0, 1))
        second = best[:, right] > best[:, left]
        best, pick = (np.where(second, x[:, right], x[:, left]) for x in (best, pick))
    return np.stack(shares, 1)


def strangers_of(
    parts: Sequence[MemberScores], singles: Sequence[MemberScores], errors: dict[str, np.ndarray]
) -> list[np.ndarray | None]:
    """For each member that may be left out, mean errors (P, N) of single models on backbones that no other member has.

    parts : the ensemble's; singles : the replicate's single models; errors : theirs (P, N), by id
    """
    known: dict[frozenset[int], np.ndarray | None] = {}
    found = []
    for i, part in enumerate(parts):
        choosing = frozenset(p.backbone for j, p in enumerate(parts) if j != i or p.k > 1)
        if choosing not in known:
            away = [errors[m.id] for m in singles if m.backbone not in choosing]
            known[choosing] = np.mean(away, 0) if away else None
        found += [known[choosing]] * part.k
    return found


def _numbers(
    e: EnsembleResult, scores: StudyScores, alone: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """One instance's numbers by rule: (P, L) each, the correlation (L,). alone : errors (P, N) of singles, by id."""
    pool, gold, ended = e.pool, scores.gold, scores.ended
    ns = n_grid(gold.shape[1])
    errors = member_errors(pool, gold, ended)
    strangers = strangers_of(e.parts, [m for m in scores.singles if m.draw == e.replicate], alone)
    unanimous, found = unanimity(pool, ended), {}
    for rule in RULES:
        proxy = aggregate(pool, rule)
        mistaken = member_errors(proxy[..., None], gold, ended)[..., 0]
        whole = winner_means(proxy, np.stack([centred(proxy, ended), mistaken], -1), ns, ended)
        split = split_gap(pool, errors, strangers, ended, rule)
        names = ("score", "gap", "own", "shared", "stranger")
        found[rule] = dict(zip(names, np.moveaxis(np.concatenate([whole, split], -1), -1, 0), strict=True))
        found[rule] |= {"unanimous": unanimous}
        found[rule] |= {"corr_error": tail_correlations(errors, proxy, ended, gold.shape[1] // ns)}
    return found


def _averaged(instances: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A replicate's numbers: the means over its instances."""
    return {name: np.mean([numbers[name] for numbers in instances], 0) for name in instances[0]}


def _means(numbers: dict[str, np.ndarray]) -> dict[str, object]:
    """A replicate's numbers at n of `REPLICATES_AT`, means over prompts: own, shared, their difference, correlation."""
    ns = n_grid(2 ** (numbers["own"].shape[-1] - 1))
    at = np.isin(ns, REPLICATES_AT)
    rates = np.stack([numbers[name][:, at] for name in ("own", "shared", "unanimous")])  # (3, P, L)
    known = ~np.isnan(rates).any((0, 2))
    own, shared, unanimous = rates[:, known].mean(1) if known.any() else np.full_like(rates[:, 0], np.nan)
    columns = {"n": ns[at], "own": own, "shared": shared, "idiosyncratic": own - shared}
    return columns | {"corr_error": numbers["corr_error"][at], "unanimous": unanimous}


def _columns(replicates: list[dict[str, np.ndarray]], k: int) -> dict[str, object]:
    """A column a number, L rows each, with the ends of its interval; replicates : D of `_averaged`."""
    x = {name: np.stack([numbers[name] for numbers in replicates]) for name in replicates[0]}
    x = {
        name: np.round(values, 12) + 0.0 for name, values in x.items()
    }  # means of 0 at n = 1, without their rounding
    x["idiosyncratic"] = x["own"] - x["shared"]
    columns: dict[str, object] = {"n": n_grid(2 ** (x["own"].shape[-1] - 1))}
    for name in ("score", "gap", "own", "shared", "idiosyncratic", "stranger"):
        columns |= columns_of(name, interval(x[name]))
    columns |= columns_of("shared_share", ratio_interval(x["shared"], x["own"]))
    together = interval(x["corr_error"][:, None])
    columns |= columns_of("corr_error", together)
    effective = [
        effective_errors(Estimate(*ends, len(replicates)), k)[:3] for ends in zip(*together[:3], strict=True)
    ]
    names = ("effective_error", "effective_error_low", "effective_error_high")
    columns |= dict(zip(names, np.array(effective).T, strict=True))
    return columns | columns_of("unanimous", interval(x["unanimous"])) | covered(x["own"])
