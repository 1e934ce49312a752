"""Recipes about text are valid on models and pairs from folders, and say what their papers do."""

from __future__ import annotations

import pytest

from rmlab import cli
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan
from rmlab.study.text_presets import TEXT_PRESETS, coste, efficient, herding

TRAINED = {"ukp": 21, "hh": 15, "coste": 15, "scalable": 24, "efficient": 15}  # as their docstrings count


@pytest.fixture
def files(text_place):
    names = {"pairs": "pairs.jsonl", "policy": "policy", "gold": "gold"}
    return {name: text_place / file for name, file in names.items()} | {
        "backbones": (text_place / "backbone-a", text_place / "backbone-b"),
        "group": "topic",
        "max_new_tokens": 12,
        "max_length": 64,
    }


@pytest.mark.parametrize("name", TEXT_PRESETS)
def test_presets_are_planned_on_what_is_there(name, files):
    recipe = TEXT_PRESETS[name](**files)
    tasks = all_tasks(list(plan(recipe).values()))
    stages = {task.stage.__name__ for task in tasks}
    assert recipe.name == name and {"load_model", "encode_pairs", "score_gold", "text_explorer"} <= stages
    assert not {"pretrain", "tune", "label", "score_probes"} & stages
    assert recipe.labels.pairs == len(recipe.source.parts[0])
    assert recipe.pool.prompts == len(recipe.source.listed) and recipe.size.hidden == 32


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_is_what_the_docstring_counts(name, files):
    tasks = all_tasks(list(plan(TEXT_PRESETS[name](**files | {"backbones": ()})).values()))
    trained = [task for task in tasks if task.stage.__name__ == "train_member"]
    assert len(trained) == TRAINED[name]


def test_the_papers_settings(files):
    recipe = coste(**files, ppo=True)
    assert recipe.labels.flips == 0.25 and recipe.training.epochs == 5
    assert recipe.aggregators == ("mean", "min", "uwo") and recipe.ensembles[-1].options == (("k", 5),)
    assert recipe.ppo_study.ppo.lr == 1e-6 and coste(**files).ppo_study is None
    assert len(plan(recipe)["comparison"].inputs["runs"]) == 90
    assert efficient(**files, ppo=True).ppo_study.kl_coefs == (0.02,)
    recipe = herding(**files)
    assert recipe.replicates.backbones == recipe.replicates.finetune == 2
    assert {e.name: e.homes for e in recipe.ensembles} == {"single": 1, "finetune2": 0, "pretrain2": 1}


def test_the_command_line_says_what_would_run(files, capsys, tmp_path):
    where = [f"--{name}={files[name]}" for name in ("pairs", "policy", "gold")]
    where += ["--group=topic", "--max-new-tokens=12", "--max-length=64", f"--artifacts={tmp_path}"]
    cli.main(["study", "ukp", *where, "--pool.answers", "64", "--dry-run"])
    text = capsys.readouterr().out
    assert "encode_pairs" in text and "lora5" in text and "pretrain" not in text
    with pytest.raises(SystemExit) as end:
        cli.main(["study", "ukp", "--pairs", "nowhere.jsonl"])
    assert end.value.code == 2 and "--policy" in capsys.readouterr().err
    where[1] = "--policy=nowhere"
    with pytest.raises(SystemExit) as end:
        cli.main(["study", "ukp", *where])
    assert end.value.code == 2 and "folder = 'nowhere'" in capsys.readouterr().err
