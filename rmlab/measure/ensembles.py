"""What a study measures on: every trained scorer's scores, and the ensembles that they make up on each replicate.

Letters: P prompts, N answers a prompt, K members, M held-out pairs, C probes, D hidden, L evaluations of a run. Scores are
aligned: in standard deviations of each member on the reference answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rmlab.recipe import Recipe, require

SINGLE = "single"  # the ensemble of one that every gain is measured from
ORACLE = "oracle"  # gold itself as the reward model


@dataclass(frozen=True, eq=False)
class MemberScores:
    """One trained scorer: where it comes from, and what it said; K members where it is several heads or adapters.

    id : "d0/p2/f1": label draw 0, pretraining seed 2 of its own, finetuning seed 1; "d0/p2/heads5": trained together
    facts : hidden, layers, parameters, pairs
    cost : parameters, trained_parameters, train_seconds, score_seconds, peak_mb
    heldout : (M, 2, K) scores of chosen and rejected answers by clean labels
    pool : (P, N, K) float32; probes : (P, C, K)
    heads : (K, D) where the members are linear heads on one encoder
    scale : (K,) raw units in one aligned unit: differences times it are Bradley-Terry's log odds
    """

    id: str
    method: str
    draw: int
    backbone: int
    finetune: int
    facts: dict[str, float]
    cost: dict[str, float]
    heldout: np.ndarray
    pool: np.ndarray | None = None
    probes: np.ndarray | None = None
    heads: np.ndarray | None = None
    scale: np.ndarray | None = None

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

    replicate : a label draw with pretraining seeds of its own; number : which of the ensemble's instances on it
    """

    name: str
    method: str
    replicate: int
    number: int
    parts: tuple[MemberScores, ...]
    rivals: tuple[MemberScores, ...]

    @property
    def k(self) -> int:
        """K, over all parts."""
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
    def scale(self) -> np.ndarray:
        """(K,) raw units in one aligned unit of each member."""
        lacking = [p.id for p in self.parts if p.scale is None]
        require(not lacking, "members without a scale", lacking, "the one that they were aligned with")
        return np.concatenate([p.scale for p in self.parts])

    @property
    def cost(self) -> dict[str, float]:
        """Costs added up over the parts; the peak of memory is the largest part's."""
        total = {name: sum(p.cost[name] for p in self.parts) for name in self.parts[0].cost}
        return total | {"peak_mb": max(p.cost["peak_mb"] for p in self.parts)}


@dataclass(frozen=True, eq=False)
class RunResult:
    """One PPO run against one ensemble on one replicate.

    number : which of the ensemble's instances on the replicate
    rows : of its L evaluations, every number by name, the step among them
    gold, proxy : (P, L) means over the answers to each prompt
    texts : a few answers at each evaluation: step, prompt, answer, gold, proxy, tokens
    record : arrays of every evaluated answer by name, as `rmlab.optimise.evaluate.save_records` says; None if not read
    views : what others say of these answers, as `rmlab.study.run_scores.score_run` says; None if not read
    """

    ensemble: str
    replicate: int
    number: int
    aggregator: str
    kl_coef: float
    step_multiplier: int
    rows: list[dict[str, float]]
    gold: np.ndarray
    proxy: np.ndarray
    texts: list[dict]
    record: dict[str, np.ndarray] | None = None
    views: dict[str, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class StudyScores:
    """Everything that a study stored, as its measurements read it; what a measurement does not read is left empty.

    gold : (P, N) float64, gold units; ended : (P, N) bool, False where an answer never ends
    terms : (P, N, F) how often each term of gold's bill occurs; term_names : (F,); None and () for gold without a bill
    gold : (P, N) float64, gold units; ended : (P, N) bool, False where an answer never ends; lengths : (P, N) tokens
    probe_names : (C,) "base" first; probe_labels : what each of the others changes, in words; probe_gold : (P, C)
    checks : how well each backbone counts facts, replicate by replicate
    distances : how far answers are from training answers, replicate by replicate: (P, N) float32 by name

    Raises
    ------
    ValueError : scores that do not fit each other, by name
    """

    recipe: Recipe
    members: list[MemberScores]
    ensembles: list[EnsembleResult]
    gold: np.ndarray | None = None
    ended: np.ndarray | None = None
    probe_names: tuple[str, ...] = ()
    probe_labels: dict[str, str] = field(default_factory=dict)
    probe_gold: np.ndarray | None = None
    ppo_runs: list[RunResult] = field(default_factory=list)
    checks: list[dict[str, float]] = field(default_factory=list)
    terms: np.ndarray | None = None
    term_names: tuple[str, ...] = ()
    distances: list[dict[str, np.ndarray]] = field(default_factory=list)
    lengths: np.ndarray | None = None

    def __post_init__(self):
        for name, group in by_name(self.ensembles).items():
            numbers = [(e.replicate, e.number) for e in group]
            ok = len(set(numbers)) == len(numbers)
            require(ok, f"replicates and numbers of {name}", numbers, "each at most once")
            alone = [e.replicate for e in group if not e.rivals]
            mend = f"an ensemble {SINGLE!r} with a model on the same labels and backbone"
            require(not alone, f"replicates of {name} without a single model", alone, mend)
        several = [e.k for e in self.ensembles if e.name == SINGLE and e.k != 1]
        require(not several, f"members of {SINGLE}", several, "one")
        if self.gold is not None:
            self._check_pool()

    def _check_pool(self) -> None:
        gold, ended = np.asarray(self.gold), np.asarray(self.ended)
        ok = gold.ndim == 2 and ended.shape == gold.shape and ended.dtype == bool and ended.any()
        about = (gold.shape, ended.shape, ended.dtype.name)
        require(bool(ok), "gold and ended", about, "(P, N) and bool (P, N), one of them True")
        if self.terms is not None:
            shape = (*gold.shape, len(self.term_names))
            require(self.terms.shape == shape, "terms' shape", self.terms.shape, f"(P, N, F) {shape}")
        for m in self.members:
            ok = m.pool is None or m.pool.shape == (*gold.shape, m.k)
            mend = f"(P, N, K) over the gold's {gold.shape}, as many members as in heldout"
            require(ok, f"pool shape of {m.id}", None if ok else m.pool.shape, mend)
        for name, u in [item for arrays in self.distances for item in arrays.items()]:
            ok = u.shape == gold.shape and bool(np.isfinite(u).all())
            require(ok, f"distances {name!r}", u.shape, f"finite numbers {gold.shape}, as the gold's")

    @property
    def singles(self) -> list[MemberScores]:
        """The single models that gains are measured from, each once: those of the ensemble "single"."""
        return [e.parts[0] for e in self.ensembles if e.name == SINGLE]

    @property
    def rivals(self) -> list[MemberScores]:
        """The single models that an ensemble is measured against, each once."""
        return list({m.id: m for e in self.ensembles for m in e.rivals}.values())


def by_name(ensembles: Sequence[EnsembleResult]) -> dict[str, list[EnsembleResult]]:
    """Ensembles grouped by name, names in the order they came, replicates and their instances in their own."""
    groups: dict[str, list[EnsembleResult]] = {}
    for ensemble in ensembles:
        groups.setdefault(ensemble.name, []).append(ensemble)
    return {name: sorted(group, key=lambda e: (e.replicate, e.number)) for name, group in groups.items()}


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
