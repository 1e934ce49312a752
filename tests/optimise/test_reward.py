"""The reward function that optimisers see: the ensemble's aligned scores, aggregated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.reward import member_scores, reward_function
from rmlab.recipe import Training
from rmlab.reward.aggregate import AGGREGATORS, aggregate, usual_strength
from rmlab.reward.methods import TrainingInputs, train_ensemble
from rmlab.reward.model import from_backbone
from rmlab.tokens import pad_right

METHODS = [
    ("heads", {"k": 3}),
    ("lora", {"k": 2, "lora_layers": 1}),
    ("dropout", {"k": 2}),
    ("finetune", {"k": 2}),
]


def aligned(ensemble, seed=0):
    """The same ensemble on a reference whose offsets and scales are not 0 and 1."""
    ensemble.align(np.random.default_rng(seed).normal(2.0, 3.0, (50, ensemble.members)))
    return ensemble


@pytest.mark.parametrize("family", ["tiny_lm", "tiny_neox", "tiny_qwen"])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_scores_are_those_of_the_plain_forward(request, world_pairs, family, method, options):
    backbone, training = request.getfixturevalue(family), Training(epochs=1, batch=16)
    ensemble = aligned(
        train_ensemble(method, TrainingInputs([backbone], world_pairs, training, 0), **options)
    )
    prompts, answers = world_pairs.prompts, world_pairs.chosen
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    ids, mask = (torch.from_numpy(x) for x in pad_right(rows))
    with torch.no_grad():
        plain = ensemble(ids, mask).numpy()
    np.testing.assert_allclose(member_scores(ensemble, prompts, answers), plain, atol=2e-5)
    got = reward_function(ensemble, "min")(prompts, answers)
    np.testing.assert_allclose(got, aggregate(plain, "min"), atol=2e-5)
    assert len({len(p) for p in prompts}) > 1


@pytest.fixture(scope="module")
def heads(tiny_lm):
    return aligned(from_backbone(tiny_lm, 3, seed=0))


PROMPTS, ANSWERS = [[5, 6], [7], [8, 9]], [[10, 2], [11, 12], [2]]


def test_several_ensembles_stand_side_by_side(tiny_lm, heads):
    other = aligned(from_backbone(tiny_lm, 2, seed=1), seed=1)
    scores = np.concatenate([member_scores(e, PROMPTS, ANSWERS) for e in (heads, other)], 1)
    for aggregator in AGGREGATORS:
        got = reward_function([heads, other], aggregator)(PROMPTS, ANSWERS)
        np.testing.assert_array_equal(got, aggregate(scores, aggregator, usual_strength(aggregator)))
    got = reward_function([heads, other], "mean_std", 0.3)(PROMPTS, ANSWERS)
    np.testing.assert_array_equal(got, aggregate(scores, "mean_std", 0.3))


def test_an_ensemble_that_was_never_aligned_has_a_mean_alone(tiny_lm, heads):
    raw = from_backbone(tiny_lm, 3, seed=0)
    assert reward_function(raw)(PROMPTS, ANSWERS).shape == (3,)
    for aggregator in set(AGGREGATORS) - {"mean"}:
        for ensembles in (raw, [heads, raw]):
            with pytest.raises(ValueError, match=rf"never aligned = '{aggregator}': give mean, or align"):
                reward_function(ensembles, aggregator)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2,), (3, 2)])
def test_scores_of_another_shape_are_refused(tiny_lm, monkeypatch, shape):
    ensemble = from_backbone(tiny_lm, 3, seed=0)
    monkeypatch.setattr(type(ensemble), "prompt_scorer", lambda *_: lambda *_: torch.ones(shape))
    with pytest.raises(ValueError, match=r"shape of the scores = .*: give \(2, 3\): a row an answer"):
        member_scores(ensemble, PROMPTS[:1] + PROMPTS[2:], ANSWERS[:1] + ANSWERS[2:])


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        (PROMPTS[:2], ANSWERS[:1], "answers = 1: give one for each of the 2 prompts"),
        ([], [], "answers = 0: give one for each of the 0 prompts"),
        (PROMPTS[:2], [[5], []], r"answers = 'no token in \[1\]': give at least one token"),
        ([[], [5]], ANSWERS[:2], r"prompts = 'no token in \[0\]': give at least one token"),
        (PROMPTS[:1], [[5, 167]], r"token ids of the answers = \[167\]: give ids .*0 to 166"),
        (PROMPTS[:1], [[5, -100]], r"token ids of the answers = \[-100\]"),
        ([[167, 5]], ANSWERS[:1], r"token ids of the prompts = \[167\]"),
    ],
)
def test_bad_input_is_named(heads, prompts, answers, message):
    with pytest.raises(ValueError, match=message):
        member_scores(heads, prompts, answers)


def test_bad_aggregators_are_named(heads):
    with pytest.raises(ValueError, match="aggregator = 'best': give one of mean"):
        reward_function(heads, "best")
    with pytest.raises(ValueError, match=r"= 2.0 is out of range"):
        reward_function(heads, "quantile", 2.0)
    with pytest.raises(ValueError, match="ensembles"):
        reward_function([])
