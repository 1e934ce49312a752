"""A pool made small enough for a page: the answers that can win, and a weighted sample of the others.

Letters: P prompts, N answers a prompt in the pool, M of them kept, C members (columns), F terms of gold's
bill. Best-of-n draws n answers with replacement from a prompt's pool and takes the one with the highest
aggregated score.
NumPy only; the explorer's JavaScript computes the same numbers from `CompactPool.packed`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from rmlab.optimise.contents import (
    bill_total,
    check_ensembles,
    check_finite,
    checked_text,
    thin_text,
    thin_words,
)
from rmlab.optimise.packing import pack, read, write
from rmlab.optimise.thinning import best_tenth
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

TIE = 1e-9  # scores closer than this are equal: far under the int16 step, far over float64 rounding
PAGE_BYTES = 800_000  # of data that a page may carry
KEEP, FEWEST = 350, 20  # answers a prompt of a text pool: as many as the page holds, from 350 down to 20
_FLOATS = dict.fromkeys(("weight", "scale", "offset", "gold_values"), "<f4")
_WORDS = {**_FLOATS, "scores": "<i2", "counts": "|u1", "lengths": "|u1", "tokens": "|u1"}
_TEXT = _WORDS | {"scores": "<f4", "lengths": "<u4"}


@dataclass(frozen=True)
class CompactPool:
    """A pool reduced to M answers a prompt, each standing for `weight` answers of the N.

    weight (P, M) float32, N a row. A member's score is scores * scale + offset, with scores (P, M, C) and
    scale and offset (C,) float32. `ensembles` are dicts name, label, members, members being columns; those
    that differ only in their number of members, each trained for itself, share a `series`, which says what is
    counted: "heads". A name is letters, digits, "_" and "-".

    Answers are words or text. Words: tokens (flat) are uint8 ids of all kept answers in `vocab`, row-major,
    without `<eos>`, lengths (P, M) uint8, and scores int16. Text, where `vocab` is None: tokens are the
    answers' UTF-8 bytes, lengths (P, M) uint32 count them, and scores are float32.

    Gold is a bill, a number or None. A bill: F dicts name, label, values, slope and counts (P, M, F) uint8;
    count c is worth values[c], and slope for each count past the last value. A number: gold_values (P, M)
    float32, `gold_unit` being what they count. None where there is neither.

    Raises
    ------
    ValueError : a shape that does not fit, a number that is not finite, weights that miss N, an unknown
        member, a bill without counts or beside a number
    """

    prompts: list[str]
    columns: list[str]
    ensembles: list[dict]
    N: int
    tokens: np.ndarray
    lengths: np.ndarray
    weight: np.ndarray
    scores: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    vocab: list[str] | None = None
    bill: list[dict] | None = None
    counts: np.ndarray | None = None
    gold_values: np.ndarray | None = None
    gold_unit: str = ""

    def __post_init__(self):
        for name, kind in (_TEXT if self.vocab is None else _WORDS).items():
            if getattr(self, name) is not None:
                check_finite(name, getattr(self, name))
                object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))
        for term in self.bill or []:
            check_finite(f"bill of {term['name']!r}", [*term["values"], term["slope"]])
        forms = [name for name in ("bill", "counts", "gold_values") if getattr(self, name) is not None]
        fit = forms in ([], ["bill", "counts"], ["gold_values"])
        require(fit, "gold", forms, "a bill with its counts, or gold_values, or none of them")
        require(len(self.prompts) > 0, "prompts", self.prompts, "at least one")
        P, M, C = len(self.prompts), self.weight.shape[-1], len(self.columns)
        shapes = {
            "weight": (P, M),
            "lengths": (P, M),
            "scores": (P, M, C),
            "scale": (C,),
            "offset": (C,),
            "tokens": (int(self.lengths.sum(dtype=np.int64)),),
            "counts": (P, M, len(self.bill or [])),
            "gold_values": (P, M),
        }
        for name, array in self._arrays().items():
            fit = f"{shapes[name]}, which fits the other fields"
            require(array.shape == shapes[name], f"shape of {name}", array.shape, fit)
        if self.vocab is not None:
            words, last = len(self.vocab), int(self.tokens.max(initial=0))
            require(words <= 256, "words of vocab", words, "at most 256: token ids are bytes")
            require(last < max(1, words), "tokens", last, f"ids below {words}, the words of vocab")
        least = float(self.weight.min(initial=0))
        require(least >= 0, "weight", least, "0 or more: how many answers one stands for")
        sums = self.weight.sum(1, dtype=np.float64)
        off, mend = float(sums[np.abs(sums - self.N).argmax()]), f"{self.N}, which is N"
        require(abs(off - self.N) <= 1e-3 * self.N, "sum of a row of weight", off, mend)
        check_ensembles(self.ensembles, C)

    @cached_property
    def gold(self) -> np.ndarray | None:
        """(P, M) float64, gold units: the sum of the bill, or the number; None where there is neither."""
        if self.bill is not None:
            return bill_total(self.counts, self.bill)
        return None if self.gold_values is None else self.gold_values.astype(np.float64)

    @cached_property
    def member_scores(self) -> np.ndarray:
        """(P, M, C) float64, in the members' own units."""
        return self.scores * self.scale.astype(np.float64) + self.offset

    def aggregated(self, members: list[int], aggregator: str, strength: float = 1.0) -> np.ndarray:
        """(P, M) aggregated scores of the columns `members`; by "gold", the oracle: gold itself."""
        if aggregator == "gold":
            require(self.gold is not None, "aggregator", aggregator, "another one: this pool has no gold")
            return self.gold
        members = list(members)
        known = bool(members) and set(members) <= set(range(len(self.columns)))
        require(known, "members", members, f"one or more columns below {len(self.columns)}")
        return aggregate(self.member_scores[..., members], aggregator, strength)

    def compared(self, members: list[int]) -> dict[str, np.ndarray]:
        """What the judges' proxy is compared with, (P, M) float64 under its name.

        {"gold"}, or where there is no gold {"held_out"}, the mean of the columns that are not `members`, in
        their units; {} where every column judges.
        """
        if self.gold is not None:
            return {"gold": self.gold}
        others = [c for c in range(len(self.columns)) if c not in members]
        return {"held_out": self.member_scores[..., others].mean(-1)} if others else {}

    def curve(
        self, members: list[int], aggregator: str, strength: float, ns: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Expected proxy of best-of-n, and gold or what stands for it, exact for the weighted pool.

        An answer whose cumulative weight fraction rises from U' to U wins with probability U^n - U'^n;
        answers with equal scores share it.

        Parameters
        ----------
        members : columns; aggregator, strength : as in `rmlab.reward.aggregate.aggregate`, or "gold"
        ns : numbers of draws, each >= 1

        Returns
        -------
        {"proxy": (P, len(ns))} float64, and the same of `compared`: {"gold"}, {"held_out"} or nothing
        """
        ns = np.asarray(ns, np.float64)
        require(
            ns.ndim == 1 and (ns >= 1).all(), "ns", ns.tolist(), "a list of numbers of draws, each at least 1"
        )
        score = self.aggregated(members, aggregator, strength)
        values = {**self.compared(members), "proxy": score}
        out = {name: np.zeros((len(score), len(ns))) for name in values}
        for p in range(len(score)):
            group, order, log_u = self._ladder(score[p], p)
            w = self.weight[p, order].astype(np.float64)
            won = np.diff(np.exp(ns[:, None] * log_u), axis=1, prepend=0.0)  # (len(ns), groups)
            share = np.bincount(group, w)
            for name, value in values.items():
                out[name][p] = won @ (np.bincount(group, w * value[p, order]) / share)
        return out

    def typical_winner(self, members: list[int], aggregator: str, strength: float, n: int) -> np.ndarray:
        """(P,) index of the median winner of best-of-n: the first answer, ascending, with U^n >= 1/2."""
        score = self.aggregated(members, aggregator, strength)
        out = np.zeros(len(score), np.int64)
        for p in range(len(score)):
            group, order, log_u = self._ladder(score[p], p)
            out[p] = order[group == np.argmax(n * log_u >= -np.log(2) - 1e-12)].min()
        return out

    def tilted(
        self, members: list[int], aggregator: str, strength: float, betas: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """The KL-regularised optimum at each beta, exact for the weighted pool: see `rmlab.optimise.tilt`.

        An answer has probability in proportion to weight * exp(score / beta).

        Parameters
        ----------
        members : columns; aggregator, strength : as in `rmlab.reward.aggregate.aggregate`, or "gold"
        betas : prices of a nat above 0, in the proxy's unit; infinity is the pool as it is

        Returns
        -------
        {"proxy", "kl", "ess"} and `compared`'s "gold" or "held_out", each (P, len(betas)) float64: kl in nats,
        relative to weight / N; ess the effective number of kept answers, 1 / sum pi^2: that of the whole pool
        where it is small.
        """
        betas = np.asarray(betas, np.float64)
        fit = betas.ndim == 1 and (betas > 0).all()
        require(fit, "betas", betas.tolist(), "a list of prices of a nat, each above 0")
        score = self.aggregated(members, aggregator, strength)
        weight = self.weight.astype(np.float64)
        start = weight / weight.sum(1, keepdims=True)
        policies = [self._tilt(score, beta) for beta in betas]
        values = {**self.compared(members), "proxy": score}
        each = {name: [(pi * value).sum(1) for pi in policies] for name, value in values.items()}
        each |= {
            "kl": [(pi * np.log(np.where(pi > 0, pi / start, 1.0))).sum(1) for pi in policies],
            "ess": [1 / (pi**2).sum(1) for pi in policies],
        }
        return {name: np.reshape(rows, (len(betas), len(score))).T for name, rows in each.items()}

    def typical_tilted(self, members: list[int], aggregator: str, strength: float, beta: float) -> np.ndarray:
        """(P,) index of the tilted policy's median answer: the first, ascending, with half the mass up to it."""
        score = self.aggregated(members, aggregator, strength)
        pi = self._tilt(score, beta)
        out = np.zeros(len(score), np.int64)
        for p in range(len(score)):
            group, order, _ = self._ladder(score[p], p)
            mass = np.cumsum(np.bincount(group, pi[p, order]))
            out[p] = order[group == np.argmax(mass >= 0.5 - 1e-12)].min()
        return out

    def correlation(self, members: list[int], tail: bool = False) -> np.ndarray:
        """(K, K) Pearson correlation of the members' scores among a prompt's answers, averaged over prompts.

        tail : as the best tenth of each prompt's N answers by the members' mean show it. What that choice does
            by itself is undone, as in `rmlab.measure.errors`: lower than for all answers, members part there.
        """
        members = list(members)
        mean = self.aggregated(members, "mean")  # names members that the pool does not have
        out = np.zeros((len(members), len(members)))
        for p in range(len(mean)):
            w, s = self.weight[p].astype(np.float64), self.member_scores[p][:, members]
            s, m = s - w @ s / w.sum(), mean[p] - w @ mean[p] / w.sum()
            shared = np.zeros_like(out)
            if tail:
                power = w @ m**2 / w.sum()
                slope = (w * m) @ s / w.sum() / power if power > 0 else np.zeros(len(members))
                w, shared = best_tenth(w, m, TIE), np.outer(slope, slope) * power
                s = s - m[:, None] * slope
                s = s - w @ s / w.sum()
            cov = (w * s.T) @ s / w.sum() + shared
            power = np.diag(cov)
            out += cov / np.sqrt(np.maximum(power[:, None] * power, 1e-24)) / len(mean)
        np.fill_diagonal(out, 1.0)
        return out

    def _tilt(self, score: np.ndarray, beta: float) -> np.ndarray:
        """(P, M) probabilities in proportion to weight * exp(score / beta)."""
        pi = self.weight * np.exp((score - score.max(1, keepdims=True)) / beta)
        return pi / pi.sum(1, keepdims=True)

    def _ladder(self, score: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One prompt, ascending: tie group of each place, answer at each place, log U at each group's top."""
        order = np.argsort(score, kind="stable")
        group = np.cumsum(np.diff(score[order], prepend=score[order[0]]) > TIE)
        w = np.bincount(group, self.weight[p, order].astype(np.float64))
        above = np.append(np.cumsum(w[:0:-1])[::-1], 0.0)  # counted from the top, where U^n needs the digits
        return group, order, np.log1p(-above / w.sum())

    def text(self, p: int, i: int) -> str:
        """Answer i to prompt p: its words, or its text."""
        start = int(self.lengths.reshape(-1)[: p * self.lengths.shape[1] + i].sum(dtype=np.int64))
        tokens = self.tokens[start : start + int(self.lengths[p, i])]
        return tokens.tobytes().decode() if self.vocab is None else " ".join(self.vocab[t] for t in tokens)

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays that this pool has, in the order of its bytes."""
        return {name: getattr(self, name) for name in _WORDS if getattr(self, name) is not None}

    def _meta(self) -> dict:
        """The other fields that it has."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WORDS}
        return {name: value for name, value in named.items() if value is not None and value != ""}

    def packed(self) -> tuple[dict, bytes]:
        """What the page carries: a dict for JSON, and every array in one zlib stream."""
        layout, data = pack(self._arrays())
        return {**self._meta(), "layout": layout}, data

    def nbytes_in_page(self) -> int:
        """Bytes of the data as embedded in a page: the arrays in base64, the rest as JSON."""
        meta, data = self.packed()
        return -(-len(data) // 3) * 4 + len(json.dumps(meta))

    def save(self, path: str | Path) -> None:
        """Write one .npz; the same pool gives the same bytes."""
        write(path, self._meta(), self._arrays())

    @classmethod
    def load(cls, path: str | Path) -> CompactPool:
        """Read what `save` wrote."""
        meta, arrays = read(path)
        return cls(**meta, **arrays)

    @classmethod
    def from_pool(
        cls,
        gold_counts: np.ndarray,
        bill: list[dict],
        scores: np.ndarray,
        columns: list[str],
        ensembles: list[dict],
        tokens: np.ndarray,
        lengths: np.ndarray,
        prompts: list[str],
        vocab: list[str],
        keep: int = 350,
        seed: int = 0,
        ended: np.ndarray | None = None,
    ) -> CompactPool:
        """Keep at most `keep` answers a prompt, those that can win first: see `rmlab.optimise.thinning.thin`.

        Parameters
        ----------
        gold_counts (P, N, F), 0 to 255; tokens (P, N, T) ids below 256; lengths (P, N), `<eos>` not counted
        scores (P, N, C) : finite, and each member's on one scale. A kept score is rounded to 65,535 steps from
            the member's lowest to its highest; one so far off that it would coarsen the others' is refused
        bill, columns, ensembles, prompts, vocab : as the fields; keep : M; seed : of the sample
        ended (P, N) bool : an answer that never ended, or that must not be chosen, is left out of everything,
            and the others stand for it: draws are of answers that ended, as in `rmlab.optimise.tilt`
        """
        require(keep >= 1, "keep", keep, "at least 1 answer a prompt")
        arrays = thin_words(gold_counts, bill, scores, columns, ensembles, tokens, lengths, keep, seed, ended)
        return cls(
            prompts=list(prompts),
            vocab=list(vocab),
            bill=[dict(term) for term in bill],
            columns=list(columns),
            ensembles=[dict(ensemble) for ensemble in ensembles],
            N=np.shape(scores)[1],
            **arrays,
        )

    @classmethod
    def from_text(
        cls,
        prompts: Sequence[str],
        answers: Sequence[Sequence[str]],
        member_scores: np.ndarray,
        gold: np.ndarray | None = None,
        columns: Sequence[str] | None = None,
        ensembles: Sequence[dict] | None = None,
        gold_unit: str = "",
        keep: int | None = None,
        seed: int = 0,
        ended: np.ndarray | None = None,
    ) -> CompactPool:
        """A pool of text, of which the answers that can win are kept first: `rmlab.optimise.thinning.thin`.

        Parameters
        ----------
        prompts : P texts; answers : P lists of N texts
        member_scores (P, N, K) : finite, kept as float32; members that are averaged need one scale
        gold (P, N) : finite, kept as float32, or None where there is no gold; gold_unit : what it counts
        columns : K names of the members, "member 1" on unless said
        ensembles : as the field; one of all members unless said
        keep : M; unless said as many as fit a page, 350 at most; seed : of the sample
        ended (P, N) bool : as in `from_pool`

        Raises
        ------
        ValueError : what does not fit, a number that is not finite, named by member, answer and prompt; texts
            of which fewer than 20 answers a prompt would fit a page, unless `keep` is said
        """
        texts, scores, gold, columns = checked_text(prompts, answers, member_scores, gold, columns)
        if ensembles is None:
            members, label = list(range(len(columns))), f"all {len(columns)} members"
            ensembles = [{"name": "all", "label": label, "members": members}] if len(members) > 1 else []
        check_ensembles(ensembles, len(columns))
        ensembles = [{**e, "members": [int(c) for c in e["members"]]} for e in ensembles]
        require(keep is None or keep >= 1, "keep", keep, "at least 1 answer a prompt")
        N = scores.shape[1]
        most = min(N, KEEP if keep is None else keep)
        while True:
            arrays = thin_text(texts, scores, gold, ensembles, most, seed, ended)
            pool = cls(list(prompts), columns, ensembles, N, **arrays, gold_unit=gold_unit)
            size = pool.nbytes_in_page()
            if keep is not None or size <= PAGE_BYTES:
                return pool
            mend = f"at most {PAGE_BYTES}: fewer prompts, or shorter texts"
            require(most > FEWEST, f"bytes of a page with {most} answers a prompt", size, mend)
            most = max(FEWEST, int(0.97 * most * PAGE_BYTES / size))


def curve_ns(N: int) -> list[int]:
    """The n at which curves are drawn: four an octave, 1 and N among them."""
    steps = {round(2 ** (k / 4)) for k in range(4 * N.bit_length())}
    return sorted({n for n in steps if n < N} | {1, N})
