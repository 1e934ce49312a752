"""A row to a `Pair`, by one rule whatever it came from: strings stay strings, chats stay chats."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmlab.dialogues import Text, as_text, joined, plain, words
from rmlab.tables import BadRow, RepeatedKey, short

HUGE = 1_000_000  # characters: not a pair but a broken file
NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")  # NUL, and either half of a surrogate pair
LABELS = (
    {"1", "a", "chosen", "model_a"},
    {"2", "b", "rejected", "model_b"},
    {"0", "tie", "equal", "tie (bothbad)"},
)
NAMES = ("chosen", "rejected", "tie")


@dataclass(frozen=True)
class Pair:
    """One comparison: `chosen` was preferred to `rejected` as an answer to `prompt`.

    All three are strings, or all three are chats: lists of {role, content}.

    Parameters
    ----------
    id : the file's, or a hash of the texts, whichever was chosen: never the row's position
    soft : share of the votes for `chosen`, 0 to 1
    group : what it belongs to: a question, a dialogue, a debate
    votes : for `chosen`, for `rejected`, for neither
    """

    id: str
    prompt: Text
    chosen: Text
    rejected: Text
    soft: float | None = None
    group: str | None = None
    votes: tuple[float, float, float] | None = None

    @property
    def texts(self) -> tuple:
        """What makes two pairs the same, whichever side was chosen."""
        return _same(self.prompt, self.chosen, self.rejected)

    def swapped(self) -> Pair:
        """The same comparison with the sides changed over."""
        votes = None if self.votes is None else (self.votes[1], self.votes[0], self.votes[2])
        soft = None if self.soft is None else 1 - self.soft
        return dataclasses.replace(self, chosen=self.rejected, rejected=self.chosen, votes=votes, soft=soft)


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None: the usual name, where a row has it. See `Preferences.read`."""

    prompt: str | Sequence[str] | None = None
    chosen: str | None = None
    rejected: str | None = None
    answers: str | None = None
    scores: str | Sequence[str] | None = None
    votes: str | Sequence[str] | Mapping[str, str] | None = None
    labels: Sequence[object] | None = None
    soft: str | None = None
    group: str | None = None
    id: str | None = None

    def __post_init__(self):
        if self.votes is not None and (self.soft or self.scores):
            raise ValueError("votes beside soft or scores: give one of them, they say the same thing")
        if self.answers and (self.chosen or self.rejected):
            raise ValueError("answers beside chosen or rejected: give one of them")
        if isinstance(self.votes, Mapping) and set(self.votes) - set(NAMES):
            raise ValueError(f"votes = {dict(self.votes)}: give columns of counts under {', '.join(NAMES)}")
        if self.labels is not None and len(self.labels) != 3:
            raise ValueError(f"labels = {self.labels!r}: give what stands for the first, the second, a tie")

    @property
    def known(self) -> set[str]:
        """Every column that is looked at."""
        usual = {
            "prompt": self.prompt is None,
            "conversations": self.prompt is None,
            "chosen": not (self.answers or self.chosen),
            "rejected": not (self.answers or self.rejected),
            "soft_label": self.soft is None and self.votes is None and self.scores is None,
            "id": self.id is None,
        }
        out = {name for name, looked_at in usual.items() if looked_at}
        for column in dataclasses.fields(self):
            names = getattr(self, column.name) if column.name != "labels" else None
            names = names.values() if isinstance(names, Mapping) else names
            out |= {names} if isinstance(names, str) else set(names or ())
        return out

    def pair(self, row: object, where: str) -> Pair:
        """The pair of a row; its sides stand as in the row, its votes are not yet counted.

        Raises
        ------
        BadRow
            Names the row, the field, the value (at most 60 characters of it) and the mend.
        """
        if isinstance(row, BadRow):
            raise row
        if not isinstance(row, Mapping):
            fault = f"{short(row)} is no object; give prompt, chosen and rejected"
            raise BadRow("not_an_object", where, fault)
        if isinstance(row, RepeatedKey):
            raise BadRow("repeated_key", where, "a name is there twice; keep the one that is meant")
        names = self._names(row)
        texts = joined(self._prompt(row, names[0], where), self._answers(row, names[1:], where), names, where)
        for text, name, kind in zip(texts, names, ("prompt", "answer", "answer"), strict=True):
            _check(text, name, where, kind)
        if plain(texts[1]) == plain(texts[2]):
            raise BadRow("identical_pair", where, "chosen and rejected are identical; drop the row")
        name, group = self._name(row, "id", where), self._name(row, "group", where)
        if name is None:
            name = hashlib.blake2b(json.dumps(_same(*texts)).encode(), digest_size=8).hexdigest()
        return Pair(name, *texts, self._soft(row, where), group, self._votes(row, where))

    def _names(self, row: Mapping) -> tuple[str, str, str]:
        """The fields of prompt and answers, as errors name them."""
        prompt = self.prompt if isinstance(self.prompt, str) else " and ".join(self.prompt or ())
        if not prompt:
            prompt = "conversations" if row.get("prompt") is None and "conversations" in row else "prompt"
        if self.answers:
            return prompt, f"{self.answers}[0]", f"{self.answers}[1]"
        return prompt, self.chosen or "chosen", self.rejected or "rejected"

    def _answers(self, row: Mapping, names: Sequence[str], where: str) -> list[Text]:
        if self.answers:
            both = _list(_present(row, self.answers, where), self.answers, where)
            if len(both) != 2:
                raise BadRow("not_two_answers", where, f"{len(both)} answers; give two", self.answers)
        else:
            both = [_present(row, name, where) for name in names]
        return [as_text(side, name, where) for side, name in zip(both, names, strict=True)]

    def _prompt(self, row: Mapping, name: str, where: str) -> Text | None:
        if self.prompt is None:
            return None if row.get(name) is None else as_text(row[name], name, where)
        if isinstance(self.prompt, str):
            return as_text(_present(row, name, where), name, where)
        parts = [as_text(row[n], n, where) for n in self.prompt if row.get(n) is not None]
        if not all(isinstance(part, str) for part in parts):
            raise BadRow("not_text", where, "a chat; give strings where several columns make a prompt", name)
        return "\n\n".join(part for part in parts if part.strip())

    def _soft(self, row: Mapping, where: str) -> float | None:
        name = self.soft or "soft_label"
        if self.votes is not None or self.scores is not None or (self.soft is None and _blank(row.get(name))):
            return None
        value = _present(row, name, where)
        share = _number(value)
        if share is None or not 0 <= share <= 1:
            raise BadRow("bad_soft_label", where, f"{short(value)}; give a share from 0 to 1", name)
        return share

    def _name(self, row: Mapping, kind: str, where: str) -> str | None:
        """The row's `id` or `group` as text."""
        column = getattr(self, kind) or ("id" if kind == "id" else None)
        if column is None or (getattr(self, kind) is None and _blank(row.get(column))):
            return None
        value = _present(row, column, where)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, list | tuple | Mapping):
            value = json.dumps(value, default=str)
        if NOT_TEXT.search(str(value)):
            raise BadRow("bad_characters", where, "holds NUL or half a surrogate pair; clean it", column)
        return str(value)

    def _votes(self, row: Mapping, where: str) -> tuple[float, float, float] | None:
        if self.scores is not None:
            return self._scores(row, where)
        if self.votes is None:
            return None
        if isinstance(self.votes, Mapping):
            columns = [self.votes.get(name) for name in NAMES]
            counts = [0.0 if c is None else self._count(row, c, where) for c in columns]
        else:
            counts = self._labels(row, where)
        if not sum(counts):
            raise BadRow("no_votes", where, "nobody voted; drop the row")
        return tuple(counts)

    def _count(self, row: Mapping, column: str, where: str) -> float:
        value = _present(row, column, where)
        count = _number(value)
        if count is None or count < 0:
            raise BadRow("bad_vote", where, f"{short(value)}; give how many voted so", column)
        return count

    def _labels(self, row: Mapping, where: str) -> list[float]:
        """How many annotators named the first answer, the second, neither."""
        if isinstance(self.votes, str):
            cast = [
                (label, self.votes) for label in _list(_present(row, self.votes, where), self.votes, where)
            ]
        else:
            cast = [(row.get(column), column) for column in self.votes]
        known = LABELS if self.labels is None else [{_label(v)} for v in self.labels]
        counts = [0.0, 0.0, 0.0]
        for label, column in cast:
            if _blank(label):
                continue  # this annotator did not vote
            side = next((i for i, names in enumerate(known) if _label(label) in names), None)
            if side is None:
                fault = f"{short(label)}; give 1, 2 or 0 for a tie, or say by `labels` what stands for them"
                raise BadRow("bad_vote", where, fault, column)
            counts[side] += 1
        return counts

    def _scores(self, row: Mapping, where: str) -> tuple[float, float, float]:
        """The higher score is one vote."""
        if isinstance(self.scores, str):
            both = _list(_present(row, self.scores, where), self.scores, where)
        else:
            both = [_present(row, name, where) for name in self.scores]
        numbers = [_number(value) for value in both]
        if len(both) != 2 or None in numbers:
            raise BadRow("bad_score", where, f"{short(both)}; give two finite numbers", str(self.scores))
        return (
            float(numbers[0] > numbers[1]),
            float(numbers[0] < numbers[1]),
            float(numbers[0] == numbers[1]),
        )


def _same(prompt: Text, first: Text, second: Text) -> tuple:
    return (plain(prompt), *sorted((plain(first), plain(second))))


def _present(row: Mapping, name: str, where: str) -> object:
    value = row.get(name)
    if value is None:
        raise BadRow(
            "missing_field", where, "missing; give prompt, chosen and rejected, or name the columns", name
        )
    return value


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: object) -> float | None:
    """A finite number, or text that is one, as a float."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _label(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _list(value: object, name: str, where: str) -> list:
    """A list, text that is a JSON list, or one value as a list of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow("not_json", where, f"{short(value)} is no JSON list; mend it", name) from None
    return list(value) if isinstance(value, list | tuple) else [value]


def _check(text: Text, name: str, where: str, kind: str) -> None:
    """Raise a `BadRow` unless the text says something, in characters that are text."""
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    if not any(m["content"].strip() for m in messages if kind == "answer" or m["role"] != "assistant"):
        raise BadRow(f"empty_{kind}", where, "empty; drop the row or give the text", name)
    said = words(text)
    if NOT_TEXT.search(said):
        raise BadRow("bad_characters", where, "holds NUL or half a surrogate pair; clean the text", name)
    if len(said) > HUGE:
        raise BadRow("huge_text", where, f"{len(said)} characters; is this one text?", name)
