"""The pieces of a packed model."""

from __future__ import annotations

import pytest
import torch

from rmlab.fast.packed import attention, depth_of, rotate


def test_a_parameters_layer_is_read_from_its_name():
    assert depth_of("layers.3.mlp.up_proj.weight") == 3 and depth_of("embed_tokens.weight") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_turns_the_first_places_of_the_first_heads(dtype):
    flat, angle = torch.randn(5, 4, 6).to(dtype), torch.rand(5, 2)
    rotations = torch.stack([angle.cos(), angle.sin()], 1)[:, None]
    got, want = rotate(flat, rotations, 3), flat.float().clone()
    for i in range(2):
        turned = torch.complex(flat[:, :3, i].float(), flat[:, :3, i + 2].float()) * torch.polar(
            torch.ones(5, 1), angle[:, i : i + 1]
        )
        want[:, :3, i], want[:, :3, i + 2] = turned.real, turned.imag
    torch.testing.assert_close(got, want.to(dtype), atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0.01)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_of_grouped_heads(groups):
    q, k, v = (torch.randn(3, heads, 5, 8) for heads in (4, groups, groups))
    keys, values = (x.repeat_interleave(4 // groups, 1) for x in (k, v))
    scores = q @ keys.transpose(-1, -2) / 8**0.5
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    want = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ values
    want = want.transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v), want)
    torch.testing.assert_close(attention(q, k, v, seen[None, None]), want)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(q, k, v), want)
