"""Ready recipes are valid and say what they should."""

from __future__ import annotations

import dataclasses

import pytest

from rmlab.recipe import Labels, Ppo, PpoStudy, digest, ensemble
from rmlab.reward.aggregate import AGGREGATORS
from rmlab.reward.methods import METHODS
from rmlab.study.plan import validate
from rmlab.study.presets import (
    EVERY,
    PRESETS,
    SHIPPED,
    best_of_n,
    best_of_n_sighted,
    constructions,
    ppo,
    ppo_free,
    tiny,
    tiny_constructions,
    tiny_ppo,
)
from rmlab.study.sweep import parts_of


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_named(name):
    study = PRESETS[name]()
    assert study.name == name
    for _, recipe in parts_of(study):
        validate(recipe)
        assert recipe.name == name


def test_every_aggregator_and_method_is_in_a_study():
    assert set(EVERY) == set(AGGREGATORS)
    for recipe in (constructions(), tiny_constructions()):
        assert {e.method for e in recipe.ensembles} == set(METHODS)
    assert set(SHIPPED) <= set(PRESETS)


def test_ids_depend_on_everything_but_the_name():
    recipe = tiny()
    assert dataclasses.replace(recipe, name="other").id == recipe.id
    others = [dataclasses.replace(recipe, seed=1), dataclasses.replace(recipe, labels=Labels(pairs=33))]
    others.append(dataclasses.replace(recipe, source=dataclasses.replace(recipe.source, style_quality=0.5)))
    others.append(dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, micro_batch=4)))
    assert len({recipe.id, *(r.id for r in others)}) == 5
    settings = dataclasses.asdict(recipe)
    del settings["name"]
    for name in ("micro_batch", "max_grad_norm", "checkpointing"):  # what is off changes no number and no id
        del settings["training"][name]
    assert recipe.id == f"r{digest([type(recipe.source).__name__, settings])[:11]}"


def test_the_shipped_ppo_recipe_covers_what_the_papers_optimise():
    recipe = ppo()
    assert {e.method for e in recipe.ensembles} == {"single", "finetune", "pretrain", "heads", "lora"}
    study = recipe.ppo_study
    assert min(study.kl_coefs) > 0 and recipe.replicates.draws >= 10 and study.rivals == 3
    free = ppo_free()
    assert free.ppo_study.kl_coefs == (0.0,) and free.replicates.draws == 3 and len(free.ppo_study.long) == 3


def test_regimes_differ_in_sight_labels_and_replicates_alone():
    one, other = best_of_n(), best_of_n_sighted()
    assert (one.pretraining.sight, other.pretraining.sight) == (0, 1)
    same = {"name": "x", "labels": other.labels, "pretraining": other.pretraining}
    same["replicates"] = dataclasses.replace(one.replicates, draws=20)
    assert dataclasses.replace(one, **same) == dataclasses.replace(other, name="x")
    assert one.replicates.draws == 10 == ppo().replicates.draws and one.matched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ppo_study": PpoStudy(kl_coefs=(-0.1,))}, "ppo_study.kl_coefs = (-0.1,)"),
        ({"ppo_study": PpoStudy(ppo=Ppo(steps=0))}, "ppo.steps = 0"),
        ({"ppo_study": PpoStudy(long=(("heads9", "min"),))}, "ppo_study.long = ['heads9']"),
        ({"ppo_study": PpoStudy(runs=(("heads9", "min"),))}, "ppo_study.runs = ['heads9']"),
        ({"ppo_study": PpoStudy(runs=(("lora2", "best"),))}, "ppo_study.aggregators = 'best'"),
        ({"ppo_study": PpoStudy(runs=(("lora2", "min"),) * 2)}, "ppo_study.runs = [('lora2', 'min')]"),
        ({"ppo_study": PpoStudy(rivals=3)}, "ppo_study.rivals = 3: give at most replicates.finetune = 2"),
        ({"ppo_study": PpoStudy(rivals=0)}, "ppo_study.rivals = 0"),
        ({"ppo_study": PpoStudy(prompts=1)}, "ppo_study.prompts = 1"),
        ({"ppo_study": PpoStudy(aggregators=("best",))}, "ppo_study.aggregators = 'best'"),
        ({"aggregators": ("best",)}, "aggregators = 'best'"),
        ({"ensembles": (ensemble("finetune2", "finetune", k=2),)}, "an ensemble named single"),
        ({"labels": Labels(flips=0.7)}, "labels.flips = 0.7: give a share"),
    ],
)
def test_a_bad_recipe_is_named(change, message):
    with pytest.raises(ValueError) as error:
        validate(dataclasses.replace(tiny_ppo(), **change))
    assert message in str(error.value)
