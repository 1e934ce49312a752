"""The pieces of a packed model."""

from __future__ import annotations

import pytest
import torch

from rmlab.fast.packed import Rotated, attention, depth_of, rotate


def test_a_parameters_layer_is_read_from_its_name():
    assert depth_of("layers.3.mlp.up_proj.weight") == 3 and depth_of("embed_tokens.weight") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_turns_the_first_places_of_the_first_heads(dtype):
    flat, angle = torch.randn(5, 4, 6).to(dtype), torch.rand(5, 1, 2)
    got = rotate(flat.clone(), torch.polar(torch.ones_like(angle), angle), 3)
    want = flat.float().clone()
    for i in range(2):
        x, y = flat[:, :3, 2 * i].float(), flat[:, :3, 2 * i + 1].float()
        want[:, :3, 2 * i] = x * angle[..., i].cos() - y * angle[..., i].sin()
        want[:, :3, 2 * i + 1] = x * angle[..., i].sin() + y * angle[..., i].cos()
    torch.testing.assert_close(got, want.to(dtype), atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0.01)
    back = rotate(got.clone(), torch.polar(torch.ones_like(angle), -angle), 3)
    torch.testing.assert_close(back, flat, atol=1e-6 if dtype == torch.float32 else 0.05, rtol=0.05)


def test_a_rotations_gradient_is_rotated_back_and_leaves_what_came_alone():
    angle = torch.rand(5, 1, 2)
    rotations = torch.polar(torch.ones_like(angle), angle)
    flat = torch.randn(5, 4, 6, requires_grad=True)
    grad = torch.randn(5, 4, 6)
    before = grad.clone()
    Rotated.apply(flat * 1, rotations, 3).backward(grad)
    torch.testing.assert_close(flat.grad, rotate(before.clone(), rotations.conj(), 3))
    assert torch.equal(grad, before)


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
