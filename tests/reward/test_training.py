"""Pairs on disk, the loss, and the loop: that one head is the single model, and what a failed step leaves."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rmlab.backbone import schedule
from rmlab.recipe import Training, stream, stream_seed
from rmlab.reward.heads import fit_frozen
from rmlab.reward.model import from_backbone
from rmlab.reward.training import (
    PairIds,
    backward,
    bt_loss,
    error_context,
    head_penalty,
    raw_score_pairs,
    score_pairs,
    train,
)

QUICK = Training(epochs=2, batch=16, lr=5e-3)


def _weights(model):
    return {n: w.detach().clone() for n, w in model.named_parameters()}


def test_pairs_come_back_from_disk_with_every_id(tmp_path):
    """0 is a token like any other, and so is an id above 255 and above 65,535."""
    pairs = PairIds([[0, 5, 0], [7]], [[9, 0], [300, 70_000, 2]], [[0], [1, 2]])
    pairs.save(tmp_path)
    again = PairIds.load(tmp_path)
    assert (again.prompts, again.chosen, again.rejected) == (pairs.prompts, pairs.chosen, pairs.rejected)
    assert len(again) == 2
    with np.load(tmp_path / "pairs.npz") as data:
        names = {"prompts", "chosen", "rejected"}
        assert set(data) == names | {f"{n}_lengths" for n in names}
        assert {data[n].dtype for n in data} == {np.dtype(np.int32)}
    first = (tmp_path / "pairs.npz").read_bytes()
    again.save(tmp_path)
    assert (tmp_path / "pairs.npz").read_bytes() == first


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", "old", "long"], ids=str)
def test_a_file_that_holds_no_pairs_is_named(content, tmp_path):
    path = tmp_path / "pairs.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "old":
        np.savez(path, prompts=np.ones((2, 3)), chosen=np.ones((2, 3)), rejected=np.ones((2, 3)))
    elif content == "long":
        PairIds([[5]], [[6]], [[7]]).save(tmp_path)
        with np.load(path) as data:
            arrays = dict(data)
        np.savez(path, **{**arrays, "chosen_lengths": np.array([2], np.int32)})
    with pytest.raises(ValueError, match=r"pairs\.npz"):
        PairIds.load(tmp_path)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (
            ([[5]], [[6]], []),
            r"pairs = .*'rejected': 0.*: give a prompt, a chosen and a rejected answer each",
        ),
        (([[5], [5]], [[6], []], [[7], [7]]), r"chosen = 'no token in \[1\]': give at least one token each"),
        (([[5]], [[6]], [[]]), r"rejected = 'no token in \[0\]'"),
    ],
)
def test_pairs_without_an_answer_are_refused(sides, words):
    with pytest.raises(ValueError, match=words):
        PairIds(*sides)


KNOWN = {
    "ids": ["a", "b", "c"],
    "groups": ["x", "x", "y"],
    "soft": [1.0, 0.5, 0.25],
    "kept": [0, 2, 7],
    "cut": [False, True, False],
}


def test_what_is_known_of_pairs_goes_with_them(tmp_path):
    pairs = PairIds([[5]] * 3, [[6]] * 3, [[7]] * 3, **KNOWN, dropped={"tie": [1]}, votes=True)
    few = pairs.take([2, 0])
    assert {n: getattr(few, n) for n in KNOWN} == {n: [v[2], v[0]] for n, v in KNOWN.items()}
    assert few.votes and few.targets.tolist() == [0.25, 1] and few.targets.dtype == torch.float32
    pairs.save(tmp_path)
    again = PairIds.load(tmp_path)
    assert {n: getattr(again, n) for n in KNOWN} == KNOWN
    assert not again.votes and again.targets is None


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"ids": ["a"]}, "length of ids = 1: give one a pair, 2"),
        ({"soft": [0.5, 1.5]}, r"soft = \[1.5\]: give shares"),
        ({"soft": [0.5, float("nan")]}, r"soft = \[nan\]: give shares"),
        ({"votes": True}, "votes = True: give pairs with a soft label"),
    ],
)
def test_what_does_not_fit_the_pairs_is_refused(known, words):
    with pytest.raises(ValueError, match=words):
        PairIds([[5], [5]], [[6], [6]], [[7], [7]], **known)


def test_the_loss_on_votes_is_their_cross_entropy():
    margin = torch.tensor([[2.0, -1.0], [0.0, 3.0], [-60.0, 60.0]], dtype=torch.float64)
    p = torch.tensor([0.8, 0.5, 0.0], dtype=torch.float64)
    each = -p[:, None] * F.logsigmoid(margin) - (1 - p[:, None]) * F.logsigmoid(-margin)
    torch.testing.assert_close(bt_loss(margin, targets=p), each.mean(0))
    weights = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(bt_loss(margin, weights, p), (each * weights).mean(0))
    assert torch.equal(bt_loss(margin, targets=torch.ones(3)), bt_loss(margin))


@pytest.mark.parametrize("frozen", [False, True])
def test_votes_decide_what_is_learnt_where_they_are_to(world_pairs, tiny_lm, frozen):
    """All votes for the chosen answers train as before, bit for bit; none for them, the other way round."""
    start = from_backbone(tiny_lm, 2, 0)
    weights, margins = [], [np.diff(raw_score_pairs(start, world_pairs), axis=1).mean()]
    for share, votes in ((None, False), (0.0, False), (1.0, True), (0.0, True)):
        soft = None if share is None else [share] * len(world_pairs)
        pairs, model = dataclasses.replace(world_pairs, soft=soft, votes=votes), from_backbone(tiny_lm, 2, 0)
        fit_frozen(model, pairs, QUICK, 0) if frozen else train(model, pairs, QUICK, 0)
        weights.append(_weights(model))
        margins.append(np.diff(raw_score_pairs(model, world_pairs), axis=1).mean())  # rejected less chosen
    for other in weights[1:3]:
        assert all(torch.equal(w, other[n]) for n, w in weights[0].items())
    assert margins[1] == margins[2] == margins[3] < margins[0] < margins[4]


def test_batches_hold_every_pair_once_and_rows_of_like_length(world_pairs):
    rng = np.random.default_rng(0)
    batches = list(world_pairs.batches(rng.permutation(48), 16, rng))
    assert sorted(np.concatenate(batches)) == list(range(48))
    ids, mask = world_pairs.batch([3, 5])
    want = [
        world_pairs.prompts[i] + side[i]
        for side in (world_pairs.chosen, world_pairs.rejected)
        for i in (3, 5)
    ]
    assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == want


def test_one_head_is_the_single_reward_model(tiny_lm, world_pairs):
    """The package's K = 1 against a loop written out with Hugging Face's own single-label classifier."""
    from transformers import AutoModelForSequenceClassification

    recipe, seed = Training(epochs=2, batch=16), 7
    ours, steps = from_backbone(tiny_lm, 1, seed), []
    losses = train(ours, world_pairs, recipe, seed, on_step=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]

    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(ours.model.config)
    plain.model.load_state_dict(tiny_lm.model.state_dict())
    noise = torch.Generator().manual_seed(stream_seed(seed, "head", 0))
    plain.score.weight.data[0] = torch.randn(32, generator=noise) / 33**0.5
    optimiser = torch.optim.AdamW(
        plain.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    plan, order, expected = schedule(optimiser, 6), stream(seed, "order"), []
    for _ in range(2):
        for rows in world_pairs.batches(order.permutation(48), 16, order):
            ids, mask = world_pairs.batch(rows)
            scores = plain(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            total = -F.logsigmoid(scores[:16] - scores[16:]).mean()
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            plan.step()
            expected.append(total.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    torch.testing.assert_close(ours.model.score.weight, plain.score.weight, atol=1e-5, rtol=1e-4)


def test_a_head_gets_the_same_gradient_whatever_k_is():
    margin = torch.randn(8, 4, requires_grad=True)
    bt_loss(margin).sum().backward()
    alone = margin.detach()[:, :1].clone().requires_grad_()
    bt_loss(alone).sum().backward()
    torch.testing.assert_close(margin.grad[:, :1], alone.grad)


def test_a_pair_counts_as_often_as_a_sample_holds_it():
    margin = torch.tensor([[0.3], [-1.0]])
    nats = -F.logsigmoid(margin)[:, 0]
    weighted = bt_loss(margin, torch.tensor([[2.0], [0.0]]))
    torch.testing.assert_close(weighted, nats[:1])
    torch.testing.assert_close(bt_loss(margin), nats.mean()[None])


def test_training_learns_the_pairs(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 2, seed=0)
    losses = train(model, world_pairs, Training(epochs=12, batch=16, lr=5e-3), seed=0)
    assert losses[0] > 1.0 and np.mean(losses[-3:]) < 0.6 * losses[0]
    scores = raw_score_pairs(model, world_pairs)
    assert scores.shape == (48, 2, 2) and (scores[:, 0] > scores[:, 1]).mean() > 0.8


def test_centring_loss_pulls_scores_to_zero(tiny_lm, world_pairs):
    sizes = []
    for eta in (0.0, 1.0):
        model = from_backbone(tiny_lm, 1, seed=0)
        train(model, world_pairs, Training(epochs=6, batch=16, lr=5e-3, centre=eta), seed=0)
        sizes.append(np.abs(raw_score_pairs(model, world_pairs).sum(1)).mean())
    assert sizes[1] < 0.5 * sizes[0]


def test_scores_of_pairs_are_the_answers_own_in_any_batch(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 2, seed=0)
    raw = raw_score_pairs(model, world_pairs)
    np.testing.assert_allclose(raw_score_pairs(model, world_pairs, batch=5), raw, atol=1e-5)
    ids, mask = world_pairs.batch(range(48))
    with torch.no_grad():
        want = model.raw_forward(ids, mask).numpy()
    np.testing.assert_allclose(raw.transpose(1, 0, 2).reshape(96, 2), want, atol=1e-5)
    model.set_alignment([1.0, 2.0], [0.5, 2.0])
    np.testing.assert_allclose(score_pairs(model, world_pairs), (raw - [1, 2]) / [0.5, 2], atol=1e-5)


def test_fewer_pairs_than_a_batch_and_an_unknown_precision_are_named(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 1, seed=0)
    with pytest.raises(ValueError, match="pairs = 5: give at least one batch of 16"):
        train(model, world_pairs.take(range(5)), QUICK, 0)
    with pytest.raises(ValueError, match="precision = 'fp8': give fp32 or bf16"):
        train(model, world_pairs, QUICK, 0, precision="fp8")


def test_weights_that_small_steps_would_not_move_are_refused(tiny_lm, world_pairs):
    """A step of 1e-5 is less than half of what bfloat16 tells apart."""
    model = from_backbone(tiny_lm, 1, seed=0).bfloat16()
    with pytest.raises(
        ValueError, match=r"type of the trained weights = \['torch\.bfloat16'\]: give float32 weights"
    ):
        train(model, world_pairs, QUICK, 0)
    half = from_backbone(tiny_lm, 1, seed=0)
    losses = train(half, world_pairs, QUICK, 0, precision="bf16")
    assert losses[-1] < losses[0] and next(half.parameters()).dtype == torch.float32


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bad_pair_stops_training_at_the_last_good_step_and_names_its_head(tiny_lm, world_pairs, frozen):
    weights = np.ones((48, 3), np.float32)
    weights[1, 1] = np.nan  # not in the first batch
    model, seen = from_backbone(tiny_lm, 3, 0), []

    def on_step(_):
        seen.append(_weights(model))

    with pytest.raises(ValueError, match=r"loss = nan at step \d+ \(head 1\)") as error:
        (fit_frozen if frozen else train)(model, world_pairs, QUICK, 1, on_step=on_step, weights=weights)
    assert int(re.search(r"at step (\d+)", str(error.value))[1]) == len(seen) > 0
    assert all(torch.equal(w, seen[-1][n]) for n, w in model.named_parameters())


@pytest.mark.parametrize("lr", [1e6, 1e10])
def test_a_rate_that_is_too_large_is_named_and_the_weights_stay_finite(tiny_lm, world_pairs, lr):
    """The gradient overflows first, or the loss."""
    model, seen = from_backbone(tiny_lm, 2, 0), []
    recipe = Training(epochs=3, batch=16, lr=lr)
    with pytest.raises(ValueError, match=rf"at step [12] \(.*\): lower training\.lr = {re.escape(str(lr))}"):
        train(model, world_pairs, recipe, 0, lambda _: seen.append(_weights(model)))
    assert len(seen) in (1, 2)  # the step that is named
    assert all(torch.isfinite(w).all() and torch.equal(w, seen[-1][n]) for n, w in model.named_parameters())


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_rate_that_is_none_is_refused_before_a_step(tiny_lm, world_pairs, lr):
    model = from_backbone(tiny_lm, 1, 0)
    before = _weights(model)
    with pytest.raises(ValueError, match=rf"training\.lr = {lr}: give"):
        train(model, world_pairs, Training(epochs=3, batch=16, lr=lr), 0)
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters())


@pytest.mark.parametrize("size", [1, 5, 16, 99])
def test_micro_batches_add_up_to_the_batch(tiny_lm, world_pairs, size):
    """Under every term of the loss: votes, bootstrap weights, centring, a penalty on the heads."""
    few = dataclasses.replace(world_pairs.take(range(16)), soft=[i / 16 for i in range(16)], votes=True)
    counts = torch.arange(48.0).reshape(16, 3) / 10
    results = []
    for micro_batch in (0, size):
        model = from_backbone(tiny_lm, 3, seed=0)
        extra = head_penalty(list(model.head_parameters()), "l2", 0.7)

        def read(part, model=model):
            return model.raw_pair_scores(part.prompts, part.chosen, part.rejected)

        recipe = Training(batch=16, centre=0.3, micro_batch=micro_batch)
        by_head, total = backward(few, recipe, read, counts, extra)
        results.append([by_head, total, *(p.grad for p in model.parameters())])
        assert all(p.grad.abs().max() > 1e-4 for p in model.parameters())
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_micro_batches_train_the_same_model_with_fewer_rows_at_a_time(
    tiny_lm, world_pairs, frozen, monkeypatch
):
    """A rate that is small, as Adam's first steps are the gradients' signs: nothing where those are rounding."""
    models, rows = [], []
    for micro_batch in (0, 5):
        model = from_backbone(tiny_lm, 2, seed=0)
        head = model.head
        monkeypatch.setattr(model, "head", lambda states, head=head: rows.append(len(states)) or head(states))
        recipe = Training(epochs=2, batch=16, lr=1e-5, micro_batch=micro_batch)
        losses = (fit_frozen if frozen else train)(model, world_pairs, recipe, 0)
        models.append((losses, _weights(model)))
    assert rows == [32] * 6 + [10, 10, 10, 2] * 6
    np.testing.assert_allclose(models[1][0], models[0][0], atol=1e-5)
    for name, weight in models[0][1].items():
        torch.testing.assert_close(models[1][1][name], weight, atol=3e-5, rtol=1e-5)


def test_gradients_above_a_norm_are_scaled_down_to_it(tiny_lm, world_pairs, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def noted(optimiser, *rest):
        grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        return step(optimiser, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    for most in (0.0, 0.1, 1e9):
        train(from_backbone(tiny_lm, 2, 0), world_pairs, dataclasses.replace(QUICK, max_grad_norm=most), 0)
    free, clipped, loose = np.reshape(norms, (3, -1))
    assert free.min() > 0.2 and np.allclose(clipped, 0.1, rtol=1e-3) and (loose == free).all()


def test_bf16_takes_products_in_bfloat16_and_steps_in_float32(tiny_lm, world_pairs):
    """Steps too small for bfloat16 move the weights; the first loss is off by its rounding, and no more."""
    models = {p: from_backbone(tiny_lm, 2, seed=0) for p in ("fp32", "bf16")}
    seen, start = [], _weights(models["bf16"])
    score = models["bf16"].linear
    hook = models["bf16"].trunk.norm.weight.register_hook(lambda grad: seen.append(grad.dtype))
    small = dataclasses.replace(QUICK, lr=1e-6)
    losses = {p: train(model, world_pairs, small, 0, precision=p) for p, model in models.items()}
    hook.remove()
    assert 0 < abs(losses["bf16"][0] - losses["fp32"][0]) < 0.05
    assert seen and set(seen) == {torch.float32} and score.weight.grad.dtype == torch.float32
    now = _weights(models["bf16"])
    moved = [(now[n] != start[n]).float().mean().item() for n in start if "layers" in n]
    lost = [(now[n].bfloat16() == start[n].bfloat16()).float().mean().item() for n in start if "layers" in n]
    assert min(moved) > 0.9 and np.mean(lost) > 0.9


@pytest.mark.parametrize(("name", "value"), [("micro_batch", -1), ("max_grad_norm", -0.5)])
def test_options_that_cannot_be_are_named(tiny_lm, world_pairs, name, value):
    recipe = dataclasses.replace(QUICK, **{name: value})
    with pytest.raises(ValueError, match=rf"training\.{name} = {value}: give 0 or a number"):
        train(from_backbone(tiny_lm, 1, 0), world_pairs, recipe, 0)


def test_an_error_says_whose_it_was():
    with pytest.raises(ValueError, match=r"^member 3: too wild$"), error_context("member 3"):
        raise ValueError("too wild")
