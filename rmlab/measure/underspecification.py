"""Same accuracy, different judges: where members agree, and where they part.

After Eisenstein et al. 2024: reward models that are equally accurate in distribution are still different
functions, and an optimiser finds where they differ.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from rmlab.measure.intervals import CrossedBootstrap, percentile_interval
from rmlab.optimise.best_of_n import best_of_n, kl_bound, n_grid
from rmlab.optimise.pool import Pool
from rmlab.recipe import stream
from rmlab.sources.sandbox.probes import LABELS, reaction, table
from rmlab.sources.sandbox.world import requests

TAIL = 64  # answers a prompt: the top by the mean of the two members


def transfer(pool: Pool, scores: dict[str, np.ndarray], resample: CrossedBootstrap) -> pd.DataFrame:
    """The winner that one single model picks, judged by itself, by others and by gold.

    All in standard deviations: members on their reference set, gold on the pool. Judges are `self`, `finetune`
    (other finetuning seeds, same backbone), `pretrain` (other backbones) and `gold`, all of the same label draw.
    """
    singles = [i for i in scores if "/f" in i]
    gold = (pool.gold - pool.gold.mean()) / pool.gold.std()
    ns = n_grid(gold.shape[1])
    found: dict[str, list] = {}
    for i in singles:
        draw, backbone, _ = i.split("/")
        mates = [j for j in singles if j != i and j.startswith(f"{draw}/{backbone}/")]
        others = [j for j in singles if j.startswith(f"{draw}/") and j.split("/")[1] != backbone]
        judges = {"self": scores[i], "gold": gold}
        judges |= {
            name: np.mean([scores[j] for j in some], 0)
            for name, some in (("finetune", mates), ("pretrain", others))
            if some
        }
        picked = best_of_n(scores[i], np.stack(list(judges.values()), -1), ns, pool.ended)
        for v, name in enumerate(judges):
            found.setdefault(name, []).append((int(draw[1:]), (int(backbone[1:]),), picked[..., v]))
    frames = []
    for judge, units in found.items():
        draw, backbones, curve = zip(*units, strict=True)
        low, high = percentile_interval(resample.mean(np.stack(curve), draw, backbones))
        frames.append(
            pd.DataFrame(
                {
                    "judge": judge,
                    "n": ns,
                    "kl": kl_bound(ns),
                    "z": np.mean([c.mean(0) for c in curve], 0),
                    "z_lo": low,
                    "z_hi": high,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def agreement(pool: Pool, models: list[dict]) -> pd.DataFrame:
    """How alike two members are, by how they are related.

    `pairs_agree`: share of held-out pairs they order alike; `corr_heldout`: correlation of their held-out margins;
    `corr_pool`: of their scores within prompts; `corr_tail`: the same among the top 64 answers by the mean of the two.
    """
    rows = []
    by_draw: dict[int, list[dict]] = {}
    for m in models:
        by_draw.setdefault(m["draw"], []).append(m)
    for draw, some in by_draw.items():
        singles = [m for m in some if m["heads"] == 1]
        for a, b in combinations(singles, 2):
            relation = "finetune" if a["backbone"] == b["backbone"] else "pretrain"
            rows.append((relation, draw, a["ids"][0], b["ids"][0], *_alike(a, 0, b, 0)))
        for m in some:
            for j, k in combinations(range(m["heads"]), 2):
                rows.append((f"heads {m['heads']}", draw, m["ids"][j], m["ids"][k], *_alike(m, j, m, k)))
    return pd.DataFrame(
        rows, columns=["relation", "draw", "a", "b", "pairs_agree", "corr_heldout", "corr_pool", "corr_tail"]
    )


def _alike(a: dict, j: int, b: dict, k: int) -> tuple[float, float, float, float]:
    left, right = (m["heldout"][:, 0, i] - m["heldout"][:, 1, i] for m, i in ((a, j), (b, k)))
    one, two = a["pool"][..., j].astype(np.float64), b["pool"][..., k].astype(np.float64)
    top = np.argpartition(one + two, -min(TAIL, one.shape[1]), 1)[:, -min(TAIL, one.shape[1]) :]
    tail = _within(np.take_along_axis(one, top, 1), np.take_along_axis(two, top, 1))
    return (
        float(((left > 0) == (right > 0)).mean()),
        float(np.corrcoef(left, right)[0, 1]),
        _within(one, two),
        tail,
    )


def _within(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation within prompts, (P, N) and (P, N), averaged over prompts."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)).clip(1e-12)).mean())


def accuracy(models: list[dict]) -> pd.DataFrame:
    """Held-out accuracy of every member against clean gold labels, with its binomial standard error."""
    rows = []
    for m in models:
        right = m["heldout"][:, 0] > m["heldout"][:, 1]  # (M, K)
        for k, i in enumerate(m["ids"]):
            acc = float(right[:, k].mean())
            rows.append(
                (
                    i,
                    m["draw"],
                    m["backbone"],
                    m["finetune"],
                    m["heads"],
                    acc,
                    (acc * (1 - acc) / len(right)) ** 0.5,
                    len(right),
                )
            )
    return pd.DataFrame(
        rows, columns=["member", "draw", "backbone", "finetune", "heads", "accuracy", "accuracy_se", "pairs"]
    )


def probes(models: list[dict], recipe: dict) -> pd.DataFrame:
    """Reactions to one change in a good answer: gold's, in gold units, and every member's, in standard deviations."""
    names, _, gold = table(requests(recipe["pool"]["prompts"], stream(recipe["seed"], "pool")))
    rows = [("gold", n, LABELS[n], x) for n, x in zip(names[1:], reaction(gold), strict=True)]
    for m in models:
        for k, i in enumerate(m["ids"]):
            rows += [
                (i, n, LABELS[n], x) for n, x in zip(names[1:], reaction(m["probes"])[:, k], strict=True)
            ]
    return pd.DataFrame(rows, columns=["judge", "probe", "label", "reaction"])


def sight(models: list[dict], recipe: dict) -> pd.DataFrame:
    """Which sizes, on how many clean pairs, react to a wrong fact: one row a model."""
    names, _, _ = table(requests(1, stream(0, "names")))
    rows = []
    for m in models:
        right = m["heldout"][:, 0, 0] > m["heldout"][:, 1, 0]
        react = dict(zip(names[1:], reaction(m["probes"])[:, 0], strict=True))
        rows.append(
            (
                m["hidden"],
                m["layers"],
                m["parameters"],
                m["pairs"],
                m["backbone"],
                right.mean(),
                react["wrong"],
                react["one_wrong"],
                react["missing"],
            )
        )
    columns = [
        "hidden",
        "layers",
        "parameters",
        "pairs",
        "backbone",
        "accuracy",
        "wrong",
        "one_wrong",
        "missing",
    ]
    return pd.DataFrame(rows, columns=columns)
