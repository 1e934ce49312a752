"""A sweep: which recipes it has, what they share, how its rows are labelled, and that it runs like any study."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest

from rmlab import cli
from rmlab.measure.by_prompt import ByPrompt
from rmlab.recipe import Size
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS, tiny, tiny_sweeps
from rmlab.study.run import last_tasks, plans, run
from rmlab.study.summary import summary
from rmlab.study.sweep import Axis, Sweep, base_of, parts_of, with_field
from rmlab.study.verify import verify_study


@pytest.fixture(scope="module")
def swept(tiny_studies):
    """The folder of the tiny sweep."""
    root = tiny_studies["artifacts"].root
    return run(tiny_sweeps(), root.parent / "tiny_sweeps", root, workers=2, quiet=True)


def test_every_value_of_every_axis_is_a_recipe():
    sweep = tiny_sweeps()
    assert [(axis, value) for axis, value, _ in sweep.recipes()] == [
        ("flips", 0.0),
        ("flips", 0.25),
        ("pairs", 32),
        ("pairs", 40),
    ]
    base = dataclasses.replace(sweep.base, name="tiny_sweeps")
    flips, same, also, pairs = (recipe for *_, recipe in sweep.recipes())
    assert same == also == base and flips.labels.flips == 0 and pairs.labels.pairs == 40
    assert (
        dataclasses.replace(flips, labels=base.labels)
        == base
        == dataclasses.replace(pairs, labels=base.labels)
    )


def test_a_whole_part_may_be_an_axis_and_a_source_too():
    sizes = (Size(hidden=16, layers=1, heads=2, ff=32), Size(hidden=32, layers=1, heads=2, ff=32))
    sweep = Sweep("s", tiny(), (Axis("size", "size", sizes), Axis("style", "source.style_quality", (0.1,))))
    (_, label, small), (_, _, large), (*_, styled) = sweep.recipes()
    assert label == "hidden=16 layers=1 heads=2 ff=32"
    assert small.size == tiny().size and large.size.hidden == 32 and styled.source.style_quality == 0.1


def test_equal_recipes_are_planned_once_and_recipes_share_what_they_can():
    sweep = tiny_sweeps()
    planned = plans(sweep)
    assert planned[1][1] is planned[2][1] and planned[0][1] is not planned[1][1]
    assert not any("explorer" in last for _, last in planned)
    tasks = {t.key: t.stage.__name__ for t in all_tasks(last_tasks(planned))}
    stages = list(tasks.values())
    alone = {t.key for t in all_tasks(list(plan(sweep.recipes()[1][2]).values()))}
    assert (
        stages.count("pretrain") == 3 and stages.count("tune") == 1
    )  # two replicates and the policy, once for all
    assert stages.count("train_member") == 3 * 4
    assert (
        stages.count("score_gold") == 1 and len(alone & set(tasks)) == len(alone) - 1
    )  # but for the explorer


def test_ids_depend_on_the_base_and_the_axes():
    sweep = tiny_sweeps()
    others = [dataclasses.replace(sweep, axes=sweep.axes[:1])]
    others.append(dataclasses.replace(sweep, base=dataclasses.replace(sweep.base, seed=1)))
    renamed = dataclasses.replace(sweep, axes=(Axis("noise", "labels.flips", (0.0, 0.25)), sweep.axes[1]))
    assert len({sweep.id, renamed.id, *(o.id for o in others)}) == 4
    assert dataclasses.replace(sweep, name="other").id == sweep.id


def test_a_recipe_is_a_study_of_one():
    assert parts_of(tiny()) == [({}, tiny())] and base_of(tiny()) == tiny()
    assert base_of(tiny_sweeps()) == tiny_sweeps().base


def test_tables_are_the_recipes_below_each_other(swept):
    sweep = tiny_sweeps()
    assert swept.name == "tiny_sweeps" and not (swept / "explorer.npz").exists()
    curves = pd.read_csv(swept / "curves.csv", dtype={"value": str})
    assert list(curves)[:5] == ["axis", "value", "study", "recipe", "seed"] and set(curves.study) == {
        "tiny_sweeps"
    }
    assert (curves.units == 2).all() and curves.gold.notna().all()
    groups = curves.groupby(["axis", "value"], sort=False)
    assert list(groups.groups) == [("flips", "0.0"), ("flips", "0.25"), ("pairs", "32"), ("pairs", "40")]
    for (axis, value, recipe), (_, rows) in zip(sweep.recipes(), groups, strict=True):
        assert set(rows.recipe) == {recipe.id}, (axis, value)
    same, also = (curves[curves["value"] == v].drop(columns=["axis", "value"]) for v in ("0.25", "32"))
    pd.testing.assert_frame_equal(same.reset_index(drop=True), also.reset_index(drop=True))
    for name in ("accuracy", "ends", "comparisons", "transfer", "diversity", "costs"):
        assert list(pd.read_csv(swept / f"{name}.csv"))[:2] == ["axis", "value"]


def test_gold_by_prompt_is_one_file(swept):
    stored, curves = ByPrompt.load(swept / "by_prompt.npz"), pd.read_csv(swept / "curves.csv")
    x = stored.values(16, axis="flips", value=0.0, ensemble="finetune2", aggregator="min")
    rows = curves[(curves["axis"] == "flips") & (curves["value"] == 0) & (curves.pressure == 16)]
    row = rows[(rows.ensemble == "finetune2") & (rows.aggregator == "min")].iloc[0]
    assert x.shape == (2, 3) and x.mean() == pytest.approx(row.gold, abs=1e-4)


def test_a_second_run_makes_nothing_and_writes_the_same_bytes(swept, tiny_studies):
    root = tiny_studies["artifacts"].root
    before = {f.name: f.read_bytes() for f in swept.iterdir() if f.suffix in {".csv", ".npz"}}
    kept = {f.name for f in root.iterdir()}
    run(tiny_sweeps(), swept.parent, root, workers=1, quiet=True)
    assert {f.name: f.read_bytes() for f in swept.iterdir() if f.suffix in {".csv", ".npz"}} == before
    assert {f.name for f in root.iterdir()} == kept


def test_provenance_verification_and_summary(swept, tiny_studies, tmp_path):
    about, sweep = json.loads((swept / "provenance.json").read_text()), tiny_sweeps()
    assert (about["study"], about["recipe"], about["source"]) == ("tiny_sweeps", sweep.id, "Sandbox")
    assert about["tables"]["accuracy"] == [last["accuracy"].key for _, last in plans(sweep)]
    verdict = verify_study(swept, tiny_studies["artifacts"].root)
    assert verdict.text.endswith("holds") and not verdict.differs
    older = shutil.copytree(swept, tmp_path / "tiny_sweeps")
    about["tables"]["accuracy"][0] = "0" * 20
    (older / "provenance.json").write_text(json.dumps(about))
    verdict = verify_study(older, tiny_studies["artifacts"].root)
    assert "holds (made by older code" in verdict.text and not verdict.differs
    lines = summary(swept).splitlines()
    assert len(lines) == 2 + len(pd.read_csv(swept / "ends.csv")) and lines[1].startswith(
        "flips 0.0: single mean"
    )


def test_a_changed_row_is_found_out(swept, tiny_studies, tmp_path):
    (tmp_path / "provenance.json").write_text((swept / "provenance.json").read_text())
    table = pd.read_csv(swept / "accuracy.csv", dtype=str)
    table.loc[
        (table["axis"] == "flips") & (table["value"] == "0.0") & (table.member == "d0/p0/f0"), "accuracy"
    ] = "0.01"
    table.to_csv(tmp_path / "accuracy.csv", index=False)
    assert verify_study(tmp_path, tiny_studies["artifacts"].root).differs


def test_the_command_line_runs_it_like_any_preset(swept, tiny_studies, tmp_path, capsys):
    cli.main(["study", "tiny_sweeps", "--dry-run", "--artifacts", str(tiny_studies["artifacts"].root)])
    text = capsys.readouterr().out
    assert "\n0 tasks to run" in text and "4 recipes, each with one setting changed" in text
    cli.main(["study", "tiny_sweeps", "--dry-run", "--artifacts", str(tmp_path), "--seed", "3"])
    assert "\n0 tasks to run" not in capsys.readouterr().out
    where = ["--out", str(tmp_path), "--artifacts", str(tiny_studies["artifacts"].root), "--quiet"]
    cli.main(["study", "tiny_sweeps", *where])
    assert "flips 0.25: finetune2 min" in capsys.readouterr().out
    assert (tmp_path / "tiny_sweeps" / "ends.csv").read_bytes() == (swept / "ends.csv").read_bytes()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((), "axes = []"),
        (
            (Axis("a", "labels.flip", (0.1,)),),
            "field of Labels = 'flip': give one of pairs, temperature, flips",
        ),
        ((Axis("a", "seed.more", (0.1,)),), "field of int = 'more': give a path that ends here"),
        ((Axis("a", "labels.flips", ()),), "values of axis a = ()"),
        ((Axis("a", "labels.flips", (0.1, 0.1)),), "values of axis a = (0.1, 0.1)"),
        ((Axis("a", "seed", (1,)), Axis("a", "labels.flips", (0.1,))), "axes = ['a', 'a']"),
        ((Axis("a", "labels.flips", (0.7,)),), "labels.flips = 0.7"),
    ],
)
def test_a_bad_sweep_is_named_before_anything_runs(axes, message, tmp_path):
    with pytest.raises(ValueError) as error:
        run(Sweep("bad", tiny(), axes), tmp_path, tmp_path / "artifacts")
    assert message in str(error.value) and not list(tmp_path.iterdir())


def test_the_shipped_sweep_can_be_planned():
    sweep = PRESETS["sweeps"]()
    assert len({recipe.id for *_, recipe in sweep.recipes()}) < len(sweep.recipes()) and plans(sweep)
    assert with_field(sweep.base, "seed", 4).seed == 4
