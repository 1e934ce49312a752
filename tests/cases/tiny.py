"""Tiny random models of many families as people bring them, and the truth: the model's own forward on a row alone."""

from __future__ import annotations

import numpy as np
import torch

SIZE = {
    "vocab_size": 110,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
DEBERTA = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
MODERNBERT = {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8, "global_attn_every_n_layers": 2}
DECODERS = {  # name: (family, what is not as in SIZE)
    "Llama": ("llama", {}),
    "Llama, grouped keys": ("llama", {"num_key_value_heads": 2}),
    "Qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "Qwen3": ("qwen3", {"head_dim": 8}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, rows beyond its window": ("mistral", {"sliding_window": 6}),
    "Gemma 1": ("gemma", {"head_dim": 8}),
    "Gemma 2": ("gemma2", {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 2.0}),
    "Gemma 3": ("gemma3_text", {"head_dim": 8, "sliding_window": 8}),
    "Phi": ("phi", {}),
    "GPT-2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "OPT": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "GPT-NeoX": ("gpt_neox", {}),
    "Bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "Cohere": ("cohere", {"logit_scale": 0.25}),
    "Granite": ("granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    "Mamba": ("mamba", {"state_size": 8}),
}
ENCODERS = {
    "BERT": ("bert", {}),
    "ModernBERT": ("modernbert", MODERNBERT),
    "DeBERTa-v2": ("deberta-v2", DEBERTA),
    "T5": ("t5", T5),
}
FAMILIES = {**DECODERS, **ENCODERS}
ROW = [5, 6, 7, 8, 9, 2]


def config(name: str, **over):
    """The tiny configuration of a family, or of a family's own name in transformers."""
    from transformers import AutoConfig

    family, changes = FAMILIES.get(name, (name, {}))
    return AutoConfig.for_model(family, **{**SIZE, **changes, **over})


def build(auto: str, name: str, **over):
    """A model of the class that transformers' `auto` picks, weights large enough for a mistake to show, in eval mode."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, auto).from_config(config(name, **over), dtype=torch.float32).eval()
        for weight in model.parameters():
            weight.data = (0.25 if weight.ndim > 1 else 0.2) * torch.randn_like(weight) + (weight.ndim < 2)
    return model


def policy(name: str, **over):
    """A causal language model."""
    return build("AutoModelForCausalLM", name, **over)


def judge(name: str, labels: int = 2, **over):
    """A sequence classification model of K labels."""
    return build("AutoModelForSequenceClassification", name, num_labels=labels, **over)


@torch.no_grad()
def own_scores(model, rows) -> np.ndarray:
    """Logits (R, K) of the classifier's own forward, each row alone."""
    each = [torch.tensor([list(row)]) for row in rows]
    return torch.cat(
        [model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for ids in each]
    ).numpy()


@torch.no_grad()
def own_logprobs(model, special, prompt, answer) -> np.ndarray:
    """Log-probabilities (T,) of an answer's tokens under the ban, by the model's own forward."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[
        0, len(prompt) - 1 : -1
    ]
    logits[:, list(special.never_sampled)] = -torch.inf
    return torch.log_softmax(logits.float(), -1)[torch.arange(len(answer)), torch.tensor(answer)].numpy()


def pairs(count: int = 16, seed: int = 0):
    """Pairs of random ids, each answer ending in EOS 2."""
    from rmlab.reward.training import PairIds

    rng = np.random.default_rng(seed)
    prompts, chosen, rejected = (
        [rng.integers(low, high, rng.integers(2, 6)).tolist() for _ in range(count)]
        for low, high in ((5, 100), (5, 50), (50, 100))
    )
    return PairIds(prompts, [a + [2] for a in chosen], [a + [2] for a in rejected])


def inputs(*backbones, **training):
    """What methods train from: one epoch on 16 pairs unless said."""
    from rmlab.recipe import Training
    from rmlab.reward.methods import TrainingInputs

    return TrainingInputs(
        backbones, pairs(), Training(**{"epochs": 1, "batch": 8, "lr": 1e-3, **training}), 0
    )


def ppo_once(model, **settings) -> list[dict]:
    """One step of PPO on a reward that counts tokens."""
    from rmlab.optimise import ppo
    from rmlab.recipe import Ppo

    quick = Ppo(**{"steps": 1, "batch": 4, "minibatches": 2, "epochs": 1, "max_new_tokens": 6, **settings})

    def reward(prompts, answers):
        return np.array([len(answer) for answer in answers], float)

    return ppo.train(model, lambda rng, n: [[10, 11, 12][: 1 + i % 3] for i in range(n)], reward, quick, 0)


def close(got, want, size: float = 1.0) -> None:
    """Equal at 1e-5 of their size."""
    got, want = (np.asarray(x.detach() if hasattr(x, "detach") else x) for x in (got, want))
    np.testing.assert_allclose(got, want, atol=1e-5 * max(size, float(np.abs(want).max())), rtol=1e-5)
