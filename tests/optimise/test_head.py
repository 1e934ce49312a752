"""The head: log-probabilities under the ban, with gradients, are those of the model's own forward."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import plain, rows
from rmlab.fast.rows import read_answers
from rmlab.optimise.head import Head, trunk
from rmlab.tokens import pad_right

EOS, NEVER_SAMPLED = 2, [0, 1, 3, 4]


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    return copy.deepcopy(request.getfixturevalue(request.param))


def ragged(seed, count=5):
    """Prompts and answers of several lengths."""
    rng = np.random.default_rng(seed)
    sides = [[rng.integers(5, 100, n).tolist() for n in rng.integers(1, 9, count)] for _ in range(2)]
    return sides[0], [answer + [EOS] for answer in sides[1]]


def plain_log_probs(model, prompts, answers):
    """The model's own padded forward under the ban: log-probabilities of the answers' tokens, answer after answer."""
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    ids, mask = (torch.from_numpy(x) for x in pad_right(rows))
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    logits[..., NEVER_SAMPLED] = -torch.inf
    every = torch.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    starts = torch.tensor([len(p) - 1 for p in prompts])[:, None]
    return every[mask[:, 1:] & (torch.arange(ids.shape[1] - 1) >= starts)]


@pytest.mark.parametrize("bias", [False, True])
def test_log_probabilities_are_those_of_the_models_own_forward_with_gradients(lm, bias):
    if bias:
        head = lm.get_output_embeddings()
        head.bias = torch.nn.Parameter(
            torch.randn(len(head.weight), generator=torch.Generator().manual_seed(0))
        )
    prompts, answers = ragged(0)
    got = Head(lm).log_probs(read_answers(trunk(lm), prompts, answers), answers)
    truth = plain_log_probs(lm, prompts, answers)
    torch.testing.assert_close(got, truth, atol=1e-5, rtol=0)
    assert len(got) == sum(map(len, answers))
    weight = torch.randn(len(got), generator=torch.Generator().manual_seed(1))
    grads = []
    for loss in (got @ weight, truth @ weight):
        lm.zero_grad()
        loss.backward()
        grads.append({n: p.grad.clone() for n, p in lm.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 10
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({"logit_scale": 0.25}, lambda x: x / 4),
        ({"logits_scaling": 4.0}, lambda x: x / 4),
        ({"lm_head_multiplier": 2.0}, lambda x: 2 * x),
        ({"final_logit_softcapping": 3.0}, lambda x: 3 * torch.tanh(x / 3)),
        ({"logits_soft_cap": 3.0, "logit_scale": 2.0}, lambda x: 3 * torch.tanh(2 * x / 3)),
        ({"final_logit_softcapping": None, "logit_scale": 1.0}, lambda x: x),
    ],
    ids=["scale", "scaling", "multiplier", "cap", "cap and scale", "neither"],
)
def test_scales_and_caps_are_those_that_the_config_names(lm, fields, change):
    hidden = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    plain = Head(lm).logits(hidden)
    for name, value in fields.items():
        setattr(lm.config, name, value)
    torch.testing.assert_close(Head(lm).logits(hidden), change(plain))
    if not torch.equal(change(plain), plain):  # this model does nothing of the kind
        with pytest.raises(ValueError, match="policy's logits"):
            Head(lm).check_model([5, 6, 7])


def test_a_policy_that_sees_what_comes_later_is_found_out(tiny_lm):
    model = copy.deepcopy(tiny_lm)
    Head(model).check_model([5])
    model.config.is_causal = False
    with pytest.raises(ValueError, match=r"policy's logits = .*: give a causal policy"):
        Head(model).check_model([5])


def test_what_padding_holds_changes_nothing(lm, monkeypatch):
    prompts, answers = ragged(1)
    before = read_answers(trunk(lm), prompts, answers)
    for module in (plain, rows):
        monkeypatch.setattr(module, "pad_right", lambda lists, pad=0: pad_right(lists, pad=17))
    assert torch.equal(read_answers(trunk(lm), prompts, answers), before)


def test_half_precision_heads_pass_the_check_of_the_model(lm):
    """bfloat16's rounding is no reason to refuse; a wrong head is."""
    half = lm.bfloat16()
    head = Head(half)
    head.check_model(list(range(5, 25)))
    plain = head.logits
    head.logits = lambda hidden: 1.1 * plain(hidden)
    with pytest.raises(ValueError, match="policy's logits"):
        head.check_model(list(range(5, 25)))
