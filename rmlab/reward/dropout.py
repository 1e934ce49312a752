"""MC dropout whose masks are fixed: each member is a thinned network, a function and not noise.

A mask removes whole units: inputs of every block's two output matrices (attention and MLP) and of the head, the
same for every token, answer and batch (Gal and Ghahramani 2016, Section 4: one mask for a whole sequence). So a
member is the base with some columns of its matrices at zero and the rest scaled by 1/(1 - rate).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rmlab.fast.prefix import Edits, read_pairs
from rmlab.recipe import Training, require, stream_seed
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import PairIds, descend, train
from rmlab.reward.variants import Variants

OUTPUTS = ("o_proj.weight", "down_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")


def dropout(
    backbone: nn.Module, pairs: PairIds, training: Training, seed: int, k: int = 5, rate: float = 0.1, tick=None, precision: str = "fp32",
) -> RewardModel | DropoutModel:  # fmt: skip
    """Train one model with dropout, a fresh mask each step, and give it K fixed masks.

    With k = 1 there is nothing to disagree with: it is the single reward model, trained without dropout.
    """
    require(0 <= rate < 1, "rate", rate, "a share from 0 up to 1")
    model = from_backbone(backbone, 1, seed)
    if k == 1 or rate == 0:
        train(model, pairs, training, seed, tick, precision)
        return model if k == 1 else DropoutModel(model, k, rate, seed)
    noise = torch.Generator().manual_seed(stream_seed(seed, "dropout", "training"))
    score, last = model.model.score.weight, {}

    def hidden(batch: PairIds) -> torch.Tensor:
        masks = draw_masks(model, rate, noise)
        last["head"] = masks.pop("score.weight")
        return read_pairs(model.model, batch.prompts, batch.chosen, batch.rejected, thinned(model, masks))

    def head(read: torch.Tensor) -> torch.Tensor:
        return read.float() @ (score * last["head"]).T

    groups = [{"params": list(model.model.parameters())}]
    descend(pairs, training, seed, groups, hidden, head, tick, precision, device=model.centre.device)
    return DropoutModel(model, k, rate, seed)


def draw_masks(model: RewardModel, rate: float, noise: torch.Generator) -> dict[str, torch.Tensor]:
    """One mask a matrix that writes to the residual stream, and one for the head: (in,) of 0 and 1/(1 - rate)."""
    sizes = {n: w.shape[1] for n, w in model.trunk.named_parameters() if n.endswith(OUTPUTS)}
    if not sizes:
        raise ValueError(
            f"model = {type(model.trunk).__name__}: none of its matrices is named {', '.join(OUTPUTS)}; name its outputs there"
        )
    sizes["score.weight"] = model.model.config.hidden_size
    kept = {n: (torch.rand(size, generator=noise) >= rate).float() / (1 - rate) for n, size in sizes.items()}
    return {n: m.to(model.centre.device) for n, m in kept.items()}


def thinned(model: RewardModel, masks: dict[str, torch.Tensor]) -> Edits:
    """The masked matrices by name, gradients flowing to the whole ones."""
    weights = dict(model.trunk.named_parameters())
    return {n: weights[n] * m for n, m in masks.items()}


class DropoutModel(Variants):
    """K thinned copies of one reward model; masks come from (seed, k), so any process draws the same ones."""

    def __init__(self, reward: RewardModel, k: int, rate: float, seed: int):
        super().__init__(reward.model, k)
        self.reward, self.rate, self.seed = [reward], rate, seed
        self.masks = [
            draw_masks(reward, rate, torch.Generator().manual_seed(stream_seed(seed, "dropout", i)))
            for i in range(k)
        ]

    @property
    def heads(self) -> torch.Tensor:
        return torch.cat([self.model.score.weight * m["score.weight"] for m in self.masks])

    def edits(self, k: int) -> Edits:
        return thinned(self.reward[0], {n: m for n, m in self.masks[k].items() if n != "score.weight"})

    def save(self, folder: str | Path) -> None:
        """The whole network as a plain Hugging Face folder; `config.json` says rate, seed and K, from which masks follow."""
        self.model.config.rmlab_dropout = {"k": self.members, "rate": self.rate, "seed": self.seed}
        self.model.config.rmlab_members = {"centre": self.centre.tolist(), "scale": self.scale.tolist()}
        self.model.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: str | Path) -> DropoutModel:
        """Read a folder written by `save`."""
        reward = RewardModel.load(folder)
        made = cls(reward, **reward.model.config.rmlab_dropout)
        stored = reward.model.config.rmlab_members
        made.centre, made.scale = torch.tensor(stored["centre"]), torch.tensor(stored["scale"])
        return made
