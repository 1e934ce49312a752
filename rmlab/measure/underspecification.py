"""Same accuracy, different judges: where members agree, and where they part.

After Eisenstein et al. 2024 (2312.09244): reward models that are equally accurate in distribution are still different
functions, and an optimiser finds where they differ.

Letters: P prompts, N answers a prompt, C probes, K members.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from rmlab.measure.compare import covered
from rmlab.measure.ensembles import MemberScores, StudyScores
from rmlab.measure.errors import errors
from rmlab.measure.intervals import columns_of, two_way_interval
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, kl_bound, n_grid


def transfer(scores: StudyScores) -> pd.DataFrame:
    """The winner that one single model picks, judged by itself, by others and by gold.

    All in standard deviations: members on their reference set, gold on the pool. `judged_by` is `self`, `finetune`
    (other finetuning seeds, same backbone), `pretrain` (other backbones) or `gold`, all of the same replicate, whose models
    are averaged prompt by prompt before the interval over replicates and prompts.
    """
    gold, ns = (scores.gold - scores.gold.mean()) / scores.gold.std(), n_grid(scores.gold.shape[1])
    curves: dict[str, dict[int, list[np.ndarray]]] = {}  # (P, L) by judge and replicate
    for m in scores.singles:
        alike = [x for x in scores.singles if x is not m and x.draw == m.draw]
        groups = {
            "finetune": [x.pool[..., 0] for x in alike if x.backbone == m.backbone],
            "pretrain": [x.pool[..., 0] for x in alike if x.backbone != m.backbone],
        }
        judges = {"self": m.pool[..., 0], "gold": gold}
        judges |= {name: np.mean(group, 0) for name, group in groups.items() if group}
        winners = best_of_n(m.pool[..., 0], np.stack(list(judges.values()), -1), ns, scores.ended)
        for i, name in enumerate(judges):
            curves.setdefault(name, {}).setdefault(m.draw, []).append(winners[..., i])
    frames = []
    for name, groups in curves.items():
        values = np.stack([np.mean(group, 0) for group in groups.values()])  # (D, P, L)
        frame = {"judged_by": name, "pressure": ns, "kl": kl_bound(ns), "kl_name": KL_NAME}
        banded = columns_of("score", two_way_interval(values), "")
        frames.append(pd.DataFrame({**frame, **banded, **covered(values)}))
    return pd.concat(frames, ignore_index=True)


def agreement(scores: StudyScores) -> pd.DataFrame:
    """How alike two members are, by how they are related: finetuning seeds, pretraining seeds, heads of one model.

    `pairs_agree`: share of held-out pairs they order alike; `corr_heldout`: correlation of their held-out margins;
    `corr_pool`: of their scores within prompts; `corr_error`: of what gold does not explain of these, on the answers that
    ended. Among the answers that two members like best even independent ones disagree, which says nothing about them.
    """
    rows = []
    for draw in sorted({m.draw for m in scores.members}):
        left = {m.id: _unit_errors(m, scores) for m in scores.members if m.draw == draw}
        singles = [m for m in scores.singles if m.draw == draw]
        for a, b in combinations(singles, 2):
            relation = "finetune" if a.backbone == b.backbone else "pretrain"
            rows.append((relation, draw, a.id, b.id, *_alike(a, 0, b, 0, left)))
        for m in scores.members:
            if m.draw == draw and m.method == "heads":
                for j, k in combinations(range(m.k), 2):
                    rows.append((f"heads {m.k}", draw, m.ids[j], m.ids[k], *_alike(m, j, m, k, left)))
    columns = ["relation", "draw", "a", "b", "pairs_agree", "corr_heldout", "corr_pool", "corr_error"]
    return pd.DataFrame(rows, columns=columns)


def probes(scores: StudyScores) -> pd.DataFrame:
    """Reactions to one change in a good answer: gold's, in gold units, and every member's, in standard deviations."""
    reactions = {"gold": reaction(scores.probe_gold)}  # (C - 1,) each
    for m in scores.members:
        reactions |= dict(zip(m.ids, reaction(m.probes).T, strict=True))
    rows = []
    for reward_model, changes in reactions.items():
        for name, change in zip(scores.probe_names[1:], changes, strict=True):
            rows.append((reward_model, name, scores.probe_labels.get(name, name), change))
    return pd.DataFrame(rows, columns=["reward_model", "probe", "label", "reaction"])


def checks(scores: StudyScores) -> pd.DataFrame:
    """How well every backbone counts right and wrong facts, as a language model: shares of answers, and the commonest count's."""
    per_replicate = scores.recipe.replicates.backbones
    rows = [
        {"replicate": i // per_replicate, "backbone": i % per_replicate, **shares}
        for i, shares in enumerate(scores.checks)
    ]
    return pd.DataFrame(rows)


def reaction(scores: np.ndarray) -> np.ndarray:
    """Mean change against the good answer, scores (P, C, ...) with "base" first -> (C - 1, ...)."""
    return (scores[:, 1:] - scores[:, :1]).mean(0)


def _alike(
    a: MemberScores, j: int, b: MemberScores, k: int, left: dict[str, np.ndarray]
) -> tuple[float, float, float, float]:
    """How alike member j of a and member k of b are: the last four columns of `agreement`. left : errors by id."""
    one, two = (m.heldout[:, 0, i] - m.heldout[:, 1, i] for m, i in ((a, j), (b, k)))
    agree = float(((one > 0) == (two > 0)).mean())
    pool = _within(a.pool[..., j].astype(np.float64), b.pool[..., k].astype(np.float64))
    return agree, float(np.corrcoef(one, two)[0, 1]), pool, float(left[a.id][:, j] @ left[b.id][:, k])


def _unit_errors(m: MemberScores, scores: StudyScores) -> np.ndarray:
    """A member's errors (R, K) on the answers that ended, each of length 1; 0 for one that never errs."""
    table = m.pool[scores.ended].astype(np.float64)
    left = errors(table, scores.gold[scores.ended], np.nonzero(scores.ended)[0])
    length = np.sqrt(np.square(left).sum(0))
    return left / np.where(length > 0, length, 1.0)


def _within(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation within prompts, (P, N) and (P, N), averaged over prompts."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)).clip(1e-12)).mean())
