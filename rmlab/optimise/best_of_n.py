"""Best-of-n, exactly: the expected value of the answer that a proxy picks from n, for all n at once.

From N answers a prompt, sorted ascending by proxy, the i-th is the best of a random n-subset with probability
C(i-1, n-1) / C(N, n) (Nakano et al. 2021, App. I; Coste et al. 2024, Eq. 6-8). No sampling, no bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from rmlab.recipe import need

KL_NAME = "log n - (n-1)/n (upper bound)"


def best_of_n(proxy: np.ndarray, values: np.ndarray, ns: Sequence[int], mask: np.ndarray | None = None) -> np.ndarray:
    """Expected values of the proxy's pick among n answers, without replacement, ties in the proxy averaged.

    Parameters
    ----------
    proxy : (P, N) scores that pick
    values : (P, N) or (P, N, V) what the pick is worth: gold, the proxy itself, another member ...
    ns : L sizes, each from 1 to N
    mask : (P, N) bool; False disqualifies an answer: it ranks below all others, tied with its like

    Returns
    -------
    (P, L) or (P, L, V) float64
    """
    proxy, values, ns = np.asarray(proxy, np.float64), np.asarray(values, np.float64), np.asarray(ns, np.int64)
    need(proxy.ndim == 2, "proxy", proxy.shape, "an array (P, N)")
    need(values.shape[:2] == proxy.shape, "values", values.shape, f"an array {proxy.shape} or {proxy.shape} + (V,)")
    need(bool(np.isfinite(proxy).all()), "proxy", "not finite", "finite scores; mask answers that have none")
    if mask is not None:
        proxy = np.where(mask, proxy, -np.inf)
    weights = pick_weights(proxy.shape[1], ns)
    order = np.argsort(proxy, 1, kind="stable")
    ranked = np.take_along_axis(proxy, order, 1)
    flat = values[..., None] if values.ndim == 2 else values
    sorted_values = np.take_along_axis(flat, order[..., None], 1)
    sorted_values = _average_ties(ranked, sorted_values)
    out = np.einsum("nl,pnv->plv", weights, sorted_values, optimize=True)
    return out[..., 0] if values.ndim == 2 else out


def pick_weights(answers: int, ns: Sequence[int]) -> np.ndarray:
    """(N, L): chance that the answer of ascending rank i + 1 is the best of n; columns sum to 1; stable to N = 65,536."""
    ns = np.asarray(ns, np.int64)
    need(bool(((ns >= 1) & (ns <= answers)).all()), "ns", ns.tolist(), f"sizes from 1 to N = {answers}")
    rank = np.arange(1, answers + 1)[:, None]
    free = np.maximum(rank - ns, 0)
    # log C(i-1, n-1) - log C(N, n), every binomial through log-gamma
    chance = gammaln(rank) - gammaln(ns) - gammaln(free + 1)
    chance -= gammaln(answers + 1) - gammaln(ns + 1) - gammaln(answers - ns + 1)
    weights = np.where(rank >= ns, np.exp(chance), 0.0)
    return weights / weights.sum(0)


def ess(answers: int, ns: Sequence[int]) -> np.ndarray:
    """Effective sample size a prompt, (L,): 1 / sum of squared weights; near 1 as n nears N, whatever N is."""
    return 1.0 / np.square(pick_weights(answers, ns)).sum(0)


def kl_bound(n):
    """`log n - (n-1)/n` in nats: an upper bound of best-of-n's KL from the policy (Beirami et al. 2024), no equality."""
    n = np.asarray(n, np.float64)
    return np.log(n) - (n - 1) / n


def n_grid(answers: int) -> np.ndarray:
    """1, 2, 4, ... up to N."""
    return 2 ** np.arange(int(np.log2(answers)) + 1)


def _average_ties(ranked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sorted scores (P, N) and values (P, N, V): values averaged within each run of equal scores."""
    if not (ranked[:, 1:] == ranked[:, :-1]).any():
        return values
    prompts, answers, width = values.shape
    new = np.concatenate([np.ones((prompts, 1), bool), ranked[:, 1:] != ranked[:, :-1]], 1)
    group = np.cumsum(new.ravel()) - 1
    size = np.bincount(group)
    flat = values.reshape(-1, width)
    means = np.stack([np.bincount(group, flat[:, v]) for v in range(width)], 1) / size[:, None]
    return means[group].reshape(values.shape)
