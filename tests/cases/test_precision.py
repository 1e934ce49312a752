"""Half precision and devices: members are trained in float32, and everything moves."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch

import rmlab
from rmlab.fast.plain import trunk_of
from rmlab.optimise.best_of_n import best_of_n
from rmlab.optimise.sampling import sample
from rmlab.reward.ensemble import Union
from rmlab.reward.ensemble import load as load_ensemble
from rmlab.reward.heads import train as train_heads
from rmlab.reward.methods import train_ensemble
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import train
from rmlab.text import TextFormat
from rmlab.tokens import SpecialTokens
from rmlab.workbench.commands import Fit, Report, Sample, Score, Tune
from rmlab.workbench.judges import Judges
from tests.cases.tiny import ROW, build, close, inputs, judge, own_scores, pairs, policy, ppo_once
from tests.own_model import own_tokenizer

METHODS = {
    "heads": {"k": 2},
    "finetune": {"k": 2},
    "lora": {"k": 2, "rank": 2},
    "dropout": {"k": 2, "rate": 0.2},
    "laplace": {"k": 2},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_backbone_is_trained_in_float32(method):
    half = policy("Llama").bfloat16()
    trained = train_ensemble(method, inputs(half), **METHODS[method])
    whole = train_ensemble(method, inputs(half.float()), **METHODS[method])
    assert {w.dtype for w in trained.parameters()} == {torch.float32}
    ids = torch.tensor([ROW])
    close(trained(ids, torch.ones_like(ids)), whole(ids, torch.ones_like(ids)).detach())


def test_small_steps_move_a_backbone_that_came_in_bfloat16():
    half = policy("Llama").bfloat16()
    start, trained = from_backbone(half, 1, 0), train_heads(inputs(half, lr=1e-5), k=1)
    moved = sum(
        int((a != b).sum()) for a, b in zip(trained.model.parameters(), start.model.parameters(), strict=True)
    )
    assert moved > 0.8 * trained.parameter_count()


@pytest.mark.parametrize("name", ["Llama", "BERT"])
def test_training_half_precision_weights_is_refused_with_the_mend(name):
    reward = RewardModel(judge(name)).bfloat16()
    with pytest.raises(ValueError, match=r"bfloat16.*: give float32 weights, as in model\.float\(\)"):
        train(reward, pairs(), inputs().training, 0)
    with pytest.raises(ValueError, match=r"policy's dtype = 'torch\.bfloat16': give float32 weights"):
        ppo_once(policy("Llama").bfloat16())


@pytest.mark.parametrize("name", ["Llama", "GPT-NeoX", "Gemma 2", "Cohere", "Mamba"])
def test_half_precision_policies_are_sampled_from(name):
    got = sample(policy(name).bfloat16(), [[5, 6], [7]], 3, 5, seed=0)
    assert got.logprobs.dtype == np.float32 and np.isfinite(got.logprobs).all()


@pytest.mark.parametrize("name", ["Llama", "Gemma 1", "BERT", "ModernBERT", "T5"])
def test_half_precision_judges_score_as_their_own_forward(name, tmp_path):
    judge(name).bfloat16().save_pretrained(tmp_path)
    reward = RewardModel.load(tmp_path, dtype=torch.bfloat16)
    ids = torch.tensor([ROW])
    want = reward.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.detach().float()
    assert (reward(ids, torch.ones_like(ids)) - want).abs().max() < 0.05 * (1 + want.abs().max())


def ensembles():
    """One of each kind that has tensors of its own, aligned, a classifier that pools among them."""
    backbone, reference = policy("Llama"), np.random.default_rng(0)
    every = {
        method: train_ensemble(method, inputs(backbone), **options) for method, options in METHODS.items()
    }
    every["mlp"] = train_heads(inputs(backbone), k=2, mlp=4)
    every["average"] = train_ensemble("average", inputs(backbone), k=2)
    every["pooled"] = RewardModel(judge("DeBERTa-v2"))
    every["union"] = Union([every["lora"], every["dropout"], every["mlp"]])
    for ensemble in every.values():
        ensemble.align(reference.normal(size=(9, ensemble.members)))
    return every


def test_everything_moves_to_a_device():
    for method, ensemble in ensembles().items():
        moved = ensemble.to("meta")
        kept = [n for n, t in [*moved.named_parameters(), *moved.named_buffers()] if t.device.type != "meta"]
        assert not kept, f"{method}: {kept}"
        assert not left_on_the_cpu(moved), method


def left_on_the_cpu(root) -> list[str]:
    """Names of tensors anywhere in an object: attributes, containers and objects of ours in it, at any depth."""
    left, seen, todo = [], set(), [("", root)]
    while todo:
        name, value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            left += [name] * (value.device.type != "meta")
        elif isinstance(value, dict):
            todo += [(f"{name}[{key!r}]", one) for key, one in value.items()]
        elif isinstance(value, list | tuple | set):
            todo += [(f"{name}[{i}]", one) for i, one in enumerate(value)]
        elif isinstance(value, torch.nn.Module) or type(value).__module__.startswith("rmlab."):
            todo += [(f"{name}.{key}", one) for key, one in getattr(value, "__dict__", {}).items()]
    return left


def test_judges_and_their_rewards_move_whole():
    text = TextFormat(own_tokenizer(), SpecialTokens(1001, (1000,)))
    backbone = policy("Llama", vocab_size=1004, pad_token_id=1001, eos_token_id=1000)
    for method, options in METHODS.items():
        judges = Judges(train_ensemble(method, inputs(backbone), **options), text)
        judges.ensemble.align(np.random.default_rng(0).normal(size=(9, judges.members)))
        reward, few = judges.reward("min"), judges.subset([1])
        assert len(left_on_the_cpu(judges)) > 5
        assert judges.to("meta") is judges
        assert not left_on_the_cpu(judges) and not left_on_the_cpu(reward), method
        assert not left_on_the_cpu(few.to("meta")), method


def test_every_public_door_takes_a_device():
    doors = (rmlab.fit, rmlab.load, rmlab.Pool.sample, rmlab.ppo, rmlab.load_backbone, rmlab.from_backbone)
    for door in (*doors, load_ensemble):
        assert "device" in inspect.signature(door).parameters, door
    for command in (Fit, Report, Sample, Score, Tune):
        assert "device" in {field.name for field in dataclasses.fields(command)}, command
    for door in (
        lambda: rmlab.fit("nowhere", None, device="cuda:99"),
        lambda: rmlab.Pool.sample("nowhere", ["x"], device="cuda:99"),
        lambda: rmlab.ppo("nowhere", ["x"], None, device="cuda:99"),
    ):
        with pytest.raises(ValueError, match="device = 'cuda:99': give auto or cpu"):
            door()


def test_a_device_may_be_named_for_fresh_heads():
    backbone = policy("Llama")
    assert from_backbone(backbone, 1, 0, device="auto").centre.device.type in {"cpu", "cuda"}
    with pytest.raises(ValueError, match="device = 'cuda:99'"):
        from_backbone(backbone, 1, 0, device="cuda:99")


def test_half_precision_scores_that_numpy_cannot_hold_are_refused_with_the_mend():
    scores = torch.tensor([[1.0, 2, 3]])
    assert best_of_n(scores, [[1.0, 2, 3]], [1, 3]).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match=r"proxy cannot be read .*: give one table of float32 or float64"):
        best_of_n(scores.bfloat16(), [[1.0, 2, 3]], [1, 3])


def test_what_a_family_has_before_its_heads_comes_from_the_seed():
    backbone = build("AutoModel", "DeBERTa-v2")
    torch.manual_seed(1)
    one = from_backbone(backbone, 2, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = from_backbone(backbone, 2, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.model.pooler.dense.weight, two.model.pooler.dense.weight)
    other = from_backbone(backbone, 2, seed=6)
    assert not torch.equal(one.model.pooler.dense.weight, other.model.pooler.dense.weight)
    close(own_scores(one.model, [ROW]), own_scores(two.model, [ROW]))
    assert trunk_of(one.reader) is not one.trunk
