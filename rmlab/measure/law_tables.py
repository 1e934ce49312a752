"""Tables of the laws: every ensemble's fitted law, coefficients against the size of ensembles, and how Goodhart strikes.

Letters: D replicates, P prompts, L points of a curve, E ensembles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rmlab.measure import errors, goodhart, laws
from rmlab.measure.compare import REGIME, Curve, Setting, Unit, covered, curve_of, keys_of, units_of
from rmlab.measure.diversity import effective_members
from rmlab.measure.ensembles import SINGLE, StudyScores, by_name
from rmlab.measure.intervals import Interval
from rmlab.measure.pool_curves import scored_settings
from rmlab.measure.ppo_curves import ppo_curves
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, ess, kl_bound, n_grid
from rmlab.recipe import stream

CUT = 64  # n up to which a law of best-of-n is fitted, to be tested beyond
ENOUGH = 10.0  # effective answers a prompt; a point with fewer counts in proportion
ASSUMED = ("mean", "min")  # aggregators whose proxy's slopes and tails are measured
FEWEST = 4  # ensembles that a slope over ensembles needs
SLOPE_KEYS = ("aggregator", *REGIME, "form", "coefficient", "regressor")


def law_tables(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """Every curve's law under its paper's strength.

    `laws`, a row a setting and form: coefficients and peak with 95% intervals over replicates and prompts
    (`laws.bootstrap`); `observed_d`, how far the curve reaches; `rmse_in` and `rmse_out` of a fit up to `cut_d`, inside and
    beyond; `excess_out`, `rmse_out` minus that of the optimiser's own form in Gao et al., with an interval over the same
    draws, whose noise raises every form's error alike. A point with fewer than 10 effective answers a prompt weighs less in proportion. d is the root of the mean KL:
    best-of-n's upper bound, PPO's k1, taken as known.

    `laws_replicates`: the same forms fitted to each replicate's own mean curve over prompts (`laws_by_replicate`).
    `law_of_ensembles`: alpha and beta of the optimiser's own form against log K and the effective members by errors.
    `law_of_ensembles_replicates`: each replicate's own slope, whose mean `slope` is.
    `goodhart`: slopes of gold on the proxy in the body and the top, and the tail of the errors.
    """
    every = best_curves(scores) if scores.recipe.ppo_study is None else ppo_curves(scores)
    effective = effective_errors(scores)
    return {
        "laws": pd.concat([laws_of(c, scores.recipe.seed) for c in every], ignore_index=True),
        "laws_replicates": pd.concat([laws_by_replicate(c) for c in every], ignore_index=True),
        "law_of_ensembles": law_of_ensembles(every, effective),
        "law_of_ensembles_replicates": slopes_by_replicate(every, effective),
        "goodhart": goodhart_table(scores),
    }


def best_curves(scores: StudyScores) -> list[Curve]:
    """Best-of-n of every ensemble under every aggregator of its paper's strength, no gain: what the laws are fitted to."""
    ns = n_grid(scores.gold.shape[1])
    axis, answers = (ns, kl_bound(ns), KL_NAME), {"ess": ess(scores.gold.shape[1], ns)}
    groups: dict[Setting, list[tuple[Unit, np.ndarray]]] = defaultdict(list)
    for setting, e, x in scored_settings(scores, None):
        both = np.stack([scores.gold, x.score], -1)
        groups[setting].append((units_of([e])[0], best_of_n(x.score, both, ns, scores.ended)))
    every = []
    for setting, rows in groups.items():
        units, values = [unit for unit, _ in rows], np.stack([x for _, x in rows])
        gold, proxy = np.moveaxis(values, -1, 0)
        nothing = np.full(len(units), np.nan)
        every.append(
            curve_of(setting, units, axis, {"gold": gold, "proxy": proxy}, nothing, nothing, answers)
        )
    return every


def laws_of(curve: Curve, seed: int = 0) -> pd.DataFrame:
    """The rows of `law_tables`'s `laws` for one curve; the bootstrap's draws come from the stream of `seed` and the setting."""
    d, weights = distance(curve)
    cut = cut_of(curve, d)
    own = laws.PAPER[curve.setting.optimiser]
    rows, missed = [], {}
    for form in (own, *(f for f in laws.FORMS if f != own)):
        rng = stream(seed, "laws", repr(curve.setting))  # the same draws for every form
        fitted = laws.bootstrap(d, curve.gold, form, rng, weights)
        row = {"form": form}
        for name in laws.Law._fields:
            low, high = (getattr(end, name) for end in (fitted.low, fitted.high))
            row |= {name: getattr(fitted.law, name), f"{name}_low": low, f"{name}_high": high}
        gain = (curve.gold - curve.gold[..., :1]).mean((0, 1))
        inside, outside = laws.extrapolation(d, gain, form, cut, weights)
        missed[form] = laws.extrapolation(d, fitted.curves, form, cut, weights)[1]  # (B,)
        row |= {"observed_d": d.max(), "cut_d": cut, "rmse_in": float(inside), "rmse_out": float(outside)}
        excess = missed[form] - missed[own]
        ends = np.quantile(excess, [0.025, 0.975]) if np.isfinite(excess).all() else [np.nan, np.nan]
        row["excess_out"] = row["rmse_out"] - (rows[0]["rmse_out"] if rows else row["rmse_out"])
        rows.append({**row, "excess_out_low": ends[0], "excess_out_high": ends[1]})
    frame = pd.DataFrame(rows).assign(points=int((d > 0).sum()), **covered(curve.gold))
    for column, value in reversed(_keys(curve).items()):
        frame.insert(0, column, value)
    return frame


def laws_by_replicate(curve: Curve) -> pd.DataFrame:
    """Every form fitted to each replicate's own mean curve over prompts, a row a form and replicate; numbers as in `laws_of`.

    All but the power form are linear in their coefficients: the mean of a replicate's alpha or beta is that of the mean curve.
    A peak's is not, and is infinite where a replicate's law only rises.
    """
    d, weights = distance(curve)
    cut, own = cut_of(curve, d), laws.PAPER[curve.setting.optimiser]
    gain = (curve.gold - curve.gold[..., :1]).mean(1)  # (D, L)
    frames = []
    for form in (own, *(f for f in laws.FORMS if f != own)):
        law = laws.fit(d, gain, form, weights)
        row = {**_keys(curve), "form": form, "replicate": curve.replicates}
        row |= {name: getattr(law, name) for name in ("alpha", "beta", "peak_d", "peak_gain")}
        missed = laws.extrapolation(d, gain, form, cut, weights)
        frames.append(pd.DataFrame({**row, **dict(zip(("rmse_in", "rmse_out"), missed, strict=True))}))
    return pd.concat(frames, ignore_index=True)


def distance(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """d = sqrt(KL) (L,) in root nats, 0 at the start and where an estimate is below 0, and the points' weights (L,)."""
    d = np.sqrt(np.maximum(curve.kl, 0.0))
    d[0] = 0.0
    answers = curve.columns.get("ess")
    return d, np.ones(len(d)) if answers is None else np.minimum(answers / ENOUGH, 1.0)


def cut_of(curve: Curve, d: np.ndarray) -> float:
    """Up to where a fit that is tested beyond sees: sqrt(KL) of best of 64, or half of what PPO reached."""
    return float(np.sqrt(kl_bound(CUT))) if curve.setting.optimiser == "best_of_n" else float(d.max()) / 2


def effective_errors(scores: StudyScores) -> dict[str, float]:
    """Effective members by the correlation of their errors, the mean over replicates of each ensemble's first instance."""
    ended, sizes = scores.ended, {}
    prompts = np.nonzero(ended)[0]
    for name, group in by_name(scores.ensembles).items():
        each = []
        for e in (e for e in group if e.number == 0 and e.k > 1):
            left = errors.errors(e.pool[ended], scores.gold[ended], prompts)
            each.append(effective_members(errors.error_correlation(left)))
        sizes[name] = float(np.mean(each)) if each else 1.0
    return sizes


def law_of_ensembles(every: list[Curve], effective: dict[str, float]) -> pd.DataFrame:
    """Slopes over ensembles of alpha and beta on log K and on effective members, one regressor at a time.

    A row a regime, aggregator, coefficient and regressor, over the replicates that all its ensembles have; a single model
    is an ensemble of one under any aggregator. The interval (95%) is `slope_over_ensembles`'s; NaN with fewer than 4
    ensembles or a single replicate. Ensembles differ in more than their size: a slope describes these and proves nothing.
    """
    rows = []
    for of in _slopes(every, effective):
        interval = slope_over_ensembles(of.x, of.y)
        numbers = {"slope": interval.mean, "slope_low": interval.low, "slope_high": interval.high}
        rows.append({**of.about, **numbers, "ensembles": len(of.x), "units": len(of.replicates)})
    columns = [*SLOPE_KEYS, "slope", "slope_low", "slope_high", "ensembles", "units"]
    return pd.DataFrame(rows, columns=columns)


def slopes_by_replicate(every: list[Curve], effective: dict[str, float]) -> pd.DataFrame:
    """Each replicate's own slope over ensembles, a row a row of `law_of_ensembles` and replicate: what its slopes are means of."""
    frames = []
    for of in _slopes(every, effective):
        slope = replicate_slopes(of.x, of.y)
        row = {**of.about, "replicate": of.replicates, "slope": slope, "ensembles": len(of.x)}
        frames.append(pd.DataFrame(row))
    columns = [*SLOPE_KEYS, "replicate", "slope", "ensembles"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def replicate_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least-squares slope on x (E,) of each row of y (D, E): (D,).

    NaN throughout with one ensemble, with x that does not vary or where y has NaN or infinity.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    apart = x - x.mean()
    spread = float(np.square(apart).sum())
    if len(x) < 2 or spread < 1e-12 or not np.isfinite(y).all():
        return np.full(len(y), np.nan)
    return y @ apart / spread


def slope_over_ensembles(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> Interval:
    """The least-squares slope of y on x over ensembles, its interval over ensembles and replicates both.

    Two-way clustering (Cameron, Gelbach and Miller 2011): V = R + Q - E. R is the variance of the mean of the replicates'
    own slopes, Q that of one slope when ensembles are drawn, from the residuals of their means with MacKinnon and White's
    (1985) HC3 for few ensembles, and E that of the noise of single cells, which both count. V is at least the larger of R
    and Q, with Satterthwaite's degrees of freedom from D - 1 and E - 2.

    Parameters
    ----------
    x : (E,) ; y : (D, E)

    Returns
    -------
    Interval of floats; low and high are NaN with fewer than 4 ensembles, 2 replicates or 3 values of x
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    (D, E), apart, each = y.shape, x - x.mean(), replicate_slopes(x, y)
    spread, slope = float(np.square(apart).sum()), float(each.mean())
    if np.isnan(slope):
        return Interval(*[np.nan] * 5)
    if E < FEWEST or D < 2 or len(np.unique(x)) < 3:
        return Interval(slope, *[np.nan] * 4)
    left = y - y.mean(1, keepdims=True) - each[:, None] * apart
    leverage = np.minimum(1 / E + apart**2 / spread, 1 - 1e-6)
    replicates = each.var(ddof=1) / D
    ensembles = np.square(apart * left.mean(0) / (1 - leverage)).sum() / spread**2
    cells = (apart**2 * left.var(0, ddof=1) / (1 - leverage)).sum() / (D * spread**2)
    variance = float(max(replicates + ensembles - cells, replicates, ensembles))
    below = replicates**2 / (D - 1) + ensembles**2 / (E - 2)
    df = max(variance**2 / below, 1.0) if below > 0 else 1.0
    half = float(student.ppf((1 + level) / 2, df)) * variance**0.5
    return Interval(slope, slope - half, slope + half, variance**0.5, df)


def goodhart_table(scores: StudyScores) -> pd.DataFrame:
    """How gold follows each ensemble's mean and minimum, over replicates' first instances.

    `slope_body` and `slope_top` are gold units a unit of score, `slope_change` top minus body, with 95% intervals over
    replicates and prompts: a change below 0 is extremal Goodhart. `top` is the answers a prompt. `tail_index` is Hill's of
    the largest 1% of errors, the mean over replicates, beside `tail_index_normal`, what normal errors give: an index below it
    says that the errors have heavier tails than normal ones.
    """
    ended, rows = scores.ended, []
    prompts = np.nonzero(ended)[0]
    sums: dict[tuple, list[tuple]] = defaultdict(list)
    for setting, e, x in scored_settings(scores, None):
        if e.number == 0 and setting.aggregator in ASSUMED:
            left = errors.errors(x.score[ended][:, None], scores.gold[ended], prompts)
            key = (setting.ensemble, setting.method, setting.k, setting.aggregator)
            sums[key].append((*goodhart.moments(x.score, scores.gold, ended), goodhart.hill(left)))
    for key, each in sums.items():
        crossed, squared, tails = (np.array(x) for x in zip(*each, strict=True))
        slopes = goodhart.slopes(crossed, squared)
        row = dict(zip(("ensemble", "method", "k", "aggregator"), key, strict=True))
        for name, i in (
            ("slope_body", slopes.body),
            ("slope_top", slopes.top),
            ("slope_change", slopes.difference),
        ):
            row |= {name: i.mean, f"{name}_low": i.low, f"{name}_high": i.high}
        row |= {"top": min(goodhart.TOP, ended.shape[1] // 4), "tail_index": tails.mean()}
        rows.append({**row, "tail_index_normal": goodhart.gaussian_hill(), **covered(crossed)})
    return pd.DataFrame(rows)


class _Slope(NamedTuple):
    """What one slope is of: keys of its row, the replicates that all ensembles have (D,), regressor x (E,), y (D, E)."""

    about: dict[str, object]
    replicates: list[int]
    x: np.ndarray
    y: np.ndarray


def _slopes(every: list[Curve], effective: dict[str, float]) -> Iterator[_Slope]:
    """The slopes of `law_of_ensembles`, row by row."""
    groups: dict[tuple, dict[str, Curve]] = defaultdict(dict)
    for curve in every:
        s = curve.setting
        if s.ensemble != SINGLE:
            groups[(s.aggregator, *s.regime)][s.ensemble] = curve
    alone = {c.setting.regime: c for c in every if c.setting.ensemble == SINGLE}
    for (aggregator, *regime), group in groups.items():
        if tuple(regime) in alone:
            group = {SINGLE: alone[tuple(regime)], **group}
        shared = sorted(set.intersection(*(set(c.replicates) for c in group.values())))
        coefficients = np.stack([_coefficients(c, shared) for c in group.values()], -1)  # (2, D, E)
        regressors = {
            "log_k": np.log([c.setting.k for c in group.values()]),
            "effective_error": np.array([effective[name] for name in group]),
        }
        for coefficient, y in zip(("alpha", "beta"), coefficients, strict=True):
            for regressor, x in regressors.items():
                about = {"aggregator": aggregator, **dict(zip(REGIME, regime, strict=True))}
                about["kl_coef"] = np.nan if about["kl_coef"] is None else about["kl_coef"]
                about |= {"form": laws.PAPER[regime[0]], "coefficient": coefficient, "regressor": regressor}
                yield _Slope(about, shared, x, y)


def _keys(curve: Curve) -> dict[str, object]:
    """The leading columns of `laws`."""
    return {n: value for n, value in keys_of(curve.setting).items() if n not in {"strength", "penalty"}}


def _coefficients(curve: Curve, replicates: list[int]) -> np.ndarray:
    """alpha and beta (2, D) of each replicate's mean curve, in the optimiser's own form."""
    d, weights = distance(curve)
    gold = curve.gold[[curve.replicates.index(r) for r in replicates]].mean(1)  # (D, L)
    law = laws.fit(d, gold - gold[:, :1], laws.PAPER[curve.setting.optimiser], weights)
    return np.stack([law.alpha, law.beta])
