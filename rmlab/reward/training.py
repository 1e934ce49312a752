"""Reward-model training: Bradley-Terry, summed over heads.

The sum matters: a mean over K heads would hand every head 1/K of its gradient, and K would change weight
decay, clipping and Adam's epsilon. With the sum, K = 1 is the single reward model bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from rmlab.backbone import schedule
from rmlab.recipe import Training, need, stream
from rmlab.reward.model import RewardModel
from rmlab.tokens import pad_right


@dataclass(frozen=True)
class PairIds:
    """M pairs as token ids, each answer ending in `<eos>`."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, index) -> tuple[torch.Tensor, torch.Tensor]:
        """ids, mask (2B, T): the chosen rows first, then the rejected."""
        rows = [self.prompts[i] + self.chosen[i] for i in index] + [
            self.prompts[i] + self.rejected[i] for i in index
        ]
        ids, mask = pad_right(rows)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def loss(margin: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry: `-log sigma(r+ - r-)`, margins (B, K) -> scalar nats, mean over pairs, **sum** over heads."""
    return -F.logsigmoid(margin).mean(0).sum()


def train(model: RewardModel, pairs: PairIds, recipe: Training, seed: int, tick=None) -> list[float]:
    """Train heads and trunk in place; the order of the pairs comes from `seed`.

    Returns the loss of every step (summed over heads). Raises a `ValueError` when it is not finite.
    """
    need(len(pairs) >= recipe.batch, "pairs", len(pairs), f"at least one batch of {recipe.batch}")
    model.model.train()
    steps = recipe.epochs * (len(pairs) // recipe.batch)
    optimiser = torch.optim.AdamW(
        model.model.parameters(),
        lr=recipe.lr,
        betas=(0.9, 0.95),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    plan = schedule(optimiser, steps)
    place = model.centre.device
    order_stream = stream(seed, "order")
    losses = []
    for _ in range(recipe.epochs):
        order = order_stream.permutation(len(pairs))
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            ids, mask = (x.to(place) for x in pairs.batch(order[start : start + recipe.batch]))
            chosen, rejected = model.raw(ids, mask).chunk(2)
            total = loss(chosen - rejected)
            if recipe.centre:
                total = total + recipe.centre * (chosen + rejected).square().mean(0).sum()
            if not torch.isfinite(total):
                raise ValueError(
                    f"loss = {total.item()} at step {len(losses)}: lower training.lr = {recipe.lr}"
                )
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            optimiser.step()
            plan.step()
            losses.append(total.item())
            if tick:
                tick(len(losses))
    model.eval()
    return losses


@torch.no_grad()
def score_pairs(model: RewardModel, pairs: PairIds, batch: int = 64) -> np.ndarray:
    """Raw scores of pairs, (M, 2, K) float32: chosen, then rejected."""
    parts = []
    for start in range(0, len(pairs), batch):
        ids, mask = pairs.batch(range(start, min(start + batch, len(pairs))))
        scores = model.raw(ids.to(model.centre.device), mask.to(model.centre.device)).cpu().numpy()
        parts.append(np.stack(np.split(scores, 2), 1))
    return np.concatenate(parts)
