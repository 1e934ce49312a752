"""The paired bootstrap: weights, means, and how often the band holds the truth."""

import numpy as np
import pytest

from rmlab.measure.intervals import CrossedBootstrap, clustered_share, percentile_interval


def test_weights_are_those_of_units_drawn_and_reproducible():
    a, b, c = (
        CrossedBootstrap(7, 3, 5, 200, seed=1),
        CrossedBootstrap(7, 3, 5, 200, seed=1),
        CrossedBootstrap(7, 3, 5, 200, seed=2),
    )
    for name, size in (("prompts", 7), ("draws", 3), ("backbones", 5)):
        w = getattr(a, name)
        assert w.shape == (200, size) and (w >= 0).all()
        np.testing.assert_allclose(w.sum(1), 1)
        assert np.array_equal(w, getattr(b, name)) and not np.array_equal(w, getattr(c, name))


def test_the_mean_equals_a_loop():
    rng = np.random.default_rng(0)
    curves, draw, seeds = rng.normal(size=(4, 6, 3)), [0, 0, 1, 1], [[0], [1, 2], [2, 2, 0], [1]]
    r = CrossedBootstrap(6, 2, 3, 50, seed=3)
    samples = r.mean(curves, draw, seeds)
    for b in range(50):
        w = np.array(
            [
                r.draws[b, d] * np.mean([r.backbones[b, s] for s in ss])
                for d, ss in zip(draw, seeds, strict=True)
            ]
        )
        if w.sum() == 0:
            assert np.isnan(samples[b]).all()
            continue
        expected = sum(w[u] * r.prompts[b] @ curves[u] for u in range(4)) / w.sum()
        np.testing.assert_allclose(samples[b], expected, atol=1e-12)


def test_a_shared_shift_leaves_the_paired_difference_without_spread():
    """Prompts differ wildly; two sets of units differ by exactly 0.3. Only a paired band sees it."""
    rng = np.random.default_rng(1)
    base = 10 * rng.normal(size=(1, 40, 1)) + rng.normal(size=(6, 1, 2))
    draw, seeds = [0, 0, 0, 1, 1, 1], [[0], [1], [2]] * 2
    r = CrossedBootstrap(40, 2, 3, 500)
    one, two = r.mean(base, draw, seeds), r.mean(base + 0.3, draw, seeds)
    np.testing.assert_allclose(two - one, 0.3, atol=1e-12)
    low, high = percentile_interval(one)
    assert (high - low > 2).all()


def test_permuting_prompts_or_units_together_with_their_labels_changes_no_point():
    rng = np.random.default_rng(2)
    curves, draw, seeds = rng.normal(size=(6, 9, 2)), [0, 0, 1, 1, 2, 2], [[0], [1]] * 3
    r = CrossedBootstrap(9, 3, 2, 300)
    order = rng.permutation(6)
    moved = r.mean(curves[order], [draw[i] for i in order], [seeds[i] for i in order])
    np.testing.assert_allclose(moved, r.mean(curves, draw, seeds), atol=1e-12)
    low, high = percentile_interval(moved)
    mean = curves.mean((0, 1))
    assert (low < mean).all() and (mean < high).all()


def test_the_variance_of_a_mean_is_the_unbiased_one():
    x = np.array([1.0, 2.0, 6.0])
    samples = CrossedBootstrap(3, n_boot=40000, seed=4).mean(x[None, :, None], [0], [[0]])
    assert samples.var() == pytest.approx(x.var(ddof=1) / 3, rel=0.03)
    over_seeds = CrossedBootstrap(1, 1, 3, n_boot=40000, seed=5).mean(
        x[:, None, None], [0, 0, 0], [[0], [1], [2]]
    )
    assert over_seeds.var() == pytest.approx(x.var(ddof=1) / 3, rel=0.03)


def test_a_factor_of_one_level_stays_fixed():
    curves = np.random.default_rng(6).normal(size=(2, 1, 4))
    samples = CrossedBootstrap(1, 1, 1, 10).mean(curves, [0, 0], [[0], [0]])
    np.testing.assert_allclose(samples, np.repeat(curves.mean((0, 1))[None], 10, 0))


def test_the_band_covers_the_truth_about_as_often_as_it_says():
    """Prompt, label and pretraining effects, crossed; truth 0. Few levels cost some coverage."""
    rng = np.random.default_rng(7)
    draw, seeds = np.repeat(np.arange(6), 6), [[s] for s in np.tile(np.arange(6), 6)]
    hits, trials = 0, 200
    for t in range(trials):
        prompt, d, s = rng.normal(size=40), 0.5 * rng.normal(size=6), 0.5 * rng.normal(size=6)
        curves = (
            prompt[None] + (d[draw] + s[np.array(seeds)[:, 0]])[:, None] + 0.3 * rng.normal(size=(36, 40))
        )
        samples = CrossedBootstrap(40, 6, 6, 200, seed=t).mean(curves[..., None], draw, seeds)
        low, high = percentile_interval(samples)
        hits += int(low[0] <= 0 <= high[0])
    assert 0.86 <= hits / trials <= 0.99


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda r, c: r.mean(c[:, :3], [0, 0], [[0], [0]]), r"curves' shape.*\(U, 5, L\)"),
        (lambda r, c: r.mean(c, [0, 2], [[0], [0]]), "unit_draw"),
        (lambda r, c: r.mean(c, [0], [[0], [0]]), "unit_draw"),
        (lambda r, c: r.mean(c, [0, 0], [[0]]), "unit_backbones' length"),
        (lambda r, c: r.mean(c, [0, 0], [[0], []]), r"unit_backbones\[1\] = \[\]"),
        (lambda r, c: r.mean(c, [0, 0], [[0], [9]]), r"unit_backbones\[1\] = \[9\]"),
        (lambda r, c: percentile_interval(c, 95), "level = 95"),
        (lambda r, c: percentile_interval(np.full((3, 2), np.nan)), "samples"),
        (lambda r, c: CrossedBootstrap(0), "prompts = 0"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(CrossedBootstrap(5, 2, 2, 10), np.zeros((2, 5, 3)))


@pytest.mark.parametrize("spread", [0.0, 0.15])
@pytest.mark.parametrize("groups", [6, 40])
def test_the_interval_of_a_share_covers_whether_groups_agree_or_not(spread, groups):
    """Groups of unequal size, each with a share of its own: the truth is their expectation."""
    rng = np.random.default_rng(0)
    hits, trials = 0, 600
    for _ in range(trials):
        sizes = rng.integers(1, 40, groups)
        own = 0.75 + spread * rng.choice([-1, 1], groups)
        correct = rng.random(sizes.sum()) < np.repeat(own, sizes)
        _, low, high = clustered_share(correct, np.repeat(np.arange(groups), sizes))
        hits += low <= 0.75 <= high
    assert 0.93 <= hits / trials <= (0.98 if groups == 40 else 1)


def test_groups_of_one_are_wilsons_and_groups_of_the_same_count_once():
    correct = np.arange(100) < 80
    share, low, high = clustered_share(correct, range(100))
    assert (share, low, high) == pytest.approx((0.8, 0.710, 0.867), abs=2e-3)
    share, low, high = clustered_share(np.repeat(correct, 5), np.repeat(range(100), 5))
    assert (share, low, high) == pytest.approx((0.8, 0.710, 0.867), abs=2e-3)
    share, low, high = clustered_share(np.ones(50), np.arange(50) % 10)
    assert share == high == 1 and 0.6 < low < 0.75  # ten groups, all right
    assert np.isnan(clustered_share(correct, ["one"] * 100)[1:]).all()
    with pytest.raises(ValueError, match="pairs and their groups"):
        clustered_share(correct, range(99))
    with pytest.raises(ValueError, match="level = 95"):
        clustered_share(correct, range(100), 95)
