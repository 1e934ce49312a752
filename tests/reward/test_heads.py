"""Heads on one encoder: what keeps them apart, what makes them one, and what a failed step leaves."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch

from rmlab.recipe import Training
from rmlab.reward.heads import MlpHeads, fit_frozen, heads, pair_features, resamples, with_epochs
from rmlab.reward.model import RewardModel, from_backbone, with_heads
from rmlab.reward.training import score_pairs, train
from rmlab.tokens import pad_right

QUICK = Training(epochs=2, batch=16, lr=5e-3)
LONG = Training(epochs=600, batch=48, lr=2e-2)  # every step sees every pair


def _batch(pairs):
    ids, mask = pad_right([p + a for p, a in zip(pairs.prompts, pairs.chosen, strict=True)])
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _weights(model):
    return {n: w.detach().clone() for n, w in model.named_parameters()}


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
def test_bootstrap_and_mlp_reach_the_heads(tiny_lm, world_pairs, options):
    plain, model = (heads(tiny_lm, world_pairs, QUICK, 0, 2, frozen=True, **o) for o in ({}, options))
    scores = [score_pairs(m, world_pairs) for m in (plain, model)]
    assert np.isfinite(scores[1]).all() and np.array_equal(*scores) == (not options)


@pytest.mark.parametrize("init", [1.0, 4.0])
def test_frozen_heads_with_an_l2_penalty_are_one_head(tiny_lm, world_pairs, init):
    """From any start, of any scale: the loss is strictly convex."""
    model = heads(tiny_lm, world_pairs, LONG, 0, 3, frozen=True, init=init, penalty="l2", strength=0.05)
    start = from_backbone(tiny_lm, 3, 0, init).model.score.weight.detach()
    got = model.model.score.weight.detach()
    assert (start[1:] - start[0]).abs().max() > 0.3 and got.abs().max() > 0.2
    torch.testing.assert_close(got[1:], got[:1].expand(2, -1), atol=2e-3, rtol=0)
    other = heads(tiny_lm, world_pairs, LONG, 1, 1, frozen=True, penalty="l2", strength=0.05)
    torch.testing.assert_close(other.model.score.weight.detach()[0], got[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"penalty": "anchor", "strength": 0.05}, {"penalty": "l2", "strength": 0.05, "bootstrap": True}],
    ids=["anchor", "bootstrap"],
)
def test_anchors_and_resampling_keep_frozen_heads_apart(tiny_lm, world_pairs, options):
    got = heads(tiny_lm, world_pairs, LONG, 0, 3, frozen=True, **options).model.score.weight.detach()
    assert all((got[i] - got[j]).abs().max() > 0.05 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_strong_penalty_pulls_heads_to_where_it_says(tiny_lm, world_pairs):
    start = from_backbone(tiny_lm, 2, 0).model.score.weight.detach()
    for penalty, target in (("l2", 0 * start), ("anchor", start)):
        model = heads(tiny_lm, world_pairs, LONG, 0, 2, frozen=True, penalty=penalty, strength=1e3)
        torch.testing.assert_close(model.model.score.weight.detach(), target, atol=0.01, rtol=0)


@pytest.mark.parametrize("mlp", [0, 4])
def test_a_frozen_encoder_stays_as_it_was(tiny_lm, world_pairs, mlp):
    model = heads(tiny_lm, world_pairs, QUICK, 0, 2, frozen=True, mlp=mlp)
    before = tiny_lm.model.state_dict()
    assert all(torch.equal(w, before[n]) for n, w in model.trunk.state_dict().items())
    fresh = MlpHeads(2, 32, mlp, 0) if mlp else from_backbone(tiny_lm, 2, 0).model.score
    moved = [not torch.equal(a, b) for a, b in zip(model.head_parameters(), fresh.parameters(), strict=True)]
    assert all(moved)
    joint = heads(tiny_lm, world_pairs, QUICK, 0, 2, mlp=mlp)
    assert not torch.equal(joint.trunk.state_dict()["norm.weight"], before["norm.weight"])


def test_training_leaves_the_backbone_it_started_from(tiny_lm, world_pairs):
    before = copy.deepcopy(tiny_lm.state_dict())
    heads(tiny_lm, world_pairs, QUICK, 0, 2)
    assert all(torch.equal(w, before[n]) for n, w in tiny_lm.state_dict().items())


def test_features_are_what_the_head_reads(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 3, 0)
    with torch.no_grad():
        got = model.head(pair_features(model, world_pairs, batch=7)).numpy()
    np.testing.assert_allclose(got, score_pairs(model, world_pairs), atol=1e-5)


def test_a_frozen_head_takes_the_steps_of_a_trained_one(tiny_lm, world_pairs):
    """On cached features and through an encoder that may not move: the same order, the same heads."""
    pairs, frozen = world_pairs.take(range(16)), Training(epochs=6, batch=16, lr=5e-3)
    slow = from_backbone(tiny_lm, 2, 0)
    slow.trunk.requires_grad_(False)
    train(slow, pairs, frozen, 0)
    fast = heads(tiny_lm, pairs, frozen, 0, 2, frozen=True)
    torch.testing.assert_close(fast.model.score.weight, slow.model.score.weight, atol=1e-5, rtol=1e-4)


def test_a_head_with_a_hidden_layer_does_not_depend_on_k_and_is_what_it_says():
    five, two = MlpHeads(5, 32, 4, seed=1), MlpHeads(2, 32, 4, seed=1)
    for name, weight in two.named_parameters():
        assert torch.equal(weight, five.get_parameter(name)[:2])
    assert len({w.numpy().tobytes() for w in five.first.detach()}) == 5
    hidden = torch.randn(3, 7, 32)
    got = five(hidden)
    assert got.shape == (3, 7, 5)
    for k in range(5):
        want = torch.tanh(hidden @ five.first[k].T + five.bias[k]) @ five.second[k]
        torch.testing.assert_close(got[..., k], want, atol=1e-5, rtol=1e-5)


def test_mlp_heads_are_saved_and_read_and_nobody_takes_their_linear_head(tiny_lm, world_pairs, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = heads(tiny_lm, world_pairs, QUICK, 0, 3, mlp=4)
    model.align(score_pairs(model, world_pairs).reshape(-1, 3))
    model.save(tmp_path)
    again, (ids, mask) = RewardModel.load(tmp_path), _batch(world_pairs)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids, mask), model(ids, mask)) and torch.isfinite(again(ids, mask)).all()
        assert plain(input_ids=ids, attention_mask=mask.long()).logits.isnan().all()
    assert MlpHeads.load(tmp_path / "nowhere") is None


def test_a_head_of_another_width_is_refused(tiny_lm, tmp_path):
    from safetensors.torch import load_file, save_file

    model = from_backbone(tiny_lm, 2, 0)
    model.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file(
        {**stored, "score.weight": torch.zeros(2, 48)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"score\.weight of .* = \(2, 48\): give a head of width 32"):
        RewardModel.load(tmp_path)
    with pytest.raises(ValueError, match=r"heads = \(3, 48\): give \(K, 32\)"):
        with_heads(model.model, torch.zeros(3, 48))


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
def test_bad_switches_are_named(tiny_lm, world_pairs, options, words, frozen):
    with pytest.raises(ValueError, match=words):
        heads(tiny_lm, world_pairs, QUICK, 0, frozen=frozen, **options)


def test_fewer_pairs_than_a_batch_and_an_unknown_precision_are_named(tiny_lm, world_pairs):
    with pytest.raises(ValueError, match="pairs = 5: give at least one batch of 16"):
        heads(tiny_lm, world_pairs.take(range(5)), QUICK, 0, 2)
    with pytest.raises(ValueError, match="precision = 'fp8': give fp32 or bf16"):
        heads(tiny_lm, world_pairs, QUICK, 0, 2, precision="fp8")


def test_epochs_and_the_rate_are_changed_where_they_are_given():
    assert with_epochs(QUICK, None) == QUICK
    changed = with_epochs(QUICK, 7, 0.5)
    assert (changed.epochs, changed.lr, changed.batch) == (7, 0.5, 16)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bad_pair_stops_training_at_the_last_good_step_and_is_told_of_its_member(
    tiny_lm, world_pairs, frozen
):
    weights = np.ones((48, 3), np.float32)
    weights[1, 1] = np.nan  # not in the first batch
    model, seen = from_backbone(tiny_lm, 3, 0), []

    def tick(_):
        seen.append(_weights(model))

    with pytest.raises(ValueError, match=r"loss = nan at step \d+ \(head 1\)") as error:
        if frozen:
            fit_frozen(model, world_pairs, QUICK, 1, weights, tick=tick)
        else:
            train(model, world_pairs, QUICK, 1, tick, weights=weights)
    assert int(re.search(r"at step (\d+)", str(error.value))[1]) == len(seen) > 0
    assert all(torch.equal(w, seen[-1][n]) for n, w in model.named_parameters())


@pytest.mark.parametrize("lr", [1e6, 1e10])
def test_a_rate_that_is_too_large_is_named_and_the_weights_stay_finite(tiny_lm, world_pairs, lr):
    """The gradient overflows first, or the loss."""
    model, seen = from_backbone(tiny_lm, 2, 0), []
    with pytest.raises(ValueError, match=rf"at step 1 \(.*\): lower training\.lr = {re.escape(str(lr))}"):
        train(
            model, world_pairs, Training(epochs=3, batch=16, lr=lr), 0, lambda _: seen.append(_weights(model))
        )
    assert len(seen) == 1
    assert all(torch.isfinite(w).all() and torch.equal(w, seen[0][n]) for n, w in model.named_parameters())


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_rate_that_is_none_is_refused_before_a_step(tiny_lm, world_pairs, lr):
    model = from_backbone(tiny_lm, 1, 0)
    before = _weights(model)
    with pytest.raises(ValueError, match=rf"training\.lr = {lr}: give"):
        train(model, world_pairs, Training(epochs=3, batch=16, lr=lr), 0)
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters())
