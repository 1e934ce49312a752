"""Single reward models: one head on one backbone. The method is one of them; most others start from some."""

from __future__ import annotations

from rmlab.recipe import require
from rmlab.reward.methods import HOME, MemberSpec, TrainingInputs
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import error_context
from rmlab.reward.training import train as train_model


def singles(epochs: int | None = None) -> list[MemberSpec]:
    """The one model, on the home backbone."""
    return [MemberSpec(epochs=epochs)]


def train_member(inputs: TrainingInputs, spec: MemberSpec = HOME) -> RewardModel:
    """The reward model (K = 1, not aligned) of one pretraining and one finetuning seed, trained once.

    Raises
    ------
    ValueError
        No such backbone, or a training that runs off; it begins with the member.
    """
    if spec in inputs.trained:
        return inputs.trained[spec]
    with error_context(f"backbone {spec.backbone}, finetuning seed {spec.finetune}"):
        known = len(inputs.backbones)
        require(spec.backbone < known, "backbone", spec.backbone, f"one of {known}, counted from 0")
        seed = inputs.seed_of(spec.backbone, spec.finetune)
        model = from_backbone(inputs.backbones[spec.backbone], 1, seed)
        train_model(model, inputs.pairs, inputs.training_for(spec.epochs), seed, precision=inputs.precision)
    return model
