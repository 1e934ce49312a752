"""Settings refuse what cannot run; streams are named; an id follows everything but the name."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.recipe import (
    EnsembleSpec,
    Labels,
    PoolSize,
    Ppo,
    Replicates,
    Size,
    Training,
    digest,
    ensemble,
    require,
    stream,
    stream_seed,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Size(hidden=30), "size.hidden = 30: give a multiple of"),
        (Size(layers=0), "size.layers = 0"),
        (Labels(flips=0.5), "labels.flips = 0.5"),
        (Labels(temperature=-1.0), "labels.temperature = -1.0"),
        (Labels(pairs=31), "labels.pairs = 31"),
        (Training(epochs=0), "training.epochs = 0"),
        (Training(centre=-1.0), "training.centre = -1.0"),
        (Training(micro_batch=-1), "training.micro_batch = -1"),
        (Training(max_grad_norm=-1.0), "training.max_grad_norm = -1.0"),
        (Replicates(draws=0), "replicates.draws = 0"),
        (Replicates(backbones=0), "replicates.backbones = 0"),
        (PoolSize(prompts=1), "pool.prompts = 1"),
        (PoolSize(answers=7), "pool.answers = 7"),
        (Ppo(minibatches=65), "ppo.minibatches = 65: give at most ppo.batch = 64"),
        (Ppo(gae_lambda=1.1), "ppo.gae_lambda = 1.1"),
        (Ppo(target_kl=1.0, kl_coef=0.0), "ppo.kl_coef = 0.0"),
        (Ppo(value_trunk="both"), "ppo.value_trunk = 'both'"),
        (Ppo(precision="fp16"), "ppo.precision = 'fp16'"),
        (Ppo(cliprange=float("inf")), "ppo.cliprange = inf"),
    ],
)
def test_a_bad_value_is_named_with_its_mend(settings, message):
    with pytest.raises(ValueError) as error:
        settings.validate()
    assert message in str(error.value)


def test_streams_are_named_and_independent():
    one, again, other = (
        stream(0, "pool").random(4),
        stream(0, "pool").random(4),
        stream(0, "pairs").random(4),
    )
    assert (one == again).all() and not np.isclose(one, other).any()
    assert stream_seed(0, "pool") != stream_seed(1, "pool") and 0 <= stream_seed(0, "pool") < 2**63
    assert stream_seed(0, "a", 1) == stream_seed(0, "a", "1")


def test_options_are_sorted_and_hashable():
    spec = ensemble("x", "heads", mlp=4, k=2)
    assert (
        spec == EnsembleSpec("x", "heads", (("k", 2), ("mlp", 4)))
        and len({spec, ensemble("x", "heads", k=2, mlp=4)}) == 1
    )


def test_a_digest_is_of_the_value_and_not_of_the_order():
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": (3, 2)})


def test_require_says_field_value_and_mend():
    require(True, "x", 1, "anything")
    with pytest.raises(ValueError, match=r"^x = 1: give two$"):
        require(False, "x", 1, "two")
