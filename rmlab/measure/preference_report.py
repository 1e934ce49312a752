"""What there is to know of preference pairs before a reward model is trained on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rmlab.dialogues import plain, words
from rmlab.measure.baselines import bag_of_words, length_only, prefers_longer, word_counts
from rmlab.measure.intervals import clustered_share
from rmlab.recipe import require

if TYPE_CHECKING:
    from rmlab.preferences import Preferences
    from rmlab.text import TextFormat

SIDES = ("prompt", "chosen", "rejected")
HELD_OUT = 0.2


@dataclass
class PreferenceReport:
    """Print it; or read the numbers.

    Parameters
    ----------
    rows : that were read; kept + dropped of them, under a reason each
    noted : kept, but worth knowing
    unread : columns that nothing looked at
    pairs, prompts, groups : how many
    lengths : prompt, chosen, rejected -> (median, 95%), in `unit`, "words" or "tokens"
    max_length, share_cut : tokens, and the share of the pairs that are longer
    duplicates, conflicts : pairs that are there again, the same way round and the other
    votes : of the soft labels: how many, mean, unanimous, below one half; ties: share of the votes, if known
    baselines : name -> (accuracy, low, high), 95% over groups, on held-out groups
    tested : (pairs, groups) of the held-out part
    untested : why there are no baselines
    """

    rows: int
    kept: int
    dropped: Counter
    noted: Counter
    unread: list[str]
    pairs: int
    prompts: int
    groups: int
    unit: str
    lengths: dict[str, tuple[float, float]]
    max_length: int | None = None
    share_cut: float | None = None
    duplicates: int = 0
    conflicts: int = 0
    votes: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    tested: tuple[int, int] = (0, 0)
    untested: str = ""

    @classmethod
    def of(
        cls,
        preferences: Preferences,
        test: Preferences | None,
        text_format: TextFormat | None,
        max_length: int | None,
        seed: int,
        baselines: bool,
    ) -> PreferenceReport:
        """Measure; the arguments are those of `Preferences.report`."""
        require(
            max_length is None or text_format is not None, "max_length", max_length, "a text_format with it"
        )
        counts = preferences.counts
        lengths = _lengths(preferences, text_format)  # (M, 3)
        out = cls(
            rows=counts.kept + counts.dropped.total(),
            kept=counts.kept,
            dropped=counts.dropped,
            noted=counts.noted,
            unread=counts.unread,
            pairs=len(preferences),
            prompts=len(preferences.prompts),
            groups=len(set(preferences.groups)),
            unit="words" if text_format is None else "tokens",
            lengths={
                side: tuple(map(float, np.quantile(lengths[:, i], [0.5, 0.95])))
                for i, side in enumerate(SIDES)
            },
            votes=_votes(preferences),
        )
        out.duplicates, out.conflicts = _repeats(preferences)
        if max_length is not None:
            longest = lengths[:, 0] + lengths[:, 1:].max(1)
            out.max_length, out.share_cut = max_length, float((longest > max_length).mean())
        if baselines:
            out._try_baselines(preferences, test, seed)
        return out

    def _try_baselines(self, train: Preferences, test: Preferences | None, seed: int) -> None:
        if test is None:
            try:
                train, test = train.split(HELD_OUT, seed)
            except ValueError as error:
                self.untested = str(error)
                return
        known, new = ([(words(p.chosen), words(p.rejected)) for p in part] for part in (train, test))
        lengths = word_counts(known)
        direction = "longer" if prefers_longer(lengths) else "shorter"
        chance = bag_of_words(known, new)  # (M,)
        correct = {
            f"the {direction} answer wins": length_only(lengths, word_counts(new)),
            "bag of words": np.where(chance == 0.5, 0.5, chance > 0.5),
        }
        groups = test.groups
        self.baselines = {name: clustered_share(right, groups) for name, right in correct.items()}
        self.tested = (len(test), len(set(groups)))

    def __str__(self) -> str:
        dropped = f", {self.dropped.total()} dropped: {_listed(self.dropped)}" if self.dropped else ""
        lines = [
            f"pairs      {self.pairs} of {self.prompts} prompts in {self.groups} groups",
            f"rows       {self.rows} read, {self.kept} kept{dropped}",
        ]
        if self.noted:
            lines.append(f"noted      {_listed(self.noted)}")
        if self.unread:
            lines.append(f"not read   {', '.join(self.unread)}")
        sides = ", ".join(f"{side} {a:.0f} ({b:.0f})" for side, (a, b) in self.lengths.items())
        lines.append(f"{self.unit:<11}median (95%): {sides}")
        if self.share_cut is not None:
            lines.append(
                f"cut        {self.share_cut:.1%} of the pairs are longer than {self.max_length} tokens"
            )
        lines.append(f"repeats    {self.duplicates} pairs again, {self.conflicts} with the other side chosen")
        if self.votes:
            v = self.votes
            line = f"votes      {v['pairs']:.0f} soft labels, mean {v['mean']:.2f}, unanimous {v['unanimous']:.0%}"
            ties = f", ties {v['ties']:.1%} of the votes" if "ties" in v else ""
            lines.append(f"{line}, below one half {v['below_half']:.1%}{ties}")
        if self.baselines:
            pairs, groups = self.tested
            lines.append(f"accuracy   on {pairs} held-out pairs of {groups} groups, 95% over groups")
            lines += [
                f"           {a:.3f} [{b:.3f}, {c:.3f}] {name}" for name, (a, b, c) in self.baselines.items()
            ]
        elif self.untested:
            lines.append(f"accuracy   not measured: {self.untested}")
        return "\n".join(lines)


def _listed(counts: Counter) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())


def _lengths(preferences: Preferences, text_format: TextFormat | None) -> np.ndarray:
    """(M, 3): prompt, chosen, rejected; in tokens only pairs that can be encoded."""
    if text_format is None:
        texts = [[getattr(pair, side) for side in SIDES] for pair in preferences]
        return np.array([[len(words(text).split()) for text in row] for row in texts])
    ids = preferences.encode(text_format, on_bad="drop")
    return np.array([list(map(len, row)) for row in zip(ids.prompts, ids.chosen, ids.rejected, strict=True)])


def _repeats(preferences: Preferences) -> tuple[int, int]:
    """Pairs whose texts were there before: the same way round, the other way round."""
    first: dict[tuple, object] = {}
    again = [0, 0]
    for pair in preferences:
        chosen = plain(pair.chosen)
        if pair.texts in first:
            again[chosen != first[pair.texts]] += 1
        first.setdefault(pair.texts, chosen)
    return again[0], again[1]


def _votes(preferences: Preferences) -> dict[str, float]:
    soft = np.array([pair.soft for pair in preferences if pair.soft is not None])
    if not len(soft):
        return {}
    cast = np.array([pair.votes for pair in preferences if pair.votes is not None]).reshape(-1, 3)
    shares = {
        "mean": soft.mean(),
        "unanimous": np.isin(soft, [0.0, 1.0]).mean(),
        "below_half": (soft < 0.5).mean(),
    }
    if len(cast):
        shares["ties"] = cast[:, 2].sum() / cast.sum()
    return {"pairs": float(len(soft)), **{name: float(share) for name, share in shares.items()}}
