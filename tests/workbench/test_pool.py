"""Pools of your own: sampled until the policy's EOS, scored by text where tokenizers differ."""

from __future__ import annotations

import numpy as np
import pytest

import rmlab


def test_gold_reads_another_tokenizer_by_text(place):
    gold = rmlab.load(place / "my-gold-rm")
    prompts = [[{"role": "user", "content": "Which way?"}]]
    pool = rmlab.Pool.sample(place / "my-policy", prompts, n=6, max_new_tokens=8)
    pool.score(gold, gold=gold)
    for i, (answer, done) in enumerate(zip(pool.answers[0], pool.ended[0], strict=True)):
        ids = gold.text.answer_ids(prompts[0], answer)
        ids = ids if done or len(ids) == 1 else ids[:-1]
        want = gold.score([gold.text.prompt_ids(prompts[0])], [ids])
        np.testing.assert_allclose(pool.gold[0, i], want[0, 0], atol=1e-5)
    again = rmlab.Pool(prompts, pool.answers, pool.ended)
    again.score(gold, gold=lambda prompts, answers: [len(answer) for answer in answers])
    assert (again.gold == [[len(answer) for answer in pool.answers[0]]]).all()


def test_a_pool_comes_back_from_its_folder(place, tmp_path):
    judges = rmlab.load(place / "my-gold-rm")
    pool = rmlab.Pool.sample(place / "my-policy", ["One?", "Two?"], n=4, max_new_tokens=6).score(judges)
    pool.save(tmp_path)
    again = rmlab.Pool.load(tmp_path)
    assert again.prompts == pool.prompts and again.answers == pool.answers and again.gold is None
    np.testing.assert_array_equal(again.scores, pool.scores)
    with pytest.raises(ValueError, match="gold = None: give gold, or a second member"):
        again.best_of_n()
    with pytest.raises(ValueError, match=r"shape of gold = \(3,\)"):
        again.score(judges, gold=[1.0, 2.0, 3.0])
