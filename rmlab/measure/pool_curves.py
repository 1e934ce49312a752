"""Curves on a pool: best-of-n of every ensemble under every aggregator, and the exact tilted policies beside it.

Aggregators are compared twice. Under "paper" pessimism each has the strength its paper gives it. That strength means
another thing for every method: members that differ less are penalised less. So under "matched" pessimism every
ensemble loses the same mean score to its penalty at n = 1, and what is left is how well the penalty is aimed:
score = mean - strength * penalty, the penalty being mean - min, the std or the variance over members (ddof 0).

Letters: P prompts, N answers a prompt, K members, U units, L values of n or beta.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rmlab.measure.compare import REFERENCE, Curve, Setting, with_gain
from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores, by_name
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, ess, kl_bound, n_grid
from rmlab.optimise.tilt import KL_NAME as EXACT_KL
from rmlab.optimise.tilt import Frontier, best_of_n_weights, beta_for_kl, frontier, tilt
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate, usual_strength

PENALTIES = ("min", "mean_std", "uwo")  # mean minus a penalty: the ones whose strength can be matched
ROUNDING = 1e-4  # of the mean score's spread: members that differ by less differ by rounding alone
KLS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # nats at which the tilted policies are compared
ORACLE = "oracle"


def best_of_n_curves(scores: StudyScores) -> tuple[list[Curve], pd.DataFrame]:
    """Best-of-n of every ensemble under every aggregator and pessimism, answers that never end disqualified.

    Returns the curves, the oracle's (gold itself chooses) last, and what was left out: members that are copies have no
    penalty to match.
    """
    gold, ended, ns = scores.gold, scores.ended, n_grid(scores.gold.shape[1])

    def winners(proxy: np.ndarray) -> np.ndarray:
        """(P, L, 2): gold and proxy of the best of n."""
        return best_of_n(proxy, np.stack([gold, proxy], -1), ns, ended)

    alone = {m.id: winners(m.pool[..., 0]) for m in scores.singles}
    target = _matched_penalty(scores) if scores.recipe.matched else None
    shared = {
        "pressure": ns,
        "kl": kl_bound(ns),
        "kl_name": KL_NAME,
        "crossed": scores.recipe.replicates.crossed,
    }
    shared["columns"] = {"ess": ess(gold.shape[1], ns)}
    curves, left_out = [], []
    for name, group in by_name(scores.ensembles).items():
        copies = [e.replicate for e in group if e.k > 1 and _are_copies(e, ended)]
        if copies and target is not None:
            reason = f"members are copies (replicates {', '.join(map(str, copies))})"
            left_out += [(name, aggregator, "matched", np.nan, reason) for aggregator in PENALTIES]
        units: dict[tuple[str, str], list] = {}
        for e in group:
            rival = np.mean([alone[m.id][..., 0] for m in e.rivals], 0)
            for aggregator, pessimism, strength, penalty, score in _scores(
                e, scores, None if copies else target
            ):
                best = alone[e.parts[0].id] if name == SINGLE else winners(score)
                units.setdefault((aggregator, pessimism), []).append(
                    (strength, penalty, best, best[..., 0] - rival)
                )
        for (aggregator, pessimism), found in units.items():
            setting = Setting(name, group[0].method, group[0].k, aggregator, pessimism)
            curves.append(_curve(setting, group, *(np.array(x) for x in zip(*found, strict=True)), shared))
    curves.append(_oracle(scores, winners(gold), shared))
    columns = ["ensemble", "aggregator", "pessimism", "strength", "reason"]
    return curves, pd.DataFrame(left_out, columns=columns)


def exact_curves(scores: StudyScores, aggregators: tuple[str, ...]) -> list[Curve]:
    """Gold against exact KL without training: tilted policies at equal KL (`KLS`, the mean over prompts), and best-of-n.

    Each unit is tilted at the beta that gives the KL; `ess` is the effective number of answers a prompt.
    """
    gold, ended = scores.gold, scores.ended
    answers = ended.sum(1).clip(1)  # of a prompt, that can be chosen
    low, high = np.log(gold.shape[1] / answers).mean(), 0.8 * np.log(answers.min())
    reachable = [k for k in KLS if low < k < high] or [float((low + np.log(gold.shape[1])) / 2)]
    ns, curves = n_grid(gold.shape[1]), []
    for name, group in by_name(scores.ensembles).items():
        for aggregator in aggregators if group[0].k > 1 else ("mean",):
            reached: dict[str, list[Frontier]] = {"tilt": [], "best_of_n": []}
            for e in group:
                proxy = aggregate(e.pool, aggregator, usual_strength(aggregator)).astype(np.float64)
                both = np.stack([gold, proxy], -1)
                betas = [beta_for_kl(proxy, k, ended) for k in reachable]
                reached["tilt"].append(tilt(proxy, both, betas, ended, floor=0))
                weights = (best_of_n_weights(proxy, n, ended) for n in ns)
                reached["best_of_n"].append(frontier(weights, both, ns, floor=0))
            for optimiser, frontiers in reached.items():
                setting = Setting(name, group[0].method, group[0].k, aggregator, optimiser=optimiser)
                curves.append(_exact(setting, group, frontiers))
    return with_gain(curves)


def _curve(
    setting: Setting, group: list[EnsembleResult], strength, penalty, best, gain, shared: dict
) -> Curve:
    """best (U, P, L, 2), gain (U, P, L)."""
    return Curve(
        setting,
        units=[e.unit for e in group],
        replicates=[e.replicate for e in group],
        members=["+".join(e.members) for e in group],
        gold=best[..., 0],
        proxy=best[..., 1],
        gain=gain,
        strength=float(strength.mean()),
        penalty=float(penalty.mean()),
        **shared,
    )


def _exact(setting: Setting, group: list[EnsembleResult], frontiers: list[Frontier]) -> Curve:
    values = np.stack([f.values for f in frontiers])  # (U, P, L, 2)
    return Curve(
        setting,
        units=[e.unit for e in group],
        replicates=[e.replicate for e in group],
        members=["+".join(e.members) for e in group],
        pressure=np.mean([f.strengths for f in frontiers], 0),
        kl=np.mean([f.kl for f in frontiers], (0, 1)),
        kl_name=EXACT_KL,
        gold=values[..., 0],
        proxy=values[..., 1],
        gain=None,
        columns={"ess": np.mean([f.ess for f in frontiers], (0, 1))},
    )


def _oracle(scores: StudyScores, best: np.ndarray, shared: dict) -> Curve:
    """Gold itself chooses, best (P, L, 2): the same on every label draw, over every backbone."""
    every = scores.ensembles
    backbones = tuple(sorted({b for e in every for b in e.unit[1]}))
    draws = sorted({e.unit[0] for e in every})
    tables = [np.stack([x] * len(draws)) for x in (best[..., 0], best[..., 1], np.zeros_like(best[..., 0]))]
    units = [(d, backbones) for d in draws]
    gold, proxy, gain = tables
    named = {"units": units, "replicates": draws, "members": [ORACLE] * len(draws)}
    return Curve(Setting(ORACLE, ORACLE, 1, "mean"), **named, gold=gold, proxy=proxy, gain=gain, **shared)


def _scores(e: EnsembleResult, scores: StudyScores, target: float | None) -> Iterator[tuple]:
    """(aggregator, pessimism, strength, mean penalty, score (P, N)); matched ones where there is a target."""
    members = e.pool
    mean = aggregate(members, "mean")
    yield "mean", "paper", np.nan, 0.0, mean
    for aggregator in scores.recipe.aggregators if e.k > 1 else ():
        if aggregator == "mean":
            continue
        strength = usual_strength(aggregator)
        score = aggregate(members, aggregator, strength)
        gap = mean - score
        size = float(gap[scores.ended].mean(dtype=np.float64))
        yield aggregator, "paper", strength, size, score
        if aggregator in PENALTIES and target is not None:
            score = mean - np.float32(target / size) * gap
            size_now = float((mean - score)[scores.ended].mean(dtype=np.float64))
            yield aggregator, "matched", strength * target / size, size_now, score


def _are_copies(e: EnsembleResult, ended: np.ndarray) -> bool:
    """Whether the members' mean standard deviation is no more than rounding next to the spread of their mean."""
    members = e.pool[ended].astype(np.float64)  # (answers, K)
    return bool(members.std(-1).mean() <= ROUNDING * members.mean(-1).std())


def _matched_penalty(scores: StudyScores) -> float | None:
    """The mean penalty of min at n = 1 over the reference ensemble, averaged over replicates; None without ensembles."""
    groups = by_name(scores.ensembles)
    if all(group[0].k == 1 for group in groups.values()):
        return None
    sizes = {n: g[0].k for n, g in groups.items() if g[0].method == "finetune" and g[0].k > 1}
    name = REFERENCE if REFERENCE in groups else max(sizes, key=sizes.get, default=None)
    require(name is not None, "ensembles", sorted(groups), "one of finetuning seeds with K > 1 to match")
    copies = any(_are_copies(e, scores.ended) for e in groups[name])
    require(not copies, f"the members of {name}", "copies", "a reference whose members differ")
    gaps = [(aggregate(e.pool, "mean") - aggregate(e.pool, "min"))[scores.ended] for e in groups[name]]
    return float(np.mean([g.mean(dtype=np.float64) for g in gaps]))
