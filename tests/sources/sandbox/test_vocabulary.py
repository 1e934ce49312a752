"""The sandbox's special tokens and its tokenizer."""

from __future__ import annotations

from rmlab.sources.sandbox.vocabulary import (
    BOS,
    EOS,
    PAD,
    SEP,
    SPECIAL_TOKENS,
    SPECIALS,
    UNK,
    build_tokenizer,
)
from rmlab.sources.sandbox.world import ID, VOCAB, WORDS, cedar
from rmlab.tokens import SpecialTokens


def test_specials_are_the_first_ids():
    assert [VOCAB[i] for i in (PAD, BOS, EOS, SEP, UNK)] == list(SPECIALS) == list(VOCAB[:5])
    assert SPECIAL_TOKENS == SpecialTokens(pad=0, eos=(2,), never_sampled=(0, 1, 3, 4))


def test_the_tokenizer_reads_and_writes_the_worlds_words():
    tokenizer = build_tokenizer(WORDS)
    assert len(tokenizer) == len(VOCAB)
    text = f"<bos> {cedar().text} <sep>"
    assert tokenizer(text)["input_ids"] == cedar().ids()
    assert tokenizer.decode(tokenizer("the price is fair . zebra")["input_ids"]).endswith("<unk>")
    assert tokenizer("the zebra")["input_ids"] == [ID["the"], UNK]
    assert [getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos", "sep", "unk")] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_rows_are_padded_on_the_right():
    tokenizer = build_tokenizer(WORDS)
    batch = tokenizer(["the price", "is"], padding=True)
    assert batch["input_ids"][1] == [ID["is"], PAD] and batch["attention_mask"][1] == [1, 0]
