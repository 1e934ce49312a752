"""Unions: members of several methods side by side, single models that parts share trained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rmlab.reward.ensemble import RewardEnsemble, Union
from rmlab.reward.methods import TrainingInputs, parts_of, train_ensemble
from rmlab.reward.methods import relative_cost as cost_of
from rmlab.reward.single import train_member

PARTS = (("finetune", ()), ("pretrain", ()))


def train(inputs: TrainingInputs, parts: tuple = PARTS) -> RewardEnsemble:
    """The parts' single models, then their other ensembles; what is one member stays as it is.

    parts : ((method, options), ...), at least one
    """
    singles, others = parts_of("mixed", {"parts": parts})
    ensembles = [train_member(inputs, spec) for spec in singles]
    ensembles += [train_ensemble(method, inputs, **options) for method, options in others]
    return ensembles[0] if len(ensembles) == 1 else Union(ensembles)


def relative_cost(
    adapter_fraction: Callable[[int, int], float], parts: tuple = PARTS
) -> tuple[float, float, float]:
    """The sum of the parts' costs; single models that parts share count once."""
    singles, others = parts_of("mixed", {"parts": parts})
    costs = [(1, 1, 1)] * len(singles)
    costs += [cost_of(method, options, adapter_fraction) for method, options in others]
    return tuple(map(sum, zip(*costs, strict=True)))


def load(folder: str | Path) -> Union:
    """Read the folder of a union."""
    return Union.load(folder)
