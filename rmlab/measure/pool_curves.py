"""Curves on a pool: best-of-n of every ensemble under every aggregator, and the exact tilted policies beside it.

Aggregators are compared twice. Under "paper" pessimism each has the strength its paper gives it. That strength means
another thing for every method: members that differ less are penalised less. So under "matched" pessimism every
ensemble loses the same mean score to its penalty at n = 1, and what is left is how well the penalty is aimed:
score = mean - strength * penalty, the penalty being mean - min, the std or the variance over members (ddof 0).

Letters: P prompts, N answers a prompt, K members, D replicates, U units (instances), L values of n or beta.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from rmlab.measure.compare import Curve, Setting, Unit, curve_of, reference_of, units_of
from rmlab.measure.ensembles import ORACLE, SINGLE, EnsembleResult, StudyScores, by_name
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, ess, kl_bound, n_grid
from rmlab.optimise.tilt import KL_NAME as EXACT_KL
from rmlab.optimise.tilt import Frontier, best_of_n_policies, beta_for_kl, frontier, tilt
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate, usual_strength

PENALTIES = ("min", "mean_std", "uwo")  # mean minus a penalty: the ones whose strength can be matched
ROUNDING = 1e-4  # of the mean score's spread: members that differ by less differ by rounding alone
KLS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # nats at which the tilted policies are compared


class Aggregated(NamedTuple):
    """An ensemble's score (P, N) under one aggregator: how strong that is, and the mean score it costs at n = 1."""

    aggregator: str
    pessimism: str
    strength: float
    penalty: float
    score: np.ndarray


def best_of_n_curves(scores: StudyScores) -> tuple[list[Curve], pd.DataFrame]:
    """Best-of-n of every ensemble under every aggregator and pessimism, answers that never end disqualified.

    Returns the curves, the oracle's last (there gold itself chooses), and what was left out: members that are copies have no
    penalty to match. With K = 1 there is one aggregator, "mean".
    """
    gold, ns = scores.gold, n_grid(scores.gold.shape[1])
    axis = (ns, kl_bound(ns), KL_NAME, ess(gold.shape[1], ns))

    def winners(proxy: np.ndarray) -> np.ndarray:
        """(P, L, 2): gold and proxy of the best of n."""
        return best_of_n(proxy, np.stack([gold, proxy], -1), ns, scores.ended)

    alone = {m.id: winners(m.pool[..., 0]) for m in scores.rivals}
    target = matched_penalty(scores) if scores.recipe.matched else None
    by_setting: dict[Setting, list[tuple[Unit, tuple]]] = {}
    for setting, e, x in scored_settings(scores, target):
        rival = np.mean([alone[m.id][..., 0] for m in e.rivals], 0)
        best = alone[e.parts[0].id] if setting.ensemble == SINGLE else winners(x.score)
        numbers = (best[..., 0], best[..., 1], best[..., 0] - rival, x.strength, x.penalty)
        by_setting.setdefault(setting, []).append((*units_of([e]), numbers))
    curves = []
    for setting, rows in by_setting.items():
        units, by_unit = zip(*rows, strict=True)
        curves.append(_curve(setting, list(units), list(by_unit), *axis))
    curves.append(_oracle(scores, winners(gold), axis))
    return curves, _left_out(scores, target, by_setting)


def scored_settings(
    scores: StudyScores, target: float | None
) -> Iterator[tuple[Setting, EnsembleResult, Aggregated]]:
    """Every ensemble under every aggregator and pessimism, an instance at a time: the setting, the instance, its score.

    target : the penalty that every ensemble is matched to, `matched_penalty`; None: no "matched" ones
    """
    for name, group in by_name(scores.ensembles).items():
        copies = target is not None and any(are_copies(e, scores.ended) for e in group)
        for e in group:
            for x in _aggregated(e, scores, None if copies else target):
                yield Setting(name, e.method, e.k, x.aggregator, x.pessimism), e, x


def exact_curves(scores: StudyScores, aggregators: tuple[str, ...]) -> list[Curve]:
    """Gold against exact KL without training: tilted policies at equal KL (`KLS`, the mean over prompts), and best-of-n.

    Each instance is tilted at the beta that gives the KL, and compared with its single models at the same; `pressure` is
    the mean of the betas, `ess` the effective number of answers a prompt. Aggregators have their papers' strengths.
    """
    alone = {m.id: _exact_frontiers(m.pool[..., 0], scores) for m in scores.rivals}
    curves = []
    for name, group in by_name(scores.ensembles).items():
        for aggregator in aggregators if group[0].k > 1 else ("mean",):
            if name == SINGLE:
                reached = [alone[e.parts[0].id] for e in group]
            else:
                proxies = (aggregate(e.pool, aggregator, usual_strength(aggregator)) for e in group)
                reached = [_exact_frontiers(proxy, scores) for proxy in proxies]
            for optimiser in ("tilt", "best_of_n"):
                setting = Setting(name, group[0].method, group[0].k, aggregator, optimiser=optimiser)
                curves.append(_exact_curve(setting, group, reached, alone))
    return curves


def matched_penalty(scores: StudyScores) -> float | None:
    """The mean penalty of min at n = 1 over the reference ensemble, in members' standard deviations, averaged over replicates.

    None where no ensemble has several members; a `ValueError` without a reference, or with one whose members are copies.
    """
    groups = by_name(scores.ensembles)
    if all(group[0].k == 1 for group in groups.values()):
        return None
    name = reference_of({n: group[0].k for n, group in groups.items() if group[0].method == "finetune"})
    require(name is not None, "ensembles", sorted(groups), "one of finetuning seeds with K > 1 to match")
    copies = any(are_copies(e, scores.ended) for e in groups[name])
    require(not copies, f"members of {name}", "copies", "a reference whose members differ")
    gaps = [(aggregate(e.pool, "mean") - aggregate(e.pool, "min"))[scores.ended] for e in groups[name]]
    return float(np.mean([gap.mean(dtype=np.float64) for gap in gaps]))


def stated_strength(aggregator: str) -> float:
    """An aggregator's usual strength as tables state it: NaN where it has none."""
    return np.nan if AGGREGATORS[aggregator].strength is None else usual_strength(aggregator)


def _aggregated(e: EnsembleResult, scores: StudyScores, target: float | None) -> Iterator[Aggregated]:
    """An ensemble's score under every aggregator: with its paper's strength, then matched where there is a target."""
    members = e.pool
    mean = aggregate(members, "mean")

    def cost(score: np.ndarray) -> float:
        """The mean score lost, over answers that ended."""
        return float((mean - score)[scores.ended].mean(dtype=np.float64))

    yield Aggregated("mean", "paper", np.nan, 0.0, mean)
    for aggregator in scores.recipe.aggregators if e.k > 1 else ():
        if aggregator == "mean":
            continue
        score = aggregate(members, aggregator, usual_strength(aggregator))
        penalty, strength = cost(score), stated_strength(aggregator)
        if scores.recipe.matched and aggregator == "min":
            strength = 1.0  # mean - 1 (mean - min), beside others of its kind
        yield Aggregated(aggregator, "paper", strength, penalty, score)
        if aggregator in PENALTIES and target is not None:
            matched = mean - np.float32(target / penalty) * (mean - score)
            yield Aggregated(aggregator, "matched", strength * target / penalty, cost(matched), matched)


def _left_out(scores: StudyScores, target: float | None, settings: Iterable[Setting]) -> pd.DataFrame:
    """The matched settings that there are not: members that are copies have no penalty."""
    matched = {s.ensemble for s in settings if s.pessimism == "matched"}
    rules, rows = [a for a in scores.recipe.aggregators if a in PENALTIES], []
    for name, group in by_name(scores.ensembles).items() if target is not None else ():
        if name not in matched and group[0].k > 1:
            copies = dict.fromkeys(e.replicate for e in group if are_copies(e, scores.ended))
            reason = f"members are copies (replicates {', '.join(map(str, copies))})"
            rows += [(name, aggregator, "matched", np.nan, reason) for aggregator in rules]
    return pd.DataFrame(rows, columns=["ensemble", "aggregator", "pessimism", "strength", "reason"])


def are_copies(e: EnsembleResult, ended: np.ndarray) -> bool:
    """Whether the members' mean standard deviation is no more than rounding next to the spread of their mean."""
    members = e.pool[ended].astype(np.float64)  # (answers, K)
    return e.k > 1 and bool(members.std(-1).mean() <= ROUNDING * members.mean(-1).std())


def _exact_frontiers(proxy: np.ndarray, scores: StudyScores) -> dict[str, Frontier]:
    """Gold and proxy, values (P, L, 2), of the tilted policies at `KLS` and of best-of-n against a proxy (P, N)."""
    gold, ended, proxy = scores.gold, scores.ended, proxy.astype(np.float64)
    answers, ns = ended.sum(1).clip(1), n_grid(gold.shape[1])  # of a prompt, that can be chosen
    low, high = np.log(gold.shape[1] / answers).mean(), 0.8 * np.log(answers.min())
    reachable = [k for k in KLS if low < k < high] or [float((low + np.log(gold.shape[1])) / 2)]
    both = np.stack([gold, proxy], -1)
    betas = [beta_for_kl(proxy, k, ended) for k in reachable]
    weights = best_of_n_policies(proxy, ns, ended)
    return {
        "tilt": tilt(proxy, both, betas, ended, floor=0),
        "best_of_n": frontier(weights, both, ns, floor=0),
    }


def _exact_curve(
    setting: Setting,
    group: list[EnsembleResult],
    reached: list[dict[str, Frontier]],
    alone: dict[str, dict[str, Frontier]],
) -> Curve:
    """reached : frontiers by optimiser of each unit; alone : those of each single model by id."""
    frontiers, by_unit = [f[setting.optimiser] for f in reached], []
    for e, f in zip(group, frontiers, strict=True):
        gold, proxy = np.moveaxis(f.values, -1, 0)
        rival = np.mean([alone[m.id][setting.optimiser].values[..., 0] for m in e.rivals], 0)
        by_unit.append((gold, proxy, gold - rival, stated_strength(setting.aggregator), np.nan))
    pressure = np.mean([f.strengths for f in frontiers], 0)
    kl, answers = (np.mean([getattr(f, n) for f in frontiers], (0, 1)) for n in ("kl", "ess"))
    return _curve(setting, units_of(group), by_unit, pressure, kl, EXACT_KL, answers)


def _oracle(scores: StudyScores, best: np.ndarray, axis: tuple) -> Curve:
    """Gold itself chooses, best (P, L, 2): the same on every replicate, and with nothing to gain."""
    units = [Unit(replicate, ORACLE) for replicate in sorted({e.replicate for e in scores.ensembles})]
    numbers = (best[..., 0], best[..., 1], np.zeros_like(best[..., 0]), np.nan, 0.0)
    return _curve(Setting(ORACLE, ORACLE, 1, "mean"), units, [numbers] * len(units), *axis)


def _curve(
    setting: Setting,
    units: list[Unit],
    by_unit: list[tuple],
    pressure: np.ndarray,
    kl: np.ndarray,
    kl_name: str,
    answers: np.ndarray,
) -> Curve:
    """by_unit : gold, proxy and gain (P, L), strength and penalty of each; answers : effective ones a prompt, (L,)."""
    gold, proxy, gain, strength, penalty = (np.array(column) for column in zip(*by_unit, strict=True))
    values = {"gold": gold, "proxy": proxy, "gain": gain}
    return curve_of(setting, units, (pressure, kl, kl_name), values, strength, penalty, {"ess": answers})
