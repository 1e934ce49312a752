"""The packed forward against the model's own, for decoding and for reading whole answers, in both families."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.fastpath import open_prompts
from rmlab.optimise.sampling import sample
from rmlab.tokens import EOS, NEVER_SAMPLED


@pytest.fixture(params=["tiny_lm", "tiny_neox"])
def lm(request):
    return request.getfixturevalue(request.param)


def _hidden(model, ids):
    with torch.no_grad():
        return getattr(model, model.base_model_prefix)(input_ids=ids).last_hidden_state


def test_families_take_their_own_path(tiny_lm, tiny_neox):
    prompts = torch.randint(5, 100, (1, 4))
    names = [type(open_prompts(m, prompts, 1, 2)).__name__ for m in (tiny_lm, tiny_neox)]
    assert names == ["LlamaPrefix", "ModelPrefix"]


@pytest.mark.parametrize(("prompts", "rows"), [(1, 5), (4, 1), (3, 2)])
def test_decoding_equals_the_plain_forward(lm, prompts, rows):
    torch.manual_seed(0)
    start, new = torch.randint(5, 100, (prompts, 7)), torch.randint(5, 100, (prompts * rows, 6))
    prefix = open_prompts(lm, start, rows, 6)
    whole = torch.cat([start.repeat_interleave(rows, 0), new], 1)
    want = _hidden(lm, whole)
    torch.testing.assert_close(prefix.last.repeat_interleave(rows, 0), want[:, 6], atol=1e-5, rtol=1e-5)
    for t in range(6):
        torch.testing.assert_close(prefix.step(new[:, t]), want[:, 7 + t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("prompts", "rows"), [(1, 5), (5, 1)])
def test_rows_that_are_kept_go_on_as_if_alone(lm, prompts, rows):
    torch.manual_seed(1)
    start, new = torch.randint(5, 100, (prompts, 4)), torch.randint(5, 100, (5, 3))
    prefix = open_prompts(lm, start, rows, 3)
    prefix.step(new[:, 0])
    kept = torch.tensor([0, 3])
    prefix.keep(kept)
    prefix.step(new[kept, 1])
    got = prefix.step(new[kept, 2])
    want = _hidden(lm, torch.cat([start.repeat_interleave(rows, 0), new], 1)[kept])[:, -1]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_whole_answers_equal_the_plain_forward(lm):
    torch.manual_seed(2)
    start, ids, lengths = (
        torch.randint(5, 100, (1, 6)),
        torch.randint(5, 100, (7, 9)),
        torch.tensor([1, 9, 4, 4, 2, 8, 3]),
    )
    got = open_prompts(lm, start, 1, 9).last_hidden(ids, lengths)
    for i, length in enumerate(lengths):
        want = _hidden(lm, torch.cat([start, ids[i : i + 1, :length]], 1))[0, -1]
        torch.testing.assert_close(got[i], want, atol=1e-5, rtol=1e-5)


def test_samples_repeat_and_log_probabilities_are_the_models(lm):
    prompts = np.arange(5, 17).reshape(2, 6)
    one, two = (sample(lm, prompts, 8, 12, seed=4, chunk=16) for _ in range(2))
    assert (one.ids == two.ids).all() and (one.logp == two.logp).all()
    assert not np.isin(one.ids[one.logp != 0], NEVER_SAMPLED).any()
    assert (sample(lm, prompts, 8, 12, seed=5, chunk=16).ids != one.ids).any()
    ban = torch.zeros(lm.config.vocab_size)
    ban[list(NEVER_SAMPLED)] = -torch.inf
    for i, (ids, logp, length) in enumerate(zip(one.ids, one.logp, one.lengths, strict=True)):
        whole = torch.from_numpy(np.concatenate([prompts[i // 8], ids[:length]]))[None]
        with torch.no_grad():
            want = torch.log_softmax(lm(input_ids=whole).logits[0, 5:-1] + ban, -1)
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
