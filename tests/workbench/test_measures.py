"""Rows of a table whose accuracy, shared error and gold are planted."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.accuracy import accuracy
from rmlab.workbench import measures
from rmlab.workbench.scores import Scores
from tests.workbench.fake_tables import ACCURACY, MEMBERS, RHO, pairs_table, pool_table


@pytest.fixture(scope="module")
def scores():
    return Scores.read(pairs_table(), label="votes", length="words", group="topic")


@pytest.fixture(scope="module")
def rows(scores):
    return measures.accuracy_rows(scores)


def pick(rows, measure, scorer, part="all", rival=None):
    at = rows[(rows.measure == measure) & (rows.scorer == scorer) & (rows.part == part)]
    at = at if rival is None else at[at.rival == rival]
    assert len(at) == 1
    return at.iloc[0]


def test_members_have_their_planted_accuracy(rows):
    for name in MEMBERS:
        row = pick(rows, "accuracy", name)
        assert row.low < row.value < row.high and abs(row.value - ACCURACY) < 0.05
        assert (row.units, row.pairs, row.kind) == (70, 350, "member")
    mean = pick(rows, "accuracy", "mean")
    assert mean.value > ACCURACY and mean.k == 5 and mean.kind == "aggregator"


def test_rows_equal_the_measurements_on_arrays(scores, rows):
    pairs = scores.pairs()
    for k, name in enumerate(MEMBERS):
        margins = scores.values[pairs.first, k] - scores.values[pairs.second, k]
        expected = accuracy(margins, pairs.labels, pairs.clusters)
        row = pick(rows, "accuracy", name)
        assert (row.value, row.low, row.high, row.units) == expected
    means = scores.values.std(0).mean() * scores.aligned().mean(1)
    np.testing.assert_allclose(next(s for s in measures.scorers(scores) if s.name == "mean").score, means)


def test_every_scorer_but_length_is_measured_and_compared(rows):
    per_scorer = rows[rows.part == "all"].groupby("scorer").measure.agg(sorted)
    whole = ["accuracy", "brier", "calibration_error", "difference", "ece", "log_loss", "temperature"]
    assert per_scorer["longer"] == ["accuracy"] and per_scorer["ann"] == whole
    assert all(per_scorer[a] == sorted([*whole, "difference"]) for a in measures.AGGREGATORS)
    beats = pick(rows, "difference", "mean", rival="longer answers alone")
    assert beats.low > 0 and beats.verdict == "better than longer answers alone"
    best = pick(rows, "difference", "mean", rival=measures.BEST)
    assert best.low < best.value < best.high and best.verdict.endswith(measures.BEST)


def test_length_is_taken_the_way_round_that_is_right(scores):
    table = pairs_table()
    short = measures.accuracy_rows(
        Scores.read(table.assign(words=-table.words), label="votes", length="words")
    )
    assert (
        pick(short, "accuracy", "shorter").value
        == pick(measures.accuracy_rows(scores), "accuracy", "longer").value
    )


def test_parts_add_up(rows):
    for name in ("ann", "mean", "longer"):
        whole = pick(rows, "accuracy", name)
        for stem in ("preferred", "group"):
            parts = rows[
                (rows.measure == "accuracy") & (rows.scorer == name) & rows.part.str.startswith(stem)
            ]
            assert parts.pairs.sum() == 350
            assert (parts.value * parts.pairs).sum() == pytest.approx(whole.value * 350)
    assert pick(rows, "accuracy", "longer", measures.SHORTER).value == 0
    assert pick(rows, "accuracy", "longer", measures.LONGER).value == 1


def test_pairs_without_a_majority_count_for_losses_alone():
    table = pairs_table(60).astype({"votes": float})
    table.loc[:19, "votes"] = 0.5
    rows = measures.accuracy_rows(Scores.read(table, label="votes", length="words"))
    assert pick(rows, "accuracy", "ann").pairs == 50 and pick(rows, "log_loss", "ann").pairs == 60


def test_errors_correlate_as_planted(scores):
    rows = measures.error_rows(scores)
    shared = pick(rows, "shared_error", "all")
    assert (
        shared.value == pytest.approx(RHO, abs=0.06) and shared.low < RHO < shared.high and shared.units == 70
    )
    assert (rows.measure == "error_correlation").sum() == 10
    effective = pick(rows, "effective_members", "all")
    assert effective.low < 5 / (1 + 4 * RHO) < effective.high
    assert pick(rows, "wrong_together", "all").low > pick(rows, "wrong_apart", "all").value


def test_one_member_has_no_aggregators_and_no_rival():
    rows = measures.accuracy_rows(Scores.read(pairs_table(40), label="votes", members=["ann"]))
    assert set(rows.scorer) == {"ann"} and "difference" not in set(rows.measure)


def test_a_pool_has_curves_and_no_fall_where_members_err_at_random():
    scores = Scores.read(pool_table(), gold="gold")
    curves, rows = measures.pool_curves(scores)
    assert set(rows.judge) == {"gold"} and set(rows.ensemble) == {"all", *MEMBERS[:3]}
    falls = measures.fall_rows(scores, curves)
    assert len(falls) == 7 and not (falls.verdict == "falls").any()
    unlabelled = Scores.read(pool_table(10, 8).drop(columns="gold"))
    assert set(measures.pool_curves(unlabelled)[1].judge) == {"held-out members"}
    accuracy_rows = measures.accuracy_rows(scores)
    assert pick(accuracy_rows, "accuracy", "mean").value > pick(accuracy_rows, "accuracy", "ann").value
