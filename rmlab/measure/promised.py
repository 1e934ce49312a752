"""Promised against delivered: how sure a proxy is of its own winner, and how often gold agrees.

The win rate of best-of-n's winner over a random answer of the policy to the same prompt. What is promised is the mean
of the proxy's probability, sigmoid(log odds of the winner minus those of the random answer); what is delivered is how
often gold prefers the winner. A proxy that is calibrated on random pairs need not be so on its winners, which were
also chosen for its errors (regressional Goodhart, Gao et al. 2210.10760, Section 4.2). With Gaussian gold and errors
their Eq. 1 is a shrinkage that a temperature undoes, for winners too; with errors of heavy tails more is promised, the
more answers the winner is chosen from. A temperature changes what is promised and not who wins, and no more does
isotonic regression, which may tie (`rmlab.measure.recalibrate`).

Letters: P prompts, N answers a prompt, D replicates, L values of n, T temperatures, G points of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.fft import irfft, next_fast_len, rfft

from rmlab.measure.accuracy import probability
from rmlab.measure.calibration import temperature
from rmlab.measure.compare import covered
from rmlab.measure.ensembles import EnsembleResult, StudyScores, by_name
from rmlab.measure.intervals import columns_of, mean_interval
from rmlab.measure.study_calibration import heldout_margins, log_odds, rules_of
from rmlab.optimise.best_of_n import best_of_n, n_grid
from rmlab.recipe import require

RECALIBRATIONS = ("none", "temperature")
REPLICATES_AT = (1, 64, 256)  # n with rows by replicate
STEP = 0.1  # log odds between points of the grid
DIGITS = 9  # of a rate: what follows is rounding, and a gap that is 0 is written so
MOST = 2**23  # points of all prompts together, above which pairs are counted one by one


def promised(scores: StudyScores) -> dict[str, pd.DataFrame]:
    """Promised and delivered win rate of the winner of best-of-n, every ensemble under every aggregator.

    Winner and random answer are of those that ended, the random one uniform, the winner itself included (half a win
    for both); prompts of which none ended are left out. Exact over the pool, but for `win_chances`' 3e-4 at most. The
    unit of an aggregate's log odds, and what it rests on, are those of `rmlab.measure.study_calibration`; the
    temperature is fitted on all held-out pairs, whose prompts are others than the pool's.

    Returns
    -------
    `promised` : a row an ensemble, aggregator, recalibration ("none", "temperature") and n, every second power of two and
        the largest: `promised` and `delivered`, rates from 0 to 1, and `gap`, promised minus delivered, each with `_low`
        and `_high`, 95% over replicates and prompts, a replicate's instances averaged first; `units`, the replicates
    `promised_replicates` : the three rates of each replicate at n of `REPLICATES_AT`
    """
    ends = scores.ended.any(1)
    gold, ended = scores.gold[ends], scores.ended[ends]
    ns = _every_second(n_grid(gold.shape[1]))
    beaten = beaten_shares(gold, ended)
    survives = best_of_n(
        ended.astype(float), ended.astype(float), ns
    )  # that one of n answers has ended, (P, L)
    frames, replicates = [], []
    for name, group in by_name(scores.ensembles).items():
        for rule in rules_of(group[0].k):
            rates: dict[int, list[np.ndarray]] = {}
            for e in group:
                won = _win_rates(e, rule, ends, ended, beaten, ns) / survives[..., None]
                rates.setdefault(e.replicate, []).append(won.round(DIGITS))
            values = np.stack([np.mean(x, 0) for x in rates.values()])  # (D, P, L, 3)
            keys = {"ensemble": name, "method": group[0].method, "k": group[0].k, "aggregator": rule}
            frames += _frames(keys, ns, values)
            replicates += _replicate_frames(keys, ns, list(rates), values.mean(1))
    joined = (pd.concat(tables, ignore_index=True) for tables in (frames, replicates))
    return dict(zip(("promised", "promised_replicates"), joined, strict=True))


def win_chances(odds: np.ndarray, ended: np.ndarray, temperatures: Sequence[float] = (1.0,)) -> np.ndarray:
    """An answer's mean chance to be preferred to a random one of its prompt that ended, itself included.

    The mean over r of sigmoid((x - x_r) / temperature), on a grid of steps of 0.1 in log odds at the lowest
    temperature: both x and x_r are shared out between their two neighbours, which is linear interpolation, and errs by
    less than 2 h^2 / 8 max abs sigmoid'' = 0.1^2 / (24 sqrt 3) = 2.5e-4; the sum over the grid is a convolution. Odds
    so far apart that the grid would be larger than memory are compared pair by pair.

    Parameters
    ----------
    odds : (P, N) finite, log odds
    ended : (P, N) bool, True at least once in every row
    temperatures : (T,) above 0

    Returns
    -------
    (P, N, T) float64; of no meaning where an answer has not ended
    """
    odds, heats = np.asarray(odds, np.float64), np.asarray(temperatures, np.float64)
    require(bool(ended.any(1).all()), "ended", "a prompt without any", "prompts with an answer that ended")
    require(bool((heats > 0).all()), "temperatures", heats.tolist(), "above 0")
    lowest = np.where(ended, odds, np.inf).min(1, keepdims=True)
    reach = np.where(ended, odds, -np.inf).max(1, keepdims=True) - lowest  # (P, 1)
    step = STEP * float(heats.min())
    if reach.max() / step * len(odds) > MOST:
        return _by_pair(odds, ended, heats)
    points = int(reach.max() / step) + 2
    place = np.clip(odds - lowest, 0, reach) / step  # (P, N)
    left = place.astype(np.int64)
    part = place - left
    flat = (np.arange(len(odds))[:, None] * points + left)[ended]
    length = len(odds) * points
    mass = np.bincount(flat, (1 - part)[ended], length) + np.bincount(flat + 1, part[ended], length)
    mass = mass.reshape(len(odds), points) / ended.sum(1, keepdims=True)
    size = next_fast_len(3 * points, real=True)
    spectrum = rfft(mass, size)  # (P, F)
    offsets = np.arange(1 - points, points) * step
    out = np.empty((*odds.shape, len(heats)))
    for i, heat in enumerate(heats):
        means = irfft(spectrum * rfft(probability(offsets / heat), size), size)[
            :, points - 1 : 2 * points - 1
        ]
        below, above = (np.take_along_axis(means, left + j, 1) for j in (0, 1))
        out[..., i] = below + part * (above - below)
    return out


def beaten_shares(gold: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """The share of a prompt's ended answers that gold puts below an answer, equal ones half, itself included.

    gold : (P, N), any unit; ended : (P, N) bool. Returns (P, N).
    """
    out = np.empty(gold.shape)
    for row, (values, mask) in enumerate(zip(gold, ended, strict=True)):
        others = np.sort(values[mask])
        wins = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
        out[row] = wins / (2 * max(len(others), 1))
    return out


def _win_rates(
    e: EnsembleResult, rule: str, ends: np.ndarray, ended: np.ndarray, beaten: np.ndarray, ns: np.ndarray
) -> np.ndarray:
    """(P, L, 3): promised without and with a temperature, and delivered, 0 where no drawn answer ended.

    ends : (all prompts,) bool, the P that are kept
    """
    odds = log_odds(e.pool[ends], e.scale, rule)
    margins = heldout_margins(e, rule)
    chances = win_chances(odds, ended, (1.0, temperature(margins, np.ones(len(margins)))))
    worth = np.concatenate([chances, beaten[..., None]], -1) * ended[..., None]
    return best_of_n(np.where(ended, odds, -np.inf), worth, ns)


def _frames(keys: dict[str, object], ns: np.ndarray, values: np.ndarray) -> list[pd.DataFrame]:
    """The rows of one ensemble and aggregator, from rates (D, P, L, 3) as `_win_rates` orders them."""
    frames, delivered = [], values[..., -1]
    for i, name in enumerate(RECALIBRATIONS):
        frame = {**keys, "recalibration": name, "n": ns}
        quantities = {"promised": values[..., i], "delivered": delivered, "gap": values[..., i] - delivered}
        for quantity, x in quantities.items():
            frame |= columns_of(quantity, mean_interval(x))
        frames.append(pd.DataFrame({**frame, "units": covered(values)["units"]}))
    return frames


def _replicate_frames(
    keys: dict[str, object], ns: np.ndarray, replicates: list[int], rates: np.ndarray
) -> list[pd.DataFrame]:
    """The rows of one ensemble and aggregator by replicate at a few n, from rates (D, L, 3)."""
    frames = []
    for at in [i for i, n in enumerate(ns) if n in REPLICATES_AT]:
        for i, name in enumerate(RECALIBRATIONS):
            frame = {**keys, "recalibration": name, "n": ns[at], "replicate": replicates}
            promise, delivered = rates[:, at, i], rates[:, at, -1]
            columns = {"promised": promise, "delivered": delivered, "gap": promise - delivered}
            frames.append(pd.DataFrame({**frame, **columns}))
    return frames


def _by_pair(odds: np.ndarray, ended: np.ndarray, heats: np.ndarray) -> np.ndarray:
    """`win_chances` exactly, an answer against every other, a prompt at a time."""
    out = np.empty((*odds.shape, len(heats)))
    for row, (x, mask) in enumerate(zip(odds, ended, strict=True)):
        apart = x[:, None] - x[mask]
        for i, heat in enumerate(heats):
            out[row, :, i] = probability(apart / heat).mean(1)
    return out


def _every_second(ns: np.ndarray) -> np.ndarray:
    """1, 4, 16, ... and the last, (L,)."""
    return np.unique(np.append(ns[::2], ns[-1]))
