"""A synthetic league: gold plus member errors of a chosen correlation, brute force, copies, and the tables."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from rmlab.measure import league as module
from rmlab.measure.intervals import percentile_interval
from rmlab.measure.league import Line, cost_cards, differences, league, members, play, summary, write
from rmlab.optimise.best_of_n import best_of_n
from rmlab.reward.aggregate import aggregate

P, N, S, M = 12, 64, 3, 200
KEY = ["name", "aggregator", "pessimism"]


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    gold, ended = rng.normal(size=(P, N)), rng.random((P, N)) < 0.9
    kinds = {"single": ("single", 1, 0.4), "finetune5": ("finetune", 5, 0.4), "finetune3": ("finetune", 3, 0.4),
             "heads5": ("heads", 5, 0.9), "lora2": ("lora", 2, 0.7), "average": ("average", 1, 0.4)}  # fmt: skip
    lines = []
    for r in range(S):
        shared, shared_out = rng.normal(size=(P, N, 1)), rng.normal(size=(M, 2, 1))
        for name, (kind, k, rho) in kinds.items():

            def noise(common, k=k, rho=rho):
                own = rng.normal(size=(*common.shape[:2], k))
                return np.sqrt(rho) * common + np.sqrt(1 - rho) * own

            pool = (gold[..., None] + noise(shared)).astype(np.float32)
            heldout = (np.array([[[0.7], [0]]]) + noise(shared_out)).astype(np.float32)
            cost = {"parameters": 100 * k, "train_seconds": 2.0 * k + r, "peak_mb": 50}
            heads = rng.normal(size=(k, 8)) if kind == "heads" else None
            lines.append(Line(name, kind, r, pool, heldout, cost, heads))
    return lines, gold, ended


@pytest.fixture(scope="module")
def board(world):
    return play(*world, S)


def with_copies(lines):
    def copy(x):
        return dataclasses.replace(
            x, name="copies5", pool=np.repeat(x.pool[..., :1], 5, -1), heads=np.ones((5, 8)),
            heldout=np.repeat(x.heldout[..., :1], 5, -1),
        )  # fmt: skip

    return [*lines, *(copy(x) for x in lines if x.name == "heads5")]


def test_every_row_of_the_league_is_there(board):
    table = league(board)
    got = {tuple(r) for r in table[KEY].drop_duplicates().itertuples(index=False)}
    paper = ("mean", "median", "min", "mean_std", "uwo")
    expected = {(n, "mean", "paper") for n in ("single", "average")}
    for n in ("finetune5", "finetune3", "heads5", "lora2"):
        expected |= {(n, h, "paper") for h in paper} | {(n, h, "matched") for h in ("min", "mean_std", "uwo")}
    assert got == expected
    assert (table.groupby(KEY).n.apply(list).map(tuple) == (1, 2, 4, 8, 16, 32, 64)).all()
    assert (table.units == S).all()
    assert list(table) == [
        *("name", "kind", "k", "aggregator", "pessimism", "lam", "penalty", "n", "kl", "kl_name"),
        *(w + e for w in ("gold", "proxy", "gain") for e in ("", "_lo", "_hi")),
        "units",
    ]  # fmt: skip
    assert not table.drop(columns="lam").isna().any().any()


def test_matched_penalties_are_all_the_target_on_every_line(world, board):
    lines, _, ended = world
    gaps = [(x.pool.mean(-1) - x.pool.min(-1))[ended].mean() for x in lines if x.name == "finetune5"]
    assert board.target == pytest.approx(np.mean(gaps), rel=1e-5)
    matched = league(board).query("pessimism == 'matched'")
    np.testing.assert_allclose(matched.penalty, board.target, rtol=1e-5)
    # and on each line of its own, not on average alone
    for x in lines:
        if x.k > 1:
            own = module._scores(x, ended, board.target)
            sizes = [(x.pool.mean(-1) - s)[ended].mean() for _, p, *_, s in own if p == "matched"]
            np.testing.assert_allclose(sizes, board.target, rtol=1e-4)


def test_matching_the_reference_to_itself_changes_little_and_weak_penalties_are_strengthened(board):
    lam = league(board).drop_duplicates(KEY).set_index(KEY).lam
    assert lam["finetune5", "min", "matched"] == pytest.approx(1, abs=0.05)
    assert lam["heads5", "min", "matched"] > 2  # heads differ less
    assert lam["heads5", "min", "paper"] == lam["heads5", "mean_std", "paper"] == 1
    assert np.isnan(lam["heads5", "median", "paper"])


def test_a_given_target_is_used(world):
    board = play(*world, S, target=0.25)
    matched = league(board).query("pessimism == 'matched'")
    np.testing.assert_allclose(matched.penalty, 0.25, rtol=1e-5)


def test_curves_equal_best_of_n_line_by_line(world, board):
    lines, gold, ended = world
    single = {
        x.replicate: best_of_n(x.pool[..., 0], gold, board.ns, ended)
        for x in lines
        if x.k == 1 and x.name == "single"
    }
    for how in ("mean", "median", "min", "mean_std", "uwo"):
        e = board.entries["lora2", how, "paper"]
        for u, x in enumerate(x for x in lines if x.name == "lora2"):
            proxy = aggregate(x.pool, how)
            curve = best_of_n(proxy, gold, board.ns, ended)
            np.testing.assert_array_equal(e.gold[u], curve)
            np.testing.assert_array_equal(e.proxy[u], best_of_n(proxy, proxy, board.ns, ended))
            np.testing.assert_array_equal(e.gain[u], curve - single[x.replicate])


def test_a_matched_score_is_the_mean_minus_a_scaled_penalty(world, board):
    lines, gold, ended = world
    e = board.entries["heads5", "uwo", "matched"]
    for u, x in enumerate(x for x in lines if x.name == "heads5"):
        s = x.pool.astype(np.float64)
        lam = board.target / s.var(-1)[ended].mean()
        np.testing.assert_allclose(
            e.gold[u], best_of_n(s.mean(-1) - lam * s.var(-1), gold, board.ns, ended), atol=1e-3
        )
    assert e.lam == pytest.approx(
        np.mean([board.target / x.pool.var(-1)[ended].mean() for x in lines if x.name == "heads5"]), rel=1e-4
    )


def test_the_single_model_gains_exactly_nothing(board):
    rows = league(board).query("name == 'single'")
    assert (rows[["gain", "gain_lo", "gain_hi"]] == 0).all().all()


def test_bands_contain_their_points(board):
    table = league(board)
    for what in ("gold", "proxy", "gain"):
        assert (table[f"{what}_lo"] <= table[what]).all() and (table[what] <= table[f"{what}_hi"]).all()
    found = differences(board)
    assert ((found.lo <= found["diff"]) & (found["diff"] <= found.hi)).all()


def test_ensembles_of_independent_members_gain_more_than_copies_would(board):
    end = league(board).query("n == 64 and aggregator == 'mean'").set_index("name").gain
    assert end["finetune5"] > end["heads5"]


def test_answers_that_never_end_win_nothing(world):
    lines, gold, ended = world
    bait = [
        dataclasses.replace(x, pool=x.pool + np.where(ended, 0, 99)[..., None].astype("f4")) for x in lines
    ]
    a, b = play(lines, gold, ended, S), play(bait, gold, ended, S)
    # at n = N an answer that ends always wins; the penalty never saw the others
    for key in a.entries:
        np.testing.assert_allclose(a.entries[key].gold[..., -1], b.entries[key].gold[..., -1], atol=1e-6)
        assert a.entries[key].penalty == pytest.approx(b.entries[key].penalty, rel=1e-4)


def test_copies_have_no_penalty_to_match(world):
    lines, gold, ended = world
    lines = with_copies(lines)
    board = play(lines, gold, ended, S)
    assert {k[1:] for k in board.entries if k[0] == "copies5"} == {
        (h, "paper") for h in ("mean", "median", "min", "mean_std", "uwo")
    }
    out = board.left_out
    assert list(out.aggregator) == ["min", "mean_std", "uwo"] and (out.name == "copies5").all()
    assert out.lam.isna().all() and out.reason.str.startswith("members are copies").all()
    rows = league(board).query("name == 'copies5' and n == 64")
    np.testing.assert_allclose(rows.gold, rows.gold.iloc[0], atol=1e-6)
    table = members(lines, ended, gold=gold).set_index("name")
    row = table.loc["copies5"]
    assert row.worth_min == pytest.approx(0, abs=1e-9) and row.worth_mean == pytest.approx(0, abs=1e-9)
    assert table.loc["finetune5", "worth_min"] != 0 and np.isnan(table.loc["single", "worth_min"])
    assert row.effective == pytest.approx(1) and row.effective_tail == pytest.approx(1)
    assert row.head_rank == pytest.approx(1) and row.head_angle == pytest.approx(0, abs=1e-6)
    assert row.verdict == "5 heads, 1.0 effective: they are copies"


def test_differences_are_paired_and_named(world, board):
    found = differences(board)
    assert list(found) == ["one", "other", "n", "diff", "lo", "hi"]
    assert set(found.n) == {4, 64}
    pairs = set(zip(found.one, found.other, strict=True))
    assert len(found) == 2 * len(pairs)  # no pair twice
    assert pairs >= {
        ("heads5 mean", "finetune5 mean"),
        ("heads5 min", "finetune5 mean"),
        ("lora2 mean_std", "finetune5 mean"),
        ("heads5 min", "heads5 mean"),
        ("heads5 min matched", "finetune5 min matched"),
        ("single mean", "finetune5 mean"),
    }
    a, b = (board.entries[n, "mean", "paper"].gold[..., -1:] for n in ("heads5", "finetune5"))
    row = found.query("one == 'heads5 mean' and other == 'finetune5 mean' and n == 64").iloc[0]
    lo, hi = percentile_interval(board.resample.mean(a - b, range(S), [(0,)] * S))
    np.testing.assert_allclose([row["diff"], row.lo, row.hi], [(a - b).mean(), lo[0], hi[0]])


def test_chosen_pairs(board):
    one, other = ("lora2", "min", "paper"), ("heads5", "min", "matched")
    found = differences(board, [(one, other), (one, ("nobody", "min", "paper"))])
    assert list(found.one) == ["lora2 min"] * 2 and list(found.other) == ["heads5 min matched"] * 2


def test_a_name_may_miss_a_replicate(world):
    lines, gold, ended = world
    some = [x for x in lines if (x.name, x.replicate) != ("heads5", 1)]
    board = play(some, gold, ended, S)
    e = board.entries["heads5", "min", "paper"]
    assert e.replicates == (0, 2) and (league(board).query("name == 'heads5'").units == 2).all()
    a, b = e.gold[:, :, -1], board.entries["finetune5", "mean", "paper"].gold[[0, 2], :, -1]
    row = differences(board, [(("heads5", "min", "paper"), ("finetune5", "mean", "paper"))]).iloc[-1]
    assert row["diff"] == pytest.approx((a - b).mean())


def test_the_order_of_lines_changes_no_number(world, board):
    lines, gold, ended = world
    a, b = league(board), league(play(lines[::-1], gold, ended, S))
    order = [*KEY, "n"]
    a, b = (t.sort_values(order).reset_index(drop=True) for t in (a, b))
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


def test_members_are_described(world):
    lines, _, ended = world
    table = members(lines, ended, top=16, n=16).set_index("name")
    assert (table.units == S).all()
    assert (table.accuracy >= table.accuracy_one - 1e-9)[table.k > 1].all()
    assert table.loc["single", "effective"] == table.loc["average", "effective_tail"] == 1
    assert table.loc["single", ["corr_margin", "top_agreement", "min_share", "corr_rank"]].isna().all()
    for low, high in (("finetune5", "heads5"),):
        for column in ("corr_margin", "corr_tail", "corr_rank", "top_agreement"):
            assert table.loc[low, column] < table.loc[high, column]
        for column in ("effective", "effective_tail"):
            assert table.loc[low, column] > table.loc[high, column]
    assert table.head_rank.notna().sum() == 1 and 60 < table.loc["heads5", "head_angle"] < 120
    assert (table.loc[table.k > 1, "accuracy_se"] > 0).all()
    assert table.loc["lora2", "verdict"].startswith("2 members")


def test_one_replicate_has_no_standard_error_and_still_a_band(world):
    lines, gold, ended = world
    some = [x for x in lines if x.replicate == 0]
    assert members(some, ended, 16, 16).accuracy_se.isna().all()
    table = league(play(some, gold, ended, 1))
    assert (table.gold_lo < table.gold_hi).all()


def test_cost_cards_take_the_median_and_compare_with_single(world):
    cards = cost_cards(world[0]).set_index("name")
    assert cards.loc["finetune5", "train_seconds"] == 11 and cards.loc["single", "train_seconds"] == 3
    assert cards.loc["finetune5", "train_seconds_x"] == pytest.approx(11 / 3)
    assert (cards.loc["single", ["parameters_x", "train_seconds_x", "peak_mb_x"]] == 1).all()
    assert cards.trained_parameters.isna().all() and cards.trained_parameters_x.isna().all()


def test_tables_are_written_and_summed_up(world, tmp_path):
    lines, gold, ended = world
    lines = with_copies(lines)
    write(tmp_path, lines, gold, ended, S, {"study": "league", "seed": 0})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["costs.csv", "differences.csv", "league.csv", "left_out.csv", "members.csv"]
    for name in names:
        table = pd.read_csv(tmp_path / name)
        assert list(table)[:2] == ["study", "seed"] and len(table)
    text = summary(tmp_path)
    assert text.splitlines()[0] == "Best of n = 64"
    assert all(f"\n{n}" in text for n in {x.name for x in lines})
    row = next(line for line in text.splitlines() if line.startswith("copies5"))
    assert row.endswith("copies") and " - " in row
    again = tmp_path / "again"
    again.mkdir()
    write(again, lines, gold, ended, S, {"study": "league", "seed": 0})
    assert all((again / n).read_bytes() == (tmp_path / n).read_bytes() for n in names)


def test_a_league_of_single_models_needs_no_reference(world):
    lines, gold, ended = world
    board = play([x for x in lines if x.k == 1], gold, ended, S)
    assert np.isnan(board.target) and len(board.entries) == 2


def test_without_finetune5_the_largest_finetune_line_is_matched(world):
    lines, gold, ended = world
    board = play([x for x in lines if x.name != "finetune5"], gold, ended, S)
    gaps = [(x.pool.mean(-1) - x.pool.min(-1))[ended].mean() for x in lines if x.name == "finetune3"]
    assert board.target == pytest.approx(np.mean(gaps), rel=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda L, g, e: (L, g[0], e, S), "gold and ended"),
        (lambda L, g, e: (L, g, e.astype(int), S), "gold and ended"),
        (lambda L, g, e: (L, g, e & False, S), "gold and ended"),
        (lambda L, g, e: (L, g, e, 2), r"single's replicates = \[0, 1, 2\]"),
        (lambda L, g, e: (L, g, e, 0), "replicates = 0"),
        (lambda L, g, e: (L + L[:1], g, e, S), "single's replicates.*at most once"),
        (lambda L, g, e: (L, g[:, :9], e[:, :9], S), "single's pool shapes"),
        (lambda L, g, e: (L[1:], g, e, S), r"replicates without a single model = \[0\]"),
        (lambda L, g, e: ([x for x in L if x.k > 1], g, e, S), "a line 'single' with K = 1"),
        (lambda L, g, e: ([x for x in L if x.kind != "finetune"], g, e, S), "a finetune line with K > 1"),
        (lambda L, g, e: (L, g, e, S, 0, -1.0), "target = -1.0"),
    ],
)
def test_bad_input_is_named(world, change, words):
    with pytest.raises(ValueError, match=words):
        play(*change(*world))


def test_a_reference_of_copies_is_refused(world):
    lines, gold, ended = world
    same = [
        dataclasses.replace(x, pool=np.repeat(x.pool[..., :1], 5, -1)) if x.name == "finetune5" else x
        for x in lines
    ]
    with pytest.raises(ValueError, match="finetune5 = 'copies'"):
        play(same, gold, ended, S)
