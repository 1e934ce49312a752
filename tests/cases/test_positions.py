"""A row's numbers do not depend on what stands beside it: other rows, padding, the room of an array."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.reward import member_scores
from rmlab.optimise.sampling import sample
from rmlab.reward.model import RewardModel
from rmlab.tokens import pad_right
from tests.cases.tiny import FAMILIES, close, judge, own_scores, policy

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
}
BY_ROOM = {
    "dynamic": ("Llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 16}),
    "dynamic, NeoX": (
        "GPT-NeoX",
        {"rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}, "max_position_embeddings": 16},
    ),
    "longrope": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
}
PLAIN = {
    name: (name, {})
    for name in ("Llama", "Mistral, rows beyond its window", "Gemma 3", "GPT-2", "OPT", "Bloom")
}
PLAIN |= {name: (name, {}) for name in ("BERT", "ModernBERT", "DeBERTa-v2", "T5")}
RNG = np.random.default_rng(0)
PROMPT = RNG.integers(5, 100, 8).tolist()
SHORT, LONGER = (RNG.integers(5, 100, n).tolist() + [2] for n in (5, 40))


def alone(model, rows):
    """Each row's own logits; dynamic rotations keep what came before, until a row of one token comes."""
    out = []
    for row in rows:
        own_scores(model, [[2]])
        out.append(own_scores(model, [row]))
    return np.concatenate(out)


@pytest.mark.parametrize("name", {**BY_ROOM, **PLAIN})
def test_a_score_is_its_rows_own(name):
    kind, over = {**BY_ROOM, **PLAIN}[name]
    reward = RewardModel(judge(kind, **over))
    want = alone(reward.model, [PROMPT + SHORT, PROMPT + LONGER])
    close(member_scores(reward, [PROMPT], [SHORT]), want[:1])
    close(member_scores(reward, [PROMPT, PROMPT], [SHORT, LONGER]), want)
    wide, mask = pad_right([SHORT, LONGER], length=60)
    close(reward.score(np.array(PROMPT), wide, mask.sum(1)), want)
    close(reward.raw_pair_scores([PROMPT], [LONGER], [SHORT]), want[::-1])


@pytest.mark.parametrize("name", BY_ROOM)
def test_sampling_beyond_a_rotations_reach_is_refused(name):
    kind, over = BY_ROOM[name]
    model = policy(kind, **over)
    assert sample(model, [PROMPT], 2, 8, seed=0).ids.shape == (2, 8)
    with pytest.raises(ValueError, match=r"rope_parameters.*at most 16 tokens"):
        sample(model, [PROMPT], 2, 9, seed=0)


OTHERS = {  # families that no table lists, each with what its config needs to be tiny
    "mixtral": {"num_local_experts": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "glm": {"head_dim": 8},
}
OTHERS |= {
    name: {}
    for name in ("phi3", "olmo2", "stablelm", "falcon", "starcoder2", "smollm3", "qwen3_moe", "biogpt")
}


WITHOUT_CLASSIFIERS = {"Cohere", "Granite", "Mamba"}


@pytest.mark.parametrize("name", [*(name for name in FAMILIES if name not in WITHOUT_CLASSIFIERS), *OTHERS])
def test_padding_on_either_side_changes_nothing(name):
    reward = RewardModel(judge(name, **OTHERS.get(name, {})))
    rows = [RNG.integers(5, 100, n).tolist() + [2] for n in (3, 9, 17, 30)]
    want, widest = own_scores(reward.model, rows), max(map(len, rows))
    for left in (False, True):
        ids, mask = torch.full((4, widest), reward.special.pad), torch.zeros(4, widest)
        for i, row in enumerate(rows):
            place = slice(widest - len(row), widest) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        close(reward(ids, mask), want)
        close(reward(ids.masked_fill(mask == 0, 77), mask), want)


@pytest.mark.parametrize(
    ("name", "over", "places"),
    [
        ("GPT-2", {}, 128),
        ("OPT", {}, 128),
        ("BERT", {}, 128),
        ("roberta", {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}, 126),
    ],
)
def test_a_row_beyond_the_learned_positions_is_refused(name, over, places):
    reward = RewardModel(judge(name, **over))
    longest = np.full((1, places - 8), 9)
    got = reward.score(np.array(PROMPT), longest, np.array([places - 8]))
    close(got, own_scores(reward.model, [PROMPT + longest[0].tolist()]))
    with pytest.raises(ValueError, match=rf"longest row = {places + 1}: give rows of at most {places}"):
        reward.score(np.array([*PROMPT, 5]), longest, np.array([places - 8]))
    if name in ("GPT-2", "OPT"):
        assert sample(policy(name), [PROMPT], 2, places - 8, seed=0).ids.shape == (2, places - 8)
        with pytest.raises(ValueError, match=f"give rows of at most {places}"):
            sample(policy(name), [PROMPT], 2, places - 7, seed=0)


def test_rows_of_an_encoder_decoder_may_hold_ends_in_their_midst():
    """Its own forward takes no batch of rows with one and with two of them."""
    reward = RewardModel(judge("T5"))
    prompts, answers = [[5, 2, 6], [7, 8], [9, 2, 2, 10]], [[11, 2], [12, 13, 2], [14, 2]]
    want = own_scores(reward.model, [p + a for p, a in zip(prompts, answers, strict=True)])
    close(member_scores(reward, prompts, answers), want)
    with pytest.raises(ValueError, match="EOS in a row = 0: give rows that hold the EOS, 2"):
        member_scores(reward, [[5, 6]], [[7, 8]])
    with pytest.raises(ValueError, match=r"eos_token_id = \[2, 3\]: give one EOS"):
        RewardModel(judge("T5", eos_token_id=[2, 3]))
