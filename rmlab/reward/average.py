"""Weight averaging (WARM, Ramé et al. 2401.12187, Section 3.1): the mean of members' weights is one model.

It needs members that a straight line of good models joins: the same pretrained backbone and, in the paper,
the same head to start from, fitted on the frozen features first ("linear probing"). Without `probed`, members
are the finetuning seeds as they are, each with a head of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from rmlab.recipe import require
from rmlab.reward.heads import fit_frozen
from rmlab.reward.methods import MemberSpec, TrainingInputs
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.single import train_member
from rmlab.reward.training import error_context
from rmlab.reward.training import train as train_model


def train(inputs: TrainingInputs, k: int = 5, probed: bool = False) -> RewardModel:
    """One model, the mean of K finetuning seeds on the home backbone.

    probed : WARM's own recipe: one head fitted on the frozen encoder, and every member trained from it
    """
    if not probed:
        return average([train_member(inputs, spec) for spec in singles(k)])
    seeds = [inputs.seed_of(0, finetune) for finetune in range(k)]
    start = from_backbone(inputs.backbones[0], 1, seeds[0])
    fit_frozen(start, inputs.pairs, inputs.training, seeds[0])
    members = []
    for i, seed in enumerate(seeds):
        member = RewardModel(copy.deepcopy(start.model))
        with error_context(f"member {i}"):
            train_model(member, inputs.pairs, inputs.training, seed, precision=inputs.precision)
        members.append(member)
    return average(members)


def singles(k: int = 5, probed: bool = False) -> list[MemberSpec]:
    """The finetuning seeds that are averaged; none where members start from a probed head."""
    return [] if probed else [MemberSpec(0, seed) for seed in range(k)]


def members() -> int:
    """One, whatever it is the mean of."""
    return 1


def relative_cost(adapter_fraction: Callable[[int, int], float], k: int = 5) -> tuple[float, float, float]:
    """K trainings, one model to score with and to hold."""
    return k, 1, 1


@torch.no_grad()
def average(models: list[RewardModel]) -> RewardModel:
    """One model whose every weight is the mean of the members'; it is not aligned.

    Raises
    ------
    ValueError
        No model, or models of different shapes.
    """
    require(len(models) > 0, "models", 0, "at least one")
    nonlinear = [i for i, m in enumerate(models) if m.mlp is not None]
    require(not nonlinear, "models", f"an MLP head in {nonlinear}", "members with linear heads")
    shapes = [{n: tuple(w.shape) for n, w in m.model.named_parameters()} for m in models]
    differ = {n for s in shapes[1:] for n in s.keys() | shapes[0].keys() if s.get(n) != shapes[0].get(n)}
    mend = "members of one architecture: these weights differ in shape"
    require(not differ, "models", sorted(differ)[:3], mend)
    mean = copy.deepcopy(models[0].model)
    weights = [dict(m.model.named_parameters()) for m in models]
    for name, weight in mean.named_parameters():
        weight.copy_(torch.stack([w[name].double() for w in weights]).mean(0))
    return RewardModel(mean)
