"""The sandbox's special tokens, the first five ids, and a tokenizer over its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmlab.tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sep>", "<unk>")
PAD, BOS, EOS, SEP, UNK = range(5)
SPECIAL_TOKENS = SpecialTokens(PAD, (EOS,), never_sampled=(PAD, BOS, SEP, UNK))


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level Hugging Face tokenizer over `SPECIALS` and `words`, split at white space."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate((*SPECIALS, *words))}
    inner = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    names = {f"{name[1:-1]}_token": name for name in SPECIALS}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="right", **names)
