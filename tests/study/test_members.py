"""Which scorers a recipe trains, and which make up which ensemble on which replicate."""

from __future__ import annotations

import dataclasses

import pytest

from rmlab.recipe import Replicates, ensemble
from rmlab.study.members import instances_of, replicates_of, trained_of, validate_ensembles
from rmlab.study.presets import PRESETS, constructions, full, tiny, tiny_constructions


def instances(recipe, name):
    return [i for i in instances_of(recipe) if i.spec.name == name]


def test_crossed_replicates_meet_every_backbone_and_finetuning_seed():
    recipe = full()
    assert len(replicates_of(recipe)) == 3 * 5 * 3
    assert len(instances(recipe, "single")) == 45 and len(instances(recipe, "finetune3")) == 15
    assert len(instances(recipe, "pretrain3")) == 3 * 3 * 5 and len(instances(recipe, "pretrain5")) == 3 * 3
    assert len(instances(recipe, "heads5")) == 15


def test_every_single_model_is_used_equally_often():
    """A good backbone cannot pass for a good method."""
    for name in ("finetune3", "pretrain3", "pretrain5"):
        uses = [p for i in instances(full(), name) for p in i.parts]
        counts = {p: uses.count(p) for p in uses}
        assert len(counts) == 45 and len(set(counts.values())) == 1


def test_an_ensemble_of_single_models_is_compared_with_its_own_members():
    for i in instances(full(), "pretrain3"):
        assert set(i.rivals) == set(i.parts) and len({p.backbone for p in i.parts}) == 3
    for i in instances(full(), "heads3"):
        assert len(i.rivals) == 3 and {(r.draw, r.backbone) for r in i.rivals} == {
            (i.draw, i.parts[0].backbone)
        }


def test_replicates_in_step_have_a_home_each_and_one_rival():
    recipe = constructions()
    for name in ("finetune5", "pretrain5", "heads5", "lora5", "grid25", "average5", "single"):
        found = instances(recipe, name)
        assert [i.replicate for i in found] == [0, 1, 2, 3, 4]
        for i in found:
            assert [(r.draw, r.backbone, r.finetune) for r in i.rivals] == [(i.draw, i.draw, 0)]
    assert [p.backbone for p in instances(recipe, "pretrain5")[3].parts] == [3, 4, 0, 1, 2]


def test_the_single_model_is_the_same_in_every_study():
    ids = {
        name: {s.id for s in trained_of(PRESETS[name]()) if s.method == "single"}
        for name in ("full", "constructions", "ppo")
    }
    assert {"d0/p0/f0", "d1/p1/f0", "d2/p2/f0"} <= ids["full"] & ids["constructions"] & ids["ppo"]


def test_ids_are_unique_and_say_where_a_scorer_comes_from():
    for preset in PRESETS.values():
        specs = trained_of(preset())
        assert len({s.id for s in specs}) == len(specs)
    ids = {s.id for s in trained_of(constructions())}
    assert {"d0/p0/f0", "d0/p0/f0/e1", "d0/p0/heads5_bootstrap", "d2/p2/lora5"} <= ids


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
        ((ensemble("single", "single"), ensemble("x", "finetune", k=3)), "finetuning seed of ensemble x = 2"),
    ],
)
def test_a_bad_ensemble_is_named_before_anything_runs(ensembles, message):
    recipe = dataclasses.replace(tiny(), ensembles=ensembles, replicates=Replicates(1, 2, 2))
    with pytest.raises(ValueError) as error:
        validate_ensembles(recipe.validate())
    assert message in str(error.value)
