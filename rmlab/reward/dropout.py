"""MC dropout whose masks are fixed: each member is a thinned network, a function and not noise.

A mask removes whole units: inputs of every block's two output matrices (attention and MLP) and of the head,
the same for every token, answer and batch (Gal and Ghahramani 2016, Section 4: one mask for a whole
sequence). So a member is the base with columns of its matrices at zero and the rest scaled by 1/(1 - rate).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rmlab.fast.plain import Edits
from rmlab.fast.rows import read_pairs
from rmlab.recipe import require, stream_seed
from rmlab.reward.classifier import load_classifier, require_linear_head
from rmlab.reward.folder import CARD, read_card
from rmlab.reward.methods import TrainingInputs
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import PairIds, fit
from rmlab.reward.training import train as train_model
from rmlab.reward.variants import Variants

OUTPUTS = ("o_proj.weight", "down_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")
HEAD = "score.weight"


def train(inputs: TrainingInputs, k: int = 5, rate: float = 0.1) -> RewardModel | DropoutModel:
    """Train one model with dropout, a fresh mask each step (each micro batch), and give it K fixed masks.

    rate : share of the units that a mask removes, from 0 up to 1

    With k = 1 there is nothing to disagree with: it is the single reward model, trained without dropout.
    """
    require(0 <= rate < 1, "rate", rate, "a share from 0 up to 1")
    pairs, training, seed = inputs.pairs, inputs.training, inputs.seed_of()
    model = from_backbone(inputs.backbones[0], 1, seed)
    if k == 1 or rate == 0:
        train_model(model, pairs, training, seed, precision=inputs.precision)
        return model if k == 1 else DropoutModel(model, k, rate, seed)
    require_linear_head(model.model)
    noise = torch.Generator().manual_seed(stream_seed(seed, "dropout", "training"))
    score, last = model.model.score.weight, {}

    def hidden(batch: PairIds) -> torch.Tensor:
        masks = draw_masks(model, rate, noise)
        last[HEAD] = masks.pop(HEAD)
        return read_pairs(model.model, batch.prompts, batch.chosen, batch.rejected, thinned(model, masks))

    def head(states: torch.Tensor) -> torch.Tensor:
        return states.float() @ (score * last[HEAD]).T

    groups = [{"params": list(model.model.parameters())}]
    fit(pairs, training, seed, groups, hidden, head, precision=inputs.precision, trunk=model.model)
    return DropoutModel(model, k, rate, seed)


def relative_cost(adapter_fraction: Callable[[int, int], float], k: int = 5) -> tuple[float, float, float]:
    """One training, K passes to score, one model to hold."""
    return 1, k, 1


def load(folder: str | Path) -> DropoutModel:
    """Read the folder of a dropout model."""
    return DropoutModel.load(folder)


def draw_masks(model: RewardModel, rate: float, noise: torch.Generator) -> dict[str, torch.Tensor]:
    """A mask (in,) of 0 and 1/(1 - rate) for each matrix that writes to the residual stream, and the head."""
    sizes = {n: w.shape[1] for n, w in model.trunk.named_parameters() if n.endswith(OUTPUTS)}
    mend = f"a family whose blocks' output matrices are named {', '.join(OUTPUTS)}"
    require(len(sizes) > 0, "model", type(model.trunk).__name__, mend)
    sizes[HEAD] = model.model.score.in_features
    masks = {}
    for name, size in sizes.items():
        kept = torch.rand(size, generator=noise) >= rate
        masks[name] = (kept.float() / (1 - rate)).to(model.centre.device)
    return masks


def thinned(model: RewardModel | DropoutModel, masks: dict[str, torch.Tensor]) -> Edits:
    """The masked matrices by name, gradients flowing to the whole ones."""
    weights = dict(model.trunk.named_parameters())
    return {n: weights[n] * m.to(weights[n].dtype) for n, m in masks.items()}


class DropoutModel(Variants):
    """K thinned copies of one reward model; any process draws the same masks from (seed, number).

    Parameters
    ----------
    reward : the whole network, K = 1
    members : K, or the numbers of its K masks
    rate, seed : of the masks
    """

    format = "dropout"

    def __init__(self, reward: RewardModel, members: int | Sequence[int], rate: float, seed: int):
        numbers = range(members) if isinstance(members, int) else members
        super().__init__(reward.model, len(numbers))
        self.numbers, self.rate, self.seed = list(numbers), rate, seed
        masks = [
            draw_masks(reward, rate, torch.Generator().manual_seed(stream_seed(seed, "dropout", i)))
            for i in self.numbers
        ]
        self.names = list(masks[0])
        for name in self.names:  # (K, in) each; a buffer's name holds no dot
            self.register_buffer(name.replace(".", "/"), torch.stack([m[name] for m in masks]))

    @property
    def masks(self) -> list[dict[str, torch.Tensor]]:
        """The members' masks by matrix, (in,) of 0 and 1/(1 - rate)."""
        return [{n: self.get_buffer(n.replace(".", "/"))[k] for n in self.names} for k in range(self.members)]

    @property
    def heads(self) -> torch.Tensor:
        """The members' thinned heads, (K, D)."""
        return self.model.score.weight * self.get_buffer(HEAD.replace(".", "/"))

    def edits(self, k: int) -> Edits:
        """Member k's thinned matrices, by name."""
        return thinned(self, {n: m for n, m in self.masks[k].items() if n != HEAD})

    def _subset(self, members: list[int]) -> DropoutModel:
        return DropoutModel(RewardModel(self.model), [self.numbers[m] for m in members], self.rate, self.seed)

    def _write_weights(self, folder: Path) -> dict:
        self.model.save_pretrained(str(folder))
        return {"masks": self.numbers, "rate": self.rate, "seed": self.seed}

    @classmethod
    def load(cls, folder: str | Path) -> DropoutModel:
        """Read a folder that `save` wrote: the whole network, and masks drawn again as its card says.

        Raises a `ValueError` where weights are not whole, or the card says no masks.
        """
        card, path = read_card(folder) or {}, Path(folder) / CARD
        numbers, rate, seed = (card.get(name) for name in ("masks", "rate", "seed"))
        listed = isinstance(numbers, list) and all(type(x) is int and x >= 0 for x in [*numbers, seed])
        require(listed, f"masks and seed of {path}", (numbers, seed), "whole numbers of 0 and more")
        share = isinstance(rate, float | int) and 0 <= rate < 1
        require(share, f"rate of {path}", rate, "a share from 0 up to 1")
        thin = cls(RewardModel(load_classifier(folder)), numbers, rate, seed)
        thin.restore_alignment(folder)
        return thin
