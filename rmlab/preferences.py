"""`Preferences`: comparisons of two answers, from any file or data set to ids; what is dropped has a reason.

Real preference files are dirty: empty answers, identical pairs, contexts that differ, bytes that are not
UTF-8. With `on_bad="error"` the first bad row raises one clear error; with `"drop"` it is left out and
counted. No row is lost without a count.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmlab.collection import Counts, collect
from rmlab.dialogues import Text, opening, plain, words
from rmlab.files import write_atomic
from rmlab.measure.preference_report import PreferenceReport
from rmlab.pairs import Columns, Pair
from rmlab.recipe import require
from rmlab.tables import BadRow, rows, short
from rmlab.truncation import truncate_pair

if TYPE_CHECKING:
    from rmlab.reward.training import PairIds
    from rmlab.text import TextFormat


class Preferences:
    """Pairs of answers, one of each preferred, with where they came from.

    A row's sides are strings, chats (messages {role, content}, or ShareGPT's {from, value}) or transcripts
    "\\n\\nHuman: ...\\n\\nAssistant: ...". A side that is a whole dialogue holds its prompt; a prompt beside it
    is part of it, or leads up to it. Strings stay strings, everything else becomes a chat.

    A column that is named must be in every row:

    - `prompt`: "prompt", or "conversations", unless said; several columns are joined by blank lines
    - `chosen`, `rejected`: of the two answers, or, with `scores` or `votes`, of the first and the second
    - `answers`: one column with a list of both, in place of `chosen` and `rejected`
    - `scores`: one column with a list of two scores, or two columns: the higher is chosen
    - `votes`: who was preferred, by each annotator: a column of labels (a list, or one a row), several columns
      of a label each, or {"chosen": column, "rejected": column, "tie": column} of counts. Rows of one id
      are votes on one pair. The majority decides which answer is chosen; a tie is half a vote for each
    - `labels`: what stands for the first, the second, a tie; 1, 2, 0 (or a, b, tie and the like) unless said
    - `soft`: share of the votes for chosen, 0 to 1; "soft_label" where there is one, unless said
    - `group`: what pairs belong to, and are split by; how the prompt opens unless said
    - `id`: a pair's name; "id" where there is one, a hash of its texts otherwise

    Parameters
    ----------
    pairs : the comparisons; `read` makes them
    counts : what became of the rows they were read from; all kept unless said
    on_bad : "error" or "drop", what becomes of a pair that cannot be encoded
    """

    def __init__(self, pairs: Sequence[Pair], counts: Counts | None = None, on_bad: str = "error"):
        self.pairs = list(pairs)
        self.counts = Counts(kept=len(self.pairs)) if counts is None else counts
        self.on_bad = on_bad

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __repr__(self) -> str:
        return f"Preferences({len(self)} pairs of {len(self.prompts)} prompts)"

    @classmethod
    def read(
        cls,
        source: object,
        *,
        prompt: str | Sequence[str] | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
        answers: str | None = None,
        scores: str | Sequence[str] | None = None,
        votes: str | Sequence[str] | Mapping[str, str] | None = None,
        labels: Sequence[object] | None = None,
        soft: str | None = None,
        group: str | None = None,
        id: str | None = None,
        ties: str = "drop",
        repeats: str = "keep",
        on_bad: str = "error",
        split: str = "train",
    ) -> Preferences:
        """Read pairs; what the columns hold is said at the class.

        Parameters
        ----------
        source : a file (JSON lines, JSON array, CSV, TSV, also gzipped, or Parquet), a folder or a name for
            `datasets.load_dataset`, a data set, a data frame, or rows as dicts
        ties : pairs without a majority: "drop" leaves them out, "half" keeps them with a soft label of 1/2
        repeats : the same pair again, either way round: "keep" keeps and notes it, "drop" keeps the first,
            "vote" takes each for another annotator's vote on one pair
        on_bad : "error" raises at the first bad row; "drop" leaves it out and counts it
        split : of a folder or named data set

        Raises
        ------
        ValueError
            Names the file, the line, the field, the value (at most 60 characters of it) and the mend. Also a
            source that is no data, and one of which no row could be used.
        """
        for name, value, known in (
            ("on_bad", on_bad, ("error", "drop")),
            ("ties", ties, ("drop", "half")),
            ("repeats", repeats, ("keep", "drop", "vote")),
        ):
            require(value in known, name, value, " or ".join(map(repr, known)))
        columns = Columns(prompt, chosen, rejected, answers, scores, votes, labels, soft, group, id)
        pairs, counts = collect(rows(source, split), columns, on_bad, repeats, ties)
        return cls(pairs, counts, on_bad)

    def write(self, path: str | Path) -> None:
        """The pairs as JSON lines, which `read(path)` gives back; with groups, `read(path, group="group")`.

        Votes stay as their share, in "soft_label".
        """
        lines = []
        for pair in self.pairs:
            row = {"id": pair.id, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            row |= {} if pair.soft is None else {"soft_label": pair.soft}
            row |= {} if pair.group is None else {"group": pair.group}
            lines.append(json.dumps(row) + "\n")
        write_atomic(path, "".join(lines))

    @property
    def prompts(self) -> list[Text]:
        """The distinct prompts, strings or chats, in order."""
        first: dict[object, Text] = {}
        for pair in self.pairs:
            first.setdefault(plain(pair.prompt), pair.prompt)
        return list(first.values())

    @property
    def groups(self) -> list[str]:
        """What each pair belongs to, (M,): its group, or else how its prompt opens, as a hash."""
        return [_hash(opening(p.prompt)) if p.group is None else p.group for p in self.pairs]

    def split(self, fraction: float, seed: int = 0) -> tuple[Preferences, Preferences]:
        """Two parts, the second about `fraction` of the pairs, with no prompt and no group in both.

        Groups go whole, and with them whatever shares a prompt with them; without a group, pairs whose prompts
        open alike stay together, so that the turns of one dialogue do. Which part is decided by names and the
        seed, not by the order of the rows. Neither part is empty.

        Parameters
        ----------
        fraction : between 0 and 1

        Raises
        ------
        ValueError
            All pairs belong together: there is nothing to split by.
        """
        second = self._second_part(fraction, seed)
        parts: tuple[list[Pair], list[Pair]] = ([], [])
        for pair, there in zip(self.pairs, second, strict=True):
            parts[there].append(pair)
        return Preferences(parts[0], on_bad=self.on_bad), Preferences(parts[1], on_bad=self.on_bad)

    def halves(self, seed: int = 0) -> list[bool]:
        """Which half each pair is in, (M,): split as `split(0.5)` does; all in one where all belong together."""
        return self._second_part(0.5, seed) if len(set(_islands(self.pairs))) > 1 else [False] * len(self)

    def _second_part(self, fraction: float, seed: int) -> list[bool]:
        """(M,) whether a pair goes into the second part."""
        require(0 < fraction < 1, "fraction", fraction, "a share between 0 and 1")
        islands = _islands(self.pairs)
        sizes = Counter(islands)
        mend = "pairs of at least two prompts and groups"
        require(len(sizes) >= 2, "separate groups of prompts", len(sizes), mend)
        order = sorted(sizes, key=lambda name: _hash(f"{seed}:{name}"))
        aim, count = fraction * len(self.pairs), 0
        second: set[str] = set()
        for name in order:
            if abs(count + sizes[name] - aim) < abs(count - aim):
                second.add(name)
                count += sizes[name]
        smallest = min(order, key=sizes.__getitem__)
        second = second - {smallest} if len(second) == len(sizes) else second or {smallest}
        return [island in second for island in islands]

    def encode(
        self,
        text_format: TextFormat,
        max_length: int | None = None,
        *,
        on_long: str = "cut",
        on_bad: str | None = None,
        votes: bool = False,
    ) -> PairIds:
        """Ids of the pairs, as training and scoring read them; each keeps its name, group and soft label.

        Parameters
        ----------
        text_format : a model's tokenizer and template
        max_length : tokens of a prompt and an answer together; None: as long as they are
        on_long : a pair that does not fit: "cut" as `truncate_pair` does, "drop", or "error"
        on_bad : a pair that cannot be rendered or whose sides become the same ids: as in `read` unless said
        votes : train on the soft labels, which every pair must have

        Returns
        -------
        `PairIds`: `kept` are the indices of its pairs here, `cut` says which were shortened, and `dropped`
        has the others under a reason.
        """
        from rmlab.reward.training import PairIds

        on_bad = self.on_bad if on_bad is None else on_bad
        require(on_bad in {"error", "drop"}, "on_bad", on_bad, "'error' or 'drop'")
        require(on_long in {"cut", "drop", "error"}, "on_long", on_long, "'cut', 'drop' or 'error'")
        require(max_length is None or max_length >= 8, "max_length", max_length, "None or at least 8 tokens")
        encoded, kept, cut, dropped, first_bad = [], [], [], defaultdict(list), None
        for i, pair in enumerate(self.pairs):
            try:
                ids, shortened = _encode(pair, text_format, max_length, on_long)
            except BadRow as bad:
                if on_bad == "error" and not (bad.reason == "too_long" and on_long == "drop"):
                    raise
                dropped[bad.reason].append(i)
                first_bad = first_bad or bad
                continue
            encoded.append(ids)
            kept.append(i)
            cut.append(shortened)
        if not kept:
            raise ValueError(f"no pair of {len(self)} can be encoded; the first: {first_bad}")
        soft, groups = [self.pairs[i].soft for i in kept], self.groups
        missing = [self.pairs[i].id for i in kept if self.pairs[i].soft is None]
        require(not votes or not missing, "soft labels of", missing[:3], "a soft label to every pair")
        return PairIds(
            *([ids[side] for ids in encoded] for side in range(3)),
            ids=[self.pairs[i].id for i in kept],
            groups=[groups[i] for i in kept],
            soft=None if missing else soft,
            kept=kept,
            cut=cut,
            dropped=dict(dropped),
            votes=votes,
        )

    def report(
        self,
        test: Preferences | None = None,
        text_format: TextFormat | None = None,
        max_length: int | None = None,
        *,
        seed: int = 0,
        baselines: bool = True,
    ) -> PreferenceReport:
        """What there is to know before training; print it.

        Parameters
        ----------
        test : pairs that length and a bag of words are tried on; unless given, a fifth of these, by group
        text_format : lengths are counted in its tokens; in words unless given
        max_length : tokens; the report says how many pairs are longer
        seed : of the split
        baselines : whether to try length and a bag of words, which needs scikit-learn
        """
        return PreferenceReport.of(self, test, text_format, max_length, seed, baselines)


def _encode(
    pair: Pair, text_format: TextFormat, max_length: int | None, on_long: str
) -> tuple[tuple[list[int], list[int], list[int]], bool]:
    """((prompt, chosen, rejected) ids, whether something was cut)."""
    where = f"pair {short(pair.id)}"
    try:
        prompt = text_format.prompt_ids(pair.prompt)
        sides = [text_format.answer_ids(pair.prompt, side) for side in (pair.chosen, pair.rejected)]
    except Exception as error:  # a template refuses as it likes
        raise BadRow("not_rendered", where, f"cannot be rendered ({error}); drop the pair") from error
    if sides[0] == sides[1]:
        fault = "chosen and rejected are the same tokens; drop the pair"
        raise BadRow("identical_ids", where, fault)
    length = len(prompt) + max(map(len, sides))
    if max_length is None or length <= max_length:
        return (prompt, *sides), False
    if on_long != "cut":
        raise BadRow("too_long", where, f"{length} tokens; raise max_length = {max_length}, cut or drop")
    tokenizer = text_format.tokenizer
    starts = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    head = int(bool(prompt) and prompt[0] in starts)
    return truncate_pair(prompt, *sides, max_length, head, where), True


def _islands(pairs: Sequence[Pair]) -> list[str]:
    """A name for each pair, (M,), shared by pairs that have a prompt, an opening or a group in common."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    firsts = []
    for pair in pairs:
        prompt = " ".join(words(pair.prompt).split()).casefold()
        other = f"opening {opening(pair.prompt)}" if pair.group is None else f"group {pair.group}"
        one, two = sorted((root(f"prompt {prompt}"), root(other)))
        parent[two] = one  # the root is the first in the alphabet, whatever the order of the rows
        firsts.append(one)
    return [root(name) for name in firsts]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
