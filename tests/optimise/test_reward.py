"""The reward function that optimisers see: the scorer's aligned scores, aggregated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.reward import member_scores, reward_function
from rmlab.recipe import Training
from rmlab.reward.aggregate import aggregate
from rmlab.reward.methods import Ingredients, build
from rmlab.tokens import pad_right

KINDS = [
    ("heads", {"k": 3}),
    ("lora", {"k": 2, "lora_layers": 1}),
    ("dropout", {"k": 2}),
    ("finetune", {"k": 2}),
]


@pytest.mark.parametrize("family", ["tiny_lm", "tiny_neox", "tiny_qwen"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_scores_are_those_of_the_plain_forward(request, world_pairs, family, kind, options):
    data = Ingredients([request.getfixturevalue(family)], world_pairs, Training(epochs=1, batch=16), 0)
    scorer = build(kind, data, **options)
    scorer.align(np.random.default_rng(0).normal(2.0, 3.0, (50, scorer.members)))
    prompts, answers = world_pairs.prompts, world_pairs.chosen
    ids, mask = (
        torch.from_numpy(x) for x in pad_right([p + a for p, a in zip(prompts, answers, strict=True)])
    )
    with torch.no_grad():
        plain = scorer(ids, mask).numpy()
    found = member_scores(scorer, prompts, answers)
    np.testing.assert_allclose(found, plain, atol=2e-5)
    np.testing.assert_allclose(
        reward_function(scorer, "min")(prompts, answers), aggregate(plain, "min"), atol=2e-5
    )
    assert len({len(p) for p in prompts}) > 1


def test_bad_input_is_named(tiny_lm, world_pairs):
    scorer = build("heads", Ingredients([tiny_lm], world_pairs, Training(epochs=1, batch=16), 0), k=1)
    with pytest.raises(ValueError, match="answers = 1: give one for each of the 2"):
        member_scores(scorer, world_pairs.prompts[:2], world_pairs.chosen[:1])
    with pytest.raises(ValueError, match="at least one token"):
        member_scores(scorer, world_pairs.prompts[:1], [[]])
    with pytest.raises(ValueError, match="aggregator = 'best'"):
        reward_function(scorer, "best")
