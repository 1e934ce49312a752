"""Rules that watch an optimisation without gold: each turns what can be seen into a suspicion that grows with the harm.

A suspicion is a series (L,) whose point t is made of the points up to t alone; a rule stops a run where it passes a threshold
(`alarms.py`). A run of PPO is watched over its evaluations, best-of-n over n; what either shows is in `Seen`.

Letters: L points of a run, B answers a point, K members, V points of a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmlab.measure.ensembles import SINGLE
from rmlab.recipe import require

WINDOW = 5  # points that a slope is fitted to
LARGEST = 1e3  # a predicted peak that lies behind counts no more than this
JUDGES = 2  # models outside an ensemble that watch it
TAIL = 0.99  # of the training answers' distances: beyond it an answer is an outlier


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen of a run at its L points; None where a run does not show it.

    kl : (L,) nats; proxy : (L,) mean score that is optimised, in members' standard deviations
    law : Gao's law that the proxy is fitted with, "rl" or "best_of_n"
    spread : (L,) the members' standard deviation over an answer, on average; None for one member
    members : (L, K) their means; lowest : (L, K) how often each is the lowest
    judge : (L,) mean score by models that were not optimised against
    shift : (L,) Kolmogorov-Smirnov distance of the proxy's distribution from the first point's
    length : (L,) tokens; unended : (L,) share of answers that never end; repetition : (L,) see `repetition`
    entropy : (L,) nats a token; start_logprob : (L,) nats a token, under the policy that training began from
    outliers : (L,) share of answers farther from the training answers than `TAIL` of these
    """

    kl: np.ndarray
    proxy: np.ndarray
    law: str
    spread: np.ndarray | None = None
    members: np.ndarray | None = None
    lowest: np.ndarray | None = None
    judge: np.ndarray | None = None
    shift: np.ndarray | None = None
    length: np.ndarray | None = None
    unended: np.ndarray | None = None
    repetition: np.ndarray | None = None
    entropy: np.ndarray | None = None
    start_logprob: np.ndarray | None = None
    outliers: np.ndarray | None = None


RULES = (
    "kl_budget",
    "predicted_peak",
    "proxy_slope",
    "spread_rise",
    "spread_slope",
    "member_regret",
    "lowest_entropy",
    "judge_regret",
    "judge_gap",
    "score_shift",
    "length_drift",
    "unended_rise",
    "repetition_rise",
    "entropy_fall",
    "start_logprob_fall",
    "outlier_share",
)


def suspicions(seen: Seen) -> dict[str, np.ndarray]:
    """Every rule that a run shows enough for: name -> suspicion (L,), in the order of `RULES`.

    `kl_budget`: the KL itself, what stopping at a fixed budget does. `spread_rise`, `length_drift` (either way),
    `unended_rise`, `repetition_rise`, `entropy_fall`, `start_logprob_fall`: how far each has moved since the first point.
    `score_shift` and `outlier_share`: as they are (the latter is the outlier probability of 2510.13694, on a reward model's
    features). `lowest_entropy`: how far the entropy of the member that is the lowest has fallen: one member decides.
    """
    s, out = seen, {"kl_budget": np.asarray(seen.kl, np.float64)}
    out["predicted_peak"] = predicted_peak(s.kl, s.proxy, s.law)
    out["proxy_slope"] = -slope(s.proxy)
    if s.spread is not None:
        out |= {"spread_rise": since_start(s.spread), "spread_slope": slope(s.spread)}
    if s.members is not None and s.members.shape[1] > 1:
        regrets = [judge_regret(member, s.proxy) for member in s.members.T]
        out["member_regret"] = np.max(regrets, 0)
        out["lowest_entropy"] = -since_start(entropy(s.lowest))
    if s.judge is not None:
        out["judge_regret"] = judge_regret(s.judge, s.proxy)
        out["judge_gap"] = since_start(s.proxy) - since_start(s.judge)
    for name, series, sign in (
        ("unended_rise", s.unended, 1),
        ("repetition_rise", s.repetition, 1),
        ("entropy_fall", s.entropy, -1),
        ("start_logprob_fall", s.start_logprob, -1),
    ):
        if series is not None:
            out[name] = sign * since_start(series)
    if s.length is not None:
        out["length_drift"] = np.abs(since_start(s.length))
    for name, series in (("score_shift", s.shift), ("outlier_share", s.outliers)):
        if series is not None:
            out[name] = np.asarray(series, np.float64)
    return {name: out[name] for name in RULES if name in out}


def since_start(series: np.ndarray) -> np.ndarray:
    """A series (L,) less its first point."""
    series = np.asarray(series, np.float64)
    return series - series[0]


def slope(series: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """The least-squares slope of the last `window` points at each point of a series (L,), in its unit a point: (L,).

    The first points have no whole window, and a slope of 0 or of what there is from three points on.
    """
    series = np.asarray(series, np.float64)
    out = np.zeros(len(series))
    for t in range(2, len(series)):
        last = series[max(0, t + 1 - window) : t + 1]
        place = np.arange(len(last)) - (len(last) - 1) / 2
        out[t] = place @ last / (place @ place)
    return out


def judge_regret(judge: np.ndarray, proxy: np.ndarray) -> np.ndarray:
    """How far a judge (L,) has fallen from its highest point so far, where the proxy (L,) has risen since that point; else 0."""
    judge, proxy = np.asarray(judge, np.float64), np.asarray(proxy, np.float64)
    top = np.array([int(judge[: t + 1].argmax()) for t in range(len(judge))])
    return np.where(proxy > proxy[top], judge[top] - judge, 0.0)


def predicted_peak(kl: np.ndarray, proxy: np.ndarray, law: str) -> np.ndarray:
    """How far a run is beside the peak that the bend of its own proxy predicts: d / d*, d = sqrt(KL), (L,).

    Gao et al. 2210.10760: R = d (a - b log d) for reinforcement learning, whose peak is d* = exp(a / b - 1), and
    R = d (a - b d) for best-of-n, d* = a / (2 b). They fit gold; here the proxy's rise is fitted, without gold, to the points
    up to each, from three with a KL above 0 on. 0 where it does not bend; at most `LARGEST`. Gold peaks long before its
    proxy does: the share of the way is what a threshold finds.

    kl, proxy : (L,); law : "rl" or "best_of_n"
    """
    require(law in {"rl", "best_of_n"}, "law", law, "rl or best_of_n")
    d, rise = np.sqrt(np.maximum(np.asarray(kl, np.float64), 0)), since_start(proxy)
    out = np.zeros(len(d))
    for t in range(len(d)):
        V = np.flatnonzero(d[: t + 1] > 1e-3)
        if len(V) < 3 or V[-1] != t:
            continue
        x, y = d[V], rise[V]
        bend = -x * np.log(x) if law == "rl" else -(x**2)
        (a, b), *_ = np.linalg.lstsq(np.stack([x, bend], 1), y, rcond=None)
        if b <= 1e-12:
            continue
        if law == "rl":
            out[t] = np.exp(min(np.log(x[-1]) - a / b + 1, np.log(LARGEST)))
        else:
            out[t] = min(x[-1] * 2 * b / a, LARGEST) if a > 0 else LARGEST
    return out


def entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy of shares (L, K) that sum to 1, nats: (L,)."""
    shares = np.asarray(shares, np.float64)
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)


def distribution_shift(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Kolmogorov-Smirnov distance of each point's distribution from the first point's, from 0 to 1: (L,).

    values : (L, B) the answers' scores at each point; or (B,) with weights (B, L) that sum to 1 over answers
    """
    values = np.asarray(values, np.float64)
    if weights is None:
        places = np.unique(values)
        below = [np.searchsorted(np.sort(row), places, side="right") / len(row) for row in values]
        return np.abs(np.array(below) - below[0]).max(1)
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))  # ties count together
    below = np.cumsum(weights[order], 0)[ends]
    return np.abs(below - below[:, :1]).max(0)


def repetition(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The share of an answer's pairs of neighbouring tokens that it has had before, mean over answers: (L,).

    ids : (L, B, T) padded; lengths : (L, B) real tokens
    """
    ids, T = np.asarray(ids, np.int64), np.shape(ids)[-1]
    if T < 2:
        return np.zeros(len(ids))
    pairs = ids[..., :-1] * (int(ids.max()) + 1) + ids[..., 1:]
    pairs = np.where(np.arange(1, T) < np.asarray(lengths)[..., None], pairs, -1)
    ordered = np.sort(pairs, -1)
    new = np.concatenate([ordered[..., :1] >= 0, np.diff(ordered, axis=-1) > 0], -1).sum(-1)
    count = (pairs >= 0).sum(-1)
    return ((count - new) / np.maximum(count, 1)).mean(-1)  # an answer of one token repeats nothing


def outside_judges(parts: Sequence, singles: Sequence, count: int = JUDGES) -> list:
    """The single models that watch an ensemble: of its replicate, none of its parts, other pretraining seeds first.

    Each comes from another backbone as far as there are some; none where every single model is a part. parts, singles: with
    `id`, `method`, `draw`, `backbone` and `finetune`, as `MemberScores` has. Those of other epochs than usual do not judge.
    """
    used, own = {p.id for p in parts}, {p.backbone for p in parts}
    usual = [s for s in singles if s.method == SINGLE and s.id == f"d{s.draw}/p{s.backbone}/f{s.finetune}"]
    left = [s for s in usual if s.draw == parts[0].draw and s.id not in used]
    seen: dict[int, int] = {}
    ranked = []
    for s in sorted(left, key=lambda s: (s.backbone, s.finetune)):
        ranked.append((s.backbone in own, seen.get(s.backbone, 0), s.backbone, s))
        seen[s.backbone] = seen.get(s.backbone, 0) + 1
    return [s for *_, s in sorted(ranked, key=lambda row: row[:3])][:count]
