"""The example's file and models: what they hold, and that the workbench takes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rmlab
from rmlab.text import load_tokenizer
from rmlab.workbench import example

pytestmark = pytest.mark.xdist_group("example")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    example.make(folder, pairs=100, steps=4)
    return folder


def test_a_seed_makes_one_file_and_another_seed_another():
    one, again, other = (example.preferences(50, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, again)
    assert one.chosen.tolist() != other.chosen.tolist()
    assert set(one.topic) <= set(example.GOODS)


def test_chosen_has_the_votes_and_length_is_worth_some():
    rows = example.preferences(600, 0)
    assert rows.soft_label.between(0.5, 1, inclusive="right").all() and rows.soft_label.nunique() == 3
    words = rows[["chosen", "rejected"]].map(lambda text: len(text.split()))
    assert words.chosen.mean() > words.rejected.mean()
    fair = example.preferences(600, 0, biased=False)
    assert (fair.soft_label == 1).all()


def test_an_answer_is_worth_what_its_sentences_are():
    prompts, texts, worths = example.answers(50, seed=0)
    for prompt, text, worth in zip(prompts, texts, worths, strict=True):
        said = {
            trouble: any(remedy.format(good) in text for good in example.GOODS)
            for trouble, (_, remedy) in example.TROUBLES.items()
        }
        known = next(
            trouble
            for trouble, (forms, _) in example.TROUBLES.items()
            if any(prompt[0]["content"] == form.format(good) for form in forms for good in example.GOODS)
        )
        helps = said.pop(known)
        misses = any(said.values())
        counted = example.WORTH["helps"] * helps + example.WORTH["misses"] * misses
        counted += example.WORTH["when"] * any(x in text for x in example.WHEN)
        counted += example.WORTH["sorry"] * any(x in text for x in example.SORRY)
        counted += example.WORTH["filler"] * sum(x in text for x in example.FILLER)
        assert worth == pytest.approx(counted)


def test_the_workbench_takes_file_and_models(place):
    prefs = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic")
    assert len(prefs) == 100 and all(pair.soft is not None for pair in prefs)
    judges = rmlab.fit(place / "my-backbone", prefs, "heads", k=2, lr=1e-3, device="cpu")
    pool = rmlab.Pool.sample(place / "my-policy", prefs.prompts[:2], n=3, max_new_tokens=8, device="cpu")
    pool.score(judges, gold=rmlab.load(place / "my-gold-rm", device="cpu"))
    assert pool.scores.shape == (2, 3, 2) and np.isfinite(pool.gold).all()


def test_gold_reads_another_tokenizer_and_eos_is_not_two(place):
    mine, golds = load_tokenizer(place / "my-backbone"), load_tokenizer(place / "my-gold-rm")
    assert mine.get_vocab() != golds.get_vocab() and mine.eos_token_id != 2
    assert mine.chat_template == golds.chat_template


def test_too_few_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pairs = 10"):
        example.make(tmp_path, pairs=10)
