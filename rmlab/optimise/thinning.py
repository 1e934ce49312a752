"""What a page keeps of a pool: which answers, how many others each stands for, their scores in 16 bits.

Letters: P prompts, N answers a prompt in the pool, M of them kept, C members (columns), R rankings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

STEPS = 100  # of the grid, that at least have to lie among the scores in `MOST`
MOST = ((0.5, 0.9), (0.25, 0.75), (0.01, 0.99))  # quantiles of a member's scores; the first that differ count


def thin(
    scores: np.ndarray,
    gold: np.ndarray | None,
    ensembles: Sequence[dict],
    keep: int,
    seed: int,
    ended: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most `keep` answers a prompt, those that can win first.

    An answer of rank r under a ranking wins best-of-n with probability at most about 1/(e r), whatever n. Its
    best rank r, over every column, the mean, min and mean - std of every ensemble, and gold if any, decides how
    likely it is kept: min(1, c/r), with c such that `keep` are. A kept answer stands for r/c others (at least
    1), so the first c of every ranking are exact and the curves have no bias to first order.

    Parameters
    ----------
    scores (P, N, C), gold (P, N) or None : finite; ensembles : dicts with `members`, columns of scores
    keep : M, where more answers end; seed : of the sample
    ended : (P, N) bool, optional: an answer that never ended is left out, and the others stand for its share too, as
        if answers were drawn until one ends. A prompt where none ended keeps them all

    Returns
    -------
    kept : (P, M) indices into N; weight : (P, M) float64, how many answers each stands for, N a row. A prompt with
        fewer than M answers to keep has them more than once, their weight divided
    """
    P, N = scores.shape[:2]
    there = np.ones((P, N), bool) if ended is None else np.asarray(ended)
    require(
        there.shape == (P, N) and there.dtype == bool, "ended", (there.shape, there.dtype), f"bool {(P, N)}"
    )
    there = there | ~there.any(1, keepdims=True)
    keep = min(keep, int(there.sum(1).max()))
    rng = np.random.default_rng(seed)
    kept, weight = np.zeros((P, keep), np.int64), np.ones((P, keep))
    for p in range(P):
        rows = np.flatnonzero(there[p])
        if len(rows) <= keep:
            places = np.arange(keep) % len(rows)
            kept[p], weight[p] = rows[places], 1 / np.bincount(places)[places]
        else:
            mine = scores[p][rows]
            rankings = [*mine.T] if gold is None else [*mine.T, gold[p][rows]]
            for ensemble in ensembles:
                part = mine[:, ensemble["members"]]
                rankings += [aggregate(part, name, 1.0) for name in ("mean", "min", "mean_std")]
            chosen, weight[p] = _sample(np.stack(rankings), keep, rng)
            kept[p] = rows[chosen]
        weight[p] *= N / len(rows)
    return kept, weight


def best_tenth(weight: np.ndarray, score: np.ndarray, tie: float) -> np.ndarray:
    """Of one prompt's weights (M,) those of its best tenth by score, 0 elsewhere; ties at its end share the rest.

    score : (M,) any unit; scores closer than `tie` are equal. Returns (M,) summing to a tenth of the weights.
    """
    room = weight.sum() / 10
    order = np.argsort(-score, kind="stable")
    last = np.argmax(np.append(np.cumsum(weight[order])[:-1] >= room * (1 - tie), True))
    over = score - score[order[last]]
    above, level = over > tie, np.abs(over) <= tie
    return weight * (above + level * (room - weight[above].sum()) / weight[level].sum())


def grid(scores: np.ndarray, columns: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (P, M, C) as whole steps (P, M, C) from -32767 to 32767, with scale and offset (C,) float32.

    A member's steps go from its lowest score to its highest, and a score is step * scale + offset, half a
    step off at most.

    Raises
    ------
    ValueError : a score so far off that most of the member's others, those that are chosen, would share fewer
        than `STEPS` steps
    """
    low, high = scores.min((0, 1)), scores.max((0, 1))
    offset = ((low + high) / 2).astype(np.float32)
    scale = np.where(high > low, np.maximum(high - offset, offset - low) / 32767, 1.0).astype(np.float32)
    for c, name in enumerate(columns):
        spans = (np.quantile(scores[..., c], part) for part in MOST)
        bottom, top = next(((a, b) for a, b in spans if b > a), (-np.inf, np.inf))
        far = low[c] if bottom - low[c] > high[c] - top else high[c]
        mend = f"one closer to most others, {bottom:.3g} to {top:.3g}, which it would make coarse"
        require(top - bottom >= STEPS * scale[c], f"a score of {name!r}", float(far), mend)
    return np.clip(np.rint((scores - offset) / scale), -32767, 32767), scale, offset


def _sample(rankings: np.ndarray, keep: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One prompt: rankings (R, N) to the kept answers (keep,) and their weights, which sum to N."""
    N = rankings.shape[1]
    place = np.empty(rankings.shape, np.int64)
    np.put_along_axis(place, np.argsort(-rankings, 1, kind="stable"), np.arange(1, N + 1)[None], 1)
    best = place.min(0)
    low, high = 0.0, float(N)
    for _ in range(60):  # the c at which `keep` answers are kept
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c / best).sum() < keep else (low, c)
    chance = np.minimum(1, high / best)
    sure = np.flatnonzero(chance >= 1)[:keep]
    rest = np.setdiff1d(np.arange(N), sure)
    rest = rest[np.argsort(rankings[:, rest].mean(0), kind="stable")]
    reach = np.cumsum(chance[rest])
    reach *= (keep - len(sure)) / reach[-1]
    marks = rng.random() + np.arange(keep - len(sure))  # evenly along the score: one draw places all
    sampled = rest[np.minimum(np.searchsorted(reach, marks), len(rest) - 1)]
    stands = 1 / chance[sampled]
    stands *= (N - len(sure)) / max(stands.sum(), 1e-300)
    return np.append(sure, sampled), np.append(np.ones(len(sure)), stands)
