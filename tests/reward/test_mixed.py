"""Unions: whose members they are, and that parts share what they have in common."""

from __future__ import annotations

import pytest
import torch

from rmlab.reward.ensemble import Union
from rmlab.reward.methods import MemberSpec, train_ensemble
from rmlab.reward.mixed import train
from rmlab.reward.model import RewardModel
from rmlab.reward.single import train_member


@pytest.fixture(scope="module")
def inputs(tiny_lm, another, inputs_of):
    return inputs_of(tiny_lm, another(tiny_lm))


def _same(one, other):
    return all(torch.equal(w, other.state_dict()[n]) for n, w in one.state_dict().items())


def test_unions_are_the_single_models_of_their_seeds(inputs):
    singles = {seeds: train_member(inputs, MemberSpec(*seeds)) for seeds in ((0, 0), (0, 1), (1, 0))}
    for method, expected in (("finetune", ((0, 0), (0, 1))), ("pretrain", ((0, 0), (1, 0)))):
        union = train_ensemble(method, inputs, k=2)
        for part, seeds in zip(union.parts, expected, strict=True):
            assert _same(part, singles[seeds])
    mixed = train(inputs, (("finetune", {"k": 2}), ("laplace", {"k": 2}), ("pretrain", {"k": 2})))
    assert isinstance(mixed, Union) and [p.members for p in mixed.parts] == [1, 1, 1, 2]
    for part, seeds in zip(mixed.parts, singles, strict=False):  # (0, 0) is trained once
        assert _same(part, singles[seeds])


def test_a_union_of_one_is_that_one(inputs):
    assert isinstance(train(inputs, (("single", ()),)), RewardModel)
    assert train(inputs, (("heads", (("k", 3),)),)).members == 3
