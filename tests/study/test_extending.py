"""What adding things costs: a method is one file and one entry, a measurement one function and one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rmlab import store

PACKAGE = Path(store.__file__).parent
METHOD = '''"""Toy members: K copies of a single model, each with its head turned by noise of its own."""

import torch

from rmlab.reward.ensemble import RewardEnsemble
from rmlab.reward.methods import MemberSpec, TrainingInputs
from rmlab.reward.model import RewardModel, with_heads
from rmlab.reward.single import train_member


def singles() -> list[MemberSpec]:
    """The single model whose head is turned."""
    return [MemberSpec()]


def train(inputs: TrainingInputs, k: int = 2, noise: float = 0.5) -> RewardEnsemble:
    """K heads on one encoder."""
    model = train_member(inputs, MemberSpec()).model
    generator = torch.Generator().manual_seed(inputs.seed_of() % 2**31)
    head = model.score.weight.detach()
    return RewardModel(with_heads(model, head + noise * torch.randn(k, head.shape[1], generator=generator) * head.std()))
'''
ENTRY = (
    '    "toy": Method("toy members", "one model, heads turned by noise", "nobody", "rmlab.reward.toy"),\n'
)
MEASUREMENT = '''

def widest_spread(scores: StudyScores) -> pd.DataFrame:
    """The largest standard deviation of a member's scores on the pool, a row an ensemble."""
    return pd.DataFrame([{"ensemble": e.name, "replicate": e.replicate, "spread": e.pool.std((0, 1)).max()} for e in scores.ensembles])
'''
RUN = """
import dataclasses, json, sys
import pandas as pd
from rmlab.recipe import ensemble
from rmlab.study.presets import tiny_constructions
from rmlab.study.run import run

if __name__ == "__main__":
    recipe = tiny_constructions()
    kept = tuple(e for e in recipe.ensembles if e.name in {"single", "finetune2"})
    recipe = dataclasses.replace(recipe, ensembles=(*kept, ensemble("toy3", "toy", k=3)))
    folder = run(recipe, sys.argv[1], sys.argv[2], workers=2, quiet=True)
    from rmlab.optimise.compact import CompactPool
    from rmlab.show import figures_members as figures
    from rmlab.show.explorer import Explorer

    curves, members = (pd.read_csv(folder / f"{t}.csv") for t in ("curves", "diversity"))
    figure = figures.gains(curves, ["finetune2", "toy3"], [("mean", "paper"), ("min", "matched")])
    diverse = figures.diversity(members, ["finetune2", "toy3"])
    pool = CompactPool.load(folder / "explorer.npz")
    widget = Explorer(pool, ensemble="toy", aggregator="min")
    print(json.dumps({
        "tables": sorted(f.stem for f in folder.glob("*.csv")), "figure": figure.alt, "diverse": diverse.alt,
        "explorer": [e["label"] for e in pool.ensembles], "widget": list(widget.members),
        "rows": pd.read_csv(folder / "widest_spread.csv").ensemble.tolist(),
        "toy": curves[curves.ensemble == "toy3"].k.unique().tolist(),
    }))
"""


@pytest.mark.slow
def test_a_method_and_a_measurement_reach_study_figure_and_explorer(tmp_path, tiny_studies):
    shutil.copytree(PACKAGE, tmp_path / "rmlab", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rmlab" / "reward" / "toy.py").write_text(METHOD)
    _add(tmp_path / "rmlab" / "reward" / "methods.py", '    "single": Method(', ENTRY)
    with (tmp_path / "rmlab" / "measure" / "members.py").open("a") as file:
        file.write(MEASUREMENT)
    line = "    widest_spread=Measurement(members.widest_spread),\n"
    _add(tmp_path / "rmlab" / "study" / "results.py", "    accuracy=Measurement(", line)
    (tmp_path / "go.py").write_text(RUN)
    command = [sys.executable, "go.py", "out", str(tiny_studies["artifacts"].root)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (
        "widest_spread" in seen["tables"]
        and seen["rows"] == ["single"] * 8 + ["finetune2"] * 2 + ["toy3"] * 2
    )
    assert seen["toy"] == [3] and "3 toy members" in seen["figure"] and "3 toy members" in seen["diverse"]
    assert "3 toy members" in seen["explorer"] and len(seen["widget"]) == 3


def _add(path: Path, before: str, line: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, line + before, 1), "utf-8")
