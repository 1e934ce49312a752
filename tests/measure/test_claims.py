"""The ledger says what its rows say: other rows, other verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.claims import Claim, ledger, read_claims
from rmlab.optimise.best_of_n import ess
from rmlab.reward.methods import members_of
from rmlab.study.presets import PRESETS
from rmlab.study.sweep import base_of, parts_of

CLAIMS_FILE = Path(__file__).parents[2] / "data" / "claims.toml"
D, P = 6, 20
NS = (1.0, 64.0, 2048.0)


def write_study(folder, gold: dict[str, np.ndarray]) -> None:
    """Rows of a study whose gold is `gold[ensemble]` (D, P, L); "single" is everybody's rival."""
    folder.mkdir(parents=True)
    arrays = np.stack(list(gold.values())).astype(np.float32)
    settings = [{"ensemble": name, "aggregator": "min" if name != "single" else "mean"} for name in gold]
    rival = np.stack([gold["single"]] * len(gold)).astype(np.float32)
    pressure = np.array([NS] * len(gold))
    ByPrompt(settings, pressure, arrays, arrays + 1, rival).save(folder / "by_prompt.npz")


def noise(seed: int, scale: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (D, P, len(NS))
    return rng.normal(0, scale, shape) + rng.normal(0, scale / 4, (D, 1, 1)) + rng.normal(0, 1, (1, P, 1))


def shifted(change: float, seed: int) -> np.ndarray:
    """The single model's gold, and so much more at the last two points."""
    gold = noise(0)
    gold[..., 1:] += change
    return gold + np.random.default_rng(seed).normal(0, 0.1, gold.shape)


def claim(**changes: object) -> Claim:
    fields = {"id": "a", "text": "A is better.", "source": "rmlab", "study": "s", "quantity": "gold"}
    fields |= {"left": {"ensemble": "good"}, "right": {"ensemble": "single"}, "direction": "greater"}
    return Claim(**{**fields, "margin": 0.1, "at": 64, "family": "primary", **changes})


@pytest.fixture
def data(tmp_path):
    write_study(tmp_path / "s", {"single": noise(0), "good": shifted(0.5, 1), "same": shifted(0.0, 2)})
    return tmp_path


def verdicts(claims: list[Claim], data) -> list[str]:
    return ledger(claims, data).verdict.tolist()


def test_a_claim_holds_fails_or_is_equivalent_by_its_rows(data):
    claims = [
        claim(),
        claim(id="b", direction="less"),
        claim(id="c", left={"ensemble": "same"}),
        claim(id="d", left={"ensemble": "same"}, direction="equivalent"),
        claim(id="e", direction="equivalent"),
        claim(id="f", quantity="gain", right=None),
        claim(id="g", right=None, null=100.0, direction="less"),
    ]
    assert verdicts(claims, data) == ["holds", "fails", "fails", "equivalent", "fails", "holds", "holds"]
    table = ledger(claims, data).set_index("claim")
    assert table.effect["a"] == pytest.approx(0.5, abs=0.05) and table.replicates["a"] == D
    assert table.low["a"] < table.effect["a"] < table.high["a"]


def test_other_rows_other_verdicts(data):
    before = verdicts([claim()], data)
    (data / "s" / "by_prompt.npz").unlink()
    (data / "s").rmdir()
    write_study(data / "s", {"single": noise(0), "good": shifted(-0.5, 1)})
    assert before == ["holds"] and verdicts([claim()], data) == ["fails"]


def test_an_undecided_claim_says_how_many_replicates_it_would_need(data, tmp_path):
    rng = np.random.default_rng(5)
    wild = noise(0) + rng.normal(0, 1.0, (D, 1, 1))
    write_study(tmp_path / "t", {"single": noise(0), "good": wild})
    row = ledger([claim(study="t", margin=0.3)], tmp_path).iloc[0]
    assert row.verdict == "undecided" and D < row.needed < 1000


def test_holm_is_by_family_and_descriptive_claims_are_not_adjusted(data):
    claims = [claim(id=str(i), left={"ensemble": "same"}) for i in range(4)]
    table = ledger([*claims, claim(id="x", left={"ensemble": "same"}, family="descriptive")], data)
    assert (
        np.allclose(table.p_adjusted[:4], np.minimum(4 * table.p[:4], 1))
        and table.p[4] == table.p_adjusted[4]
    )
    assert table.p.nunique() == 1


def test_a_family_is_adjusted_as_a_whole_whatever_of_it_has_been_run(data):
    whole = ledger([claim(id=str(i), study="s" if i < 2 else "other") for i in range(4)], data)
    alone = ledger([claim()], data)
    assert np.allclose(whole.p_adjusted[:2], 4 * alone.p[0]) and whole.p_adjusted[2:].isna().all()


def test_falls_and_changes_are_of_a_whole_curve(tmp_path):
    falling = noise(1)
    falling[..., 1] += 1.0
    flat = noise(2)
    write_study(tmp_path / "s", {"single": falling, "flat": flat})
    about = {"at": None, "direction": "less", "right": None, "margin": 0.2}
    one = claim(quantity="fall", left={"ensemble": "single"}, null=-0.3, peak_at_most=64, **about)
    two = claim(id="b", quantity="fall", left={"ensemble": "flat"}, null=-0.3, peak_at_most=64, **about)
    three = claim(id="c", quantity="change", left={"ensemble": "single"}, null=0.0, **about)
    table = ledger([one, two, three], tmp_path)
    assert table.verdict[0] == "holds" and table.effect[0] == pytest.approx(-0.7, abs=0.15)
    assert table.verdict[1] == "fails" and abs(table.effect[2]) < 0.2


def test_a_fall_is_read_at_its_pressure_and_not_at_the_rough_end(tmp_path):
    late = noise(1)
    late[..., 2] -= 2.0  # only at the last point, where one answer a prompt decides
    write_study(tmp_path / "s", {"single": late})
    about = {"quantity": "fall", "left": {"ensemble": "single"}, "right": None, "direction": "less"}
    whole, read = claim(at=None, **about), claim(id="b", at=64, peak_at_most=1, **about)
    table = ledger([whole, read], tmp_path)
    assert table.effect[0] < -1.5 and table.verdict[0] == "holds" and abs(table.effect[1]) < 0.3
    with pytest.raises(ValueError, match=r"claim a: at = 65: give one of 1, 64, 2048"):
        ledger([claim(at=65, **about)], tmp_path)


def test_the_shipped_falls_are_read_where_ten_answers_count():
    for c in (c for c in read_claims(CLAIMS_FILE) if c.quantity == "fall"):
        N = base_of(PRESETS[c.study]()).pool.answers
        assert c.at is not None and ess(N, [c.at])[0] >= 10 and c.peak_at_most < c.at


def test_tables_by_replicate(data):
    rows = pd.DataFrame(
        {"ensemble": ["heads5"] * 4, "replicate": [0, 1, 2, 3], "corr": [0.99, 0.98, 0.995, 0.97]}
    )
    rows.to_csv(data / "s" / "diversity.csv", index=False)
    about = {"quantity": "diversity.corr", "left": {"ensemble": "heads5"}, "right": None, "at": None}
    table = ledger([claim(null=0.9, **about), claim(id="b", null=1.1, **about)], data)
    assert table.verdict.tolist() == ["holds", "fails"] and table.replicates.tolist() == [4, 4]
    with pytest.raises(ValueError, match=r"claim a: rows of diversity = \{'ensemble': 'lora5'\}"):
        ledger([claim(**{**about, "left": {"ensemble": "lora5"}})], data)


def test_a_study_that_is_not_there_is_not_run(data):
    assert verdicts([claim(study="other"), claim(id="b")], data) == ["not run", "holds"]


def test_rows_of_older_code_are_not_read(data):
    (data / "s" / "provenance.json").write_text(json.dumps({"numbers_of": "994a5e7"}))
    assert verdicts([claim()], data) == ["not run"]


def test_claims_are_read_from_toml_and_odd_ones_are_named(tmp_path, data):
    path = tmp_path / "claims.toml"
    text = """
    [[claim]]
    id = "a"
    text = "A is better."
    source = "rmlab"
    study = "s"
    quantity = "gold"
    at = 64
    left = {ensemble = "good"}
    right = {ensemble = "single"}
    direction = "greater"
    margin = 0.1
    family = "primary"
    """
    path.write_text(text)
    assert read_claims(path) == [claim(at=64)]
    for old, new, words in [
        ("margin", "margn", r"keys of claim a = \['margn'\]"),
        ('direction = "greater"', 'direction = "up"', r"claim a: direction = 'up'"),
        ("at = 64", "", r"claim a: at = None: give the pressure"),
        ('quantity = "gold"', 'quantity = "table.column"', r"claim a: at = 64: give none"),
        ('quantity = "gold"', 'quantity = "joy"', r"claim a: quantity = 'joy'"),
        ("margin = 0.1", "margin = 0", r"claim a: margin = 0: give a difference above 0"),
        ('text = "A is better."', "", r"claim a: .*text"),
    ]:
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=words):
            read_claims(path)
    path.write_text(text + text)
    with pytest.raises(ValueError, match=r"ids of claims = \['a'\]"):
        read_claims(path)


def test_rows_without_gold_by_prompt_say_so(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "provenance.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"a study with a by_prompt\.npz"):
        ledger([claim()], tmp_path)


CLAIMS = read_claims(CLAIMS_FILE)


def keys_there_are(study: str) -> set[tuple]:
    """(axis, value, ensemble, aggregator, pessimism, optimiser, KL penalty, step multiplier) of a study's settings."""
    found = set()
    for labels, recipe in parts_of(PRESETS[study]()):
        about = (labels.get("axis"), labels.get("value"))
        for e in recipe.ensembles:
            k = members_of(e.method, dict(e.options))
            if recipe.ppo_study:
                runs = [
                    (a, kl, 1)
                    for a in recipe.ppo_study.rules_of(e.name, k)
                    for kl in recipe.ppo_study.kl_coefs
                ]
                found |= {(*about, e.name, a, "paper", "ppo", kl, many) for a, kl, many in runs}
                continue
            rules = recipe.aggregators if k > 1 else ("mean",)
            found |= {
                (*about, e.name, a, pessimism, "best_of_n", None, 1)
                for a in rules
                for pessimism in ("paper", "matched")[: 1 + (recipe.matched and a != "mean")]
            }
    return found


NAMES = ("axis", "value", "ensemble", "aggregator", "pessimism", "optimiser", "kl_coef", "step_multiplier")


DISTANCES = {
    "mahalanobis",
    "laplace",
    "caution",
    "sngp",
}  # scores of `uncertainty_replicates` that no ensemble has


def check_table_keys(claim: Claim) -> None:
    """A table by replicate has the quantity, and rows of what a claim names, in the tiny study; ensembles in its own."""
    names = {e.name for e in PRESETS[claim.study]().ensembles}
    for keys in (claim.left, claim.right):
        if keys:
            assert keys.get("ensemble", keys.get("score")) in names | DISTANCES
            assert keys.get("n", 1) in (1, 64, 256)  # those that tables by replicate have
            assert keys.get("recalibration", "none") in ("none", "temperature", "isotonic")
            assert keys.get("error", "absolute") in ("absolute", "signed")


@pytest.mark.parametrize("table", sorted({c.quantity for c in CLAIMS if "." in c.quantity}))
def test_tables_that_claims_name_have_their_columns(table, tiny_studies):
    name, column = table.split(".")
    rows = pd.read_csv(tiny_studies["tiny_constructions"] / f"{name}.csv")
    keys = {key for c in CLAIMS if c.quantity == table for x in (c.left, c.right) if x for key in x}
    assert {column, "replicate", *keys} <= set(rows)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_what_a_claim_names_is_in_its_study(claim):
    if "." in claim.quantity:
        check_table_keys(claim)
        return
    known = keys_there_are(claim.study)
    for keys in (claim.left, claim.right):
        if keys:
            assert set(keys) <= set(NAMES)
            same = [x for x in known if all(x[NAMES.index(n)] == v for n, v in keys.items())]
            assert len(same) == 1, (keys, same)


def test_claims_are_many_and_one_family_is_primary():
    assert len(CLAIMS) >= 24 and {c.family for c in CLAIMS} == {"primary", "descriptive"}
    papers = {c.source.split(" ")[0] for c in CLAIMS}
    assert {"Gao", "Coste", "Eisenstein", "Ahmed", "Zhang", "rmlab,"} <= papers
