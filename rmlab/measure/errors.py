"""Do the members err together? Correlations of their errors, and how many independent members they amount to.

A member's score is taken as slope x truth + error, within prompts. The error is what an ensemble can average away as far
as it is not shared. Truth is gold, or the label of a pair; a label tells which answer is better and not by how much, so
what members rightly agree on beyond it counts as shared error too.

Letters: R answers, K members.
"""

from __future__ import annotations

import numpy as np

from rmlab.measure.clusters import Estimate, half_width
from rmlab.measure.diversity import effective_members, mean_off_diagonal
from rmlab.recipe import require

NONE = 1e-9  # of the largest errors: rounding
TAIL = 64  # answers a prompt: the optimised tail


def errors(scores: np.ndarray, truth: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """What is left of the scores after each prompt's mean and the least-squares slope on truth are taken off.

    Only differences between answers to one prompt are compared by any optimiser, so a prompt's mean is no error. The
    scores are regressed on the truth, not the truth on the scores: with scores = slope x truth + error the residuals are
    the errors, whatever their size.

    Parameters
    ----------
    scores : (R, K) member scores, any unit
    truth : (R,) gold, or labels of pairs, any unit
    prompts : (R,) whole numbers of 0 or more, at least two answers each

    Returns
    -------
    (R, K) in the scores' units, of mean 0 within each prompt

    Raises
    ------
    ValueError : truth that is constant within every prompt
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    fits = scores.ndim == 2 and truth.shape == scores.shape[:1] == np.shape(prompts)
    require(fits, "scores' shape", scores.shape, f"(R, K) beside truth and prompts {truth.shape}")
    centred, _ = _within(np.concatenate([truth[:, None], scores], 1), prompts)  # (R, 1 + K)
    truth, scores = centred[:, :1], centred[:, 1:]
    spread = float((truth**2).sum())
    require(spread > 0, "truth", "constant within every prompt", "answers that differ in truth")
    return scores - truth * ((truth * scores).sum(0) / spread)


def error_correlation(errors: np.ndarray) -> np.ndarray:
    """Pearson correlations (K, K) of errors (R, K), whose means are 0."""
    unit = _unit(errors)
    return np.clip(unit.T @ unit / len(unit), -1, 1)


def tail_error_correlation(
    errors: np.ndarray, proxy: np.ndarray, prompts: np.ndarray, top: int = TAIL
) -> np.ndarray:
    """Correlations of errors as the answers that optimisation reaches show them, free of the selection's own effect.

    The tail is each prompt's `top` answers by the proxy. Taken there as they are, errors correlate far less than
    anywhere else, whatever the members: the answers were chosen for what the members share. Pearson's and Lawley's
    correction for selection (Lawley 1943) undoes that: what the proxy does not explain of the errors, by its slope
    over the whole pool, is measured in the tail, and what it does explain over the pool. With jointly Gaussian scores
    the result is the correlation over the whole pool at any `top`; a lower one says that members part in the tail, a
    higher one that they close ranks. Where errors bend with the proxy, part of that bend is counted as parting.

    Parameters
    ----------
    errors : (R, K) from `errors`, of mean 0 in each prompt
    proxy : (R,) what chooses, any unit, such as the members' mean score
    prompts : (R,) whole numbers of 0 or more
    top : answers a prompt, at least 2; a prompt with fewer gives all it has, and one with a single answer none

    Returns
    -------
    (K, K) Pearson correlations
    """
    errors, proxy = np.asarray(errors, np.float64), np.asarray(proxy, np.float64)
    fits = errors.ndim == 2 and errors.size > 0 and proxy.shape == errors.shape[:1] == np.shape(prompts)
    require(fits, "errors' shape", errors.shape, f"(R, K) beside proxy and prompts {proxy.shape}")
    require(top >= 2, "top", top, "at least 2 answers a prompt")
    _unit(errors)  # names members without errors
    proxy, free = _within(proxy[:, None], prompts)
    power = float((proxy**2).sum())
    slope = (errors * proxy).sum(0) / power if power > 0 else np.zeros(errors.shape[1])  # (K,)
    left = errors - proxy * slope
    order = np.lexsort((-proxy[:, 0], prompts))
    starts = np.flatnonzero(np.diff(np.asarray(prompts)[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    tail = order[rank < top]
    left, tail_free = _within(left[tail], np.asarray(prompts)[tail])
    require(tail_free > 0, "prompts", "one answer each", "a prompt with two answers")
    covariance = left.T @ left / tail_free + np.outer(slope, slope) * power / free
    spread = np.sqrt(np.diag(covariance))
    return np.clip(covariance / np.outer(spread, spread), -1, 1)


def shared_error(errors: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The mean correlation between two members' errors, with an interval by clusters.

    To first order each correlation moves by z_i z_j - r_ij (z_i^2 + z_j^2) / 2 with a row of standardised errors z; the
    interval is Fisher's, symmetric in atanh r, with t over clusters.

    errors : (R, K), K at least 2; clusters : (R,) whole prompts each
    """
    z = _unit(errors)
    K = z.shape[1]
    require(K > 1, "K", K, "at least two members: one has nobody to err with")
    r = error_correlation(errors)
    mean = mean_off_diagonal(r)
    others = (r.sum(1) - 1) / (K - 1)  # (K,) each member's mean correlation with the others
    both = (z.sum(1) ** 2 - (z**2).sum(1)) / (K * (K - 1))
    influence = both - (z**2) @ others / K
    at, half = np.arctanh(np.clip(mean, -0.999999, 0.999999)), half_width(influence, clusters)
    half /= max(1 - mean**2, 1e-6)
    return Estimate(mean, float(np.tanh(at - half)), float(np.tanh(at + half)), len(np.unique(clusters)))


def effective_errors(shared: Estimate, k: int) -> Estimate:
    """Effective members from errors, K / (1 + (K - 1) r), with the ends that the interval of r gives; see `effective_members`."""
    value, high, low = (
        effective_members(np.where(np.eye(k, dtype=bool), 1.0, r)) if np.isfinite(r) else np.nan
        for r in shared[:3]
    )
    return Estimate(value, low, high, shared.clusters)


def erring(errors: np.ndarray) -> np.ndarray:
    """(K,) bool: whether a member's errors (R, K) are more than rounding beside the largest; one that never errs has none."""
    size = np.sqrt((np.asarray(errors, np.float64) ** 2).mean(0))
    return size > NONE * max(size.max(), 1e-300)


def _within(table: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, int]:
    """A table (R, V) without its mean over each prompt, and its degrees of freedom, R minus the prompts."""
    _, codes, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(codes, column, len(sizes)) for column in table.T], 1)
    return table - (sums / sizes[:, None])[codes], len(table) - len(sizes)


def _unit(errors: np.ndarray) -> np.ndarray:
    """Errors (R, K) of mean 0 at root mean square 1."""
    errors = np.asarray(errors, np.float64)
    require(errors.ndim == 2 and errors.size > 0, "errors' shape", errors.shape, "errors (R, K), not empty")
    still = np.flatnonzero(~erring(errors)).tolist()
    require(not still, "errors of members", still, "members that differ from the truth")
    return errors / np.sqrt((errors**2).mean(0))
