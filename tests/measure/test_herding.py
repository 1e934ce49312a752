"""Planted errors are told apart at the winners; correlations of tails and agreement against their slow forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.diversity import effective_members, mean_off_diagonal
from rmlab.measure.ensembles import StudyScores
from rmlab.measure.errors import error_correlation, tail_error_correlation
from rmlab.measure.herding import (
    COLUMNS,
    herding,
    split_gap,
    strangers_of,
    tail_correlations,
    unanimity,
)
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.winners import member_errors
from rmlab.optimise.best_of_n import best_of_n, n_grid
from tests.measure.fake_scores import grid, in_step, only, with_copies
from tests.measure.planted import BACKBONE, LABELS, OWN, SLOPE, largest_of, planted

N, UNENDED = 256, 0.1
ENSEMBLES = {
    "finetune3": [(0, 0), (0, 1), (0, 2)],
    "pretrain3": [(0, 0), (1, 0), (2, 0)],
    "grid4": [(0, 0), (0, 1), (1, 0), (1, 1)],
}


@pytest.fixture(scope="module")
def table():
    return rows_of(planted(ENSEMBLES, draws=8, P=50, N=N, unended=UNENDED)).set_index(
        ["ensemble", "aggregator", "n"]
    )


def rows_of(scores):
    return herding(scores)["herding"]


def test_planted_shared_and_idiosyncratic_errors_are_recovered(table):
    """Gaussian winners: an error whose covariance with the score is C is C / S x m(n) there. Within 5%."""
    both = LABELS + BACKBONE
    parts = {"finetune3": (both, OWN, LABELS), "pretrain3": (LABELS, BACKBONE + OWN, LABELS)}
    for name, (shared, apart, stranger) in parts.items():
        S, S3 = (np.sqrt(SLOPE**2 + shared + apart / k) for k in (2, 3))
        for n in (4, 16, 64):
            row, m = table.loc[(name, "mean", n)], largest_of(n, UNENDED)
            known = {
                "gap": (shared + apart / 3) / S3 * m,
                "score": S3 * m,
                "own": (shared + apart / 2) / S * m,
                "shared": shared / S * m,
                "idiosyncratic": apart / 2 / S * m,
                "stranger": stranger / S * m,
                "shared_share": shared / (shared + apart / 2),
            }
            for column, value in known.items():
                assert row[column] == pytest.approx(value, rel=0.05), (name, n, column)
                assert row[f"{column}_low"] < row[column] < row[f"{column}_high"]
        assert table.loc[(name, "mean", N)].shared_low < shared / S * largest_of(N, UNENDED)
        assert table.loc[(name, "mean", N)].shared_high > shared / S * largest_of(N, UNENDED)


def test_a_member_of_a_grid_is_read_beside_its_sibling(table):
    """Left out of 2 x 2, a member shares its backbone with one of three choosers."""
    covariance = LABELS + BACKBONE / 3
    S = np.sqrt(SLOPE**2 + LABELS + BACKBONE * 5 / 9 + OWN / 3)
    row = table.loc[("grid4", "mean", 16)]
    assert row.shared == pytest.approx(covariance / S * largest_of(16, UNENDED), rel=0.05)
    assert row.stranger == pytest.approx(LABELS / S * largest_of(16, UNENDED), rel=0.05)  # the third backbone


def test_before_any_choice_there_is_no_gap(table):
    first = table.xs(1, level="n")
    names = ["score", "gap", "own", "shared", "idiosyncratic", "stranger"]
    assert (first[names].to_numpy() == 0).all() and first.shared_share.isna().all()
    assert (first.unanimous == 1).all()


def test_under_the_min_members_that_did_not_choose_are_read_too(table):
    mean, least = (table.xs(rule, level="aggregator").loc["finetune3"].loc[64] for rule in ("mean", "min"))
    assert least.own == pytest.approx(least.shared + least.idiosyncratic)
    assert least.shared == pytest.approx(mean.shared, rel=0.15) and least.gap > least.own


def test_correlations_are_planted_ones_at_every_size_of_the_tail(table):
    both = (LABELS + BACKBONE) / (LABELS + BACKBONE + OWN)
    for n in (1, 8, 32):
        row = table.loc[("finetune3", "mean", n)]
        assert row.corr_error == pytest.approx(both, abs=0.04)
        assert row.corr_error_low < row.corr_error < row.corr_error_high
        assert row.effective_error == pytest.approx(3 / (1 + 2 * both), rel=0.05)
        assert row.effective_error_low < row.effective_error < row.effective_error_high
    assert np.isnan(table.loc[("finetune3", "mean", 64)].corr_error)  # four answers


def test_a_split_is_best_of_n_of_each_that_is_left_out():
    scores = in_step(1)
    e = next(e for e in scores.ensembles if e.name == "finetune3")
    ended = np.ones_like(scores.ended)
    left = member_errors(e.pool, scores.gold, ended)
    strangers = [np.random.default_rng(4).normal(size=scores.gold.shape) for _ in range(3)]
    for rule, choose in (("mean", np.mean), ("min", np.min)):
        found = split_gap(e.pool, left, strangers, ended, rule)
        for i in range(3):
            each = []
            for k in range(3):
                others = [j for j in range(3) if j != k]
                value = [left[..., others].mean(-1), left[..., k], strangers[k]][i]
                each.append(best_of_n(choose(e.pool[..., others], -1), value, n_grid(64)))
            np.testing.assert_allclose(found[..., i], np.mean(each, 0), atol=1e-6)
        assert np.isnan(split_gap(e.pool, left, [*strangers[:2], None], ended, rule)[..., 2]).all()
    with pytest.raises(ValueError, match="K = 1"):
        split_gap(e.pool[..., :1], left[..., :1], [None], ended, "mean")
    with pytest.raises(ValueError, match="strangers"):
        split_gap(e.pool, left, [None], ended, "mean")


def test_the_shared_part_is_what_all_believe_whatever_the_distributions():
    """Rare large shared errors, heavy-tailed errors of each: a member that did not choose reads the shared ones."""
    rng = np.random.default_rng(9)
    P, N, K = 400, 128, 3
    gold, ended = rng.normal(size=(P, N)), np.ones((P, N), bool)
    believed = (rng.random((P, N, 1)) < 0.03) * 3.0 + rng.exponential(0.5, (P, N, 1))
    pool = gold[..., None] + believed + 0.5 * rng.standard_t(3, (P, N, K))
    left, true = (member_errors(x, gold, ended) for x in (pool, believed))
    for rule in ("mean", "min"):
        own, shared, known = np.moveaxis(split_gap(pool, left, [true[..., 0]] * K, ended, rule), -1, 0)
        off = two_way_interval((shared - known)[None], level=0.999)
        assert (off.low < 1e-9).all() and (off.high > -1e-9).all()
        np.testing.assert_allclose(shared.mean(0)[2:], known.mean(0)[2:], rtol=0.06)
        assert (own.mean(0)[3:] > 1.1 * known.mean(0)[3:]).all()  # those that chose overrate by more


def test_strangers_stand_on_backbones_that_no_chooser_has():
    scores = grid(1, 3, 2)
    singles = scores.singles
    errors = {m.id: np.full((2, 2), float(10 * m.backbone + m.finetune)) for m in singles}
    by_place = {(m.backbone, m.finetune): m for m in singles}
    seeds, ring = [by_place[0, f] for f in (0, 1)], [by_place[p, 0] for p in (0, 1, 2)]
    heads = next(m for m in scores.members if m.method == "heads" and m.backbone == 1)
    for parts, values in (
        (seeds, [15.5, 15.5]),  # backbones 1 and 2
        (ring, [0.5, 10.5, 20.5]),  # that of the one left out
        ([heads], [10.5] * heads.k),  # 0 and 2: a part of several heads goes on choosing
        ([by_place[0, 0], heads], [np.mean([0, 1, 20, 21]), *[20.5] * heads.k]),
    ):
        assert [s.mean() for s in strangers_of(parts, singles, errors)] == values
    assert strangers_of([*seeds, *ring[1:], by_place[1, 1], by_place[2, 1]], singles, errors) == [None] * 6


def test_tails_of_every_size_are_those_of_errors_py():
    rng = np.random.default_rng(5)
    common = rng.normal(size=(6, 64, 1))
    left, ended = common + rng.normal(size=(6, 64, 3)), rng.random((6, 64)) < 0.8
    ended[2] = False
    ended[3, 1:] = False
    left = member_errors(left, rng.normal(size=(6, 64)), ended)
    proxy = left.mean(-1) + rng.normal(size=(6, 64)) + np.arange(6)[:, None]
    found = tail_correlations(left, proxy, ended, [64, 32, 8, 7])
    prompts, rows = np.nonzero(ended)[0], left[ended]
    slow = [tail_error_correlation(rows, proxy[ended], prompts, top) for top in (64, 32, 8)]
    np.testing.assert_allclose(found[:3], [mean_off_diagonal(c) for c in slow], rtol=1e-10)
    assert np.isnan(found[3])
    assert mean_off_diagonal(error_correlation(rows)) == pytest.approx(found[0])
    assert not np.isclose(found[0], found[2])  # a tail of its own


def test_unanimity_is_counted_block_by_block():
    rng = np.random.default_rng(6)
    pool, ended = (
        (rng.normal(size=(3, 22, 1)) + rng.normal(size=(3, 22, 3))).round(1),
        rng.random((3, 22)) < 0.7,
    )
    ended[0, :16] = False
    found = unanimity(pool.astype(np.float32), ended)
    assert found.shape == (3, 5)
    for p in range(3):
        for i, n in enumerate((1, 2, 4, 8, 16)):
            same = []
            for block in range(22 // n):
                at = np.arange(block * n, block * n + n)
                at = at[ended[p, at]]
                if len(at):
                    same.append(len({at[pool[p, at, k].argmax()] for k in range(3)}) == 1)
            np.testing.assert_allclose(found[p, i], np.mean(same) if same else np.nan)


def test_members_that_know_nothing_of_each_other_agree_by_chance():
    pool = np.random.default_rng(8).normal(size=(40, 1024, 3))
    found = unanimity(pool, np.ones((40, 1024), bool)).mean(0)
    np.testing.assert_allclose(found[:4], [1, 2**-2, 4**-2, 8**-2], rtol=0.1)


def test_copies_share_all_that_they_believe():
    scores = only(with_copies(in_step()), "single", "copies5")
    table = rows_of(scores)
    assert set(table.ensemble) == {"copies5"}
    last = table[(table.n == 64) & (table.aggregator == "mean")].iloc[0]
    assert last.gap > 1 and last.own == pytest.approx(last.shared) == pytest.approx(last.gap)
    assert last.shared_share == pytest.approx(1) and abs(last.idiosyncratic) < 1e-6
    assert table.effective_error.dropna().eq(1).all() and table.unanimous.eq(1).all()


def test_instances_of_a_replicate_are_averaged_before_the_interval():
    scores = only(grid(), "single", "heads4")
    table, found = rows_of(scores), []
    for e in (e for e in scores.ensembles if e.name == "heads4"):
        proxy = e.pool.mean(-1)
        left = member_errors(proxy[..., None], scores.gold, scores.ended)[..., 0]
        found.append(best_of_n(proxy, left, [64], scores.ended))
    x = np.reshape(found, (2, 3, -1)).mean(1)  # (D, P)
    row = table[(table.aggregator == "mean") & (table.n == 64)].iloc[0]
    np.testing.assert_allclose([row.gap, row.gap_low, row.gap_high], two_way_interval(x)[:3], rtol=1e-6)
    assert row.units == 2 and row.covers == "replicates and prompts"


def test_a_study_without_two_replicates_or_members_has_a_table_too():
    alone = rows_of(in_step(1))
    assert (alone.units == 1).all() and alone.corr_error_low.isna().all() and alone.gap_low.notna().all()
    r = alone.corr_error.iloc[0]
    assert alone.effective_error.iloc[0] == pytest.approx(effective_members(np.where(np.eye(5), 1.0, r)))
    empty = rows_of(only(in_step(), "single"))
    assert empty.empty and list(empty) == COLUMNS and set(COLUMNS) <= set(alone)


def test_prompts_where_nothing_ended_are_left_out():
    scores = in_step()
    ended = scores.ended.copy()
    ended[5] = False
    kept = np.delete(np.arange(len(ended)), 5)
    short = [replace(m, pool=m.pool[kept]) for m in scores.members]
    by_id = {m.id: m for m in short}
    ensembles = [
        replace(e, parts=tuple(by_id[p.id] for p in e.parts), rivals=tuple(by_id[p.id] for p in e.rivals))
        for e in scores.ensembles
    ]
    without = StudyScores(scores.recipe, short, ensembles, scores.gold[kept], scores.ended[kept])
    both = [rows_of(only(s, "single", "lora2", "heads5")) for s in (replace(scores, ended=ended), without)]
    for column in both[0].select_dtypes("number"):
        np.testing.assert_allclose(both[0][column], both[1][column], atol=1e-9)


def test_an_ensemble_rule_and_n_is_a_row(table):
    assert table.index.is_unique and len(table) == 3 * 2 * 9


def test_replicates_are_what_the_means_are_made_of():
    tables = herding(planted(ENSEMBLES, draws=3, P=8, N=256))
    keys = ["ensemble", "aggregator", "n"]
    means = tables["herding_replicates"].groupby(keys).mean(numeric_only=True)
    whole = tables["herding"].set_index(keys).loc[means.index]
    assert set(means.reset_index().n) == {1, 64, 256}
    for column in ("own", "shared", "idiosyncratic", "unanimous", "corr_error"):
        assert np.allclose(means[column], whole[column], equal_nan=True)
