"""What the explorer shows of a study: a typical corner of it, chosen by rule, small enough for a page."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from rmlab.measure.league import SINGLE, Line
from rmlab.measure.tables import read_model
from rmlab.optimise.best_of_n import best_of_n
from rmlab.optimise.compact import CompactPool
from rmlab.optimise.pool import Pool
from rmlab.reward.methods import CONSTRUCTIONS
from rmlab.sources.sandbox.gold import BILL
from rmlab.sources.sandbox.world import VOCAB


def of_grid(parts: list[Path], members: list[Path], requests: list) -> CompactPool:
    """A typical corner of the full study's grid.

    Typical: the label draw and backbone whose single models' gold at n = N / 4 is the median over the grid, and on it
    the median finetuning seed, which comes first. Shown are that backbone's finetuning seeds and heads, and every other
    backbone under the same finetuning seed and labels.
    """
    pool = Pool.load([p / "pool.npz" for p in parts])
    models = {
        tuple(m[k] for k in ("draw", "backbone", "finetune", "heads")): m["pool"]
        for m in map(read_model, members)
    }
    quarter = [pool.gold.shape[1] // 4]
    worth = {
        key: best_of_n(scores[..., 0], pool.gold, quarter, pool.ended).mean()
        for key, scores in models.items()
        if key[3] == 1
    }
    corners: dict[tuple, dict] = defaultdict(dict)
    for (d, p, f, _), value in worth.items():
        corners[d, p][f] = value
    d, p = _median({corner: np.mean(list(seeds.values())) for corner, seeds in corners.items()})
    first = _median(corners[d, p])
    seeds = [first, *(f for f in sorted(corners[d, p]) if f != first)]
    backbones = [p, *(b for e, b in sorted(corners) if e == d and b != p)]
    columns = {f"p{p} f{f}": models[d, p, f, 1][..., 0] for f in seeds}
    columns |= {f"p{b} f{first}": models[d, b, first, 1][..., 0] for b in backbones}
    groups = [{"name": "finetune", "label": "finetuning seeds", "members": [f"p{p} f{f}" for f in seeds]},
              {"name": "pretrain", "label": "pretraining seeds", "members": [f"p{b} f{first}" for b in backbones]}]  # fmt: skip
    most = max((k for e, b, _, k in models if (e, b) == (d, p)), default=1)
    if most > 1:
        columns |= {f"head {k + 1}": models[d, p, 0, most][..., k] for k in range(most)}
        heads = [f"head {k + 1}" for k in range(most)]
        groups.append({"name": "heads", "label": "heads on one encoder", "members": heads})
    return _compact(pool, requests, columns, groups, 24, 350)


def of_lines(lines: list[Line], pool: Pool, requests: list) -> CompactPool:
    """A typical replicate of a study of constructions, each in its plain form, and heads in every number from 1.

    Typical: the replicate whose single model's gold at n = N / 4 is the median. Shown are the lines whose name is their
    kind and their number of members ("lora5"): the largest of each kind, every one of "heads", whose one head is the single
    model; unions of kinds are left out, their members being there already.
    """
    quarter = [pool.gold.shape[1] // 4]
    worth = {
        x.replicate: best_of_n(x.pool[..., 0], pool.gold, quarter, pool.ended).mean()
        for x in lines
        if x.name == SINGLE
    }
    here = {x.name: x for x in lines if x.replicate == _median(worth)}
    plain: dict[str, list[Line]] = defaultdict(list)
    for x in here.values():
        if x.kind not in {"mixed", SINGLE} and x.name.removeprefix(x.kind).isdigit():
            plain[x.kind].append(x)
    if "heads" in plain:
        plain["heads"].append(here[SINGLE])
    columns, groups, labels = {}, [], {}
    for kind, some in plain.items():
        some.sort(key=lambda x: x.k)
        for x in some if kind == "heads" else some[-1:]:
            members = []
            for i in range(x.k):  # a column that another construction holds too is carried once
                scores = x.pool[..., i]
                label = labels.setdefault(scores.tobytes(), f"{x.name} {i + 1}" if x.k > 1 else x.name)
                columns.setdefault(label, scores)
                members.append(label)
            group = {"name": kind, "label": CONSTRUCTIONS[kind].label, "members": members}
            groups.append({**group, "name": f"heads{x.k}", "series": kind} if kind == "heads" else group)
    return _compact(pool, requests, columns, groups, 12, 250)


def _compact(
    pool: Pool, requests: list, columns: dict, groups: list[dict], shown: int, keep: int
) -> CompactPool:
    """The first `shown` requests; columns: label -> scores (P, N), of which groups name their members."""
    ended, names = pool.ended[:shown], list(columns)
    scores = np.stack([c[:shown] for c in columns.values()], -1).astype(np.float64)
    scores = np.where(ended[..., None], scores, scores.min((0, 1)) - 0.5)  # never ends: ranks last
    bill = [
        {
            "name": t.name,
            "label": t.label.replace(" (sixths)", ""),
            "values": list(t.values),
            "slope": t.slope,
        }
        for t in BILL
    ]
    constructions = [
        {**g, "label": f"{len(g['members'])} {g['label']}" if len(g["members"]) > 1 else g["label"],
         "members": [names.index(m) for m in g["members"]]}
        for g in groups
    ]  # fmt: skip
    return CompactPool.from_pool(
        gold_counts=pool.counts[:shown], bill=bill, scores=scores, columns=names, tokens=pool.tokens[:shown],
        lengths=pool.lengths[:shown] - ended, prompts=[r.text for r in requests[:shown]], ensembles=constructions,
        vocab=list(VOCAB), keep=keep,
    )  # fmt: skip


def _median(values: dict):
    """The key of the (lower) median value."""
    return sorted(values, key=lambda k: (values[k], k))[(len(values) - 1) // 2]
