"""Are the K members different functions? Agreement in distribution, of their ranks and picks, and of their heads.

An ensemble helps as far as its members err in different places. Members that agree wherever an optimiser looks are
copies, whatever their number: their minimum is their mean (Eisenstein et al. 2312.09244, for seeds that
share a pretraining run). Where they err, and on the optimised tail, is measured in `rmlab.measure.errors`.

Letters: P prompts, N answers a prompt, K members, M held-out pairs, D hidden. Member scores are in each member's own
unit; every number here but `leave_one_out` is free of units, or says so.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from rmlab.optimise.best_of_n import best_of_n
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

COPIES = 0.9  # members are copies when their errors correlate by more


def effective_members(correlation: np.ndarray) -> float:
    """How many independent members would average away as much error as these K: K / (1 + (K - 1) rho).

    The variance of the mean of K equally spread errors with mean correlation rho is (1 + (K - 1) rho) / K times that
    of one: the effective size of a cluster sample (Kish 1965).

    Parameters
    ----------
    correlation : (K, K) between members, such as from `margin_correlation` or
        `rmlab.measure.errors.error_correlation`, no NaN

    Returns
    -------
    1 to K, in members: 1 for copies, K for independent members, 1 where K = 1. A mean correlation below 0 counts
    as 0, so no ensemble has more than K effective members. Margins and scores correlate by what the members rightly
    share too, not by their errors alone: good members that err apart still count as few; compare such a number
    between ensembles. That of the correlation of errors stands for itself.
    """
    c = np.asarray(correlation, np.float64)
    square = c.ndim == 2 and c.shape[0] == c.shape[1] and c.size > 0
    require(square, "correlation's shape", c.shape, "correlations (K, K) with at least one member")
    finite = bool(np.isfinite(c).all())
    require(finite, "correlation", "NaN or infinity", "a number for every pair of members")
    K = len(c)
    return K / (1 + (K - 1) * np.clip(mean_off_diagonal(c), 0, 1)) if K > 1 else 1.0


def verdict(k: int, correlation: float, noun: str = "members") -> str:
    """The effective number of members in words: "5 heads, 1.1 effective: they are copies".

    They are called copies where the correlation is above 0.9, whatever their number: then no number of such members
    averages away more than a tenth of one's error variance.

    Parameters
    ----------
    k : members, at least 1
    correlation : the mean over pairs of members of the correlation of their errors, such as from
        `rmlab.measure.errors.error_correlation`; not read where k = 1
    noun : what the members are, in the plural
    """
    require(k >= 1, "k", k, "at least one member")
    if k == 1:
        return f"1 {noun.removesuffix('s')}, 1.0 effective"
    require(-1 <= correlation <= 1, "correlation", correlation, "a number from -1 to 1")
    effective = k / (1 + (k - 1) * max(correlation, 0.0))
    return f"{k} {noun}, {effective:.1f} effective" + (": they are copies" if correlation > COPIES else "")


def margin_correlation(heldout: np.ndarray) -> np.ndarray:
    """Correlation of the members' margins, chosen minus rejected: do they agree in distribution?

    Parameters
    ----------
    heldout : (M, 2, K) member scores of chosen and rejected answers

    Returns
    -------
    (K, K) Pearson correlations over the M pairs. Two members without any spread correlate 1, one of them with any
    other member 0.
    """
    heldout = np.asarray(heldout, np.float64)
    ok = heldout.ndim == 3 and heldout.shape[1] == 2 and len(heldout) > 1 and heldout.shape[2] > 0
    require(ok, "heldout's shape", heldout.shape, "scores (M, 2, K) of at least two pairs: chosen, rejected")
    margins = heldout[:, 0] - heldout[:, 1]
    scale = np.abs(heldout).max((0, 1))  # what a margin's rounding is measured against
    return _pearson(margins - margins.mean(0), scale)


def rank_correlation(scores: np.ndarray, ended: np.ndarray | None = None) -> np.ndarray:
    """Mean over prompts of the Spearman correlation between members over a prompt's answers.

    Parameters
    ----------
    scores : (P, N, K) member scores; best-of-n sees their order alone
    ended : (P, N) bool, optional: False leaves an answer out; a prompt with one answer or none left is left out

    Returns
    -------
    (K, K) Spearman correlations, ties at their mean rank; constants as in `margin_correlation`
    """
    scores, ended = _pool(scores, ended)
    correlations = []
    for row, keep in zip(scores, ended, strict=True):
        if keep.sum() > 1:
            ranks = rankdata(row[keep], axis=0)  # (n, K)
            correlations.append(_pearson(ranks - ranks.mean(0), np.full(ranks.shape[1], float(len(ranks)))))
    require(len(correlations) > 0, "ended", "no prompt with two answers", "a pool whose answers end")
    return np.mean(correlations, 0)


def top_agreement(scores: np.ndarray, n: int, ended: np.ndarray | None = None) -> float:
    """Chance that two different members pick the same answer as the best of n.

    Parameters
    ----------
    scores : (P, N, K) member scores; the order of a prompt's answers is random, so blocks of n in a row are draws
        of n answers (N // n of them; a rest is not used)
    n : answers drawn, 1 to N
    ended : (P, N) bool, optional: False disqualifies an answer; a block where none ended is left out

    Returns
    -------
    0 to 1, averaged over the blocks of a prompt, then over prompts and pairs of members; members that know nothing
    of each other agree 1 / n of the time. 1 where K = 1. Ties go to the answer that comes first.
    """
    scores, ended = _pool(scores, ended)
    P, N, K = scores.shape
    require(1 <= n <= N and n == int(n), "n", n, f"a whole number from 1 to N = {N}")
    n = int(n)
    blocks = N // n
    counts = ended[:, : blocks * n].reshape(P, blocks, n)
    cut = scores[:, : blocks * n].reshape(P, blocks, n, K)
    picks = np.where(counts[..., None], cut, -np.inf).argmax(2)  # (P, blocks, K)
    alive = counts.any(2)
    require(bool(alive.any()), "ended", "no block with an answer that ends", "a pool whose answers end")
    if K == 1:
        return 1.0
    same = (picks[..., None] == picks[..., None, :]).sum((2, 3)) - K  # ordered pairs that agree
    share = np.where(alive, same / (K * (K - 1)), 0.0).sum(1)
    return float((share[alive.any(1)] / alive.sum(1)[alive.any(1)]).mean())


def principal_angles(heads: np.ndarray) -> np.ndarray:
    """Angles between every two head directions, in degrees: 0 for copies, 90 for unrelated, 180 for opposite heads.

    Between lines the principal angle stops at 90; here the sign counts, as a head turned round ranks answers backwards.

    Parameters
    ----------
    heads : (K, D) weight vectors of the K heads on one encoder, none of them zero

    Returns
    -------
    (K, K) degrees. Exact near 0 and 180, where an arc cosine is not (Kahan: twice the arc tangent of
    |u - v| / |u + v|).
    """
    unit = _directions(heads)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    along = np.linalg.norm(unit[:, None] + unit[None], axis=-1)
    return np.degrees(2 * np.arctan2(apart, along))


def spectral_entropy(heads: np.ndarray) -> float:
    """Effective rank of the heads: how many directions they really use, 1 to K (and at most D).

    The exponential of the entropy of the squared singular values of the heads at length 1, normalised to sum 1 (Roy
    and Vetterli 2007, with squares): 1 when all are parallel, K when all are at right angles.

    Parameters
    ----------
    heads : (K, D), none of them zero
    """
    s2 = np.linalg.svd(_directions(heads), compute_uv=False) ** 2
    share = s2 / s2.sum()
    share = share[share > 1e-15]  # x log x goes to 0; below this it is rounding
    return float(max(1.0, np.exp(-(share * np.log(share)).sum())))


def min_shares(scores: np.ndarray) -> np.ndarray:
    """Share of answers on which each member is the minimum: 1/K each if the members take turns.

    A share near 1 means that `min` listens to that member alone.

    Parameters
    ----------
    scores : (..., K) member scores, aligned; members that tie share the answer

    Returns
    -------
    (K,) summing to 1
    """
    scores = np.asarray(scores)
    require(scores.ndim >= 1 and scores.size > 0, "scores' shape", scores.shape, "scores (..., K), not empty")
    scores = scores.reshape(-1, scores.shape[-1])
    lowest = scores == scores.min(-1, keepdims=True)
    return (lowest / lowest.sum(-1, keepdims=True)).mean(0)


def leave_one_out(
    scores: np.ndarray,
    gold: np.ndarray,
    aggregator: str,
    strength: float = 1.0,
    n: int = 64,
    ended: np.ndarray | None = None,
) -> np.ndarray:
    """What each member adds: gold of the best of n by all K, minus gold without that member.

    Parameters
    ----------
    scores : (P, N, K) member scores, aligned, K at least 2
    gold : (P, N) gold reward
    aggregator, strength : as in `aggregate`
    n : answers drawn, 1 to N
    ended : (P, N) bool, optional: False disqualifies an answer, as in `best_of_n`

    Returns
    -------
    (K,) gold units, averaged over prompts: positive where the member helps
    """
    scores, mask = _pool(scores, ended)
    K = scores.shape[2]
    require(K > 1, "K", K, "at least two members: one cannot be left out of one")

    def worth(kept: np.ndarray) -> float:
        return float(best_of_n(aggregate(kept, aggregator, strength), gold, [n], mask).mean())

    whole = worth(scores)
    return np.array([whole - worth(np.delete(scores, k, -1)) for k in range(K)])


def mean_off_diagonal(matrix: np.ndarray) -> float:
    """The mean of a (K, K) matrix without its diagonal: NaN where K = 1, which has no pairs."""
    matrix = np.asarray(matrix, np.float64)
    K = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (K * (K - 1))) if K > 1 else float("nan")


def _pearson(centred: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(K, K) from centred columns (R, K). A column no larger than its rounding, `scale` (K,), counts as constant."""
    length = np.sqrt((centred**2).sum(0))
    still = length <= 1e-7 * scale * np.sqrt(len(centred))  # float32's rounding
    unit = centred / np.where(still, 1.0, length)
    unit[:, still] = 0.0
    c = np.clip(unit.T @ unit, -1, 1)
    c[np.ix_(still, still)] = 1.0
    np.fill_diagonal(c, 1.0)
    return c


def _pool(scores: np.ndarray, ended: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores (P, N, K) and the mask (P, N), all True where it is None."""
    scores = np.asarray(scores)
    ok = scores.ndim == 3 and scores.size > 0
    require(ok, "scores' shape", scores.shape, "member scores (P, N, K), not empty")
    require(not np.isnan(scores).any(), "scores", "NaN", "a score for every answer, those that never end too")
    ended = np.ones(scores.shape[:2], bool) if ended is None else np.asarray(ended)
    ok = ended.shape == scores.shape[:2] and ended.dtype == bool
    require(ok, "ended", (ended.shape, ended.dtype), f"bool {scores.shape[:2]}")
    return scores, ended


def _directions(heads: np.ndarray) -> np.ndarray:
    """(K, D) rows at length 1."""
    heads = np.asarray(heads, np.float64)
    require(heads.ndim == 2 and heads.size > 0, "heads' shape", heads.shape, "a head matrix (K, D)")
    length = np.linalg.norm(heads, axis=1, keepdims=True)
    ok = bool(np.isfinite(length).all() and (length > 0).all())
    mend = "finite heads, none of them zero: those have no direction"
    require(ok, "heads' lengths", length[:, 0].tolist(), mend)
    return heads / length
