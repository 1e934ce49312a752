"""Classifiers: which layer is the head, what is read in front of it, and heads in the place of others."""

from __future__ import annotations

import copy

import pytest
import torch

from rmlab.fast.plain import trunk_of
from rmlab.fast.rows import read_ends
from rmlab.reward.classifier import (
    Features,
    check_head,
    ends_in_score,
    head_name,
    reader_of,
    require_linear_head,
    with_heads,
    with_labels,
)
from rmlab.tokens import SpecialTokens
from tests.cases.tiny import judge, policy

NAMES = {
    "Llama": "score",
    "GPT-2": "score",
    "BERT": "classifier",
    "ModernBERT": "classifier",
    "DeBERTa-v2": "classifier",
    "T5": "classification_head.out_proj",
}
IDS = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 0]])
SPECIAL = SpecialTokens(0, (2,))
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return judge(request.param)


def test_the_head_is_the_last_linear_layer(model, request):
    name = request.node.callspec.params["model"]
    assert head_name(model) == NAMES[name] and ends_in_score(model) == (NAMES[name] == "score")
    assert isinstance(reader_of(model), Features) != ends_in_score(model)


def test_a_model_without_such_a_layer_is_refused():
    for other in (policy("GPT-2").transformer, judge("T5").transformer):
        with pytest.raises(ValueError, match=r"head of (GPT2|T5)Model = "):
            head_name(other)


def test_features_are_what_the_head_reads(model):
    states = read_ends(trunk_of(reader_of(model)), IDS, MASK)
    with torch.no_grad():
        own = torch.cat([model(input_ids=row[m > 0][None]).logits for row, m in zip(IDS, MASK, strict=True)])
        torch.testing.assert_close(model.get_submodule(head_name(model))(states), own, atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_features(model):
    model.zero_grad()
    read_ends(trunk_of(reader_of(model)), IDS, MASK).square().sum().backward()
    head = model.get_submodule(head_name(model))
    assert model.get_input_embeddings().weight.grad.abs().max() > 0 and head.weight.grad is None


def test_reading_leaves_no_hook(model):
    read_ends(trunk_of(reader_of(model)), IDS, MASK)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_other_heads_share_what_is_before_them(model):
    width = model.get_submodule(head_name(model)).in_features
    heads, bias = torch.randn(3, width), torch.randn(3)
    other = with_heads(model, heads, bias)
    head = other.get_submodule(head_name(other))
    assert other.config.num_labels == 3 and model.config.num_labels == 2
    assert torch.equal(head.weight, heads) and torch.equal(head.bias, bias)
    ours = dict(model.named_parameters())
    for name, weight in other.named_parameters():
        assert name.startswith(head_name(model)) or weight is ours[name]
    check_head(other, SPECIAL)
    with pytest.raises(ValueError, match=r"heads = \(3, 7\): give \(K, "):
        with_heads(model, torch.zeros(3, 7))


def test_edits_of_a_trunk_need_a_bare_score(model, request):
    if NAMES[request.node.callspec.params["model"]] == "score":
        require_linear_head(model)
        model = copy.deepcopy(model)
        model.score = torch.nn.Linear(32, 2)
    with pytest.raises(ValueError, match="give one of a decoder family, the linear `score` without a bias"):
        require_linear_head(model)


def test_logits_that_are_more_than_the_heads_are_found_out(model):
    check_head(model, SPECIAL)
    other = copy.deepcopy(model)
    own = other.forward
    other.forward = lambda *args, **kwargs: _shifted(own(*args, **kwargs))
    with pytest.raises(ValueError, match=r"logits of .* = '.* of the largest away': give"):
        check_head(other, SPECIAL)


def _shifted(out):
    out.logits = out.logits + 1
    return out


def test_a_copy_of_a_config_has_its_labels():
    config = judge("BERT").config
    other = with_labels(config, 5)
    assert (other.num_labels, config.num_labels, other.hidden_size) == (5, 2, 32) and len(other.id2label) == 5
