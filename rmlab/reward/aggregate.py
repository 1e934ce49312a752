"""From K member scores to one: the aggregators, and the alignment that gives them a meaning.

Letters: K members, P prompts, N answers a prompt, R reference answers. Scores are reward units of each
member's own scale. NumPy arrays and torch tensors go through the same lines; torch is never imported here,
only found if it is loaded. Every spread divides by K (ddof = 0), so a strength means the same in best-of-n,
in PPO and in the explorer.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmlab.fingerprint import Lookup

if TYPE_CHECKING:
    import torch

    Scores = np.ndarray | torch.Tensor

ROUNDING = 1e-6  # a spread of no more than this, relative to the scores, is float32's rounding


class Rule(NamedTuple):
    """What a table or a menu says about one aggregator."""

    label: str  # plain text
    formula: str  # LaTeX, without dollar signs; mu is the mean over the K members R_1..R_K
    source: str  # paper and equation
    strength: tuple[float, float, float] | None  # lowest, highest, usual; None: it has none


AGGREGATORS: Lookup = Lookup(
    {
        "mean": Rule("mean", r"\mu = \frac{1}{K}\sum_i R_i", "Coste et al. 2310.02743, Eq. 3", None),
        "median": Rule("median", r"\mathrm{median}_i\, R_i", "Eisenstein et al. 2312.09244", None),
        "min": Rule(
            "min (worst case)",
            r"\min_i R_i",
            "Coste et al. 2310.02743, Eq. 4; Ahmed et al. 2406.01013",
            None,
        ),
        "max": Rule("max (optimist)", r"\max_i R_i", "compared in Ahmed et al. 2406.01013", None),
        "mean_std": Rule(
            "mean - λ std",
            r"\mu - \lambda \sqrt{\tfrac{1}{K}\sum_i (R_i - \mu)^2}",
            "Zhang et al. 2401.16635, Section 3.2 (lower confidence bound); Eisenstein et al. 2312.09244",
            (0.0, math.inf, 1.0),
        ),
        "uwo": Rule(
            "mean - λ variance",
            r"\mu - \lambda\, \tfrac{1}{K}\sum_i (R_i - \mu)^2",
            "Coste et al. 2310.02743, Eq. 5 (uncertainty-weighted optimisation)",
            (0.0, math.inf, 1.0),
        ),
        "quantile": Rule(
            "lower quantile at λ",
            r"Q_\lambda(R_1, \dots, R_K)",
            "suggested in Hahami et al. 2606.09073, Section 4",
            (0.0, 1.0, 0.25),
        ),
        "entropic": Rule(
            "entropic, temperature λ",
            r"-\lambda \log \tfrac{1}{K}\sum_i e^{-R_i/\lambda}",
            "Hahami et al. 2606.09073, Eq. 8 and 14",
            (0.0, math.inf, 1.0),  # the lowest value is excluded: it is the limit, min
        ),
    }
)


def aggregate(scores: Scores, aggregator: str, strength: float = 1.0) -> Scores:
    """One score from K member scores.

    Parameters
    ----------
    scores : array or tensor (..., K), member scores, aligned (see `align`); float32 and float64 are kept,
        any other type is taken to float32
    aggregator : a name in `AGGREGATORS`, which holds each one's formula and source
    strength : λ, the weight of the spread in `mean_std` and `uwo` (at least 0; 0 gives exactly the mean), the
        level of `quantile` (0 to 1, linear interpolation; 0 is min, 0.5 the median, 1 max), the temperature
        of `entropic` (above 0; towards 0 it is min, towards infinity the mean). Ignored by the other four.

    Returns
    -------
    (...) scores of the same kind and type. With K = 1 every aggregator returns the score itself. A row with a
    NaN gives NaN. Gradients flow through tensors.

    Raises
    ------
    ValueError : an unknown name, no member axis or an empty one, a strength out of range, finite scores whose
        aggregate the type cannot hold
    """
    _require_known(aggregator)
    xp, s = _floats(scores, "scores")
    strength = _strength(aggregator, strength)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is seen below
        value = _aggregate(xp, s, aggregator, strength)
        if bool(_overflows(xp, s, value).any()):  # squares of float32 end at a score of 1e19
            wide = s.astype(np.float64) if xp is np else s.double()
            value = _aggregate(xp, wide, aggregator, strength)
            value = value.astype(s.dtype) if xp is np else value.to(s.dtype)
    if bool(_overflows(xp, s, value).any()):
        largest = float(xp.amax(abs(s)))
        raise ValueError(
            f"scores of up to {largest:.3g} under {aggregator!r} overflow {s.dtype}: align the members first"
        )
    return value


def usual_strength(aggregator: str) -> float:
    """The strength that the papers use; 1 for an aggregator that has none, which ignores it."""
    _require_known(aggregator)
    rule = AGGREGATORS[aggregator]
    return 1.0 if rule.strength is None else rule.strength[2]


def align(
    scores: Scores, reference: Scores | None = None, centring: str = "global", scale: bool = True
) -> Scores:
    """Member scores on a common footing: Bradley-Terry leaves each member a free offset.

    Parameters
    ----------
    scores : array or tensor (..., K); for `centring="prompt"` (P, N, K)
    reference : member scores of a fixed set of answers, the same K; (..., K) for `centring="global"`,
        (P, R, K) for `centring="prompt"`. None: the scores themselves.
    centring : "none" leaves the scores as they are; "global" takes off each member's mean over the whole
        reference; "prompt" takes off each member's mean over the reference answers of the same prompt
    scale : also divide by each member's standard deviation (ddof = 0) on the reference: for "global" the
        overall one, for "prompt" the root mean square over prompts of the one within a prompt

    Returns
    -------
    The aligned scores, shape and kind of `scores`, in units of each member's standard deviation if `scale`.

    Raises
    ------
    ValueError : an unknown centring, shapes that do not fit, or a member that is constant on the reference
    """
    if centring not in ("none", "global", "prompt"):
        raise ValueError(f"centring = {centring!r} is none; choose one of none, global, prompt")
    xp, s = _floats(scores, "scores")
    if centring == "none":
        return s
    _, ref = _floats(scores if reference is None else reference, "reference")
    if ref.shape[-1] != s.shape[-1]:
        raise ValueError(
            f"reference has {ref.shape[-1]} members and scores have {s.shape[-1]}: give the same members"
        )
    if centring == "prompt" and (s.ndim != 3 or ref.ndim != 3 or s.shape[0] != ref.shape[0]):
        raise ValueError(
            f"centring = 'prompt' needs scores (P, N, K) and reference (P, R, K), not {tuple(s.shape)} and "
            f"{tuple(ref.shape)}: give one block of answers a prompt"
        )
    ref = ref if centring == "prompt" else ref.reshape(1, -1, ref.shape[-1])
    centre = xp.mean(ref, 1)[:, None]  # (P or 1, 1, K)
    width = xp.sqrt(xp.mean((ref - centre) ** 2, (0, 1)))  # (K,)
    still = width <= ROUNDING * xp.amax(abs(centre), (0, 1))
    if scale and bool(still.any()):
        constant = [k for k, flag in enumerate(still.tolist()) if flag]
        raise ValueError(
            f"members {constant} are constant on the reference: give more answers or scale=False"
        )
    moved = s - (centre if centring == "prompt" else centre[0, 0])
    return moved / width if scale else moved


def _aggregate(xp: ModuleType, s: Scores, aggregator: str, strength: float | None) -> Scores:
    """Scores (..., K) of a checked aggregator and strength -> (...)."""
    if aggregator == "mean" or (aggregator in ("mean_std", "uwo") and strength == 0.0):
        return xp.mean(s, -1)
    if aggregator == "min":
        return xp.amin(s, -1)
    if aggregator == "max":
        return xp.amax(s, -1)
    if aggregator == "median":
        return _quantile(xp, s, 0.5)
    if aggregator == "quantile":
        return _quantile(xp, s, strength)
    if aggregator == "entropic":
        return _entropic(xp, s, strength)
    ddof0 = {"ddof": 0} if xp is np else {"correction": 0}  # torch divides by K - 1 unless told
    spread = xp.std if aggregator == "mean_std" else xp.var
    return xp.mean(s, -1) - strength * spread(s, -1, **ddof0)


def _overflows(xp: ModuleType, s: Scores, value: Scores) -> Scores:
    """Where finite scores (..., K) have a value (...) that is not finite."""
    return xp.isfinite(s).all(-1) & ~xp.isfinite(value)


def _quantile(xp: ModuleType, s: Scores, level: float) -> Scores:
    """(..., K) -> (...), linear interpolation between order statistics (at 0.5: the median)."""
    s = xp.sort(s, -1)
    s = s if xp is np else s.values
    place = (s.shape[-1] - 1) * level
    low = int(place)
    high = min(low + 1, s.shape[-1] - 1)
    value = s[..., low] if place == low else s[..., low] + (s[..., high] - s[..., low]) * (place - low)
    last = s[..., -1]  # NaN sorts last: a row that has one must not hide it
    return xp.where(xp.isnan(last), last, value)


def _entropic(xp: ModuleType, s: Scores, temperature: float) -> Scores:
    """(..., K) -> (...). From the minimum, with expm1 and log1p: no overflow, exact in both limits."""
    low = xp.amin(s, -1)
    low = low if xp is np else low.detach()
    temperature = max(temperature, 1e-37)  # float32 has no smaller number; the limit is reached long before
    gaps = (s - low[..., None]) / temperature  # an endless gap is fine: expm1(-inf) is -1
    return low - temperature * xp.log1p(xp.mean(xp.expm1(-gaps), -1))


def _require_known(aggregator: str) -> None:
    if aggregator not in AGGREGATORS:
        raise ValueError(
            f"aggregator = {aggregator!r} is no aggregator; choose one of {', '.join(AGGREGATORS)}"
        )


def _strength(aggregator: str, strength: float) -> float | None:
    """A strength within the aggregator's range; None where it has none."""
    limits = AGGREGATORS[aggregator].strength
    if limits is None:
        return None
    value = float(strength)
    positive = aggregator != "entropic" or value > 0.0
    if not (limits[0] <= value <= limits[1]) or math.isinf(value) or not positive:
        mend = {
            "quantile": "give a level from 0 to 1",
            "entropic": "give a temperature above 0; its limit at 0 is 'min', at infinity 'mean'",
        }.get(aggregator, "give 0 or more; 0 is the mean")
        raise ValueError(f"strength = {strength} is out of range for {aggregator!r}: {mend}")
    return value


def _floats(scores: Scores, name: str) -> tuple[ModuleType, Scores]:
    """The array module and the scores as float32 or float64 (..., K)."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(scores, torch.Tensor):
        xp, s = torch, scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    else:
        xp, s = np, np.asarray(scores)
        s = s if s.dtype in (np.float32, np.float64) else s.astype(np.float32)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(s.shape)}: give member scores (..., K) with at least one member"
        )
    return xp, s
