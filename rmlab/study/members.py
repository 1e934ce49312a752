"""Which scorers are trained, and which of them make up which ensemble on which replicate: a recipe's composition.

A single model is named by its replicate, its pretraining seed there and its finetuning seed, the same in every study, so
that the single model of one study is that of another with as many backbones, and is trained once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import NamedTuple

from rmlab.recipe import EnsembleSpec, Recipe, require
from rmlab.reward.methods import MemberSpec, check_options, parts_of, singles_of

SINGLE = "single"


@dataclass(frozen=True)
class TrainedSpec:
    """One scorer to train: a method with its options, on the labels and a backbone of a replicate.

    draw : the replicate, which has one label draw; backbone : counted within the replicate
    """

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
    """One ensemble on one replicate: its parts, in the order of its members, and the single models that it is compared with.

    number : a replicate may hold an ensemble several times, on other backbones or of other seeds
    """

    spec: EnsembleSpec
    replicate: int
    number: int
    parts: tuple[TrainedSpec, ...]
    rivals: tuple[TrainedSpec, ...]


class Place(NamedTuple):
    """Where an ensemble stands in a replicate: the backbones that its members count, and what is added to their seeds."""

    backbones: tuple[int, ...]
    finetune: int = 0


def places_of(recipe: Recipe, spec: EnsembleSpec) -> list[Place]:
    """Where an ensemble stands in every replicate.

    The single models: on each backbone with each finetuning seed. Pretraining seeds: on every set of backbones, its members
    all of one finetuning seed, each seed in turn. Any other: on its homes, further backbones counted on from there.
    """
    r = recipe.replicates
    rings = [_ring(recipe, home) for home in range(r.backbones)]
    if spec.name == SINGLE:
        return [Place(ring, seed) for ring, seed in product(rings, range(r.finetune))]
    if spec.method == "pretrain":
        sets = combinations(range(r.backbones), len(parts_of(spec.method, dict(spec.options))[0]))
        return [Place(backbones, seed) for backbones, seed in product(sets, range(r.finetune))]
    return [Place(ring) for ring in rings[: spec.homes or r.backbones]]


def instances_of(recipe: Recipe) -> list[Instance]:
    """Every ensemble of every replicate, as often as the replicate holds it.

    Rivals: the study's single models on the backbones of the instance, of every finetuning seed; a single model's is itself.
    """
    single = next(e for e in recipe.ensembles if e.name == SINGLE)
    singles, out = [parts[0] for parts in _parts(recipe, single)], []
    for spec in recipe.ensembles:
        numbered = []
        for number, parts in enumerate(_parts(recipe, spec)):
            on = {p.backbone for p in parts}
            rivals = parts if spec is single else tuple(s for s in singles if s.backbone in on)
            numbered.append((number, parts, rivals))
        for draw in range(recipe.replicates.draws):
            for number, *groups in numbered:
                parts, rivals = (tuple(replace(p, draw=draw) for p in group) for group in groups)
                out.append(Instance(spec, draw, number, parts, rivals))
    return out


def trained_of(recipe: Recipe) -> list[TrainedSpec]:
    """Every scorer that the recipe trains, each once."""
    return list(dict.fromkeys(p for instance in instances_of(recipe) for p in instance.parts))


def backbone_number(recipe: Recipe, draw: int, backbone: int) -> int:
    """Which pretraining seed a replicate's backbone is: replicate 0 has the first, the next has those that follow.

    A source of text has a folder a seed. Where replicates need more than there are, they share them in turn, each time
    round from another one on, and are no longer independent in their backbones.
    """
    first, folders = draw * recipe.replicates.backbones, getattr(recipe.source, "backbones", ())
    return (first + first // len(folders) + backbone) % len(folders) if folders else first + backbone


def validate_ensembles(recipe: Recipe) -> None:
    """Raise a `ValueError` that names the ensemble and what is wrong with it."""
    count = recipe.replicates.backbones
    for spec in recipe.ensembles:
        try:
            check_options(spec.method, dict(spec.options))
        except ValueError as error:
            raise ValueError(f"ensemble {spec.name}: {error}") from error
        for single in parts_of(spec.method, dict(spec.options))[0]:
            mend = f"one of {count}, counted from 0, or raise replicates.backbones"
            require(single.backbone < count, f"backbone of ensemble {spec.name}", single.backbone, mend)


def single_spec(draw: int, place: Place, member: MemberSpec) -> TrainedSpec:
    """A replicate's single model, `member` counting backbones and finetuning seeds as the place says."""
    options = () if member.epochs is None else (("epochs", member.epochs),)
    backbone = place.backbones[member.backbone]
    return TrainedSpec(SINGLE, options, draw, backbone, place.finetune + member.finetune)


def start_of(recipe: Recipe, spec: TrainedSpec) -> list[TrainedSpec]:
    """The single models that a scorer is made of, those of its backbone first; none for a single model."""
    if spec.method == SINGLE:
        return []
    place = Place(_ring(recipe, spec.backbone))
    return [single_spec(spec.draw, place, m) for m in singles_of(spec.method, dict(spec.options))]


def _ring(recipe: Recipe, home: int) -> tuple[int, ...]:
    """A replicate's backbones, counted from a home on."""
    count = recipe.replicates.backbones
    return tuple((home + i) % count for i in range(count))


def _parts(recipe: Recipe, spec: EnsembleSpec) -> list[tuple[TrainedSpec, ...]]:
    """The parts of each of an ensemble's instances on replicate 0; what is trained for itself has finetuning seed 0."""
    singles, others = parts_of(spec.method, dict(spec.options))
    named = [(method, tuple(sorted(o.items())), _first_name(recipe, method, o)) for method, o in others]
    kept: dict[frozenset, tuple[TrainedSpec, ...]] = {}
    for place in places_of(recipe, spec):
        parts = [single_spec(0, place, member) for member in singles]
        parts += [TrainedSpec(method, o, 0, place.backbones[0], name=name) for method, o, name in named]
        kept.setdefault(frozenset(parts), tuple(parts))
    return list(kept.values())


def _first_name(recipe: Recipe, method: str, options: dict) -> str:
    """The first ensemble of the recipe that is this alone, or the method and the options as text."""
    for spec in recipe.ensembles:
        if parts_of(spec.method, dict(spec.options)) == ([], [(method, options)]):
            return spec.name
    return "_".join([method, *(f"{n}={v}" for n, v in sorted(options.items()))])
