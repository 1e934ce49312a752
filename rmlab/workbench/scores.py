"""Scores without models: a table of answers, what members score them, and gold or a label where there is one.

    rmlab.Scores.read("pairs.csv", label="votes").report()

Letters: R rows (answers), K members, P prompts, N answers of the longest prompt, M pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, align
from rmlab.workbench import table

if TYPE_CHECKING:
    from rmlab.workbench.report import ScoreReport

TAKEN = {*AGGREGATORS, "all", "longer", "shorter"}
FLAT = 1e-6  # of a member's size: a spread that is rounding to whoever wrote float32
LARGEST = 1e100  # whose square, and that of its inverse, float64 holds


class Pairs(NamedTuple):
    """Pairs of answers to one prompt, as rows of the table.

    first, second : (M,) rows; labels : (M,) share of votes for the first, 0 to 1; clusters : (M,)
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray


class Pool(NamedTuple):
    """Answers by prompt, the shorter prompts padded with zeros.

    scores : (P, N, K) aligned; gold : (P, N) or None; there : (P, N) bool; clusters : (P,)
    """

    scores: np.ndarray
    gold: np.ndarray | None
    there: np.ndarray
    clusters: np.ndarray


class Columns(NamedTuple):
    """Which column holds what; None where there is none."""

    prompt: str
    answer: str | None
    gold: str | None
    label: str | None
    text: str | None
    length: str | None
    group: str | None


@dataclass(frozen=True, eq=False)
class Scores:
    """A checked table of scores, its rows ordered by prompt as prompts first appear.

    source : the file's name, or "table"
    rows : rows that were read; a table with a bad row is refused, so all are used
    members : K names; values : (R, K) their scores, each in its own unit
    prompts : (R,) 0..P-1, the answers that are compared with each other; clusters : (R,) what intervals count
    cluster_noun : what a cluster is, in the plural
    gold, label, length : (R,) or None; length_unit : words, or the name of the column
    words : (R,) scores of a bag of words that was trained on other pairs, or None
    groups : (R,) names, or None; unused : columns that were not read
    """

    source: str
    rows: int
    members: tuple[str, ...]
    values: np.ndarray
    prompts: np.ndarray
    clusters: np.ndarray
    cluster_noun: str
    gold: np.ndarray | None = None
    label: np.ndarray | None = None
    length: np.ndarray | None = None
    length_unit: str = ""
    groups: np.ndarray | None = None
    words: np.ndarray | None = None
    unused: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        path_or_frame: str | Path | pd.DataFrame,
        prompt: str = "prompt",
        answer: str | None = "answer",
        members: str | Sequence[str] | None = None,
        gold: str | None = None,
        label: str | None = None,
        text: str | None = None,
        length: str | None = None,
        group: str | None = None,
    ) -> Scores:
        """Read and check a table: CSV, TSV, JSON lines, JSON, Parquet, or a DataFrame.

        Three shapes. Pairs: two rows a prompt, `label` the share of votes for the answer, the two summing to 1. Pairs in
        one row: columns m_chosen and m_rejected a member, for the chosen one's share `label` (left out: 1); the prompt's
        column may be missing. Pools: any number of answers a prompt, with `gold` or without.

        Parameters
        ----------
        prompt, answer : columns of ids; answer=None numbers a prompt's answers, and so does a table without "answer"
        members : columns of scores; None: all columns of numbers that are named for nothing else
        gold : column of true rewards; label : column of labels, 0 to 1
        text, length : column of the answer's text, whose words are counted, or of its length
        group : column of what stands or falls together (a topic, an annotator): intervals count groups, each prompt in
            one of them; without it they count prompts

        Raises
        ------
        ValueError : a bad table; one sentence names the row, the column, the value and the mend
        """
        names = Columns(prompt, answer, gold, label, text, length, group)
        members = [members] if isinstance(members, str) else members
        return _read(path_or_frame, names, None if members is None else list(members))

    @property
    def k(self) -> int:
        """How many members there are."""
        return len(self.members)

    @property
    def judged_by(self) -> str | None:
        """What says which answer is better: "label", "gold" or None."""
        return "label" if self.label is not None else "gold" if self.gold is not None else None

    def aligned(self) -> np.ndarray:
        """(R, K): each member's mean 0 and standard deviation 1 over all rows, so that members can be aggregated."""
        return align(self.values)

    def unit(self) -> float:
        """The members' mean standard deviation over all rows: it takes aligned scores back to the scale of rewards."""
        return float(self.values.std(0).mean())

    def pairs(self) -> Pairs:
        """The labelled pairs; where there is gold instead, each prompt's answers paired off at random, each used once.

        Raises
        ------
        ValueError : neither a label nor gold
        """
        require(self.judged_by is not None, "label and gold", None, "a column of one of them")
        if self.label is not None:
            first = np.arange(0, len(self.prompts), 2)
            second, labels = first + 1, self.label[first]
        else:
            rng = np.random.default_rng(0)
            order = np.lexsort((rng.random(len(self.prompts)), self.prompts))  # shuffled inside each prompt
            place = np.arange(len(order)) - np.searchsorted(self.prompts, self.prompts)
            first = np.flatnonzero((place[:-1] % 2 == 0) & (self.prompts[:-1] == self.prompts[1:]))
            first, second = order[first], order[first + 1]
            labels = (np.sign(self.gold[first] - self.gold[second]) + 1) / 2
        mend = "at least one pair in which one answer is better"
        require(bool((labels != 0.5).any()), f"{self.judged_by} of {self.source}", "ties throughout", mend)
        return Pairs(first, second, labels, self.clusters[first])

    def pool(self) -> Pool:
        """The answers by prompt, scores aligned."""
        sizes = np.bincount(self.prompts)
        there = np.arange(sizes.max()) < sizes[:, None]  # rows are ordered by prompt
        scores = np.zeros((*there.shape, self.k))
        scores[there] = self.aligned()
        gold = None
        if self.gold is not None:
            gold = np.zeros(there.shape)
            gold[there] = self.gold
        return Pool(scores, gold, there, self.clusters[np.cumsum(sizes) - 1])

    def report(self) -> ScoreReport:
        """Everything that the table can say; `print` it, or `save` it."""
        from rmlab.workbench.report import ScoreReport

        return ScoreReport.of(self)


def _read(path_or_frame: str | Path | pd.DataFrame, names: Columns, members: list[str] | None) -> Scores:
    """A table as `Scores`: one answer a row, ids and numbers read, every rule checked."""
    is_frame = isinstance(path_or_frame, pd.DataFrame)
    source = "table" if is_frame else Path(path_or_frame).name
    frame = path_or_frame if is_frame else table.read_table(path_or_frame)
    table.check_columns(frame, source)
    frame = frame.rename(columns=str).set_axis([str(row) for row in range(1, len(frame) + 1)])
    if names.answer == "answer" and "answer" not in frame.columns:
        names = names._replace(answer=None)  # the usual name may be missing: answers are numbered
    rows, cluster, named = len(frame), names.group or names.prompt, {*names}
    if table.is_wide(frame):
        prompt = None if names.prompt == "prompt" else names.prompt  # the usual name may be missing
        table.require_columns(frame, [prompt, names.label, names.group], source)
        cluster = cluster if cluster in frame.columns else "pair"
        frame = table.stacked(frame, names.label, source)
        names = names._replace(prompt="pair", answer="side", label="preferred")
        named |= {"pair", "side", "preferred"}
    table.require_columns(frame, names, source)
    members = _members(frame, members, named, source)
    ids, cells = (table.identifiers(frame, name, source) for name in (names.prompt, cluster))
    if names.answer is not None:
        _require_distinct(frame, names, ids, source)
    codes, _ = pd.factorize(ids)
    order = np.argsort(codes, kind="stable")

    def numbers(name: str | None, mend: str = "a finite number") -> np.ndarray | None:
        return None if name is None else table.numbers(frame, name, source, mend)[order]

    length = numbers(names.length)
    if length is None and names.text is not None:
        length = np.array([len(str(cell).split()) for cell in frame[names.text].iloc[order]], np.float64)
    scores = Scores(
        source=source,
        rows=rows,
        members=members,
        values=np.stack([numbers(m) for m in members], 1),
        prompts=codes[order],
        clusters=pd.factorize(cells)[0][order],
        cluster_noun="groups" if names.group else "pairs" if cluster == "pair" else "prompts",
        gold=numbers(names.gold),
        label=numbers(names.label, "a label from 0 to 1"),
        length=length,
        length_unit=names.length or ("words" if names.text else ""),
        groups=None if names.group is None else cells[order],
        unused=tuple(c for c in frame.columns if c not in named and c not in members),
    )
    _check(scores, frame.index.to_numpy()[order], ids[order], names.prompt)
    return scores


def _members(frame: pd.DataFrame, members: list[str] | None, named: set[str], source: str) -> tuple[str, ...]:
    """The members' columns, checked: those given, or all columns of numbers that are named for nothing else."""
    chosen = table.numeric_columns(frame, named, source) if members is None else members
    require(len(chosen) > 0, f"members of {source}", chosen, "at least one column of scores")
    table.require_columns(frame, chosen, source)
    require(len(set(chosen)) == len(chosen), "members", chosen, "each member once")
    clash = [m for m in chosen if m in named]
    require(not clash, "members", clash, "columns that are named for nothing else")
    taken = [m for m in chosen if m in TAKEN]
    mend = "members alone, or rename the columns: rows call aggregators and length by these names"
    require(not taken, f"members of {source}", taken, mend)
    return tuple(chosen)


def _require_distinct(frame: pd.DataFrame, names: Columns, ids: np.ndarray, source: str) -> None:
    """Refuse two rows of one prompt and one answer."""
    both = pd.DataFrame({"prompt": ids, "answer": table.identifiers(frame, names.answer, source)})
    repeated = np.flatnonzero(both.duplicated())
    if len(repeated):
        row = both.iloc[repeated[0]]
        raise ValueError(
            f"{source}, row {frame.index[repeated[0]]}, columns {names.prompt!r} and {names.answer!r}: {row.prompt!r} and {row.answer!r} are an "
            "earlier row's too; give each answer an id of its own, or answer=None to number them"
        )


def _check(scores: Scores, rows: np.ndarray, ids: np.ndarray, unit: str) -> None:
    """Refuse what no measurement could use; rows : (R,) where each row stands, ids : (R,) the prompts'."""

    def refuse(at: int, fault: str) -> None:
        raise ValueError(f"{scores.source}, row {rows[at]}, {unit} {ids[at]!r}: {fault}")

    sizes = np.bincount(scores.prompts)
    starts = np.cumsum(sizes) - sizes
    if (sizes < 2).any():
        few = f" ({(sizes < 2).sum()} such prompts)" if (sizes < 2).sum() > 1 else ""
        fault = "one answer has nothing to be compared with; give at least two a prompt, or leave the row out"
        refuse(int(starts[np.argmax(sizes < 2)]), fault + few)
    torn = np.flatnonzero(scores.clusters != scores.clusters[starts][scores.prompts])
    if len(torn):
        refuse(int(torn[0]), "its answers are in two groups; put each prompt in one")
    if scores.label is not None:
        _check_labels(scores.label, sizes, starts, refuse)
    size = np.abs(scores.values).max(0)
    odd = [m for m, x in zip(scores.members, size, strict=True) if x > LARGEST or 0 < x < 1 / LARGEST]
    require(not odd, f"members of {scores.source}", odd, "scores between 1e-100 and 1e100: scale them")
    centre = np.add.reduceat(scores.values, starts) / sizes[:, None]
    still = np.abs(scores.values - centre[scores.prompts]).max(0) <= FLAT * size
    flat = [m for m, x in zip(scores.members, still, strict=True) if x]
    mend = "members that differ between two answers of some prompt by a millionth of their size, or leave them out"
    require(not flat, f"members of {scores.source}", flat, mend)


def _check_labels(label: np.ndarray, sizes: np.ndarray, starts: np.ndarray, refuse: Callable) -> None:
    """Refuse labels that are no shares of votes between two answers."""
    outside = np.flatnonzero((label < 0) | (label > 1))
    if len(outside):
        refuse(int(outside[0]), f"label {label[outside[0]]:g} is outside [0, 1]; give shares of votes")
    if (sizes != 2).any():
        at = int(np.argmax(sizes != 2))
        refuse(int(starts[at]), f"{sizes[at]} answers, and a label is for two; give the column as gold")
    sums = np.add.reduceat(label, starts)
    off = np.flatnonzero(np.abs(sums - 1) > 1e-6)
    if len(off):
        one, other = label[starts[off[0]]], label[starts[off[0]] + 1]
        mend = "the two labels of a pair sum to 1; 0.5 and 0.5 is a tie"
        refuse(int(starts[off[0]]), f"labels {one:g} and {other:g}; {mend}")
