"""How far do more members help? Gold and gap of large ensembles, predicted from ensembles of two.

The errors of an ensemble's mean are worth, in variance, the mean of its members' covariances: K of them are a member's
own variance, the rest covariances of two members, which do not shrink with K. Two members of one backbone have one
covariance, two of different backbones another (smaller) one; what is left of either for K without end is the ceiling.

The prediction. With gold and errors jointly Gaussian within prompts, the winner of n has expected error V / S x m(n)
and expected gold, above the prompt's mean, slope x variance of gold / S x m(n); V is the variance of the mean's errors,
S the standard deviation of the mean's scores, m(n) the expected largest of n standard normal numbers (regressional
Goodhart: Gao et al. 2210.10760, Eq. 1). m(n) and gold's part are the same for any K. So the gap measured with two
members is multiplied by (V / S of K) / (V / S of two), the gold by (S of two) / (S of K): the curve's shape over n is
measured, its size for K is predicted, and the difference says what Gaussian errors cannot.

Letters: P prompts, N answers a prompt, K members, D replicates, L values of n.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import SINGLE, MemberScores, StudyScores, by_name
from rmlab.measure.winners import centred, interval, member_errors, some_instances, winner_means
from rmlab.optimise.best_of_n import n_grid

QUANTITIES = ("gold", "gap")
COLUMNS = "ensemble k base n quantity kind value low high units".split()


class Components(NamedTuple):
    """Variances within prompts of members' scores, or of their errors, in the scores' unit squared.

    own : of one member; same, other : covariance of two of the same backbone, of different ones; NaN where unknown
    """

    own: float
    same: float
    other: float

    def of_mean(self, members: Sequence[MemberScores]) -> float:
        """The variance of the mean of single models (K,): by how many pairs stand on one backbone."""
        K = len(members)
        alike = sum(a.backbone == b.backbone for a, b in combinations(members, 2))
        apart = K * (K - 1) // 2 - alike
        pairs = (alike * self.same if alike else 0.0) + (apart * self.other if apart else 0.0)
        return (K * self.own + 2 * pairs) / K**2


def ceiling(scores: StudyScores) -> pd.DataFrame:
    """Gold and gap of ensembles of single models under their mean, predicted from two members and measured.

    Predicted are all ensembles of more than two plain single models: finetuning seeds, pretraining seeds, and unions of
    them such as a grid. Two members: of a replicate's first two backbones the first two finetuning seeds, in pairs of
    one backbone (`base` "finetune2") for ensembles on one backbone, of two ("pretrain2") for others. Their covariances
    are all that a prediction knows of the members; at most three instances a replicate are measured.

    Returns
    -------
    A row an ensemble, n, quantity and kind, with 95% intervals over replicates and prompts.
    `quantity` is "gold", of the winner above its prompt's mean, gold units, or "gap", as in `rmlab.measure.herding`,
    standard deviations of members. `kind` is "predicted", "measured", "difference" (measured minus predicted, paired),
    or "ceiling", predicted for members without end: all on one backbone where the ensemble's are, elsewhere each on a
    backbone of its own.
    """
    groups = {
        name: some_instances(group)
        for name, group in by_name(scores.ensembles).items()
        if group[0].k > 2 and all(_plain(p) for e in group for p in e.parts)
    }
    found: dict[tuple[str, int, str], list[dict[str, np.ndarray]]] = {}
    for replicate in sorted({replicate for by_replicate in groups.values() for replicate in by_replicate}):
        few = _first_members(scores, replicate)
        if len(few) < 2:
            continue
        parts, bases = components(few, scores), _bases(few, scores)
        for name, by_replicate in groups.items():
            for_members = [list(e.parts) for e in by_replicate.get(replicate, [])]
            if not for_members:
                continue
            base = "finetune2" if len({p.backbone for p in for_members[0]}) == 1 else "pretrain2"
            if base in bases and np.isfinite(parts["errors"].of_mean(for_members[0])):
                known = _predicted(for_members[0], base, parts, bases[base])
                known["measured"] = np.mean([_curve(members, scores) for members in for_members], 0)
                known["difference"] = known["measured"] - known["predicted"]
                found.setdefault((name, len(for_members[0]), base), []).append(known)
    frames = [
        _rows(keys, kind, np.stack([known[kind] for known in replicates]))
        for keys, replicates in found.items()
        for kind in ("predicted", "measured", "difference", "ceiling")
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def components(members: Sequence[MemberScores], scores: StudyScores) -> dict[str, Components]:
    """The components of single models' "scores" and of their "errors", on the answers that ended."""
    ended = scores.ended
    pool = np.concatenate([m.pool for m in members], -1)
    tables = {
        "scores": np.stack([centred(column, ended)[ended] for column in np.moveaxis(pool, -1, 0)], -1),
        "errors": member_errors(pool, scores.gold, ended)[ended],
    }
    free = ended.sum() - ended.any(1).sum()
    found = {}
    for name, table in tables.items():
        covariance = table.T @ table / free
        pairs: dict[bool, list[float]] = {True: [], False: []}
        for (i, a), (j, b) in combinations(enumerate(members), 2):
            pairs[a.backbone == b.backbone].append(covariance[i, j])
        same, other = (float(np.mean(pairs[key])) if pairs[key] else np.nan for key in (True, False))
        found[name] = Components(float(np.diag(covariance).mean()), same, other)
    return found


def _plain(m: MemberScores) -> bool:
    """Whether a scorer is a single model trained as the study's own are, not for other epochs."""
    return m.method == SINGLE and m.id == f"d{m.draw}/p{m.backbone}/f{m.finetune}"


def _first_members(scores: StudyScores, replicate: int) -> list[MemberScores]:
    """Of a replicate's first two backbones the first two finetuning seeds, those that there are."""
    plain = {(m.backbone, m.finetune): m for m in scores.members if m.draw == replicate and _plain(m)}
    return [plain[place] for place in product((0, 1), (0, 1)) if place in plain]


def _bases(few: list[MemberScores], scores: StudyScores) -> dict[str, tuple[list[MemberScores], np.ndarray]]:
    """By base: one of its pairs, and the curves (P, L, 2) of all its pairs, averaged."""
    pairs: dict[str, list[list[MemberScores]]] = {}
    for a, b in combinations(few, 2):
        pairs.setdefault("finetune2" if a.backbone == b.backbone else "pretrain2", []).append([a, b])
    return {
        base: (group[0], np.mean([_curve(pair, scores) for pair in group], 0))
        for base, group in pairs.items()
    }


def _curve(members: list[MemberScores], scores: StudyScores) -> np.ndarray:
    """(P, L, 2): gold above the prompt's mean, and gap, at the winners by the mean of single models."""
    proxy, ended = np.mean([m.pool[..., 0] for m in members], 0), scores.ended
    mistaken = member_errors(proxy[..., None], scores.gold, ended)[..., 0]
    values = np.stack([centred(scores.gold, ended), mistaken], -1)
    return winner_means(proxy, values, n_grid(proxy.shape[1]), ended)


def _predicted(
    members: list[MemberScores],
    base: str,
    parts: dict[str, Components],
    two: tuple[list[MemberScores], np.ndarray],
) -> dict[str, np.ndarray]:
    """ "predicted" and "ceiling", (P, L, 2): the base's curve times what its gold and gap are to be multiplied by."""
    pair, curve = two
    endless = "same" if base == "finetune2" else "other"
    error, score = ((parts[x].of_mean(members), getattr(parts[x], endless)) for x in ("errors", "scores"))
    error_2, score_2 = (parts[x].of_mean(pair) for x in ("errors", "scores"))
    found = {}
    for kind, V, S2 in zip(("predicted", "ceiling"), error, score, strict=True):
        known = S2 > 0 and error_2 > 0  # few members may covary below zero by chance
        narrower = np.sqrt(score_2 / S2) if known else np.nan  # S of two over S of K
        found[kind] = curve * np.array([narrower, max(V, 0.0) / error_2 * narrower if known else np.nan])
    return found


def _rows(keys: tuple[str, int, str], kind: str, values: np.ndarray) -> pd.DataFrame:
    """A row an n and quantity; values : (D, P, L, 2)."""
    name, k, base = keys
    frames = []
    for i, quantity in enumerate(QUANTITIES):
        band = interval(np.round(values[..., i], 12) + 0.0)
        about = {"ensemble": name, "k": k, "base": base, "n": n_grid(2 ** (values.shape[2] - 1))}
        about |= {"quantity": quantity, "kind": kind}
        frames.append(
            pd.DataFrame(
                {**about, "value": band.mean, "low": band.low, "high": band.high, "units": len(values)}
            )
        )
    return pd.concat(frames, ignore_index=True)
