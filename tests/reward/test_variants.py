"""Members scored together against the same members one by one, under any ceiling of memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rmlab.reward.dropout import DropoutModel
from rmlab.reward.ensemble import Union
from rmlab.reward.lora import Adapter, LoraModel
from rmlab.reward.model import MlpHeads, RewardModel, from_backbone, with_heads
from rmlab.reward.variants import Variants

FAMILIES = ["tiny_lm", "tiny_neox", "tiny_qwen"]


def _heads(lm, k=3):
    return from_backbone(lm, k, seed=1)


def _mlp(lm):
    return RewardModel(from_backbone(lm, 3, seed=1).model, MlpHeads(3, 32, 8, seed=1))


def _lora(lm, k=3, lora_layers=0):
    """Adapters that change the base by much more than training would."""
    base, noise = from_backbone(lm, k, seed=1), torch.Generator().manual_seed(5)
    adapters = [Adapter.fresh(base.trunk, 2, 4.0, "all-linear", lora_layers, seed=i) for i in range(k)]
    for adapter in adapters:
        for _, b in adapter.pairs.values():
            b.data = 0.2 * torch.randn(b.shape, generator=noise)
    heads = base.model.score.weight.detach().clone()
    return LoraModel(with_heads(base.model, torch.zeros(1, 32)), adapters, heads)


def _lora_top(lm):
    return _lora(lm, lora_layers=1)


def _dropout(lm, k=3):
    return DropoutModel(from_backbone(lm, 1, seed=1), k, rate=0.3, seed=2)


def _union(lm):
    return Union([_heads(lm, 2), _lora_top(lm), _dropout(lm, 2)])


KINDS = [_heads, _mlp, _lora, _lora_top, _dropout, _union]


@pytest.fixture(params=FAMILIES)
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_to_a_score_gives_the_same(lm, kind, world_pairs, answers, rows):
    """Padded rows on the model's own forward, pairs as one row, answers on the prompt's cache."""
    model, (prompt, ids, lengths), (whole, mask) = kind(lm), answers, rows
    with torch.no_grad():
        want = model.raw_forward(whole, mask)
        padded = model.raw_forward(F.pad(whole, (3, 2), value=model.special.pad), F.pad(mask, (3, 2)))
        sides = [list(prompt)] * 40, world_pairs.chosen[:40], world_pairs.chosen[8:]
        chosen, rejected = model.raw_pair_scores(*sides).chunk(2)
    assert want.shape == (48, model.members) and (want.std(1) > 1e-3).all()
    torch.testing.assert_close(padded, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chosen, want[:40], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rejected, want[8:], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(
        model.score(prompt, ids, lengths, chunk_tokens=100), want, atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        read = model.prompt_scorer(torch.from_numpy(prompt)[None], ids.shape[1])
        at_once = read(torch.from_numpy(ids), torch.from_numpy(lengths))
    torch.testing.assert_close(at_once, want, atol=1e-5, rtol=1e-5)


def _alone(model):
    """The members of a model, each as a reward model of its own."""
    if isinstance(model, Union):
        return [one for part in model.parts for one in _alone(part)]
    if not isinstance(model, Variants):
        every = range(model.members)
        if model.mlp is None:
            return [RewardModel(with_heads(model.model, model.model.score.weight[k : k + 1])) for k in every]
        return [
            RewardModel(with_heads(model.model, model.model.score.weight[:1]), _one_mlp(model.mlp, k))
            for k in every
        ]
    alone = []
    for k in range(model.members):
        trunk, edits = copy.deepcopy(model.trunk), {n: w.detach() for n, w in model.edits(k).items()}
        trunk.load_state_dict({**trunk.state_dict(), **edits})
        plain = with_heads(model.model, model.heads[k : k + 1])
        setattr(plain, plain.base_model_prefix, trunk)
        alone.append(RewardModel(plain))
    return alone


def _one_mlp(heads, k):
    one = MlpHeads(1, 32, 8)
    one.load_state_dict({n: w[k : k + 1] for n, w in heads.state_dict().items()})
    return one


@pytest.mark.parametrize("kind", KINDS)
def test_members_together_equal_members_alone(lm, kind, answers):
    model = kind(lm)
    together, alone = model.score(*answers), [one.score(*answers)[:, 0] for one in _alone(model)]
    np.testing.assert_allclose(together, np.stack(alone, 1), atol=1e-5, rtol=1e-5)


def test_the_members_of_an_ensemble_differ(lm):
    """What the tests above would miss if edits were left out on every path alike."""
    ids = torch.randint(5, 100, (20, 12), generator=torch.Generator().manual_seed(0))
    for model in (_lora(lm), _lora_top(lm), _dropout(lm)):
        plain = RewardModel(with_heads(model.model, model.heads))
        with torch.no_grad():
            assert (
                (model.raw_forward(ids, ids > 0) - plain.raw_forward(ids, ids > 0)).abs().mean(0) > 0.02
            ).all()


def _uneven():
    """66 answers of one token before 30 of forty: their mean length says little of the longest."""
    ids = torch.randint(5, 100, (96, 40), generator=torch.Generator().manual_seed(3)).numpy()
    return np.arange(5, 15), ids, np.array([1] * 66 + [40] * 30)


def _noted(monkeypatch, model):
    """The (rows, width) of every chunk that the model's parts read, and how many members each scorer has."""
    chunks, groups = [], []
    for part in getattr(model, "parts", [model]):

        def prompt_scorer(prompts, max_new_tokens, members=None, open_scorer=part.prompt_scorer):
            read = open_scorer(prompts, max_new_tokens, *([] if members is None else [members]))
            groups.extend([] if members is None else [len(members)])

            def noted(ids, lengths):
                chunks.append(tuple(ids.shape))
                return read(ids, lengths)

            return noted

        monkeypatch.setattr(part, "prompt_scorer", prompt_scorer)
    return chunks, groups


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_ceiling_bounds_every_chunk_and_changes_no_score(kind, tiny_lm, monkeypatch):
    model, uneven = kind(tiny_lm), _uneven()
    want = model.score(*uneven)
    chunks, _ = _noted(monkeypatch, model)
    for tokens in (1, 90, 400):
        chunks.clear()
        memory = 4 * model.floats_per_token() * tokens
        np.testing.assert_allclose(model.score(*uneven, memory=memory), want, atol=1e-5, rtol=1e-5)
        assert all(rows == 1 or rows * width <= tokens for rows, width in chunks)
        assert tokens == 1 or max(rows for rows, _ in chunks) > 20


@pytest.mark.parametrize("kind", [_lora, _lora_top, _dropout])
def test_members_that_do_not_fit_are_scored_in_groups(kind, lm, answers, monkeypatch):
    model = kind(lm)
    want = model.score(*answers)
    copies = 4 * sum(w.numel() for w in model.trunk.parameters())
    _, groups = _noted(monkeypatch, model)
    for fit, expected in ((0, [1, 1, 1]), (1, [1, 1, 1]), (2, [2, 1]), (3, [3])):
        groups.clear()
        got = model.score(*answers, memory=2 * fit * copies + 2)
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
        assert groups == expected


def test_a_ceiling_holds_for_the_parts_of_a_union(tiny_lm, monkeypatch):
    union, uneven = Union([_heads(tiny_lm, 2), _lora(tiny_lm)]), _uneven()
    want = union.score(*uneven)
    copies = 4 * sum(w.numel() for w in union.parts[1].trunk.parameters())
    _, groups = _noted(monkeypatch, union)
    np.testing.assert_allclose(union.score(*uneven, memory=4 * copies), want, atol=1e-5, rtol=1e-5)
    assert groups == [2, 1]


def _lora_alone(lm):
    return _lora(lm, 1)


@pytest.mark.parametrize("memory", [0, -5])
@pytest.mark.parametrize("kind", [*KINDS, _lora_alone])
def test_no_memory_at_all_is_refused(kind, memory, tiny_lm):
    with pytest.raises(ValueError, match=f"memory = {memory}: give a number of bytes above 0"):
        kind(tiny_lm).score(*_uneven(), memory=memory)


def test_variants_without_a_member_are_refused(tiny_lm):
    with pytest.raises(ValueError, match="k = 0: give at least 1"):
        DropoutModel(from_backbone(tiny_lm, 1, seed=1), 0, rate=0.3, seed=2)
