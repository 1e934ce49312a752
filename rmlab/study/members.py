"""Which scorers are trained, and which of them make up which ensemble on which replicate: a recipe's composition.

A single model is named by its label draw, its pretraining seed and its finetuning seed, the same in every study, so that
the single model of one study is that of another and is trained once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from rmlab.recipe import EnsembleSpec, Recipe, require
from rmlab.reward.methods import MemberSpec, check_options, parts_of

SINGLE = "single"


@dataclass(frozen=True)
class Replicate:
    """A label draw, a home backbone and a finetuning seed: the chance behind one instance of every ensemble."""

    draw: int
    backbone: int
    finetune: int = 0


@dataclass(frozen=True)
class TrainedSpec:
    """One scorer to train: a method with its options, on a label draw and a backbone."""

    method: str
    options: tuple[tuple[str, object], ...]
    draw: int
    backbone: int
    finetune: int = 0
    name: str = ""  # of the ensemble that it was first made for; not a part of what it is

    @property
    def id(self) -> str:
        """ "d0/p2/f1", "d0/p2/f1/e3" with other epochs, "d0/p2/heads5" where members are trained together."""
        stem = f"d{self.draw}/p{self.backbone}/"
        if self.method != SINGLE:
            return stem + self.name
        return stem + "/".join([f"f{self.finetune}", *(f"e{v}" for n, v in self.options if n == "epochs")])


@dataclass(frozen=True)
class Instance:
    """One ensemble on one replicate: its parts, in the order of its members, and the single models that it is compared with."""

    spec: EnsembleSpec
    replicate: int
    draw: int
    parts: tuple[TrainedSpec, ...]
    rivals: tuple[TrainedSpec, ...]


def replicates_of(recipe: Recipe) -> list[Replicate]:
    """Every replicate of a recipe: crossed, or label draw s with backbone s in turn."""
    r = recipe.replicates
    if not r.crossed:
        return [Replicate(s, s % r.backbones) for s in range(r.draws)]
    return [Replicate(*x) for x in product(range(r.draws), range(r.backbones), range(r.finetune))]


def instances_of(recipe: Recipe) -> list[Instance]:
    """Every ensemble of every replicate, an ensemble that is the same set of scorers on several of them once.

    Rivals: the study's single models among the parts, or, where there is none, those of the replicate's labels and backbone.
    """
    singles = _instances(recipe, next(e for e in recipe.ensembles if e.name == SINGLE))
    alone = {parts[0]: None for _, parts in singles}  # a set that keeps its order
    out = []
    for spec in recipe.ensembles:
        for i, (replicate, parts) in enumerate(_instances(recipe, spec)):
            rivals = [p for p in parts if p in alone]
            rivals = rivals or [
                s for s in alone if (s.draw, s.backbone) == (replicate.draw, replicate.backbone)
            ]
            number = i if recipe.replicates.crossed else replicate.draw
            out.append(Instance(spec, number, replicate.draw, parts, tuple(rivals)))
    return out


def trained_of(recipe: Recipe) -> list[TrainedSpec]:
    """Every scorer that the recipe trains, each once."""
    return list(dict.fromkeys(p for instance in instances_of(recipe) for p in instance.parts))


def validate_ensembles(recipe: Recipe) -> None:
    """Raise a `ValueError` that names the ensemble and what is wrong with it."""
    r = recipe.replicates
    for spec in recipe.ensembles:
        try:
            check_options(spec.method, dict(spec.options))
        except ValueError as error:
            raise ValueError(f"ensemble {spec.name}: {error}") from error
        for single in parts_of(spec.method, dict(spec.options))[0]:
            mend = f"one of {r.backbones}, counted from 0, or raise replicates.backbones"
            require(single.backbone < r.backbones, f"backbone of ensemble {spec.name}", single.backbone, mend)
            mend = f"one of {r.finetune}, counted from 0, or raise replicates.finetune"
            ok = single.finetune < r.finetune or not r.crossed
            require(ok, f"finetuning seed of ensemble {spec.name}", single.finetune, mend)


def single_spec(replicate: Replicate, member: MemberSpec, recipe: Recipe) -> TrainedSpec:
    """A replicate's single model: `member` counts backbones and finetuning seeds from the replicate's own, in turn."""
    r = recipe.replicates
    finetune = (replicate.finetune + member.finetune) % r.finetune if r.crossed else member.finetune
    options = () if member.epochs is None else (("epochs", member.epochs),)
    return TrainedSpec(
        SINGLE, options, replicate.draw, (replicate.backbone + member.backbone) % r.backbones, finetune
    )


def _instances(recipe: Recipe, spec: EnsembleSpec) -> list[tuple[Replicate, tuple[TrainedSpec, ...]]]:
    """(replicate, parts) of one ensemble; what is trained for itself has finetuning seed 0."""
    singles, others = parts_of(spec.method, dict(spec.options))
    named = [(method, tuple(sorted(o.items())), _first_name(recipe, method, o)) for method, o in others]
    kept: dict[frozenset, tuple[Replicate, tuple[TrainedSpec, ...]]] = {}
    for replicate in replicates_of(recipe):
        parts = [single_spec(replicate, member, recipe) for member in singles]
        for method, options, name in named:
            parts.append(TrainedSpec(method, options, replicate.draw, replicate.backbone, name=name))
        kept.setdefault(frozenset(parts), (replicate, tuple(parts)))
    return list(kept.values())


def _first_name(recipe: Recipe, method: str, options: dict) -> str:
    """The first ensemble of the recipe that is this alone, or the method and the options as text."""
    for spec in recipe.ensembles:
        if parts_of(spec.method, dict(spec.options)) == ([], [(method, options)]):
            return spec.name
    return "_".join([method, *(f"{n}={v}" for n, v in sorted(options.items()))])
