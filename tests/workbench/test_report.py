"""The report: 80 columns, every table shape, what it warns of, what it saves."""

from __future__ import annotations

import builtins

import numpy as np
import pandas as pd
import pytest

from rmlab.workbench.scores import Scores
from tests.workbench.fake_tables import MEMBERS, pairs_table, pool_table, wide_table


@pytest.fixture(scope="module")
def report():
    return Scores.read(pairs_table(), label="votes", length="words", group="topic").report()


def test_a_person_can_read_it(report):
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    for phrase in (
        "700 rows read, all used: 350 pairs, 5 members",
        "columns not used: source",
        "t over 70 clusters (groups)",
        "standard deviation 1 over all 700 answers",
        "better than longer answers alone",
        "the best member",
        "independent ones",
        "preferred is shorter",
    ):
        assert phrase in " ".join(text.split())


def test_what_is_printed_is_in_the_rows(report):
    rows = report.rows()
    at = rows[(rows.measure == "accuracy") & (rows.part == "all")].set_index("scorer")
    lines = {line.split()[0]: line for line in str(report).splitlines() if line}
    first = str(report).split("How often right")[1]
    for name in (*MEMBERS, "mean", "median", "longer"):
        assert f"{at.value[name]:.3f}".lstrip("0") in next(
            x for x in first.splitlines() if x.startswith(name)
        )
    assert lines and not any(rows.low > rows.value) and rows is not report.rows()


@pytest.mark.parametrize("gold", [True, False])
def test_pools_have_curves(gold):
    table = pool_table(30, 32)
    scores = Scores.read(table, gold="gold") if gold else Scores.read(table.drop(columns="gold"))
    report = scores.report()
    text = " ".join(str(report).split())
    assert f"judged by {'gold' if gold else 'held-out members'}, at n = 4 (13 effective answers" in text
    assert max(map(len, str(report).splitlines())) <= 80 and ("No gold:" in text) is not gold
    assert ("nothing here says who is right" in text) is not gold and report.reliability is None
    assert set(report.curves.units) == {30}
    tilted = report.curves[(report.curves.optimiser == "tilt") & (report.curves.aggregator == "min")]
    read = tilted[tilted.kl.round(6) == 0.5].iloc[0]
    assert "Tilted exactly to a KL of 0.50 nats: ann" in text and f"min {read.gold:.2f}," in text


def test_pairs_in_a_row_and_one_member_alone():
    assert "350 rows read, all used: 350 pairs" in str(Scores.read(wide_table()).report())
    alone = Scores.read(pool_table(10, 4)[["prompt", "answer", "ann"]]).report()
    assert (
        "Nothing to hold one member against" in str(alone) and alone.rows().empty and alone.figure() is None
    )
    one = Scores.read(pairs_table(40), label="votes", members=["ann"]).report()
    assert "err together" not in str(one) and one.figure() is not None


def test_warnings():
    table = pairs_table(60).assign(eve=lambda t: -t.eve, dan=lambda t: t.cat, bob=lambda t: 40 * t.bob)
    text = " ".join(str(Scores.read(table, label="votes").report()).split())
    assert "eve is wrong more often than right" in text and "cat and dan are copies" in text
    assert "scores of bob" in text and "hardly log odds" in text
    few = pairs_table(60).assign(topic=np.repeat(np.arange(5), 24))
    text = " ".join(str(Scores.read(few, label="votes", group="topic").report()).split())
    assert "only 5 groups: intervals are wide; leave the group out" in text
    whole = pairs_table(60).assign(topic="one")
    assert "one cluster: no intervals" in str(
        Scores.read(whole, label="votes", group="topic", length="words").report()
    )


def test_a_length_that_was_read_as_a_member_is_pointed_out():
    table = pairs_table(60)
    text = " ".join(str(Scores.read(table, label="votes", group="topic").report()).split())
    words = f"! words: whole numbers up to {table.words.max()}, and read as scores; if they are lengths"
    assert words in text
    rated = table.assign(ann=lambda t: (t.ann > 0) * 9 + 1).drop(columns="words")  # a judge from 1 to 10
    assert "whole numbers" not in str(Scores.read(rated, label="votes").report())


def test_a_member_that_never_errs_is_left_out_of_correlations():
    table = pairs_table(60).assign(ann=lambda t: 3.0 * t.votes)
    report = Scores.read(table, label="votes", length="words").report()
    assert "4 members of 5, the rest never err" in " ".join(str(report).split())
    rows = report.rows().set_index("measure")
    assert rows.k["shared_error"] == 4 and len(rows.loc["error_correlation"]) == 6
    table["bob"] = 2 * table.ann
    perfect = Scores.read(table, label="votes", members=["ann", "bob"]).report()
    assert "fewer than two members err at all" in str(perfect)


def test_no_warning_without_a_cause(report):
    assert not [line for line in str(report).splitlines() if line.startswith("!")]


def test_a_folder_holds_everything(report, tmp_path):
    written = {path.name for path in report.save(tmp_path / "out")}
    assert written == {"report.txt", "measures.csv", "reliability.csv", "figure.png"}
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out" / "measures.csv", keep_default_na=False, na_values=[""])[
            ["value", "low", "units"]
        ],
        report.rows()[["value", "low", "units"]],
    )
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "report.txt").read_text("utf-8") == str(report) + "\n"


def test_without_matplotlib_the_rows_are_written_all_the_same(report, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kw):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("no matplotlib", name="matplotlib")
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert {path.name for path in report.save(tmp_path)} == {"report.txt", "measures.csv", "reliability.csv"}
