"""A model that its parameters do not tell all of gives its own numbers on every path, or is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast.packed import packed
from rmlab.fast.prefix import open_variants
from rmlab.optimise.reward import member_scores
from rmlab.reward.model import RewardModel
from tests.cases.tiny import ROW, close, judge, own_scores

PROMPT, ANSWER = ROW[:3], ROW[3:]
ROPES = {
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "linear": {"factor": 4.0},
}


def all_ways(model) -> None:
    """Every entry point that scores gives the classifier's own logits."""
    reward, want = RewardModel(model), own_scores(model, [ROW])
    ids = torch.tensor([ROW])
    close(reward.score(np.array(PROMPT), np.array([ANSWER]), np.array([len(ANSWER)])), want)
    close(reward.raw_pair_scores([PROMPT], [ANSWER], [[9, 2]])[:1], want)
    close(reward(ids, torch.ones_like(ids)), want)
    close(member_scores(reward, [PROMPT], [ANSWER]), want)


def test_attention_that_sees_ahead():
    all_ways(judge("Llama", is_causal=False))


def test_a_class_whose_forward_was_replaced(monkeypatch):
    from transformers.models.llama import modeling_llama

    own = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: 3 * own(self, x))
    all_ways(judge("Llama"))


@pytest.mark.parametrize("family", ["Llama", "BERT"])
def test_a_module_whose_forward_was_replaced(family):
    model = judge(family)
    layer = model.model.layers[0].mlp if family == "Llama" else model.bert.encoder.layer[0].output
    own = layer.forward
    layer.forward = lambda *x: 3 * own(*x)
    all_ways(model)


def test_a_head_under_a_hook():
    """The pre-hook that reads the features leaves others' in place."""
    model = judge("ModernBERT")
    model.classifier.register_forward_pre_hook(lambda layer, x: (2 * x[0],))
    all_ways(model)


def test_weights_that_are_elsewhere_are_refused():
    from accelerate import cpu_offload

    model = judge("Llama")
    reward = RewardModel(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="in memory, not offloaded"):
        reward.raw_pair_scores([PROMPT], [ANSWER], [[9, 2]])


def test_quantised_weights_are_not_packed():
    model = judge("Llama")
    for layer in model.model.layers:
        layer.mlp.up_proj.weight = torch.nn.Parameter(
            layer.mlp.up_proj.weight.to(torch.float8_e4m3fn), requires_grad=False
        )
    assert packed(model.model, 8) is None


def test_an_edited_embedding_is_seen():
    model = judge("Llama")
    edits = {"embed_tokens.weight": model.model.embed_tokens.weight.detach() * 1.7 + 0.3}
    changed = copy.deepcopy(model)
    changed.model.load_state_dict({**model.model.state_dict(), **edits})
    read = open_variants(model, [edits, {}], torch.tensor([PROMPT]), 4)
    got = model.score(read(torch.tensor([ANSWER]), torch.tensor([len(ANSWER)]))[0])
    close(got, np.concatenate([own_scores(m, [ROW]) for m in (changed, model)]))


@pytest.mark.parametrize("rope", ROPES)
def test_kinds_of_rotations(rope):
    all_ways(judge("Llama", rope_parameters={"rope_type": rope, "rope_theta": 1e4, **ROPES[rope]}))


def test_heads_wider_than_their_share():
    all_ways(judge("Llama", head_dim=16))


@pytest.mark.parametrize("family", ["Llama", "BERT", "T5"])
def test_a_row_whose_weights_were_trained_since_is_read_anew(family):
    model = judge(family)
    before = own_scores(model, [ROW])
    all_ways(model)
    with torch.no_grad():
        for weight in model.base_model.parameters():
            weight += 0.05
    assert np.abs(own_scores(model, [ROW]) - before).max() > 1e-3
    all_ways(model)
