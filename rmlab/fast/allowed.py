"""Which models the packed forward may stand for: those that their class, config and parameters tell all of.

A list of what is allowed, not of what is known to go wrong: the very classes of transformers, each with the forward that
transformers wrote, without hooks, wrapped layers or quantised weights; causal attention at its usual scale over whole
rows; rotations that do not depend on the batch; no dropout at work, and no layer that is to be computed again. (That the parameters are exactly those that a
packed form reads, `packed.py` sees to.) Any other model runs its own forward (`plain.py`), and gives its own numbers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.modules import module as every_module
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

FAMILIES = {
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "gpt_neox": "GPTNeoXModel",
}
LAYERS = {nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList}  # of torch, beside a family's own
HELPERS = {
    "apply_rotary_pos_emb",
    "rotate_half",
    "repeat_kv",
    "eager_attention_forward",
    "create_causal_mask",
    "create_sliding_window_causal_mask",
}
ATTENTION = {"eager", "sdpa", "flash_attention_2", "flash_attention_3"}
ROPE = {"default", "linear", "llama3", "yarn"}  # the others' rotations depend on the batch
FLOATS = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ONLY_LOOK = (
    "transformers.utils.output_capturing"  # its hooks stay once hidden states were read; they change nothing
)


def family(trunk: nn.Module, longest: int) -> str | None:
    """The family whose packed form gives this trunk's own numbers on rows of up to `longest` tokens, or None."""
    name = getattr(trunk.config, "model_type", None)
    home = sys.modules.get(f"transformers.models.{name}.modeling_{name}")
    if name not in FAMILIES or type(trunk) is not getattr(home, FAMILIES[name], None):
        return None
    allowed = (
        _config_allows(trunk.config, longest)
        and trunk.rotary_emb.rope_type in ROPE
        and len(trunk.layers) == trunk.config.num_hidden_layers
        and _weights_are_plain(list(trunk.parameters()))
        and _functions_are_own(home, trunk.config._attn_implementation)
        and _modules_are_own(trunk, home)
        and not any(_foreign(getattr(every_module, f"_global{kind}")) for kind in HOOKS)
    )
    return name if allowed else None


def width(config: PretrainedConfig) -> int:
    """W, the width of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _config_allows(config: PretrainedConfig, longest: int) -> bool:
    """Causal attention over whole rows, heads of an even width."""
    kinds = set(getattr(config, "layer_types", None) or ())
    slides = config.model_type == "mistral" or "sliding_attention" in kinds
    window = config.sliding_window if slides else None
    return (
        getattr(config, "is_causal", True)
        and kinds <= {"full_attention", "sliding_attention"}
        and (window is None or longest <= window)
        and width(config) % 2 == 0
    )


def _weights_are_plain(weights: list[nn.Parameter]) -> bool:
    """Parameters of one floating type in one memory: not quantised, not wrapped, not elsewhere."""
    held = {(type(weight), weight.dtype, weight.device) for weight in weights}
    (kind, dtype, device), *others = held
    return not others and kind is nn.Parameter and dtype in FLOATS and device.type != "meta"


def _functions_are_own(home: ModuleType, attention: str) -> bool:
    """The functions that a family's modules call are those that transformers wrote."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    called = ALL_ATTENTION_FUNCTIONS.get(attention)
    known = called is None or _written_by_them(called, called.__name__)
    return (
        attention in ATTENTION
        and known
        and all(_written_by_them(vars(home)[name], name) for name in HELPERS if name in vars(home))
    )


def _modules_are_own(trunk: nn.Module, home: ModuleType) -> bool:
    """Modules of transformers or torch as they wrote them, that go by the config and drop nothing out."""
    config = trunk.config
    known = LAYERS | {type(ACT2FN[config.hidden_act])}
    agreed = {
        "scaling": width(config) ** -0.5,
        "is_causal": True,
        "head_dim": width(config),
        "head_size": width(config),
        "max_norm": None,
        "variance_epsilon": getattr(config, "rms_norm_eps", None),
        "eps": getattr(config, "layer_norm_eps", None),
        "use_parallel_residual": getattr(config, "use_parallel_residual", None),
    }
    for module in trunk.modules():
        kind, own = type(module), vars(module)
        if kind not in known and getattr(home, kind.__name__, None) is not kind:
            return False
        if "forward" in own or (kind is not nn.ModuleList and not _forward_is_own(kind)):
            return False
        if any(_foreign(own[name]) for name in HOOKS):
            return False
        if any(own.get(name, value) != value for name, value in agreed.items()):
            return False
        if module.training and own.get("gradient_checkpointing"):
            return False
        if module.training and (own.get("attention_dropout") or (kind is nn.Dropout and module.p)):
            return False
    return True


def _forward_is_own(kind: type) -> bool:
    owner = next(one for one in kind.__mro__ if "forward" in vars(one))
    return _written_by_them(vars(owner)["forward"], f"{owner.__name__}.forward")


def _foreign(hooks: Mapping) -> bool:
    return any(getattr(hook, "__module__", None) != ONLY_LOOK for hook in hooks.values())


@functools.cache
def _written_by_them(function, name: str) -> bool:
    """Whether a function goes by its first name and its code is in a file of transformers or torch.

    With the package `kernels`, transformers wraps some functions in modules; such a module has the function's forward
    until another is put into it.
    """
    if isinstance(function, nn.Module):
        return type(function).__module__.startswith("kernels.") and "forward" not in vars(function)
    code = getattr(function, "__code__", None)
    return code is not None and function.__qualname__ == name and _theirs(code.co_filename)


def _theirs(file: str) -> bool:
    import transformers

    return any(Path(package.__file__).parent in Path(file).parents for package in (transformers, torch))
