"""Weight averaging (WARM, Ramé et al. 2401.12187, Section 3.1): the mean of members' weights is one model.

It needs members that a straight line of good models joins: the same pretrained backbone and, in the paper, the same
head to start from, fitted on the frozen features first ("linear probing"). `average` takes members as they are;
`probed` trains them the paper's way.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from rmlab.recipe import Training, require
from rmlab.reward.heads import fit_frozen
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import PairIds, train, whose


@torch.no_grad()
def average(models: list[RewardModel]) -> RewardModel:
    """One model whose every weight is the mean of the members'.

    Raises
    ------
    ValueError
        No model, or models of different shapes.
    """
    require(len(models) > 0, "models", 0, "at least one")
    nonlinear = [i for i, m in enumerate(models) if m.mlp is not None]
    require(not nonlinear, "models", f"an MLP head in {nonlinear}", "members with linear heads")
    shapes = [{n: tuple(w.shape) for n, w in m.model.named_parameters()} for m in models]
    differ = sorted(
        {n for s in shapes[1:] for n in s.keys() | shapes[0].keys() if s.get(n) != shapes[0].get(n)}
    )
    require(not differ, "models", differ[:3], "members of one architecture: these weights differ in shape")
    made = copy.deepcopy(models[0].model)
    every = [dict(m.model.named_parameters()) for m in models]
    for name, weight in made.named_parameters():
        weight.copy_(torch.stack([w[name].double() for w in every]).mean(0))
    made.config.rmlab = None
    return RewardModel(made)


def probed(
    backbone: nn.Module, pairs: PairIds, training: Training, seeds: list[int], precision: str = "fp32"
) -> RewardModel:
    """WARM's own recipe: one head fitted on the frozen encoder, then a member per seed from it, then their mean."""
    start = from_backbone(backbone, 1, seeds[0])
    fit_frozen(start, pairs, training, seeds[0])
    members = []
    for i, seed in enumerate(seeds):
        member = RewardModel(copy.deepcopy(start.model))
        with whose(f"member {i}"):
            train(member, pairs, training, seed, precision=precision)
        members.append(member)
    return average(members)
