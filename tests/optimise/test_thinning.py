"""What a page keeps: the answers that can win, weights that add up, scores on a grid fine enough for them."""

import numpy as np
import pytest

from rmlab.optimise.thinning import STEPS, best_tenth, grid, thin

P, N, C = 3, 400, 4


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).normal(size=(P, N, C))


ENSEMBLES = [{"members": [0, 1]}, {"members": [1, 2, 3]}]


def test_the_best_of_every_ranking_are_kept_for_themselves(scores):
    gold = scores.sum(-1)
    kept, weight = thin(scores, gold, ENSEMBLES, 60, 0)
    assert kept.shape == weight.shape == (P, 60)
    rankings = [gold, *np.moveaxis(scores, -1, 0)]
    for part in (scores[..., [0, 1]], scores[..., [1, 2, 3]]):
        rankings += [part.mean(-1), part.min(-1), part.mean(-1) - part.std(-1)]
    for p in range(P):
        assert len(set(kept[p])) == 60
        for ranking in rankings:
            best = np.argmax(ranking[p])
            assert weight[p, kept[p] == best] == [1]
    np.testing.assert_allclose(weight.sum(1), N)
    assert (weight >= 0.9).all()


def test_without_gold_the_members_decide(scores):
    kept, weight = thin(scores, None, ENSEMBLES, 60, 0)
    for p in range(P):
        for c in range(C):
            assert weight[p, kept[p] == np.argmax(scores[p, :, c])] == [1]
        assert len(set(kept[p])) == 60
    np.testing.assert_allclose(weight.sum(1), N)


def test_the_weighted_means_are_the_pool_s(scores):
    """Averaged over samples: no bias in the mean of a member, within four standard errors."""
    means = []
    for seed in range(40):
        kept, weight = thin(scores, scores[..., 0], ENSEMBLES, 60, seed)
        means.append([(weight[p] @ scores[p, kept[p]]) / N for p in range(P)])
    means = np.array(means)
    off = np.abs(means.mean(0) - scores.mean(1))
    assert (off <= 4 * means.std(0) / np.sqrt(40) + 0.01).all()


def test_the_same_seed_keeps_the_same_answers(scores):
    first, again, other = (thin(scores, scores[..., 0], ENSEMBLES, 60, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("keep", [N, N + 1])
def test_a_small_pool_is_kept_whole(scores, keep):
    kept, weight = thin(scores, scores[..., 0], ENSEMBLES, keep, 0)
    np.testing.assert_array_equal(kept, np.tile(np.arange(N), (P, 1)))
    assert (weight == 1).all()


@pytest.mark.parametrize("keep", [60, N])
def test_what_never_ended_is_left_out_and_the_others_stand_for_it(scores, keep):
    ended = np.random.default_rng(1).random((P, N)) < 0.8
    ended[1] = np.arange(N) < 40  # fewer than are kept
    ended[2] = False
    kept, weight = thin(scores, scores[..., 0], ENSEMBLES, keep, 0, ended)
    np.testing.assert_allclose(weight.sum(1), N)
    assert ended[0, kept[0]].all() and set(kept[1]) == set(range(40))
    np.testing.assert_allclose(np.bincount(kept[1], weight[1]), N / 40)
    assert len(set(kept[2])) == kept.shape[1] == min(keep, N)  # none ended: all stay
    best = np.argmax(np.where(ended[0], scores[0, :, 2], -np.inf))
    np.testing.assert_allclose(weight[0, kept[0] == best].sum(), N / ended[0].sum())
    far = np.where(ended[..., None] | ~ended.any(1)[:, None, None], scores, -1e6)
    again = thin(far, scores[..., 0], ENSEMBLES, keep, 0, ended)
    np.testing.assert_array_equal(again[0], kept)
    with pytest.raises(ValueError, match="ended"):
        thin(scores, None, ENSEMBLES, keep, 0, ended[:2])


def test_no_more_are_kept_than_ended(scores):
    ended = np.arange(N) < np.array([[30], [50], [20]])
    kept, weight = thin(scores, None, ENSEMBLES, 60, 0, ended)
    assert kept.shape == (P, 50) and (kept.max(1) == [29, 49, 19]).all()
    np.testing.assert_allclose(weight.sum(1), N)


def test_the_best_tenth_by_hand():
    weight, score = np.array([10.0, 5, 4, 1, 80]), np.array([3.0, 9, 3 + 1e-12, 7, 0])  # room for 10
    np.testing.assert_allclose(best_tenth(weight, score, 1e-9), [4 * 10 / 14, 5, 4 * 4 / 14, 1, 0])
    np.testing.assert_allclose(best_tenth(weight, np.zeros(5), 1e-9), weight / 10)


def test_the_grid_is_half_a_step_off_at_most(scores):
    units = scores * [1e-3, 1, 50, 1e4] + [0, -7, 300, 1e6]
    steps, scale, offset = grid(units, list("abcd"))
    assert np.abs(steps).max() <= 32767 and (steps == np.rint(steps)).all()
    np.testing.assert_array_less(
        np.abs(steps * scale.astype(np.float64) + offset - units).max((0, 1)), 0.51 * scale
    )


@pytest.mark.parametrize("far,share", [(-1e6, 1), (1e6, 1), (-1e6, P * N // 3)])
def test_a_score_far_outside_the_rest_is_refused(scores, far, share):
    """One answer scored -1e6 would leave all others three steps; a third of them is no better."""
    off = scores.copy()
    off[..., 2].flat[:share] = far
    with pytest.raises(ValueError, match=r"a score of 'c' = -?1000000\.0: give one closer to most others"):
        grid(off, list("abcd"))


def test_a_score_as_far_as_the_grid_can_show_is_kept(scores):
    off = scores.copy()
    off[0, 0, 2] = -20  # ranks last, and the others keep their order
    steps, scale, _ = grid(off, list("abcd"))
    low, high = np.quantile(scores[..., 2], [0.5, 0.9])
    assert (high - low) / scale[2] > STEPS
    order = np.argsort(off[..., 2].ravel())
    assert (np.diff(steps[..., 2].ravel()[order]) >= 0).all() and steps[0, 0, 2] == -32767


def test_scores_that_take_few_values_are_kept():
    rare = np.zeros((2, 100, 3))
    rare[:, :40, 0], rare[:, :5, 1] = 1, 1  # verdicts, seldom or often right; and one that is always the same
    steps, scale, offset = grid(rare, list("abc"))
    np.testing.assert_allclose(steps * scale + offset, rare, atol=1e-6)
    rare[0, 0, 1] = -1e6
    with pytest.raises(ValueError, match=r"a score of 'b' = -1000000\.0"):
        grid(rare, list("abc"))
