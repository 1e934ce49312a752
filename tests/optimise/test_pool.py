"""The pool: what is sampled, kept, joined and judged."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from rmlab.optimise.pool import Pool, sample_pool
from rmlab.optimise.sampling import sample
from rmlab.recipe import stream, stream_seed
from rmlab.sources.base import Prompt


@pytest.fixture(scope="module")
def prompts(counting):
    return counting.prompts(5, stream(0, "prompts"))


@pytest.fixture(scope="module")
def policy(tiny_policy):
    return tiny_policy()


def test_it_holds_what_the_sampler_gives(policy, prompts):
    seed = stream_seed(0, "pool")
    pool = sample_pool(policy, prompts, 6, 5, seed)
    samples = sample(policy, [p.ids for p in prompts], 6, 5, seed)
    assert pool.ids.shape == (5, 6, 5) and pool.lengths.shape == pool.ended.shape == (5, 6)
    assert pool.ids.dtype == pool.lengths.dtype == np.int32 and pool.ended.dtype == bool
    np.testing.assert_array_equal(pool.ids.reshape(30, 5), samples.ids)
    np.testing.assert_array_equal(pool.lengths.ravel(), samples.lengths)
    np.testing.assert_array_equal(pool.ended.ravel(), samples.ended)
    assert 0 < pool.ended.mean() < 1 and pool.gold is None and pool.terms is None


def test_ids_of_a_large_vocabulary_keep_their_value(vocabulary):
    special, model = vocabulary
    model = copy.deepcopy(model)
    model.resize_token_embeddings(70_000, mean_resizing=False)
    pool = sample_pool(model, [Prompt("a", (5, 60_000))], 64, 3, 0)
    assert pool.ids.max() > 65_535 and pool.ids.dtype == np.int32
    assert (pool.ended == np.isin(pool.ids, special.eos).any(-1)).all()
    assert (pool.lengths == (pool.ids != special.pad).sum(-1)).all()


@pytest.mark.parametrize("gold", [False, True])
def test_parts_are_joined_along_the_prompts(policy, counting, prompts, tmp_path, gold):
    parts = [prompts[:3], prompts[3:]]
    pools = [sample_pool(policy, part, 6, 5, seed) for seed, part in enumerate(parts)]
    if gold:
        pools = [pool.with_gold(counting, part) for pool, part in zip(pools, parts, strict=True)]
    for i, pool in enumerate(pools):
        pool.save(tmp_path / f"{i}.npz")
    whole = Pool.load([tmp_path / "0.npz", tmp_path / "1.npz"])
    for name in ("ids", "lengths", "ended", "gold", "terms"):
        got, arrays = getattr(whole, name), [getattr(pool, name) for pool in pools]
        if arrays[0] is None:
            assert got is None and not gold
        else:
            np.testing.assert_array_equal(got, np.concatenate(arrays))
            assert got.dtype == arrays[0].dtype


def test_gold_is_the_sources_of_each_answer_to_its_prompt(policy, counting, prompts):
    bare = sample_pool(policy, prompts, 6, 5, 0)
    pool = bare.with_gold(counting, prompts)
    assert pool.gold.shape == (5, 6) and pool.gold.dtype == np.float64
    assert pool.terms.shape == (5, 6, 2) and pool.terms.dtype == np.uint8
    for p, n in np.ndindex(5, 6):
        answer = pool.ids[p, n]
        fives, tokens = (answer == 5).sum(), (answer != 0).sum()
        assert pool.terms[p, n].tolist() == [fives, tokens]
        assert pool.gold[p, n] == 2 * fives - tokens + len(prompts[p].ids)
    assert bare.gold is None and pool.ids is bare.ids
    unexplained = bare.with_gold(type(counting)(explained=False), prompts)
    np.testing.assert_array_equal(unexplained.gold, pool.gold)
    assert unexplained.terms is None


def test_bad_input_is_named(policy, counting, goldless, prompts, tmp_path):
    pool = sample_pool(policy, prompts, 6, 5, 0)
    with pytest.raises(ValueError, match="prompts = 4: give the pool's 5"):
        pool.with_gold(counting, prompts[:4])
    with pytest.raises(ValueError, match="source = 'Goldless': give a source that has gold"):
        pool.with_gold(goldless, prompts)
    pool.save(tmp_path / "bare.npz")
    pool.with_gold(counting, prompts).save(tmp_path / "gold.npz")
    with pytest.raises(ValueError, match=r"gold\.npz = .*: give arrays like those of .*bare\.npz"):
        Pool.load([tmp_path / "bare.npz", tmp_path / "gold.npz"])
    np.savez(tmp_path / "old.npz", tokens=pool.ids, ended=pool.ended)
    with pytest.raises(
        ValueError, match=r"old\.npz = 'a file without ids, lengths': give one that Pool\.save"
    ):
        Pool.load([tmp_path / "old.npz"])
