"""A policy's logits are its own: biases, scales and soft caps, recurrent states; what cannot be is refused in both optimisers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast.decode import open_decoder
from rmlab.fast.plain import Decoder, RowDecoder
from rmlab.optimise import ppo
from rmlab.optimise.sampling import sample
from rmlab.recipe import Ppo
from rmlab.tokens import SpecialTokens
from tests.cases.tiny import close, own_logprobs, policy, ppo_once

PROMPTS = [[10, 11, 12], [20, 21, 22, 23, 24, 25, 26]]
CODEGEN = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4}
HEADS = {
    "bias": ("Phi", {}),
    "bias, other family": ("codegen", CODEGEN),
    "soft cap": ("Gemma 2", {}),
    "tight cap": ("Gemma 2", {"final_logit_softcapping": 0.5}),
    "cap of Gemma 3": ("Gemma 3", {"final_logit_softcapping": 1.5}),
    "times": ("Cohere", {}),
    "over": ("Granite", {}),
}


def both(model) -> None:
    """Sampled log-probabilities and PPO's first step are those of the model's own forward."""
    special = SpecialTokens.of(model)
    got = sample(model, PROMPTS, 4, 10, seed=0)
    for i, (ids, length) in enumerate(zip(got.ids, got.lengths, strict=True)):
        close(got.logprobs[i, :length], own_logprobs(model, special, PROMPTS[i // 4], ids[:length].tolist()))
        assert not set(ids[:length].tolist()) & set(special.never_sampled)
    row = ppo_once(model)[0]
    assert row["ratio_error"] < 3e-5 and abs(row["k1"]) < 3e-5 and row["grad_norm"] > 0


@pytest.mark.parametrize("head", HEADS)
def test_what_a_family_does_to_its_logits_is_done(head):
    name, over = HEADS[head]
    model = policy(name, **over)
    model.generation_config.suppress_tokens = [3, 4]
    linear = model.get_output_embeddings()
    state = model.base_model(input_ids=torch.tensor([PROMPTS[0]])).last_hidden_state
    bare = state[0, -1] @ linear.weight.T
    own = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    assert (bare - own).abs().max() > 0.05  # the linear layer alone is another distribution
    both(model)


def test_a_cap_samples_what_it_says():
    """The first token of many answers against the exact distribution."""
    model = policy("Gemma 2", final_logit_softcapping=0.7)
    got = sample(model, [[5, 6]], 20_000, 1, seed=0).ids[:, 0]
    logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].detach()
    logits[0] = -torch.inf
    exact = logits.softmax(-1).numpy() * 20_000
    seen = np.bincount(got, minlength=110)
    assert seen[0] == 0 and ((seen - exact)[1:] ** 2 / exact[1:]).sum() < 109 + 5 * np.sqrt(2 * 109)


def test_a_recurrent_policy_reads_its_rows_whole():
    model = policy("Mamba")
    assert type(open_decoder(model, [[5]], 1, 2)) is RowDecoder
    both(model)


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "Bloom", "Gemma 3"])
def test_other_families_keep_their_cache(name):
    assert type(open_decoder(policy(name), [[5]], 1, 2)) is Decoder


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("Mistral, rows beyond its window", {}),
        ("Gemma 3", {}),
        ("Qwen3", {}),
        ("GPT-2", {}),
        ("Bloom", {}),
        ("OPT", {}),
        ("Llama", {"num_key_value_heads": 1}),
    ],
)
def test_windows_and_prompts_of_several_lengths(name, over):
    both(policy(name, **over))


class Doubled(torch.nn.Linear):
    """More than its weights tell."""

    def forward(self, hidden):
        return 2 * super().forward(hidden)


def doubled():
    model = policy("Llama")
    model.lm_head.__class__ = Doubled
    return model


def seeing_ahead():
    return policy("Llama", is_causal=False)


def masked():
    return policy("BERT")


def narrow():
    return policy("electra", embedding_size=16)


def wrapped():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(policy("Llama"), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))


def bare():
    return policy("Llama").model


# transformers deprecates a name that PEFT still uses
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("build", [doubled, seeing_ahead, masked, narrow, wrapped, bare])
def test_sampling_and_ppo_refuse_alike(build):
    model, words = build(), []
    for run in (lambda: sample(model, PROMPTS, 1, 4, 0), lambda: ppo_once(model)):
        with pytest.raises(ValueError, match=r"policy.*: give a .*causal") as error:
            run()
        words.append(str(error.value).split(" = ")[0])
    assert words[0] == words[1]


def test_a_trunk_that_names_no_embedding_is_refused():
    """The decoder half of an encoder-decoder family."""
    half = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    with pytest.raises(
        ValueError, match=r"embedding of BartDecoderWrapper = None: give a transformers model"
    ):
        sample(policy("bart", is_encoder_decoder=False, is_decoder=True, **half), PROMPTS, 1, 4, 0)


def test_adapters_of_transformers_are_sampled_and_trained():
    """Added to the model itself, they are a part of it."""
    from peft import LoraConfig

    model = policy("Llama")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    both(model)


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Mamba"])
def test_ppo_moves_any_policy_towards_its_reward(name):
    model = policy(name)
    before = copy.deepcopy(model.state_dict())
    settings = Ppo(steps=2, batch=8, minibatches=2, epochs=1, max_new_tokens=4, lr=1e-3, kl_coef=0.0)

    def reward(prompts, answers):
        return np.array([np.mean([token < 50 for token in answer]) for answer in answers])

    rows = ppo.train(model, lambda rng, n: [[10, 11]] * n, reward, settings, 0)
    assert all(np.isfinite(row["k1"]) for row in rows)
    assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())
