"""Hugging Face weights, packed for speed: q, k and v in one product, Llama's norms folded into the matrix that follows.

`packed(trunk)` reads a Llama's or a GPT-NeoX's parameters as they are (and, where given, edited ones in their
place: an adapter merged in, a unit dropped out); `None` says that this model has no packed form here. Packing is
differentiable, so that training runs on it too. Places of q and k that turn together are packed as neighbours, so that
rotation is one product of complex numbers.

Letters: R rows, T tokens, D hidden, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

# Hooks from here stay on a model that was once asked for hidden states, and change nothing.
ONLY_LOOK = "transformers.utils.output_capturing"


def packed(trunk: nn.Module, edits: Mapping[str, torch.Tensor] | None = None) -> Packed | None:
    """Pack a trunk's weights afresh (they may have been trained since), `edits` replacing parameters by name.

    None for other families, for what the families' forms leave out (grouped keys, say), and for a model that its
    parameters do not tell all of: with hooks, adapters in the place of its layers, or quantised weights.
    """
    kind = {"LlamaModel": PackedLlama, "GPTNeoXModel": PackedNeoX}.get(type(trunk).__name__)
    if kind is None or width(trunk.config) % 2 or not kind.fits(trunk.config):
        return None
    hooks = (h for m in trunk.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))
    if any(getattr(hook, "__module__", None) != ONLY_LOOK for hook in hooks):
        return None
    weights = {**dict(trunk.named_parameters()), **(edits or {})}
    if not all(w.is_floating_point() for w in weights.values()):
        return None
    try:
        return kind(trunk.config, trunk.rotary_emb, weights)
    except KeyError:  # a layer's weight goes by another name: something is wrapped around it
        return None


def width(config) -> int:
    """W, the width of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def depth_of(name: str) -> int | None:
    """The layer that a trunk's parameter belongs to, or None: `layers.3.mlp.up_proj.weight` -> 3."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else None


class Packed:
    """What the families share: `embed`, `qkv` (or `flat` and `turn`), `after` and `end` are a transformer in four calls."""

    embed: torch.Tensor  # (V, D)
    layers: list[tuple]

    def __init__(self, config, rotary: nn.Module, weights: Mapping[str, torch.Tensor]):
        self.heads = config.num_attention_heads
        self.width = width(config)
        self.rotary = rotary
        self._pack(config, weights)

    def _order(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a q, k, v matrix, (3, H, W), as they are packed: places i and i + r / 2 of q and k, which turn together, side by side."""
        reach = 2 * len(self.rotary.inv_freq)
        first = rows[:2, :, :reach].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        qk = torch.cat([first, rows[:2, :, reach:]], -1)
        return torch.cat([qk, rows[2:]]).flatten().to(self.rotary.inv_freq.device)

    def qkv(self, layer: int, x: torch.Tensor, turns: torch.Tensor):
        """x (R, T, D) -> q, k, v (R, H, T, W), q and k rotated by turns, (T, r / 2) or (R, T, r / 2)."""
        flat = self.flat(layer, x)
        reach = 2 * turns.shape[-1]
        qk = torch.view_as_real(_pairs(flat, reach) * turns[..., None, None, :]).flatten(-2).to(flat.dtype)
        if reach < self.width:
            qk = torch.cat([qk, flat[..., :2, :, reach:]], -1)
        return *(t.transpose(1, 2) for t in qk.unbind(2)), flat[:, :, 2].transpose(1, 2)

    def flat(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> q, k, v not yet rotated, (..., 3, H, W)."""
        return self._project(layer, x).view(*x.shape[:-1], 3, self.heads, self.width)

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Residual x (R, T, D) and attention's output (R, T, H x W) through the rest of the block."""
        raise NotImplementedError  # pragma: no cover - the two families below

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm, (..., D) -> (..., D)."""
        raise NotImplementedError  # pragma: no cover

    def turns(self, start: int, count: int) -> torch.Tensor:
        """The rotations at positions start..start+count, as complex numbers, (count, r / 2) complex64."""
        positions = torch.arange(start, start + count, device=self.embed.device)[None]
        cos, sin = (
            angle[0, :, : angle.shape[-1] // 2] for angle in self.rotary(self.embed[:1, None], positions)
        )
        return torch.complex(cos.float(), sin.float())


class PackedLlama(Packed):
    """RMSNorm, SwiGLU, no biases."""

    @staticmethod
    def fits(config) -> bool:
        return (
            config.num_attention_heads == config.num_key_value_heads
            and config.hidden_act == "silu"
            and not getattr(config, "attention_bias", False)
            and not getattr(config, "mlp_bias", False)
        )

    def _pack(self, config, w):
        self.eps = config.rms_norm_eps
        self.embed, self.gain = w["embed_tokens.weight"], w["norm.weight"]
        self.layers = []
        order = self._order(torch.arange(3 * self.heads * self.width).view(3, self.heads, -1))
        for i in range(config.num_hidden_layers):
            at = f"layers.{i}."
            first, second = w[at + "input_layernorm.weight"], w[at + "post_attention_layernorm.weight"]
            qkv = (
                torch.cat([w[f"{at}self_attn.{n}_proj.weight"] for n in "qkv"]).index_select(0, order) * first
            )
            up = torch.cat([w[f"{at}mlp.{n}_proj.weight"] for n in ("gate", "up")]) * second
            out, down = w[at + "self_attn.o_proj.weight"], w[at + "mlp.down_proj.weight"]
            self.layers.append((qkv.T.contiguous(), out.T, up.T.contiguous(), down.T))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        squares = x.float().square().mean(-1, keepdim=True)  # half precision ends at 65,504
        return (x * torch.rsqrt(squares + self.eps)).to(x.dtype)

    def _project(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) @ self.layers[layer][0]

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        _, out, up, down = self.layers[layer]
        x = x + mixed @ out
        gate, value = (self.norm(x) @ up).chunk(2, -1)
        return x + (nn.functional.silu(gate) * value) @ down

    def end(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.gain


class PackedNeoX(Packed):
    """LayerNorm with biases, rotary on a part of each head, attention and MLP side by side."""

    @staticmethod
    def fits(config) -> bool:
        return config.hidden_act in {"gelu", "gelu_new", "gelu_fast", "relu", "gelu_pytorch_tanh"}

    def _pack(self, config, w):
        from transformers.activations import ACT2FN

        self.eps, self.hidden = config.layer_norm_eps, (config.hidden_size,)
        self.act, self.parallel = ACT2FN[config.hidden_act], config.use_parallel_residual
        self.embed = w["embed_in.weight"]
        self.gain, self.shift = w["final_layer_norm.weight"], w["final_layer_norm.bias"]
        self.layers = []
        by_head = torch.arange(3 * self.heads * self.width).view(
            self.heads, 3, -1
        )  # so Hugging Face keeps q, k and v
        order = self._order(by_head.transpose(0, 1))
        for i in range(config.num_hidden_layers):
            at = f"layers.{i}."
            bias = w.get(at + "attention.query_key_value.bias")
            bias = None if bias is None else bias.index_select(0, order)
            up, up_bias = w[at + "mlp.dense_h_to_4h.weight"], w[at + "mlp.dense_h_to_4h.bias"]
            self.layers.append(
                (
                    self._norm(w, at + "input_layernorm."),
                    (w[at + "attention.query_key_value.weight"].index_select(0, order), bias),
                    (w[at + "attention.dense.weight"], w.get(at + "attention.dense.bias")),
                    self._norm(w, at + "post_attention_layernorm."),
                    (up, up_bias),
                    (w[at + "mlp.dense_4h_to_h.weight"], w[at + "mlp.dense_4h_to_h.bias"]),
                )
            )

    @staticmethod
    def _norm(w, name: str):
        return w[name + "weight"], w[name + "bias"]

    def _project(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        norm, qkv, *_ = self.layers[layer]
        return nn.functional.linear(nn.functional.layer_norm(x, self.hidden, *norm, self.eps), *qkv)

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        _, _, dense, norm, up, down = self.layers[layer]
        seen = x + nn.functional.linear(mixed, *dense)
        read = nn.functional.layer_norm(x if self.parallel else seen, self.hidden, *norm, self.eps)
        return seen + nn.functional.linear(self.act(nn.functional.linear(read, *up)), *down)

    def end(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.hidden, self.gain, self.shift, self.eps)


def turn(flat: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate q and k of flat (..., 3, H, W) in place by turns, (..., 1, 1, r / 2), r <= W; by their conjugates, back again."""
    reach = 2 * turns.shape[-1]
    pairs = _pairs(flat, reach)
    if flat.dtype == torch.float32:
        pairs.mul_(turns)
    else:
        flat[..., :2, :, :reach] = torch.view_as_real(pairs * turns).flatten(-2)
    return flat


def _pairs(flat: torch.Tensor, reach: int) -> torch.Tensor:
    """The first `reach` places of q and k of flat (..., 3, H, W), as complex numbers, (..., 2, H, reach / 2)."""
    return torch.view_as_complex(flat[..., :2, :, :reach].float().unflatten(-1, (-1, 2)))
