"""The workbench from the command line, from end to end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rmlab
from rmlab.cli import main
from rmlab.workbench import commands
from tests.workbench.fake_tables import RHO, pairs_table, pool_table


def test_pairs_from_the_command_line(tmp_path, capsys):
    pairs_table().to_csv(tmp_path / "pairs.csv", index=False)
    args = [
        "report",
        str(tmp_path / "pairs.csv"),
        "--label",
        "votes",
        "--length",
        "words",
        "--group",
        "topic",
    ]
    main([*args, "--members", "ann", "bob", "cat", "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "350 pairs, 3 members" in text and "figure.png" in text
    rows = pd.read_csv(tmp_path / "out" / "measures.csv").set_index("measure")
    assert rows.value["shared_error"] == pytest.approx(RHO, abs=0.08)


def test_a_pool_from_the_command_line(tmp_path, capsys):
    pool_table(20, 16).to_parquet(tmp_path / "pool.parquet")
    main(["report", str(tmp_path / "pool.parquet"), "--gold", "gold", "--out", str(tmp_path / "out")])
    assert "judged by gold" in capsys.readouterr().out
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert (
        set(curves.optimiser) == {"best_of_n", "tilt"}
        and (tmp_path / "out" / "figure.png").stat().st_size > 5000
    )


def test_a_bad_table_is_one_line_and_exit_code_2(tmp_path, capsys):
    pairs_table(5).to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "pairs.csv"), "--label", "stars"])
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2 and error.startswith("rmlab: ") and "stars" in error and error.count("\n") == 1
    )


def test_the_ten_lines_without_python(place, tmp_path, monkeypatch, capsys):
    """Each command reads what the one before wrote."""
    monkeypatch.chdir(place)
    out = {name: str(tmp_path / name) for name in ("judges", "pool", "run")}
    fit = ["fit", "my-backbone", "my-pairs.parquet", "--k", "3", "--lr", "1e-3", "--group", "topic"]
    main([*fit, "--out", out["judges"]])
    text = capsys.readouterr().out
    assert "How often right" in text and "bag of words" in text and "kept" in text
    held_out = str(tmp_path / "judges-test.jsonl")
    split = rmlab.Preferences.read("my-pairs.parquet", group="topic").split(0.2)[1]
    assert rmlab.Preferences.read(held_out, group="group").prompts == split.prompts
    main(["report", held_out, "--judges", out["judges"], "--out", str(tmp_path / "report")])
    assert (tmp_path / "report" / "measures.csv").is_file()
    sizes = ["--prompts", "3", "--n", "8", "--max-new-tokens", "8"]
    main(["sample", "my-policy", held_out, *sizes, "--out", out["pool"]])
    main(["score", out["pool"], "--judges", out["judges"], "--gold", "my-gold-rm"])
    assert "24 answers scored by 3 members and gold" in capsys.readouterr().out
    for optimiser in ("best_of_n", "tilt"):
        main(["curve", out["pool"], "--optimiser", optimiser])
        assert (tmp_path / "pool" / f"{optimiser}.png").stat().st_size > 5000
    small = ["--ppo.steps", "2", "--ppo.batch", "8", "--ppo.max-new-tokens", "8"]
    ppo = ["ppo", "my-policy", "my-pairs.parquet", "--judges", out["judges"], *small, "--out", out["run"]]
    main(ppo)
    first = capsys.readouterr().out
    main(ppo)  # goes on from its end
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]
    assert len(pd.read_csv(tmp_path / "run" / "rows.csv")) == 3


def test_options_for_large_models(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    fit = ["fit", "my-backbone", "my-pairs.parquet", "--method", "lora", "--k", "2", "--lr", "1e-4"]
    memory = ["--micro-batch", "8", "--checkpointing", "--max-grad-norm", "1.0", "--precision", "bf16"]
    scores = []
    for name, options in (("plain", []), ("small", memory)):
        main([*fit, *options, "--out", str(tmp_path / name)])
        scores.append(rmlab.load(tmp_path / name).score(["One?"] * 3, ["Yes.", "No.", "Yes, warm and kind."]))
    np.testing.assert_allclose(*scores, atol=0.2)  # half precision, in standard deviations
    assert scores[0].tolist() != scores[1].tolist()
    small = ["--ppo.steps", "1", "--ppo.batch", "4", "--ppo.max-new-tokens", "4", "--lora", "2"]
    judges = ["--judges", str(tmp_path / "small"), "--out", str(tmp_path / "run")]
    main(["ppo", "my-policy", "my-pairs.parquet", *judges, *small])
    assert "KL" in capsys.readouterr().out and (tmp_path / "run" / "policy" / "config.json").is_file()


def test_progress_ends_at_the_last_step_with_nothing_left(monkeypatch, capsys):
    seconds = iter(range(0, 10_000, 20))
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(seconds))
    on_step = commands.steps_left(3)
    for step in (1, 2, 3):  # goes on from its folder; step 3 measures and updates nothing
        on_step(step)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2 of 3", "step 3 of 3", "step 3 of 3"]
    assert [line.split()[-3] for line in lines] == ["0.7", "0.3", "0.0"]


def test_a_folder_that_cannot_be_written_to_is_named_before_the_training(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    monkeypatch.setattr("rmlab.workbench.judges.fit", lambda *_, **__: pytest.fail("it was trained first"))
    (tmp_path / "mine").write_text("not ours")
    with pytest.raises(SystemExit) as left:
        main(["fit", "my-backbone", "my-pairs.parquet", "--out", str(tmp_path)])
    assert left.value.code == 2 and "give an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "report", "sample", "score", "curve", "ppo"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and f"rmlab {command} " in capsys.readouterr().out


def test_what_cannot_run_is_one_line(place, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["curve", str(tmp_path)])
    assert left.value.code == 2 and "rmlab: folder = " in capsys.readouterr().err
