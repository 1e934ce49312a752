"""The command line: fields as options, what would run, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rmlab import cli
from rmlab.study.presets import SHIPPED, tiny

ROOT = Path(__file__).resolve().parents[1]


def rmlab(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "rmlab", *args], cwd=ROOT, capture_output=True, text=True)


def test_help_and_version():
    assert "rmlab 0.1.0" in rmlab("version").stdout
    done = rmlab("--help")
    assert done.returncode == 0 and "rmlab study PRESET" in done.stdout and "tiny_ppo" in done.stdout
    done = rmlab()
    assert done.returncode == 2 and "rmlab study PRESET" in done.stderr


def test_every_field_of_a_recipe_is_an_option():
    import tyro

    args = ["--labels.flips", "0.1", "--source.style-quality", "0.5", "--aggregators", "mean", "min"]
    args += [
        "--training.lr",
        "0.002",
        "--ensembles",
        "single",
        "heads2",
        "--seed",
        "7",
        "--replicates.draws",
        "2",
    ]
    recipe = cli.recipe_with(tiny(), tyro.cli(cli.options_of(tiny()), args=args))
    assert (recipe.labels.flips, recipe.source.style_quality, recipe.training.lr) == (0.1, 0.5, 0.002)
    assert (recipe.seed, recipe.replicates.draws, recipe.aggregators) == (7, 2, ("mean", "min"))
    assert [e.name for e in recipe.ensembles] == ["single", "heads2"] and recipe.id != tiny().id
    assert cli.recipe_with(tiny(), tyro.cli(cli.options_of(tiny()), args=[])) == tiny()


def test_a_dry_run_says_what_would_run(tmp_path, tiny_studies, capsys):
    cli.main(["study", "tiny", "--dry-run", "--artifacts", str(tmp_path), "--workers", "2"])
    text = capsys.readouterr().out
    assert "train_member" in text and "heads2" in text and "0 tasks to run" not in text
    assert not list(tmp_path.iterdir())
    cli.main(["study", "tiny", "--dry-run", "--artifacts", str(tiny_studies["artifacts"].root)])
    assert "\n0 tasks to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["study", "huge"], "preset = 'huge': give one of quick, constructions"),
        (["study"], "preset = None: give one of"),
        (["study", "tiny", "--labels.flips", "0.7"], "labels.flips = 0.7: give a share"),
        (["study", "tiny", "--ensembles", "heads2"], "an ensemble named single"),
        (["study", "tiny", "--ensembles", "single", "lora9"], "ensembles = ['lora9']"),
        (["study", "tiny", "--workers", "0"], "workers = 0"),
        (["verify", "nowhere"], "folder = 'nowhere'"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_2(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_verify_finds_the_shipped_studies_from_anywhere(tmp_path, monkeypatch, capsys):
    """Those of the package in an empty folder, those of `data/` where it stands here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RMLAB_DATA", raising=False)
    assert cli.shipped() == [ROOT / "data" / name for name in SHIPPED]
    for name in SHIPPED:
        (tmp_path / "data" / name).mkdir(parents=True)
    assert cli.shipped() == [ROOT / "data" / name for name in SHIPPED]  # not yet whole
    about = json.dumps({"study": "mine", "numbers_of": "0123456"})
    for name in SHIPPED:
        (tmp_path / "data" / name / "provenance.json").write_text(about)
    with pytest.raises(SystemExit) as end:
        cli.main(["verify"])
    assert end.value.code == 0 and capsys.readouterr().out.count("mine: made by older code (0123456)") == len(
        SHIPPED
    )


def test_a_finished_study_prints_its_ends(tiny_studies, tmp_path, capsys):
    cli.main(
        [
            "study",
            "tiny",
            "--out",
            str(tmp_path),
            "--artifacts",
            str(tiny_studies["artifacts"].root),
            "--quiet",
        ]
    )
    text = capsys.readouterr().out
    assert (
        "gain over single" in text
        and "finetune2 min" in text
        and (tmp_path / "tiny" / "curves.csv").is_file()
    )
