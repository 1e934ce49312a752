"""A model that its class, config and parameters do not tell all of is not packed, and gives its own numbers."""

from __future__ import annotations

import contextlib
import copy
import types

import pytest
import torch
from torch import nn
from torch.nn.modules import module as every_module

from rmlab.fast.packed import packed
from rmlab.fast.plain import trunk_of
from rmlab.fast.rows import read_pairs
from tests.fast.families import alone, close, ragged


class Around(nn.Module):
    """As adapters are: a layer of its own in the place of the one that it holds."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x) * 1.5


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


def tripled(owner, name: str):
    """Replace a function by three times itself, and give back what undoes it."""
    old = vars(owner)[name]
    setattr(owner, name, lambda *args, **kwargs: 3 * old(*args, **kwargs))
    return lambda: setattr(owner, name, old)


def class_forward(trunk):
    return tripled(type(trunk.layers[0].mlp), "forward")


def forward_of_another_class(trunk):
    kind = type(trunk.layers[0].mlp)
    old, kind.forward = kind.forward, type(trunk.norm).forward
    return lambda: setattr(kind, "forward", old)


def helper_function(trunk):
    from transformers.models.llama import modeling_llama

    return tripled(modeling_llama, "rotate_half")


def attention_function(trunk):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    old = functions["sdpa"]
    functions["sdpa"] = lambda *args, **kwargs: (2 * old(*args, **kwargs)[0], None)
    return lambda: functions.__delitem__("sdpa") if functions["sdpa"] is not old else None


def instance_forward(trunk):
    old = trunk.layers[0].mlp.forward
    trunk.layers[0].mlp.forward = lambda x: old(x) * 3


def forward_hook(trunk):
    trunk.layers[1].mlp.register_forward_hook(lambda module, x, out: 3 * out)


def forward_pre_hook(trunk):
    trunk.layers[1].mlp.register_forward_pre_hook(lambda module, x: (x[0] * 2,))


def global_hook(trunk):
    norm = trunk.layers[0].input_layernorm
    handle = every_module.register_module_forward_hook(
        lambda module, x, out: out * 2 if module is norm else None
    )
    return handle.remove


def backward_hook(trunk):
    trunk.layers[0].mlp.register_full_backward_hook(lambda module, into, out: None)


def wrapped_layer(trunk):
    trunk.layers[0].self_attn.q_proj = Around(trunk.layers[0].self_attn.q_proj)


def layer_of_another_class(trunk):
    trunk.layers[0].mlp.down_proj.__class__ = Halved


def model_of_another_class(trunk):
    trunk.__class__ = types.new_class("LlamaModel", (type(trunk),))


def parametrised(trunk):
    nn.utils.parametrizations.weight_norm(trunk.layers[0].mlp.up_proj)


def additional_parameter(trunk):
    trunk.layers[0].mlp.register_parameter("scale", nn.Parameter(torch.ones(1)))


def tied_layers(trunk):
    trunk.layers[1] = trunk.layers[0]


def fewer_layers(trunk):
    trunk.config.num_hidden_layers = 1


def another_activation(trunk):
    trunk.layers[0].mlp.act_fn = nn.Tanh()


def not_causal(trunk):
    trunk.config.is_causal = False


def another_scale(trunk):
    trunk.layers[0].self_attn.scaling = 0.1


def another_epsilon(trunk):
    trunk.layers[0].input_layernorm.variance_epsilon = 0.5


def renormalised_embedding(trunk):
    trunk.embed_tokens.max_norm = 1.0


def mixed_types(trunk):
    trunk.norm.double()


ODD = [
    class_forward,
    forward_of_another_class,
    helper_function,
    attention_function,
    instance_forward,
    forward_hook,
    forward_pre_hook,
    global_hook,
    backward_hook,
    wrapped_layer,
    layer_of_another_class,
    model_of_another_class,
    parametrised,
    additional_parameter,
    tied_layers,
    fewer_layers,
    another_activation,
    not_causal,
    another_scale,
    another_epsilon,
    renormalised_embedding,
    mixed_types,
]
RUNS_AS_IT_IS = {
    forward_of_another_class,
    mixed_types,
}  # no forward: these two do not run in transformers either


@pytest.mark.parametrize("change", ODD, ids=lambda change: change.__name__)
def test_an_odd_model_runs_on_its_own_modules(change, fresh):
    model = fresh("llama")
    assert packed(model.model, 30) is not None
    with contextlib.ExitStack() as stack:
        undo = change(model.model)
        if undo:
            stack.callback(undo)
        assert packed(model.model, 30) is None
        if change not in RUNS_AS_IT_IS:
            prompts, chosen, rejected = ragged(0, 3), ragged(1, 3), ragged(2, 3)
            whole = [p + a for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
            want = torch.stack([alone(model, row)[-1] for row in whole])
            close(read_pairs(model, prompts, chosen, rejected), want)
    if undo:
        assert packed(fresh("llama").model, 30) is not None


def test_hooks_that_only_look_are_let_be(fresh):
    model = fresh("llama")
    model(input_ids=torch.tensor([[5, 6]]), output_hidden_states=True)  # transformers leaves hooks behind
    assert any(module._forward_hooks for module in model.modules())
    assert packed(model.model, 30) is not None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_not_packed(dtype, fresh):
    model = fresh("llama")
    for layer in model.model.layers:
        small = nn.Parameter(layer.mlp.up_proj.weight.to(dtype), requires_grad=False)
        del layer.mlp.up_proj.weight
        layer.mlp.up_proj.register_parameter("weight", small)
    assert packed(model.model, 30) is None
    assert packed(fresh("llama").to("meta").model, 30) is None


def test_a_window_is_packed_only_where_every_row_is_shorter(fresh):
    window = fresh("mistral_window").model  # 48 tokens
    assert packed(window, 48) is not None and packed(window, 49) is None
    some_layers = fresh("qwen2_short").model
    assert packed(some_layers, 4) is not None and packed(some_layers, 5) is None


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_dropout_at_work_is_not_packed(name, fresh):
    model = fresh(name)
    trunk = trunk_of(model)
    assert packed(trunk.train(), 30) is not None  # of nothing
    attention = trunk.layers[0].self_attn if name == "llama" else trunk.layers[0].attention
    attention.attention_dropout = 0.1
    assert packed(trunk, 30) is None and packed(trunk.eval(), 30) is not None
    if name == "neox":
        trunk.emb_dropout.p = 0.1
        assert packed(trunk, 30) is not None
        trunk.train()
        attention.attention_dropout = 0.0
        assert packed(trunk, 30) is None


def test_pruned_heads_are_not_packed(fresh):
    model = fresh("llama")
    kept = torch.arange(24)
    for name in ("q_proj", "k_proj", "v_proj"):
        layer = getattr(model.model.layers[0].self_attn, name)
        layer.weight = nn.Parameter(layer.weight[kept])
    out = model.model.layers[0].self_attn.o_proj
    out.weight = nn.Parameter(out.weight[:, kept])
    assert packed(model.model, 30) is None
    rows = ragged(0, 3), ragged(1, 3), ragged(2, 3)
    whole = [p + a for side in rows[1:] for p, a in zip(rows[0], side, strict=True)]
    close(read_pairs(model, *rows), torch.stack([alone(model, row)[-1] for row in whole]))


def test_heads_of_an_odd_width_are_not_packed():
    from transformers import GPTNeoXConfig, GPTNeoXModel

    small = {"vocab_size": 50, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
    for wide, there in ((5, False), (10, True)):  # a head's places rotate two by two
        config = GPTNeoXConfig(**small, hidden_size=2 * wide, rope_parameters=rope)
        assert (packed(GPTNeoXModel(config), 8) is not None) == there


def test_a_trained_or_copied_model_is_packed(fresh):
    model = copy.deepcopy(fresh("qwen3"))
    read_pairs(model, [[5]], [[6]], [[7]]).sum().backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.01 * (0 if weight.grad is None else weight.grad)
    assert packed(model.model, 30) is not None
    close(
        read_pairs(model, [[5]], [[6]], [[7, 8]]),
        torch.stack([alone(model, r)[-1] for r in ([5, 6], [5, 7, 8])]),
    )
