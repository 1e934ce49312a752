"""Token rules, in one place: PAD, EOS, masks, padding, the last real token.

PAD is its own token, never EOS; EOS ends every answer, in training and in scoring; a score is read at
the last real token, which the mask names and never a token id.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sep>", "<unk>")
PAD, BOS, EOS, SEP, UNK = range(5)
NEVER_SAMPLED = (PAD, BOS, SEP, UNK)


def build_tokenizer(words: Sequence[str]):
    """A word-level Hugging Face tokenizer over `SPECIALS` and `words`, split at white space."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate((*SPECIALS, *words))}
    inner = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    names = dict(
        pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", sep_token="<sep>", unk_token="<unk>"
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="right", **names)


def pad_right(rows: Sequence[Sequence[int]], pad: int = PAD, length: int | None = None):
    """Rows of ids -> (ids (B, T) int64, mask (B, T) bool), padded on the right to the longest (or `length`)."""
    width = max((len(r) for r in rows), default=0) if length is None else length
    ids = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def last_index(mask):
    """Index of the last real token of each row, (B, T) -> (B,); left, right or no padding; NumPy or torch.

    Raises
    ------
    ValueError
        A row has no real token: there is nothing to score.
    """
    if bool((mask.sum(-1) == 0).any()):
        raise ValueError("mask has a row with no real token: drop empty answers before scoring")
    width = mask.shape[-1]
    if isinstance(mask, np.ndarray):
        return width - 1 - np.argmax(mask[:, ::-1] != 0, axis=-1)
    return width - 1 - (mask != 0).flip(-1).int().argmax(-1)


def check_special(pad: int | None, eos: int | None) -> None:
    """Refuse a tokenizer without a PAD of its own: with PAD = EOS the end of an answer is never scored."""
    if pad is None or pad == eos:
        raise ValueError(
            f"pad_token_id = {pad!r} and eos_token_id = {eos!r}: add a PAD token of its own, "
            "tokenizer.add_special_tokens({'pad_token': '<pad>'}), and resize the model's embeddings"
        )
