"""Curves of a pool: rows, words, a picture and a file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rmlab
from rmlab.optimise.best_of_n import best_of_n
from rmlab.reward.aggregate import aggregate


@pytest.fixture
def pool():
    """Scores and gold that share a part."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(12, 32))
    scores = (gold[..., None] + rng.normal(size=(12, 32, 3))).astype(np.float32)
    return rmlab.Pool(["x"] * 12, [["y"] * 32] * 12, np.ones((12, 32), bool), scores, gold)


def test_best_of_n_is_the_exact_expectation(pool):
    rows = (
        pool.best_of_n(["mean", "min"]).rows.query("ensemble == 'all'").set_index(["aggregator", "pressure"])
    )
    for rule in ("mean", "min"):
        want = best_of_n(aggregate(pool.scores, rule), pool.gold, [1, 8, 32]).mean(0)
        np.testing.assert_allclose([rows.gold[rule, n] for n in (1, 8, 32)], want, atol=1e-6)
    assert (rows.gold_low < rows.gold).all() and (rows.judge == "gold").all()


def test_without_gold_held_out_members_judge(pool):
    pool.gold = None
    assert set(pool.best_of_n(["mean"]).rows.judge) == {"held-out members"}


@pytest.mark.parametrize("optimiser", ["best_of_n", "tilt"])
def test_they_are_read_drawn_and_written(pool, optimiser, tmp_path):
    curves = getattr(pool, optimiser)(["mean", "uwo"])
    assert set(curves.rows.optimiser) == {optimiser} and "judged by gold, 12 prompts" in str(curves)
    names = str(curves).splitlines()[1].split()
    assert names[2:4] == [{"best_of_n": "n", "tilt": "beta"}[optimiser], "kl"] and "pressure" not in names
    assert "Worth by gold" in curves.plot().alt
    curves.save(tmp_path / "curves.csv")
    assert len(pd.read_csv(tmp_path / "curves.csv")) == len(curves.rows)


def test_what_cannot_be_drawn_is_refused(pool):
    with pytest.raises(ValueError, match="aggregator = 'median2': give one of mean"):
        pool.best_of_n(["median2"])
    pool.scores = None
    with pytest.raises(ValueError, match=r"scores = None: give pool.score\(judges\) first"):
        pool.tilt()
