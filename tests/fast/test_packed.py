"""The pieces of a packed model."""

from __future__ import annotations

import pytest
import torch

from rmlab.fast.packed import SHORT, attention, depth_of, rotate


def test_a_parameters_layer_is_read_from_its_name():
    assert depth_of("layers.3.mlp.up_proj.weight") == 3 and depth_of("embed_tokens.weight") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_turns_the_first_places_of_the_first_heads(dtype):
    flat, angle = torch.randn(5, 4, 6).to(dtype), torch.rand(5, 1, 2)
    want = flat.float().clone()
    pairs = torch.complex(want[:, :3, 0:4:2], want[:, :3, 1:4:2]) * torch.polar(torch.ones_like(angle), angle)
    want[:, :3, 0:4:2], want[:, :3, 1:4:2] = pairs.real, pairs.imag
    got = rotate(flat, torch.polar(torch.ones_like(angle), angle), 3)
    torch.testing.assert_close(got, want.to(dtype), atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0.01)


@pytest.mark.parametrize("time", [5, SHORT, SHORT + 1], ids="{} tokens".format)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_of_grouped_heads(groups, time):
    q, k, v = (torch.randn(3, heads, time, 8) for heads in (4, groups, groups))
    keys, values = (x.repeat_interleave(4 // groups, 1) for x in (k, v))
    seen = torch.ones(time, time, dtype=torch.bool).tril()
    want = torch.softmax((q @ keys.transpose(-1, -2)).masked_fill(~seen, -torch.inf), -1) @ values
    want = want.transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v), want)
    torch.testing.assert_close(attention(q, k, v, seen[None, None]), want)
    torch.testing.assert_close(attention(q[:, :, -1:], k, v, seen[None, None, -1:]), want[:, -1:])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(q, k, v), want)
