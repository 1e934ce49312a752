"""A model as people bring it: grouped keys, an EOS of id 1000, a tokenizer with a chat template; random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

EOS, PAD, USER, ASSISTANT = 1000, 1001, 1002, 1003
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def own_tokenizer(
    template: str | None = TEMPLATE, first: int = 0, pad: bool = True
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, numbered from `first` on."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: first + i for i, letter in enumerate(letters)}
    taken = set(vocab.values())
    vocab |= {f"<unused{i}>": i for i in range(EOS) if i not in taken}
    inner = Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|end|>", "additional_special_tokens": ["<|user|>", "<|assistant|>"]}
    inner.add_special_tokens(["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, **special, **({"pad_token": "<|pad|>"} if pad else {})
    )
    tokenizer.chat_template = template
    return tokenizer


def own_folder(
    folder: Path, seed: int = 0, family: str = "llama", tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """Write a causal language model and its tokenizer into a folder, as `save_pretrained` does."""
    tokenizer = own_tokenizer() if tokenizer is None else tokenizer
    config = AutoConfig.for_model(
        family,
        vocab_size=1004,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
