"""Answers read whole on their prompts' keys: equal to the reference, with the weights edited and as they are."""

from __future__ import annotations

import copy

import pytest
import torch

from rmlab.fast.packed import depth_of
from rmlab.fast.plain import trunk_of
from rmlab.fast.prefix import lowest_edit, open_prompts, open_variants
from tests.fast.families import BY_BATCH, PACKED, PLAIN, alone, close, every

LENGTHS = torch.tensor([1, 9, 4, 4, 2, 8, 3] * 2)


def drawn(seed: int, prompts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts (P, 6) and answers (14, 9), -100 behind an answer's end."""
    draw = torch.Generator().manual_seed(seed)
    start, ids = (torch.randint(5, 100, shape, generator=draw) for shape in ((prompts, 6), (14, 9)))
    return start, ids.masked_fill(torch.arange(9) >= LENGTHS[:, None], -100)


def truth(model, start: torch.Tensor, ids: torch.Tensor, edits=None) -> torch.Tensor:
    each = len(ids) // len(start)
    whole = [start[i // each].tolist() + ids[i, : LENGTHS[i]].tolist() for i in range(len(ids))]
    return torch.stack([alone(model, row, edits)[-1] for row in whole]).detach()


@pytest.mark.parametrize("prompts", [1, 7])
@every(PACKED, PLAIN, BY_BATCH)
def test_whole_answers_equal_the_reference(lm, prompts):
    start, ids = drawn(2, prompts)
    close(open_prompts(lm, start, 9)(ids, LENGTHS), truth(lm, start, ids))
    close(open_prompts(lm, start, 30)(ids, LENGTHS), truth(lm, start, ids))


def edits_of(model, kind: str, draw: torch.Generator) -> dict:
    names = {
        "all": lambda n: n.endswith("weight"),
        "top": lambda n: depth_of(n) == 1,
        "embedding": lambda n: depth_of(n) is None and "embed" in n,
        "final norm": lambda n: depth_of(n) is None and "norm" in n,
    }[kind]
    weights = {n: w.detach() for n, w in trunk_of(model).named_parameters() if names(n)}
    assert weights
    return {n: w + 0.1 * torch.randn(w.shape, generator=draw) for n, w in weights.items()}


@pytest.mark.parametrize("kind", ["all", "top", "embedding", "final norm"])
@every({n: PACKED[n] for n in ("llama_grouped", "qwen3", "neox")}, {"opt": PLAIN["opt"]})
def test_variants_equal_models_with_the_edits_in_place(lm, kind):
    if kind in ("top", "final norm") and lm.config.model_type == "opt":
        pytest.skip("its names are others")
    draw = torch.Generator().manual_seed(7)
    variants = [edits_of(lm, kind, draw) for _ in range(2)] + [{}]
    start, ids = drawn(3, 2)
    got = open_variants(lm, variants, start, 9)(ids, LENGTHS)
    close(got, torch.stack([truth(lm, start, ids, edits) for edits in variants], 1))


def test_the_lowest_edit_is_where_variants_part():
    assert lowest_edit([{}], 4) == 3
    assert lowest_edit([{"layers.2.a": 0}, {"layers.1.b": 0, "layers.3.c": 0}], 4) == 1
    assert lowest_edit([{"layers.2.a": 0}, {"norm.weight": 0}], 4) == 0


@every({n: PACKED[n] for n in ("llama", "qwen2", "neox")}, {"gpt2": PLAIN["gpt2"]})
def test_whole_answers_in_half_precision(lm):
    start, ids = drawn(2, 1)
    half = open_prompts(copy.deepcopy(lm).bfloat16(), start, 9)(ids, LENGTHS)
    assert half.dtype == torch.bfloat16
    want = truth(lm, start, ids)
    assert (half.float() - want).norm() < 0.03 * want.norm()


@every({"llama": PACKED["llama"], "gpt2": PLAIN["gpt2"]})
def test_what_cannot_be_read_is_refused(lm):
    start, ids = drawn(2, 2)
    with pytest.raises(ValueError, match="prompts"):
        open_prompts(lm, start[:, :0], 9)
    with pytest.raises(ValueError, match="-100"):
        open_prompts(lm, torch.tensor([[5, -100]]), 9)
    with pytest.raises(ValueError, match=r"nothing\.weight"):
        open_variants(lm, [{"nothing.weight": torch.ones(1)}], start, 9)
    read = open_prompts(lm, start, 9)
    with pytest.raises(ValueError, match="-100"):
        read(ids, LENGTHS + 1 - LENGTHS // 9)
    for lengths in (LENGTHS - 1, LENGTHS + 9):
        with pytest.raises(ValueError, match="lengths of ids"):
            read(ids, lengths)
    with pytest.raises(ValueError, match="2 prompts"):
        read(ids[:3], LENGTHS[:3])
    with pytest.raises(ValueError, match="at most 4 tokens"):
        open_prompts(lm, start, 4)(ids, LENGTHS)
