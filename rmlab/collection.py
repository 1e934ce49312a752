"""Many rows to pairs and counts: what is the same pair again, who has the majority, what was dropped and why."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
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
    counts, entries, where, first_bad = Counts(), [], "rows", ""
    voted: dict[object, _Entry] = {}  # what rows must share to be votes on one pair
    owner: dict[str, tuple] = {}  # id -> the texts it stands for
    names: dict[str, None] = {}
    for where, row in found:
        try:
            pair = _pair(row, where, columns, owner)
        except BadRow as bad:
            if on_bad == "error":
                raise
            first_bad = first_bad or f"; the first: {bad}"
            counts.dropped[bad.reason] += 1
            continue
        names |= dict.fromkeys(row)
        if repeats == "vote" and pair.votes is None:  # what was chosen is one vote
            pair = dataclasses.replace(pair, votes=(1.0, 0.0, 0.0))
        key = pair.texts if repeats == "vote" else None if columns.votes is None else pair.id
        if before := None if key is None else voted.get(key):
            before.pair, before.rows = _with_vote(before.pair, pair), before.rows + 1
            counts.noted["merged_vote"] += 1
            continue
        entries.append(_Entry(pair))
        voted.setdefault(key, entries[-1])
    counts.unread = [str(name) for name in names if name not in columns.known]
    pairs = _kept(_decided(entries, ties, counts), repeats, counts)
    if not pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.dropped.most_common())
        count = counts.dropped.total()
        raise ValueError(f"{where}: the last of {count} rows, none of them a pair ({reasons}){first_bad}")
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


def _decided(entries: list[_Entry], ties: str, counts: Counts) -> Iterator[_Entry]:
    """Those whose votes have a majority, it being chosen; and ties, where they are to be halves."""
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
        yield _Entry(pair, entry.rows)


def _kept(entries: Iterable[_Entry], repeats: str, counts: Counts) -> list[Pair]:
    """The pairs, where those that were there before are noted or dropped."""
    pairs, seen = [], {}  # the texts, sides in order -> what was chosen
    for entry in entries:
        chosen = plain(entry.pair.chosen)
        first = seen.setdefault(entry.pair.texts, (len(pairs), chosen))
        if first[0] < len(pairs):
            kind = "duplicate_pair" if first[1] == chosen else "reversed_pair"
            (counts.dropped if repeats == "drop" else counts.noted)[kind] += entry.rows
            if repeats == "drop":
                continue
        counts.kept += entry.rows
        pairs.append(entry.pair)
    return pairs
