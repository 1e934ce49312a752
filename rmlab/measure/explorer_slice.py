"""What the explorer shows of a study: a typical replicate, chosen by rule, small enough for a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores
from rmlab.optimise.best_of_n import best_of_n
from rmlab.optimise.compact import CompactPool
from rmlab.reward.methods import METHODS

FEW, MANY = (
    (24, 350),
    (12, 250),
)  # prompts shown, answers kept of each: with up to 24 members to carry, and with more


def explorer_slice(scores: StudyScores, ids: np.ndarray, lengths: np.ndarray, terms: np.ndarray, bill: list[dict],
                   prompts: Sequence[str], vocab: Sequence[str]) -> CompactPool:  # fmt: skip
    """A typical replicate of a study, every method in its plain form, and heads in every number from 1.

    Typical: the single model whose gold at n = N / 4 is the (lower) median over label draws and backbones. Shown are the
    ensembles that hold it, or stand on its labels and backbone, and whose name is their method and their number of
    members ("lora5"): the largest of each method, every one of "heads", whose one head is the single model. Unions of
    several methods are left out, their members being there already.

    Parameters
    ----------
    ids (P, N, T), lengths (P, N) with their EOS; terms (P, N, F) of gold's bill; prompts (P,) and vocab as words
    """
    home = _typical(scores)
    plain: dict[str, list[EnsembleResult]] = defaultdict(list)
    for e in scores.ensembles:
        here = home in e.parts or (e.draw == home.draw and e.parts[0].backbone == home.backbone)
        listed = e.method not in {"mixed", SINGLE} and e.name.removeprefix(e.method).isdigit()
        held = any(p.method == SINGLE for p in e.parts)
        if here and listed and (home in e.parts or not held):
            plain[e.method].append(e)
    columns: dict[str, np.ndarray] = {}
    labels: dict[bytes, str] = {}
    ensembles = []
    for method, group in plain.items():
        sizes = {e.k: e for e in reversed(group)}
        if method == "heads":
            name = labels.setdefault(np.ascontiguousarray(home.pool[..., 0]).tobytes(), SINGLE)
            columns.setdefault(name, home.pool[..., 0])
            ensembles.append(
                {"name": "heads1", "series": method, "label": METHODS[method].label, "members": [name]}
            )
        for k in sorted(sizes) if method == "heads" else [max(sizes)]:
            _add(sizes[k], home, columns, labels, ensembles, series=method == "heads")
    return _compact(scores, ids, lengths, terms, bill, prompts, vocab, columns, ensembles)


def _typical(scores: StudyScores):
    """The single model at the median of the medians: of a label draw and backbone, then of its finetuning seeds."""
    quarter = [scores.gold.shape[1] // 4]
    singles = [e.parts[0] for e in scores.ensembles if e.name == SINGLE]
    worth = {m.id: best_of_n(m.pool[..., 0], scores.gold, quarter, scores.ended).mean() for m in singles}
    corners: dict[tuple[int, int], list] = defaultdict(list)
    for m in singles:
        corners[m.draw, m.backbone].append(m)
    middle = _median({c: float(np.mean([worth[m.id] for m in group])) for c, group in corners.items()})
    best = _median({m.id: worth[m.id] for m in corners[middle]})
    return next(m for m in corners[middle] if m.id == best)


def _add(e: EnsembleResult, home, columns: dict, labels: dict, ensembles: list, series: bool) -> None:
    """Put an ensemble's members among the columns, each carried once, and the ensemble into the list; home comes first."""
    parts = sorted(e.parts, key=lambda p: p is not home)
    members, scores = [], np.concatenate([p.pool for p in parts], -1)
    for i in range(e.k):
        column = np.ascontiguousarray(scores[..., i])
        label = labels.setdefault(column.tobytes(), f"{e.name} {i + 1}" if e.k > 1 else e.name)
        columns.setdefault(label, column)
        members.append(label)
    name = {"name": e.name, "series": "heads"} if series else {"name": e.method}
    ensembles.append({**name, "label": METHODS[e.method].label, "members": members})


def _compact(scores, ids, lengths, terms, bill, prompts, vocab, columns, ensembles) -> CompactPool:
    """The first prompts of the pool; columns: label -> scores (P, N), of which ensembles name their members."""
    names = list(columns)
    shown, keep = FEW if len(names) <= 24 else MANY
    ended = scores.ended[:shown]
    table = np.stack([c[:shown] for c in columns.values()], -1).astype(np.float64)
    table = np.where(ended[..., None], table, table.min((0, 1)) - 0.5)  # never ends: ranks last
    listed = [
        {
            **e,
            "label": f"{len(e['members'])} {e['label']}" if len(e["members"]) > 1 else e["label"],
            "members": [names.index(m) for m in e["members"]],
        }
        for e in ensembles
    ]
    return CompactPool.from_pool(
        gold_counts=terms[:shown],
        bill=bill,
        scores=table,
        columns=names,
        tokens=ids[:shown],
        lengths=lengths[:shown] - ended,
        prompts=list(prompts[:shown]),
        ensembles=listed,
        vocab=list(vocab),
        keep=keep,
    )


def _median(values: dict):
    """The key of the (lower) median value."""
    return sorted(values, key=lambda k: (values[k], k))[(len(values) - 1) // 2]
