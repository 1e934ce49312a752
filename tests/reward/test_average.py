"""Weight averaging: the mean of members is a model, and of equal members it is the member."""

from __future__ import annotations

import copy

import pytest
import torch

from rmlab.recipe import Training
from rmlab.reward.average import average, members, singles, train
from rmlab.reward.ensemble import load
from rmlab.reward.heads import train as train_heads
from rmlab.reward.methods import MemberSpec
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import raw_score_pairs
from rmlab.reward.training import train as train_model

QUICK = Training(epochs=1, batch=16, lr=5e-3)


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox"])
@pytest.mark.parametrize("k", [1, 3])
@torch.no_grad()
def test_the_average_of_equal_members_is_the_member(lm, k, rows, request):
    member = from_backbone(request.getfixturevalue(lm), 1, seed=0)
    got = average([copy.deepcopy(member) for _ in range(k)])
    torch.testing.assert_close(got(*rows), member(*rows), atol=1e-6, rtol=1e-6)


def test_every_weight_of_an_average_is_the_mean(tiny_lm, world_pairs, rows):
    each = [from_backbone(tiny_lm, 1, seed=s) for s in range(2)]
    for seed, member in enumerate(each):
        train_model(member, world_pairs, QUICK, seed)
    before = [copy.deepcopy(m.state_dict()) for m in each]
    got = average(each)
    one, two = (dict(m.model.named_parameters()) for m in each)
    for name, weight in got.model.named_parameters():
        assert not torch.equal(one[name], two[name]), name
        torch.testing.assert_close(weight, (one[name] + two[name]) / 2, atol=1e-7, rtol=1e-6)
    with torch.no_grad():
        assert got.members == 1 and (got(*rows) - each[0](*rows)).abs().max() > 1e-3
    for member, state in zip(each, before, strict=True):  # the members are left as they were
        assert all(torch.equal(w, state[n]) for n, w in member.state_dict().items())


def test_an_average_has_no_alignment_of_its_own(tiny_lm, world_pairs, tmp_path):
    """The offsets of members mean nothing for it, those that a folder stored included."""
    member = from_backbone(tiny_lm, 1, seed=0)
    member.align(raw_score_pairs(member, world_pairs).reshape(-1, 1))
    member.save(tmp_path)
    for models in ([member, member], [load(tmp_path)]):
        got = average(models)
        assert models[0].aligned and not got.aligned and (got.centre, got.scale) == (0, 1)


def test_models_that_have_no_mean_are_refused(tiny_lm, tiny_neox, inputs_of, another):
    wide, deep = another(tiny_lm, intermediate_size=96), another(tiny_lm, num_hidden_layers=3)
    one = from_backbone(tiny_lm, 1, seed=0)
    for other in (wide, deep, tiny_neox):
        for order in ((0, 1), (1, 0)):
            models = [one, from_backbone(other, 1, seed=0)]
            with pytest.raises(ValueError, match=r"models = \['.*members of one architecture"):
                average([models[i] for i in order])
    with pytest.raises(ValueError, match=r"models = \['score\.weight'\].*one architecture"):
        average([one, from_backbone(tiny_lm, 2, seed=0)])
    with pytest.raises(ValueError, match="models = 0: give at least one"):
        average([])
    with_mlp = train_heads(inputs_of(tiny_lm), k=1, frozen=True, mlp=4)
    with pytest.raises(ValueError, match=r"models = .*linear heads"):
        average([with_mlp, with_mlp])


def test_probed_members_start_from_one_head_fitted_on_the_frozen_encoder(
    tiny_lm, inputs_of, world_pairs, rows, monkeypatch
):
    import rmlab.reward.average as module

    starts, inputs = [], inputs_of(tiny_lm, seed=7)

    def noted(model, *rest, **named):
        starts.append(copy.deepcopy(model.model.state_dict()))
        return train_model(model, *rest, **named)

    monkeypatch.setattr(module, "train_model", noted)
    got = train(inputs, k=2, probed=True)
    fitted = train_heads(inputs, k=1, frozen=True).model.state_dict()
    assert len(starts) == 2
    for start in starts:
        assert all(torch.equal(start[n], fitted[n]) for n in fitted)
    each = [RewardModel(copy.deepcopy(from_backbone(tiny_lm, 1, seed=7).model)) for _ in range(2)]
    for finetune, member in enumerate(each):
        member.model.load_state_dict(fitted)
        train_model(member, world_pairs, inputs.training, inputs.seed_of(0, finetune))
    assert not torch.equal(each[0].model.score.weight, each[1].model.score.weight)
    with torch.no_grad():
        torch.testing.assert_close(got(*rows), average(each)(*rows), atol=1e-6, rtol=1e-6)


def test_it_is_one_member_that_needs_its_finetuning_seeds_unless_probed():
    assert members() == 1
    assert singles(k=2) == [MemberSpec(0, 0), MemberSpec(0, 1)] and singles(k=2, probed=True) == []
