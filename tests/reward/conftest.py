"""What the tests of reward models share: one prompt with many answers, inputs to train from, other backbones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.recipe import Training
from rmlab.reward.methods import TrainingInputs
from rmlab.tokens import pad_right


@pytest.fixture(scope="session")
def answers(world_pairs):
    """The first prompt with every chosen answer, as `score` takes them: prompt (T,), ids (R, S), lengths (R,)."""
    lengths = np.array([len(a) for a in world_pairs.chosen])
    return np.array(world_pairs.prompts[0]), pad_right(world_pairs.chosen)[0], lengths


@pytest.fixture(scope="session")
def rows(world_pairs):
    """The same as whole rows, ids and mask (R, T)."""
    ids, mask = pad_right([world_pairs.prompts[0] + a for a in world_pairs.chosen])
    return torch.from_numpy(ids), torch.from_numpy(mask)


@pytest.fixture(scope="session")
def inputs_of(world_pairs):
    """A function (backbone, training, pairs, seed) -> TrainingInputs; one epoch on all pairs unless said."""

    def inputs(*backbones, training=Training(epochs=1, batch=16, lr=5e-3), pairs=world_pairs, seed=0):  # noqa: B008
        return TrainingInputs(backbones, pairs, training, seed)

    return inputs


@pytest.fixture(scope="session")
def another():
    """A function (lm, seed, changes of its config) -> another random model of the family."""

    def model(lm, seed=1, **changes):
        config = copy.deepcopy(lm.config)
        for name, value in changes.items():
            setattr(config, name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            other = type(lm)(config).eval()
            for weight in other.parameters():
                weight.data += 0.1 * torch.randn_like(weight)
        return other

    return model
