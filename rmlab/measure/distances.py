"""How far an answer is from those that a reward model was trained on: scores of a single model's features, without labels.

Each `fit_*` reads features of training answers and returns a function of further features. All are closed-form, or a few
Newton steps; none changes the model. What is missing here is what the papers change in training: InfoRM's bottleneck,
and SNGP's spectral normalisation, which keeps features apart that the trunk may map onto each other.

Letters: R answers, M training answers or pairs, D hidden, F random features, T outputs of a random network. Features are last
hidden states, any unit; every score is a number of 0 or more, larger for answers farther away.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rmlab.recipe import require

Scorer = Callable[[np.ndarray], np.ndarray]  # features (R, D) -> (R,)

OUTPUTS = 64  # T, of the random network whose output is predicted
HIDDEN = 128  # random features of the predictor
RIDGE = 1e-3  # penalty on the predictor's weights, per training answer
FOURIER = 256  # F
PRIOR = 1.0  # precision of the Gaussian process's weights: reward has a standard deviation of 1 nat far from all pairs
STEPS = 50  # of Newton's method, which needs about six
PAIRS_OF_ANSWERS = 1000  # whose distances the kernel's width is the median of
ROUNDING = 1e-9  # of the largest spread: a feature that varies by less is constant


def fit_mahalanobis(typical: np.ndarray) -> Scorer:
    """Distance from the mean of training answers, typical (M, D), in standard deviations under their shrunk covariance.

    The distance of Lee et al. (1807.03888, Eq. 2) with one class, as InfoRM takes it from typical answers in a bottleneck's
    space (2510.13694); `shrunk_covariance` in place of the sample's.
    """
    typical = _table(typical, "typical")
    mean, covariance = typical.mean(0), shrunk_covariance(typical)
    return lambda features: mahalanobis(features, mean, covariance)


def fit_caution(typical: np.ndarray, rng: np.random.Generator) -> Scorer:
    """Error of a predictor of a fixed random network, fitted on training answers, typical (M, D): novelty as a warning.

    Caution (2604.04648) lowers rewards by the error of a predictor fitted on typical answers, random network distillation
    (1810.12894, Section 2.2) the other way round. Here the network is one tanh layer of T random units on standardised features;
    the predictor, linear in the features and in further random tanh units, is the `ridge` solution.

    Returns
    -------
    A function (R, D) -> (R,): root mean square error over the T outputs, from 0 to about 1 near typical answers
    """
    typical = _table(typical, "typical")
    units, width = standardiser(typical), typical.shape[1]
    target, inner = (_random_layer(rng, width, count) for count in (OUTPUTS, HIDDEN))

    def inputs(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(x), 1)), x, inner(x)], 1)

    x = units(typical)
    weights = ridge(inputs(x), target(x), RIDGE * len(x))

    def error(features: np.ndarray) -> np.ndarray:
        x = units(features)
        return np.sqrt(np.square(inputs(x) @ weights - target(x)).mean(1))

    return error


def fit_gaussian_process(pairs: np.ndarray, rng: np.random.Generator) -> Scorer:
    """Predictive standard deviation of a Gaussian process's reward, pairs (M, 2, D) of chosen and rejected features.

    The head of SNGP (Liu et al. 2006.10108, Section 3.1) on a fixed trunk: `fourier_features` of standardised features, a
    Gaussian prior over their weights, and the Laplace precision, here of Bradley-Terry on differences between two answers. The
    kernel's width is the median distance between training answers.

    Returns
    -------
    A function (R, D) -> (R,): standard deviations of the reward against the mean training answer's, nats: Bradley-Terry
    knows rewards only up to a constant. Far from all answers it is the prior's.
    """
    pairs = np.asarray(pairs, np.float64)
    ok = pairs.ndim == 3 and pairs.shape[1] == 2 and pairs.size > 0
    require(ok, "pairs' shape", pairs.shape, "features (M, 2, D) of at least one pair")
    M, _, D = pairs.shape
    typical = _table(pairs.reshape(2 * M, D), "pairs")
    units = standardiser(typical)
    x = units(typical)
    one, other = rng.integers(0, len(x), (2, PAIRS_OF_ANSWERS))
    distances = np.linalg.norm(x[one] - x[other], axis=1)
    width = np.median(distances[distances > 0]) if distances.any() else 1.0
    frequencies, phases = rng.standard_normal((D, FOURIER)) / width, rng.uniform(0, 2 * np.pi, FOURIER)
    phi = fourier_features(x, frequencies, phases)
    differences = phi[0::2] - phi[1::2]
    head = bradley_terry_head(differences, PRIOR)
    precision, reference = bradley_terry_precision(differences, head, PRIOR), phi.mean(0)

    def std(features: np.ndarray) -> np.ndarray:
        return posterior_std(fourier_features(units(features), frequencies, phases), reference, precision)

    return std


def shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """Covariance (D, D) of rows x (M, D), shrunk towards a multiple of the identity: Ledoit and Wolf (2004), Eq. 14.

    With S the sample covariance, m = tr(S) / D, d2 = norm(S - m I)^2 / D and b2 the mean over rows of
    norm(x x' - S)^2 / D / M, at most d2,
    it is b2/d2 m I + (1 - b2/d2) S: of least expected squared error, and invertible although features may be fewer than they
    seem.
    """
    x = _table(x, "x")
    M, D = x.shape
    centred = x - x.mean(0)
    S = centred.T @ centred / M
    m = float(np.trace(S)) / D
    require(m > 0, "x", "rows that are all alike", "rows that differ")
    d2 = float(np.square(S - m * np.eye(D)).sum()) / D
    rows = float((np.square(centred).sum(1) ** 2).sum()) / M - float(np.square(S).sum())
    share = min(max(rows, 0.0) / (M * D) / d2, 1.0) if d2 > 0 else 1.0
    return share * m * np.eye(D) + (1 - share) * S


def mahalanobis(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """sqrt((f - mean)' covariance^-1 (f - mean)) of features (R, D): (R,)."""
    return _length(_table(features, "features") - mean, covariance)


def posterior_std(features: np.ndarray, reference: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """sqrt((f - ref)' precision^-1 (f - ref)), the standard deviation of w.(f - ref) with w of this precision (F, F): (R,)."""
    return _length(_table(features, "features") - reference, precision)


def fourier_features(x: np.ndarray, frequencies: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """sqrt(2 / F) cos(x W + b), (R, F), of x (R, D), frequencies W (D, F) and phases b (F,): Rahimi and Recht (2007).

    With W of N(0, 1 / width^2) and b uniform on a circle, the inner product of two rows is on average the Gaussian kernel
    exp(-norm(x - y)^2 / (2 width^2)).
    """
    return np.sqrt(2 / len(phases)) * np.cos(np.asarray(x, np.float64) @ frequencies + phases)


def bradley_terry_head(differences: np.ndarray, tau: float) -> np.ndarray:
    """The w (F,) of largest sum log sigma(z . w) - tau/2 w.w over differences z (M, F), chosen minus rejected: Newton's method.

    Raises
    ------
    ValueError : tau that is not above 0
    """
    z = _table(differences, "differences")
    require(0 < tau < np.inf, "tau", tau, "a number above 0")
    w = np.zeros(z.shape[1])
    for _ in range(STEPS):
        slope = z.T @ _sigmoid(-z @ w) - tau * w
        step = np.linalg.solve(bradley_terry_precision(z, w, tau), slope)
        w = w + step
        if np.abs(step).max() < 1e-10 * max(1.0, np.abs(w).max()):
            return w
    raise ValueError(f"tau = {tau}: Newton's method does not settle; give a larger tau")


def bradley_terry_precision(differences: np.ndarray, head: np.ndarray, tau: float) -> np.ndarray:
    """sum s z z' + tau I, (F, F), with s the logistic's slope at z . w: the Laplace precision at a head w (F,)."""
    margin = differences @ head
    slope = _sigmoid(margin) * _sigmoid(-margin)
    return (differences * slope[:, None]).T @ differences + tau * np.eye(len(head))


def ridge(inputs: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """The weights W (D, T) of least norm(inputs W - targets)^2 + penalty norm(W)^2, inputs (M, D), targets (M, T)."""
    require(penalty > 0, "penalty", penalty, "a number above 0")
    return np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ targets)


def standardiser(typical: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function (R, D) -> (R, D): features less the mean of typical (M, D), over its standard deviation.

    A feature that is constant there is divided by the largest standard deviation: it tells where an answer has left it.
    """
    typical = _table(typical, "typical")
    mean, spread = typical.mean(0), typical.std(0)
    largest = float(spread.max())
    require(largest > 0, "typical", "rows that are all alike", "rows that differ")
    spread = np.where(spread > ROUNDING * largest, spread, largest)
    return lambda features: (_table(features, "features") - mean) / spread


def _random_layer(rng: np.random.Generator, width: int, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """A fixed layer of `count` tanh units on standardised inputs (R, width): (R, count)."""
    weights, bias = rng.standard_normal((width, count)) / np.sqrt(width), rng.standard_normal(count)
    return lambda x: np.tanh(x @ weights + bias)


def _length(apart: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """sqrt(x' matrix^-1 x) of each row x of (R, D), by the lower Cholesky factor."""
    from scipy.linalg import solve_triangular

    factor = np.linalg.cholesky(matrix)
    return np.linalg.norm(solve_triangular(factor, apart.T, lower=True), axis=0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _table(x: np.ndarray, name: str) -> np.ndarray:
    """Rows of numbers (R, D) as float64."""
    x = np.asarray(x, np.float64)
    require(x.ndim == 2 and x.size > 0, f"{name}'s shape", x.shape, "a table (rows, features), not empty")
    bad = int((~np.isfinite(x)).sum())
    require(bad == 0, name, f"{bad} values that are not finite", "finite numbers")
    return x
