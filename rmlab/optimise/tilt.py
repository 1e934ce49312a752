"""The exact KL-regularised optimum on a finite pool, and its rivals on the same axis.

The N stored answers of a prompt are samples of the policy pi0, so on the pool pi0 is uniform, and a policy
is a row of weights. The best one at a given KL is the tilted policy (Rafailov et al. 2305.18290, Eq. 4)

    pi(y) = pi0(y) exp(r(y) / beta) / Z    maximises    E_pi[r] - beta KL(pi || pi0)

Nothing is trained and nothing is drawn: what differs between two tilted curves is the proxy, not the
optimiser. Best-of-n, soft best-of-n, Best-of-Poisson and chi-square pessimism give weights of the same shape.
Every `*_weights` function takes a proxy (P, N), finite, any unit, and optionally `ended` (P, N) bool, and
returns w (P, N) float64, rows summing to 1, in the pool's order; answers of equal proxy weigh the same.
An answer with `ended` False is disqualified: it weighs 0, as if pi0 were drawn from until an answer ends (in
`best_of_n` it may still win where nothing else was drawn). A prompt where none ended keeps its plain mean.

A pool of N answers holds no policy with a KL above log N, and represents one only by the answers it has:
read a point beside its effective sample size. Letters: P prompts, N answers a prompt, V values, L strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmlab.optimise.best_of_n import as_floats, winner_weights
from rmlab.recipe import require

KL_NAME = "exact on the pool"
ESS_FLOOR = 10.0  # answers a prompt; below it one answer, and the luck of its gold, decides the point


@dataclass(frozen=True)
class Frontier:
    """What an optimiser reaches at each strength, prompt by prompt.

    Parameters
    ----------
    strengths : (L,) beta, n, mu: whatever the optimiser is turned up by
    values : (P, L) or (P, L, V), the unit of the values; NaN where `ess < floor`. Average over prompts with
        `mean`, not `nanmean`: the prompts that drop out are not a random sample.
    kl : (P, L) KL(pi || pi0) on the pool, nats, exact; at most log N
    ess : (P, L) effective sample size, answers
    floor : the effective sample size below which the pool cannot represent the policy
    """

    strengths: np.ndarray
    values: np.ndarray
    kl: np.ndarray
    ess: np.ndarray
    floor: float

    @property
    def represented(self) -> np.ndarray:
        """(P, L) bool: the effective sample size reaches the floor."""
        return self.ess >= self.floor


def tilt(
    proxy: ArrayLike,
    values: ArrayLike,
    betas: ArrayLike,
    ended: ArrayLike | None = None,
    floor: float = ESS_FLOOR,
) -> Frontier:
    """The tilted policy at every beta: the frontier of KL-regularised optimisation against a proxy.

    Parameters
    ----------
    proxy : (P, N) the reward r that is optimised, finite where `ended`
    values : (P, N), or (P, N, V) for several at once: what an answer is worth (gold, the proxy, a length)
    betas : (L,) prices of a nat, in the proxy's unit, from 0 (the best answer) to infinity (the plain mean).
        Proxies of another scale need other betas: compare them at equal KL, see `beta_for_kl`.
    ended : (P, N) bool, optional: False disqualifies an answer
    floor : effective sample size below which values are NaN; 0 shows every point
    """
    betas = np.atleast_1d(np.asarray(betas, np.float64))
    return frontier((tilted_weights(proxy, b, ended) for b in betas), values, betas, floor)


def frontier(
    policies: Iterable[np.ndarray], values: ArrayLike, strengths: ArrayLike, floor: float = ESS_FLOOR
) -> Frontier:
    """The frontier of any optimiser: its weights (P, N), one array a strength, against the values.

    frontier((best_of_n_weights(proxy, n, ended) for n in ns), gold, ns)
    """
    strengths = np.atleast_1d(np.asarray(strengths))
    points = [(expected(w, values), kl(w), ess(w)) for w in policies]
    fits = strengths.ndim == 1 and len(points) == len(strengths) > 0
    require(fits, "strengths' shape", strengths.shape, f"one number for each of the {len(points)} policies")
    value, divergence, size = (np.stack(x, axis=1) for x in zip(*points, strict=True))
    thin = size < floor
    value[thin] = np.nan
    return Frontier(strengths, value, divergence, size, float(floor))


def expected(w: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Mean of the values (P, N) or (P, N, V) under the weights: (P,) or (P, V), in the values' unit."""
    w, values = _policy(w), as_floats(values, "values")
    fits = values.ndim in (2, 3) and values.shape[:2] == w.shape
    require(fits, "values' shape", values.shape, f"(P, N) or (P, N, V) over the weights' {w.shape}")
    finite = bool(np.isfinite(values).all())
    require(finite, "values", "NaN or infinity", "what every answer is worth, disqualified ones too")
    return np.einsum("pn,pn...->p...", w, values)


def kl(w: ArrayLike) -> np.ndarray:
    """KL(pi || pi0) = sum_i w_i log(N w_i) in nats, (P,): exact on the pool, from 0 to log N.

    pi0 is the whole pool: with M of N answers not disqualified, no policy costs less than log(N / M).
    """
    w = _policy(w)
    return np.maximum((w * np.log(np.where(w > 0, w.shape[1] * w, 1.0))).sum(1), 0.0)


def ess(w: ArrayLike) -> np.ndarray:
    """Effective sample size 1 / sum_i w_i^2 in answers, (P,): N for the plain mean, 1 for a single answer."""
    return 1.0 / (_policy(w) ** 2).sum(1)


def tilted_weights(proxy: ArrayLike, beta: ArrayLike, ended: ArrayLike | None = None) -> np.ndarray:
    """The KL-regularised optimum, w_i proportional to exp(r_i / beta): Rafailov et al. 2305.18290, Eq. 4.

    `beta` is one number or one a prompt (P,), in the proxy's unit, from 0 to infinity, both included.
    """
    score = _scores(proxy, ended)
    beta = np.asarray(beta, np.float64)
    require(beta.shape in ((), (len(score),)), "beta's shape", beta.shape, f"one number or ({len(score)},)")
    require(bool((beta >= 0).all()), "beta", beta.tolist(), "0 (best answer) to infinity (plain mean)")
    return _gibbs(_gaps(score), beta.reshape(-1, 1))


def beta_for_kl(
    proxy: ArrayLike, kl_target: float, ended: ArrayLike | None = None, per_prompt: bool = False
) -> float | np.ndarray:
    """The beta at which the tilted policy has a given KL, so that aggregators are compared at equal KL.

    The KL falls in beta, since dKL/d(log beta) = -Var(r / beta) <= 0; Newton's method on log beta, with bisection
    where that leaves the bracket or stalls.

    Parameters
    ----------
    proxy, ended : as in `tilt`
    kl_target : nats, strictly between what beta = infinity and beta = 0 give on this pool
    per_prompt : False: one beta for all, where the KL averaged over prompts is the target (what a trained
        policy with one beta does); True: each prompt's own beta

    Returns
    -------
    float, or (P,) if `per_prompt`, in the proxy's unit; a KL that the pool cannot represent is a ValueError
    """
    gaps = _gaps(_scores(proxy, ended))
    over = {"axis": 1, "keepdims": True} if per_prompt else {"keepdims": True}
    low, high = (kl(_gibbs(gaps, np.full((1, 1), b)))[:, None].mean(**over) for b in (np.inf, 0.0))
    pool = "every prompt of this pool" if per_prompt else "this pool"
    mend = f"a number above {low.max():.6g} and below {high.min():.6g} nats, what {pool} can represent"
    require(bool(low.max() < kl_target < high.min()), "kl_target", kl_target, mend)
    steps = np.where(np.isfinite(gaps) & (gaps < 0), -gaps, np.nan)  # what separates an answer from the best
    cold, hot = np.log(np.nanmin(steps, **over) / 100), np.log(np.nanmax(steps, **over) * 1e8)
    at = np.clip(np.log(np.nanstd(steps, **over).clip(1e-300) / np.sqrt(2 * kl_target)), cold, hot)
    before = hot - cold
    for _ in range(200):
        value, slope = (x.mean(**over) for x in _kl_and_slope(gaps, np.exp(at)))
        cold, hot = np.where(value > kl_target, at, cold), np.where(value > kl_target, hot, at)
        step = np.divide(value - kl_target, slope, out=np.full_like(at, np.inf), where=slope > 0)
        newton = (cold <= at + step) & (at + step <= hot) & (2 * abs(step) <= abs(before))
        at, before = np.where(newton, at + step, (cold + hot) / 2), np.where(newton, step, hot - cold)
        if (abs(before) <= 1e-13 * abs(at).clip(1)).all():
            break
    beta = np.exp(at)[:, 0]
    return beta if per_prompt else float(beta[0])


def _kl_and_slope(gaps: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL of the tilted policies (P, 1), and how fast it falls in log beta: the variance of gap / beta under the policy."""
    alive = np.isfinite(gaps)
    x = np.maximum(np.where(alive, gaps, 0.0) / beta, -700.0)
    w = np.exp(x) * alive
    total = w.sum(1, keepdims=True)
    w *= x
    mean = w.sum(1, keepdims=True) / total
    w *= x
    variance = w.sum(1, keepdims=True) / total - mean**2
    return np.log(gaps.shape[1] / total) + mean, variance


def best_of_n_weights(
    proxy: ArrayLike, n: int, ended: ArrayLike | None = None, replace: bool = True
) -> np.ndarray:
    """Best-of-n: draw n answers, keep the best by the proxy, ties at random.

    With replacement it is best-of-n of pi0 itself, P(max <= u) = u^n on the proxy's quantile u, and its KL is
    at most `kl_bound(n)` above log(N / M) (Beirami et al. 2401.01879, Theorem 3.1); any n >= 1. Without, it is
    the unbiased estimator of `best_of_n.best_of_n`, n <= N: the same to O(n / N) in value, but as a policy on
    the pool it is the single best answer at n = N, and its KL passes the bound up to log n.
    """
    require(n >= 1 and float(n).is_integer(), "n", n, "a whole number of answers, 1 or more")
    if replace:
        return next(best_of_n_policies(proxy, [n], ended))
    below, upto, total = _ranks(_scores(proxy, ended))
    fewest = int(total.min())
    require(
        n <= fewest, "n", n, f"at most {fewest}, the fewest answers of a prompt that ended, or replace=True"
    )
    chance = {m: np.append(0.0, np.cumsum(winner_weights(m, n))) for m in set(total[:, 0].tolist())}
    rows = [(chance[m][u] - chance[m][b]) for m, u, b in zip(total[:, 0].tolist(), upto, below, strict=True)]
    return _normal(np.stack(rows) / np.maximum(upto - below, 1))


def best_of_n_policies(
    proxy: ArrayLike, ns: Iterable[int], ended: ArrayLike | None = None
) -> Iterator[np.ndarray]:
    """`best_of_n_weights` with replacement at every n in turn, (P, N) each: the answers are ranked once."""
    return rank_policies(proxy, ((lambda u, n=n: u**n) for n in ns), ended)


def rank_policies(
    proxy: ArrayLike, cdfs: Iterable[Callable[[np.ndarray], np.ndarray]], ended: ArrayLike | None = None
) -> Iterator[np.ndarray]:
    """Rules that know the proxy's order alone, (P, N) each: the winner's quantile u of the proxy has the CDF cdf(u)."""
    ranks = _ranks(_scores(proxy, ended))
    for cdf in cdfs:
        yield _by_rank(*ranks, cdf)


def poisson_weights(proxy: ArrayLike, mu: float, ended: ArrayLike | None = None) -> np.ndarray:
    """Best-of-Poisson: best-of-n with n = 1 + Poisson(mu) drawn anew for every answer; mu >= 0.

    Khalaf et al. 2506.19248: density (mu u + 1) exp(mu (u - 1)) on the proxy's quantile u. Derived: averaging
    u^n over n gives P(max <= u) = E[u^n] = u exp(mu (u - 1)), whose slope is that density.
    """
    require(np.isfinite(mu) and mu >= 0, "mu", mu, "a finite mean number of further draws, 0 or more")
    return _by_rank(*_ranks(_scores(proxy, ended)), lambda u: u * np.exp(mu * (u - 1)))


def soft_best_of_n_weights(
    proxy: ArrayLike, n: int, tau: float, ended: ArrayLike | None = None
) -> np.ndarray:
    """Soft best-of-n: draw n answers, keep the i-th with chance exp(r_i / tau) / sum_j exp(r_j / tau).

    Verdun et al. 2505.03156. tau -> 0 is best-of-n, n -> infinity the tilted policy with beta = tau; n = 1 and
    tau = infinity are the plain mean. Derived, for draws with replacement from M answers, with
    a_i = exp(r_i / tau): 1 / S is the integral of exp(-t S) over t > 0, and the other n - 1 draws are
    independent, so

        w_i = n/M integral_0^inf a_i exp(-t a_i) phi(t)^(n-1) dt,    phi(t) = mean_j exp(-t a_j)

    by the trapezoid rule in s = log t. The integrand is analytic where the imaginary part of s is below
    pi/2, which bounds the relative error of every w_i by about 2 exp(-pi^2 / h) at step h: rounding, at
    h = 1/4.
    """
    require(n >= 1 and float(n).is_integer(), "n", n, "a whole number of answers, 1 or more")
    require(tau > 0, "tau", tau, "a temperature above 0; its limit at 0 is best_of_n_weights")
    gaps = _gaps(_scores(proxy, ended))
    w = np.zeros(gaps.shape)
    for row, out in zip(gaps, w, strict=True):
        order = np.argsort(-row, kind="stable")[: np.isfinite(row).sum()]
        out[order] = _soft_winners(row[order], int(n), tau)
    return _normal(w)


def chi_square_weights(proxy: ArrayLike, beta: float, ended: ArrayLike | None = None) -> np.ndarray:
    """Chi-square pessimism, M w_i = max(0, (r_i - c) / beta) with c such that the weights sum to 1.

    InferenceTimePessimism, Huang et al. 2503.21878. Derived: it maximises E_w[r] - beta D(w) with
    D = 1/2 mean_i (M w_i - 1)^2 over the M answers that are not disqualified (without the 1/2, double beta),
    since there the slope r_i - beta (M w_i - 1) is one number wherever w_i > 0. With the k best answers active,
    w_i = 1/k + (r_i - their mean) / (beta M), and k is the most for which the k-th is not negative.
    """
    require(np.isfinite(beta) and beta > 0, "beta", beta, "a finite price above 0, in the proxy's unit")
    gaps = _gaps(_scores(proxy, ended))
    ranked = -np.sort(-gaps, axis=1)
    alive = np.isfinite(ranked)
    total, k = alive.sum(1, keepdims=True), np.arange(1, gaps.shape[1] + 1)
    ranked = np.where(alive, ranked, 0.0)
    sums = np.cumsum(ranked, axis=1)
    active = (alive & (sums - k * ranked <= beta * total)).sum(1, keepdims=True)
    mean = np.take_along_axis(sums, active - 1, axis=1) / active
    with np.errstate(over="ignore"):
        return _normal(np.maximum(1 / active + (gaps - mean) / (beta * total), 0.0))


def _scores(proxy: ArrayLike, ended: ArrayLike | None) -> np.ndarray:
    """The proxy (P, N) float64, -inf where disqualified; a prompt with nothing else ties throughout."""
    proxy = as_floats(proxy, "proxy")
    require(proxy.ndim == 2 and proxy.size > 0, "proxy's shape", proxy.shape, "scores (P, N)")
    ended = np.ones(proxy.shape, bool) if ended is None else np.asarray(ended)
    fits = ended.shape == proxy.shape and ended.dtype == bool
    require(fits, "ended", (ended.shape, ended.dtype), f"bool {proxy.shape}")
    finite = bool(np.isfinite(proxy[ended]).all())
    require(
        finite, "proxy", "NaN or infinity", "a finite score for every answer, or mark the answer not ended"
    )
    return np.where(ended, proxy, np.where(ended.any(1, keepdims=True), -np.inf, 0.0))


def _gaps(score: np.ndarray) -> np.ndarray:
    """How far each answer is from its prompt's best: 0 at the best, below 0 elsewhere."""
    return score - score.max(1, keepdims=True)


def _gibbs(gaps: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Weights proportional to exp(gap / beta), beta (P, 1) or (1, 1); the best answer's exponent is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logits = np.where(gaps == 0, 0.0, gaps / beta)
    return _normal(np.exp(np.where(np.isfinite(gaps), logits, -np.inf)))


def _ranks(score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Among the answers that count: how many are below each, how many not above (P, N); how many (P, 1)."""
    out = np.isneginf(score).sum(1, keepdims=True)
    table = np.sort(score, axis=1)
    below, upto = (
        np.stack([np.searchsorted(t, s, side) for t, s in zip(table, score, strict=True)]) - out
        for side in ("left", "right")
    )
    return np.maximum(below, 0), upto, score.shape[1] - out


def _by_rank(below: np.ndarray, upto: np.ndarray, total: np.ndarray, cdf: Callable) -> np.ndarray:
    """Weights of a rule whose winner has the CDF `cdf` on the proxy's quantile; ties share their chance."""
    return _normal((cdf(upto / total) - cdf(below / total)) / np.maximum(upto - below, 1))


def _soft_winners(gaps: np.ndarray, n: int, tau: float, h: float = 0.25) -> np.ndarray:
    """Soft best-of-n's weights of one prompt, gaps (M,) falling from 0; off by less than 1e-13."""
    with np.errstate(over="ignore"):
        falls = np.minimum(-np.diff(gaps) / tau, 60.0)  # e^-60 apart is as good as any further
    depth = np.append(0.0, np.cumsum(falls))  # -log a, rising
    before, after = 37 + np.log(n), 4.0  # with x = t a: below e^-before, x is 0; above e^after, e^-x is
    w = np.zeros(len(gaps))
    for start in np.arange(-before, depth[-1] + after, 64 * h):
        s = start + h * np.arange(64)
        first, last = np.searchsorted(depth, [start - after, s[-1] + before])
        x = np.exp(s[:, None] - depth[first:last])  # (64, live answers)
        lost = (first - np.expm1(-x).sum(1)) / len(gaps)  # 1 - phi
        others = np.exp((n - 1) * np.log1p(-np.minimum(lost, 1 - 2.0**-53)))
        w[first:last] += others @ (x * np.exp(-x))
    return w * h * n / len(gaps)


def _normal(w: np.ndarray) -> np.ndarray:
    return w / w.sum(1, keepdims=True)


def _policy(w: ArrayLike) -> np.ndarray:
    w = np.asarray(w, np.float64)
    require(w.ndim == 2, "w's shape", w.shape, "weights (P, N)")
    fits = bool((w >= 0).all()) and np.allclose(w.sum(1), 1)
    require(fits, "w's row sums", w.sum(1).tolist(), "weights of 0 or more whose rows sum to 1")
    return w
