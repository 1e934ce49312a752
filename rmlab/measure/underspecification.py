"""Same accuracy, different judges: where members agree, and where they part.

After Eisenstein et al. 2024 (2312.09244): reward models that are equally accurate in distribution are still different
functions, and an optimiser finds where they differ.

Letters: P prompts, N answers a prompt, C probes, K members.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import MemberScores, StudyScores
from rmlab.measure.intervals import percentile_interval
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, kl_bound, n_grid

TAIL = 64  # answers a prompt: the top by the mean of the two members


def transfer(scores: StudyScores) -> pd.DataFrame:
    """The winner that one single model picks, judged by itself, by others and by gold.

    All in standard deviations: members on their reference set, gold on the pool. `judged_by` is `self`, `finetune`
    (other finetuning seeds, same backbone), `pretrain` (other backbones) or `gold`, all of the same label draw.
    """
    gold, ns = (scores.gold - scores.gold.mean()) / scores.gold.std(), n_grid(scores.gold.shape[1])
    units: dict[str, list] = {}
    for m in scores.singles:
        mates = [o for o in scores.singles if o is not m and (o.draw, o.backbone) == (m.draw, m.backbone)]
        others = [o for o in scores.singles if o.draw == m.draw and o.backbone != m.backbone]
        views = {"self": m.pool[..., 0], "gold": gold}
        for name, group in (("finetune", mates), ("pretrain", others)):
            if group:
                views[name] = np.mean([o.pool[..., 0] for o in group], 0)
        winners = best_of_n(m.pool[..., 0], np.stack(list(views.values()), -1), ns, scores.ended)
        for v, name in enumerate(views):
            units.setdefault(name, []).append((m.draw, (m.backbone,), winners[..., v]))
    bootstrap, frames = scores.bootstrap(len(gold)), []
    for name, group in units.items():
        draws, backbones, curves = zip(*group, strict=True)
        low, high = percentile_interval(bootstrap.mean(np.stack(curves), draws, backbones))
        mean = np.mean([c.mean(0) for c in curves], 0)
        frame = {"judged_by": name, "pressure": ns, "kl": kl_bound(ns), "kl_name": KL_NAME}
        frames.append(pd.DataFrame({**frame, "score": mean, "low": low, "high": high}))
    return pd.concat(frames, ignore_index=True)


def agreement(scores: StudyScores) -> pd.DataFrame:
    """How alike two members are, by how they are related: finetuning seeds, pretraining seeds, heads of one model.

    `pairs_agree`: share of held-out pairs they order alike; `corr_heldout`: correlation of their held-out margins;
    `corr_pool`: of their scores within prompts; `corr_tail`: the same among the top 64 answers by the mean of the two.
    """
    rows = []
    for draw in sorted({m.draw for m in scores.members}):
        singles = [m for m in scores.singles if m.draw == draw]
        for a, b in combinations(singles, 2):
            relation = "finetune" if a.backbone == b.backbone else "pretrain"
            rows.append((relation, draw, a.id, b.id, *_alike(a, 0, b, 0)))
        for m in scores.members:
            if m.draw == draw and m.method == "heads":
                for j, k in combinations(range(m.k), 2):
                    rows.append((f"heads {m.k}", draw, m.ids[j], m.ids[k], *_alike(m, j, m, k)))
    columns = ["relation", "draw", "a", "b", "pairs_agree", "corr_heldout", "corr_pool", "corr_tail"]
    return pd.DataFrame(rows, columns=columns)


def probes(scores: StudyScores) -> pd.DataFrame:
    """Reactions to one change in a good answer: gold's, in gold units, and every member's, in standard deviations."""
    names, labels = scores.probe_names[1:], scores.recipe.source.probe_labels
    rows = [("gold", n, labels[n], x) for n, x in zip(names, reaction(scores.probe_gold), strict=True)]
    for m in scores.members:
        reactions = reaction(m.probes)  # (C - 1, K)
        rows += [(i, n, labels[n], reactions[c, k]) for k, i in enumerate(m.ids) for c, n in enumerate(names)]
    return pd.DataFrame(rows, columns=["reward_model", "probe", "label", "reaction"])


def fact_sensitivity(scores: StudyScores) -> pd.DataFrame:
    """Which sizes, on how many clean pairs, react to a wrong fact: one row a model of the side study."""
    rows = []
    for m in scores.sensitivity:
        right = m.heldout[:, 0, 0] > m.heldout[:, 1, 0]
        react = dict(zip(scores.probe_names[1:], reaction(m.probes)[:, 0], strict=True))
        facts = {name: m.facts[name] for name in ("hidden", "layers", "parameters", "pairs")}
        changes = {name: react[name] for name in ("wrong", "one_wrong", "missing")}
        rows.append({**facts, "backbone": m.backbone, "accuracy": right.mean(), **changes})
    return pd.DataFrame(rows)


def reaction(scores: np.ndarray) -> np.ndarray:
    """Mean change against the good answer, scores (P, C, ...) with "base" first -> (C - 1, ...)."""
    return (scores[:, 1:] - scores[:, :1]).mean(0)


def _alike(a: MemberScores, j: int, b: MemberScores, k: int) -> tuple[float, float, float, float]:
    left, right = (m.heldout[:, 0, i] - m.heldout[:, 1, i] for m, i in ((a, j), (b, k)))
    one, two = a.pool[..., j].astype(np.float64), b.pool[..., k].astype(np.float64)
    top = np.argpartition(one + two, -min(TAIL, one.shape[1]), 1)[:, -min(TAIL, one.shape[1]) :]
    tail = _within(np.take_along_axis(one, top, 1), np.take_along_axis(two, top, 1))
    agree = float(((left > 0) == (right > 0)).mean())
    return agree, float(np.corrcoef(left, right)[0, 1]), _within(one, two), tail


def _within(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation within prompts, (P, N) and (P, N), averaged over prompts."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)).clip(1e-12)).mean())
