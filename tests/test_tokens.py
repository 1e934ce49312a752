"""Special tokens as a model and its tokenizer say them; padding and the last real token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS, build_tokenizer
from rmlab.sources.sandbox.world import WORDS
from rmlab.tokens import SpecialTokens, last_index, pad_right


def model(pad=0, eos=2, **generation):
    """What `SpecialTokens.of` reads of a model."""
    config = SimpleNamespace(pad_token_id=pad, eos_token_id=eos)
    config.get_text_config = lambda: config
    own = SimpleNamespace(**{"pad_token_id": pad, "eos_token_id": eos, **generation})
    return SimpleNamespace(config=config, generation_config=own)


def test_every_eos_counts_wherever_it_is_named():
    assert SpecialTokens.of(model(eos=[7, 2])).eos == (2, 7)
    assert SpecialTokens.of(model(eos=2, eos_token_id=[2, 9])).eos == (2, 9)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=5)
    special = SpecialTokens.of(model(eos=2), tokenizer)
    assert special.eos == (2, 5) and special.pad == 0


def test_what_is_never_sampled_is_pad_and_what_the_model_suppresses():
    assert SpecialTokens.of(model()).never_sampled == (0,)
    assert SpecialTokens.of(model(suppress_tokens=[4, 1, 3])).never_sampled == (0, 1, 3, 4)
    assert SpecialTokens(1, (2,), (3, 3)).never_sampled == (1, 3)


def test_a_model_without_a_generation_config_and_one_with_a_text_config():
    bare = model()
    bare.generation_config = None
    assert SpecialTokens.of(bare) == SpecialTokens(0, (2,))
    inner = SimpleNamespace(pad_token_id=3, eos_token_id=[8])
    outer = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: inner))
    assert SpecialTokens.of(outer) == SpecialTokens(3, (8,))


def test_no_pad_is_refused_with_the_mend_and_a_tokenizer_may_bring_it():
    with pytest.raises(ValueError, match=r"pad_token_id = None: give a PAD token of its own.*resize"):
        SpecialTokens.of(model(pad=None))
    assert SpecialTokens.of(model(pad=None), SimpleNamespace(pad_token_id=6, eos_token_id=2)).pad == 6


@pytest.mark.parametrize("eos", [2, [5, 2]])
def test_pad_among_the_eos_is_refused(eos):
    with pytest.raises(ValueError, match=r"pad_token_id = 2: give a PAD token.*it is an EOS now"):
        SpecialTokens.of(model(pad=2, eos=eos))


def test_a_tokenizer_whose_pad_is_not_the_models_is_refused():
    with pytest.raises(ValueError, match=r"pad_token_id of tokenizer.* = \[9, 0, 0\]: give one and the same"):
        SpecialTokens.of(model(), SimpleNamespace(pad_token_id=9, eos_token_id=2))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((0, ()), "eos = \\(\\): give at least one"),
        ((0, (-1,)), "eos = \\(-1,\\)"),
        ((-1, (2,)), "never_sampled = \\(-1,\\): give ids of 0"),
        ((0, (2,), (1, 2)), "never_sampled = \\(0, 1, 2\\): give ids without an EOS"),
    ],
)
def test_impossible_ids_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        SpecialTokens(*arguments)


def test_the_sandbox_says_the_same_as_its_models_and_its_tokenizer(tiny_lm):
    assert SpecialTokens.of(tiny_lm) == SPECIAL_TOKENS
    assert SpecialTokens.of(tiny_lm, build_tokenizer(WORDS)) == SPECIAL_TOKENS


def test_answers_have_lengths_and_ends_and_text():
    special = SpecialTokens(9, (2, 5))
    ids = np.array([[7, 8, 2, 9, 9], [7, 0, 8, 5, 9], [7, 8, 7, 8, 7]], np.int32)
    assert special.lengths(ids).tolist() == [3, 4, 5]
    assert special.ended(ids).tolist() == [True, True, False]
    assert [special.drop(row) for row in ids] == [[7, 8], [7, 0, 8], [7, 8, 7, 8, 7]]
    assert special.ended(ids[None]).shape == special.lengths(ids[None]).shape == (1, 3)


def test_padding_is_on_the_right_with_the_id_that_is_named():
    ids, mask = pad_right([[5, 6, 7], [0], []], pad=9)
    assert ids.tolist() == [[5, 6, 7], [0, 9, 9], [9, 9, 9]] and ids.dtype == np.int64
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert pad_right([[5]], length=3)[0].tolist() == [[5, 0, 0]]
    assert pad_right([])[0].shape == (0, 0)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_last_real_token_is_what_the_mask_says(kind):
    mask = kind([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    assert last_index(mask).tolist() == [1, 2, 3, 3]
    with pytest.raises(ValueError, match="no real token"):
        last_index(kind([[1, 0], [0, 0]]))
