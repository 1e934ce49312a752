"""Label noise belongs to the pair's id."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.noise import bradley_terry_flips, flip_mask

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
        want = 1 - 1 / (1 + np.exp(-m))
        assert abs(flips[margins == m].mean() - want) < 0.03


def test_bad_rates_are_named():
    with pytest.raises(ValueError, match=r"rate = 0\.5"):
        flip_mask(IDS, 0.5, seed=0)
    with pytest.raises(ValueError, match="temperature = 0"):
        bradley_terry_flips([1.0], ["a"], 0, seed=0)
