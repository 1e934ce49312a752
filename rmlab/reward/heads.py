"""K heads on one encoder: the switches, and what each one does to their diversity.

Trained jointly, the heads share an encoder that learns with them. Frozen, they are K logistic regressions
on the same features: with the same data and an L2 penalty the loss is strictly convex, so they all end at the
same vector and the ensemble is one model K times. What can keep them apart: anchoring each to its own
initialisation (Osband et al. 2018), a bootstrap sample each, stopping early, or a head with a hidden layer.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmlab.fast.prefix import read_pairs
from rmlab.recipe import Training, require, stream, stream_seed
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import PairIds, descend, head_penalty, train


def heads(
    backbone: nn.Module, pairs: PairIds, training: Training, seed: int, k: int = 5, frozen: bool = False, init: float = 1.0,
    penalty: str = "decay", strength: float = 0.0, bootstrap: bool = False, mlp: int = 0, tick=None, precision: str = "fp32",
) -> RewardModel:  # fmt: skip
    """Train K heads on a copy of a backbone's trunk.

    Parameters
    ----------
    frozen : leave the encoder as it is, and train the heads on its features, computed once
    init : scale of the initial heads, in units of 1/sqrt(D + 1)
    penalty, strength : "decay" (AdamW's, as for one model), "none", "l2" or "anchor": see `training.head_penalty`
    bootstrap : each head sees its own resample of the pairs, drawn with replacement from its own stream
    mlp : width of a hidden layer in each head, 0 for linear heads

    With k = 1 and the other switches left alone it is the single reward model, bit for bit.
    """
    model = from_backbone(backbone, k, seed, init)
    if mlp:
        model.mlp = MlpHeads(k, model.model.config.hidden_size, mlp, seed, init).to(model.centre.device)
        model.model.score.weight.data.fill_(math.nan)
        model.model.score.weight.requires_grad_(False)
    weights = resamples(len(pairs), k, seed) if bootstrap else None
    if frozen:
        fit_frozen(model, pairs, training, seed, weights, penalty, strength, tick)
        model.untrained = sum(p.numel() for p in model.trunk.parameters())
    else:
        train(model, pairs, training, seed, tick, precision, weights, penalty, strength)
    return model


def resamples(pairs: int, k: int, seed: int) -> np.ndarray:
    """How often each head's bootstrap sample holds each pair, (M, K); column k has its own stream."""
    draws = [stream(seed, "bootstrap", i).multinomial(pairs, np.full(pairs, 1 / pairs)) for i in range(k)]
    return np.stack(draws, 1).astype(np.float32)


@torch.no_grad()
def pair_features(model: RewardModel, pairs: PairIds, batch: int = 32) -> torch.Tensor:
    """The trunk's hidden state at the last token, (M, 2, D) float32: chosen, then rejected."""
    parts = []
    for start in range(0, len(pairs), batch):
        some = pairs.take(range(start, min(start + batch, len(pairs))))
        read = read_pairs(model.model, some.prompts, some.chosen, some.rejected)
        parts.append(torch.stack(read.float().chunk(2), 1))
    return torch.cat(parts)


def fit_frozen(
    model: RewardModel, pairs: PairIds, training: Training, seed: int, weights: np.ndarray | None = None, penalty: str = "decay",
    strength: float = 0.0, tick=None, features: torch.Tensor | None = None,
) -> list[float]:  # fmt: skip
    """Train the heads alone, on features computed once (or given, (M, 2, D)); returns the loss of every step."""
    known = pair_features(model, pairs) if features is None else features
    own = list(model.head_parameters())
    decay = training.weight_decay if penalty == "decay" else 0.0
    places = Features(known)
    return descend(
        places, training, seed, [{"params": own, "weight_decay": decay}], lambda some: some.hidden(), model.head, tick,
        "fp32", weights, head_penalty(own, penalty, strength), model.centre.device,
    )  # fmt: skip


class Features:
    """Pairs as cached features (M, 2, D): what `descend` asks of pairs, with `hidden` in place of tokens."""

    def __init__(self, features: torch.Tensor):
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index) -> Features:
        return Features(self.features[torch.as_tensor(np.asarray(index))])

    def batches(self, order, size, rng):
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]

    def hidden(self) -> torch.Tensor:
        return self.features.transpose(0, 1).flatten(0, 1)


class MlpHeads(nn.Module):
    """K networks D -> width -> 1 (tanh) side by side, hidden (..., D) -> scores (..., K); head k from its own stream."""

    def __init__(self, k: int, width_in: int, width: int, seed: int = 0, init: float = 1.0):
        super().__init__()
        require(width >= 1, "mlp", width, "a width of at least 1, or 0 for linear heads")
        first, second = [], []
        for i in range(k):
            noise = torch.Generator().manual_seed(stream_seed(seed, "mlp head", i))
            first.append(torch.randn(width, width_in, generator=noise) / math.sqrt(width_in))
            second.append(init * torch.randn(width, generator=noise) / math.sqrt(width + 1))
        self.first = nn.Parameter(torch.stack(first))  # (K, width, D)
        self.bias = nn.Parameter(torch.zeros(k, width))
        self.second = nn.Parameter(torch.stack(second))  # (K, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        k, width, _ = self.first.shape
        inner = torch.tanh(hidden @ self.first.flatten(0, 1).T + self.bias.flatten())
        return (inner.unflatten(-1, (k, width)) * self.second).sum(-1)

    def save(self, folder: str | Path) -> None:
        from safetensors.torch import save_file

        save_file({n: p.detach().contiguous() for n, p in self.named_parameters()}, Path(folder) / "mlp_heads.safetensors")  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> MlpHeads | None:
        """The heads of a folder, None where it has linear ones."""
        from safetensors.torch import load_file

        path = Path(folder) / "mlp_heads.safetensors"
        if not path.is_file():
            return None
        stored = load_file(path)
        heads = cls(*stored["first"].shape[:1], stored["first"].shape[2], stored["first"].shape[1])
        heads.load_state_dict(stored)
        return heads


def with_epochs(training: Training, epochs: int | None, lr: float | None = None) -> Training:
    """The recipe's training with other epochs or another learning rate, where they are given."""
    changed = {n: v for n, v in {"epochs": epochs, "lr": lr}.items() if v is not None}
    return dataclasses.replace(training, **changed)
