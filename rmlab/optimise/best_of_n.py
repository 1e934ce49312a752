"""Best-of-n, exact and for every n at once, from a pool that was sampled and scored once.

Best-of-n draws n answers to a prompt and keeps the one the proxy scores highest. From N >= n stored answers
the expected value of the winner over all subsets of size n is a weighted mean, in the proxy's order
(Nakano et al. 2112.09332, Appendix I; Coste et al. 2310.02743, Eq. 6-8; Gao et al. 2210.10760, Section 2):

    R_n = sum_{i = n..N} C(i-1, n-1) / C(N, n) * value(S_i),    S_1 <= ... <= S_N by the proxy

Letters: P prompts, N answers a prompt, V values of an answer, L values of n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rmlab.recipe import require

KL_NAME = "log n - (n-1)/n (upper bound)"


def best_of_n(
    proxy: ArrayLike, values: ArrayLike, ns: ArrayLike, mask: ArrayLike | None = None
) -> np.ndarray:
    """Expected values of the answer that best-of-n keeps, unbiased, per prompt.

    Parameters
    ----------
    proxy : (P, N) the score that chooses, any unit, no NaN
    values : (P, N), or (P, N, V) for several at once: what the winner is worth (gold, the proxy itself, a
        length, ...), any unit, finite
    ns : (L,) numbers of answers drawn, each from 1 to N; drawn without replacement
    mask : (P, N) bool, optional: False disqualifies an answer (truncated, refused). It ranks below every
        other one and ties with its like, so it wins only where nothing else was drawn; then its value counts.

    Returns
    -------
    (P, L), or (P, L, V): float64, in the unit of `values`. Answers with equal proxy share their chance of
    winning: the result is the exact expectation under random tie-breaking. n = 1 is the plain mean over the
    pool, n = N the value of the best answer. Rows follow the order of the prompts; the order of the answers
    does not matter.

    Raises
    ------
    ValueError : shapes that do not fit, n out of range, NaN in proxy, non-finite values
    """
    proxy, values = as_floats(proxy, "proxy"), as_floats(values, "values")
    require(proxy.ndim == 2, "proxy's shape", proxy.shape, "scores (P, N)")
    fits = values.ndim in (2, 3) and values.shape[:2] == proxy.shape
    require(fits, "values' shape", values.shape, f"(P, N) or (P, N, V) over the proxy's {proxy.shape}")
    require(
        not np.isnan(proxy).any(),
        "proxy",
        "NaN",
        "a score for every answer, or mask the answer and score it 0",
    )
    require(
        bool(np.isfinite(values).all()),
        "values",
        "NaN or infinity",
        "what every answer is worth, masked ones too",
    )
    P, N = proxy.shape
    if mask is not None:
        mask = np.asarray(mask)
        require(
            mask.shape == proxy.shape and mask.dtype == bool,
            "mask",
            (mask.shape, mask.dtype),
            f"bool {proxy.shape}",
        )
        proxy = _rank_below(proxy, mask)
    order = np.argsort(proxy, axis=1)
    table = values.reshape(P, N, -1)
    ranked = np.take_along_axis(table, order[..., None], axis=1)  # (P, N, V)
    ranked = _average_ties(ranked, np.take_along_axis(proxy, order, axis=1))
    out = np.einsum("pnv,nl->plv", ranked, winner_weights(N, ns), optimize=True)
    return out[..., 0] if values.ndim == 2 else out


def winner_chances(proxy: ArrayLike, ns: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """The chance of every answer to be the one that best-of-n keeps: `best_of_n` as weights, whatever the values.

    Parameters as in `best_of_n`, of which `einsum("pnl,pn->pl", chances, values)` is the result.

    Returns
    -------
    (P, N, L) float64, in the pool's order; sums to 1 over answers
    """
    proxy = as_floats(proxy, "proxy")
    require(proxy.ndim == 2, "proxy's shape", proxy.shape, "scores (P, N)")
    require(not np.isnan(proxy).any(), "proxy", "NaN", "a score for every answer, or mask it and score it 0")
    if mask is not None:
        mask = np.asarray(mask)
        fits = mask.shape == proxy.shape and mask.dtype == bool
        require(fits, "mask", (mask.shape, mask.dtype), f"bool {proxy.shape}")
        proxy = _rank_below(proxy, mask)
    order = np.argsort(proxy, axis=1)
    weights = winner_weights(proxy.shape[1], ns)
    ranked = np.broadcast_to(weights, (len(proxy), *weights.shape))
    ranked = _average_ties(ranked, np.take_along_axis(proxy, order, axis=1))
    chances = np.empty(ranked.shape)
    np.put_along_axis(chances, order[..., None], ranked, axis=1)
    return chances


def winner_weights(N: int, ns: ArrayLike) -> np.ndarray:
    """Chance that the i-th lowest of N answers is the best of n drawn without replacement.

    C(i-1, n-1) / C(N, n), by the recursion w_N = n/N, w_{i-1} = w_i (i-n)/(i-1), summed in logarithms from
    the top down: stable to N = 65,536 and beyond. Columns sum to 1.

    Parameters
    ----------
    N : answers in the pool
    ns : (L,) numbers of answers drawn, each from 1 to N

    Returns
    -------
    (N, L) float64, row i - 1 for rank i, ascending
    """
    ns = _check_ns(N, ns)
    weights = np.zeros((N, len(ns)))
    for column, n in enumerate(ns):
        i = np.arange(N, n, -1.0)  # the ranks above n, from the top
        steps = np.log1p(-(n - 1) / (i - 1))  # log of (i-n)/(i-1)
        top_down = np.log(n / N) + np.concatenate([[0.0], np.cumsum(steps)])
        weights[n - 1 :, column] = np.exp(top_down[::-1])
    return weights


def ess(N: int, ns: ArrayLike) -> np.ndarray:
    """Effective sample size behind each point of a best-of-n curve, per prompt: 1 / sum of squared weights.

    N at n = 1 and 1 at n = N; about (2 - a) / a at n = a N. A point with a size near 1 rests on one answer a
    prompt, however large the pool. Ties, which only raise it, are not counted.

    Returns
    -------
    (L,) float64, answers
    """
    return 1.0 / (winner_weights(N, ns) ** 2).sum(0)


def kl_bound(n: ArrayLike) -> np.ndarray:
    """KL from the policy to its best-of-n, `log n - (n-1)/n` in nats: an upper bound, not an equality.

    Stiennon et al. 2009.01325, Appendix G.3, give the formula; Beirami et al. 2401.01879 show that it only
    bounds the KL, since answers are discrete and proxies tie. Any plot of it carries `KL_NAME`.
    """
    n = np.asarray(n, np.float64)
    require(bool((n >= 1).all()), "n", n.tolist(), "numbers of answers from 1 up")
    return np.log(n) - (n - 1) / n


def n_grid(N: int) -> np.ndarray:
    """The powers of two from 1 to N: the points of a best-of-n curve, (L,) int64."""
    require(int(N) >= 1, "N", N, "a pool of at least one answer")
    return 2 ** np.arange(int(N).bit_length(), dtype=np.int64)


def as_floats(x: ArrayLike, name: str) -> np.ndarray:
    """x as float64, or a `ValueError` that names it."""
    try:
        return np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read ({error}): give one table of float32 or float64") from error


def _check_ns(N: int, ns: ArrayLike) -> list[int]:
    ns = np.atleast_1d(np.asarray(ns))
    whole = ns.ndim == 1 and ns.size > 0 and bool((ns == np.floor(ns)).all())
    require(whole and ns.min() >= 1 and ns.max() <= N, "ns", ns.tolist(), f"whole numbers from 1 to N = {N}")
    return [int(n) for n in ns]


def _rank_below(proxy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Ranks of the proxy (P, N), ties kept, with every masked answer tied at the bottom."""
    order = np.argsort(proxy, axis=1)
    ranked = np.take_along_axis(proxy, order, axis=1)
    ranks = np.empty(proxy.shape, np.int64)
    steps = np.concatenate([np.ones((len(proxy), 1), bool), ranked[:, 1:] != ranked[:, :-1]], axis=1)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=1), axis=1)
    return np.where(mask, ranks, 0)


def _average_ties(ranked: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Values (P, N, V) with those of equal keys (P, N), sorted ascending, replaced by their mean."""
    P, N, V = ranked.shape
    first = np.concatenate([np.ones((P, 1), bool), keys[:, 1:] != keys[:, :-1]], axis=1).ravel()
    if first.all():
        return ranked
    flat = ranked.reshape(P * N, V)
    starts = np.flatnonzero(first)  # groups never cross a prompt: its first answer always starts one
    sizes = np.diff(np.append(starts, P * N))
    means = np.add.reduceat(flat, starts, axis=0) / sizes[:, None]
    return np.repeat(means, sizes, axis=0).reshape(P, N, V)
