"""The shipped rows: one schema in every study, of the recipe that their provenance names."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.show import rows as module
from rmlab.show.rows import data_folder, ledger, made_by, own, provenance, rows

TABLES = {
    "best_of_n_sighted": [
        "curves",
        "replicates",
        "ends",
        "comparisons",
        "transfer",
        "agreement",
        "accuracy",
        "probes",
        "diversity",
        "costs",
    ],
    "constructions": ["curves", "comparisons", "diversity", "costs", "left_out"],
    "ppo": ["curves", "replicates", "ends", "comparisons", "answers"],
}
KEYS = {
    "study",
    "recipe",
    "seed",
    "ensemble",
    "method",
    "k",
    "aggregator",
    "pessimism",
    "optimiser",
    "pressure",
}
NUMBERS = {"kl", "kl_name", "proxy", "gold", "gold_low", "gold_high", "gain", "low", "high", "units"}


@pytest.mark.parametrize("study", TABLES)
def test_rows_are_of_the_recipe_that_provenance_names(study):
    recipe = provenance(study)["recipe"]
    assert provenance(study).get("commit") or len(provenance(study)["numbers_of"]) == 7
    for table in TABLES[study]:
        assert {tuple(x) for x in rows(table, study)[["study", "recipe"]].to_numpy()} == {(study, recipe)}


@pytest.mark.parametrize("study", TABLES)
def test_curves_have_the_same_columns_in_every_study(study):
    table = rows("curves", study)
    assert set(table) >= KEYS | NUMBERS
    assert ((table.gold_low <= table.gold + 1e-4) & (table.gold <= table.gold_high + 1e-4)).all()
    several = table[table.method != "average"]  # an average of five models is one
    sizes = several.ensemble.str.extract(r"^[a-z]+(\d+)$")[0].dropna().astype(int)
    assert (sizes == several.k[sizes.index]).all()  # "heads5" has five members
    assert table.kl.notna().all() and set(table.optimiser) <= {"best_of_n", "tilt", "ppo"}


def test_a_comparison_names_curves_that_are_there():
    for study in TABLES:
        curves, pairs = rows("curves", study), rows("comparisons", study)
        known = set(
            curves.ensemble
            + " "
            + curves.aggregator
            + curves.pessimism.map({"paper": "", "matched": " matched"})
        )
        assert {*pairs.one, *pairs.other} <= known
        assert ((pairs.low <= pairs.difference + 1e-4) & (pairs.difference <= pairs.high + 1e-4)).all()


def test_means_over_replicates_and_prompts_are_the_curves():
    curves = rows("curves").query("optimiser == 'best_of_n'")
    single = rows("replicates").groupby("pressure").gold.mean()
    curve = curves.query("ensemble == 'single'").set_index("pressure").gold
    assert (single - curve).abs().max() < 1e-3 and len(single) == len(curve)
    by_prompt = ByPrompt.load(data_folder() / "best_of_n_sighted" / "by_prompt.npz")
    at = curves.query("pressure == 256 and ensemble != 'oracle'")
    for r in at.itertuples():
        keys = {"ensemble": r.ensemble, "aggregator": r.aggregator, "pessimism": r.pessimism}
        assert by_prompt.values(256, "gold", **keys).mean() == pytest.approx(r.gold, abs=1e-3)
    assert len(at) > 40


def test_the_folder_can_be_named(tmp_path, monkeypatch):
    (tmp_path / "best_of_n_sighted").mkdir()
    pd.DataFrame({"gold": [1.5]}).to_csv(tmp_path / "best_of_n_sighted" / "curves.csv", index=False)
    monkeypatch.setenv("RMLAB_DATA", str(tmp_path))
    assert list(rows("curves").gold) == [1.5]


def test_an_installed_package_reads_what_it_brings_along(tmp_path, monkeypatch):
    """Whatever lies beside it: another project may have put a `data` there."""
    monkeypatch.delenv("RMLAB_DATA", raising=False)
    for folder, gold in ((tmp_path / "data", 3.5), (tmp_path / "rmlab" / "data", 2.5)):
        (folder / "best_of_n_sighted").mkdir(parents=True)
        pd.DataFrame({"gold": [gold]}).to_csv(folder / "best_of_n_sighted" / "curves.csv", index=False)
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
        monkeypatch.setattr(module.resources, "files", lambda package: tmp_path / package)
        assert list(rows("curves").gold) == [gold]


def test_a_readers_own_quick_study_is_read_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert own("curves") is None
    folder = tmp_path / "_build" / "study" / "quick" / "quick"
    folder.mkdir(parents=True)
    pd.DataFrame({"gold": [2.5]}).to_csv(folder / "curves.csv", index=False)
    assert list(own("curves").gold) == [2.5]


def test_what_made_the_rows_is_a_sentence(tiny_studies, tmp_path, monkeypatch):
    about = json.loads((tiny_studies["tiny"] / "provenance.json").read_text())
    (tmp_path / "tiny").mkdir()
    monkeypatch.setenv("RMLAB_DATA", str(tmp_path))
    for settings in (about["settings"], {"base": about["settings"], "axes": []}):
        changed = {**about, "settings": settings, "commit": "0123456789"}
        (tmp_path / "tiny" / "provenance.json").write_text(json.dumps(changed))
        text = made_by("tiny")
        assert "rmlab study tiny" in text and about["recipe"] in text and "3 prompts of 32 answers" in text
        assert f"{about['tasks']:,} tasks" in text and text.endswith("core hours, commit `0123456`.")


def test_the_ledger_of_a_few_claims_is_that_of_all():
    claims, table = ledger("min-beats-mean", "lora-helps")
    assert [c.id for c in claims] == list(table.claim) == ["min-beats-mean", "lora-helps"]
    every, whole = ledger()
    assert len(every) == len(whole) > 40
    pd.testing.assert_frame_equal(
        table, whole.set_index("claim").loc[list(table.claim)].reset_index()[list(table)]
    )
    with pytest.raises(ValueError, match="no-such-claim"):
        ledger("no-such-claim")
