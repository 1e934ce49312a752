"""Which scorers a recipe trains, and which make up which ensemble on which replicate."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from rmlab.recipe import Replicates, ensemble
from rmlab.study.members import backbone_number, instances_of, trained_of, validate_ensembles
from rmlab.study.presets import PRESETS, best_of_n, constructions, quick, tiny, tiny_constructions
from rmlab.study.sweep import parts_of


def instances(recipe, name):
    return [i for i in instances_of(recipe) if i.spec.name == name]


def test_a_replicate_holds_an_ensemble_as_often_as_it_can_or_on_its_homes():
    recipe = best_of_n()
    counts = {"single": 15, "finetune3": 5, "heads5": 1, "pretrain3": 10 * 3, "pretrain5": 3, "grid15": 1}
    for name, count in counts.items():
        every = instances(recipe, name)
        assert [(i.replicate, i.number) for i in every] == [(d, n) for d in range(10) for n in range(count)]
    for name in ("finetune5", "heads5", "lora5", "grid25", "average5", "mixed9"):
        assert [(i.replicate, i.number) for i in instances(constructions(), name)] == [
            (d, 0) for d in range(5)
        ]
    two = dataclasses.replace(recipe, ensembles=(*recipe.ensembles, ensemble("lora4", "lora", k=4, homes=2)))
    assert [i.parts[0].backbone for i in instances(two, "lora4")] == [0, 1] * 10


def test_every_set_of_backbones_is_an_ensemble_of_pretraining_seeds_with_each_seed():
    every = [i for i in instances(best_of_n(), "pretrain3") if i.replicate == 1]
    sets = [tuple((p.backbone, p.finetune) for p in i.parts) for i in every]
    assert len(set(sets)) == 30 and {len(s) for s in sets} == {3}
    assert all(len({f for _, f in s}) == 1 and len({p for p, _ in s}) == 3 for s in sets)


def test_every_single_model_is_used_equally_often():
    """A good backbone cannot pass for a good method."""
    for name in ("finetune3", "pretrain3", "pretrain5"):
        uses = [p for i in instances(best_of_n(), name) for p in i.parts]
        counts = {p: uses.count(p) for p in uses}
        assert len(counts) == 150 and len(set(counts.values())) == 1


def test_an_ensemble_is_compared_with_every_single_model_on_its_backbones():
    for recipe in (best_of_n(), quick(), constructions()):
        for i in instances_of(recipe):
            on = {(i.replicate, p.backbone) for p in i.parts}
            expected = [(d, p, f) for d, p in sorted(on) for f in range(3)]
            if i.spec.name == "single":
                assert i.rivals == i.parts
            else:
                assert [(r.draw, r.backbone, r.finetune) for r in i.rivals] == expected
            assert all(r.method == "single" and not r.options for r in i.rivals)


def test_members_beyond_the_grid_of_single_models_are_no_rivals():
    five = instances(constructions(), "finetune5")[2]
    assert [p.id for p in five.parts] == [f"d2/p0/f{f}" for f in range(5)]
    assert [r.id for r in five.rivals] == ["d2/p0/f0", "d2/p0/f1", "d2/p0/f2"]
    assert len(instances(constructions(), "single")) == 5 * 5 * 3


def test_replicates_share_no_backbone_and_the_first_has_the_first_ones():
    recipe = best_of_n()
    numbers = [backbone_number(recipe, d, p) for d in range(10) for p in range(5)]
    assert numbers == list(range(50))


def test_folders_of_a_text_source_are_shared_in_turn():
    def numbers(folders, draws, backbones):
        source = SimpleNamespace(backbones=tuple("abcdef"[:folders]))
        recipe = SimpleNamespace(source=source, replicates=Replicates(draws, backbones, 1))
        return [[backbone_number(recipe, d, p) for p in range(backbones)] for d in range(draws)]

    assert numbers(6, 3, 2) == [[0, 1], [2, 3], [4, 5]]  # enough: none is shared
    assert numbers(3, 3, 3) == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]  # each home another one
    assert numbers(1, 3, 1) == [[0], [0], [0]]
    assert numbers(2, 4, 1) == [[0], [1], [1], [0]]


def test_the_single_model_is_the_same_in_every_study():
    ids = {
        name: {s.id for s in trained_of(PRESETS[name]()) if s.method == "single"}
        for name in ("best_of_n", "constructions", "ppo")
    }
    assert {"d0/p0/f0", "d1/p1/f0", "d2/p4/f2"} <= ids["best_of_n"] & ids["constructions"] & ids["ppo"]


def test_ids_are_unique_and_say_where_a_scorer_comes_from():
    for preset in PRESETS.values():
        for _, recipe in parts_of(preset()):
            specs = trained_of(recipe)
            assert len({s.id for s in specs}) == len(specs)
    ids = {s.id for s in trained_of(constructions())}
    assert {"d0/p0/f0", "d0/p0/f0/e1", "d0/p0/heads5_bootstrap", "d2/p0/lora5", "d4/p3/f4"} <= ids


def test_a_union_holds_what_its_parts_train_once():
    mixed = instances(tiny_constructions(), "mixed3")[0]
    assert [p.id for p in mixed.parts] == ["d0/p0/f0", "d0/p0/f1", "d0/p0/average2"]


@pytest.mark.parametrize(
    ("ensembles", "message"),
    [
        ((ensemble("heads2", "heads", k=2),), "an ensemble named single"),
        ((ensemble("single", "single"), ensemble("single", "heads")), "names of ensembles = ['single']"),
        ((ensemble("single", "single"), ensemble("x", "boosting")), "ensemble x: method = 'boosting'"),
        ((ensemble("single", "single"), ensemble("x", "heads", k=0)), "ensemble x: k of heads = 0"),
        ((ensemble("single", "single"), ensemble("x", "lora", ranks=2)), "option of lora = 'ranks'"),
        ((ensemble("single", "single"), ensemble("x", "pretrain", k=3)), "backbone of ensemble x = 2"),
        (
            (ensemble("single", "single"), ensemble("x", "mixed", parts=(("lora", (("k", 0),)),))),
            "k of lora = 0",
        ),
        ((ensemble("single", "single"), ensemble("x", "finetune", homes=3, k=2)), "homes of ensemble x = 3"),
        (
            (ensemble("single", "single"), ensemble("x", "finetune", homes=-1, k=2)),
            "homes of ensemble x = -1",
        ),
    ],
)
def test_a_bad_ensemble_is_named_before_anything_runs(ensembles, message):
    recipe = dataclasses.replace(tiny(), ensembles=ensembles, replicates=Replicates(1, 2, 2))
    with pytest.raises(ValueError) as error:
        validate_ensembles(recipe.validate())
    assert message in str(error.value)
