"""How often the answers of one policy beat those of another to the same prompts, by gold or by a judge.

A win counts 1, a tie a half, a loss 0. A judge that reads two answers side by side leans towards a place (Zheng et al.
2023, 2306.05685, Section 3.3), so a pair is judged in both orders, what it counts is the mean of the two, and how often
the verdict depends on the order is reported beside the rate. Judges lean towards length too: `length_controlled`.

Letters: R pairs of answers, one or more a prompt; C prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from rmlab.measure.clusters import Estimate, half_width, mean_interval, share_interval
from rmlab.recipe import require

WINS = {"first": 1.0, "tie": 0.5, "second": 0.0}  # of the first policy
MALFORMED = "malformed"  # the verdict of a reply that no verdict can be read from
LENGTHS = ("first_length", "second_length")


class WinRate(NamedTuple):
    """What judgements in both orders say of the first policy; every interval is over prompts.

    rate : its win rate, ties half
    flipped : share of pairs whose verdict is another with the answers swapped, by bias or by chance
    shown_first : share of verdicts for the answer that is shown first, ties half: .5 unless the judge leans
    controlled : the rate at equal length (`length_controlled`); NaN without lengths
    pairs : pairs judged in both orders, which all of this is of
    malformed : pairs left out, for a verdict that could not be read
    missing : pairs left out, for an order that was not judged
    """

    rate: Estimate
    flipped: Estimate
    shown_first: Estimate
    controlled: Estimate
    pairs: int
    malformed: int
    missing: int


def gold_wins(first: np.ndarray, second: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """1, a half or 0 (R,), as the first answer of a pair beats, ties with or loses to the second.

    Parameters
    ----------
    first, second : (R,) gold, any unit; minus infinity for an answer that never ended, which loses to all that did
    margin : in gold's unit; answers that are apart by no more are tied

    Raises
    ------
    ValueError
        NaN, another number of answers, a margin below 0.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    require(
        first.ndim == 1 and len(first) > 0, "first's shape", first.shape, "gold of pairs (R,), at least one"
    )
    require(
        second.shape == first.shape, "second's shape", second.shape, f"one for each of first, {first.shape}"
    )
    for name, gold in {"first": first, "second": second}.items():
        ok = not (np.isnan(gold) | (gold == np.inf)).any()
        require(ok, name, "NaN or infinity", "numbers: leave out pairs that have none")
    require(0 <= margin < np.inf, "margin", margin, "a number of 0 or more")
    return 0.5 + 0.5 * (first > second + margin) - 0.5 * (second > first + margin)


def gold_win_rate(
    first: np.ndarray, second: np.ndarray, prompts: np.ndarray, margin: float = 0.0
) -> Estimate:
    """The share of pairs that the first policy wins by gold, ties half, with its interval by prompts.

    first, second, margin : as in `gold_wins`; prompts : (R,) whole numbers of 0 or more, the prompt of each pair
    """
    return rate_interval(gold_wins(first, second, margin), prompts)


def rate_interval(wins: np.ndarray, prompts: np.ndarray) -> Estimate:
    """The mean of what pairs count, each from 0 to 1, and its t interval by prompts (`mean_interval`), cut to [0, 1].

    Where all pairs count the same, rows have no spread to go by: the interval is then Wilson's with a row a prompt
    (`share_interval`), and not of width 0.

    wins : (R,); prompts : (R,) whole numbers of 0 or more
    """
    estimate = mean_interval(wins, prompts)
    if np.ptp(wins) == 0:
        return share_interval(np.full(estimate.clusters, estimate.value), np.arange(estimate.clusters))
    low, high = np.clip((estimate.low, estimate.high), 0, 1)
    return estimate._replace(low=float(low), high=float(high))


def pair_wins(judgements: pd.DataFrame) -> pd.DataFrame:
    """Judgements side by side: a row a pair, in the order in which pairs first come.

    Parameters
    ----------
    judgements : a row a pair and order, with columns `pair` (its number; that of the prompt where there is no such
        column), `prompt` (whole numbers of 0 or more), `order` (0: the first policy's answer is shown first; 1: it is
        second), `verdict` (whose answer is better, whatever the order: "first", "second" or "tie"; "malformed" where
        the reply could not be read; None where there is none yet), and, if lengths are known, `first_length` and `second_length`
        (characters or tokens)

    Returns
    -------
    Columns pair, prompt, shown_first and shown_second (what the first policy wins in each order: 1, .5, 0 or NaN),
    wins (their mean; NaN unless both were read), malformed (bool: at least one order), and the lengths where there are
    any

    Raises
    ------
    ValueError
        No rows, columns missing, other orders or verdicts, an order judged twice.
    """
    rows = judgements if "pair" in judgements else judgements.assign(pair=judgements.get("prompt"))
    lacking = [name for name in ("pair", "prompt", "order", "verdict") if name not in rows]
    require(
        not lacking and len(rows) > 0, "judgements", list(judgements), f"rows that have {lacking or 'pairs'}"
    )
    orders = sorted(set(rows["order"]) - {0, 1})
    require(
        not orders, "order", orders, "0 where the first policy's answer is shown first, 1 where it is second"
    )
    known = rows["verdict"].isna() | rows["verdict"].isin([*WINS, MALFORMED])
    require(
        bool(known.all()), "verdict", sorted(set(rows["verdict"][~known])), "first, second, tie or malformed"
    )
    twice = rows.duplicated(["pair", "order"])
    require(not twice.any(), "pair", list(rows["pair"][twice])[:5], "one row a pair and order")
    kept = [name for name in LENGTHS if name in rows]
    table = rows.drop_duplicates("pair")[["pair", "prompt", *kept]].set_index("pair")
    for order, name in enumerate(("shown_first", "shown_second")):
        verdicts = rows[rows["order"] == order].set_index("pair")["verdict"]
        table[name] = verdicts.map(WINS).astype(float).reindex(table.index)
    table["wins"] = (table["shown_first"] + table["shown_second"]) / 2
    table["malformed"] = table.index.isin(rows["pair"][rows["verdict"] == MALFORMED])
    return table.reset_index()


def win_rate(judgements: pd.DataFrame) -> WinRate:
    """The first policy's win rate by a judge, and how far the judge is to be believed.

    Only pairs that were judged in both orders count; the others are counted as `malformed` or `missing`, never as ties.
    Where no pair is left every number is NaN.

    judgements : as in `pair_wins`
    """
    table = pair_wins(judgements)
    malformed = int(table["malformed"].sum())
    full = table[table["wins"].notna()]
    counts = (len(full), malformed, len(table) - len(full) - malformed)
    none = Estimate(np.nan, np.nan, np.nan, 0)
    if not len(full):
        return WinRate(none, none, none, none, *counts)
    prompts = full["prompt"].to_numpy()
    wins, one, other = (full[name].to_numpy() for name in ("wins", "shown_first", "shown_second"))
    flipped = share_interval((one != other).astype(float), prompts)
    shown_first = rate_interval((one + 1 - other) / 2, prompts)
    controlled = none
    if set(LENGTHS) <= set(full):
        controlled = length_controlled(wins, (full[LENGTHS[0]] - full[LENGTHS[1]]).to_numpy(), prompts)
    return WinRate(rate_interval(wins, prompts), flipped, shown_first, controlled, *counts)


def length_controlled(wins: np.ndarray, difference: np.ndarray, prompts: np.ndarray) -> Estimate:
    """The win rate that a logistic curve in the difference of lengths has where the two answers are equally long.

    logit P(win) = a + b tanh(difference / its standard deviation), as in AlpacaEval's length-controlled win rate
    (Dubois et al. 2024, 2404.04475, Section 3) without its term for a prompt's difficulty and its penalty, which need
    the answers of other models. Fractional wins are fitted by quasi-likelihood; the interval is a + and - t times its
    cluster-robust error, on the logit's scale. What it is not: a rate freed of the judge's liking for length alone.
    Where longer answers are better because they say more, b takes that too.

    NaN where the curve says nothing of equal length: all differences alike, none on one side of 0, or wins and losses
    that a length parts (the fit would run to infinity).

    Parameters
    ----------
    wins : (R,) from 0 to 1
    difference : (R,) length of the first answer minus that of the second, any unit
    prompts : (R,) whole numbers of 0 or more
    """
    wins, difference = np.asarray(wins, np.float64), np.asarray(difference, np.float64)
    prompts = np.asarray(prompts)
    same = wins.shape == difference.shape == prompts.shape and wins.ndim == 1 and len(wins) > 0
    shapes = (wins.shape, difference.shape, prompts.shape)
    require(
        same, "shapes of wins, difference and prompts", shapes, "rows (R,), at least one, the same for all"
    )
    require(bool(((wins >= 0) & (wins <= 1)).all()), "wins", (wins.min(), wins.max()), "shares from 0 to 1")
    require(bool(np.isfinite(difference).all()), "difference", "NaN or infinity", "a length of both answers")
    C = len(np.unique(prompts))
    if _parted(wins, difference) or not difference.min() <= 0 <= difference.max():
        return Estimate(np.nan, np.nan, np.nan, C)
    x = np.stack([np.ones(len(wins)), np.tanh(difference / difference.std())], 1)  # (R, 2)

    def loss(b: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, x @ b) - wins * (x @ b)))

    def slope(b: np.ndarray) -> np.ndarray:
        return x.T @ (expit(x @ b) - wins) / len(x)

    def curvature(b: np.ndarray) -> np.ndarray:
        p = expit(x @ b)
        return (x.T * (p * (1 - p))) @ x / len(x)

    fit = minimize(loss, np.zeros(2), jac=slope, hess=curvature, method="trust-exact", options={"gtol": 1e-8})
    if np.abs(slope(fit.x)).max() > 1e-6:
        return Estimate(np.nan, np.nan, np.nan, C)
    residuals = x * (wins - expit(x @ fit.x))[:, None]
    half = half_width((residuals @ np.linalg.inv(curvature(fit.x)))[:, 0], prompts)
    return Estimate(*(float(expit(a)) for a in (fit.x[0], fit.x[0] - half, fit.x[0] + half)), C)


def _parted(wins: np.ndarray, x: np.ndarray) -> bool:
    """Whether a logistic fit has no end: all x alike, or all that won, wholly or not, on one side of all that lost."""
    won, lost = x[wins > 0], x[wins < 1]
    if np.ptp(x) == 0 or not len(won) or not len(lost):
        return True
    return bool(won.max() <= lost.min() or won.min() >= lost.max())
