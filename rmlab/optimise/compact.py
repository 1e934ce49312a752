"""A pool made small enough for a page: the answers that can win, and a weighted sample of the others.

Letters: P prompts, N answers a prompt in the pool, M of them kept, C members (columns), F terms of gold's
bill. Best-of-n draws n answers with replacement from a prompt's pool and takes the one with the highest
aggregated score.
NumPy only; the explorer's JavaScript computes the same numbers from `CompactPool.packed`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from rmlab.optimise.thinning import grid, thin
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate

TIE = 1e-9  # scores closer than this are equal: far under the int16 step, far over float64 rounding
_ARRAYS = {  # in the order of the page's bytes: wide items first, so that each array is aligned
    "weight": "<f4",
    "scale": "<f4",
    "offset": "<f4",
    "scores": "<i2",
    "counts": "|u1",
    "lengths": "|u1",
    "tokens": "|u1",
}


@dataclass(frozen=True)
class CompactPool:
    """A pool reduced to M answers a prompt, each standing for `weight` answers of the N.

    tokens (flat) uint8 ids of all kept answers, row-major, without `<eos>`; lengths (P, M) uint8; counts
    (P, M, F) uint8; weight (P, M) float32, N a row; scores (P, M, C) int16, a member's score being
    scores * scale + offset with scale and offset (C,) float32. `bill` has F dicts name, label, values, slope:
    count c is worth values[c], and slope for each count past the last value. `ensembles` are dicts name,
    label, members, members being columns; those that differ only in their number of members, each trained for
    itself, share a `series`, which says what is counted: "heads". A name is letters, digits, "_" and "-".

    Raises
    ------
    ValueError : a shape that does not fit, a number that is not finite, weights that miss N, an unknown
        member
    """

    prompts: list[str]
    vocab: list[str]
    bill: list[dict]
    columns: list[str]
    ensembles: list[dict]
    N: int
    tokens: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    weight: np.ndarray
    scores: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def __post_init__(self):
        for name, kind in _ARRAYS.items():
            _finite(name, getattr(self, name))
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))
        for term in self.bill:
            _finite(f"bill of {term['name']!r}", [*term["values"], term["slope"]])
        require(len(self.prompts) > 0, "prompts", self.prompts, "at least one")
        P, M, C, F = len(self.prompts), self.weight.shape[-1], len(self.columns), len(self.bill)
        shapes = {
            "weight": (P, M),
            "lengths": (P, M),
            "counts": (P, M, F),
            "scores": (P, M, C),
            "scale": (C,),
            "offset": (C,),
            "tokens": (int(self.lengths.sum(dtype=np.int64)),),
        }
        for name, shape in shapes.items():
            got = getattr(self, name).shape
            require(got == shape, f"shape of {name}", got, f"{shape}, which fits the other fields")
        words = len(self.vocab)
        require(words <= 256, "words of vocab", words, "at most 256: token ids are bytes")
        last, least = int(self.tokens.max(initial=0)), float(self.weight.min(initial=0))
        require(last < max(1, words), "tokens", last, f"ids below {words}, the words of vocab")
        require(least >= 0, "weight", least, "0 or more: how many answers one stands for")
        sums = self.weight.sum(1, dtype=np.float64)
        off, mend = float(sums[np.abs(sums - self.N).argmax()]), f"{self.N}, which is N"
        require(abs(off - self.N) <= 1e-3 * self.N, "sum of a row of weight", off, mend)
        _known(self.ensembles, C)

    @cached_property
    def gold(self) -> np.ndarray:
        """(P, M) float64, the sum of the bill, gold units."""
        return bill_total(self.counts, self.bill)

    @cached_property
    def member_scores(self) -> np.ndarray:
        """(P, M, C) float64, in the members' own units."""
        return self.scores * self.scale.astype(np.float64) + self.offset

    def aggregated(self, members: list[int], aggregator: str, strength: float = 1.0) -> np.ndarray:
        """(P, M) aggregated scores of the columns `members`; by "gold", the oracle: gold itself."""
        if aggregator == "gold":
            return self.gold
        members = list(members)
        known = bool(members) and set(members) <= set(range(len(self.columns)))
        require(known, "members", members, f"one or more columns below {len(self.columns)}")
        return aggregate(self.member_scores[..., members], aggregator, strength)

    def curve(
        self, members: list[int], aggregator: str, strength: float, ns: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Expected gold and proxy of best-of-n, exact for the weighted pool.

        An answer whose cumulative weight fraction rises from U' to U wins with probability U^n - U'^n;
        answers with equal scores share it.

        Parameters
        ----------
        members : columns; aggregator, strength : as in `rmlab.reward.aggregate.aggregate`, or "gold"
        ns : numbers of draws, each >= 1

        Returns
        -------
        {"gold": (P, len(ns)), "proxy": (P, len(ns))} float64
        """
        ns = np.asarray(ns, np.float64)
        require(
            ns.ndim == 1 and (ns >= 1).all(), "ns", ns.tolist(), "a list of numbers of draws, each at least 1"
        )
        score = self.aggregated(members, aggregator, strength)
        out = {"gold": np.zeros((len(score), len(ns))), "proxy": np.zeros((len(score), len(ns)))}
        for p in range(len(score)):
            group, order, log_u = self._ladder(score[p], p)
            w = self.weight[p, order].astype(np.float64)
            won = np.diff(np.exp(ns[:, None] * log_u), axis=1, prepend=0.0)  # (len(ns), groups)
            share = np.bincount(group, w)
            out["gold"][p] = won @ (np.bincount(group, w * self.gold[p, order]) / share)
            out["proxy"][p] = won @ (np.bincount(group, w * score[p, order]) / share)
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
        {"gold", "proxy", "kl", "ess"}, each (P, len(betas)) float64: kl in nats, relative to weight / N; ess
        the effective number of kept answers, 1 / sum pi^2: that of the whole pool where it is small.
        """
        betas = np.asarray(betas, np.float64)
        fit = betas.ndim == 1 and (betas > 0).all()
        require(fit, "betas", betas.tolist(), "a list of prices of a nat, each above 0")
        score = self.aggregated(members, aggregator, strength)
        weight = self.weight.astype(np.float64)
        start = weight / weight.sum(1, keepdims=True)
        policies = [self._tilt(score, beta) for beta in betas]
        each = {
            "gold": [(pi * self.gold).sum(1) for pi in policies],
            "proxy": [(pi * score).sum(1) for pi in policies],
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

        tail : only among the best tenth of each prompt's N answers by the members' mean; answers of equal
            mean at its end share what is left of it. Choosing by the mean by itself lowers what is found.
        """
        members = list(members)
        mean = self.aggregated(members, "mean")  # names members that the pool does not have
        out = np.zeros((len(members), len(members)))
        for p in range(len(mean)):
            w = self.weight[p].astype(np.float64)
            if tail:
                room = w.sum() / 10
                order = np.argsort(-mean[p], kind="stable")
                last = np.argmax(np.append(np.cumsum(w[order])[:-1] >= room * (1 - TIE), True))
                over = mean[p] - mean[p, order[last]]
                above, level = over > TIE, np.abs(over) <= TIE
                w *= above + level * (room - w[above].sum()) / w[level].sum()
            s = self.member_scores[p][:, members]
            s = s - w @ s / w.sum()
            cov = (w * s.T) @ s / w.sum()
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
        """Answer i to prompt p as words."""
        start = int(self.lengths.reshape(-1)[: p * self.lengths.shape[1] + i].sum(dtype=np.int64))
        return " ".join(self.vocab[t] for t in self.tokens[start : start + int(self.lengths[p, i])])

    def packed(self) -> tuple[dict, bytes]:
        """What the page carries: a dict for JSON, and every array in one zlib stream."""
        meta = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        meta["layout"] = [[name, kind, getattr(self, name).size] for name, kind in _ARRAYS.items()]
        return meta, zlib.compress(b"".join(getattr(self, name).tobytes() for name in _ARRAYS), 9)

    def nbytes_in_page(self) -> int:
        """Bytes of the data as embedded in a page: the arrays in base64, the rest as JSON."""
        meta, data = self.packed()
        return -(-len(data) // 3) * 4 + len(json.dumps(meta))

    def save(self, path: str | Path) -> None:
        """Write one .npz; the same pool gives the same bytes."""
        meta = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
        with zipfile.ZipFile(path, "w") as file:
            for name in ("meta", *_ARRAYS):
                item = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # no clock in the bytes
                item.compress_type, item.create_system = zipfile.ZIP_DEFLATED, 3
                array = io.BytesIO()
                np.lib.format.write_array(array, text if name == "meta" else getattr(self, name))
                file.writestr(item, array.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> CompactPool:
        """Read what `save` wrote."""
        require(Path(path).exists(), "path", str(path), "a file that exists, written by CompactPool.save")
        with np.load(path) as file:
            return cls(**json.loads(file["meta"].tobytes()), **{name: file[name] for name in _ARRAYS})

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
    ) -> CompactPool:
        """Keep at most `keep` answers a prompt, those that can win first: see `rmlab.optimise.thinning.thin`.

        Parameters
        ----------
        gold_counts (P, N, F), 0 to 255; tokens (P, N, T) ids below 256; lengths (P, N), `<eos>` not counted
        scores (P, N, C) : finite, and each member's on one scale. A kept score is rounded to a grid of
            65,535 steps from the member's lowest to its highest; an answer that must not be chosen needs no
            more than a score below the others', and one so far off that it would coarsen theirs is refused
        bill, columns, ensembles, prompts, vocab : as the fields; keep : M; seed : of the sample
        """
        counts, scores = np.asarray(gold_counts), np.asarray(scores, np.float64)
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        _check(counts, scores, tokens, lengths, columns)
        require(keep >= 1, "keep", keep, "at least 1 answer a prompt")
        _known(ensembles, len(columns))
        chosen, weight = thin(scores, bill_total(counts, bill), ensembles, keep, seed)
        rows = np.arange(len(chosen))[:, None]
        steps, scale, offset = grid(scores[rows, chosen], columns)
        lengths = lengths[rows, chosen]
        return cls(
            prompts=list(prompts),
            vocab=list(vocab),
            bill=[dict(term) for term in bill],
            columns=list(columns),
            ensembles=[dict(ensemble) for ensemble in ensembles],
            N=scores.shape[1],
            tokens=tokens[rows, chosen][np.arange(tokens.shape[2]) < lengths[..., None]],
            lengths=lengths,
            counts=counts[rows, chosen],
            weight=weight,
            scores=steps,
            scale=scale,
            offset=offset,
        )


def bill_total(counts: np.ndarray, bill: list[dict]) -> np.ndarray:
    """Counts (..., F) to gold (...), gold units."""
    counts = np.asarray(counts, np.int64)
    total = np.zeros(counts.shape[:-1])
    for f, term in enumerate(bill):
        c, last = counts[..., f], len(term["values"]) - 1
        total += np.asarray(term["values"], np.float64)[np.minimum(c, last)]
        total += term["slope"] * np.maximum(c - last, 0)
    return total


def curve_ns(N: int) -> list[int]:
    """The n at which curves are drawn: four an octave, 1 and N among them."""
    steps = {round(2 ** (k / 4)) for k in range(4 * N.bit_length())}
    return sorted({n for n in steps if n < N} | {1, N})


def _check(counts, scores, tokens, lengths, columns: list[str]) -> None:
    """That the arrays of a full pool fit each other and the bytes that keep them."""
    shapes = [counts.shape, scores.shape, tokens.shape, lengths.shape]
    fit = counts.ndim == scores.ndim == tokens.ndim == 3 and len({shape[:2] for shape in shapes}) == 1
    mend = "(P, N, F), (P, N, C), (P, N, T) and (P, N)"
    require(fit, "shapes of gold_counts, scores, tokens, lengths", shapes, mend)
    C = scores.shape[2]
    require(C == len(columns), "labels in columns", len(columns), f"{C}, one a member of scores")
    _finite("scores", scores)
    for name, values, most in (("gold_counts", counts, 255), ("lengths", lengths, min(255, tokens.shape[2]))):
        off = next((int(x) for x in (values.min(initial=0), values.max(initial=0)) if not 0 <= x <= most), 0)
        require(off == 0, name, off, f"numbers from 0 to {most}: they must fit a byte, and lengths tokens")


def _finite(name: str, values) -> None:
    values = np.asarray(values)
    for place in np.argwhere(~np.isfinite(values))[:1].tolist():
        require(False, f"{name}{place}", float(values[tuple(place)]), "a finite number")


def _known(ensembles: list[dict], C: int) -> None:
    for ensemble in ensembles:
        name, members = ensemble["name"], ensemble["members"]
        plain = re.fullmatch(r"[\w-]+", name) is not None  # it goes into the page's address
        require(plain, "name of an ensemble", name, "letters, digits, _ and - only")
        within = bool(members) and set(members) <= set(range(C))
        require(within, f"members of ensemble {name!r}", members, f"columns below {C}")
    sizes = [(e["series"], len(e["members"])) for e in ensembles if e.get("series")]
    require(len(set(sizes)) == len(sizes), "sizes of ensembles", sizes, "each size of a series once")
