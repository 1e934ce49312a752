"""The study of constructions, end to end on the tiny preset: every line is made, scored and compared."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from rmlab.optimise.compact import CompactPool
from rmlab.recipe import PRESETS, full, line, tiny_constructions
from rmlab.reward.methods import CONSTRUCTIONS, atoms
from rmlab.sources.sandbox.world import VOCAB
from rmlab.study import constructions
from rmlab.study.cost import Meter, estimate

RECIPE = tiny_constructions()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("constructions")
    out = constructions.run(RECIPE, root / "out", root / "artifacts", workers=2, quiet=True)
    return root, out / "constructions", out / "pool"


def test_every_construction_is_in_the_study():
    assert {x.kind for x in RECIPE.lines} == set(CONSTRUCTIONS)
    assert {x.kind for x in PRESETS["constructions"]().lines} == set(CONSTRUCTIONS)


def test_every_line_reaches_every_table(study):
    _, out, _ = study
    names = [x.name for x in RECIPE.lines]
    for table in ("league", "members", "costs"):
        assert list(pd.read_csv(out / f"{table}.csv").name.unique()) == names
    league = pd.read_csv(out / "league.csv")
    assert set(league.units) == {RECIPE.labels.draws}
    several = league[league.k > 1].groupby("name").aggregator.agg(set)
    assert all(found == {"mean", "median", "min", "mean_std", "uwo"} for found in several)
    assert json.loads((out / "provenance.json").read_text())["recipe"] == RECIPE.id == league.recipe.iloc[0]


def test_every_line_has_a_cost_card_and_estimates_count_parameters_right(study):
    costs = pd.read_csv(study[1] / "costs.csv").set_index("name")
    assert (costs[["train_seconds", "score_seconds"]] > 0).all().all()
    assert costs.trained_parameters.le(costs.parameters).all()
    for x in RECIPE.lines:
        expected = estimate(RECIPE, len(VOCAB), x.kind, dict(x.options))["parameters"]
        assert costs.parameters[x.name] == pytest.approx(expected, rel=0.01), x.name


def test_a_unions_scores_are_its_members(study):
    root, _, _ = study
    made = sorted((root / "artifacts").glob("atom-*"))
    lines = {(x.name, x.replicate): x for x in constructions.assemble(dataclasses.asdict(RECIPE), made)}
    assert len(made) == RECIPE.labels.draws * 8  # three singles, heads, lora, dropout, laplace, average
    for s in range(2):
        both, single = lines["finetune2", s], lines["single", s]
        assert (both.pool[..., :1] == single.pool).all() and not (both.pool[..., 1:] == single.pool).all()
        assert (lines["pretrain2", s].pool[..., :1] == single.pool).all()
        assert (lines["mixed3", s].pool[..., :2] == both.pool).all()
        assert (lines["mixed3", s].pool[..., 2:] == lines["average2", s].pool).all()
        assert lines["mixed3", s].cost["train_seconds"] == pytest.approx(
            both.cost["train_seconds"] + lines["average2", s].cost["train_seconds"]
        )
    assert not np.allclose(lines["single", 0].pool, lines["single", 1].pool)


def test_the_explorers_pool_shows_each_construction_once(study):
    pool = CompactPool.load(study[2] / "constructions.npz")
    names = [c["name"] for c in pool.ensembles]
    assert names == ["finetune", "pretrain", "heads1", "heads2", "lora", "dropout", "laplace", "average"]
    first = {c["name"]: c["members"][0] for c in pool.ensembles}
    assert (
        first["finetune"] == first["pretrain"] == first["heads1"]
    )  # the same single model, once in the page


def test_a_second_run_trains_nothing_and_writes_the_same_rows(study):
    root, out, _ = study
    before = {f.name: f.read_bytes() for f in out.glob("*.csv")}
    made = {f: f.stat().st_mtime_ns for f in (root / "artifacts").iterdir()}
    constructions.run(RECIPE, root / "out", root / "artifacts", workers=2, quiet=True)
    assert {f.name: f.read_bytes() for f in out.glob("*.csv")} == before
    assert {f: f.stat().st_mtime_ns for f in (root / "artifacts").iterdir()} == made


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((line("heads2", "heads", k=2),), "a line named single"),
        ((line("single", "single"), line("single", "heads")), "names of lines = ['single']"),
        ((line("single", "single"), line("x", "boosting")), "line x: construction = 'boosting'"),
        ((line("single", "single"), line("x", "heads", k=0)), "line x: k of heads = 0"),
        ((line("single", "single"), line("x", "lora", ranks=2)), "option of lora = 'ranks'"),
        ((line("single", "single"), line("x", "pretrain", k=3)), "backbone of line x = 2"),
        ((line("single", "single"), line("x", "mixed", parts=(("lora", (("k", 0),)),))), "k of lora = 0"),
    ],
)
def test_a_bad_line_is_named_before_anything_runs(tmp_path, lines, message):
    with pytest.raises(ValueError) as error:
        constructions.run(dataclasses.replace(RECIPE, lines=lines), tmp_path, quiet=True)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_estimates_name_every_line(capsys):
    text = constructions.estimates(RECIPE)
    assert all(x.name in text for x in RECIPE.lines) and "GFLOP" in text


def test_an_empty_list_of_lines_leaves_a_recipes_id_alone():
    assert full().id == "f074ffe17752"
    assert dataclasses.replace(full(), lines=(line("single", "single"),)).id != full().id


def test_atoms_of_a_grid_are_its_single_models_each_once():
    parts = tuple(("finetune", (("backbone", b), ("k", 2))) for b in (0, 1, 0))
    singles, alone = atoms("mixed", {"parts": parts})
    assert len(singles) == 4 and not alone


def test_the_meter_sees_memory_that_was_freed_again():
    with Meter() as spent:
        block = np.ones(16 * 2**20)  # 128 MB
        del block
    if not np.isnan(spent.peak_mb):  # known on Linux
        assert 100 < spent.peak_mb < 300
    assert spent.seconds > 0
