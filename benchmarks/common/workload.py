"""The speed model and its data: a small GPT-NeoX, random ids, uneven answers. Speed depends on shapes alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rmlab.reward.training import PairIds
from rmlab.sources.sandbox.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, SPECIALS

VOCAB = 512
MODEL = "GPT-NeoX, hidden 128, 4 layers, 4 heads, vocabulary 512, fp32, dropout 0, weights from a seed"
PROMPT, ANSWER = (16, 24), (8, 48)  # tokens, both ends included; <eos> is an answer's last

Ids = list[list[int]]
Range = tuple[int, int]  # tokens, both ends included


def neox(seed: int = 0) -> nn.Module:
    """A `GPTNeoXForCausalLM` in eval mode: 0.9 M parameters."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=256,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        classifier_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(config).eval()


@torch.no_grad()
def ending(model: nn.Module, share: float) -> nn.Module:
    """The model of `neox`, now one that ends an answer at each token with a probability of about `share`; 0: never.

    One direction of the final norm's shift moves the logits of `<eos>` and of the tokens that rmlab never samples,
    and no others: what any sampler draws is then the same, without a rule that forbids them.
    """
    up = torch.zeros(model.config.hidden_size)
    up[0] = 1.0
    model.gpt_neox.final_layer_norm.bias.copy_(10.0 * up)
    head = model.get_output_embeddings().weight
    head[:, 0] = 0.0
    head[list(SPECIAL_TOKENS.never_sampled)] = -3.0 * up  # a logit of about -30
    odds = share / (1 - share) * (VOCAB - len(SPECIALS))
    head[EOS] = (float(np.log(odds)) / 10 if share else -3.0) * up
    return model


@torch.no_grad()
def llama(seed: int = 0) -> nn.Module:
    """The recipes' `LlamaForCausalLM`, random weights, on the sandbox's vocabulary; `<eos>` is often likely.

    Its generation config forbids nothing: a rule would slow `generate`. Our side says what is never sampled.
    """
    from rmlab.backbone import build
    from rmlab.recipe import Size
    from rmlab.sources.sandbox.source import Sandbox

    model = build(Size(), Sandbox.vocab_size, SPECIAL_TOKENS, seed).eval()
    model.generation_config.suppress_tokens = None
    model.get_output_embeddings().weight[EOS] *= 3.0  # so that its logit is high in some contexts
    return model


def answers(count: int, rng: np.random.Generator, size: Range = ANSWER) -> Ids:
    """Random ids, `size` tokens from the first to the second number, `<eos>` included."""
    return [[*_ids(rng, int(n) - 1), EOS] for n in rng.integers(size[0], size[1] + 1, count)]


def prompts(count: int, rng: np.random.Generator, size: Range = PROMPT) -> Ids:
    """Random ids, `size` tokens from the first to the second number, `<bos>` included."""
    return [[BOS, *_ids(rng, int(n) - 1)] for n in rng.integers(size[0], size[1] + 1, count)]


def pairs(count: int, seed: int = 0, prompt: Range = PROMPT, answer: Range = ANSWER) -> PairIds:
    """Random prompts with two random answers each."""
    rng = np.random.default_rng(seed)
    return PairIds(prompts(count, rng, prompt), answers(count, rng, answer), answers(count, rng, answer))


def _ids(rng: np.random.Generator, count: int) -> list[int]:
    return rng.integers(len(SPECIALS), VOCAB, count).tolist()
