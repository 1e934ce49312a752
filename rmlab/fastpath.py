"""The same Hugging Face weights, run for what rmlab does all day: many answers to one prompt.

`open_prompts` encodes prompts once and returns a `Prefix`; `Prefix.step` decodes a token a row and
`Prefix.last_hidden` reads whole answers. Rows are (P prompts) x (R rows a prompt); the prompts' keys and
values are shared by their rows and never copied. Llama weights run on a packed forward of our own (norms
folded into the next matrix, q, k and v in one product, caches allocated once, the top layer computed for the last
token only); every other family runs on the model's own forward. A test holds the two equal.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def open_prompts(model: nn.Module, prompts: torch.Tensor, rows: int, room: int) -> Prefix:
    """Encode prompts and make room for answers.

    Parameters
    ----------
    model : a Hugging Face transformer (causal or sequence classification) in eval mode
    prompts : (P, T) int64, all of one length, no padding
    rows : R, rows a prompt; more than one row needs P = 1 or is laid out prompt-major, (P x R)
    room : tokens an answer may have
    """
    trunk = getattr(model, model.base_model_prefix)
    if (
        type(trunk).__name__ == "LlamaModel"
        and trunk.config.num_attention_heads == trunk.config.num_key_value_heads
    ):
        return LlamaPrefix(packed(trunk), prompts, rows, room)
    return ModelPrefix(trunk, prompts, rows, room)


class Prefix:
    """Prompts in the cache, and the answers that grow on them. Hidden states are after the final norm."""

    last: torch.Tensor  # (P, D) hidden state of each prompt's last token

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to every row, (R,) -> hidden (R, D), rows prompt-major."""
        raise NotImplementedError  # pragma: no cover - the two families below

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these, (R',) indices: finished answers cost nothing."""
        raise NotImplementedError  # pragma: no cover

    def last_hidden(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read whole answers, ids (R, T) right-padded and lengths (R,) -> hidden (R, D) at each last real token."""
        raise NotImplementedError  # pragma: no cover


class Packed:
    """A Llama's weights, packed: RMSNorm gains folded into the matrix that follows them."""

    def __init__(self, trunk: nn.Module):
        config = trunk.config
        self.heads = config.num_attention_heads
        self.width = (
            config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // self.heads
        )
        self.eps = config.rms_norm_eps
        self.embed = trunk.embed_tokens.weight
        self.gain = trunk.norm.weight
        self.rotary = trunk.rotary_emb
        self.layers = []
        for layer in trunk.layers:
            attention, mlp = layer.self_attn, layer.mlp
            first, second = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            qkv = (
                torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]) * first
            )
            up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * second
            self.layers.append(
                (qkv.T.contiguous(), attention.o_proj.weight.T, up.T.contiguous(), mlp.down_proj.weight.T)
            )

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def qkv(self, layer: int, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
        """x (R, T, D) -> q, k, v (R, H, T, W), rotated."""
        rows, time, _ = x.shape
        mixed = (
            (self.norm(x) @ self.layers[layer][0])
            .view(rows, time, 3, self.heads, self.width)
            .permute(2, 0, 3, 1, 4)
        )
        turned = mixed[:2]
        half = self.width // 2
        other = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        turned = turned * cos + other * sin
        return turned[0], turned[1], mixed[2]

    def after(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Residual x (R, T, D) and attention's output (R, T, D) through the rest of the block."""
        _, out, up, down = self.layers[layer]
        x = x + mixed @ out
        gate, value = (self.norm(x) @ up).chunk(2, -1)
        return x + (nn.functional.silu(gate) * value) @ down

    def angles(self, start: int, count: int):
        """Rotary cos and sin for positions start..start+count, (count, W) each."""
        positions = torch.arange(start, start + count, device=self.embed.device)[None]
        cos, sin = self.rotary(self.embed[:1, None], positions)
        return cos[0], sin[0]


def packed(trunk: nn.Module) -> Packed:
    """Pack a trunk's weights afresh: they may have been trained since."""
    with torch.no_grad():
        return Packed(trunk)


class LlamaPrefix(Prefix):
    """The packed forward. Prompt keys (P, H, T, W) are shared; answer keys (P x R, H, room, W) are per row."""

    @torch.no_grad()
    def __init__(self, weights: Packed, prompts: torch.Tensor, rows: int, room: int):
        self.w = weights
        self.prompts, length = prompts.shape
        self.rows, self.start, self.time = rows, length, 0
        self.scale = 1 / math.sqrt(weights.width)
        self.cos, self.sin = weights.angles(0, length + room)
        self.keys, self.values = [], []
        x = weights.embed[prompts]
        causal = torch.full((length, length), -torch.inf, device=x.device).triu(1)
        for layer in range(len(weights.layers)):
            q, k, v = weights.qkv(layer, x, self.cos[:length], self.sin[:length])
            self.keys.append(k)
            self.values.append(v)
            seen = torch.softmax(q @ k.transpose(-1, -2) * self.scale + causal, -1) @ v
            x = weights.after(layer, x, seen.transpose(1, 2).flatten(2))
        self.last = weights.norm(x[:, -1]) * weights.gain
        self.room = room
        self.cache: list[torch.Tensor] = []

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        w, t = self.w, self.time
        if not self.cache:
            shape = (2, len(tokens), w.heads, self.room, w.width)
            self.cache = [torch.zeros(shape, device=tokens.device) for _ in w.layers]
        x = w.embed[tokens][:, None]
        at = self.start + t
        for layer in range(len(w.layers)):
            q, k, v = w.qkv(layer, x, self.cos[at : at + 1], self.sin[at : at + 1])
            self.cache[layer][0, :, :, t] = k[:, :, 0]
            self.cache[layer][1, :, :, t] = v[:, :, 0]
            own_keys, own_values = self.cache[layer][:, :, :, : t + 1]
            mixed = self._attend(layer, q, own_keys, own_values, None)
            x = w.after(layer, x, mixed)
        self.time += 1
        return w.norm(x[:, 0]) * w.gain

    def keep(self, rows: torch.Tensor) -> None:
        if self.rows == 1 and self.prompts > 1:
            self.keys = [k[rows] for k in self.keys]
            self.values = [v[rows] for v in self.values]
            self.prompts = len(rows)
        else:
            if self.prompts != 1:
                raise ValueError(
                    f"rows = {self.rows} a prompt with {self.prompts} prompts: drop rows with one prompt, or one row each"
                )
            self.rows = len(rows)
        self.cache = [c[:, rows] for c in self.cache]

    @torch.no_grad()
    def last_hidden(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        w, (rows, time) = self.w, ids.shape
        x = w.embed[ids]
        cos, sin = self.cos[self.start : self.start + time], self.sin[self.start : self.start + time]
        causal = torch.full((time, time), -torch.inf, device=ids.device).triu(1)
        every, end = torch.arange(rows, device=ids.device), lengths - 1
        for layer in range(len(w.layers)):
            q, k, v = w.qkv(layer, x, cos, sin)
            mask = causal
            if layer == len(w.layers) - 1:  # the top layer is needed at the last token only
                q, x = q[every, :, end][:, :, None], x[every, end][:, None]
                mask = causal[end][:, None, None]
            x = w.after(layer, x, self._attend(layer, q, k, v, mask))
        return w.norm(x[:, 0]) * w.gain

    def _attend(self, layer: int, q, keys, values, mask) -> torch.Tensor:
        """q (P x R, H, T, W) over the prompt's keys and the rows' own (P x R, H, S, W) -> (P x R, T, H x W)."""
        rows, heads, time, width = q.shape
        share = (self.prompts, rows // self.prompts, heads, time, width)
        q = q * self.scale
        grouped = q.reshape(share).transpose(1, 2).reshape(self.prompts, heads, -1, width)  # (P, H, R x T, W)
        to_prompt = (grouped @ self.keys[layer].transpose(-1, -2)).view(
            self.prompts, heads, share[1], time, self.start
        )
        to_prompt = to_prompt.transpose(1, 2).reshape(rows, heads, time, self.start)
        to_own = q @ keys.transpose(-1, -2)
        if mask is not None:
            to_own = to_own + mask
        weight = torch.softmax(torch.cat([to_prompt, to_own], -1), -1)
        on_prompt = (
            weight[..., : self.start].reshape(self.prompts, share[1], heads, time, self.start).transpose(1, 2)
        )
        seen = on_prompt.reshape(self.prompts, heads, -1, self.start) @ self.values[layer]
        seen = (
            seen.view(self.prompts, heads, share[1], time, width)
            .transpose(1, 2)
            .reshape(rows, heads, time, width)
        )
        seen = seen + weight[..., self.start :] @ values
        return seen.transpose(1, 2).reshape(rows, time, heads * width)


class ModelPrefix(Prefix):
    """Any family, on the model's own forward and a cache that is expanded to the rows."""

    @torch.no_grad()
    def __init__(self, trunk: nn.Module, prompts: torch.Tensor, rows: int, room: int):
        from transformers import DynamicCache

        self.trunk, self.prompts, self.rows, self.start = (
            trunk,
            prompts.repeat_interleave(rows, 0),
            rows,
            prompts.shape[1],
        )
        self.cache = DynamicCache(config=trunk.config)
        hidden = trunk(input_ids=prompts, past_key_values=self.cache, use_cache=True).last_hidden_state
        self.last = hidden[:, -1]
        if rows > 1:
            self.cache.batch_repeat_interleave(rows)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        out = self.trunk(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True)
        return out.last_hidden_state[:, 0]

    def keep(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.prompts = self.prompts[rows]

    @torch.no_grad()
    def last_hidden(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        prompt = self.prompts[:1].expand(len(ids), -1) if len(self.prompts) != len(ids) else self.prompts
        whole = torch.cat([prompt, ids], 1)
        place = torch.arange(whole.shape[1], device=ids.device)[None]
        mask = (place < self.start + lengths[:, None]).long()
        hidden = self.trunk(input_ids=whole, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(ids), device=ids.device), self.start + lengths - 1]
