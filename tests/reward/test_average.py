"""Weight averaging: the mean of members is a model, and of equal members it is the member."""

from __future__ import annotations

import copy

import pytest
import torch

from rmlab.backbone import build
from rmlab.recipe import Size, Training
from rmlab.reward.average import average, probed
from rmlab.reward.heads import heads
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import score_pairs, train
from rmlab.sources.sandbox.world import VOCAB
from rmlab.tokens import pad_right

QUICK = Training(epochs=1, batch=16, lr=5e-3)


def _scores(model, pairs):
    ids, mask = pad_right([p + a for p, a in zip(pairs.prompts, pairs.chosen, strict=True)])
    with torch.no_grad():
        return model(torch.from_numpy(ids), torch.from_numpy(mask))


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_average_of_equal_members_is_the_member(lm, k, world_pairs, request):
    member = from_backbone(request.getfixturevalue(lm), 1, seed=0)
    got = average([copy.deepcopy(member) for _ in range(k)])
    torch.testing.assert_close(_scores(got, world_pairs), _scores(member, world_pairs), atol=1e-6, rtol=1e-6)


def test_every_weight_of_an_average_is_the_mean(tiny_lm, world_pairs):
    members = [from_backbone(tiny_lm, 1, seed=s) for s in range(2)]
    for seed, member in enumerate(members):
        train(member, world_pairs, QUICK, seed)
    before = [copy.deepcopy(m.state_dict()) for m in members]
    got = average(members)
    one, two = (dict(m.model.named_parameters()) for m in members)
    for name, weight in got.model.named_parameters():
        assert not torch.equal(one[name], two[name]), name
        torch.testing.assert_close(weight, (one[name] + two[name]) / 2, atol=1e-7, rtol=1e-6)
    assert (
        got.members == 1 and (_scores(got, world_pairs) - _scores(members[0], world_pairs)).abs().max() > 1e-3
    )
    for member, state in zip(members, before, strict=True):  # the members are left as they were
        assert all(torch.equal(w, state[n]) for n, w in member.state_dict().items())


def test_an_average_has_no_alignment_of_its_own(tiny_lm, world_pairs, tmp_path):
    """The offsets of members mean nothing for it, those that a folder stored included."""
    member = from_backbone(tiny_lm, 1, seed=0)
    member.align(score_pairs(member, world_pairs).reshape(-1, 1))
    member.save(tmp_path)
    for models in ([member, member], [RewardModel.load(tmp_path)]):
        got = average(models)
        assert got.centre.tolist() == [0] and got.scale.tolist() == [1]


def test_models_that_have_no_mean_are_refused(tiny_lm, tiny_neox, world_pairs):
    wide = build(Size(hidden=64, layers=2, heads=4, ff=48), len(VOCAB), seed=3).eval()
    deep = build(Size(hidden=32, layers=3, heads=4, ff=48), len(VOCAB), seed=3).eval()
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
    with_mlp = heads(tiny_lm, world_pairs, QUICK, seed=0, k=1, frozen=True, mlp=4)
    with pytest.raises(ValueError, match=r"models = .*linear heads"):
        average([with_mlp, with_mlp])


def test_probed_members_start_from_one_head_fitted_on_the_frozen_encoder(tiny_lm, world_pairs, monkeypatch):
    import rmlab.reward.average as module

    starts = []

    def noted(model, *rest, **named):
        starts.append(copy.deepcopy(model.model.state_dict()))
        return train(model, *rest, **named)

    monkeypatch.setattr(module, "train", noted)
    got = probed(tiny_lm, world_pairs, QUICK, seeds=[7, 8])
    fitted = heads(tiny_lm, world_pairs, QUICK, seed=7, k=1, frozen=True).model.state_dict()
    assert len(starts) == 2
    for start in starts:
        assert all(torch.equal(start[n], fitted[n]) for n in fitted)
    members = [RewardModel(copy.deepcopy(from_backbone(tiny_lm, 1, seed=7).model)) for _ in range(2)]
    for seed, member in zip((7, 8), members, strict=True):
        member.model.load_state_dict(fitted)
        train(member, world_pairs, QUICK, seed)
    assert not torch.equal(members[0].model.score.weight, members[1].model.score.weight)
    torch.testing.assert_close(
        _scores(got, world_pairs), _scores(average(members), world_pairs), atol=1e-6, rtol=1e-6
    )
