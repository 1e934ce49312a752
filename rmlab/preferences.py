"""Preference pairs: load, clean, split, cut to length; whatever is dropped is counted under a reason.

Real preference files are dirty: empty answers, identical pairs, contexts that differ, bytes that are not
UTF-8. With `on_bad="error"` the first bad row raises one clear error; with `"drop"` it is left out and
counted in the `Report`. Nothing is dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rmlab.recipe import require

HUGE = 1_000_000  # bytes in one line: not a pair but a broken file
MARK = "\n\nAssistant:"  # where an answer begins in a rendered dialogue
NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")  # NUL, and either half of a surrogate pair
SPEAKERS = {"user": "Human", "human": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True)
class Pair:
    """One comparison: `chosen` was preferred to `rejected` as an answer to `prompt`; all three are text."""

    id: str  # the file's, or a hash of the text: never the row's position
    prompt: str
    chosen: str
    rejected: str
    soft: float | None = None  # share of the votes for `chosen`, 0 to 1


@dataclass
class Report:
    """What became of the rows: kept + dropped is all of them."""

    kept: int = 0
    dropped: Counter = field(default_factory=Counter)  # reason -> rows
    noted: Counter = field(default_factory=Counter)  # kept, but worth knowing -> rows

    def __str__(self) -> str:
        def listed(counts: Counter) -> str:
            return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))

        text = f"kept {self.kept}, dropped {self.dropped.total()}"
        text += f" ({listed(self.dropped)})" if self.dropped else ""
        return text + (f"; noted: {listed(self.noted)}" if self.noted else "")


class BadRow(ValueError):
    """A row that cannot be used.

    reason : the short name that a report counts it under
    where : file and line, or whatever else finds the row
    fault : what is wrong with it, and the mend
    name : the field, if it is one field's fault
    """

    def __init__(self, reason: str, where: str, fault: str, name: str | None = None):
        super().__init__(f"{where}, field {name!r}: {fault}" if name else f"{where}: {fault}")
        self.reason = reason


def load_pairs(
    path: str | Path, *, on_bad: str = "error", repeats: str = "keep"
) -> tuple[list[Pair], Report]:
    """Read pairs from a JSON-lines file or a JSON array.

    A row has `chosen`, `rejected` and, in one of three forms, the prompt:

    - plain: `prompt`, `chosen` and `rejected` are strings;
    - conversational: any of them is a list of `{role, content}`. A side that opens with another speaker than
      the assistant is a whole dialogue, its last message the answer and the rest the prompt;
    - raw HH: no `prompt`, and both sides are one string, split at its last "\\n\\nAssistant:".

    The last two give the same text for the same dialogue: "\\n\\nHuman: ...\\n\\nAssistant:". Optional
    fields: `id` and `soft_label`, a share from 0 to 1.

    Parameters
    ----------
    path : the file, UTF-8, with or without a byte-order mark
    on_bad : "error" raises at the first bad row; "drop" leaves it out and counts it
    repeats : pairs whose three texts were seen before, either way round, are no error. "keep" keeps and notes
        them; "drop" keeps the first and counts the others

    Returns
    -------
    pairs, report

    Raises
    ------
    ValueError
        Names the file, the line, the field, the value (at most 60 characters of it) and the mend.
    """
    path = Path(path)
    require(path.is_file(), "path", str(path), "an existing JSON-lines or JSON file")
    pairs, report = _collect(_rows(path), on_bad, repeats)
    if not report.kept and not report.dropped:
        raise ValueError(f"{path}: has no rows; give a file with at least one")
    return pairs, report


def load_hub(
    name: str, split: str = "train", *, on_bad: str = "error", repeats: str = "keep"
) -> tuple[list[Pair], Report]:
    """The same for a data set on the Hugging Face hub, or a local folder that `datasets` can read."""
    try:
        from datasets import load_dataset
    except ImportError:
        mend = "install it, or give a JSON file to load_pairs"
        raise ValueError(f"name = {name!r}: hub data needs the package `datasets`; {mend}") from None
    rows = load_dataset(name, split=split)
    located = ((f"{name} [{split}], row {i}", lambda row=row: row) for i, row in enumerate(rows))
    return _collect(located, on_bad, repeats)


def split_pairs(pairs: Sequence[Pair], fraction: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Two parts with no prompt in both.

    A pair's side depends on its prompt and the seed alone, not on the order of the rows nor on what else is
    there. With few distinct prompts the parts may be far from `fraction`, or empty.

    Parameters
    ----------
    fraction : about the share of the prompts that goes into the second part, between 0 and 1
    """
    require(0 < fraction < 1, "fraction", fraction, "a share between 0 and 1")

    def second(pair: Pair) -> bool:
        hashed = hashlib.blake2b(f"{seed}:{pair.prompt}".encode(), digest_size=8).digest()
        return int.from_bytes(hashed, "big") < fraction * 2**64

    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[second(pair)].append(pair)
    return parts


def truncate_pair(
    prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], max_length: int
) -> tuple[list[int], list[int], list[int]]:
    """Cut a pair of ids so that prompt and answer fit in `max_length` tokens and the difference survives.

    The prompt, the same for both sides, loses its left end (a <bos> there too: give it without, and put it
    back). An answer is cut only if it is longer than `max_length` by itself: on the right, except for its
    last token, the <eos> where the score is read.

    Returns
    -------
    (prompt, chosen, rejected) lists of ids

    Raises
    ------
    BadRow
        `identical_after_truncation`: nothing would be left to prefer.
    """
    require(max_length >= 2, "max_length", max_length, "at least 2 tokens")
    chosen, rejected = _cut_answer(chosen, max_length), _cut_answer(rejected, max_length)
    if chosen == rejected:
        fault = "chosen and rejected become identical; raise it, or drop the pair"
        raise BadRow("identical_after_truncation", f"max_length = {max_length}", fault)
    room = max_length - max(len(chosen), len(rejected))
    prompt = list(prompt)
    return prompt[max(0, len(prompt) - room) :], chosen, rejected


def truncate_pairs(
    rows: Iterable[tuple], max_length: int, *, on_long: str = "cut"
) -> tuple[list[tuple], Report]:
    """`truncate_pair` over many (prompt, chosen, rejected) ids.

    Parameters
    ----------
    on_long : what becomes of a pair that does not fit. "cut" shortens it and notes what was cut, and drops
        and counts it if its sides would become identical; "drop" drops and counts it; "error" raises.

    Returns
    -------
    the kept (prompt, chosen, rejected), and the report
    """
    require(on_long in {"cut", "drop", "error"}, "on_long", on_long, "'cut', 'drop' or 'error'")
    report, kept = Report(), []
    for i, (prompt, chosen, rejected) in enumerate(rows):
        length = len(prompt) + max(len(chosen), len(rejected))
        if length > max_length and on_long == "error":
            fault = f"{length} tokens; raise max_length = {max_length}, cut or drop"
            raise BadRow("too_long", f"pair {i}", fault)
        if length > max_length and on_long == "drop":
            report.dropped["too_long"] += 1
            continue
        try:
            cut = truncate_pair(prompt, chosen, rejected, max_length)
        except BadRow as bad:
            report.dropped[bad.reason] += 1
            continue
        report.noted["prompt_cut"] += len(cut[0]) < len(prompt)
        report.noted["answer_cut"] += len(cut[1]) < len(chosen) or len(cut[2]) < len(rejected)
        report.kept += 1
        kept.append(cut)
    report.noted = +report.noted  # without the zeros
    return kept, report


def _cut_answer(ids: Sequence[int], most: int) -> list[int]:
    ids = list(ids)
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _collect(rows: Iterable[tuple[str, Callable]], on_bad: str, repeats: str) -> tuple[list[Pair], Report]:
    """Pairs and report from (where, a function that returns the row or raises its `BadRow`)."""
    require(on_bad in {"error", "drop"}, "on_bad", on_bad, "'error' or 'drop'")
    require(repeats in {"keep", "drop"}, "repeats", repeats, "'keep' or 'drop'")
    pairs, report = [], Report()
    seen: dict[tuple, str] = {}  # the texts, sides in order -> what was chosen
    owner: dict[str, tuple] = {}  # id -> the texts it stands for
    for where, read in rows:
        try:
            pair = _pair(read(), where)
            texts = (pair.prompt, *sorted((pair.chosen, pair.rejected)))
            if owner.setdefault(pair.id, texts) != texts:
                fault = f"{_short(pair.id)} is another pair's too; give each pair its own"
                raise BadRow("repeated_id", where, fault, "id")
        except BadRow as bad:
            if on_bad == "error":
                raise
            report.dropped[bad.reason] += 1
            continue
        if texts in seen:
            kind = "duplicate_pair" if seen[texts] == pair.chosen else "reversed_pair"
            (report.noted if repeats == "keep" else report.dropped)[kind] += 1
            if repeats == "drop":
                continue
        seen.setdefault(texts, pair.chosen)
        pairs.append(pair)
        report.kept += 1
    return pairs, report


def _rows(path: Path) -> Iterator[tuple[str, Callable]]:
    """(where, a function that returns the row or raises its `BadRow`) for every row of a file."""
    raw = path.read_bytes()
    if raw.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull`")
    data = raw.removeprefix(b"\xef\xbb\xbf")
    start = len(raw) - len(data)
    rows = _array(data, path, start) if data.lstrip()[:1] == b"[" else None
    if rows is not None:
        yield from ((f"{path}, row {i}", lambda row=row: row) for i, row in enumerate(rows, 1))
        return
    for number, line in enumerate(data.split(b"\n"), 1):  # not splitlines: U+2028 is text
        if line.strip():
            yield f"{path}, line {number}", partial(_parse, line, f"{path}, line {number}", start)
        start += len(line) + 1


def _array(data: bytes, path: Path, start: int) -> list | None:
    """The rows of a file that is one JSON array; None where only its first line is one."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as bad:
        line, byte = data.count(b"\n", 0, bad.start) + 1, start + bad.start
        raise ValueError(f"{path}, line {line}: byte {byte} of the file is not UTF-8; convert it") from None
    except json.JSONDecodeError as bad:
        if bad.msg == "Extra data":
            return None
        raise ValueError(f"{path}, line {bad.lineno}: not JSON ({bad.msg}); mend the file") from None
    except (ValueError, RecursionError):  # see _parse
        raise ValueError(f"{path}: JSON that no pair needs, in one array; mend the file") from None


def _parse(line: bytes, where: str, start: int) -> object:
    if len(line) > HUGE:
        raise BadRow("huge_line", where, f"{len(line)} bytes in one line; is this JSON lines?")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as bad:
        fault = (
            f"byte {start + bad.start} of the file ({line[bad.start]:#04x}) is not UTF-8; convert the file"
        )
        raise BadRow("not_utf8", where, fault) from None
    except json.JSONDecodeError as bad:
        raise BadRow(
            "not_json", where, f"not JSON at column {bad.colno} ({bad.msg}); mend the line"
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, a nest of thousands of brackets
        raise BadRow("not_json", where, "JSON that no pair needs; mend the line") from None


def _pair(row: object, where: str) -> Pair:
    if not isinstance(row, dict):
        raise BadRow("not_an_object", where, f"{_short(row)} is no object; give prompt, chosen and rejected")
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadRow("missing_field", where, "missing; give prompt, chosen and rejected", name)
    prompt, chosen, rejected = (row.get(name) for name in ("prompt", "chosen", "rejected"))
    if prompt is None or _is_dialogue(chosen) or _is_dialogue(rejected):
        prompt, chosen = _split(chosen, "chosen", where)
        other, rejected = _split(rejected, "rejected", where)
        if prompt != other:
            raise BadRow("context_differs", where, "the two sides answer different dialogues; drop the row")
    else:
        prompt = _render(_turns(prompt, "prompt", where)) + MARK if isinstance(prompt, list) else prompt
        chosen, rejected = _answer(chosen, "chosen", where), _answer(rejected, "rejected", where)
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        _check_text(text, name, where)
    if chosen == rejected:
        raise BadRow("identical_pair", where, "chosen and rejected are identical; drop the row")
    soft, name = row.get("soft_label"), row.get("id")
    number = isinstance(soft, int | float) and not isinstance(soft, bool)
    if soft is not None and not (number and 0 <= soft <= 1):
        raise BadRow("bad_soft_label", where, f"{_short(soft)}; give a share from 0 to 1", "soft_label")
    if name is None:
        name = hashlib.blake2b(json.dumps([prompt, chosen, rejected]).encode(), digest_size=8).hexdigest()
    return Pair(str(name), prompt, chosen, rejected, None if soft is None else float(soft))


def _is_dialogue(side: object) -> bool:
    """A list of messages that opens with another speaker than the assistant: the prompt is inside."""
    first = side[0] if isinstance(side, list) and side else None
    return isinstance(first, dict) and first.get("role") != "assistant"


def _split(side: object, name: str, where: str) -> tuple[str, str]:
    """(prompt, answer) of a side that is a whole dialogue, as messages or as one HH string."""
    if isinstance(side, list):
        turns = _turns(side, name, where)
        if not turns or turns[-1][0] != "assistant":
            raise BadRow("no_answer", where, "the last message is not the assistant's; drop the row", name)
        return _render(turns[:-1]) + MARK, turns[-1][1].strip()
    if not isinstance(side, str):
        _check_text(side, name, where)
    cut = side.rfind(MARK)  # the common prefix would swallow words that both answers begin with
    if cut < 0:
        fault = f"missing, and {name!r} is no dialogue to take it from; give the prompt"
        raise BadRow("missing_field", where, fault, "prompt")
    return side[: cut + len(MARK)], side[cut + len(MARK) :].strip()


def _answer(side: object, name: str, where: str) -> object:
    """The answer's text; the assistant's first message goes without its marker, which ends the prompt."""
    if not isinstance(side, list):
        return side
    turns = _turns(side, name, where)
    return turns[0][1].strip() + _render(turns[1:]) if turns else ""


def _turns(messages: list, name: str, where: str) -> list[tuple[str, str]]:
    for turn in messages:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
            raise BadRow(
                "not_text", where, f"{_short(turn)}; give messages of role and content, text both", name
            )
    return [(turn["role"], turn["content"]) for turn in messages]


def _render(turns: list[tuple[str, str]]) -> str:
    return "".join(f"\n\n{SPEAKERS.get(role, role.capitalize())}: {text.strip()}" for role, text in turns)


def _check_text(text: object, name: str, where: str) -> None:
    if not isinstance(text, str):
        fault = f"{_short(text)} is {type(text).__name__}, not text; give a string"
        raise BadRow("not_text", where, fault, name)
    if not text.strip():
        reason = "empty_prompt" if name == "prompt" else "empty_answer"
        raise BadRow(reason, where, "empty; drop the row or give the text", name)
    if NOT_TEXT.search(text):
        raise BadRow("bad_characters", where, "holds NUL or half a surrogate pair; clean the text", name)


def _short(value: object) -> str:
    text = ascii(value)  # half a surrogate pair in a message could not be printed
    return text if len(text) <= 60 else text[:57] + "..."
