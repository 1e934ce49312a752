"""The tiny studies end to end: every table is there, and a second run makes nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.intervals import two_way_interval
from rmlab.optimise.compact import CompactPool
from rmlab.study.checkout import commit_of
from rmlab.study.executor import all_tasks
from rmlab.study.members import instances_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS, tiny_constructions, tiny_ppo
from rmlab.study.run import run

TABLES = {
    "tiny": "accuracy agreement calibration calibration_replicates checks comparisons costs curves diversity diversity_replicates ends goodhart hacks herding herding_replicates law_of_ensembles law_of_ensembles_replicates laws laws_replicates probes promised promised_replicates reliability replicates transfer",
    "tiny_constructions": "accuracy agreement alarms bounds calibration calibration_replicates certificates certificates_replicates checks choices comparisons costs curves detectors detectors_replicates diversity diversity_replicates ends goodhart hacks herding herding_replicates law_of_ensembles law_of_ensembles_replicates laws laws_replicates left_out probes promised promised_replicates reliability replicates transfer uncertainty uncertainty_replicates",
    "tiny_ppo": "accuracy agreement alarms answers calibration calibration_replicates checks comparisons costs curves detectors detectors_replicates diversity diversity_replicates ends goodhart hacks herding herding_replicates law_of_ensembles law_of_ensembles_replicates laws laws_replicates probes promised promised_replicates reliability replicates transfer",
}
LEAD = ["study", "recipe", "seed"]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_under_one_schema(name, tiny_studies):
    folder, recipe = tiny_studies[name], PRESETS[name]()
    assert folder.name == name and sorted(f.stem for f in folder.glob("*.csv")) == TABLES[name].split()
    assert sorted(f.stem for f in folder.glob("*.npz")) == ["by_prompt", "explorer"]
    for file in folder.glob("*.csv"):
        table = pd.read_csv(file)
        assert list(table)[:3] == LEAD and (table.recipe == recipe.id).all(), file
        assert not [c for c in table if c.endswith(("_lo", "_hi"))]
    curves = pd.read_csv(folder / "curves.csv")
    keys = "ensemble method k aggregator pessimism optimiser kl_coef step_multiplier strength penalty pressure kl kl_name"
    bands = "proxy proxy_low proxy_high gold gold_low gold_high gain low high units covers"
    assert set([*LEAD, *keys.split(), *bands.split(), "ess"]) <= set(curves)


def test_every_ensemble_reaches_every_table(tiny_studies):
    folder, recipe = tiny_studies["tiny_constructions"], tiny_constructions()
    names = [e.name for e in recipe.ensembles]
    for table in ("diversity", "costs"):
        assert list(pd.read_csv(folder / f"{table}.csv").ensemble) == names
    curves = pd.read_csv(folder / "curves.csv")
    assert list(curves.ensemble.unique()) == [*names, "oracle"] and set(curves.units) == {
        recipe.replicates.draws
    }
    several = curves[curves.k > 1].groupby("ensemble").aggregator.agg(set)
    assert all(rules == set(recipe.aggregators) for rules in several)


def test_replicates_are_of_single_models_and_a_unions_parts_are_its_members(tiny_studies):
    table = pd.read_csv(tiny_studies["tiny_constructions"] / "replicates.csv")
    assert set(table.ensemble) == {"single"} and set(table.replicate) == {0, 1}
    first = [i for i in instances_of(tiny_constructions()) if (i.replicate, i.number) == (0, 0)]
    parts = {i.spec.name: "+".join(part.id for part in i.parts) for i in first}
    assert parts["finetune2"] == "d0/p0/f0+d0/p0/f1" and parts["pretrain2"] == "d0/p0/f0+d0/p1/f0"
    assert parts["mixed3"] == "d0/p0/f0+d0/p0/f1+d0/p0/average2" and parts["heads2"] == "d0/p0/heads2"


def test_the_single_model_is_one_and_the_same_across_studies(tiny_studies):
    one, several = (
        pd.read_csv(tiny_studies[n] / "accuracy.csv").set_index("member")
        for n in ("tiny", "tiny_constructions")
    )
    for member in ("d0/p0/f0", "d0/p0/f1", "d0/p1/f0", "d0/p1/f1"):
        assert one.accuracy[member] == several.accuracy[member]
    tasks = [
        {t.key for t in all_tasks(list(plan(PRESETS[n]()).values())) if t.stage.__name__ == "train_member"}
        for n in ("tiny", "tiny_constructions", "tiny_ppo")
    ]
    assert len(tasks[0] & tasks[1]) >= 3 and tasks[2] < tasks[1]


def test_every_ppo_run_starts_at_the_same_policy_without_kl(tiny_studies):
    rows = pd.read_csv(tiny_studies["tiny_ppo"] / "replicates.csv")
    start = rows[rows.pressure == 0]
    assert start.eval_k1.abs().max() < 1e-4 and start.k1.abs().max() < 1e-4
    assert start.gold.nunique() == 1  # the same prompts, the same draw, the same policy
    keys = ["ensemble", "aggregator", "kl_coef", "step_multiplier", "replicate"]
    last = rows.groupby(keys).pressure.max().reset_index()
    assert (last.pressure == 3 * last.step_multiplier).all()
    two = rows[(rows.ensemble == "finetune2") & (rows.aggregator == "mean")]
    np.testing.assert_allclose(two.proxy, two[["member_0", "member_1"]].mean(axis=1), atol=1e-3)


def test_every_ppo_setting_has_an_end(tiny_studies):
    ends = pd.read_csv(tiny_studies["tiny_ppo"] / "ends.csv")
    settings = set(zip(ends.ensemble, ends.aggregator, ends.kl_coef, ends.step_multiplier, strict=True))
    several = {(e, a, c, 1) for e in ("finetune2", "lora2") for a in ("mean", "min") for c in (0.0, 0.1)}
    assert settings == several | {
        ("single", "mean", 0.0, 1),
        ("single", "mean", 0.1, 1),
        ("single", "mean", 0.0, 2),
    }
    assert (ends.units == tiny_ppo().replicates.draws).all() and (
        ends[ends.ensemble == "single"].gain == 0
    ).all()


def test_the_answers_length_and_golds_length_are_columns_of_their_own(tiny_studies):
    rows = pd.read_csv(tiny_studies["tiny_ppo"] / "replicates.csv")
    assert (rows.length >= 1).all() and {"gold_length", "eval_length", "gold_coverage"} <= set(rows)


def test_answers_can_be_read(tiny_studies):
    answers = pd.read_csv(tiny_studies["tiny_ppo"] / "answers.csv")
    assert set(answers.step) >= {0, 3} and answers.prompt.notna().all() and set(answers.kl_coef) == {0, 0.1}
    every = answers.groupby(["ensemble", "aggregator", "kl_coef", "step_multiplier", "step"])
    assert (every.prompt.nunique() == 4).all()  # of six, as many as there are
    steps = every.size().reset_index().groupby(["step_multiplier"]).step.agg(lambda s: sorted(set(s)))
    assert steps.to_dict() == {1: [0, 2, 3], 2: [0, 2, 4, 6]}


@pytest.mark.parametrize("name", TABLES)
def test_intervals_can_be_computed_again_from_gold_by_prompt(name, tiny_studies):
    stored, ends = (
        ByPrompt.load(tiny_studies[name] / "by_prompt.npz"),
        pd.read_csv(tiny_studies[name] / "ends.csv"),
    )
    assert len(stored.settings) == len(ends)
    for row in ends.itertuples():
        keys = {k: getattr(row, k) for k in ("ensemble", "aggregator", "pessimism", "step_multiplier")}
        keys |= {} if row.optimiser != "ppo" else {"kl_coef": row.kl_coef}
        at = row.end_pressure if row.optimiser == "ppo" else 16
        x = stored.values(at, **keys)
        assert x.shape[0] == row.units == PRESETS[name]().replicates.draws
        if at == row.end_pressure:
            assert two_way_interval(x)[:3] == pytest.approx(
                (row.end, row.end_low, row.end_high), rel=1e-3, abs=1e-3
            )
            gain = two_way_interval(stored.values(at, "gain", **keys))
            assert np.isnan(row.gain) or gain[:3] == pytest.approx(
                (row.gain, row.low, row.high), rel=1e-3, abs=1e-3
            )


def test_replicates_share_no_backbone(tiny_studies):
    tasks = all_tasks(list(plan(tiny_constructions()).values()))
    trained = [t for t in tasks if t.stage.__name__ == "train_member"]
    homes = {t.settings.draw: set() for t in trained}
    for t in trained:
        homes[t.settings.draw] |= set(t.settings.backbones)
        assert t.inputs["backbones"][0].settings.index == t.settings.backbones[0] + 1  # after the policy's
    assert homes == {0: {0, 1}, 1: {2, 3}}


@pytest.mark.parametrize("name", TABLES)
def test_the_explorer_has_its_pool(name, tiny_studies):
    pool = CompactPool.load(tiny_studies[name] / "explorer.npz")
    names = [e["name"] for e in pool.ensembles]
    assert {"finetune"} <= set(names) and len(pool.prompts) == 3
    if name == "tiny_constructions":
        assert names == ["finetune", "pretrain", "heads1", "heads2", "lora", "dropout", "laplace", "average"]
    first = {
        e["name"]: e["members"][0] for e in pool.ensembles if e["name"] in {"finetune", "pretrain", "heads1"}
    }
    assert len(set(first.values())) == 1  # the same single model, once in the page


def test_a_second_run_makes_nothing_and_writes_the_same_bytes(tiny_studies):
    folder, root = tiny_studies["tiny"], tiny_studies["artifacts"].root
    before = {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix in {".csv", ".npz"}}
    kept = {f.name: f.stat().st_mtime_ns for f in root.iterdir()}
    run(PRESETS["tiny"](), folder.parent, root, workers=1, quiet=True)
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix in {".csv", ".npz"}} == before
    assert {f.name: f.stat().st_mtime_ns for f in root.iterdir()} == kept


def test_provenance_says_what_made_the_rows(tiny_studies):
    about = json.loads((tiny_studies["tiny"] / "provenance.json").read_text())
    recipe = PRESETS["tiny"]()
    assert (about["study"], about["recipe"], about["source"]) == ("tiny", recipe.id, "Sandbox")
    assert about["tables"] == {name: t.key for name, t in plan(recipe).items()}
    assert about["claims"] is None  # nothing is claimed of it
    assert about["commit"] == commit_of() or about["commit"].removesuffix("+changes") == commit_of()[:40]
    assert len(about["versions"]) == 1 and {"torch", "transformers", "numpy"} <= set(about["versions"][0])


def test_several_single_models_are_the_rival_of_a_run(tiny_studies, tmp_path):
    study = dataclasses.replace(
        tiny_ppo().ppo_study, rivals=2, kl_coefs=(0.1,), runs=(("finetune2", "min"),), long=()
    )
    recipe = dataclasses.replace(tiny_ppo(), name="rivals", ppo_study=study)
    folder = run(recipe, tmp_path, tiny_studies["artifacts"].root, workers=2, quiet=True)
    rows = pd.read_csv(folder / "replicates.csv")
    assert set(rows.members[rows.ensemble == "single"]) == {
        f"d{d}/p0/f{f}" for d in range(2) for f in range(2)
    }
    last = rows[rows.pressure == 3]
    single = last[last.ensemble == "single"].groupby("replicate").gold.mean()
    several = last[last.ensemble == "finetune2"].set_index("replicate").gold
    ends = pd.read_csv(folder / "ends.csv").set_index("ensemble")
    assert ends.gain["finetune2"] == pytest.approx((several - single).mean(), abs=1e-3)
    assert ends.gain["single"] == 0 and ends.end["single"] == pytest.approx(single.mean(), abs=1e-3)
    stored = ByPrompt.load(folder / "by_prompt.npz")
    np.testing.assert_allclose(stored.values(3, "rival", ensemble="finetune2").mean(1), single, atol=1e-3)
    assert {s["ensemble"] for s in stored.settings} == {"single", "finetune2"}
