"""rmlab: reward-model ensembles against reward overoptimisation. Names load when they are first used."""

from __future__ import annotations

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "recipe",
    "Training": "recipe",
    "Ppo": "recipe",
    "ensemble": "recipe",
    "PRESETS": "study.presets",
    "quick": "study.presets",
    "tiny": "study.presets",
    "TextSource": "study.text_source",
    "run": "study.run",
    "RewardModel": "reward.model",
    "RewardEnsemble": "reward.ensemble",
    "load": "workbench.judges",
    "fit": "workbench.judges",
    "Judges": "workbench.judges",
    "ppo": "workbench.tune",
    "from_backbone": "reward.model",
    "train": "reward.training",
    "PairIds": "reward.training",
    "METHODS": "reward.methods",
    "TrainingInputs": "reward.methods",
    "train_ensemble": "reward.methods",
    "aggregate": "reward.aggregate",
    "AGGREGATORS": "reward.aggregate",
    "align": "reward.aggregate",
    "best_of_n": "optimise.best_of_n",
    "kl_bound": "optimise.best_of_n",
    "ess": "optimise.best_of_n",
    "sample": "optimise.sampling",
    "Pool": "workbench.pool",
    "CompactPool": "optimise.compact",
    "reward_function": "optimise.reward",
    "Explorer": "show.explorer",
    "Preferences": "preferences",
    "Scores": "workbench.scores",
    "load_backbone": "backbone:load",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'rmlab' has no attribute {name!r}")
    import importlib

    home, _, real = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"rmlab.{home}"), real or name)


def __dir__():
    return sorted(__all__)
