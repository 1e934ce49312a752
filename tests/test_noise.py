"""Label noise belongs to the pair's id."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.noise import bradley_terry_flips, flip_mask, label_pairs, uniform
from rmlab.recipe import stream_seed

IDS = [f"pair-{i}" for i in range(8000)]


def test_rate_is_within_binomial_bounds():
    flips = flip_mask(IDS, 0.25, seed=1)
    assert abs(flips.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(IDS))
    assert not flip_mask(IDS, 0.0, seed=1).any()


def test_the_same_id_flips_in_every_run_and_any_order():
    flips = dict(zip(IDS, flip_mask(IDS, 0.25, seed=1), strict=True))
    order = np.random.default_rng(0).permutation(len(IDS))[:500]
    again = flip_mask([IDS[i] for i in order], 0.25, seed=1)
    assert [flips[IDS[i]] for i in order] == list(again)
    assert (flip_mask(IDS, 0.25, seed=2) != flip_mask(IDS, 0.25, seed=1)).any()


def test_bradley_terry_follows_the_margin():
    margins = np.repeat([0.0, 1.0, 4.0], 8000 // 3 + 1)[:8000]
    flips = bradley_terry_flips(margins, IDS, 1.0, seed=0)
    for m in (0.0, 1.0, 4.0):
        chance = 1 - 1 / (1 + np.exp(-m))
        assert abs(flips[margins == m].mean() - chance) < 0.03


def test_bad_rates_are_named():
    with pytest.raises(ValueError, match=r"rate = 0\.5"):
        flip_mask(IDS, 0.5, seed=0)
    with pytest.raises(ValueError, match="temperature = 0"):
        bradley_terry_flips([1.0], ["a"], 0, seed=0)


GOLD = np.random.default_rng(0).normal(size=(8000, 2)).round(1)


def test_clean_labels_are_golds_sign_and_ties_are_not_kept():
    first, keep, margin = label_pairs(GOLD, IDS, 0.0, 0.0, seed=5)
    np.testing.assert_array_equal(first, GOLD[:, 0] > GOLD[:, 1])
    np.testing.assert_array_equal(keep, GOLD[:, 0] != GOLD[:, 1])
    np.testing.assert_array_equal(margin, np.abs(GOLD[:, 0] - GOLD[:, 1]))
    assert 0 < (~keep).sum() < 800


@pytest.mark.parametrize("flips, temperature", [(0.25, 0.0), (0.0, 0.7), (0.1, 0.7)])
def test_labels_are_spoilt_by_the_named_streams_and_the_margin_says_where(flips, temperature):
    first, keep, margin = label_pairs(GOLD, IDS, flips, temperature, seed=5)
    better = GOLD[:, 0] > GOLD[:, 1]
    wrong = uniform(IDS, stream_seed(5, "flips")) < flips
    if temperature:
        spread = np.abs(GOLD[:, 0] - GOLD[:, 1])
        wrong = wrong ^ bradley_terry_flips(spread, IDS, temperature, stream_seed(5, "bradley-terry"))
    np.testing.assert_array_equal(first, better ^ wrong)
    chosen, rejected = np.where(first, GOLD.T, GOLD.T[::-1])
    np.testing.assert_array_equal(margin, chosen - rejected)
    np.testing.assert_array_equal((margin < 0)[keep], wrong[keep])
    assert 0.05 < wrong.mean() < 0.4


def test_a_pairs_label_is_its_own_whatever_stands_beside_it():
    first, _, margin = label_pairs(GOLD, IDS, 0.25, 0.7, seed=5)
    order = np.random.default_rng(1).permutation(len(IDS))[:500]
    few, _, few_margin = label_pairs(GOLD[order], [IDS[i] for i in order], 0.25, 0.7, seed=5)
    np.testing.assert_array_equal(few, first[order])
    np.testing.assert_array_equal(few_margin, margin[order])


def test_gold_must_fit_the_ids_and_be_finite():
    with pytest.raises(
        ValueError, match=r"gold = 'shape \(3, 2\)': give finite numbers \(M, 2\), a row for each of 2"
    ):
        label_pairs(GOLD[:3], IDS[:2], 0.0, 0.0, seed=0)
    with pytest.raises(ValueError, match=r"gold = .*finite"):
        label_pairs([[1.0, np.nan]], IDS[:1], 0.0, 0.0, seed=0)
