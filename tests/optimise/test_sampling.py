"""The sampler: the draws are the policy's, the log-probabilities are the model's, and a seed names the answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import decode as decoding
from rmlab.optimise.sampling import sample
from rmlab.tokens import EOS, NEVER_SAMPLED


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    """A model of each family that ends some answers soon: the logit of <eos> is high in some contexts."""
    model = copy.deepcopy(request.getfixturevalue(request.param))
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= 12
    return model


UNEVEN = [[5, 6, 7, 8], list(range(9, 16)), [20]]


def test_samples_repeat_and_log_probabilities_are_the_models(lm):
    prompts = UNEVEN
    one, two = (sample(lm, prompts, 8, 12, seed=4, chunk=16) for _ in range(2))
    assert (one.ids == two.ids).all() and (one.logp == two.logp).all()
    assert not np.isin(one.ids[one.logp != 0], NEVER_SAMPLED).any()
    assert (sample(lm, prompts, 8, 12, seed=5, chunk=16).ids != one.ids).any()
    ban = torch.zeros(lm.config.vocab_size)
    ban[list(NEVER_SAMPLED)] = -torch.inf
    for i, (ids, logp, length) in enumerate(zip(one.ids, one.logp, one.lengths, strict=True)):
        whole = torch.from_numpy(np.concatenate([prompts[i // 8], ids[:length]]).astype(int))[None]
        with torch.no_grad():
            want = torch.log_softmax(lm(input_ids=whole).logits[0, len(prompts[i // 8]) - 1 : -1] + ban, -1)
        want = want[torch.arange(length), torch.from_numpy(ids[:length])]
        np.testing.assert_allclose(logp[:length], want, atol=2e-5)
        assert (logp[length:] == 0).all()
        assert (ids[:length] == EOS).sum() <= 1


def test_the_sampler_draws_from_the_policy(lm):
    """First tokens of many answers against the exact distribution, by a chi-square of generous size."""
    prompt = np.arange(5, 11)[None]
    drawn = sample(lm, prompt, 20_000, 1, seed=0).ids[:, 0]
    with torch.no_grad():
        logits = lm(input_ids=torch.from_numpy(prompt)).logits[0, -1]
    logits[list(NEVER_SAMPLED)] = -torch.inf
    exact = torch.softmax(logits, -1).numpy() * 20_000
    seen = np.bincount(drawn, minlength=len(exact))
    big = exact > 5
    chi2 = ((seen - exact)[big] ** 2 / exact[big]).sum()
    assert chi2 < big.sum() + 5 * np.sqrt(2 * big.sum())


@pytest.mark.parametrize("rows", [3, 40])
def test_an_answer_does_not_depend_on_the_chunk_or_on_other_prompts(lm, rows):
    whole = sample(lm, UNEVEN, rows, 12, seed=4)
    for chunk in (1, 7, 64):
        other = sample(lm, UNEVEN, rows, 12, seed=4, chunk=chunk)
        assert (other.ids == whole.ids).all()
        np.testing.assert_allclose(other.logp, whole.logp, atol=5e-5)
    first = sample(lm, UNEVEN[:1], rows, 12, seed=4)
    assert (first.ids == whole.ids[:rows]).all()


@pytest.mark.parametrize("rows", [1, 20])
def test_the_decoder_for_gpus_gives_the_same_answers(lm, rows, monkeypatch):
    """It looks every 16 steps who goes on: what it appends to answers that have ended must not show."""
    one = sample(lm, UNEVEN, rows, 24, seed=4, read=lambda hidden: hidden[:, 0])
    assert one.ended.any() and (one.lengths < 16).any()
    monkeypatch.setattr(decoding, "PackedDecoder", decoding.RecordedDecoder)
    two = sample(lm, UNEVEN, rows, 24, seed=4, read=lambda hidden: hidden[:, 0])
    assert (one.ids == two.ids).all() and (one.lengths == two.lengths).all()
    np.testing.assert_allclose(one.logp, two.logp, atol=1e-5)
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_somebody_elses_autocast_changes_no_answer(lm):
    one = sample(lm, UNEVEN, 4, 12, seed=4)
    with torch.autocast("cpu", torch.bfloat16):
        two = sample(lm, UNEVEN, 4, 12, seed=4)
    assert (one.ids == two.ids).all() and (one.logp == two.logp).all()


def test_what_is_read_on_the_way_is_read_at_the_hidden_state_of_each_token(lm):
    prompts, weight = UNEVEN, torch.randn(32, generator=torch.Generator().manual_seed(0))
    drawn = sample(lm, prompts, 20, 10, seed=1, read=lambda hidden: hidden @ weight)
    assert drawn.ended.any() and len(set(drawn.lengths)) > 3
    for i in range(0, 60, 7):
        length = drawn.lengths[i]
        whole = torch.tensor([[*prompts[i // 20], *drawn.ids[i, :length].tolist()]])
        with torch.no_grad():
            hidden = getattr(lm, lm.base_model_prefix)(input_ids=whole).last_hidden_state[0]
        want = hidden[len(prompts[i // 20]) - 1 : -1] @ weight
        np.testing.assert_allclose(drawn.values[i, :length], want, atol=2e-5)
        assert (drawn.values[i, length:] == 0).all()
    assert sample(lm, prompts, 1, 3, seed=1).values is None


@pytest.mark.parametrize("rows", [2, 20])
def test_half_precision_weights_are_sampled_from(lm, rows):
    """The log-probabilities stay those of the weights, to bfloat16's rounding."""
    whole = sample(lm, UNEVEN, rows, 6, seed=3)
    half = sample(lm.bfloat16(), UNEVEN, rows, 6, seed=3)
    assert half.logp.dtype == np.float32
    same = (half.ids == whole.ids).cumprod(1).astype(bool) & (whole.logp != 0)
    assert same[:, 0].mean() > 0.8
    np.testing.assert_allclose(half.logp[same], whole.logp[same], atol=0.5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"prompts": [[5], []]}, "empty: .1."), ({"prompts": []}, "prompts"), ({"rows": 0}, "rows = 0"), ({"max_answer": 0}, "max_answer = 0")],
)  # fmt: skip
def test_bad_input_is_named(tiny_lm, changed, said):
    with pytest.raises(ValueError, match=said):
        sample(tiny_lm, **{"prompts": [[5]], "rows": 1, "max_answer": 2, "seed": 0, **changed})
