"""Studies of single models whose Gaussian errors have known variances: shared by all, by a backbone, by nobody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from rmlab.measure.ensembles import EnsembleResult, MemberScores, StudyScores
from rmlab.recipe import Recipe

SLOPE, LABELS, BACKBONE, OWN = 0.8, 0.25, 0.2, 0.4  # scores = SLOPE x gold + errors of these variances


def planted(
    ensembles: dict[str, Sequence[tuple[int, int]]], draws: int, P: int, N: int, unended: float = 0.0
) -> StudyScores:
    """Replicates of ensembles of single models, each named by (backbone, finetuning seed); gold standard normal."""
    rng = np.random.default_rng(7)
    gold, ended = rng.normal(size=(P, N)), rng.random((P, N)) >= unended
    members, results = [], []
    for d in range(draws):
        places = sorted({place for group in ensembles.values() for place in group})
        labels = rng.normal(size=(P, N)) * LABELS**0.5
        backbones = {p: labels + rng.normal(size=(P, N)) * BACKBONE**0.5 for p, _ in places}
        models = {}
        for p, f in places:
            pool = SLOPE * gold + backbones[p] + rng.normal(size=(P, N)) * OWN**0.5
            pool[~ended] = 50.0  # nothing may be read there
            heldout = np.zeros((2, 2, 1))
            models[p, f] = MemberScores(
                f"d{d}/p{p}/f{f}", "single", d, p, f, {}, {}, heldout, pool.astype(np.float32)[..., None]
            )
        members += models.values()
        results += [
            EnsembleResult("single", "single", d, i, (m,), (m,)) for i, m in enumerate(models.values())
        ]
        for name, group in ensembles.items():
            parts = tuple(models[place] for place in group)
            method = name.rstrip("0123456789").replace("grid", "mixed")
            results.append(EnsembleResult(name, method, d, 0, parts, parts[:1]))
    return StudyScores(Recipe("planted", None), members, results, gold, ended)


def largest_of(n: int, unended: float = 0.0) -> float:
    """The expected largest of n standard normal numbers, each missing with a chance, given that not all are."""
    x, share = np.linspace(-9, 9, 100001), 1 - unended
    density = n * share * norm.pdf(x) * (unended + share * norm.cdf(x)) ** (n - 1)
    return float((x * density).sum() * (x[1] - x[0]) / (1 - unended**n))
