"""The reward model: K linear heads on a transformer, as a plain Hugging Face folder.

The model is `AutoModelForSequenceClassification` with `num_labels=K`, K = 1 included; anyone can load it without
rmlab and gets the raw scores as its logits. What rmlab adds is each member's offset and scale on a
reference set: Bradley-Terry leaves them free, and min, median and spread mean nothing before members are
aligned. They live in the folder's `config.json` and are applied in `forward`.

A `Scorer` is anything with K members: a `RewardModel`, adapters or masks on one base (`variants.py`), or a `Union`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmlab.fast.prefix import open_prompts, read_ends, read_pairs
from rmlab.recipe import require, stream_seed
from rmlab.tokens import SpecialTokens

CHUNK_TOKENS = 3072  # answers are scored in chunks of about this many tokens: larger ones are slower on a CPU


class Scorer(nn.Module):
    """K member scores for every (prompt, answer), and their alignment. Subclasses give the raw scores."""

    members: int  # K
    centre: torch.Tensor  # (K,) float32
    scale: torch.Tensor
    untrained: int = 0  # numbers that training left as they were

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Aligned member scores, ids and mask (B, T) -> (B, K) float32, in standard deviations of the reference set."""
        return (self.raw(ids, mask) - self.centre) / self.scale

    def raw(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores as the members give them, (B, T) -> (B, K) float32, read at the last real token of the mask."""
        raise NotImplementedError  # pragma: no cover - in the subclasses

    def pair_scores(self, prompts, chosen, rejected) -> torch.Tensor:
        """Raw scores of B chosen, then B rejected answers given as lists of ids, (2B, K); gradients flow."""
        raise NotImplementedError  # pragma: no cover

    def reader(self, prompt: torch.Tensor, room: int):
        """A function (ids (R, T), lengths (R,)) -> raw scores (R, K) for answers to one prompt (1, T)."""
        raise NotImplementedError  # pragma: no cover

    def widest(self) -> int:
        """Floats a scored token needs at a time, at most: what a memory ceiling divides."""
        raise NotImplementedError  # pragma: no cover

    def size(self) -> int:
        """Numbers it holds: weights, adapters, heads."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def score(
        self, prompt: np.ndarray, ids: np.ndarray, lengths: np.ndarray, chunk_tokens: int = CHUNK_TOKENS, memory: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Raw scores of many answers to one prompt, on the prompt's cache, in chunks of answers of nearly one length.

        Parameters
        ----------
        prompt : (T,) int64 ids
        ids : (R, S) int, answers right-padded; lengths : (R,) real tokens, `<eos>` counted
        memory : bytes that a chunk's activations may take; a chunk is never under one answer

        Returns
        -------
        (R, K) float32
        """
        lengths = np.asarray(lengths)
        require(
            bool((lengths > 0).all()), "lengths", int(lengths.min(initial=1)), "answers of at least one token"
        )
        if memory is not None:
            require(memory > 0, "memory", memory, "a number of bytes above 0")
            chunk_tokens = max(1, min(chunk_tokens, memory // (4 * self.widest())))
        place = self.centre.device
        read = self.reader(torch.as_tensor(prompt, dtype=torch.long, device=place)[None], ids.shape[1])
        out = np.empty((len(ids), self.members), np.float32)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            width = int(lengths[order[min(start + 64, len(order) - 1)]])
            rows = order[start : start + max(1, chunk_tokens // width)]
            if memory is not None:  # a ceiling also holds where the last answers are much longer than `width`
                padded = lengths[rows] * np.arange(1, len(rows) + 1)
                rows = rows[: max(1, int((padded <= chunk_tokens).sum()))]
            width = int(lengths[rows].max())
            some = torch.from_numpy(ids[rows, :width].astype(np.int64)).to(place)
            scores = read(some, torch.from_numpy(lengths[rows].astype(np.int64)).to(place))
            out[rows] = scores.cpu().numpy()
            start += len(rows)
        return out

    def align(self, reference: np.ndarray) -> None:
        """Set every member's offset and scale from raw reference scores (R, K): aligned scores have mean 0, std 1 there."""
        reference = np.asarray(reference, np.float64)
        require(
            reference.ndim == 2 and reference.shape[1] == self.members,
            "reference",
            reference.shape,
            f"an array (R, {self.members})",
        )
        spread = reference.std(0)
        require(
            bool((spread > 0).all()),
            "reference",
            spread.tolist(),
            "answers on which every member's score varies",
        )
        self.centre = torch.tensor(reference.mean(0), dtype=torch.float32, device=self.centre.device)
        self.scale = torch.tensor(spread, dtype=torch.float32, device=self.centre.device)

    def unaligned(self, members: int, stored: dict | None = None) -> None:
        """Register the alignment: what a folder stored, else offset 0 and scale 1."""
        stored = stored or {}
        for name, plain in (("centre", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.tensor(stored.get(name, [plain] * members), dtype=torch.float32))


class RewardModel(Scorer):
    """K linear heads on one transformer: `forward(ids, mask) -> (B, K)` float32, aligned.

    Build one with `from_backbone`, or `load` one. `raw` gives the scores before alignment. With `mlp`, each head is
    a network of its own (`heads.MlpHeads`): such a folder needs rmlab, and its linear head is NaN so that
    nobody mistakes it.
    """

    def __init__(self, model: nn.Module, mlp: nn.Module | None = None):
        super().__init__()
        self.model, self.mlp = model.eval(), mlp
        self.special = SpecialTokens.of(model)
        self.unaligned(model.config.num_labels, getattr(model.config, "rmlab", None))
        self.to(next(model.parameters()).device)

    @property
    def members(self) -> int:
        """K."""
        return self.model.config.num_labels

    @property
    def trunk(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix)

    def raw(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(read_ends(self.trunk, ids, mask))

    def pair_scores(self, prompts, chosen, rejected) -> torch.Tensor:
        return self.head(read_pairs(self.model, prompts, chosen, rejected))

    def reader(self, prompt: torch.Tensor, room: int):
        read = open_prompts(self.model, prompt, room)
        return lambda ids, lengths: self.head(read(ids, lengths))

    def widest(self) -> int:
        config = self.model.config
        return 6 * config.hidden_size + 3 * config.intermediate_size + 256 * config.num_attention_heads

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) -> raw scores (..., K), in float32 whatever the trunk runs in."""
        if self.mlp is not None:
            return self.mlp(hidden.float())
        return hidden.float() @ self.model.score.weight.float().T

    def head_parameters(self):
        """The heads' own parameters."""
        return (self.model.score if self.mlp is None else self.mlp).parameters()

    def save(self, folder: str | Path) -> None:
        """Write a plain Hugging Face folder (safetensors), alignment in its config."""
        self.model.config.rmlab = {"centre": self.centre.tolist(), "scale": self.scale.tolist()}
        self.model.save_pretrained(str(folder))
        if self.mlp is not None:
            self.mlp.save(folder)

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> RewardModel:
        """Read a folder written by `save`, or any sequence classification model with a linear `score` head.

        Raises
        ------
        ValueError
            The head's width is not the encoder's: a head of another model.
        """
        from transformers import AutoModelForSequenceClassification

        from rmlab.reward.heads import MlpHeads

        head = head_shape(folder)
        if head is not None:
            import json

            wide = json.loads((Path(folder) / "config.json").read_text()).get("hidden_size", head[1])
            require(
                head[1] == wide, f"score.weight of {folder}", head, f"a head of width {wide}, its encoder's"
            )
        model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype)
        return cls(model, MlpHeads.load(folder))


def head_shape(folder: str | Path) -> tuple[int, int] | None:
    """The shape (K, D) of the head stored in a folder, or None where it is not in one safetensors file."""
    from safetensors import safe_open

    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return tuple(file.get_slice("score.weight").get_shape()) if "score.weight" in file.keys() else None


class Union(Scorer):
    """Scorers side by side: K is the sum of theirs, in their order, each aligned as it is."""

    def __init__(self, parts: list[Scorer]):
        super().__init__()
        require(len(parts) > 0, "parts", 0, "at least one scorer")
        self.parts = nn.ModuleList(parts)
        self.unaligned(self.members)
        self.centre = torch.cat([p.centre for p in parts])
        self.scale = torch.cat([p.scale for p in parts])

    @property
    def members(self) -> int:
        return sum(p.members for p in self.parts)

    def raw(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([p.raw(ids, mask) for p in self.parts], -1)

    def pair_scores(self, prompts, chosen, rejected) -> torch.Tensor:
        return torch.cat([p.pair_scores(prompts, chosen, rejected) for p in self.parts], -1)

    def reader(self, prompt: torch.Tensor, room: int):
        readers = [p.reader(prompt, room) for p in self.parts]
        return lambda ids, lengths: torch.cat([read(ids, lengths) for read in readers], -1)

    def score(
        self, prompt: np.ndarray, ids: np.ndarray, lengths: np.ndarray, chunk_tokens: int = CHUNK_TOKENS, memory: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """As `Scorer.score`, one part after another, so that each keeps its own copies within `memory`."""
        return np.concatenate([p.score(prompt, ids, lengths, chunk_tokens, memory) for p in self.parts], -1)

    def widest(self) -> int:
        return max(p.widest() for p in self.parts)

    def save(self, folder: str | Path) -> None:
        """One sub-folder a part, `part_0`, `part_1`, ..., and the alignment with them."""
        start = 0
        for i, part in enumerate(self.parts):
            part.centre = self.centre[start : start + part.members]
            part.scale = self.scale[start : start + part.members]
            part.save(Path(folder) / f"part_{i}")
            start += part.members


def from_backbone(backbone: nn.Module, members: int, seed: int, init: float = 1.0) -> RewardModel:
    """K fresh heads on a copy of a language model's trunk.

    Head k is drawn from its own stream, with std init/sqrt(D + 1) (Stiennon et al. 2020 with init = 1), so
    members differ from the start and head k does not depend on K.
    """
    from transformers import AutoModelForSequenceClassification

    require(members >= 1, "members", members, "at least 1")
    config = _config(backbone.config, members)
    model = AutoModelForSequenceClassification.from_config(config).to(next(backbone.parameters()).dtype)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ValueError(
            f"backbone = {type(backbone).__name__}: its classifier has no linear `score` head; give a decoder family"
        )
    getattr(model, model.base_model_prefix).load_state_dict(
        getattr(backbone, backbone.base_model_prefix).state_dict()
    )
    with torch.no_grad():
        for k in range(members):
            model.score.weight[k] = fresh_head(config.hidden_size, seed, k, init)
    return RewardModel(model.to(next(backbone.parameters()).device))


def with_heads(model: nn.Module, heads: torch.Tensor) -> nn.Module:
    """The same trunk, shared and not copied, under the linear heads (K, D)."""
    from transformers import AutoModelForSequenceClassification

    trunk = getattr(model, model.base_model_prefix)
    require(heads.shape[1:] == (trunk.config.hidden_size,), "heads", tuple(heads.shape), f"(K, {trunk.config.hidden_size}), as wide as the encoder")  # fmt: skip
    made = AutoModelForSequenceClassification.from_config(_config(model.config, len(heads)))
    setattr(made, made.base_model_prefix, trunk)
    made.score.weight.data = heads.detach().to(next(trunk.parameters())).clone()
    return made


def _config(config, labels: int):
    """A copy of a model's configuration with K labels."""
    plain = {
        k: v for k, v in config.to_dict().items() if k not in {"id2label", "label2id", "num_labels", "rmlab"}
    }
    return type(config).from_dict({**plain, "num_labels": labels})


def fresh_head(width: int, seed: int, k: int = 0, init: float = 1.0) -> torch.Tensor:
    """Head k's initial weights (D,), std init/sqrt(D + 1), from a stream of its own."""
    noise = torch.Generator().manual_seed(stream_seed(seed, "head", k))
    return init * torch.randn(width, generator=noise) / math.sqrt(width + 1)


def checksums(models: list[RewardModel]) -> list[str]:
    """One hash of the weights a model; an ensemble whose members share one is refused.

    Raises
    ------
    ValueError
        Two members have the same weights: an ensemble of copies.
    """
    import hashlib

    sums = []
    for model in models:
        state = model.model.state_dict()
        sums.append(
            hashlib.sha256(b"".join(state[k].cpu().numpy().tobytes() for k in sorted(state))).hexdigest()
        )
    for i, one in enumerate(sums):
        if one in sums[:i]:
            raise ValueError(
                f"members {sums.index(one)} and {i} have the same weights: give every member a seed of its own"
            )
    return sums
