"""The certificate: unbiased estimates, violations at most at their level, and worth something where gold rises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from rmlab.measure.certificate import LEVEL, attained_level, certified, contrasts, draw_labels
from rmlab.optimise.tilt import best_of_n_policies

N, C = 256, 32
NS = 2 ** np.arange(9)
Z = norm.ppf((np.arange(N) + 0.5) / N)  # the proxy of every prompt
POLICIES = np.stack(list(best_of_n_policies(np.tile(Z, (C, 1)), NS)))
WORLDS = {  # mean gold of the answer of proxy z
    "rises": 0.7 * Z,
    "peaks": 0.7 * Z - 0.8 * np.maximum(Z - 0.8, 0) ** 2,
    "drops from a cliff": 0.5 * Z - 3.0 * (Z > 2.2),
    "just falls": -0.001 * Z,
    "falls after a start that seems to rise": 0.3 * Z - 0.9 * np.maximum(Z - 0.3, 0),
}


def certificates(world: str, draws: int, noise: str = "normal") -> tuple[np.ndarray, np.ndarray]:
    """How many strengths each of the draws certifies, and the true gain of each strength, that of no strength first."""
    rng, mean = np.random.default_rng(len(world)), WORLDS[world]
    truth = POLICIES[:, 0] @ (mean - mean.mean())
    truth[0] = 0.0
    out = []
    for _ in range(draws):
        errors = rng.normal(size=(C, N)) if noise == "normal" else rng.standard_t(3, size=(C, N))
        gold = mean + rng.normal(size=(C, 1)) + 0.3 * Z * rng.normal(size=(C, 1)) + errors
        labels = draw_labels(POLICIES, gold, np.arange(C), rng)
        out.append(certified(contrasts(labels, POLICIES)[:, 1:]))
    return np.array(out), truth


@pytest.mark.parametrize("world", WORLDS)
def test_violations_are_at_most_at_their_level(world):
    got, truth = certificates(world, 1000)
    wrong = (truth[got] < -1e-12).mean()
    assert wrong <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / 1000), wrong
    if world == "just falls":
        assert wrong > 0.05  # the level is used, not stayed away from


def test_heavy_tails_do_not_break_the_level():
    got, truth = certificates("just falls", 500, "heavy")
    assert (truth[got] < -1e-12).mean() <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / 500)


def test_a_certificate_is_not_trivial_where_gold_rises():
    got, _ = certificates("rises", 200)
    assert np.median(NS[got]) == N and (got == 0).mean() < 0.05
    peaked, truth = certificates("peaks", 200)
    assert np.median(NS[peaked]) >= 4 and NS[truth > 0].max() == 32


def test_the_attained_level_is_that_of_the_test_at_skewed_contrasts():
    rng, prompts = np.random.default_rng(0), 32
    for skewed in (rng.exponential(size=(4000, prompts)), rng.gamma(4, size=(4000, prompts))):
        x = skewed.mean() - skewed  # of mean 0: a few prompts lose much
        wrong = np.mean([certified(row[:, None]) for row in x])
        expected = attained_level(x.reshape(-1, 1), prompts)
        assert expected == pytest.approx(wrong, abs=0.015) and wrong > 0.115
        both = np.stack([x.ravel(), -x.ravel()], 1)
        assert attained_level(both, prompts) == pytest.approx(expected)  # the worst strength
        assert attained_level(-x.reshape(-1, 1), prompts) == LEVEL
        assert attained_level(x.reshape(-1, 1), 4 * prompts) - LEVEL == pytest.approx((expected - LEVEL) / 2)
    assert attained_level(rng.normal(size=(20_000, 3)), prompts) == pytest.approx(LEVEL, abs=0.002)
    assert attained_level(np.zeros((5, 2)), 5) == LEVEL
    with pytest.raises(ValueError, match="contrasts' shape"):
        attained_level(np.zeros((0, 2)), 5)
    with pytest.raises(ValueError, match="prompts = 0"):
        attained_level(np.zeros((3, 2)), 0)


def test_estimates_are_unbiased_for_every_strength():
    rng = np.random.default_rng(0)
    gold = WORLDS["peaks"] + rng.normal(size=(C, 1)) + rng.normal(size=(C, N))
    true = np.einsum("lpn,pn->l", POLICIES - POLICIES[:1], gold) / C
    draws = np.array(
        [contrasts(draw_labels(POLICIES, gold, np.arange(C), rng), POLICIES).mean(0) for _ in range(1500)]
    )
    error = draws.std(0)[1:] / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - true)[1:] < 4 * error).all() and (draws[:, 0] == 0).all()


def test_labels_are_of_the_prompts_that_may_be_labelled_and_no_more_than_there_are():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(C, N))
    labels = draw_labels(POLICIES, gold, np.array([3, 5, 9]), rng, budget=10)
    assert sorted(labels.prompt) == [3] * 3 + [5] * 3 + [9] * 3
    np.testing.assert_array_equal(labels.gold, gold[labels.prompt, labels.answer])
    few = draw_labels(POLICIES, gold, np.arange(C), rng, budget=7)
    assert len(set(few.prompt)) == 7 and (few.chance > 0).all()
    with pytest.raises(ValueError, match="design's shape"):
        draw_labels(POLICIES[:1], gold, np.arange(C), rng)
    with pytest.raises(ValueError, match="labels and prompts"):
        draw_labels(POLICIES, gold, np.arange(0), rng)


def test_the_sequence_stops_at_the_first_failure():
    rng = np.random.default_rng(0)
    up, down = 1 + 0.1 * rng.normal(size=(20, 1)), -1 + 0.1 * rng.normal(size=(20, 1))
    assert certified(np.hstack([up, up, down, up])) == 2
    assert certified(np.hstack([down, up])) == 0 and certified(np.hstack([up, up])) == 2
    assert certified(up[:2]) == 0
    with pytest.raises(ValueError, match="level"):
        certified(up, 0.7)
