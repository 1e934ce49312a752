"""Special ids are the model's own: its EOS ends an answer, whichever id that is, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.sampling import sample
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.tokens import SpecialTokens
from tests.cases.tiny import close, judge, own_logprobs, policy, ppo_once


def ending_in(model, *eos):
    """The model with a head that prefers these ids after anything."""
    head, last = model.get_output_embeddings(), model.base_model.norm.weight
    with torch.no_grad():
        last.zero_()[0] = 1.0
        head.weight.zero_()[list(eos), 0] = 4.0
    return model


@pytest.mark.parametrize("eos", [109, 1000, [2, 50, 109]])
def test_an_answer_ends_at_the_models_own_eos(eos):
    model = policy("Llama", eos_token_id=eos, vocab_size=1010)
    special = SpecialTokens.of(model)
    with torch.no_grad():
        model.lm_head.weight[list(special.eos)] *= 8
    got = sample(model, [[10, 11, 12], [20]], 20, 8, seed=0)
    assert got.ended.mean() > 0.2
    last = got.ids[got.ended, got.lengths[got.ended] - 1]
    assert set(last.tolist()) <= set(special.eos)
    for i in range(0, 40, 7):
        answer = got.ids[i, : got.lengths[i]].tolist()
        assert not set(answer[:-1]) & set(special.eos)
        close(
            got.logprobs[i, : len(answer)],
            own_logprobs(model, special, [[10, 11, 12], [20]][i // 20], answer),
        )


@pytest.mark.parametrize(("family", "eos", "pad"), [("GPT-NeoX", 0, 1), ("Gemma 1", 1, 0)])
def test_an_eos_among_the_first_ids_is_sampled(family, eos, pad):
    model = policy(family, eos_token_id=eos, pad_token_id=pad, bos_token_id=None)
    ids = torch.tensor([[10, 11]])
    state = model.base_model(input_ids=ids).last_hidden_state[0, -1].detach()
    head = torch.nn.Linear(32, 110, bias=False)
    head.weight.data[:] = model.get_output_embeddings().weight
    head.weight.data[eos] = 20 * state / state.norm() ** 2
    model.set_output_embeddings(head)
    share = model(input_ids=ids).logits[0, -1].softmax(-1)[eos].item()
    got = sample(model, [[10, 11]], 400, 4, seed=0)
    assert abs((got.ids[:, 0] == eos).mean() - share) < 4 * np.sqrt(share * (1 - share) / 400) + 1e-3
    assert share > 0.5 and got.ended.mean() > 0.5


def test_ppo_counts_answers_that_end_with_the_models_own_eos():
    rows = ppo_once(ending_in(policy("Llama", eos_token_id=109), 109), missing_eos_penalty=5.0)
    assert rows[0]["ended"] > 0.4 and rows[0]["ratio_error"] < 1e-4


def test_pad_among_the_eos_is_refused_everywhere():
    with pytest.raises(ValueError, match="pad_token_id = 12: give a PAD token of its own"):
        RewardModel(judge("Llama", 1, eos_token_id=[2, 11, 12], pad_token_id=12))
    with pytest.raises(ValueError, match="pad_token_id = 2: give"):
        sample(policy("Llama", pad_token_id=2), [[5]], 1, 2, 0)


def test_the_mend_for_a_missing_pad_mends():
    """The steps of the error's own words, one after another."""
    model = policy("GPT-2", pad_token_id=None, eos_token_id=99)
    with pytest.raises(ValueError, match=r"set model\.config\.pad_token_id"):
        from_backbone(model, 1, seed=0)
    model.resize_token_embeddings(111, mean_resizing=False)
    model.config.pad_token_id = 110
    assert from_backbone(model, 1, seed=0).special == SpecialTokens(110, (99,))
    assert sample(model, [[5, 6]], 2, 3, seed=0).ids.max() <= 110


def test_a_model_that_names_no_eos_takes_one_that_is_said(tmp_path):
    model = judge("BERT", eos_token_id=None)
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="eos = "):
        RewardModel.load(tmp_path / "bert")
    reward = RewardModel.load(tmp_path / "bert", special=SpecialTokens(0, (2,)))
    reward.save(tmp_path / "again")
    assert RewardModel.load(tmp_path / "again").special == reward.special == SpecialTokens(0, (2,))
