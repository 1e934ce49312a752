"""The reference: a row's own numbers from any model, whatever stands beside it and came before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.fast import plain
from rmlab.fast.decode import open_decoder
from rmlab.fast.plain import has_plain_cache, rope_reach, trunk_of
from rmlab.fast.rows import read_pairs
from tests.fast.families import BY_BATCH, PACKED, PLAIN, RECURRENT, alone, close, every, ragged

SOME = {name: PACKED[name] for name in ("llama", "neox")}


@every(SOME, PLAIN, RECURRENT, BY_BATCH)
def test_rows_of_several_lengths_equal_rows_alone(lm):
    rows = [np.array(row) for row in [*ragged(0, 5, 6, 12), *ragged(1, 5, 2, 6)]]
    starts = np.array([len(row) // 2 for row in rows])
    got = plain.read_rows(trunk_of(lm), rows, starts)
    close(got, torch.cat([alone(lm, row)[start:] for row, start in zip(rows, starts, strict=True)]))


@every(BY_BATCH)
def test_what_was_read_before_does_not_show(lm):
    """Dynamic rotations stay as the longest batch left them: rows of 9 tokens after rows of 40 and alone."""
    trunk, middle = trunk_of(lm), [np.arange(5, 14)]
    want = plain.read_rows(trunk, middle, np.array([8]))
    plain.read_rows(trunk, [np.arange(5, 45)], np.array([39]))
    assert torch.equal(plain.read_rows(trunk, middle, np.array([8])), want)


def test_rotations_by_the_batch_are_known_by_their_configs(fresh):
    assert [rope_reach(fresh(name).config) for name in BY_BATCH] == [8, 8, 8]
    assert {rope_reach(fresh(name).config) for name in ("llama3", "yarn", "gpt2", "neox")} == {None}


@every(BY_BATCH)
def test_decoding_stops_where_a_caches_keys_are_not_a_rows(lm):
    decoder = open_decoder(lm, [[5, 6], [7]], 1, 6)
    close(
        decoder.step(torch.tensor([8, 9])), torch.stack([alone(lm, row)[-1] for row in ([5, 6, 8], [7, 9])])
    )
    with pytest.raises(ValueError, match="at most 8 tokens"):
        open_decoder(lm, [[5, 6], [7]], 1, 7)


@pytest.mark.parametrize(("name", "plain_cache"), [("gpt2", True), ("opt", True), ("mamba", False)])
def test_a_cache_is_used_where_it_is_keys_and_values_at_their_places(fresh, name, plain_cache):
    assert has_plain_cache(trunk_of(fresh(name))) == plain_cache


def test_a_forward_that_takes_no_positions_is_not_trusted_with_padding(fresh):
    trunk = trunk_of(fresh("gpt2"))
    trunk.forward = lambda input_ids, past_key_values=None, attention_mask=None, **rest: None
    assert not has_plain_cache(trunk)
    trunk.config.model_type = "bloom"
    assert has_plain_cache(trunk)


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_model_that_sees_ahead_is_read_and_not_decoded(fresh, name):
    model = fresh(name)
    model.config.is_causal = False
    rows = ragged(0, 3), ragged(1, 3), ragged(2, 3)
    whole = [p + a for side in rows[1:] for p, a in zip(rows[0], side, strict=True)]
    close(read_pairs(model, *rows), torch.stack([alone(model, row)[-1] for row in whole]))
    with pytest.raises(ValueError, match="is_causal"):
        open_decoder(model, [[5]], 1, 4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of PEFT
def test_wrapped_and_offloaded_models_are_refused(fresh):
    from accelerate import cpu_offload
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        fresh("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    )
    with pytest.raises(ValueError, match="merge_and_unload"):
        read_pairs(wrapped, [[5]], [[6]], [[7]])
    with pytest.raises(ValueError, match="merge_and_unload"):
        read_pairs(fresh("llama").model, [[5]], [[6]], [[7]])
    away = fresh("llama")
    cpu_offload(away, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="in memory"):
        read_pairs(away, [[5]], [[6]], [[7]])
