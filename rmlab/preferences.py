"""Preference pairs: load, clean, split, cut to length; whatever is dropped is counted under a reason.

Real preference files are dirty: empty answers, identical pairs, contexts that differ, bytes that are not
UTF-8. With `on_bad="error"` the first bad row raises one clear error; with `"drop"` it is left out and
counted in the `Report`. Nothing is dropped silently.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rmlab.recipe import need

HUGE = 1_000_000  # characters in one line: not a pair but a broken file
MARK = "\n\nAssistant:"


@dataclass(frozen=True)
class Pair:
    """One comparison: `chosen` was preferred to `rejected` as an answer to `prompt`. `soft`: share of votes for it."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    soft: float | None = None


@dataclass
class Report:
    """What became of a file's rows."""

    kept: int = 0
    dropped: Counter = field(default_factory=Counter)
    noted: Counter = field(default_factory=Counter)  # kept, but worth knowing: truncated prompts ...

    def __str__(self) -> str:
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(self.dropped.items())) or "none"
        noted = "; " + ", ".join(f"{what} {count}" for what, count in sorted(self.noted.items())) if self.noted else ""
        return f"kept {self.kept}, dropped {sum(self.dropped.values())} ({dropped}){noted}"


class BadRow(ValueError):
    """A row that cannot be used: `reason` is the short name that a report counts it under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def load_pairs(path: str | Path, *, on_bad: str = "error") -> tuple[list[Pair], Report]:
    """Read pairs from a JSON-lines file or a JSON array.

    Rows are plain (`prompt`, `chosen`, `rejected` strings), conversational (lists of `{role, content}`), or raw HH
    (no prompt; both sides one dialogue, split at the last "Assistant:"). Optional: `id`, `soft_label`.

    Parameters
    ----------
    path : the file, UTF-8, with or without a byte-order mark
    on_bad : "error" raises at the first bad row; "drop" leaves it out and counts it

    Returns
    -------
    pairs, report

    Raises
    ------
    ValueError
        Names the file, the line, the field, the value (shortened) and the mend.
    """
    need(on_bad in {"error", "drop"}, "on_bad", on_bad, "'error' or 'drop'")
    path = Path(path)
    need(path.is_file(), "path", str(path), "an existing JSON-lines or JSON file")
    report, pairs, seen = Report(), [], {}
    for where, row in _rows(path):
        try:
            pair = _pair(row() if callable(row) else row, where, f"{path.stem}-{len(pairs) + sum(report.dropped.values())}")
            _check_repeat(pair, seen, where)
        except BadRow as bad:
            if on_bad == "error":
                raise
            report.dropped[bad.reason] += 1
        else:
            pairs.append(pair)
            report.kept += 1
    return pairs, report


def load_hub(name: str, split: str = "train", *, on_bad: str = "error") -> tuple[list[Pair], Report]:
    """The same for a data set on the Hugging Face hub or a local folder that `datasets` can read."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"name = {name!r}: reading hub data needs the `datasets` package; install it, or give a JSON file to load_pairs") from None
    report, pairs, seen = Report(), [], {}
    for i, row in enumerate(load_dataset(name, split=split)):
        where = f"{name} [{split}], row {i}"
        try:
            pair = _pair(row, where, f"{split}-{i}")
            _check_repeat(pair, seen, where)
        except BadRow as bad:
            if on_bad == "error":
                raise
            report.dropped[bad.reason] += 1
        else:
            pairs.append(pair)
            report.kept += 1
    return pairs, report


def split_pairs(pairs: Sequence[Pair], fraction: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Two parts with no prompt in both; a pair's side depends on its prompt alone, not on the order of the rows.

    fraction : about how much goes into the second part, between 0 and 1
    """
    need(0 < fraction < 1, "fraction", fraction, "a share between 0 and 1")

    def second(pair: Pair) -> bool:
        hashed = hashlib.blake2b(f"{seed}:{pair.prompt}".encode(), digest_size=8).digest()
        return int.from_bytes(hashed, "big") < fraction * 2**64

    sides = [second(p) for p in pairs]
    return [p for p, s in zip(pairs, sides, strict=True) if not s], [p for p, s in zip(pairs, sides, strict=True) if s]


def truncate_pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], max_length: int):
    """Cut a pair of token ids to `max_length` tokens a side, so that the difference survives.

    The prompt loses its left end first; an answer is cut, on the right, only if it is longer than `max_length`
    by itself, and keeps its last token, the `<eos>` that is scored.

    Returns
    -------
    (prompt, chosen, rejected) lists of ids

    Raises
    ------
    BadRow
        `identical_after_truncation`: nothing would be left to prefer.
    """
    need(max_length >= 2, "max_length", max_length, "at least 2 tokens")
    chosen, rejected = (_cut_answer(list(side), max_length) for side in (chosen, rejected))
    if chosen == rejected:
        raise BadRow("identical_after_truncation", f"max_length = {max_length}: chosen and rejected become identical; raise it, or drop the pair")
    room = max_length - max(len(chosen), len(rejected))
    prompt = list(prompt)
    return prompt[len(prompt) - min(room, len(prompt)) :], chosen, rejected


def truncate_pairs(rows: Iterable[tuple[Sequence[int], Sequence[int], Sequence[int]]], max_length: int, *, on_bad: str = "drop"):
    """`truncate_pair` over many (prompt, chosen, rejected) ids: the kept rows and a report of what was cut or dropped."""
    need(on_bad in {"error", "drop"}, "on_bad", on_bad, "'error' or 'drop'")
    report, kept = Report(), []
    for prompt, chosen, rejected in rows:
        try:
            cut = truncate_pair(prompt, chosen, rejected, max_length)
        except BadRow as bad:
            if on_bad == "error":
                raise
            report.dropped[bad.reason] += 1
            continue
        report.noted["prompts cut"] += len(cut[0]) < len(prompt)
        report.noted["answers cut"] += len(cut[1]) < len(chosen) or len(cut[2]) < len(rejected)
        kept.append(cut)
        report.kept += 1
    report.noted = +report.noted
    return kept, report


def _cut_answer(ids: list[int], most: int) -> list[int]:
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    """(where, row or a function that raises its `BadRow`) for every row of a file."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull`")
    if data.lstrip()[:1] == b"[":
        try:
            rows = json.loads(data.decode("utf-8"))
        except UnicodeDecodeError as bad:
            raise ValueError(f"{path}, byte {bad.start}: not UTF-8; convert the file") from None
        except json.JSONDecodeError as bad:
            raise ValueError(f"{path}, line {bad.lineno}: not JSON ({bad.msg}); mend the file") from None
        yield from ((f"{path}, row {i}", row) for i, row in enumerate(rows))
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, (lambda line=line, where=where: _parse(line, where))


def _parse(line: bytes, where: str) -> object:
    if len(line) > HUGE:
        raise BadRow("huge_line", f"{where}: {len(line)} bytes in one line; is this JSON lines?")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as bad:
        raise BadRow("not_utf8", f"{where}, byte {bad.start}: not UTF-8 (byte {line[bad.start]:#04x}); convert the file") from None
    except json.JSONDecodeError as bad:
        raise BadRow("not_json", f"{where}, column {bad.colno}: not JSON ({bad.msg}); mend the line") from None


def _pair(row: object, where: str, fallback: str) -> Pair:
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"{where}: {_short(row)} is not an object; give prompt, chosen and rejected")
    for name in ("chosen", "rejected"):
        if name not in row or row[name] is None:
            raise BadRow("missing_field", f"{where}, field {name!r}: missing; give prompt, chosen and rejected")
    if row.get("prompt") is None:
        prompt, chosen, rejected = _split_dialogue(row, where)
    else:
        prompt, chosen, rejected = (_text(row[name], name, where) for name in ("prompt", "chosen", "rejected"))
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise BadRow("empty_answer", f"{where}, field {name!r}: empty; drop the row or give the answer")
    if chosen == rejected:
        raise BadRow("identical_pair", f"{where}: chosen and rejected are identical; drop the row")
    soft = row.get("soft_label")
    if soft is not None and not (isinstance(soft, int | float) and 0 <= soft <= 1):
        raise BadRow("bad_soft_label", f"{where}, field 'soft_label': {_short(soft)}; give a share from 0 to 1")
    return Pair(str(row.get("id") or fallback), prompt, chosen, rejected, soft)


def _split_dialogue(row: dict, where: str) -> tuple[str, str, str]:
    sides = []
    for name in ("chosen", "rejected"):
        text = _text(row[name], name, where)
        cut = text.rfind(MARK)
        if cut < 0:
            raise BadRow("missing_field", f"{where}, field 'prompt': missing, and {name!r} is no dialogue with 'Assistant:' in it; give the prompt")
        sides.append((text[: cut + len(MARK)], text[cut + len(MARK) :].strip()))
    if sides[0][0] != sides[1][0]:
        raise BadRow("context_differs", f"{where}: chosen and rejected answer different dialogues; drop the row")
    return sides[0][0], sides[0][1], sides[1][1]


def _text(value: object, name: str, where: str) -> str:
    if isinstance(value, list) and all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in value):
        value = "\n\n".join(t["content"] if name != "prompt" else f"{t.get('role', 'user')}: {t['content']}" for t in value)
    if not isinstance(value, str):
        raise BadRow("not_text", f"{where}, field {name!r}: {_short(value)} is {type(value).__name__}, not text; give a string")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise BadRow("bad_characters", f"{where}, field {name!r}: holds NUL or half a surrogate pair; clean the text")
    return value


def _check_repeat(pair: Pair, seen: dict, where: str) -> None:
    first = seen.setdefault((pair.prompt, *sorted((pair.chosen, pair.rejected))), (pair.chosen, where))
    if first[1] != where:
        kind = "duplicate_pair" if first[0] == pair.chosen else "reversed_pair"
        raise BadRow(kind, f"{where}: {kind.replace('_', ' ')} of {first[1]}; keep one of them")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
