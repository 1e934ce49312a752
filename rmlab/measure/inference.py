"""From intervals to findings: adjusted p-values, equivalence, power, falls, and the words for a claim.

Everything stands on `rmlab.measure.intervals.two_way_interval`: D independent replicates crossed with P prompts, both
random, paired differences taken per replicate and prompt before any of it.

Letters: D replicates, P prompts, L points of a curve, M claims of one family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import chi2, norm
from scipy.stats import t as student

from rmlab.measure.intervals import Interval, two_way_interval
from rmlab.recipe import require

ALPHA = 0.05
MOST = 1_000_000  # replicates: what needs more needs too many
Alternative = Literal["two-sided", "greater", "less"]
Claim = Literal["greater", "less", "equivalent"]


class Equivalence(NamedTuple):
    """Two one-sided tests: p is the larger of theirs, the interval has level 1 - 2 alpha, holds says p < alpha."""

    p: float
    interval: Interval
    holds: bool


class Fall(NamedTuple):
    """How far a curve ends below its start and below its peak, negative where it falls.

    peaks : (D, 2) the point that was the peak for a replicate's even prompts, and for its odd ones
    values : (D, P) the end minus the peak of each replicate and prompt, which `from_peak` is the interval of
    """

    change: Interval
    from_peak: Interval
    peaks: np.ndarray
    values: np.ndarray


class Verdict(NamedTuple):
    """A word about a claim, and the replicates it would take to decide: NaN where it is decided or nothing is known."""

    word: str
    needed: float

    def __str__(self) -> str:
        if not self.needed > 0:
            return self.word
        if np.isinf(self.needed):
            return f"{self.word}: with these prompts no number of replicates would decide"
        return f"{self.word}: would need {self.needed:.0f} replicates"


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values: the chance of any false finding in the family stays below alpha.

    p : (M,) from 0 to 1, one a claim, whatever their dependence. Returns (M,) in the same order, each p or larger.
    """
    p = np.asarray(p, np.float64)
    require(p.ndim == 1 and p.size > 0, "p's shape", p.shape, "p-values (M,) of at least one claim")
    require(bool(((p >= 0) & (p <= 1)).all()), "p", p.tolist(), "numbers from 0 to 1, none of them NaN")
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def p_value(interval: Interval, null: float = 0.0, alternative: Alternative = "two-sided") -> np.ndarray:
    """The p-value of a mean against `null`, by Student's t with the interval's standard error and degrees of freedom.

    Parameters
    ----------
    interval : arrays (...)
    null : the mean under the null hypothesis, in the interval's unit
    alternative : "greater": the mean is above `null`; "less": below it

    Returns
    -------
    (...) from 0 to 1. Where se is 0: 0 for a mean on the alternative's side of `null`, else 1.
    """
    known = alternative in {"two-sided", "greater", "less"}
    require(known, "alternative", alternative, "'two-sided', 'greater' or 'less'")
    away, se = np.asarray(interval.mean) - null, np.asarray(interval.se)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(se > 0, away / se, np.where(away == 0, 0.0, np.copysign(np.inf, away)))
    above, below = student.sf(ratio, interval.df), student.cdf(ratio, interval.df)
    p = {"greater": above, "less": below, "two-sided": 2 * np.minimum(above, below)}[alternative]
    return np.where((se == 0) & (away == 0), 1.0, p)[()]


def equivalence(x: np.ndarray, margin: float, alpha: float = ALPHA) -> Equivalence:
    """Is a mean difference within `margin` of 0? Two one-sided tests (Schuirmann 1987).

    Parameters
    ----------
    x : (D, P) paired differences, any unit
    margin : the largest difference that does not matter, in that unit; fixed before x is seen
    alpha : level of each test

    Returns
    -------
    Equivalence. That p < alpha says the same as that the interval of level 1 - 2 alpha lies inside the margin.
    """
    require(margin > 0, "margin", margin, "a difference above 0")
    require(0 < alpha < 0.5, "alpha", alpha, "a share between 0 and 0.5")
    interval = two_way_interval(_crossed(x, 1), 1 - 2 * alpha)
    p = max(p_value(interval, -margin, "greater"), p_value(interval, margin, "less"))
    return Equivalence(float(p), interval, bool(p < alpha))


def power(
    effect: float,
    x: np.ndarray,
    replicates: float,
    alpha: float = ALPHA,
    test: Literal["difference", "equivalence"] = "difference",
) -> float:
    """The chance that so many replicates with as many prompts as x has would show an effect.

    From x come the variances of replicates, prompts and residuals (mean squares, a negative one counts as 0). They
    predict the standard error, and Satterthwaite's degrees of freedom at the expected mean squares, of `replicates`
    replicates; the test statistic then has the noncentral t distribution.

    Where the variances are known it is within 0.03 of the simulated power from 5 replicates on, and within 0.08 for 3.
    With few replicates in x the variances are rough, and so is this: read it as an order of magnitude at D = 3.

    Parameters
    ----------
    effect : the true mean difference, in x's unit; for "equivalence" the margin, where the true difference is 0
    x : (D, P) paired differences, at least two of each
    replicates : 2 or more; np.inf: what the prompts alone allow
    alpha : the level of the two-sided test, or of each of the two one-sided ones

    Returns
    -------
    0 to 1
    """
    require(replicates >= 2, "replicates", replicates, "at least 2, or np.inf")
    _check(effect, alpha, test)
    return _power(abs(float(effect)), _components(x), replicates, alpha, test)


def replicates_needed(
    effect: float,
    x: np.ndarray,
    power: float = 0.8,
    alpha: float = ALPHA,
    test: Literal["difference", "equivalence"] = "difference",
) -> float:
    """The fewest replicates, 2 or more, that show an effect with a chance of `power`; parameters as in `power`.

    Returns
    -------
    A whole number; np.inf where the prompts' own variance keeps the power below that whatever the replicates, so
    that more prompts are needed, or where it would take more than a million.
    """
    require(0 < power < 1, "power", power, "a chance between 0 and 1, such as 0.8")
    _check(effect, alpha, test)
    parts, effect = _components(x), abs(float(effect))
    low, high = 1, 2  # low does not reach the power
    while _power(effect, parts, high, alpha, test) < power:
        low, high = high, 2 * high
        if high > MOST:
            return np.inf
    while high - low > 1:
        middle = (low + high) // 2
        enough = _power(effect, parts, middle, alpha, test) >= power
        low, high = (low, middle) if enough else (middle, high)
    return float(high)


def replicates_to_decide(
    claim: Claim, x: np.ndarray, margin: float, factor: float = 1.0, alpha: float = ALPHA
) -> float:
    """The fewest replicates, more than x has, at which `verdict` would decide a claim, if mean and variances stayed as x has them.

    A projection and no promise: the mean that is seen moves with every new replicate. It says more than power does for an
    effect of the size of the margin, `replicates_needed`: a difference of half the margin takes long to tell from 0 and
    from the margin, however many replicates would show the whole margin.

    Parameters
    ----------
    claim, margin, alpha : as in `verdict`
    x : (D, P) paired differences, at least two replicates
    factor : what p is multiplied by before it is compared with alpha, as by `holm`

    Returns
    -------
    A whole number above D; np.inf where prompts stand in the way, or where it would take more than a million.
    """
    require(claim in {"greater", "less", "equivalent"}, "claim", claim, "'greater', 'less' or 'equivalent'")
    require(margin > 0, "margin", margin, "a difference above 0")
    require(factor >= 1, "factor", factor, "1 or more")
    parts, mean = _components(x), abs(float(np.mean(x)))

    def decides(D: float) -> bool:
        se, df = _standard_error(parts, D)
        wide = student.ppf(1 - ALPHA / 2, df) * se  # half of the 95% interval
        if claim == "equivalent":
            return mean + student.ppf(1 - alpha / factor, df) * se < margin or mean - wide >= margin
        return mean > student.ppf(1 - alpha / factor / 2, df) * se or mean + wide < margin

    low, high = len(x), len(x) + 1
    while not decides(high):
        low, high = high, 2 * high
        if high > MOST:
            return np.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return float(high)


def fall(gold: np.ndarray, pressure: np.ndarray | None = None, peak_at_most: float = np.inf) -> Fall:
    """How far gold ends below where it started, and below its peak, without the bias of having chosen the peak.

    The end lies below the highest of many noisy points nearly always, which says nothing. So the peak for the even
    prompts of a replicate is that of the mean over the odd prompts of the other replicates, and the other way round:
    neither a prompt's noise nor a run's is measured where it chose the peak. With one replicate the odd prompts of
    the same one choose, and what wavers in that run as a whole counts as its peak. The mean is that over all prompts of both halves. A curve that is flat has `from_peak` 0 on
    average, and its interval holds 0 in 92% to 98% of simulated cases; one whose peaks differ between replicates has
    less of a fall than each has from its own peak.

    Parameters
    ----------
    gold : (D, P, L) gold at rising pressure, P at least 2, L at least 2
    pressure : (L,) n, beta or step, only for `peak_at_most`
    peak_at_most : the peak is looked for where `pressure` is no more than this: 256 for a fall from a peak at n of
        256 or less. The last point may be the peak if it is within: no fall, exactly 0

    Returns
    -------
    Fall, in gold units. To test for a fall of at least 0.3: `p_value(from_peak, -0.3, "less")`.
    """
    gold = np.asarray(gold, np.float64)
    ok = gold.ndim == 3 and gold.shape[0] > 0 and min(gold.shape[1:]) > 1
    require(ok, "gold's shape", gold.shape, "(replicates, prompts, points) with two prompts and two points")
    D, P, L = gold.shape
    reach = np.arange(L) if pressure is None else np.asarray(pressure)
    require(reach.shape == (L,), "pressure's shape", reach.shape, f"one number a point, ({L},)")
    require(pressure is not None or np.isinf(peak_at_most), "pressure", None, "what peak_at_most limits")
    allowed = np.flatnonzero(reach <= peak_at_most)
    require(len(allowed) > 0, "peak_at_most", peak_at_most, f"at least the least pressure, {reach.min()}")
    halves = np.arange(P) % 2
    peaks = np.empty((D, 2), np.int64)
    drop = np.empty((D, P))
    for d in range(D):
        others = np.delete(gold, d, 0) if D > 1 else gold
        for half in (0, 1):
            mean = others[:, halves != half].mean((0, 1))
            peaks[d, half] = allowed[mean[allowed].argmax()]
            mine = gold[d, halves == half]
            drop[d, halves == half] = mine[:, -1] - mine[:, peaks[d, half]]
    return Fall(two_way_interval(gold[..., -1] - gold[..., 0]), two_way_interval(drop), peaks, drop)


def verdict(
    claim: Claim,
    interval: Interval,
    p_adjusted: float,
    margin: float,
    needed: float = np.nan,
    alpha: float = ALPHA,
) -> Verdict:
    """A claim about a mean difference, in one word, by these rules.

    For a claim that the difference is "greater" or "less" than 0, `p_adjusted` being that of the two-sided test:

    - "holds": p_adjusted < alpha, and the mean has the claimed sign;
    - "fails": p_adjusted < alpha, and the mean has the other sign; or the 95% interval lies inside
      (-margin, margin), so that whatever difference there is does not matter;
    - "undecided": anything else.

    For a claim that it is "equivalent" to 0, `p_adjusted` being that of `equivalence`:

    - "equivalent": p_adjusted < alpha;
    - "fails": the 95% interval lies outside (-margin, margin);
    - "undecided": anything else.

    A claim about another number than 0, such as a fall by 0.3 or more, is one about the difference from it.

    Parameters
    ----------
    claim : fixed before the data were seen
    interval : of the mean difference, numbers, at level 0.95
    p_adjusted : after `holm` over the family that the claim belongs to
    margin : the largest difference that does not matter, above 0
    needed : from `replicates_to_decide`, for an undecided claim

    Returns
    -------
    Verdict; its text names the replicates needed
    """
    require(claim in {"greater", "less", "equivalent"}, "claim", claim, "'greater', 'less' or 'equivalent'")
    require(0 <= p_adjusted <= 1, "p_adjusted", p_adjusted, "a number from 0 to 1")
    require(margin > 0, "margin", margin, "a difference above 0")
    require(np.ndim(interval.mean) == 0, "interval's shape", np.shape(interval.mean), "one mean: ()")
    shown, inside = p_adjusted < alpha, interval.low > -margin and interval.high < margin
    if claim == "equivalent":
        outside = interval.low >= margin or interval.high <= -margin
        word = "equivalent" if shown else "fails" if outside else "undecided"
    elif shown:
        word = "holds" if (interval.mean > 0) == (claim == "greater") else "fails"
    else:
        word = "fails" if inside else "undecided"
    return Verdict(word, float(needed) if word == "undecided" else np.nan)


def _check(effect: float, alpha: float, test: str) -> None:
    """Refuse what `power` and `replicates_needed` cannot take."""
    require(bool(np.isfinite(effect)), "effect", effect, "a number")
    require(0 < alpha < 0.5, "alpha", alpha, "a share between 0 and 0.5")
    require(test in {"difference", "equivalence"}, "test", test, "'difference' or 'equivalence'")


def _crossed(x: np.ndarray, least: int) -> np.ndarray:
    """x (D, P) in float64, with at least `least` replicates and prompts."""
    x = np.asarray(x, np.float64)
    ok = x.ndim == 2 and min(x.shape) >= least
    require(ok, "x's shape", x.shape, f"(replicates, prompts), at least {least} of each")
    return x


def _components(x: np.ndarray) -> tuple[float, float, float, int]:
    """Variances of replicates, prompts and residuals, none below 0, and the number of prompts, of x (D, P).

    A number a replicate, P = 1, has a variance of replicates alone.
    """
    x = _crossed(x, 1)
    require(len(x) > 1, "x's shape", x.shape, "(replicates, prompts), at least 2 replicates")
    require(
        bool(np.isfinite(x).all()), "x", "NaN or infinity", "a finite value for every replicate and prompt"
    )
    D, P = x.shape
    replicate, prompt = x.mean(1), x.mean(0)
    if P == 1:
        return float(replicate.var(ddof=1)), 0.0, 0.0, 1
    residual = x - replicate[:, None] - prompt + x.mean()
    E = float(np.square(residual).sum() / ((D - 1) * (P - 1)))
    parts = (replicate.var(ddof=1) - E / P, prompt.var(ddof=1) - E / D)
    return (*(float(max(v, 0.0)) for v in parts), E, P)


def _power(effect: float, parts: tuple[float, float, float, int], D: float, alpha: float, test: str) -> float:
    """Power of a test at D replicates: over the distribution of the estimated standard error, by quantiles."""
    se, df = _standard_error(parts, D)
    if se <= 0:
        return float(effect > 0)
    spread = np.sqrt(
        chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df
    )  # of the estimated over the true error
    away = effect / se
    if test == "equivalence":
        return float(np.maximum(2 * norm.cdf(away - student.ppf(1 - alpha, df) * spread) - 1, 0).mean())
    reach = student.ppf(1 - alpha / 2, df) * spread
    return float((norm.cdf(away - reach) + norm.cdf(-away - reach)).mean())


def _standard_error(parts: tuple[float, float, float, int], D: float) -> tuple[float, float]:
    """Standard error of the mean and its degrees of freedom at D replicates, by the variances of `_components`."""
    replicate, prompt, E, P = parts
    variance = prompt / P + (0.0 if np.isinf(D) else (replicate + E / P) / D)
    if P == 1 or variance <= 0:
        return float(np.sqrt(variance)), D - 1.0
    if np.isinf(D):
        return float(np.sqrt(variance)), P - 1.0
    R, Q = P * replicate + E, D * prompt + E
    df = (R + Q - E) ** 2 / (R**2 / (D - 1) + Q**2 / (P - 1) + E**2 / ((D - 1) * (P - 1)))
    return float(np.sqrt(variance)), df
