"""Language models: built, trained on a source, saved, and loaded whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rmlab.backbone import (
    PLAIN,
    _loss,
    _optimisers,
    build,
    device_of,
    fit_language_model,
    load,
    lr_factor,
    next_token_shares,
    pretrain,
    schedule,
    tune,
)
from rmlab.recipe import Pretraining, Size, Tuning
from rmlab.sources.base import Prompt, Source
from rmlab.sources.sandbox.source import Sandbox
from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS
from rmlab.tokens import SpecialTokens, pad_right

SIZE = Size(hidden=16, layers=1, heads=2, ff=32)
QUICK = Pretraining(record_steps=3, answer_steps=2, batch=4)


class Silent(Source):
    """A source of prompts alone."""

    special = SPECIAL_TOKENS
    vocab_size = 120
    max_new_tokens = 44

    def prompts(self, count, rng):
        return [Prompt("", (1,))] * count


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def model():
    return build(SIZE, 120, SPECIAL_TOKENS, seed=1).eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_weights_come_from_the_seed_and_leave_the_global_stream_alone():
    before = torch.random.get_rng_state()
    first, again, other = (weights(build(SIZE, 120, SPECIAL_TOKENS, seed)) for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first["model.embed_tokens.weight"].std() == pytest.approx(0.08, rel=0.1)
    assert first["model.layers.0.mlp.up_proj.weight"].std() == pytest.approx(SIZE.hidden**-0.5, rel=0.1)


def test_special_tokens_are_in_the_model_and_stay_there(folder, model):
    assert model.generation_config.suppress_tokens == [0, 1, 3, 4]
    assert SpecialTokens.of(model) == SpecialTokens.of(load(folder)) == SPECIAL_TOKENS
    several = SpecialTokens(9, (3, 7), (5,))
    build(SIZE, 50, several, seed=0).save_pretrained(folder)
    assert SpecialTokens.of(load(folder)) == several


def test_a_model_comes_back_as_it_was_in_the_dtype_that_is_named(folder, model):
    back = load(folder)
    assert same(weights(back), weights(model)) and not back.training
    assert next(back.parameters()).dtype == torch.float32
    assert load(folder, torch.bfloat16, device="cpu").dtype == torch.bfloat16


def drop(tensors):
    del tensors["model.layers.0.self_attn.q_proj.weight"]


def add(tensors):
    tensors["score.weight"] = torch.zeros(1, 16)


def resize(tensors):
    tensors["model.norm.weight"] = torch.zeros(2)


@pytest.mark.parametrize(
    "edit, words",
    [
        (drop, r"missing_keys of .* = \['model.layers.0.self_attn.q_proj.weight'\]: give a causal"),
        (add, r"unexpected_keys of .* = \['score.weight'\]"),
        (resize, r"mismatched_keys of .*model.norm.weight"),
    ],
)
def test_a_folder_that_does_not_hold_the_model_is_refused_by_name(folder, edit, words):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=words):
        load(folder)


def test_an_error_names_four_of_many_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensors[name] for name in ("model.embed_tokens.weight", "model.norm.weight")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"'and 5 more'\]"):
        load(folder)


def test_only_safetensors_are_read(folder, model):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"as safetensors.*no file named model\.safetensors"):
        load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"name = .*give a causal language model's folder"):
        load(folder)


def test_pretraining_is_the_seeds_and_the_indexs_own():
    source = Sandbox()
    runs = [
        weights(pretrain(source, SIZE, QUICK, seed, index))
        for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2]) and not same(runs[0], runs[3])


def test_steps_are_counted_in_each_phase_and_tuning_is_in_place():
    seen = []
    model = pretrain(Sandbox(), SIZE, QUICK, 0, 0, on_step=seen.append)
    assert seen == [0, 1, 2, 0, 1] and not model.training
    before, seen = weights(model), []
    assert tune(model, Sandbox(), Tuning(steps=2, batch=4), 0, on_step=seen.append) is model
    assert seen == [0, 1] and not model.training and not same(before, weights(model))


def test_sight_is_a_share_of_the_documents_and_a_loss_of_its_own():
    blind, sighted = (weights(pretrain(Sandbox(), SIZE, replace(QUICK, sight=s), 0, 0)) for s in (0.0, 1.0))
    assert not same(blind, sighted)
    with pytest.raises(ValueError, match=r"pretraining\.sight = 1\.5: give a share"):
        replace(QUICK, sight=1.5).validate()


def test_a_loss_term_of_its_own_weighs_as_much_as_all_tokens():
    """Two tokens in a thousand: as a term of their own they are learnt, in the plain mean they hardly count."""
    logits, ids = torch.zeros(1000, 9), torch.full((1000,), 3)
    ids[:2] = 7
    ids[2:4] = 0  # PAD
    logits[:, 3] = 5.0
    each = F.cross_entropy(logits, ids, reduction="none")
    plain, own = each[ids != 0].mean(), each[:2].mean()
    torch.testing.assert_close(_loss(logits, ids, 0, []), plain)
    group = [torch.tensor([7, 8])]
    torch.testing.assert_close(_loss(logits, ids, 0, group), PLAIN * plain + own)
    torch.testing.assert_close(_loss(logits, ids, 0, [torch.tensor([8])]), PLAIN * plain)


def test_muon_trains_the_matrices_and_adamw_the_rest():
    model = build(SIZE, 120, SPECIAL_TOKENS, seed=0)
    muon, adamw = _optimisers(model, 2e-3, 0.02)
    names = {id(p): n for n, p in model.named_parameters()}
    of_muon, of_adamw = ({names[id(p)] for g in o.param_groups for p in g["params"]} for o in (muon, adamw))
    assert isinstance(muon, torch.optim.Muon) and of_muon | of_adamw == set(names.values())
    assert all("proj" in n for n in of_muon) and of_adamw == {n for n in names.values() if "proj" not in n}
    assert [o.param_groups[0]["lr"] for o in (muon, adamw)] == [0.02, 2e-3]


def test_layers_begin_near_the_identity():
    model = build(SIZE, 120, SPECIAL_TOKENS, seed=0)
    layer = model.model.layers[0]
    small, usual = (w.std().item() for w in (layer.self_attn.o_proj.weight, layer.self_attn.q_proj.weight))
    assert 0.05 < small / usual < 0.2


def test_a_source_without_documents_says_so(model):
    with pytest.raises(ValueError, match="source = 'Silent': give a source that has records"):
        pretrain(Silent(), SIZE, QUICK, 0, 0)
    with pytest.raises(ValueError, match="a source that has demonstrations"):
        tune(model, Silent(), Tuning(steps=1, batch=1), 0)


def test_training_learns_a_line_and_pad_is_neither_read_nor_predicted():
    rows = [[1, 8, 9, 10, 11, 2], [1, 12, 2]]

    def fitted(pad: int, length: int) -> list[float]:
        model = build(SIZE, 120, SpecialTokens(pad, (2,)), seed=0)
        ids = torch.from_numpy(pad_right(rows, pad, length)[0])
        return fit_language_model(model, [ids] * 30, 30, 1e-2, pad)

    losses = fitted(0, 6)
    assert len(losses) == 30 and losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(losses, fitted(0, 12), rtol=1e-3)
    np.testing.assert_allclose(losses, fitted(99, 6), rtol=1e-3)


def test_half_precision_weights_are_not_trained():
    half = build(SIZE, 120, SPECIAL_TOKENS, seed=1).bfloat16()
    with pytest.raises(ValueError, match=r"type of the trained weights = \['torch.bfloat16'\]: give float32"):
        fit_language_model(half, [torch.tensor([[1, 5, 6, 2]])], 1, 1e-5, 0)


def test_a_loss_that_is_not_finite_and_no_steps_are_errors():
    model = build(SIZE, 120, SPECIAL_TOKENS, seed=0)
    ids = torch.tensor([[1, 8, 2]])
    with pytest.raises(ValueError, match="steps = 0: give at least 1"):
        fit_language_model(model, [], 0, 1e-3, 0)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss = nan at step 0: lower lr = 0\.001"):
        fit_language_model(model, [ids], 1, 1e-3, 0)


def test_the_rate_warms_up_and_falls_to_a_tenth():
    factors = [lr_factor(step, 100) for step in range(101)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0] and factors[5] == 1.0
    assert all(a >= b for a, b in pairwise(factors[5:]))
    assert factors[100] == pytest.approx(0.1) and lr_factor(0, 1) == 1.0
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    rate = schedule(optimiser, 100)
    rates = []
    for _ in range(100):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        rate.step()
    np.testing.assert_allclose(rates, 2 * np.array(factors[:100]))


def test_where_a_study_runs(monkeypatch):
    monkeypatch.delenv("RMLAB_DEVICE", raising=False)
    assert device_of("auto") == device_of() and device_of("cpu").type == "cpu"
    monkeypatch.setenv("RMLAB_DEVICE", "cpu")
    assert device_of() == device_of(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="device = 'banana': give auto, cpu, cuda"):
        device_of("banana")
    with pytest.raises(ValueError, match="device = 'cuda:64': give auto or cpu: this machine has"):
        device_of("cuda:64")


def test_belief_in_the_next_token_is_the_models_own_whatever_stands_beside_a_row():
    model = build(SIZE, 120, SPECIAL_TOKENS, seed=0).eval()
    rows, ids = [[1, 8, 9], [1, 12, 7, 7, 30], [5]], [3, 40, 41]
    shares = next_token_shares(model, rows, ids, 0)
    for row, share in zip(rows, shares, strict=True):
        logits = model(input_ids=torch.tensor([row])).logits[0, -1, ids]
        torch.testing.assert_close(share, logits.softmax(-1), atol=1e-6, rtol=1e-5)
