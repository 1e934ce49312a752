"""Heads on one encoder: what keeps them apart, and what makes them one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.recipe import Training
from rmlab.reward.heads import fit_frozen, pair_features, resamples, train
from rmlab.reward.model import MlpHeads, from_backbone
from rmlab.reward.training import raw_score_pairs
from rmlab.reward.training import train as train_model

QUICK = Training(epochs=2, batch=16, lr=5e-3)
LONG = Training(epochs=600, batch=48, lr=2e-2)  # every step sees every pair


@pytest.fixture
def heads(tiny_lm, inputs_of):
    """A function (k, training, pairs, seed, options) -> heads on the tiny backbone."""

    def trained(k, training=QUICK, seed=0, pairs=None, **options):
        more = {} if pairs is None else {"pairs": pairs}
        return train(inputs_of(tiny_lm, training=training, seed=seed, **more), k, **options)

    return trained


@pytest.fixture
def start(tiny_lm, inputs_of):
    """A function (k, init) -> the model that those heads start from."""
    return lambda k, init=1.0: from_backbone(tiny_lm, k, inputs_of(tiny_lm).seed_of(), init)


def test_a_bootstrap_sample_has_as_many_pairs_and_does_not_depend_on_k():
    five = resamples(200, 5, seed=0)
    assert five.shape == (200, 5) and (five.sum(0) == 200).all() and (five == five.round()).all()
    assert np.allclose((five == 0).mean(0), np.exp(-1), atol=0.1)
    assert np.array_equal(resamples(200, 2, seed=0), five[:, :2])
    assert len({column.tobytes() for column in five.T}) == 5
    assert not np.array_equal(resamples(200, 2, seed=1), five[:, :2])


def test_a_head_learns_from_its_own_sample(tiny_lm, world_pairs):
    """A pair that a head's sample does not hold has no part in its training; in another's it has."""
    features = torch.randn(48, 2, 32, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[7] += 3
    weights = np.ones((48, 2), np.float32)
    weights[7, 0] = 0
    got = []
    for known in (features, changed):
        model = from_backbone(tiny_lm, 2, seed=0)
        fit_frozen(model, world_pairs, QUICK, 0, weights, features=known)
        got.append(model.model.score.weight.detach())
    assert torch.equal(got[0][0], got[1][0]) and not torch.equal(got[0][1], got[1][1])


@pytest.mark.parametrize("options", [{}, {"mlp": 4}, {"bootstrap": True}], ids=str)
def test_bootstrap_and_mlp_reach_the_heads(heads, world_pairs, options):
    plain, model = (heads(2, frozen=True, **o) for o in ({}, options))
    scores = [raw_score_pairs(m, world_pairs) for m in (plain, model)]
    assert np.isfinite(scores[1]).all() and np.array_equal(*scores) == (not options)


@pytest.mark.parametrize("init", [1.0, 4.0])
def test_frozen_heads_with_an_l2_penalty_are_one_head(heads, start, init):
    """From any start, of any scale: the loss is strictly convex."""
    model = heads(3, LONG, frozen=True, init=init, penalty="l2", strength=0.05)
    first = start(3, init).model.score.weight.detach()
    got = model.model.score.weight.detach()
    assert (first[1:] - first[0]).abs().max() > 0.3 and got.abs().max() > 0.2
    torch.testing.assert_close(got[1:], got[:1].expand(2, -1), atol=2e-3, rtol=0)
    other = heads(1, LONG, seed=1, frozen=True, penalty="l2", strength=0.05)
    torch.testing.assert_close(other.model.score.weight.detach()[0], got[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"penalty": "anchor", "strength": 0.05}, {"penalty": "l2", "strength": 0.05, "bootstrap": True}],
    ids=["anchor", "bootstrap"],
)
def test_anchors_and_resampling_keep_frozen_heads_apart(heads, options):
    got = heads(3, LONG, frozen=True, **options).model.score.weight.detach()
    assert all((got[i] - got[j]).abs().max() > 0.05 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_strong_penalty_pulls_heads_to_where_it_says(heads, start):
    first = start(2).model.score.weight.detach()
    for penalty, target in (("l2", 0 * first), ("anchor", first)):
        model = heads(2, LONG, frozen=True, penalty=penalty, strength=1e3)
        torch.testing.assert_close(model.model.score.weight.detach(), target, atol=0.01, rtol=0)


@pytest.mark.parametrize("mlp", [0, 4])
def test_a_frozen_encoder_stays_as_it_was(heads, start, tiny_lm, inputs_of, mlp):
    model = heads(2, frozen=True, mlp=mlp)
    assert model.untrained == sum(w.numel() for w in model.trunk.parameters())
    before = tiny_lm.model.state_dict()
    assert all(torch.equal(w, before[n]) for n, w in model.trunk.state_dict().items())
    fresh = MlpHeads(2, 32, mlp, inputs_of(tiny_lm).seed_of()) if mlp else start(2).model.score
    moved = [not torch.equal(a, b) for a, b in zip(model.head_parameters(), fresh.parameters(), strict=True)]
    assert all(moved)
    joint = heads(2, mlp=mlp)
    assert joint.untrained == 0
    assert not torch.equal(joint.trunk.state_dict()["norm.weight"], before["norm.weight"])


def test_training_leaves_the_backbone_it_started_from(heads, tiny_lm):
    before = copy.deepcopy(tiny_lm.state_dict())
    heads(2)
    assert all(torch.equal(w, before[n]) for n, w in tiny_lm.state_dict().items())


def test_features_are_what_the_head_reads(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 3, 0)
    with torch.no_grad():
        got = model.head(pair_features(model, world_pairs, batch=7)).numpy()
    np.testing.assert_allclose(got, raw_score_pairs(model, world_pairs), atol=1e-5)


def test_a_frozen_head_takes_the_steps_of_a_trained_one(heads, start, tiny_lm, inputs_of, world_pairs):
    """On cached features and through an encoder that may not move: the same order, the same heads."""
    pairs, frozen = world_pairs.take(range(16)), Training(epochs=6, batch=16, lr=5e-3)
    slow = start(2)
    slow.trunk.requires_grad_(False)
    train_model(slow, pairs, frozen, inputs_of(tiny_lm).seed_of())
    fast = heads(2, frozen, pairs=pairs, frozen=True)
    torch.testing.assert_close(fast.model.score.weight, slow.model.score.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": "lasso"}, "penalty = 'lasso': give decay, none, l2 or anchor"),
        ({"strength": 0.1}, r"strength = 0\.1: give 0 with penalty 'decay'"),
        ({"penalty": "anchor"}, r"strength = 0\.0: give a number above 0 with penalty 'anchor'"),
        ({"penalty": "l2", "strength": -1.0}, r"strength = -1\.0: give 0 or more"),
        ({"mlp": -2}, "mlp = -2: give a width of at least 1, or 0"),
        ({"k": 0}, "members = 0: give at least 1"),
    ],
)
def test_bad_switches_are_named(heads, options, words, frozen):
    with pytest.raises(ValueError, match=words):
        heads(**{"k": 5, "frozen": frozen, **options})


def test_epochs_and_the_rate_are_in_the_recipes_units(heads):
    one, other = heads(2, QUICK), heads(2, Training(epochs=1, batch=16, lr=1e-2), epochs=2, rate=0.5)
    assert torch.equal(one.model.score.weight, other.model.score.weight)
    assert not torch.equal(heads(2, epochs=1).model.score.weight, one.model.score.weight)
