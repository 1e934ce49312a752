"""The study of PPO, end to end on the tiny preset."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.pressure import summary
from rmlab.recipe import Ppo, Pressure, line, ppo, tiny_ppo
from rmlab.study import ppo as pressure

RECIPE = tiny_ppo()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("pressure")
    return root, pressure.run(RECIPE, root / "out", root / "artifacts", workers=2, quiet=True) / "ppo"


def test_every_line_aggregator_and_price_is_there(study):
    ends = pd.read_csv(study[1] / "ends.csv")
    found = set(zip(ends.line, ends.how, ends.beta, ends.longer, strict=True))
    several = {(x, how, b, 1) for x in ("finetune2", "lora2") for how in ("mean", "min") for b in (0.0, 0.1)}
    assert found == several | {
        ("single", "mean", 0.0, 1),
        ("single", "mean", 0.1, 1),
        ("single", "mean", 0.0, 2),
    }
    assert (ends.units == 2).all() and np.isfinite(ends[["start", "peak", "end", "fall", "gain"]]).all().all()
    assert (ends[ends.line == "single"].gain == 0).all()
    assert "finetune2" in summary(study[1])


def test_every_run_starts_at_the_same_policy_without_kl(study):
    runs = pd.read_csv(study[1] / "runs.csv")
    start = runs[runs.step == 0]
    assert start.watched_k1.abs().max() < 1e-4 and start.k1.abs().max() < 1e-4
    assert start.gold.nunique() == 1  # the same requests, the same draw, the same policy
    assert (runs.groupby(["line", "how", "beta", "longer", "replicate"]).step.max() == runs.longer.groupby(
        [runs.line, runs.how, runs.beta, runs.longer, runs.replicate]).first() * 3).all()  # fmt: skip
    five = runs[runs.line == "finetune2"]
    np.testing.assert_allclose(five[five.how == "mean"].proxy, five[five.how == "mean"][["member_0", "member_1"]].mean(axis=1), atol=1e-3)  # fmt: skip


def test_answers_can_be_read(study):
    answers = pd.read_csv(study[1] / "answers.csv")
    assert set(answers.step) >= {0, 3} and answers.request.notna().all() and (answers.beta == 0).all()


def test_the_same_study_is_the_same_rows(study, tmp_path):
    runs = sorted((study[0] / "artifacts").glob("pressed-*"))
    one = json.loads((runs[0] / "run.json").read_text())
    for folder in runs:
        import shutil

        shutil.rmtree(folder)
    again = pressure.run(RECIPE, tmp_path, study[0] / "artifacts", workers=1, quiet=True) / "ppo"
    assert json.loads((runs[0] / "run.json").read_text()) == one
    for table in ("runs", "ends", "curves"):
        assert (again / f"{table}.csv").read_bytes() == (study[1] / f"{table}.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pressure": Pressure(betas=(-0.1,))}, "pressure.betas = (-0.1,)"),
        ({"pressure": Pressure(ppo=Ppo(steps=0))}, "ppo.steps = 0"),
        ({"pressure": Pressure(long=(("heads9", "min"),))}, "pressure.long = ['heads9']"),
        ({"pressure": Pressure(hows=("best",))}, "pressure.hows = 'best'"),
        ({"lines": (line("finetune2", "finetune", k=2),)}, "a line named single"),
    ],
)
def test_a_bad_study_is_named_before_anything_runs(tmp_path, change, message):
    with pytest.raises(ValueError) as error:
        pressure.run(dataclasses.replace(RECIPE, **change), tmp_path / "out", tmp_path / "made", quiet=True)
    assert message in str(error.value) and not (tmp_path / "made").exists()


def test_the_shipped_recipe_covers_what_the_papers_optimise():
    r = ppo()
    assert {x.kind for x in r.lines} == {"single", "finetune", "pretrain", "heads", "lora"}
    assert 0.0 in r.pressure.betas and len(r.pressure.betas) >= 4 and r.labels.draws >= 3
