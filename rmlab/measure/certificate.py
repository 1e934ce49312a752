"""A few gold labels, and a certificate: how hard may a proxy be optimised before gold falls below its start?

Labels are drawn as winners: each from best-of-n with an n of its own, so that every strength is seen where it chooses.
One set of labels then tells of every policy, each label weighted by the policy's chance over the design's (the balance
heuristic of Veach and Guibas 1995). The certificate is a sequence of tests from weak to strong that stops at the first
failure (fixed-sequence testing; Learn then Test, Angelopoulos et al. 2110.01052, Section 4): the chance that any certified
strength has mean gold below the start's is at most that of one test to be wrong, however many are tested. That this is the
level is an assumption: Learn then Test bounds it for bounded losses, gold has no known bounds, and a t test rests on gains
that no few prompts decide. `attained_level` says how far from its level it is where a study knows all gold.

Letters: P prompts, N answers a prompt, G labels, C prompts with labels, S strengths of the design, L strengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from rmlab.recipe import require

LABELS = 100
LEVEL = 0.1
SLACK = 0.05  # an attained level farther above the nominal one does not hold


class Labels(NamedTuple):
    """Gold labels of a few answers, (G,) each.

    prompt, answer : where in the pool; gold : gold units
    chance : of the design to draw this answer for this prompt, the mean over its strengths
    """

    prompt: np.ndarray
    answer: np.ndarray
    gold: np.ndarray
    chance: np.ndarray


def draw_labels(
    design: np.ndarray,
    gold: np.ndarray,
    prompts: np.ndarray,
    rng: np.random.Generator,
    budget: int = LABELS,
) -> Labels:
    """Labels of starts and winners: each prompt has as many, half are of the design's first policy, matched at random.

    Every comparison is with the start, so half the labels are; the other strengths share the rest evenly. An even share for
    all leaves small n, which must be certified first, with next to no labels of answers that lose.

    Parameters
    ----------
    design : (S, P, N) policies, the plain mean first: chances of the answers, rows summing to 1; S of 2 or more
    gold : (P, N) what a label would say
    prompts : (C,) numbers of the prompts that may be labelled; of more than `budget` a random part is
    budget : most labels
    """
    fits = design.ndim == 3 and design.shape[1:] == gold.shape and len(design) > 1
    require(fits, "design's shape", design.shape, f"two policies or more (S, P, N) over gold's {gold.shape}")
    require(
        budget >= 1 and len(prompts) > 0, "labels and prompts", (budget, len(prompts)), "one of each or more"
    )
    chosen = rng.permutation(prompts)[:budget]
    prompt = np.repeat(chosen, budget // len(chosen))  # (G,)
    turn = rng.permutation(np.arange(len(prompt)))
    strength = np.where(turn % 2 == 0, 0, 1 + turn // 2 % (len(design) - 1))
    ladder = np.cumsum(design[strength, prompt], 1)  # (G, N)
    answer = (ladder < rng.random((len(prompt), 1)) * ladder[:, -1:]).sum(1)
    chances = design[:, prompt, answer]  # (S, G)
    return Labels(prompt, answer, gold[prompt, answer], (chances[0] + chances[1:].mean(0)) / 2)


def contrasts(labels: Labels, policies: np.ndarray) -> np.ndarray:
    """Each prompt's estimate of every policy's gold minus the first policy's, (C, L), unbiased for that prompt.

    A label counts (w - w_first) / chance times its gold less the mean gold of other prompts' labels: that constant changes
    no expectation, since both policies' chances sum to 1, and takes the level of gold out of the noise.

    Parameters
    ----------
    labels : of one design, which reaches every answer that a policy reaches
    policies : (L, P, N), the first being the start
    """
    ratio = policies[:, labels.prompt, labels.answer] / labels.chance  # (L, G)
    names, codes, sizes = np.unique(labels.prompt, return_inverse=True, return_counts=True)
    total = np.bincount(codes, labels.gold)
    others = (total.sum() - total) / max(len(codes) - sizes[0], 1) if len(names) > 1 else total / sizes
    apart = labels.gold - others[codes]
    each = (ratio - ratio[0]) * apart
    return np.stack([np.bincount(codes, row) for row in each], 1) / sizes[:, None]


def certified(contrast: np.ndarray, level: float = LEVEL) -> int:
    """How many strengths, from weak to strong, are certified to have mean gold above the start's.

    A one-sided t test of each strength over prompts, in order, up to the first that fails. Prompts are the sample: the
    certificate is for the mean over further prompts of the same kind. Student's t is exact for normal contrasts; gold has no
    known bounds, so that no finite-sample bound without an assumption exists (Bahadur and Savage 1956): the level is not
    guaranteed. It held with symmetric heavy tails (t with 3 degrees of freedom) and fails where a few prompts hold a policy's
    whole loss, which most draws of the prompts or labels do not meet. A tilted policy is the more at risk, as it stakes a
    prompt with an outlying score on one answer while best-of-n puts at most n / N there: with two such prompts of 64, which
    lose 10, it was certified wrongly in .69 of draws at level .1, best-of-n never; with three that lose 15, best-of-n in .56.

    Parameters
    ----------
    contrast : (C, L) estimates of gold minus the start's, a row a prompt, ordered from weak to strong
    level : of the test, the chance of a certificate that is wrong

    Returns
    -------
    0 to L; 0 with fewer than 3 prompts
    """
    require(0 < level < 0.5, "level", level, "a number above 0 and below 0.5")
    contrast = np.asarray(contrast, np.float64)
    require(contrast.ndim == 2, "contrast's shape", contrast.shape, "(prompts, strengths)")
    C = len(contrast)
    if C < 3:
        return 0
    bound = contrast.mean(0) - student.ppf(1 - level, C - 1) * contrast.std(0, ddof=1) / np.sqrt(C)
    return int(np.argmin(np.append(bound > 0, False)))


def attained_level(contrasts: np.ndarray, prompts: int, level: float = LEVEL) -> float:
    """How often `certified`'s t test would be wrong at such contrasts if their mean were 0, to second order: the worst strength.

    A studentised mean of C values of skewness g is above z, the normal quantile of the level, with a chance of
    level - g (2 z^2 + 1) phi(z) / (6 sqrt(C)) (Johnson 1978; Hall 1992, Section 2.6): losses of few prompts, g below 0, make
    certificates wrong more often. Never below the level. The next order, which is left out, is no small thing where g is below
    -3: read a number well above the level as "it does not hold", not as the chance.

    Parameters
    ----------
    contrasts : (R, L) estimates of gold minus the start's, of many draws of labels: rare losses must be among them
    prompts : C, that one certificate has
    """
    require(prompts > 0, "prompts", prompts, "one or more")
    contrasts = np.asarray(contrasts, np.float64)
    require(
        contrasts.ndim == 2 and len(contrasts) > 0, "contrasts' shape", contrasts.shape, "(R, L), R above 0"
    )
    apart = contrasts - contrasts.mean(0)
    spread = np.sqrt(np.square(apart).mean(0))
    cubes = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0) ** 3
    lowest = min(float(cubes.mean(0).min(initial=0.0)), 0.0)
    z = float(norm.ppf(1 - level))
    return min(level - lowest * (2 * z**2 + 1) * float(norm.pdf(z)) / (6 * prompts**0.5), 1.0)
