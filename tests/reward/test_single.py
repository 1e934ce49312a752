"""Single reward models: of the seeds and the recipe that their names say, trained once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rmlab.recipe import Training
from rmlab.reward.methods import MemberSpec, train_ensemble
from rmlab.reward.model import from_backbone
from rmlab.reward.single import singles, train_member
from rmlab.reward.training import train


def _same(one, other):
    return all(torch.equal(w, other.state_dict()[n]) for n, w in one.state_dict().items())


def test_a_member_is_one_head_trained_under_its_own_seed(tiny_lm, another, inputs_of, world_pairs):
    inputs = inputs_of(tiny_lm, another(tiny_lm), seed=5)
    for spec in (MemberSpec(), MemberSpec(0, 1), MemberSpec(1, 0), MemberSpec(1, 2, epochs=2)):
        seed = inputs.seed_of(spec.backbone, spec.finetune)
        want = from_backbone(inputs.backbones[spec.backbone], 1, seed)
        train(want, world_pairs, Training(epochs=spec.epochs or 1, batch=16, lr=5e-3), seed)
        assert _same(train_member(inputs, spec), want), spec


def test_a_member_that_is_trained_already_is_not_trained_again(tiny_lm, inputs_of, monkeypatch):
    inputs = inputs_of(tiny_lm)
    ready = {MemberSpec(0, f): from_backbone(tiny_lm, 1, seed=f) for f in range(2)}
    inputs = dataclasses.replace(inputs, trained=ready)
    assert train_member(inputs, MemberSpec(0, 1)) is ready[MemberSpec(0, 1)]
    monkeypatch.setattr("rmlab.reward.single.train_model", lambda *_, **__: pytest.fail("it trained"))
    union = train_ensemble("finetune", inputs, k=2)
    assert [part is model for part, model in zip(union.parts, ready.values(), strict=True)] == [True, True]


def test_a_backbone_that_is_not_there_is_refused(tiny_lm, inputs_of):
    with pytest.raises(
        ValueError, match=r"^backbone 1, finetuning seed 0: backbone = 1: give one of 1, counted from 0"
    ):
        train_member(inputs_of(tiny_lm), MemberSpec(backbone=1))


def test_the_method_is_the_model_of_the_home_backbone():
    assert singles() == [MemberSpec(0, 0)] and singles(epochs=3) == [MemberSpec(0, 0, 3)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backbone": -1}, "backbone = -1: give 0 or more"),
        ({"finetune": -2}, "finetune = -2: give 0 or more"),
        ({"epochs": 0}, "epochs = 0: give None or at least 1"),
    ],
    ids=str,
)
def test_a_spec_of_no_member_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        MemberSpec(**fields)
