"""How hard to optimise? Rules that choose a strength from few gold labels, or from the members alone.

HedgeTune (Khalaf et al. 2506.19248) looks for theta at which the gold of a policy p_theta stops rising, with u the proxy's
quantile: E_{u ~ p_theta}[gold(u) d/dtheta log p_theta(u)] = 0. Derived here, since the densities are slopes of CDFs F:
that expectation is the integral of gold(u) d/dtheta dF(u), so all that is needed is dF/dtheta,

    best-of-n        F = u^n                 dF/dn  = u^n log u
    best-of-Poisson  F = u exp(mu (u - 1))   dF/dmu = u (u - 1) exp(mu (u - 1))

and on a pool a label of the answer between quantiles `below` and `upto` carries dF(upto) - dF(below), exactly. Check:
d/dn log(n u^(n-1)) = 1/n + log u, and n u^(n-1) (1/n + log u) = d/du (u^n log u).

Letters: P prompts, N answers a prompt, K members, G labels, L strengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rmlab.measure import laws
from rmlab.measure.certificate import Labels
from rmlab.optimise.best_of_n import best_of_n, kl_bound
from rmlab.optimise.tilt import (
    best_of_n_policies,
    chi_square_weights,
    expected,
    kl,
    rank_policies,
    soft_best_of_n_weights,
    tilted_weights,
)
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate, usual_strength

FAMILIES = ("best_of_n", "poisson")  # that HedgeTune is derived for
STEPS = 121  # strengths at which its condition is looked at
TILTS = 2.0 ** np.array(
    [3, 2, 1.5, 1, 0.5, 0, -0.5, -1, -1.5, -2, -3]
)  # betas, of the proxy's spread within prompts
CHI_SQUARES = 2.0 ** np.arange(4, -15, -1)
TAUS = 2.0 ** np.array([2, 0.5, -1, -2.5])


class Family(NamedTuple):
    """Policies of one optimiser from weak to strong, the plain mean first.

    strengths : (L,) n, 1 + mu, beta or tau; weights : (L, P, N) chances; gold, kl : (P, L), gold units and nats
    """

    strengths: np.ndarray
    weights: np.ndarray
    gold: np.ndarray
    kl: np.ndarray


def n_choices(N: int) -> np.ndarray:
    """n from 1 to N at which a choice can fall, (L,) int64: powers of two, and 3/2 of them."""
    powers = 2 ** np.arange(int(N).bit_length())
    every = np.unique(np.concatenate([powers, 3 * powers // 2]))
    return every[every <= N]


def families(proxy: np.ndarray, gold: np.ndarray, ended: np.ndarray, soft: bool = True) -> dict[str, Family]:
    """The policies among which rules choose: best_of_n, poisson, tilt, chi_square and, if `soft`, soft best-of-N.

    Answers are drawn with replacement, those that did not end weigh 0 at any strength, the start's too. Betas and taus are
    in units of the proxy's standard deviation within prompts, and stated in the proxy's.

    Parameters
    ----------
    proxy, gold : (P, N), finite, any units; ended : (P, N) bool
    """
    ns, N = n_choices(proxy.shape[1]), proxy.shape[1]
    counts = ended.sum(1, keepdims=True)
    start = np.where(counts > 0, ended / np.maximum(counts, 1), 1 / N)
    centred = np.where(ended, proxy - (proxy * start).sum(1, keepdims=True), 0.0)
    spread = max(float(np.sqrt(np.square(centred).sum() / max(ended.sum(), 1))), 1e-12)
    poisson = rank_policies(
        proxy, ((lambda u, mu=mu: u * np.exp(mu * (u - 1))) for mu in ns[1:] - 1.0), ended
    )
    policies = {
        "best_of_n": (ns, best_of_n_policies(proxy, ns[1:], ended)),
        "poisson": (ns, poisson),
        "tilt": (_weaker(TILTS * spread), (tilted_weights(proxy, b * spread, ended) for b in TILTS)),
        "chi_square": (
            _weaker(CHI_SQUARES * spread),
            (chi_square_weights(proxy, b * spread, ended) for b in CHI_SQUARES),
        ),
    }
    if soft:
        weights = (soft_best_of_n_weights(proxy, N, t * spread, ended) for t in TAUS)
        policies["soft"] = (_weaker(TAUS * spread), weights)
    out = {}
    for name, (strengths, each) in policies.items():
        weights = np.stack([start, *each])
        values = np.stack([expected(w, gold) for w in weights], 1)
        out[name] = Family(strengths, weights, values, np.stack([kl(w) for w in weights], 1))
    return out


def cdf_slope(family: str, theta: np.ndarray, u: np.ndarray) -> np.ndarray:
    """dF/dtheta at quantiles u, broadcast: theta is n of best-of-n, mu of best-of-Poisson."""
    require(family in FAMILIES, "family", family, f"one of {', '.join(FAMILIES)}")
    if family == "best_of_n":
        return u**theta * np.log(np.where(u > 0, u, 1.0))
    return u * (u - 1) * np.exp(theta * (u - 1))


def hedge_tune(
    family: str, below: np.ndarray, upto: np.ndarray, gold: np.ndarray, chance: np.ndarray, most: float
) -> float:
    """HedgeTune: the theta at which the estimated gold stops rising, from labelled answers.

    The condition is estimated by labels weighted by one over the design's chance, and looked at on a grid of log theta
    (log(1 + mu)). Of several places where it changes from rising to falling, and the two ends where it falls from the
    start or rises to the end, the one of the highest estimated gold is taken: labels are few and their curve is rough.

    Parameters
    ----------
    family : "best_of_n" or "poisson"
    below, upto : (G,) share of the prompt's answers that the proxy ranks below the label's, and not above it
    gold : (G,) labels; their mean is taken off, which changes no expectation
    chance : (G,) of the design to draw the label, ties in the proxy counted together
    most : largest theta

    Returns
    -------
    theta, from 1 (best-of-n) or 0 (Poisson) to `most`
    """
    shift = 0.0 if family == "best_of_n" else 1.0
    thetas = np.geomspace(1.0, most + shift, STEPS) - shift  # (T,)
    weights = cdf_slope(family, thetas[:, None], upto) - cdf_slope(family, thetas[:, None], below)
    slope = (weights / chance * (gold - gold.mean())).mean(1)  # (T,) d gold / d theta
    gain = np.append(0.0, np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(thetas)))
    falls = np.flatnonzero((slope[:-1] > 0) & (slope[1:] <= 0))
    ends = ([0] if slope[0] <= 0 else []) + ([STEPS - 1] if slope[-1] > 0 else [])
    best = max([*falls.tolist(), *ends], key=lambda i: gain[i])
    if best not in falls:
        return float(thetas[best])
    part = slope[best] / (slope[best] - slope[best + 1])
    return float(thetas[best] + part * (thetas[best + 1] - thetas[best]))


def law_choice(ns: np.ndarray, gain: np.ndarray) -> int:
    """The place in ns (L,) where Gao's law d (alpha - beta d), fitted to estimated gains (L,), is highest.

    d = sqrt(KL bound of n). 0, the first, where the law falls from there or has too few points.
    """
    d = np.sqrt(kl_bound(ns))
    law = laws.fit(d, gain, "quadratic")
    return int(np.nan_to_num(laws.value(law, "quadratic", d), nan=-1.0).argmax()) if law.alpha > 0 else 0


def members_choice(members: np.ndarray, aggregator: str, ns: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """n for each prompt without any gold: the most that members who did not choose agree is a gain.

    The winner of n is chosen by all members but one, under the aggregator, and valued by that one; its gain over n = 1 has
    a mean and a standard deviation over the members left out (ddof 1), and n maximises mean minus standard deviation. A
    member's own error earns its winners nothing from the others, so the estimate falls where members' errors choose; what
    all members err in together it cannot see.

    Parameters
    ----------
    members : (P, N, K) aligned scores, K of 2 or more
    aggregator : of the other members, with its usual strength
    ns : (L,) from 1, each at most N; ended : (P, N) bool

    Returns
    -------
    (P,) places in ns
    """
    K = members.shape[2]
    require(K > 1, "K", K, "two members or more: the one left out is valued by nobody")
    gains = []
    for k in range(K):
        others = aggregate(np.delete(members, k, -1), aggregator, usual_strength(aggregator))
        value = best_of_n(others, members[..., k], ns, ended)  # (P, L)
        gains.append(value - value[:, :1])
    return (np.mean(gains, 0) - np.std(gains, 0, ddof=1)).argmax(1)


def quantiles(
    proxy: np.ndarray, ended: np.ndarray, labels: Labels
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where labels stand among their prompt's answers that ended: below and upto (G,), shares; ties (G,), how many share it."""
    score = np.where(ended, proxy, -np.inf)[labels.prompt]  # (G, N)
    own = proxy[labels.prompt, labels.answer][:, None]
    total = ended[labels.prompt].sum(1)
    ties = (score == own).sum(1)
    low = (score < own).sum(1) - (~ended[labels.prompt]).sum(1)
    return low / total, (low + ties) / total, ties


def nearest(strengths: np.ndarray, value: float) -> int:
    """The place of the strength nearest to a value, in logarithms."""
    return int(np.abs(np.log(strengths) - np.log(value)).argmin())


def _weaker(strengths: np.ndarray) -> np.ndarray:
    """Strengths with the start's before them: an infinite price."""
    return np.append(np.inf, strengths)
