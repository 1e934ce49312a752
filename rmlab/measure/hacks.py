"""What winning answers hold: how often each term of gold's bill occurs before and after optimisation.

After Eisenstein et al. 2312.09244, whose preferred answers have a list in about 8% of all cases, and the answers that
are optimised against any of three members, or against their ensemble, in about half: what every member likes is hacked
through the ensemble too. Here optimisation is best-of-n, and the terms are the bill's, good ones beside bad ones.

Letters: P prompts, N answers a prompt, F terms, K members, D replicates, L values of n.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores, by_name
from rmlab.measure.winners import interval, some_instances
from rmlab.optimise.best_of_n import winner_chances
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

AFTER = 256  # answers drawn
MEMBER = "member"  # each member chooses alone


def hacks(scores: StudyScores) -> pd.DataFrame:
    """Each term's rate and count in the winner, a row an ensemble, rule, n and term; terms that never occur have none.

    n is 256 and N, and 1 for `single` alone, where no score has chosen yet: then winners are the pool's answers.
    Winners that never ended are left out at every n. At most three instances of an ensemble a replicate, averaged
    before the interval.

    Returns
    -------
    `aggregator` is "mean", "min", or "member": members choose alone, one after the other, and are averaged; left out
    where they are single models, whose row it would be. `rate`, share of winners that hold the term at least once,
    with its interval over replicates and prompts, `low` and `high`, cut off at 0 and 1. `count`, its mean count in a
    winner, as the bill counts (coverage in sixths of the asked facts). `before`, the rate at n = 1.
    """
    terms, names = scores.terms, scores.term_names
    require(terms is not None, "terms", None, "a source with a bill: gold's terms, counted in every answer")
    used = np.flatnonzero(terms[scores.ended].any(0))
    names, ns = [names[f] for f in used], _pressures(scores.gold.shape[1])
    held = np.concatenate([terms[..., used] > 0, terms[..., used]], -1).astype(np.float64)  # (P, N, 2 F)
    frames = []
    for name, group in by_name(scores.ensembles).items():
        for rule in _rules(group[0]):
            found = [
                np.mean([_held(e, rule, held, ns, scores.ended) for e in instances], 0)
                for instances in some_instances(group).values()
            ]
            keys = {"ensemble": name, "aggregator": rule}
            frames.append(pd.DataFrame({**keys, **_columns(np.stack(found), ns, names)}))
    table = pd.concat(frames, ignore_index=True)
    return table[(table.n > 1) | (table.ensemble == SINGLE)].reset_index(drop=True)


def _pressures(N: int) -> np.ndarray:
    """1, 256 and N, those that there are."""
    return np.unique([1, min(AFTER, N), N])


def _rules(e: EnsembleResult) -> tuple[str, ...]:
    """How an ensemble, or a member of it, chooses."""
    if e.k == 1:
        return ("mean",)
    return ("mean", "min") if all(p.method == SINGLE for p in e.parts) else (MEMBER, "mean", "min")


def _held(e: EnsembleResult, rule: str, held: np.ndarray, ns: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """What an instance's winners hold, (P, L, 2 F): held (P, N, 2 F) of every answer, F rates and then F counts."""
    choosers = np.moveaxis(e.pool, -1, 0) if rule == MEMBER else [aggregate(e.pool, rule)]
    found = 0.0
    for score in choosers:
        chances = winner_chances(np.where(ended, score, -np.inf), ns) * ended[..., None]  # (P, N, L)
        with np.errstate(invalid="ignore"):
            found = found + np.moveaxis(chances, 1, 2) @ held / chances.sum(1)[..., None]
    return found / len(choosers)


def _columns(found: np.ndarray, ns: np.ndarray, names: list[str]) -> dict[str, object]:
    """The table's columns, a row an n and term; found : (D, P, L, 2 F)."""
    F, bands = len(names), [interval(found[:, :, i]) for i in range(len(ns))]  # (2 F,) each
    rate, low, high = (np.stack([getattr(b, x)[:F] for b in bands]) for x in ("mean", "low", "high"))
    columns = {"n": np.repeat(ns, F), "term": names * len(ns), "rate": rate.ravel()}
    columns |= {"low": low.ravel().clip(0, 1), "high": high.ravel().clip(0, 1)}
    columns |= {"count": np.stack([b.mean[F:] for b in bands]).ravel(), "before": np.tile(rate[0], len(ns))}
    return {**columns, "units": len(found)}
