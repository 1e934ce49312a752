"""What the explorer shows of a study: a typical replicate, chosen by rule, small enough for a page.

Letters: P prompts, N answers a prompt, T tokens, K members, F terms of gold's bill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from rmlab.measure.ensembles import SINGLE, EnsembleResult, MemberScores, StudyScores
from rmlab.optimise.best_of_n import best_of_n
from rmlab.optimise.compact import CompactPool
from rmlab.reward.methods import METHODS

COLUMNS = 24  # members that a page carries with ease
FEW, MANY = (
    (24, 350),
    (12, 250),
)  # prompts shown and answers kept of each: up to so many members, and with more


def explorer_slice(
    scores: StudyScores,
    ids: np.ndarray,
    lengths: np.ndarray,
    terms: np.ndarray,
    bill: Sequence[dict],
    prompts: Sequence[str],
    vocab: Sequence[str],
) -> CompactPool:
    """A typical replicate of a study: every method in its plain form, and heads in every number from 1.

    Typical: the replicate whose single models on its first backbone, where every ensemble stands, have the (lower) median
    gold at n = N / 4, and of them the median finetuning seed. Shown are the ensembles that hold it, or stand on its labels
    and backbone, and whose name is their method and their number of members ("lora5"): the largest of each method, every one
    of "heads", whose one head is the single model. Unions of several methods are left out, their members being there
    already. So are answers that never ended: whatever was put in the place of their scores would move a mean, a start and a
    correlation.

    Parameters
    ----------
    ids : (P, N, T) answers, right-padded; lengths : (P, N), their EOS counted
    terms : (P, N, F) how often each term of gold's bill occurs
    bill : name, label, values and slope of each term
    prompts : (P,) as text; vocab : every id as a word
    """
    columns, ensembles = _columns(_shown(scores, typical_single(scores)))
    shown, keep = FEW if len(columns) <= COLUMNS else MANY
    ended = scores.ended[:shown]
    table = np.stack([column[:shown] for column in columns.values()], -1).astype(np.float64)
    return CompactPool.from_pool(
        gold_counts=terms[:shown],
        bill=list(bill),
        scores=table,
        columns=list(columns),
        ensembles=ensembles,
        tokens=ids[:shown],
        lengths=lengths[:shown] - ended,
        prompts=list(prompts[:shown]),
        vocab=list(vocab),
        keep=keep,
        ended=ended,
    )


def text_slice(
    scores: StudyScores, prompts: Sequence[str], answers: Sequence[Sequence[str]], gold_unit: str = ""
) -> CompactPool:
    """The same of a study of text, whose gold is a number without a bill: typical replicate and ensembles as above.

    prompts, answers : (P,) texts and P lists of N texts, of as many prompts as are shown at least; gold_unit : as in
        `CompactPool.from_text`
    """
    columns, ensembles = _columns(_shown(scores, typical_single(scores)))
    shown = (FEW if len(columns) <= COLUMNS else MANY)[0]
    table = np.stack([column[:shown] for column in columns.values()], -1).astype(np.float64)
    return CompactPool.from_text(
        prompts[:shown],
        answers[:shown],
        table,
        scores.gold[:shown],
        columns=list(columns),
        ensembles=ensembles,
        gold_unit=gold_unit,
        ended=scores.ended[:shown],
    )


def typical_single(scores: StudyScores) -> MemberScores:
    """The single model at the median of the medians: of a replicate's first backbone, then of its finetuning seeds."""
    quarter = [scores.gold.shape[1] // 4]
    groups: dict[int, dict[str, float]] = defaultdict(dict)
    for m in scores.singles:
        if m.backbone == 0:
            worth = best_of_n(m.pool[..., 0], scores.gold, quarter, scores.ended).mean()
            groups[m.draw][m.id] = float(worth)
    place = _median({place: float(np.mean(list(group.values()))) for place, group in groups.items()})
    home = _median(groups[place])
    return next(m for m in scores.singles if m.id == home)


def _shown(scores: StudyScores, home: MemberScores) -> list[dict]:
    """Ensembles as the page lists them, members as (label, scores (P, N)), those of the typical single model first."""
    plain: dict[str, dict[int, EnsembleResult]] = defaultdict(dict)
    for e in scores.ensembles:
        size, apart = e.name.removeprefix(e.method), not any(p.method == SINGLE for p in e.parts)
        here = home in e.parts or (apart and (e.replicate, e.parts[0].backbone) == (home.draw, home.backbone))
        if here and e.method not in {"mixed", SINGLE} and size.isdigit():
            plain[e.method].setdefault(int(size), e)
    rows = []
    for method, sizes in plain.items():
        label = METHODS[method].label
        if method != "heads":
            rows.append({"name": method, "label": label, "members": _members(sizes[max(sizes)], home)})
            continue
        members = {1: [(SINGLE, home.pool[..., 0])]} | {k: _members(sizes[k], home) for k in sorted(sizes)}
        rows += [
            {"name": f"heads{k}", "series": method, "label": label, "members": members[k]} for k in members
        ]
    return rows


def _members(e: EnsembleResult, home: MemberScores) -> list[tuple[str, np.ndarray]]:
    """(label, scores (P, N)) of an ensemble's members, the typical single model first where it is one of them."""
    pools = [p.pool for p in sorted(e.parts, key=lambda p: p is not home)]
    columns = [pool[..., k] for pool in pools for k in range(pool.shape[-1])]
    one = METHODS[e.method].label.removesuffix("s")
    names = (f"head {i} of {e.k}" if e.method == "heads" else f"{one} {i}" for i in range(1, e.k + 1))
    return list(zip(names if e.k > 1 else [one], columns, strict=True))


def _columns(shown: list[dict]) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Columns by label, equal ones carried once, and the ensembles with their members as numbers of columns."""
    labels: dict[bytes, str] = {}
    columns: dict[str, np.ndarray] = {}
    ensembles = []
    for row in shown:
        members = []
        for label, column in row["members"]:
            label = labels.setdefault(column.tobytes(), label)
            columns.setdefault(label, column)
            members.append(list(columns).index(label))
        k = len(members)
        ensembles.append(
            {**row, "label": f"{k} {row['label']}" if k > 1 else row["label"], "members": members}
        )
    return columns, ensembles


def _median(values: dict[Hashable, float]) -> Hashable:
    """The key of the (lower) median value."""
    return sorted(values, key=lambda k: (values[k], k))[(len(values) - 1) // 2]
