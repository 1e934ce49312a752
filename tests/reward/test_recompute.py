"""Layers that are computed again: the same numbers, less kept, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rmlab.fast.rows import read_pairs
from rmlab.reward.methods import train_ensemble
from rmlab.reward.model import RewardModel
from rmlab.reward.recompute import recomputed
from tests.cases.tiny import ROW, close, inputs, judge, pairs, policy


def gradients(reward, recompute, edits=None, half=False):
    """Scores, gradients of the sum of their squares, and the floats that the graph keeps."""
    few, kept = pairs(6), []
    reward.zero_grad(set_to_none=True)

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with recomputed(reward.model if recompute else None):
        saved = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with saved, torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = read_pairs(reward.reader, few.prompts, few.chosen, few.rejected, edits)
        scores = reward.head(states)
        scores.square().sum().backward()
    return scores.detach(), [w.grad for w in reward.parameters()], sum(kept)


@pytest.mark.parametrize("name", ["Llama", "GPT-NeoX", "Gemma 2", "OPT", "GPT-2", "BERT", "ModernBERT", "T5"])
def test_scores_and_gradients_are_the_same(name):
    """Of families whose layers hold dropout too, which stays off."""
    reward = RewardModel(judge(name))
    before = {n: set(vars(m)) for n, m in reward.named_modules()}
    plain, again = gradients(reward, False), gradients(reward, True)
    close(again[0], plain[0])
    for got, want in zip(again[1], plain[1], strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            close(got, want)
    assert {n: set(vars(m)) for n, m in reward.named_modules()} == before
    assert not any(m.training for m in reward.model.modules())


def test_less_is_kept():
    reward = RewardModel(judge("Gemma 2", num_hidden_layers=6))
    assert gradients(reward, True)[2] < 0.5 * gradients(reward, False)[2]


def test_the_second_pass_has_the_first_ones_weights():
    """An edit is in place during the forward alone; read with the base's weights, gradients would be others."""
    reward = RewardModel(judge("Llama"))
    weight = reward.trunk.layers[0].mlp.down_proj.weight
    grads = []
    for recompute in (False, True):
        edit = (weight.detach() + 0.3).requires_grad_()
        gradients(reward, recompute, {"layers.0.mlp.down_proj.weight": edit})
        grads.append((edit.grad, reward.trunk.embed_tokens.weight.grad.clone()))
    for got, want in zip(*grads, strict=True):
        close(got, want)
    gradients(reward, True)
    assert (reward.trunk.embed_tokens.weight.grad - grads[0][1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("method", "options"),
    [("heads", {"k": 2}), ("heads", {"k": 2, "mlp": 4}), ("lora", {"k": 2}), ("dropout", {"k": 2})],
)
def test_members_come_out_the_same(method, options):
    ids = torch.tensor([ROW])
    plain, again = (
        train_ensemble(method, inputs(policy("Llama"), checkpointing=on), **options) for on in (False, True)
    )
    close(again(ids, torch.ones_like(ids)), plain(ids, torch.ones_like(ids)).detach())


def test_bfloat16_products_are_computed_again_in_bfloat16():
    reward = RewardModel(judge("Gemma 2"))  # its own forward in both
    whole = gradients(reward, False)[0]
    plain, again = gradients(reward, False, half=True), gradients(reward, True, half=True)
    close(again[0], plain[0])
    assert (again[0] - whole).abs().max() > 1e-3 and not plain[0].isnan().any()
    for got, want in zip(again[1], plain[1], strict=True):
        assert got.dtype == torch.float32
        close(got, want)


def test_a_family_that_cannot_is_refused_and_an_error_leaves_nothing_behind():
    class Plain(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"training\.checkpointing = True: give False"), recomputed(Plain()):
        pass
    model = judge("GPT-2")
    with pytest.raises(RuntimeError, match="stop"), recomputed(model):
        raise RuntimeError("stop")
    assert not any(m.training or vars(m).get("gradient_checkpointing") for m in model.modules())
