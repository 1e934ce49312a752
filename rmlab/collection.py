"""Many rows to pairs and counts: what is the same pair again, who has the majority, what was dropped and why."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rmlab.dialogues import plain
from rmlab.pairs import Columns, Pair
from rmlab.tables import BadRow, Row, short


@dataclass
class Counts:
    """What became of the rows that were read: kept + dropped is all of them."""

    kept: int = 0
    dropped: Counter = field(default_factory=Counter)  # reason -> rows
    noted: Counter = field(default_factory=Counter)  # kept, but worth knowing -> rows
    unread: list[str] = field(default_factory=list)  # columns that nothing looked at


@dataclass
class _Entry:
    """A pair that was read, and how many rows stand behind it."""

    pair: Pair
    rows: int = 1


def collect(
    found: Iterable[Row], columns: Columns, on_bad: str, repeats: str, ties: str
) -> tuple[list[Pair], Counts]:
    """Pairs and counts of rows, each with where it stands; the options are those of `Preferences.read`.

    Raises
    ------
    ValueError
        The first bad row with `on_bad="error"`, and rows of which none is a pair.
    """
    counts, entries, first_bad = Counts(), [], ""
    seen: dict[tuple, _Entry] = {}  # the texts, sides in order
    owner: dict[str, tuple] = {}  # id -> the texts it stands for
    names: dict[str, None] = {}
    for where, row in found:
        try:
            pair = _pair(row, where, columns, owner)
            if repeats == "vote" and pair.votes is None:  # what was chosen is one vote
                pair = dataclasses.replace(pair, votes=(1.0, 0.0, 0.0))
        except BadRow as bad:
            if on_bad == "error":
                raise
            first_bad = first_bad or f"; the first: {bad}"
            counts.dropped[bad.reason] += 1
            continue
        names |= dict.fromkeys(row)
        before = seen.get(pair.texts)
        if before is not None and repeats == "vote":
            before.pair, before.rows = _with_vote(before.pair, pair), before.rows + 1
            counts.noted["merged_vote"] += 1
            continue
        if before is not None:
            kind = "duplicate_pair" if plain(before.pair.chosen) == plain(pair.chosen) else "reversed_pair"
            (counts.noted if repeats == "keep" else counts.dropped)[kind] += 1
            if repeats == "drop":
                continue
        entries.append(_Entry(pair))
        seen.setdefault(pair.texts, entries[-1])
    pairs = _decided(entries, ties, counts)
    counts.unread = [str(name) for name in names if name not in columns.known]
    if not pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.dropped.most_common())
        raise ValueError(f"no row of {counts.dropped.total()} is a pair ({reasons}){first_bad}")
    return pairs, counts


def _pair(row: object, where: str, columns: Columns, owner: dict[str, tuple]) -> Pair:
    try:
        pair = columns.pair(row, where)
    except RecursionError:
        raise BadRow("not_json", where, "a nest that no pair needs; mend the row") from None
    if owner.setdefault(pair.id, pair.texts) != pair.texts:
        fault = f"{short(pair.id)} is another pair's too; give each its own, or name the column as group"
        raise BadRow("repeated_id", where, fault, columns.id or "id")
    return pair


def _with_vote(pair: Pair, again: Pair) -> Pair:
    """A pair with the votes of another row of it, which may have its sides the other way round."""
    if plain(again.chosen) != plain(pair.chosen):
        again = again.swapped()
    votes = tuple(a + b for a, b in zip(pair.votes, again.votes, strict=True))
    return dataclasses.replace(pair, votes=votes)


def _decided(entries: list[_Entry], ties: str, counts: Counts) -> list[Pair]:
    """The pairs whose votes have a majority, it being chosen, and ties as they are to be."""
    pairs = []
    for entry in entries:
        pair = entry.pair
        if pair.votes is not None:
            ours, theirs, neither = pair.votes
            share = (ours + neither / 2) / (ours + theirs + neither)
            pair = dataclasses.replace(pair, soft=share)
            if share == 0.5:
                (counts.dropped if ties == "drop" else counts.noted)["tie"] += entry.rows
                if ties == "drop":
                    continue
            elif share < 0.5:
                pair = pair.swapped()
                counts.noted["sides_changed"] += entry.rows
        counts.kept += entry.rows
        pairs.append(pair)
    return pairs
