"""The packed forward against the model's own, for reading whole answers, in both families."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import prefix as fastpath
from rmlab.fast.packed import depth_of, packed
from rmlab.fast.prefix import first_alike, open_prompts, open_variants, read_answers, read_ends, read_pairs
from rmlab.tokens import pad_right


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    return request.getfixturevalue(request.param)


def _hidden(model, ids):
    with torch.no_grad():
        return getattr(model, model.base_model_prefix)(input_ids=ids).last_hidden_state


def test_what_the_packed_forms_do_not_cover_runs_on_the_model():
    from transformers import GPTNeoXConfig, GPTNeoXModel, LlamaConfig, LlamaModel

    small = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]):
        for odd in ({"num_key_value_heads": 2}, {"attention_bias": True}, {"hidden_act": "gelu"}):
            config = LlamaConfig(**{**small, "num_attention_heads": 4, "num_key_value_heads": 4, **odd})
            assert packed(LlamaModel(config)) is None
        config = LlamaConfig(**small, num_attention_heads=4, num_key_value_heads=4)
        assert packed(LlamaModel(config)) is not None
        rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
        for wide, there in ((5, False), (10, True)):  # a head's places are turned two by two
            config = GPTNeoXConfig(
                **{**small, "hidden_size": 2 * wide}, num_attention_heads=2, rope_parameters=rope
            )
            assert (packed(GPTNeoXModel(config)) is not None) == there


class _Around(torch.nn.Module):
    """As adapters are: a layer of its own in the place of the one that it holds."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x) + x


def test_a_model_that_its_parameters_do_not_tell_all_of_runs_on_its_own_modules(tiny_lm):
    ids = torch.arange(5, 11).repeat(100, 1)
    model = copy.deepcopy(tiny_lm)
    before = read_ends(model.model, ids, ids > 0)
    hook = model.model.layers[0].mlp.register_forward_hook(lambda module, given, out: 3 * out)
    want = _hidden(model, ids)[:, -1]
    assert packed(model.model) is None and (want - before).abs().max() > 0.1
    torch.testing.assert_close(read_ends(model.model, ids, ids > 0), want, atol=1e-5, rtol=1e-5)
    hook.remove()
    model(input_ids=ids[:1], output_hidden_states=True)  # transformers leaves hooks behind that only look
    assert packed(model.model) is not None
    layer = model.model.layers[0].self_attn
    layer.q_proj = _Around(layer.q_proj)
    want = _hidden(model, ids)[:, -1]
    assert packed(model.model) is None and (want - before).abs().max() > 0.01
    torch.testing.assert_close(read_ends(model.model, ids, ids > 0), want, atol=1e-5, rtol=1e-5)
    model = copy.deepcopy(tiny_lm).model
    del model.layers[0].mlp.up_proj.weight  # as quantised: whole numbers and their scale
    model.layers[0].mlp.up_proj.register_parameter("weight", torch.nn.Parameter(torch.ones(64, 32, dtype=torch.uint8), False))  # fmt: skip
    assert packed(model) is None


def test_large_activations_do_not_overflow_in_half_precision(tiny_lm):
    model = copy.deepcopy(tiny_lm)
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 3] = 1000.0
    ids = torch.tensor([[7, 8, 9, 7]]).repeat(200, 1)
    want, half = _hidden(model, ids)[:, -1], copy.deepcopy(model).half()
    got = read_ends(half.model, ids, ids > 0).float()
    assert packed(half.model) is not None and want.abs().max() > 1
    torch.testing.assert_close(got, want, atol=0.01, rtol=0.01)


def _pairs(seed, count=6):
    draw = torch.Generator().manual_seed(seed)

    def side(low, high):
        lengths = torch.randint(low, high, (count,), generator=draw).tolist()
        return [torch.randint(5, 100, (n,), generator=draw).tolist() for n in lengths]

    return side(3, 9), side(1, 12), side(1, 12)


def _two_rows(model, prompts, chosen, rejected):
    """The plain forward: two padded rows a pair."""
    rows = [p + a for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
    ids, mask = (torch.from_numpy(x) for x in pad_right(rows))
    hidden = getattr(model, model.base_model_prefix)(
        input_ids=ids, attention_mask=mask.long()
    ).last_hidden_state
    return hidden[torch.arange(len(ids)), mask.sum(1) - 1]


def _in_groups(seed):
    """Answers of several lengths, three to a prompt and in no order; two answers begin alike, two are the same."""
    prompts, answers, _ = _pairs(seed, 12)
    prompts = [prompts[i % 4] for i in range(12)]
    answers[4], answers[8] = answers[0] + [7, 8], list(answers[0])
    return prompts, answers


def test_a_beginning_that_rows_share_is_found_and_no_other():
    rows = [[5, 6, 7], [5, 6], [6, 6, 7], [5, 6, 7, 8], [5, 9, 7, 8], [5, 6, 7]]
    ids, mask = pad_right(rows, pad=6)  # a pad that is also a token
    first = first_alike(ids, mask)
    for b, row in enumerate(rows):
        for t in range(len(row)):
            alike = [i for i, other in enumerate(rows) if other[: t + 1] == row[: t + 1]]
            assert first[b, t] in alike and {int(first[i, t]) for i in alike} == {int(first[b, t])}
    assert (mask & (first == np.arange(len(rows))[:, None])).sum() == 4 + 3 + 3  # the trie's nodes


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_read_as_one_flat_row_equal_rows_of_their_own_with_gradients(lm, precision, grouped):
    """In bf16 the tokens are rounded up to 64s with padding; neither it nor its gradient may reach what is read."""
    model, (prompts, answers) = copy.deepcopy(lm), _in_groups(6) if grouped else _pairs(6, 11)[:2]
    weight = torch.randn(sum(map(len, answers)), 32, generator=torch.Generator().manual_seed(5))
    hidden, grads = [], []
    for way in ("flat", "rows"):
        model.zero_grad()
        if way == "flat":
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                out = read_answers(getattr(model, model.base_model_prefix), prompts, answers)
        else:
            whole = [torch.tensor([p + a[:-1]]) for p, a in zip(prompts, answers, strict=True)]
            trunk = getattr(model, model.base_model_prefix)
            read = [trunk(input_ids=ids).last_hidden_state[0] for ids in whole]
            out = torch.cat([x[len(p) - 1 :] for x, p in zip(read, prompts, strict=True)])
        (out.float() * weight).sum().backward()
        hidden.append(out.detach().float())
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    small = {"fp32": 1e-5, "bf16": 0.05}[precision]
    torch.testing.assert_close(*hidden, atol=small, rtol=small)
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 10
    for name, want in grads[1].items():
        assert (grads[0][name] - want).norm() <= 2 * small * want.norm(), name


@pytest.mark.parametrize("few", [0, fastpath.FEW])
@pytest.mark.parametrize("side", ["right", "left", "both"])
def test_last_tokens_equal_those_of_rows_alone_whatever_the_padding(lm, side, few, monkeypatch):
    monkeypatch.setattr(fastpath, "FEW", few)
    trunk, (prompts, answers) = getattr(lm, lm.base_model_prefix), _in_groups(8)
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    ids, mask = torch.full((12, 40), 0), torch.zeros(12, 40, dtype=torch.bool)
    for i, row in enumerate(rows):
        at = {"right": 0, "left": 40 - len(row), "both": i}[side]
        ids[i, at : at + len(row)], mask[i, at : at + len(row)] = torch.tensor(row), True
    want = torch.stack([_hidden(lm, torch.tensor([row]))[0, -1] for row in rows])
    torch.testing.assert_close(read_ends(trunk, ids, mask), want, atol=1e-5, rtol=1e-5)
    edits = {n: 1.5 * w for n, w in trunk.named_parameters() if depth_of(n) == 1}
    copied = copy.deepcopy(lm)
    getattr(copied, lm.base_model_prefix).load_state_dict({**trunk.state_dict(), **edits})
    want = torch.stack([_hidden(copied, torch.tensor([row]))[0, -1] for row in rows])
    torch.testing.assert_close(read_ends(trunk, ids, mask, edits), want, atol=1e-5, rtol=1e-5)
    mask[3] = False
    with pytest.raises(ValueError, match="no real token"):
        read_ends(trunk, ids, mask)


def test_a_pair_as_one_row_equals_two_rows_with_gradients(lm):
    model, pairs = copy.deepcopy(lm), _pairs(3)
    weight = torch.randn(12, 32, generator=torch.Generator().manual_seed(5))
    grads, hidden = [], []
    for forward in (read_pairs, _two_rows):
        model.zero_grad()
        out = forward(model, *pairs)
        (out * weight).sum().backward()
        hidden.append(out.detach())
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 10
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_variants_equal_models_with_the_edits_in_place(lm, layers):
    trunk, draw = getattr(lm, lm.base_model_prefix), torch.Generator().manual_seed(7)
    names = [n for n, p in trunk.named_parameters() if p.ndim == 2 and depth_of(n) in layers]
    variants = [
        {n: w + 0.1 * torch.randn(w.shape, generator=draw) for n, w in trunk.named_parameters() if n in names}
        for _ in range(3)
    ]
    prompt, ids = torch.randint(5, 100, (1, 6), generator=draw), torch.randint(5, 100, (7, 9), generator=draw)
    lengths = torch.tensor([9, 1, 3, 8, 9, 5, 2])
    got = open_variants(lm, variants, prompt, 9)(ids, lengths)
    pairs = _pairs(4)
    for v, edits in enumerate(variants):
        copied = copy.deepcopy(lm)
        getattr(copied, lm.base_model_prefix).load_state_dict({**trunk.state_dict(), **edits})
        want = open_prompts(copied, prompt, 9)(ids, lengths)
        torch.testing.assert_close(got[:, v], want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            read_pairs(lm, *pairs, edits=edits), read_pairs(copied, *pairs), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("prompts", [1, 7])
def test_whole_answers_equal_the_plain_forward(lm, prompts):
    draw = torch.Generator().manual_seed(2)
    start, ids = (torch.randint(5, 100, shape, generator=draw) for shape in ((prompts, 6), (14, 9)))
    lengths = torch.tensor([1, 9, 4, 4, 2, 8, 3] * 2)
    got = open_prompts(lm, start, 9)(ids, lengths)
    for i, length in enumerate(lengths):
        whole = torch.cat([start[i * prompts // 14], ids[i, :length]])
        torch.testing.assert_close(got[i], _hidden(lm, whole[None])[0, -1], atol=1e-5, rtol=1e-5)


def test_whole_answers_in_half_precision(lm):
    draw = torch.Generator().manual_seed(2)
    start, ids = (torch.randint(5, 100, shape, generator=draw) for shape in ((1, 6), (7, 9)))
    lengths = torch.tensor([1, 9, 4, 4, 2, 8, 3])
    whole = open_prompts(lm, start, 9)(ids, lengths)
    half = open_prompts(copy.deepcopy(lm).bfloat16(), start, 9)(ids, lengths)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.15, rtol=0.05)
