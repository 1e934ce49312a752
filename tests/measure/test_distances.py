"""Known answers: distances in whitened units, a kernel's values, a posterior by brute force, errors where a predictor is right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from rmlab.measure import distances as d

D = 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def mixed(rng, rows: int, scale: float = 1.0) -> np.ndarray:
    """Gaussian rows of correlated features of unequal size, `scale` times as far out."""
    mixing = np.diag([1, 10, 0.1, 1, 1, 1]) @ np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]
    return scale * rng.normal(size=(rows, D)) @ mixing + 3


def test_the_shrunk_covariance_is_ledoit_and_wolfs(rng):
    from sklearn.covariance import ledoit_wolf

    for rows in (4, 30, 1000):
        x = mixed(rng, rows)
        np.testing.assert_allclose(d.shrunk_covariance(x), ledoit_wolf(x)[0], rtol=1e-9, atol=1e-12)


def test_gaussian_answers_are_at_chi_distances_whatever_the_mixing(rng):
    far = d.fit_mahalanobis(mixed(rng, 20_000))(mixed(rng, 20_000))
    assert np.square(far).mean() == pytest.approx(D, rel=0.03)
    assert (np.square(far) > chi2.ppf(0.99, D)).mean() == pytest.approx(0.01, abs=0.003)


def test_mahalanobis_of_a_diagonal_covariance_is_in_standard_deviations():
    far = d.mahalanobis(np.array([[3.0, 0], [0, 3], [1, 1]]), np.array([1.0, 0]), np.diag([4.0, 9]))
    np.testing.assert_allclose(far, [1, np.sqrt(0.25 + 1), 1 / 3])


def test_the_fourier_features_inner_product_is_the_gaussian_kernel(rng):
    x, width, F = rng.normal(size=(8, 3)), 1.7, 200_000
    phi = d.fourier_features(x, rng.normal(size=(3, F)) / width, rng.uniform(0, 2 * np.pi, F))
    apart = np.square(x[:, None] - x[None]).sum(-1)
    np.testing.assert_allclose(phi @ phi.T, np.exp(-apart / (2 * width**2)), atol=0.01)


def test_the_head_is_the_top_of_the_posterior_and_its_curvature_the_precision(rng):
    z, tau = rng.normal(size=(40, 3)), 0.7

    def loss(w):
        return np.logaddexp(0, -z @ w).sum() + tau / 2 * w @ w

    w, step = d.bradley_terry_head(z, tau), 1e-4
    moves = step * np.eye(3)
    slope = [(loss(w + m) - loss(w - m)) / (2 * step) for m in moves]
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    curved = [
        [
            (loss(w + a + b) - loss(w + a - b) - loss(w - a + b) + loss(w - a - b)) / (4 * step**2)
            for b in moves
        ]
        for a in moves
    ]
    np.testing.assert_allclose(d.bradley_terry_precision(z, w, tau), curved, rtol=1e-4, atol=1e-4)


def test_the_posteriors_std_is_that_of_its_draws(rng):
    root = rng.normal(size=(4, 4))
    precision, features, reference = root @ root.T + np.eye(4), rng.normal(size=(5, 4)), rng.normal(size=4)
    draws = rng.multivariate_normal(np.zeros(4), np.linalg.inv(precision), 200_000)
    simulated = ((features - reference) @ draws.T).std(1)
    np.testing.assert_allclose(d.posterior_std(features, reference, precision), simulated, rtol=0.01)


def test_a_gaussian_process_knows_least_where_no_pair_is_and_ends_at_its_prior(rng):
    """Far from all answers the Gaussian process has the prior's variance, and that of the mean answer's reward."""
    pairs = rng.normal(size=(400, 2, D))
    std = d.fit_gaussian_process(pairs, np.random.default_rng(1))
    direction = rng.normal(size=(300, D))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    by_distance = [std(r * direction).mean() for r in (0, 2, 4, 8, 60)]
    assert (np.diff(by_distance[:4]) > 0.02).all()
    assert by_distance[-1] == pytest.approx(1.0, abs=0.15) and by_distance[0] < 0.5


def test_more_pairs_leave_a_gaussian_process_less_to_doubt(rng):
    few, many = rng.normal(size=(50, 2, D)), rng.normal(size=(2000, 2, D))
    here = rng.normal(size=(200, D))
    doubts = [d.fit_gaussian_process(x, np.random.default_rng(1))(here).mean() for x in (few, many)]
    assert doubts[1] < 0.6 * doubts[0]


def test_pairs_of_equal_answers_teach_a_gaussian_process_nothing(rng):
    pairs, here = rng.normal(size=(2000, 2, D)), rng.normal(size=(200, D))
    twins = pairs.copy()
    twins[:, 1] = twins[:, 0]
    knows, knows_nothing = (d.fit_gaussian_process(x, np.random.default_rng(1))(here) for x in (pairs, twins))
    assert knows_nothing.mean() > 0.6 and knows.mean() < 0.3


def test_ridge_solves_its_normal_equations_and_finds_a_linear_target(rng):
    x, weights = rng.normal(size=(50, 3)), rng.normal(size=(3, 2))
    found = d.ridge(x, x @ weights, 1e-9)
    np.testing.assert_allclose(found, weights, atol=1e-8)
    shrunk = d.ridge(x, x @ weights, 5.0)
    np.testing.assert_allclose(x.T @ (x @ shrunk - x @ weights) + 5 * shrunk, 0, atol=1e-9)


def test_caution_is_low_on_typical_answers_and_rises_away_from_them(rng):
    caution = d.fit_caution(mixed(rng, 2000), np.random.default_rng(1))
    by_distance = [caution(mixed(rng, 500, scale)).mean() for scale in (1, 2, 4, 8)]
    assert by_distance[0] < 0.1 and (np.diff(by_distance) > 0.03).all()
    again = d.fit_caution(mixed(np.random.default_rng(0), 2000), np.random.default_rng(1))
    other = d.fit_caution(mixed(np.random.default_rng(0), 2000), np.random.default_rng(2))
    here = mixed(np.random.default_rng(3), 9)
    assert not np.allclose(again(here), other(here))  # the random network is the stream's


def test_a_feature_that_was_constant_in_training_tells_where_an_answer_has_left_it(rng):
    typical = mixed(rng, 500)
    typical[:, 2] = 1.5
    gone = typical[:20].copy()
    gone[:, 2] += 100
    pairs = typical.reshape(250, 2, D)
    for fit in (
        d.fit_mahalanobis(typical),
        d.fit_caution(typical, np.random.default_rng(0)),
        d.fit_gaussian_process(pairs, np.random.default_rng(0)),
    ):
        assert np.isfinite(fit(gone)).all() and (fit(gone) > fit(typical[:20])).mean() > 0.9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: d.fit_mahalanobis(np.ones((4, 3))), "rows that differ"),
        (lambda: d.fit_mahalanobis(np.full((4, 3), np.nan)), "finite"),
        (lambda: d.fit_caution(np.ones(3), np.random.default_rng(0)), "table"),
        (lambda: d.fit_gaussian_process(np.ones((4, 3)), np.random.default_rng(0)), "pairs"),
        (lambda: d.bradley_terry_head(np.ones((4, 3)), 0.0), "tau"),
        (lambda: d.ridge(np.ones((4, 3)), np.ones((4, 1)), 0.0), "penalty"),
    ],
)
def test_bad_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
