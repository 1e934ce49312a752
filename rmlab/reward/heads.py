"""K heads on one encoder: the switches, and what each one does to their diversity.

Trained jointly, the heads share an encoder that learns with them. Frozen, they are K logistic regressions
on the same features: with the same data and an L2 penalty the loss is strictly convex, so they all end at the
same vector and the ensemble is one model K times. What can keep them apart: anchoring each to its own
initialisation (Osband et al. 2018), a bootstrap sample each, stopping early, or a head with a hidden layer.

Letters: M pairs, D hidden, K heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from rmlab.fast.rows import read_pairs
from rmlab.recipe import Training, stream
from rmlab.reward.methods import TrainingInputs
from rmlab.reward.model import MlpHeads, RewardModel, from_backbone
from rmlab.reward.training import PairIds, fit, head_penalty
from rmlab.reward.training import train as train_model


def train(
    inputs: TrainingInputs,
    k: int = 5,
    frozen: bool = False,
    init: float = 1.0,
    penalty: str = "decay",
    strength: float = 0.0,
    bootstrap: bool = False,
    mlp: int = 0,
    epochs: int | None = None,
    rate: float = 1.0,
) -> RewardModel:
    """Train K heads on a copy of the home backbone's trunk.

    Parameters
    ----------
    frozen : leave the encoder as it is, and train the heads on its features, computed once
    init : scale of the initial heads, in units of 1/sqrt(D + 1)
    penalty, strength : "decay" (AdamW's, as for one model), "none", "l2" or "anchor": see
        `training.head_penalty`
    bootstrap : each head sees its own resample of the pairs, drawn with replacement from its own stream
    mlp : width of a hidden layer in each head, 0 for linear heads
    epochs, rate : other epochs than the recipe's, and a learning rate in units of the recipe's

    With k = 1 and the other switches left alone it is the single reward model, bit for bit.
    """
    pairs, training, seed = inputs.pairs, inputs.training_for(epochs, rate), inputs.seed_of()
    model = from_backbone(inputs.backbones[0], k, seed, init)
    if mlp:
        model.mlp = MlpHeads(k, model.linear.in_features, mlp, seed, init).to(model.centre.device)
        model.linear.weight.data.fill_(math.nan)
        model.linear.requires_grad_(False)
    weights = resamples(len(pairs), k, seed) if bootstrap else None
    heads = {"weights": weights, "penalty": penalty, "strength": strength}
    if frozen:
        fit_frozen(model, pairs, training, seed, **heads)
        model.untrained = sum(p.numel() for p in model.trunk.parameters())
    else:
        train_model(model, pairs, training, seed, precision=inputs.precision, **heads)
    return model


def relative_cost(
    adapter_fraction: Callable[[int, int], float], frozen: bool = False
) -> tuple[float, float, float]:
    """One model's cost; a third of the training where the encoder is only read."""
    return 1 / 3 if frozen else 1, 1, 1


def load(folder: str | Path) -> RewardModel:
    """Read the folder of a reward model."""
    return RewardModel.load(folder)


def resamples(pairs: int, k: int, seed: int) -> np.ndarray:
    """How often each head's bootstrap sample holds each pair, (M, K) float32; column k has its own stream."""
    share = np.full(pairs, 1 / pairs)
    counts = [stream(seed, "bootstrap", i).multinomial(pairs, share) for i in range(k)]
    return np.stack(counts, 1).astype(np.float32)


@torch.no_grad()
def pair_features(model: RewardModel, pairs: PairIds, batch: int = 32) -> torch.Tensor:
    """The trunk's hidden state at the last token, (M, 2, D) float32: chosen, then rejected."""
    parts = []
    for start in range(0, len(pairs), batch):
        few = pairs.take(range(start, min(start + batch, len(pairs))))
        states = read_pairs(model.reader, few.prompts, few.chosen, few.rejected)
        parts.append(torch.stack(states.float().chunk(2), 1))
    return torch.cat(parts)


def fit_frozen(
    model: RewardModel,
    pairs: PairIds,
    training: Training,
    seed: int,
    weights: np.ndarray | None = None,
    penalty: str = "decay",
    strength: float = 0.0,
    on_step: Callable[[int], None] | None = None,
    features: torch.Tensor | None = None,
) -> list[float]:
    """Train the heads alone, in place, on features computed once (or handed in, (M, 2, D)).

    The rest is as in `training.train`. Returns the loss of every step, nats summed over heads.
    """
    cached = Features(pair_features(model, pairs) if features is None else features, pairs.targets)
    own = list(model.head_parameters())
    groups = [{"params": own, "weight_decay": training.weight_decay if penalty == "decay" else 0.0}]
    extra = head_penalty(own, penalty, strength)
    return fit(
        cached, training, seed, groups, Features.hidden, model.head, on_step, weights=weights, extra=extra
    )


class Features:
    """Pairs as cached features (M, 2, D), targets (M,) or None: what `fit` needs, `hidden` in place of tokens."""

    def __init__(self, features: torch.Tensor, targets: torch.Tensor | None = None):
        self.features, self.targets = features, targets

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: Sequence[int]) -> Features:
        """The pairs at `index`."""
        index = torch.as_tensor(np.asarray(index))
        return Features(self.features[index], None if self.targets is None else self.targets[index])

    def batches(self, order: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Indices of full batches, in `order`: features have no length to sort by."""
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]

    def hidden(self) -> torch.Tensor:
        """(2M, D): chosen, then rejected."""
        return self.features.transpose(0, 1).flatten(0, 1)
