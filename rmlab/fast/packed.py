"""Hugging Face weights, packed for speed: q, k and v in one product, Llama's norms folded into the matrix that follows.

`packed(trunk, longest)` reads the parameters of a Llama, Mistral, Qwen2, Qwen3 or GPT-NeoX as they are (and, where given,
edited ones in their place: an adapter merged in, a unit dropped out); `None` says that this model has no packed form.
Packing is differentiable, so that training runs on it too. Places of q and k that rotate together are packed as
neighbours, so that a rotation is one product of complex numbers, and q at the scale of attention.

Letters: B rows, T tokens, D hidden, H heads, G key-value heads (H where each head has its own), W width of a head,
F = H + 2G: the heads of q, k and v side by side.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from rmlab.fast.allowed import family, width
from rmlab.fast.plain import Edits

SHORT = 96  # tokens of a row up to which plain products beat PyTorch's attention on a CPU


def packed(trunk: nn.Module, longest: int, edits: Edits | None = None) -> Packed | None:
    """Pack a trunk's weights afresh (they may have been trained since), `edits` replacing parameters by name.

    longest : tokens of the longest row that will be read

    None for a model that is not on the list (`allowed.py`), or has other parameters than a packed form reads.
    """
    name = family(trunk, longest)
    if name is None:
        return None
    weights = {**dict(trunk.named_parameters()), **(edits or {})}
    try:
        form = (PackedNeoX if name == "gpt_neox" else PackedLlama)(trunk, weights)
    except KeyError:  # a weight goes by another name
        return None
    return (
        None if weights else form
    )  # a weight that was not taken changes the model's numbers in a way of its own


def depth_of(name: str) -> int | None:
    """The layer that a trunk's parameter belongs to, or None: `layers.3.mlp.up_proj.weight` -> 3."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else None


class Packed:
    """What the families share: `embed`, `qkv`, `after` and `end` are a transformer in four calls.

    Every weight is taken out of `weights`, so that what is left there was not read.
    """

    table: torch.Tensor  # (V, D)
    layers: list[tuple]

    def __init__(self, trunk: nn.Module, weights: dict[str, torch.Tensor]):
        config = trunk.config
        self.heads, self.width = config.num_attention_heads, width(config)
        self.key_heads = self.heads if config.model_type == "gpt_neox" else config.num_key_value_heads
        self.rows = (self.heads + 2 * self.key_heads) * self.width  # of q, k and v together
        self.rotary, self.padding_idx = trunk.rotary_emb, trunk.get_input_embeddings().padding_idx
        self.order, self.scale = self._order(), self.width**-0.5
        self.layers = []
        self._pack(config, weights)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) -> (..., D)."""
        return F.embedding(ids, self.table, self.padding_idx)

    def qkv(self, layer: int, x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> q over the root of W, k and v, (..., F, W), q and k rotated by rotations (..., r / 2), r <= W."""
        return rotate(self._project(layer, x), rotations.unsqueeze(-2), self.heads + self.key_heads)

    def split(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, F, W) -> q (B, H, T, W), k and v (B, G, T, W), as views."""
        return flat.transpose(1, 2).split([self.heads, self.key_heads, self.key_heads], 1)

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Residual x (..., D) and attention's output (..., H x W) through the rest of the block."""
        raise NotImplementedError  # pragma: no cover - the two families below

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm, (..., D) -> (..., D)."""
        raise NotImplementedError  # pragma: no cover

    def rotations(self, count: int) -> torch.Tensor:
        """The rotations at positions 0 to count, (count, r / 2) complex64."""
        positions = torch.arange(count, device=self.table.device)[None]
        cos, sin = (
            angle[0].chunk(2, -1)[0].float() for angle in self.rotary(self.table[:1, None], positions)
        )
        return torch.complex(cos, sin)

    def encode(
        self, x: torch.Tensor, rotations: torch.Tensor, layers: range, gap: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Prompts x (B, T, D) through some layers: what leaves them, and their keys and values, (B, G, T, W) a layer.

        gap : (B, T) bool, where a prompt has not begun. Out of the top layer comes the last token alone, (B, 1, D).
        """
        time = torch.arange(x.shape[1], device=x.device)
        seen = (time <= time[:, None])[None, None]  # (1 or B, 1, T, T)
        if gap is not None:
            seen = seen & ~gap[:, None, None] | (
                time == time[:, None]
            )  # a gap sees itself, and stays a number
        cached = []
        for layer in layers:
            q, k, v = self.split(self.qkv(layer, x, rotations))
            cached.append((k, v))
            if layer == len(self.layers) - 1:
                q, x, seen = q[:, :, -1:], x[:, -1:], seen[:, :, -1:]
            x = self.after(layer, x, attention(q, k, v, seen))
        return x, cached

    def _pack(self, config, weights: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError  # pragma: no cover

    def _laid_out(self, rows: torch.Tensor | None, scaled: bool = True) -> torch.Tensor | None:
        """What goes by the rows of q, k and v, (up to F x W, ...), in the order in which they are packed; q at its scale."""
        if rows is None:
            return None
        rows = rows.index_select(0, self.order[: len(rows)])
        reach = self.heads * self.width
        return torch.cat([rows[:reach] * self.scale, rows[reach:]]) if scaled else rows

    def _order(self) -> torch.Tensor:
        """(F x W,) where a packed row of q, k and v stands in the model's: places i and i + r / 2 of q and k side by side."""
        reach, turning = 2 * len(self.rotary.inv_freq), self.heads + self.key_heads
        qk, v = self._rows().split([turning, self.key_heads])
        paired = qk[:, :reach].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        return (
            torch.cat([torch.cat([paired, qk[:, reach:]], -1), v]).flatten().to(self.rotary.inv_freq.device)
        )

    def _rows(self) -> torch.Tensor:
        """(F, W) where the model keeps the rows of q, k and v."""
        return torch.arange(self.rows).view(-1, self.width)

    def _project(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> q, k and v, not yet rotated, (..., F, W)."""
        raise NotImplementedError  # pragma: no cover


class PackedLlama(Packed):
    """RMSNorm and a gated MLP; with biases and norms of q and k where the family has them (Qwen2, Qwen3)."""

    def _pack(self, config, weights):
        self.eps, self.act = config.rms_norm_eps, ACT2FN[config.hidden_act]
        self.table, self.gain = weights.pop("embed_tokens.weight"), weights.pop("norm.weight")
        for i in range(config.num_hidden_layers):
            at = f"layers.{i}."
            qkv = _take(weights, *(f"{at}self_attn.{n}_proj" for n in "qkv"), rows=self.rows)
            up = _take(weights, at + "mlp.gate_proj", at + "mlp.up_proj")
            out, down = _take(weights, at + "self_attn.o_proj"), _take(weights, at + "mlp.down_proj")
            first, second = (weights.pop(f"{at}{n}_layernorm.weight") for n in ("input", "post_attention"))
            gains = None  # (H + G, W), of the norms of q and k
            if at + "self_attn.q_norm.weight" in weights:
                of_q, of_k = (weights.pop(f"{at}self_attn.{n}_norm.weight") for n in "qk")
                gains = torch.cat([of_q.repeat(self.heads), of_k.repeat(self.key_heads)])
                gains = self._laid_out(gains).view(-1, self.width)
            matrix, bias = (self._laid_out(rows, scaled=gains is None) for rows in qkv)
            self.layers.append(((matrix * first, bias), gains, out, (up[0] * second, up[1]), down))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """x over its root mean square, in its own type; the squares in float32: half precision ends at 65,504."""
        squares = x.float().square().mean(-1, keepdim=True)
        return (x * torch.rsqrt(squares + self.eps)).to(x.dtype)

    def _project(self, layer, x):
        qkv, gains, *_ = self.layers[layer]
        flat = F.linear(self.norm(x), *qkv).unflatten(-1, (-1, self.width))
        if gains is None:
            return flat
        qk, v = flat.split([len(gains), self.key_heads], -2)
        return torch.cat([self.norm(qk) * gains, v], -2)

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Residual x (..., D) and attention's output through the rest of the block."""
        _, _, out, up, down = self.layers[layer]
        x = x + F.linear(mixed, *out)
        gate, value = F.linear(self.norm(x), *up).chunk(2, -1)
        return x + F.linear(self.act(gate) * value, *down)

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm, (..., D) -> (..., D)."""
        return self.norm(x) * self.gain


class PackedNeoX(Packed):
    """LayerNorm with biases, rotary on a part of each head, attention and MLP side by side."""

    def _pack(self, config, weights):
        self.eps, self.hidden = config.layer_norm_eps, (config.hidden_size,)
        self.act, self.parallel = ACT2FN[config.hidden_act], config.use_parallel_residual
        self.table, self.final = weights.pop("embed_in.weight"), _take(weights, "final_layer_norm")
        for i in range(config.num_hidden_layers):
            at = f"layers.{i}."
            names = "attention.dense", "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
            qkv = _take(weights, at + "attention.query_key_value", rows=self.rows)
            qkv = [self._laid_out(rows) for rows in qkv]
            self.layers.append(
                (_take(weights, at + "input_layernorm"), qkv, *(_take(weights, at + n) for n in names))
            )

    def _rows(self):
        return torch.arange(self.rows).view(self.heads, 3, -1).transpose(0, 1).flatten(0, 1)

    def _project(self, layer, x):
        norm, qkv, *_ = self.layers[layer]
        flat = F.linear(F.layer_norm(x, self.hidden, *norm, self.eps), *qkv)
        return flat.unflatten(-1, (-1, self.width))

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Residual x (..., D) and attention's output through the rest of the block."""
        _, _, dense, norm, up, down = self.layers[layer]
        seen = x + F.linear(mixed, *dense)
        read = F.layer_norm(x if self.parallel else seen, self.hidden, *norm, self.eps)
        return seen + F.linear(self.act(F.linear(read, *up)), *down)

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm, (..., D) -> (..., D)."""
        return F.layer_norm(x, self.hidden, *self.final, self.eps)


def _take(
    weights: dict[str, torch.Tensor], *names: str, rows: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Matrices and biases of layers, one under another; no biases: None. A `KeyError` where one is missing or not of `rows`."""
    matrices = [weights.pop(name + ".weight") for name in names]
    biases = [weights.pop(name + ".bias") for name in names] if names[0] + ".bias" in weights else []
    matrix, bias = (torch.cat(x) if len(x) > 1 else next(iter(x), None) for x in (matrices, biases))
    if len(matrix) != (rows or len(matrix)):
        raise KeyError(names)  # heads were pruned: not what the config says
    return matrix, bias


def rotate(flat: torch.Tensor, rotations: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` heads of flat (..., F, W) rotated in place in their first r places; rotations (..., 1, r / 2) complex.

    Places 2i and 2i + 1 rotate together.
    """
    qk = flat[..., :count, : 2 * rotations.shape[-1]]
    if flat.dtype in (torch.float32, torch.float64):
        torch.view_as_complex(qk.unflatten(-1, (-1, 2))).mul_(rotations)
    else:
        pairs = torch.view_as_complex(qk.float().unflatten(-1, (-1, 2)))
        qk.copy_(torch.view_as_real(pairs * rotations).flatten(-2))
    return flat


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of q (B, H, T, W), at its scale, over k and v (B, G, S, W) -> (B, T, H x W); mask (B, 1, T, S) bool, None: causal.

    Short rows on a CPU take two plain products: the kernel of PyTorch is made for long ones. Under autocast on a CPU it
    runs in float32: bfloat16 has no fast backward there.
    """
    on_cpu = q.device.type == "cpu"
    if on_cpu and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attention(q.float(), k.float(), v.float(), mask)
    if on_cpu and k.shape[2] <= SHORT:
        hidden = q.new_ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1) if mask is None else ~mask
        together = q.unflatten(1, (k.shape[1], -1)).flatten(
            2, 3
        )  # heads that share keys: (B, G, H / G x T, W)
        weight = (together @ k.transpose(-1, -2)).unflatten(2, (-1, q.shape[2]))
        weight = torch.softmax(weight.masked_fill_(hidden.unsqueeze(-3), -torch.inf), -1)
        mixed = (weight.flatten(2, 3) @ v).view(q.shape)
    else:
        alone, grouped = mask is None, q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=alone, scale=1.0, enable_gqa=grouped)
    return mixed.transpose(1, 2).flatten(2)
