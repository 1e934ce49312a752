"""The reward model: K linear heads on a transformer, as a plain Hugging Face folder.

The model is `AutoModelForSequenceClassification` with `num_labels=K`, K = 1 included; anyone can load it without
rmlab and gets the raw scores as its logits. What rmlab adds is each member's offset and scale on a
reference set: Bradley-Terry leaves them free, and min, median and spread mean nothing before members are
aligned. They live in the folder's `config.json` and are applied in `forward`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmlab.fastpath import open_prompts
from rmlab.recipe import need, stream_seed
from rmlab.tokens import check_special, last_index

CHUNK_TOKENS = 3072  # answers are scored in chunks of about this many tokens: larger ones are slower on a CPU


class RewardModel(nn.Module):
    """K member scores for every (prompt, answer): `forward(ids, mask) -> (B, K)` float32, aligned.

    Build one with `from_backbone`, or `load` one. `raw` gives the scores before alignment.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval()
        check_special(model.config.pad_token_id, model.config.eos_token_id)
        stored = getattr(model.config, "rmlab", None) or {}
        members = model.config.num_labels
        self.register_buffer(
            "centre", torch.tensor(stored.get("centre", [0.0] * members), dtype=torch.float32)
        )
        self.register_buffer("scale", torch.tensor(stored.get("scale", [1.0] * members), dtype=torch.float32))
        self.to(next(model.parameters()).device)

    @property
    def members(self) -> int:
        """K."""
        return self.model.config.num_labels

    @property
    def trunk(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Aligned member scores, ids and mask (B, T) -> (B, K) float32, in standard deviations of the reference set."""
        return (self.raw(ids, mask) - self.centre) / self.scale

    def raw(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores as the heads give them, (B, T) -> (B, K) float32, read at the last real token of the mask."""
        places = (mask.long().cumsum(-1) - 1).clamp_min(0)
        hidden = self.trunk(
            input_ids=ids, attention_mask=mask.long(), position_ids=places, use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        return self.head(hidden[rows, last_index(mask)])

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) -> raw scores (..., K), in float32 whatever the trunk runs in."""
        return hidden.float() @ self.model.score.weight.float().T

    @torch.no_grad()
    def score(
        self, prompt: np.ndarray, ids: np.ndarray, lengths: np.ndarray, chunk_tokens: int = CHUNK_TOKENS
    ) -> np.ndarray:
        """Raw scores of many answers to one prompt, on the prompt's cache.

        Parameters
        ----------
        prompt : (T,) int64 ids
        ids : (R, S) int, answers right-padded; lengths : (R,) real tokens, `<eos>` counted

        Returns
        -------
        (R, K) float32
        """
        lengths = np.asarray(lengths)
        need(
            bool((lengths > 0).all()), "lengths", int(lengths.min(initial=1)), "answers of at least one token"
        )
        place = self.centre.device
        prefix = open_prompts(
            self.model, torch.as_tensor(prompt, dtype=torch.long, device=place)[None], 1, ids.shape[1]
        )
        out = np.empty((len(ids), self.members), np.float32)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):  # length buckets: a chunk holds answers of nearly one length
            width = int(lengths[order[min(start + 64, len(order) - 1)]])
            rows = order[start : start + max(1, chunk_tokens // width)]
            width = int(lengths[rows].max())
            some = torch.from_numpy(ids[rows, :width].astype(np.int64)).to(place)
            hidden = prefix.last_hidden(some, torch.from_numpy(lengths[rows].astype(np.int64)).to(place))
            out[rows] = self.head(hidden).cpu().numpy()
            start += len(rows)
        return out

    def align(self, reference: np.ndarray) -> None:
        """Set every member's offset and scale from raw reference scores (R, K): aligned scores have mean 0, std 1 there."""
        reference = np.asarray(reference, np.float64)
        need(
            reference.ndim == 2 and reference.shape[1] == self.members,
            "reference",
            reference.shape,
            f"an array (R, {self.members})",
        )
        spread = reference.std(0)
        need(
            bool((spread > 0).all()),
            "reference",
            spread.tolist(),
            "answers on which every member's score varies",
        )
        self.centre = torch.tensor(reference.mean(0), dtype=torch.float32, device=self.centre.device)
        self.scale = torch.tensor(spread, dtype=torch.float32, device=self.centre.device)

    def save(self, folder: str | Path) -> None:
        """Write a plain Hugging Face folder (safetensors), alignment in its config."""
        self.model.config.rmlab = {"centre": self.centre.tolist(), "scale": self.scale.tolist()}
        self.model.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> RewardModel:
        """Read a folder written by `save`, or any sequence classification model with a linear `score` head."""
        from transformers import AutoModelForSequenceClassification

        return cls(AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype))


def from_backbone(backbone: nn.Module, members: int, seed: int) -> RewardModel:
    """K fresh heads on a copy of a language model's trunk.

    Head k is drawn from its own stream, with std 1/sqrt(D + 1) (Stiennon et al. 2020), so members differ
    from the start and head k does not depend on K.
    """
    from transformers import AutoModelForSequenceClassification

    need(members >= 1, "members", members, "at least 1")
    plain = {
        k: v for k, v in backbone.config.to_dict().items() if k not in {"id2label", "label2id", "num_labels"}
    }
    config = type(backbone.config).from_dict({**plain, "num_labels": members})
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
            noise = torch.Generator().manual_seed(stream_seed(seed, "head", k))
            model.score.weight[k] = torch.randn(config.hidden_size, generator=noise) / math.sqrt(
                config.hidden_size + 1
            )
    return RewardModel(model.to(next(backbone.parameters()).device))


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
