"""What runs again after a change: exactly the stages that depend on it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from rmlab import store
from rmlab.recipe import Replicates, ensemble
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan
from rmlab.study.presets import constructions, tiny, tiny_ppo

PACKAGE = Path(store.__file__).parent
MEASURED = {
    "measure": 13
}  # of tiny: comparison, transfer, agreement, accuracy, diversity, herding, hacks, costs, probes, checks, calibration, promised, laws
KEYS = """
import json
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan
from rmlab.study.presets import tiny
print(json.dumps([[t.stage.__name__, t.key] for t in all_tasks(list(plan(tiny()).values()))]))
"""


def again(recipe, artifacts) -> dict[str, int]:
    """Stages that a recipe would run on what the tiny study left: name -> tasks."""
    return dict(
        Counter(t.stage.__name__ for t in all_tasks(list(plan(recipe).values())) if not artifacts.has(t))
    )


@pytest.fixture(scope="module")
def before(tiny_studies):
    """Keys of the tiny study's tasks, all of them done."""
    tasks = all_tasks(list(plan(tiny()).values()))
    assert all(tiny_studies["artifacts"].has(t) for t in tasks)
    return {t.key for t in tasks}


@pytest.fixture
def edited(tmp_path, before):
    """Edit a copy of the package: which stages run again, name -> tasks."""
    shutil.copytree(PACKAGE, tmp_path / "rmlab", ignore=shutil.ignore_patterns("__pycache__"))

    def edit(*edits: tuple[str, str, str]) -> dict[str, int]:
        for file, old, new in edits:
            path = tmp_path / "rmlab" / file
            assert old in path.read_text("utf-8"), f"{old!r} is not in {file}"
            path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
        run = [sys.executable, "-c", KEYS]
        done = subprocess.run(
            run, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return dict(Counter(stage for stage, key in json.loads(done.stdout) if key not in before))

    return edit


def test_nothing_runs_again_where_nothing_changed(tiny_studies, before):
    assert again(tiny(), tiny_studies["artifacts"]) == {}


WORDS = [
    ("reward/methods.py", "linear heads", "heads that are linear"),  # a menu label
    ("reward/aggregate.py", '"mean - λ std"', '"mean less λ std"'),
    ("reward/training.py", "at least one batch of", "no less than a batch of"),  # an error text
    ("optimise/sampling.py", "lists of ids, none empty", "lists of ids, each with an id"),
    ("sources/sandbox/gold.py", "greetings and goodbyes", "courtesies"),
    ("sources/sandbox/probes.py", "five greetings", "greetings, five of them"),
    ("study/stages.py", "A stage does one thing.", "A stage does a single thing."),  # a docstring
]


def test_words_run_nothing_again(edited):
    assert edited(*WORDS) == {}


def test_an_added_probe_is_scored_and_measured(edited):
    label = '    "exclaim": "every stop an exclamation mark",\n'
    line = '    words["exclaim"] = ["!" if x == "." else x for x in words["base"]]\n'
    file, added = "sources/sandbox/probes.py", '    words["silent"] = words["base"][4:]\n'
    runs = edited((file, label, label + '    "silent": "no greeting",\n'), (file, line, line + added))
    assert runs == {"score_probes": 6, "measure": 1}


def test_more_prompts_retrain_nothing(tiny_studies, before):
    recipe = tiny()
    recipe = dataclasses.replace(
        recipe, pool=dataclasses.replace(recipe.pool, prompts=recipe.pool.prompts + 8)
    )
    runs = again(recipe, tiny_studies["artifacts"])
    everything = {"draw_prompts": 2, "sample_answers": 2, "score_gold": 2, "score_pool": 6, "score_probes": 6}
    assert runs == {**everything, **MEASURED, "explorer_slice": 1}


def test_an_added_ensemble_trains_itself_alone(tiny_studies, before):
    recipe = dataclasses.replace(tiny(), ensembles=(*tiny().ensembles, ensemble("heads3", "heads", k=3)))
    runs = again(recipe, tiny_studies["artifacts"])
    added = {"train_member": 1, "score_pool": 1, "score_probes": 1}
    assert runs == {**added, **MEASURED, "explorer_slice": 1}
    everywhere = dataclasses.replace(
        recipe, ensembles=(*tiny().ensembles, ensemble("heads3", "heads", 0, k=3))
    )
    assert again(everywhere, tiny_studies["artifacts"]) == {
        k: v * (2 if k in added else 1) for k, v in runs.items()
    }


def test_an_aggregator_is_measured(tiny_studies, before):
    recipe = dataclasses.replace(tiny(), aggregators=("mean", "min"))
    assert again(recipe, tiny_studies["artifacts"]) == {**MEASURED, "explorer_slice": 1}


def test_a_learning_rate_trains_members_again_and_no_language_model(tiny_studies, before):
    recipe = dataclasses.replace(tiny(), training=dataclasses.replace(tiny().training, lr=2e-3))
    runs = again(recipe, tiny_studies["artifacts"])
    assert runs == {"train_member": 6, "score_pool": 6, "score_probes": 6, **MEASURED, "explorer_slice": 1}


def test_a_line_of_the_world_reaches_everything_that_reads_it(edited):
    runs = edited(("sources/sandbox/gold.py", "LONG = 32", "LONG = 33"))
    assert {"label", "score_gold", "train_member"} <= set(runs) and not {
        "pretrain",
        "tune",
        "draw_prompts",
    } & set(runs)


def test_other_versions_run_everything_again(tiny_studies, before, monkeypatch):
    real = store.versions()
    monkeypatch.setattr(store, "versions", lambda: {**real, "torch": "9.9.9"})
    tasks = all_tasks(list(plan(tiny()).values()))
    assert not {t.key for t in tasks} & before


def runs_of(recipe) -> list[tuple[dict, str]]:
    """The PPO runs of a recipe: what each is, with its replicate, and its key."""
    tasks = [t for t in all_tasks(list(plan(recipe).values())) if t.stage.__name__ == "ppo_run"]
    return [({**dict(t.settings.setting), "replicate": t.settings.replicate}, t.key) for t in tasks]


def test_several_single_models_run_beside_the_runs_that_are_named():
    recipe, usual = tiny_ppo(), dict(map(reversed, runs_of(tiny_ppo())))
    few = dataclasses.replace(recipe.ppo_study, rivals=2, runs=(("lora2", "min"),))
    runs = runs_of(dataclasses.replace(recipe, ppo_study=few))
    counts = Counter(
        (run["ensemble"], run["aggregator"], run["replicate"], run.get("number", 0)) for run, _ in runs
    )
    single = {
        ("single", "mean", d, n): 3 for d in range(2) for n in range(2)
    }  # two penalties, and a long one
    assert counts == {**single, ("lora2", "min", 0, 0): 2, ("lora2", "min", 1, 0): 2}
    again = [key for run, key in runs if not run.get("number")]
    assert set(again) < set(usual) and len({key for _, key in runs}) == len(runs)


def test_an_ensemble_that_a_replicate_holds_several_times_runs_once():
    recipe = tiny_ppo()
    ensembles = (ensemble("single", "single"), ensemble("finetune2", "finetune", homes=0, k=2))
    runs = runs_of(dataclasses.replace(recipe, ensembles=ensembles))
    assert Counter(run["ensemble"] for run, _ in runs) == {"single": 2 * 3, "finetune2": 2 * 2 * 2}


def test_a_large_study_is_planned_in_about_a_second():
    recipe = dataclasses.replace(constructions(), replicates=Replicates(10, 5, 3))
    plan(recipe)  # fingerprints of code are kept
    began = time.perf_counter()
    tasks = all_tasks(list(plan(recipe).values()))
    assert time.perf_counter() - began < 2 and len(tasks) > 1700
