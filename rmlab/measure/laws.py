"""Laws of overoptimisation: gold as a function of the distance that optimisation went, its peak, and how far a fit can see.

Gao, Schulman and Hilton (2210.10760, Section 1) find R(d) = d (alpha - beta d) for best-of-n and
R(d) = d (alpha - beta log d) for reinforcement learning, d = sqrt(KL) in root nats and R gold recentred so that R(0) = 0;
their Appendix B tries d (alpha - beta log(1 + d)) and d (alpha - beta d^gamma) too. Every form is
R(d) = d (alpha - beta h(d)), linear in alpha and beta.

From the shipped rows of a study: `ns, gold = rows.curve(ensemble="heads5", ...)` of
`rmlab.measure.by_prompt.ByPrompt`, then `bootstrap(np.sqrt(kl_bound(ns)), gold, "quadratic", rng)`.

Letters: D replicates, P prompts, L points of a curve, B draws of the bootstrap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import lambertw
from scipy.stats import t as student

from rmlab.measure.intervals import two_way_interval
from rmlab.recipe import require

FORMS = ("quadratic", "log", "log1p", "power")
PAPER = {"best_of_n": "quadratic", "ppo": "log"}  # the form that Gao et al. fit to each optimiser
GAMMAS = np.geomspace(0.05, 4.0, 81)  # searched for the power form
DRAWS = 1000


class Law(NamedTuple):
    """A fitted law; arrays of one shape (...), or floats. `gamma` is NaN but for the power form.

    peak_d : where R is highest, in root nats; infinity where it only rises, 0 where it only falls
    peak_gain : R there, gold units
    """

    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    peak_d: np.ndarray
    peak_gain: np.ndarray


class Bootstrapped(NamedTuple):
    """A law and its interval by resampling: each of three a `Law` of floats. `curves` are the drawn gains (B, L)."""

    law: Law
    low: Law
    high: Law
    curves: np.ndarray


def fit(d: np.ndarray, gain: np.ndarray, form: str, weights: np.ndarray | None = None) -> Law:
    """Weighted least squares of a law on a curve, or on many at once; gamma by a search over `GAMMAS`.

    Parameters
    ----------
    d : (L,) root nats, 0 or more; points at 0 say nothing and are not used
    gain : (..., L) gold minus gold at d = 0
    form : one of `FORMS`
    weights : (L,), optional: of the squared residuals, 0 or more

    Returns
    -------
    Law of arrays (...). NaN throughout with fewer points of different d than the form has coefficients.
    """
    d, gain, weights = _points(d, gain, form, weights)
    used = (d > 0) & (weights > 0)
    if len(np.unique(d[used])) < (3 if form == "power" else 2):
        empty = np.full(gain.shape[:-1], np.nan)
        return Law(empty, empty, empty, empty, empty)
    d, y, root = d[used], gain[..., used], np.sqrt(weights[used])
    gamma = _search(d, y, root) if form == "power" else np.full(gain.shape[:-1], np.nan)
    design = _design(d, form, gamma[..., None]) * root[..., None]
    if form == "power":
        alpha, beta = _solve(design, y * root)
    else:
        alpha, beta = np.moveaxis((y * root) @ np.linalg.pinv(design).T, -1, 0)
    return Law(alpha, beta, gamma, *peak(form, alpha, beta, gamma))


def value(law: Law, form: str, d: np.ndarray) -> np.ndarray:
    """R(d) = d (alpha - beta h(d)), (..., L) in gold units, of a law of arrays (...) at d (L,)."""
    d = np.asarray(d, np.float64)
    alpha, beta, gamma = (np.asarray(x, np.float64)[..., None] for x in law[:3])
    design = _design(d, form, gamma)
    return alpha * design[..., 0] + beta * design[..., 1]


def peak(
    form: str, alpha: np.ndarray, beta: np.ndarray, gamma: np.ndarray = np.nan
) -> tuple[np.ndarray, np.ndarray]:
    """Where a law is highest and how high: d* in root nats and R* in gold units, arrays (...).

    Derived from R'(d) = alpha - beta (h(d) + d h'(d)) = 0 with beta > 0:
    quadratic d* = alpha / (2 beta) and R* = alpha^2 / (4 beta); log d* = exp(alpha / beta - 1) and R* = beta d*;
    log1p d* = 1 / W(exp(1 - alpha / beta)) - 1 with Lambert's W; power d* = (alpha / (beta (1 + gamma)))^(1 / gamma).
    With alpha of 0 or less all but log fall from the start: d* = 0. With alpha above 0 and beta of 0 or less there is no
    peak: infinity. With neither above 0 it is 0 too, though such a law would rise again far out.
    """
    require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
    alpha, beta, gamma = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (alpha, beta, gamma)))
    with np.errstate(all="ignore"):
        ratio = alpha / np.where(beta > 0, beta, np.nan)
        up = np.maximum(ratio, 0.0)
        if form == "quadratic":
            at = up / 2
        elif form == "log":
            at = np.exp(ratio - 1)
        elif form == "log1p":
            at = np.maximum(1 / lambertw(np.exp(1 - up)).real - 1, 0.0)
        else:
            at = (up / (1 + gamma)) ** (1 / gamma)
        at = np.where(beta > 0, at, np.where(alpha > 0, np.inf, 0.0))
        at = np.where(np.isnan(alpha) | np.isnan(beta), np.nan, at)
        law = Law(alpha, beta, gamma, at, at)
        inside = np.where(np.isfinite(at), at, 1.0)
        height = np.where(np.isfinite(at), _at(law, form, inside), at)
    return at, height


def extrapolation(
    d: np.ndarray, gain: np.ndarray, form: str, cut: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit on d up to a cut, tested beyond it: root mean square errors inside and outside, (...) gold units.

    Parameters as in `fit`. NaN where one side has too few points: outside one is enough, inside as many as there are
    coefficients and one more.
    """
    d, gain, weights = _points(d, gain, form, weights)
    inside, outside = (d > 0) & (d <= cut) & (weights > 0), (d > cut) & (weights > 0)
    if len(np.unique(d[inside])) <= (3 if form == "power" else 2) or not outside.any():
        return np.full(gain.shape[:-1], np.nan), np.full(gain.shape[:-1], np.nan)
    law = fit(d, gain, form, weights * inside)
    with np.errstate(over="ignore"):
        missed = np.square(value(law, form, np.where(d > 0, d, 1.0)) - gain)
    return tuple(np.sqrt((missed[..., x] * weights[x]).sum(-1) / weights[x].sum()) for x in (inside, outside))


def bootstrap(
    d: np.ndarray,
    gold: np.ndarray,
    form: str,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Bootstrapped:
    """A law of the mean curve, with percentile intervals over replicates and prompts, both drawn again.

    Each draw takes D replicates and P prompts with replacement and fits their mean (the pigeonhole bootstrap, Owen 2007).
    Left alone it is too narrow with few replicates and too wide where replicates and prompts have no effects of their
    own; so each drawn curve's distance from the mean curve is stretched by one number, with which the spread of the
    quadratic law's coefficients is what `two_way_interval` gives them, Student's t in place of the normal. Simulated
    coverage of 95%, 10 replicates of 64 prompts: see LOG.md.

    Parameters
    ----------
    d : (L,) root nats; d[0] is the start, where the gain is 0
    gold : (D, P, L) gold units; a replicate that is NaN throughout is left out
    form, weights : as in `fit`
    draws : B

    Returns
    -------
    Bootstrapped. A peak's upper end is infinite where more than (1 - level) / 2 of the draws have none.
    """
    gold = np.asarray(gold, np.float64)
    require(gold.ndim == 3, "gold's shape", gold.shape, "(replicates, prompts, points)")
    gold = gold[~np.isnan(gold).all((1, 2))]
    require(
        len(gold) > 0 and bool(np.isfinite(gold).all()), "gold", "NaN or infinity", "a value for every cell"
    )
    gain = gold - gold[..., :1]
    mean, curves = gain.mean((0, 1)), _resampled(gain, rng, draws)
    curves = mean + _stretch(d, gain, curves, weights, level) * (curves - mean)
    law, resampled = fit(d, mean, form, weights), fit(d, curves, form, weights)
    low, high = (Law(*(_quantile(x, q) for x in resampled)) for q in ((1 - level) / 2, (1 + level) / 2))
    return Bootstrapped(Law(*(float(x) for x in law)), low, high, curves)


def _resampled(gain: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Mean curves (B, L) of replicates and prompts drawn with replacement, from gains (D, P, L)."""
    D, P, _ = gain.shape
    replicates = rng.multinomial(D, np.full(D, 1 / D), draws) / D  # (B, D)
    prompts = rng.multinomial(P, np.full(P, 1 / P), draws) / P  # (B, P)
    return np.einsum("bpl,bp->bl", np.tensordot(replicates, gain, 1), prompts)


def _stretch(
    d: np.ndarray, gain: np.ndarray, curves: np.ndarray, weights: np.ndarray | None, level: float
) -> float:
    """By how much drawn curves (B, L) lie too close to their mean: 1 where there is nothing to compare with."""
    cells, resampled = fit(d, gain, "quadratic", weights), fit(d, curves, "quadratic", weights)
    ratios = []
    for cell, values in zip(cells[:2], resampled[:2], strict=True):
        if max(cell.shape) < 2 or not np.isfinite(cell).all():
            return 1.0
        interval = two_way_interval(cell, level)
        spread = values.std() * student.ppf((1 + level) / 2, np.inf)
        ratios.append((interval.high - interval.low) / 2 / spread if spread > 0 else 1.0)
    return float(np.mean(ratios))


def _quantile(x: np.ndarray, q: float) -> float:
    """The q-quantile of draws, infinite ones at their end; NaN where one is NaN."""
    return float(np.quantile(x, q, method="nearest")) if not np.isnan(x).any() else np.nan


def _points(
    d: np.ndarray, gain: np.ndarray, form: str, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d (L,), gain (..., L) and weights (L,), checked."""
    require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
    d, gain = np.asarray(d, np.float64), np.asarray(gain, np.float64)
    weights = np.ones(d.shape) if weights is None else np.asarray(weights, np.float64)
    fits = d.ndim == 1 and gain.shape[-1:] == d.shape == weights.shape
    require(
        fits, "shapes of d, gain and weights", (d.shape, gain.shape, weights.shape), "(L,), (..., L), (L,)"
    )
    ok = bool(np.isfinite(d).all() and (d >= 0).all() and np.isfinite(weights).all() and (weights >= 0).all())
    require(ok, "d and weights", (d.tolist(), weights.tolist()), "finite numbers of 0 or more")
    require(bool(np.isfinite(gain).all()), "gain", "NaN or infinity", "a finite gain at every point")
    return d, gain, weights


def _at(law: Law, form: str, d: np.ndarray) -> np.ndarray:
    """R of each law at its own d, all (...)."""
    design = _design(d, form, law.gamma)
    return law.alpha * design[..., 0] + law.beta * design[..., 1]


def _design(d: np.ndarray, form: str, gamma: np.ndarray) -> np.ndarray:
    """Columns of alpha and beta, (..., L, 2): d and -d h(d); at d = 0 both are 0."""
    if form == "quadratic":
        bend = d
    elif form == "log":
        bend = np.log(np.where(d > 0, d, 1.0))
    elif form == "log1p":
        bend = np.log1p(d)
    else:
        bend = d**gamma
    bend = np.asarray(bend)
    return np.stack([np.broadcast_to(d, bend.shape), -d * bend], -1)


def _search(d: np.ndarray, y: np.ndarray, root: np.ndarray) -> np.ndarray:
    """The gamma (...) with the least squared residuals: the best of `GAMMAS`, then a parabola through its neighbours."""
    design = _design(d, "power", GAMMAS[:, None]) * root[:, None]  # (G, L, 2)
    projection = design @ np.linalg.pinv(design)  # (G, L, L)
    left = y * root
    total = np.square(left).sum(-1)[..., None]
    missed = total - np.einsum("...l,glm,...m->...g", left, projection, left, optimize=True)
    best = missed.argmin(-1)
    middle = np.clip(best, 1, len(GAMMAS) - 2)
    a, b, c = (np.take_along_axis(missed, (middle + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        move = np.where(a - 2 * b + c > 0, (a - c) / (2 * (a - 2 * b + c)), 0.0)
    step = np.log(GAMMAS[1] / GAMMAS[0])
    inner = GAMMAS[middle] * np.exp(np.clip(move, -0.5, 0.5) * step)
    return np.where(best == middle, inner, GAMMAS[best])


def _solve(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and beta (...) of designs (..., L, 2), one a curve y (..., L), by the normal equations of columns at length 1."""
    size = np.sqrt(np.square(design).sum(-2, keepdims=True))
    unit = design / size
    cross = (unit[..., 0] * unit[..., 1]).sum(-1)
    first, second = (np.einsum("...l,...l->...", unit[..., i], y) for i in (0, 1))
    free = 1 - cross**2
    alpha, beta = (first - cross * second) / free, (second - cross * first) / free
    return alpha / size[..., 0, 0], beta / size[..., 0, 1]
