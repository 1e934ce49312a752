"""Ids that are none and answers without a token are refused at the door; padding is no part of an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.reward import member_scores
from rmlab.optimise.sampling import sample
from rmlab.optimise.trl import RewardFunction, openrlhf
from rmlab.reward.model import RewardModel
from tests.cases.tiny import close, judge, own_scores, policy

FAMILIES = ["Llama", "GPT-2", "BERT", "T5"]
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(106))]


@pytest.fixture(params=FAMILIES)
def reward(request):
    return RewardModel(judge(request.param))


@pytest.mark.parametrize("strange", [-100, -1, 110, 32_000])
def test_an_id_that_is_no_id_is_refused_wherever_it_stands(reward, strange):
    ids = torch.tensor([[5, strange, 2]])
    for run in (
        lambda: reward.score(np.array([5, 6]), ids.numpy(), np.array([3])),
        lambda: reward.score(np.array([5, strange]), np.array([[8, 2]]), np.array([2])),
        lambda: reward.raw_pair_scores([[5]], [[strange, 2]], [[6, 2]]),
        lambda: reward(ids, torch.ones_like(ids)),
        lambda: member_scores(reward, [[5]], [[strange, 2]]),
        lambda: RewardFunction(reward, "mean")([[5]], [""], [[strange, 2]]),
    ):
        with pytest.raises(ValueError, match=str(strange)):
            run()


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Mamba"])
@pytest.mark.parametrize("prompts", [[[5, -1, 7]], [[5], [110]], [[5], []], []])
def test_prompts_that_are_none_are_not_sampled_from(name, prompts):
    with pytest.raises(ValueError, match="prompts"):
        sample(policy(name), prompts, 2, 3, 0)


def test_an_empty_side_is_refused_and_not_read_at_the_others_end(reward):
    for run in (
        lambda: reward.raw_pair_scores([[5, 6]], [[8, 2]], [[]]),
        lambda: reward.raw_pair_scores([[]], [[8, 2]], [[9, 2]]),
        lambda: reward.score(np.zeros(0, int), np.array([[8, 2]]), np.array([2])),
        lambda: reward.score(np.array([5]), np.array([[8, 2], [0, 0]]), np.array([2, 0])),
        lambda: member_scores(reward, [[5]], [[]]),
        lambda: reward(torch.tensor([[5, 2], [0, 0]]), torch.tensor([[1, 1], [0, 0]])),
    ):
        with pytest.raises(ValueError, match=r"prompts|rejected|answers|lengths|mask|no token"):
            run()


def test_what_stands_in_the_padding_is_not_read(reward):
    want = own_scores(reward.model, [[5, 6, 8, 2], [5, 6, 9, 10, 2]])
    for filler in (0, 2, 77, -100):
        ids = np.array([[8, 2, filler], [9, 10, 2]])
        close(reward.score(np.array([5, 6]), ids, np.array([2, 3])), want)


def test_an_answer_at_its_longest_and_none_at_all(reward):
    close(reward.score(np.array([5]), np.array([[2]]), np.array([1])), own_scores(reward.model, [[5, 2]]))
    assert reward.score(np.array([5]), np.zeros((0, 3), int), np.zeros(0, int)).shape == (0, 2)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def test_trailing_pads_and_bare_ends(tokenizer):
    reward = RewardModel(judge("Llama"))
    function = RewardFunction(reward, "mean", tokenizer=tokenizer)
    got = function(["w1 w2", "w3", "w3"], ["", "", ""], [[13, 2], [14, 15, 2, 0, 0], []])
    want = own_scores(reward.model, [[5, 6, 13, 2], [7, 14, 15, 2], [7, 2]]).mean(1)
    close(got, want)
    assert function([], [], []) == []


def test_padding_that_comes_as_text_is_no_answer(tokenizer):
    reward = RewardModel(judge("Llama"))
    function = openrlhf(RewardFunction(reward, "mean", tokenizer=tokenizer))
    queries = ["<pad> <pad> <s> w1 w2 w4 </s>", "<s> w1 w2 w4 </s> <pad>"]
    got = function(queries, ["<s> w1 w2"] * 2, [None] * 2)["rewards"]
    close(got, own_scores(reward.model, [[1, 5, 6, 8, 2]] * 2).mean(1))


def test_a_cut_answer_costs_its_penalty(tokenizer):
    reward = RewardModel(judge("Llama"))
    function = RewardFunction(reward, "mean", tokenizer=tokenizer, missing_eos_penalty=1.0)
    want = own_scores(reward.model, [[5, 13, 14], [5, 13, 2]]).mean(1) - np.array([1.0, 0.0])
    close(function(["w1", "w1"], ["", ""], [[13, 14], [13, 2]]), want)
