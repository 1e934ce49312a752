"""The sampler: the samples are the policy's, the log-probabilities are the model's, and a seed names the answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import decode as decoding
from rmlab.optimise.sampling import sample
from rmlab.tokens import SpecialTokens

EOS, NEVER_SAMPLED = 2, (0, 1, 3, 4)


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
    assert (one.ids == two.ids).all() and (one.logprobs == two.logprobs).all()
    assert not np.isin(one.ids[one.logprobs != 0], NEVER_SAMPLED).any()
    assert (sample(lm, prompts, 8, 12, seed=5, chunk=16).ids != one.ids).any()
    ban = torch.zeros(lm.config.vocab_size)
    ban[list(NEVER_SAMPLED)] = -torch.inf
    for i, (ids, logprobs, length) in enumerate(zip(one.ids, one.logprobs, one.lengths, strict=True)):
        whole = torch.from_numpy(np.concatenate([prompts[i // 8], ids[:length]]).astype(int))[None]
        with torch.no_grad():
            truth = torch.log_softmax(lm(input_ids=whole).logits[0, len(prompts[i // 8]) - 1 : -1] + ban, -1)
        truth = truth[torch.arange(length), torch.from_numpy(ids[:length])]
        np.testing.assert_allclose(logprobs[:length], truth, atol=2e-5)
        assert (logprobs[length:] == 0).all()
        assert (ids[:length] == EOS).sum() <= 1


def test_the_sampler_draws_from_the_policy(lm):
    """First tokens of many answers against the exact distribution, by a chi-square of generous size."""
    prompt = np.arange(5, 11)[None]
    first = sample(lm, prompt, 20_000, 1, seed=0).ids[:, 0]
    with torch.no_grad():
        logits = lm(input_ids=torch.from_numpy(prompt)).logits[0, -1]
    logits[list(NEVER_SAMPLED)] = -torch.inf
    exact = torch.softmax(logits, -1).numpy() * 20_000
    seen = np.bincount(first, minlength=len(exact))
    big = exact > 5
    chi2 = ((seen - exact)[big] ** 2 / exact[big]).sum()
    assert chi2 < big.sum() + 5 * np.sqrt(2 * big.sum())


@pytest.mark.parametrize("rows", [3, 40])
def test_an_answer_does_not_depend_on_the_chunk_or_on_other_prompts(lm, rows):
    whole = sample(lm, UNEVEN, rows, 12, seed=4)
    for chunk in (1, 7, 64) if rows == 3 else (7, 64):
        other = sample(lm, UNEVEN, rows, 12, seed=4, chunk=chunk)
        assert (other.ids == whole.ids).all()
        np.testing.assert_allclose(other.logprobs, whole.logprobs, atol=5e-5)
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
    np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_somebody_elses_autocast_changes_no_answer(lm):
    one = sample(lm, UNEVEN, 4, 12, seed=4)
    with torch.autocast("cpu", torch.bfloat16):
        two = sample(lm, UNEVEN, 4, 12, seed=4)
    assert (one.ids == two.ids).all() and (one.logprobs == two.logprobs).all()


def test_what_is_read_on_the_way_is_read_at_the_hidden_state_of_each_token(lm):
    prompts, weight = UNEVEN, torch.randn(32, generator=torch.Generator().manual_seed(0))
    samples = sample(lm, prompts, 20, 10, seed=1, read=lambda hidden: hidden @ weight)
    assert samples.ended.any() and len(set(samples.lengths)) > 3
    for i in range(0, 60, 7):
        length = samples.lengths[i]
        whole = torch.tensor([[*prompts[i // 20], *samples.ids[i, :length].tolist()]])
        with torch.no_grad():
            hidden = getattr(lm, lm.base_model_prefix)(input_ids=whole).last_hidden_state[0]
        truth = hidden[len(prompts[i // 20]) - 1 : -1] @ weight
        np.testing.assert_allclose(samples.values[i, :length], truth, atol=2e-5)
        assert (samples.values[i, length:] == 0).all()
    assert sample(lm, prompts, 1, 3, seed=1).values is None


@pytest.mark.parametrize("rows", [2, 20])
def test_half_precision_weights_are_sampled_from(lm, rows):
    """The log-probabilities stay those of the weights, to bfloat16's rounding."""
    whole = sample(lm, UNEVEN, rows, 6, seed=3)
    half = sample(lm.bfloat16(), UNEVEN, rows, 6, seed=3)
    assert half.logprobs.dtype == np.float32
    same = (half.ids == whole.ids).cumprod(1).astype(bool) & (whole.logprobs != 0)
    assert same[:, 0].mean() > 0.8
    np.testing.assert_allclose(half.logprobs[same], whole.logprobs[same], atol=0.5)


# the vocabulary: what ends, pads and is never sampled is the model's


def own_log_probs(model, special, prompt, answer):
    """The model's own forward under the ban: (T,) log-probabilities of an answer's tokens."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    logits[:, list(special.never_sampled)] = -torch.inf
    return torch.log_softmax(logits, -1)[torch.arange(len(answer)), torch.tensor(answer)].numpy()


def test_answers_end_with_the_models_own_eos(vocabulary):
    special, model = vocabulary
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight[list(special.eos)] *= 6
    got = sample(model, UNEVEN, 30, 8, seed=0)
    assert 0.1 < got.ended.mean() < 1 and got.ids.dtype == got.lengths.dtype == np.int32
    assert set(special.eos) & set(got.ids[got.ended, got.lengths[got.ended] - 1].tolist()) == set(special.eos)
    for i, (ids, length, ended) in enumerate(zip(got.ids, got.lengths, got.ended, strict=True)):
        answer = ids[:length].tolist()
        assert not set(answer) & set(special.never_sampled) and (ids[length:] == special.pad).all()
        assert [t in special.eos for t in answer] == [False] * (length - 1) + [ended]
        assert ended or length == 8
        truth = own_log_probs(model, special, UNEVEN[i // 30], answer)
        np.testing.assert_allclose(got.logprobs[i, :length], truth, atol=2e-5)


def test_special_tokens_may_be_said(vocabulary):
    _, model = vocabulary
    other = SpecialTokens(10, (11, 12), (13,))
    got = sample(model, UNEVEN, 30, 60, seed=0, special=other)
    assert got.ended.any() and not np.isin(got.ids[got.logprobs != 0], (10, 13)).any()
    assert (got.lengths == other.lengths(got.ids)).all() and (got.ended == other.ended(got.ids)).all()


def test_special_tokens_that_the_model_does_not_embed_are_refused(vocabulary):
    _, model = vocabulary
    for special in (SpecialTokens(120, (2,)), SpecialTokens(0, (2, 150))):
        with pytest.raises(ValueError, match=r"special tokens = 1[25]0: give special tokens below 120"):
            sample(model, [[5]], 1, 2, 0, special)


def test_a_model_without_a_pad_of_its_own_is_refused(tiny_qwen):
    model = copy.deepcopy(tiny_qwen)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    with pytest.raises(ValueError, match="pad_token_id = None: give a PAD token of its own"):
        sample(model, [[5]], 1, 2, 0)


# the head


def family(name, **options):
    """A random policy of another family, with weights large enough for a mistake to show."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 60,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**size, **options})).eval()
        for weight in model.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    return model


def test_a_head_with_a_bias_is_the_models_own():
    model = family("phi")
    assert model.lm_head.bias.abs().max() > 0.3
    special = SpecialTokens.of(model)
    got = sample(model, UNEVEN, 6, 8, seed=0)
    for i, (ids, length) in enumerate(zip(got.ids, got.lengths, strict=True)):
        truth = own_log_probs(model, special, UNEVEN[i // 6], ids[:length].tolist())
        np.testing.assert_allclose(got.logprobs[i, :length], truth, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}),
        ("cohere", {}),
        ("granite", {"logits_scaling": 8.0}),
        ("granite", {"logits_scaling": 1.0}),
    ],
)
def test_logits_that_a_family_caps_or_scales_are_the_models_own(name, options):
    model = family(name, **options)
    special = SpecialTokens.of(model)
    got = sample(model, UNEVEN, 6, 8, seed=0)
    for i, (ids, length) in enumerate(zip(got.ids, got.lengths, strict=True)):
        truth = own_log_probs(model, special, UNEVEN[i // 6], ids[:length].tolist())
        np.testing.assert_allclose(got.logprobs[i, :length], truth, atol=2e-5)


class Doubled(torch.nn.Linear):
    """A head of which its weights do not tell all."""

    def forward(self, hidden):
        return 2 * super().forward(hidden)


def test_what_no_field_names_is_found_out_on_the_first_prompt(tiny_lm, tiny_qwen):
    doubled = copy.deepcopy(tiny_lm)
    doubled.lm_head = Doubled(32, doubled.config.vocab_size, bias=False)
    doubled.lm_head.weight = tiny_lm.lm_head.weight
    random = copy.deepcopy(tiny_qwen)
    for layer in random.model.layers:
        layer.self_attn.attention_dropout = 0.5
    for model in (doubled, random.train()):
        with pytest.raises(
            ValueError, match=r"policy's logits = .* away from its linear layer's.*in eval mode"
        ):
            sample(model, UNEVEN, 1, 2, 0)


# transformers deprecates a name that PEFT still uses
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_what_is_no_plain_policy_is_refused(tiny_lm):
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(tiny_lm)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    )
    with pytest.raises(ValueError, match=r"policy = 'PeftModelForCausalLM': give .*merge_and_unload"):
        sample(adapted, [[5]], 1, 2, 0)
    with pytest.raises(ValueError, match="policy = 'LlamaModel': give a transformers causal language model"):
        sample(tiny_lm.model, [[5]], 1, 2, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": [[5], []]}, "empty: .1."),
        ({"prompts": []}, "prompts"),
        ({"prompts": [[5, -1, 7]]}, r"prompts' ids = \[-1\]: give ids from 0 to 166"),
        ({"prompts": [[5], [167]]}, r"prompts' ids = \[167\]"),
        ({"answers_per_prompt": 0}, "answers_per_prompt = 0"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_bad_input_is_named(tiny_lm, changed, message):
    arguments = {"prompts": [[5]], "answers_per_prompt": 1, "max_new_tokens": 2, "seed": 0, **changed}
    with pytest.raises(ValueError, match=message):
        sample(tiny_lm, **arguments)
