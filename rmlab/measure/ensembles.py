"""What a study measures on: every trained member's scores, and the ensembles that they make up on each replicate.

Letters: P prompts, N answers a prompt, K members, M held-out pairs, C probes, D hidden. Scores are aligned: in standard
deviations of each member on the reference answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rmlab.measure.intervals import CrossedBootstrap
from rmlab.recipe import Recipe

SINGLE = "single"  # the ensemble of one that every gain is measured from


@dataclass(frozen=True, eq=False)
class MemberScores:
    """One trained scorer: where it comes from, and what it said; K members where it is several heads or adapters."""

    id: str  # "d0/p2/f1": label draw 0, pretraining seed 2, finetuning seed 1; "d0/p2/heads5": trained together
    method: str
    draw: int
    backbone: int
    finetune: int
    facts: dict  # hidden, layers, parameters, pairs
    cost: dict  # parameters, trained_parameters, train_seconds, score_seconds, peak_mb
    heldout: np.ndarray  # (M, 2, K): chosen, rejected by clean labels
    pool: np.ndarray | None = None  # (P, N, K) float32
    probes: np.ndarray | None = None  # (P, C, K)
    heads: np.ndarray | None = None  # (K, D) where the members are linear heads on one encoder

    @property
    def k(self) -> int:
        """K."""
        return self.heldout.shape[-1]

    @property
    def ids(self) -> list[str]:
        """The members' ids, (K,): its own for K = 1, else "d0/p2/heads5.0" and so on."""
        return [self.id] if self.k == 1 else [f"{self.id}.{i}" for i in range(self.k)]


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """One ensemble on one replicate: its parts side by side, and the single models that it is measured against.

    unit : (label draw, pretraining seeds one a member): what the bootstrap weighs it by
    """

    name: str
    method: str
    replicate: int
    draw: int
    parts: tuple[MemberScores, ...]
    rivals: tuple[MemberScores, ...]
    unit: tuple[int, tuple[int, ...]]

    @property
    def k(self) -> int:
        """Members."""
        return sum(p.k for p in self.parts)

    @property
    def members(self) -> list[str]:
        """Ids of the members, (K,)."""
        return [i for p in self.parts for i in p.ids]

    @property
    def pool(self) -> np.ndarray:
        """(P, N, K) float32."""
        return _side_by_side([p.pool for p in self.parts])

    @property
    def heldout(self) -> np.ndarray:
        """(M, 2, K)."""
        return _side_by_side([p.heldout for p in self.parts])

    @property
    def heads(self) -> np.ndarray | None:
        """(K, D) where the members are linear heads on one encoder."""
        return self.parts[0].heads if len(self.parts) == 1 else None

    @property
    def cost(self) -> dict:
        """Costs added up over the parts; the peak of memory is the largest part's."""
        total = {name: sum(p.cost[name] for p in self.parts) for name in self.parts[0].cost}
        return total | {"peak_mb": max(p.cost["peak_mb"] for p in self.parts)}


@dataclass(frozen=True)
class StudyScores:
    """Everything that a study stored, as its measurements read it; what a measurement does not read is left empty."""

    recipe: Recipe
    members: list[MemberScores]
    ensembles: list[EnsembleResult]
    gold: np.ndarray | None = None  # (P, N) float64, gold units
    ended: np.ndarray | None = None  # (P, N) bool
    probe_names: tuple[str, ...] = ()  # (C,) "base" first
    probe_gold: np.ndarray | None = None  # (P, C)
    sensitivity: list[MemberScores] = field(default_factory=list)  # of the side study of sizes and pairs
    ppo_runs: list[dict] = field(default_factory=list)

    @property
    def singles(self) -> list[MemberScores]:
        """The single models that were trained as such, each once."""
        return [m for m in self.members if m.method == SINGLE]

    def bootstrap(self, prompts: int) -> CrossedBootstrap:
        """The study's resampling of prompts, label draws and, where they are crossed, pretraining seeds."""
        replicates = self.recipe.replicates
        backbones = replicates.backbones if replicates.crossed else 1
        return CrossedBootstrap(prompts, replicates.draws, backbones, seed=self.recipe.seed)


def by_name(ensembles: Sequence[EnsembleResult]) -> dict[str, list[EnsembleResult]]:
    """Ensembles grouped by name, in the order they came."""
    groups: dict[str, list[EnsembleResult]] = {}
    for ensemble in ensembles:
        groups.setdefault(ensemble.name, []).append(ensemble)
    return groups


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
