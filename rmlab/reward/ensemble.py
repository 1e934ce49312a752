"""K reward models scored as one: their aligned scores, a subset of them, and the folder they live in.

Bradley-Terry leaves every member a free offset and scale, and min, median and spread mean nothing before
members are aligned: `align` sets both on a reference set, and whatever does not ask for raw scores by name
gets aligned ones. Members are heads of one model (`model.py`), adapters or masks on one base (`variants.py`),
or those of several ensembles side by side (`Union`).

Letters: B rows, T and S tokens, K members, P prompts, R answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmlab.backbone import device_of
from rmlab.recipe import require
from rmlab.reward.aggregate import ROUNDING
from rmlab.reward.folder import CARD, numbered, read_card, replaced, require_distinct, write_card
from rmlab.reward.methods import METHODS, module_of
from rmlab.tokens import SpecialTokens

CHUNK_TOKENS = 3072  # answers are scored in chunks of about this many tokens: larger ones are slower on a CPU
Ids = Sequence[Sequence[int]]
Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # ids (R, S), lengths (R,) -> raw scores (R, K)


class RewardEnsemble(nn.Module):
    """K member scores for every (prompt, answer). Subclasses give raw ones; they are aligned here alone.

    Parameters
    ----------
    members : K
    special : the special tokens of the model that reads
    device : where it runs
    """

    format: str  # of its folder: the method whose module loads it
    untrained: int = 0  # numbers that training left as they were
    centre: torch.Tensor  # (K,) float32, raw units
    scale: torch.Tensor  # (K,) float32, raw units

    def __init__(self, members: int, special: SpecialTokens, device: torch.device | str = "cpu"):
        super().__init__()
        self.members, self.special, self.aligned = members, special, False
        self.register_buffer("centre", torch.zeros(members, device=device))
        self.register_buffer("scale", torch.ones(members, device=device))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Aligned scores, ids and mask (B, T) -> (B, K) float32, read at the mask's last real token."""
        return self.align_raw(require_scores(self.raw_forward(ids, mask), len(ids), self.members))

    def raw_forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores as the members give them, ids and mask (B, T) -> (B, K) float32."""
        raise NotImplementedError  # pragma: no cover - in the subclasses

    def raw_pair_scores(self, prompts: Ids, chosen: Ids, rejected: Ids) -> torch.Tensor:
        """Raw scores of B chosen, then B rejected answers, (2B, K) float32; gradients flow."""
        raise NotImplementedError  # pragma: no cover

    def prompt_scorer(self, prompts: torch.Tensor, max_new_tokens: int) -> Read:
        """A function (ids (R, S), lengths (R,)) -> raw scores (R, K); S is at most `max_new_tokens`.

        prompts : (P, T) ids of one length, no padding; P divides R, and the answers to a prompt are
            neighbours
        """
        raise NotImplementedError  # pragma: no cover

    def floats_per_token(self) -> int:
        """Floats that a scored token needs at a time, at most: what a memory ceiling divides."""
        raise NotImplementedError  # pragma: no cover

    def parameter_count(self) -> int:
        """Numbers it holds: weights, adapters, heads."""
        return sum(p.numel() for p in self.parameters())

    def score(
        self,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """Aligned scores of many answers to one prompt, which is read once; answers of like length together.

        Parameters
        ----------
        prompt : (T,) ids
        ids : (R, S), answers right-padded
        lengths : (R,) real tokens, the EOS counted
        chunk_tokens : about as many tokens are read at a time
        memory : bytes that activations and copies of weights may take; a chunk is never under one answer

        Returns
        -------
        (R, K) float32, in standard deviations of each member on the reference set; raw if it was never
        aligned
        """
        raw = self.raw_scores(prompt, ids, lengths, chunk_tokens, memory)
        return self.align_raw(require_scores(raw, len(ids), self.members))

    def raw_scores(
        self,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """As `score`, in each member's own units, (R, K) float32."""
        limits = {"chunk_tokens": chunk_tokens, "memory": memory}
        return self.score_in_chunks(self.prompt_scorer, self.members, prompt, ids, lengths, **limits)

    @torch.no_grad()
    def score_in_chunks(
        self,
        prompt_scorer: Callable[[torch.Tensor, int], Read],
        columns: int,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """What a prompt scorer gives for answers to one prompt, (R, columns) float32; see `score`."""
        ids, lengths = np.asarray(ids), np.asarray(lengths)
        require_lengths(ids, lengths)
        if memory is not None:
            require(memory > 0, "memory", memory, "a number of bytes above 0")
            chunk_tokens = max(1, min(chunk_tokens, memory // (4 * self.floats_per_token())))
        device = self.centre.device
        read = prompt_scorer(torch.as_tensor(prompt, dtype=torch.long, device=device)[None], ids.shape[1])
        out = np.empty((len(ids), columns), np.float32)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            width = int(lengths[order[min(start + 64, len(order) - 1)]])
            rows = order[start : start + max(1, chunk_tokens // width)]
            if memory is not None:  # a ceiling also holds where the last answers are much longer than `width`
                padded = lengths[rows] * np.arange(1, len(rows) + 1)
                rows = rows[: max(1, int((padded <= chunk_tokens).sum()))]
            width = int(lengths[rows].max())
            chunk = torch.from_numpy(ids[rows, :width].astype(np.int64)).to(device)
            raw = read(chunk, torch.from_numpy(lengths[rows].astype(np.int64)).to(device))
            out[rows] = require_scores(raw, len(rows), columns).cpu().numpy()
            start += len(rows)
        return out

    def align_raw(self, raw: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(raw - centre) / scale, (..., K) float32, of an array or a tensor."""
        require_scores(raw, *raw.shape[:-1], self.members)
        if isinstance(raw, np.ndarray):
            return self.align_raw(torch.tensor(raw, dtype=torch.float32)).numpy()
        return (raw.float() - self.centre.to(raw.device)) / self.scale.to(raw.device)

    def align(self, reference: np.ndarray) -> None:
        """Set offsets and scales from raw reference scores (R, K): aligned, they have mean 0 and std 1.

        Raises
        ------
        ValueError
            Another shape, a score that is not finite, a member that is constant up to float32's rounding.
        """
        reference = np.asarray(reference, np.float64)
        fits = reference.ndim == 2 and reference.shape[1] == self.members and len(reference) > 0
        require(fits, "reference", reference.shape, f"an array (R, {self.members})")
        bad = int((~np.isfinite(reference)).sum())
        require(bad == 0, "reference", f"{bad} scores that are not finite", "finite scores")
        spread, largest = reference.std(0), np.abs(reference).max(0)
        still = np.flatnonzero(spread <= ROUNDING * largest).tolist()
        mend = "answers on which every member's score varies"
        require(not still, f"spread of members {still} on the reference", spread[still].tolist(), mend)
        self.set_alignment(reference.mean(0), spread)

    def set_alignment(self, centre: Sequence[float], scale: Sequence[float]) -> None:
        """Take offsets and scales, K finite numbers each in the members' raw units, the scales above 0."""
        centre = finite_numbers("centre", centre, self.members)
        scale = finite_numbers("scale", scale, self.members, positive=True)
        device = self.centre.device
        self.centre, self.scale, self.aligned = centre.to(device), scale.to(device), True

    def subset(self, members: Sequence[int]) -> RewardEnsemble:
        """The members of these numbers, in this order and aligned as they are; weights are shared."""
        members = [int(m) for m in members]
        good = len(set(members)) == len(members) > 0 and all(0 <= m < self.members for m in members)
        require(good, "members", members, f"different numbers from 0 to {self.members - 1}")
        few = self._subset(members)
        if self.aligned:
            few.set_alignment(self.centre[members].tolist(), self.scale[members].tolist())
        return few

    def _subset(self, members: list[int]) -> RewardEnsemble:
        """A new ensemble of these members."""
        raise NotImplementedError  # pragma: no cover

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` reads, whole or not at all, in the place of one that was saved there.

        Raises a `ValueError`, and touches nothing, where the folder holds anything else.
        """
        with replaced(folder) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write weights and card into an empty folder."""
        more = self._write_weights(folder)
        alignment = {"centre": self.centre.tolist(), "scale": self.scale.tolist()} if self.aligned else None
        card = {"format": self.format, "members": self.members, "alignment": alignment}
        write_card(folder, card | more)

    def _write_weights(self, folder: Path) -> dict:
        """Write the weights into an empty folder; returns what else its card says."""
        raise NotImplementedError  # pragma: no cover

    def restore_alignment(self, folder: str | Path, members: Sequence[int] | None = None) -> None:
        """Take the alignment of a folder's card, if it has one.

        members : which of the card's members these are; all of them unless said

        Raises
        ------
        ValueError
            A card of another format or K; too few or too many numbers, one that is not finite, a scale of 0
            or less.
        """
        card, path = read_card(folder), Path(folder) / CARD
        if card is None:
            return
        stored_as, count, stored = (card.get(name) for name in ("format", "members", "alignment"))
        mend = f"a folder of {self.format}, or load it with rmlab.load"
        require(stored_as == self.format, f"format of {path}", stored_as, mend)
        whole = members is None
        require(
            not whole or count == self.members, f"members of {path}", count, f"its weights' {self.members}"
        )
        if stored is None:
            return
        require(isinstance(stored, dict), f"alignment of {path}", stored, "null, or centre and scale")
        centre = finite_numbers(f"centre of {path}", stored.get("centre"), count)
        scale = finite_numbers(f"scale of {path}", stored.get("scale"), count, positive=True)
        rows = list(range(count) if whole else members)
        self.set_alignment(centre[rows].tolist(), scale[rows].tolist())

    def _apply(self, fn: Callable, recurse: bool = True) -> RewardEnsemble:
        """`.to(...)`: what is registered here moves with the weights and keeps its own precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            if self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        return self


class Union(RewardEnsemble):
    """Ensembles side by side: K is the sum of theirs, in their order, aligned if all of them are."""

    format = "mixed"

    def __init__(self, parts: Sequence[RewardEnsemble]):
        require(len(parts) > 0, "parts", 0, "at least one ensemble")
        special = parts[0].special
        others = [p.special for p in parts if p.special != special]
        require(not others, "special tokens of parts", others[:1], f"those of the first part, {special}")
        super().__init__(sum(p.members for p in parts), special, parts[0].centre.device)
        self.parts = nn.ModuleList(parts)
        self.untrained = sum(p.untrained for p in parts)
        if all(p.aligned for p in parts):
            self.set_alignment(*(torch.cat([getattr(p, n) for p in parts]) for n in ("centre", "scale")))

    def raw_forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The parts' raw scores side by side, ids and mask (B, T) -> (B, K)."""
        return torch.cat([p.raw_forward(ids, mask) for p in self.parts], -1)

    def raw_pair_scores(self, prompts: Ids, chosen: Ids, rejected: Ids) -> torch.Tensor:
        """The parts' raw scores of pairs side by side, (2B, K)."""
        return torch.cat([p.raw_pair_scores(prompts, chosen, rejected) for p in self.parts], -1)

    def prompt_scorer(self, prompts: torch.Tensor, max_new_tokens: int) -> Read:
        """The parts' prompt scorers side by side."""
        readers = [p.prompt_scorer(prompts, max_new_tokens) for p in self.parts]
        return lambda ids, lengths: torch.cat([read(ids, lengths) for read in readers], -1)

    def raw_scores(
        self,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """(R, K) float32, one part after another: each keeps its copies of weights within `memory`."""
        return np.concatenate(
            [p.raw_scores(prompt, ids, lengths, chunk_tokens, memory) for p in self.parts], -1
        )

    def floats_per_token(self) -> int:
        """The most that a part needs."""
        return max(p.floats_per_token() for p in self.parts)

    def _subset(self, members: list[int]) -> RewardEnsemble:
        places = [(i, k) for i, part in enumerate(self.parts) for k in range(part.members)]
        runs = groupby((places[m] for m in members), key=lambda place: place[0])
        parts = [self.parts[i].subset([k for _, k in run]) for i, run in runs]
        return parts[0] if len(parts) == 1 else Union(parts)

    def _write_weights(self, folder: Path) -> dict:
        for i, part in enumerate(self.parts):
            (folder / f"part_{i}").mkdir()
            part.write(folder / f"part_{i}")
        return {"parts": len(self.parts)}

    @classmethod
    def load(cls, folder: str | Path) -> Union:
        """Read a folder that `save` wrote; a `ValueError` where a part is missing or is another's copy."""
        folders, card = numbered(Path(folder), "part"), read_card(folder) or {}
        count = card.get("parts")
        names = [f"part_{i}" for i in range(len(folders))]
        whole = [f.name for f in folders] == names and len(folders) == count
        require(whole, f"parts of {folder}", [f.name for f in folders], f"the {count} that were saved")
        require_distinct(folders, f"parts of {folder}")
        union = cls([_read(f) for f in folders])
        union.restore_alignment(folder)
        return union


def load(folder: str | Path, device: str | torch.device | None = None) -> RewardEnsemble:
    """The ensemble that was saved in a folder, of whichever format, with its alignment.

    A Hugging Face folder of a sequence classification model that ends in a linear layer is read too, as raw
    scores.

    device : where to; unless said, what `rmlab.backbone.device_of()` says

    Raises
    ------
    ValueError
        No such folder, a card of an unknown format, weights that are missing, unexpected, cut or of another
        shape.
    """
    return _read(Path(folder)).to(device_of(device))


def _read(folder: Path) -> RewardEnsemble:
    """The same, on the CPU."""
    card = read_card(folder)
    known = card is not None or (folder / "config.json").is_file()
    require(known, "folder", str(folder), f"one that an ensemble's save wrote, with {CARD}")
    name = "heads" if card is None else card.get("format")
    readable = isinstance(name, str) and name in METHODS and hasattr(module_of(name), "load")
    require(readable, f"format of {folder / CARD}", name, "a method of METHODS whose module has `load`")
    return module_of(name).load(folder)


def require_scores(raw: np.ndarray | torch.Tensor, *shape: int) -> np.ndarray | torch.Tensor:
    """The scores, if they are of this shape; else a `ValueError`, as others would be spread over it."""
    require(
        tuple(raw.shape) == shape,
        "shape of the scores",
        tuple(raw.shape),
        f"{shape}: a row an answer, a column a member",
    )
    return raw


def require_lengths(ids: np.ndarray, lengths: np.ndarray) -> None:
    """Raise a `ValueError` unless lengths (R,) fit answers (R, S), each of at least one token."""
    fits = ids.ndim == 2 and lengths.shape == ids.shape[:1]
    require(fits, "lengths", lengths.shape, f"one for each answer of ids, which are {ids.shape}")
    shortest, longest = int(lengths.min(initial=1)), int(lengths.max(initial=0))
    require(shortest > 0, "lengths", shortest, "answers of at least one token")
    require(longest <= ids.shape[1], "lengths", longest, f"at most the {ids.shape[1]} tokens of a row")


def finite_numbers(name: str, values: Sequence[float], count: int, positive: bool = False) -> torch.Tensor:
    """`count` finite numbers, above 0 if `positive`, as (count,) float32; else a `ValueError`."""
    try:
        numbers = torch.tensor([float(x) for x in values])
    except (TypeError, ValueError):
        numbers = torch.empty(0)
    good = len(numbers) == count and torch.isfinite(numbers).all() and (not positive or (numbers > 0).all())
    require(bool(good), name, values, f"{count} finite numbers{' above 0' if positive else ''}, one a member")
    return numbers
