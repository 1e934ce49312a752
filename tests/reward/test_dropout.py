"""Dropout members: masks that stay, so that a member is a function."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rmlab.reward.dropout import OUTPUTS, DropoutModel, draw_masks, thinned, train
from rmlab.reward.ensemble import load
from rmlab.reward.lora import base_hash
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import raw_score_pairs


@pytest.fixture(scope="module")
def trained(tiny_lm, inputs_of):
    return train(inputs_of(tiny_lm, seed=3), k=3, rate=0.2)


def test_an_answer_has_one_score_in_any_batch_chunk_and_order(trained, world_pairs, answers):
    prompt, ids, lengths = answers
    want = trained.score(prompt, ids, lengths)
    assert np.array_equal(trained.score(prompt, ids, lengths), want)
    for chunk in (1, 100, 700):
        np.testing.assert_allclose(trained.score(prompt, ids, lengths, chunk), want, atol=1e-5)
    order = np.random.default_rng(0).permutation(48)
    np.testing.assert_allclose(trained.score(prompt, ids[order], lengths[order]), want[order], atol=1e-5)
    for i in (0, 7, 30):
        alone = trained.score(prompt, ids[i : i + 1, : lengths[i]], lengths[i : i + 1])
        np.testing.assert_allclose(alone[0], want[i], atol=1e-5)
    in_pairs = [raw_score_pairs(trained, world_pairs, batch) for batch in (5, 48)]
    np.testing.assert_allclose(*in_pairs, atol=1e-5)


def test_members_differ_in_every_mask(trained, answers):
    scores = trained.score(*answers)
    assert (np.abs(scores[:, :, None] - scores[:, None, :]).mean(0)[np.triu_indices(3, 1)] > 0.05).all()
    for name in trained.masks[0]:
        one, two, three = (m[name] for m in trained.masks)
        assert not torch.equal(one, two) and not torch.equal(two, three) and not torch.equal(one, three)


def test_a_mask_depends_on_its_member_and_not_on_k(tiny_lm):
    reward = from_backbone(tiny_lm, 1, seed=0)
    three, five = (DropoutModel(reward, k, rate=0.2, seed=4) for k in (3, 5))
    for mine, theirs in zip(three.masks, five.masks, strict=False):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    other = DropoutModel(reward, 3, rate=0.2, seed=5)
    assert not torch.equal(other.masks[0]["score.weight"], three.masks[0]["score.weight"])


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox", "tiny_qwen"])
def test_a_mask_removes_whole_units_and_keeps_the_mean(lm, request):
    model = from_backbone(request.getfixturevalue(lm), 1, seed=0)
    masks = draw_masks(model, 0.25, torch.Generator().manual_seed(0))
    names = [n for n, _ in model.trunk.named_parameters() if n.endswith(OUTPUTS)]
    assert len(names) == 4 and set(masks) == {*names, "score.weight"}  # two matrices in each of two blocks
    assert torch.cat(list(masks.values())).unique().tolist() == pytest.approx([0, 4 / 3])
    units = torch.cat(
        [draw_masks(model, 0.25, torch.Generator().manual_seed(s))["score.weight"] for s in range(99)]
    )
    assert units.mean().item() == pytest.approx(1, abs=0.04)
    masks.pop("score.weight")
    for name, weight in thinned(model, masks).items():
        gone = masks[name] == 0
        whole = model.trunk.get_parameter(name)
        assert gone.any() and (weight[:, gone] == 0).all()
        torch.testing.assert_close(weight[:, ~gone], whole[:, ~gone] * 4 / 3)


def test_training_draws_fresh_masks_that_its_seed_repeats(tiny_lm, inputs_of, trained, monkeypatch):
    import rmlab.reward.dropout as module

    inputs, every, only_the_head = inputs_of(tiny_lm, seed=3), [], False

    def noted(model, rate, noise):
        masks = draw_masks(model, rate, noise)
        if only_the_head:
            masks = {n: m if n == "score.weight" else torch.ones_like(m) for n, m in masks.items()}
        every.append(masks)
        return dict(masks)

    monkeypatch.setattr(module, "draw_masks", noted)
    again = train(inputs, k=3, rate=0.2)
    steps = every[:3]
    assert len(every) == 3 + 3  # one a step, one a member
    assert len({m["score.weight"].numpy().tobytes() for m in every}) == 6
    assert all(m.keys() == steps[0].keys() for m in steps)
    assert base_hash(again.model) == base_hash(trained.model)
    assert torch.equal(again.heads, trained.heads)
    plain = train(inputs, k=1)
    only_the_head = True
    less = train(inputs, k=3, rate=0.2)
    assert len({base_hash(m.model) for m in (plain, less, trained)}) == 3


def test_a_saved_model_draws_the_same_masks(trained, rows, tmp_path):
    trained.save(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(*rows), trained(*rows))
    for mine, theirs in zip(again.masks, trained.masks, strict=True):
        assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"masks": None}, r"masks and seed of .*rmlab\.json = \(None, \d+\): give whole numbers"),
        ({"masks": [0, -1, 2]}, "masks and seed of .*-1"),
        ({"masks": [0, 1.5, 2]}, "masks and seed of .*1\\.5"),
        ({"seed": "3"}, "masks and seed of .*'3'"),
        ({"rate": 1.0}, "rate of .* = 1.0: give a share from 0 up to 1"),
        ({"rate": None}, "rate of .* = None"),
        ({"masks": [0, 1]}, "members of .* = 3: give its weights' 2"),
    ],
    ids=str,
)
def test_a_card_that_says_no_masks_is_refused(changes, words, trained, tmp_path):
    trained.save(tmp_path / "masks")
    path = tmp_path / "masks" / "rmlab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "masks")


def test_masks_may_be_named_by_their_numbers(trained):
    few = DropoutModel(RewardModel(trained.model), [2, 0], trained.rate, trained.seed)
    for mine, theirs in zip(few.masks, (trained.masks[2], trained.masks[0]), strict=True):
        assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
@pytest.mark.parametrize("k", [1, 2])
def test_a_rate_that_is_no_share_is_refused(rate, k, tiny_lm, inputs_of):
    with pytest.raises(ValueError, match=rf"rate = {rate}: give a share from 0 up to 1"):
        train(inputs_of(tiny_lm), k=k, rate=rate)


def test_a_family_whose_outputs_have_no_known_name_is_refused(inputs_of):
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 128}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=200, **shape, **special))
    with pytest.raises(ValueError, match=r"model = 'GPT2Model': give a family whose .* o_proj\.weight"):
        train(inputs_of(gpt2), k=2)
