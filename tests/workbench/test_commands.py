"""`rmlab report` from end to end."""

from __future__ import annotations

import pandas as pd
import pytest

from rmlab.cli import main
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


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["report", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "rmlab report pairs.csv --label votes" in text and "--gold" in text
