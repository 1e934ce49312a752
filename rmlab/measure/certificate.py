"""A few gold labels, and a certificate: how hard may a proxy be optimised before gold falls below its start?

Labels are drawn as winners: each from best-of-n with an n of its own, so that every strength is seen where it chooses.
One set of labels then tells of every policy, each label weighted by the policy's chance over the design's (the balance
heuristic of Veach and Guibas 1995). The certificate is a sequence of tests from weak to strong that stops at the first
failure (fixed-sequence testing; Learn then Test, Angelopoulos et al. 2110.01052, Section 4): the chance that any certified
strength has mean gold below the start's is at most the level of one test, however many are tested.

Letters: P prompts, N answers a prompt, G labels, C prompts with labels, S strengths of the design, L strengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from rmlab.recipe import require

LABELS = 100
LEVEL = 0.1


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
    known bounds, so that no finite-sample bound without an assumption exists (Bahadur and Savage 1956). Best-of-n, which
    puts at most n / N on an answer, kept its level in every simulation, heavy-tailed gold too. A tilted policy can stake a
    prompt on one answer: where a few prompts hold its whole loss, it was certified wrongly in .3 of draws at level .1.

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
