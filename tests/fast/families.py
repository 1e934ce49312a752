"""Tiny models of many families, with weights large enough that a mistake shows."""

from __future__ import annotations

import pytest
import torch

SIZE = {
    "vocab_size": 110,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 8,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
}
PACKED = {  # name: (family, what is not as in SIZE)
    "llama": ("llama", {"num_key_value_heads": 4}),
    "llama_grouped": ("llama", {}),
    "llama_biased": ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama3": (
        "llama",
        {
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral_window": ("mistral", {"sliding_window": 48}),
    "neox": ("gpt_neox", {}),
    "neox_serial": (
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
    ),
}
PLAIN = {
    "gpt2": ("gpt2", SMALL_GPT2),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "mistral_short": ("mistral", {"sliding_window": 4}),
    "qwen2_short": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
}
RECURRENT = {"mamba": ("mamba", {"state_size": 8})}  # more than keys and values is kept
BY_BATCH = {  # rotations that depend on the longest row of a batch
    "dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 8}),
    "dynamic_neox": (
        "gpt_neox",
        {"rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}, "max_position_embeddings": 8},
    ),
    "longrope": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 8}),
}


def build(name: str):
    """A fresh causal language model of this name, float32, in eval mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, over = {**PACKED, **PLAIN, **RECURRENT, **BY_BATCH}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZE, **over})).eval()
        for weight in model.parameters():
            weight.data = (0.3 if weight.ndim > 1 else 0.2) * torch.randn_like(weight) + (weight.ndim < 2)
    return model


def every(*tables: dict):
    """Parametrise `lm` over tables of models."""
    return pytest.mark.parametrize("lm", [name for table in tables for name in table], indirect=True)


def alone(model, row, edits=None) -> torch.Tensor:
    """The truth: a row's hidden states (T, D) on the model's own forward, alone and without padding."""
    trunk = getattr(model, model.base_model_prefix)
    call = {"input_ids": torch.tensor([list(row)]), "use_cache": False}
    trunk(input_ids=call["input_ids"][:, :1], use_cache=False)  # dynamic rotations keep what came before
    return torch.func.functional_call(trunk, dict(edits or {}), (), call).last_hidden_state[0]


def ragged(seed: int, count: int = 6, low: int = 1, high: int = 12) -> list[list[int]]:
    """Lists of ids of several lengths."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (count,), generator=draw).tolist()
    return [torch.randint(5, 100, (n,), generator=draw).tolist() for n in lengths]


def close(got, want) -> None:
    """Equal at 1e-5 of their size."""
    torch.testing.assert_close(got, want, atol=1e-5 * max(1.0, want.detach().abs().max().item()), rtol=1e-5)


def same_gradients(model, weigh, ways) -> None:
    """The sums of `ways`' outputs, weighed by weigh, have equal gradients in all parameters."""
    found = []
    for way in ways:
        model.zero_grad()
        out = way()
        (out * weigh[: len(out)]).sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for name, want in found[1].items():
        assert (found[0][name] - want).norm() <= 2e-5 * (1e-3 + want.norm()), name
