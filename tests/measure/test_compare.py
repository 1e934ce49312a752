"""The four tables of a comparison: intervals, ends by hand, paired differences, and which pairs there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.compare import (
    Setting,
    Unit,
    comparisons,
    curve_of,
    curves,
    ends,
    reference_of,
    replicates,
    usual_pairs,
)
from rmlab.measure.inference import fall
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.pool_curves import best_of_n_curves
from tests.measure.fake_scores import P, grid, in_step, only

KEYS = ["ensemble", "method", "k", "aggregator", "pessimism", "strength", "penalty"]
KEYS += ["optimiser", "kl_coef", "step_multiplier"]


@pytest.fixture(scope="module")
def scores():
    return in_step()


@pytest.fixture(scope="module")
def every(scores):
    return best_of_n_curves(scores)[0]


def curve(
    ensemble="lora2", method="lora", k=2, aggregator="mean", gold=None, proxy=None, numbers=None, **setting
):
    """Two prompts, half a unit above and below; one unit a row of gold (U, L), of the replicates in numbers."""
    gold = np.array([[0.0, 1.0]] if gold is None else gold)[:, None] + np.array([[[0.5], [-0.5]]])
    proxy = gold if proxy is None else np.array(proxy)[:, None] + np.zeros((1, 2, 1))
    numbers = range(len(gold)) if numbers is None else numbers
    units, pressure = [Unit(n, f"m{u}") for u, n in enumerate(numbers)], 2 ** np.arange(gold.shape[2])
    blank, s = np.full(len(gold), np.nan), Setting(ensemble, method, k, aggregator, **setting)
    axis = (pressure, np.log(pressure), "nats")
    return curve_of(s, units, axis, {"gold": gold, "proxy": proxy}, blank, blank, {})


def settings(*names, aggregators=("mean", "min"), **regime):
    every = []
    for name in names:
        plain = name.split("_")[0]  # "lora5" of "lora5_top"
        method, k = plain.rstrip("0123456789"), int(plain[-1])
        every += [Setting(name, method, k, aggregator, **regime) for aggregator in aggregators]
    return every


def labels(pairs):
    return {(one.label, other.label) for one, other in pairs}


def test_curves_have_intervals_that_hold_their_points(every):
    table = curves(every)
    quantities = ["proxy", "proxy_low", "proxy_high", "gold", "gold_low", "gold_high", "gain", "low", "high"]
    assert list(table) == [*KEYS, "pressure", "kl", "kl_name", "ess", *quantities, "units", "covers"]
    assert len(table) == 7 * len(every) and (table.units == 3).all()
    assert (table.covers == "replicates and prompts").all()
    assert not table.drop(columns=["strength", "kl_coef"]).isna().any().any()
    for q in ("proxy", "gold"):
        assert (table[f"{q}_low"] <= table[q]).all() and (table[q] <= table[f"{q}_high"]).all()
    assert (table.low <= table.gain).all() and (table.gain <= table.high).all()
    single = table[table.ensemble == "single"]
    assert (single[["gain", "low", "high"]] == 0).all().all()


def test_a_curve_is_the_mean_of_its_replicates_and_its_interval_the_two_way_t(every):
    table, by_unit = curves(every), replicates(every)
    about = ["replicate", "draw", "members", "pressure", "proxy", "gold", "gain"]
    assert list(by_unit) == [*KEYS, *about] and len(by_unit) == 3 * len(table)
    keys = ["ensemble", "aggregator", "pessimism", "pressure"]
    mean = by_unit.groupby(keys)[["proxy", "gold", "gain", "strength", "penalty"]].mean()
    both = table.set_index(keys)[list(mean)].sort_index()
    pd.testing.assert_frame_equal(both, mean.loc[both.index], rtol=1e-9, atol=1e-12)
    one = next(c for c in every if c.setting.label == "heads5 min matched")
    interval = two_way_interval(one.gain)
    rows = table[(table.ensemble == "heads5") & (table.aggregator == "min") & (table.pessimism == "matched")]
    np.testing.assert_array_equal(rows[["low", "high"]].T, [interval.low, interval.high])


def test_a_replicates_instances_are_one_value_a_prompt():
    one = curve(gold=[[0, 4], [2, 8], [10, 0]], numbers=[0, 0, 3])
    assert one.replicates == [0, 3] and one.gold.shape == (2, 2, 2)
    np.testing.assert_array_equal(one.gold.mean(1), [[1, 6], [10, 0]])
    np.testing.assert_array_equal(one.by_unit["gold"], [[0, 4], [2, 8], [10, 0]])
    rows = curves([one])
    # not 4 and 4, the means of the three units: a replicate counts once however many it holds
    assert rows.gold.tolist() == [5.5, 3] and (rows.units == 2).all()
    assert replicates([one]).gold.tolist() == [0, 4, 2, 8, 10, 0]
    every = {c.setting.label: c for c in best_of_n_curves(grid())[0]}
    for name, count in {"single mean": 12, "finetune2 min": 6, "pretrain3 mean": 4, "heads4 min": 6}.items():
        assert len(every[name].units) == count and every[name].gold.shape == (2, P, 7)


def test_one_replicate_has_an_interval_over_prompts_and_says_so():
    table = curves(best_of_n_curves(in_step(1))[0])
    assert (table.gold_low < table.gold_high).all() and (table.units == 1).all()
    assert (table.covers == "prompts").all()


def test_ends_by_hand():
    one = curve(gold=[[1, 5, 4, 2], [1, 3, 4, 6]], proxy=[[0, 1, 2, 3], [5, 4, 3, 2]])
    row = ends([one]).iloc[0]  # mean 1 4 4 4: the first peak counts
    assert (row.start, row.peak, row.end, row.fall) == (1, 4, 4, 3)
    # each replicate's peak is the other's: 2 - 2 where the other is highest at the end, 6 - 3
    assert row.fall_from_peak == (0 + 3) / 2
    assert (row.peak_pressure, row.end_pressure, row.end_kl) == (2, 8, np.log(8))
    assert (row.proxy_rises, row.units, row.proxy_start, row.proxy_end) == (False, 2, 2.5, 2.5)
    assert "gain" not in row and row.kl_name == "nats" and not {"falls", "rises"} & set(row.index)


def test_falls_are_those_of_inference(every):
    table = ends(every)
    for row, one in zip(table.itertuples(), every, strict=True):
        drop = fall(one.gold)
        assert (row.fall, row.fall_low, row.fall_high) == drop.change[:3]
        assert (row.fall_from_peak, row.fall_from_peak_low, row.fall_from_peak_high) == drop.from_peak[:3]


def test_a_still_curve_has_not_fallen():
    row = ends([curve(gold=[[2, 2], [3, 3]])]).iloc[0]
    assert (row.fall, row.fall_low, row.fall_high) == (0, 0, 0) and row.fall_from_peak == 0


def test_ends_are_the_ends_of_the_curves(every):
    table, points = ends(every), curves(every)
    keys = ["ensemble", "aggregator", "pessimism"]
    last = points[points.pressure == 64].set_index(keys).sort_index()
    rows = table.set_index(keys).sort_index()
    same = {
        "end": "gold",
        "end_low": "gold_low",
        "end_high": "gold_high",
        "proxy_end": "proxy",
        "end_kl": "kl",
    }
    same |= {n: n for n in ("gain", "low", "high", "strength", "penalty", "units", "covers", "kl_name")}
    for column, point in same.items():
        pd.testing.assert_series_equal(rows[column], last[point], check_names=False)
    first = points[points.pressure == 1].set_index(keys).sort_index()
    pd.testing.assert_series_equal(rows.start, first.gold, check_names=False)
    pd.testing.assert_series_equal(rows.peak, points.groupby(keys).gold.max(), check_names=False)


def test_differences_are_paired_and_named(every):
    table = comparisons(every)
    columns = ["one", "other", *KEYS[-3:], "pressure", "difference", "low", "high", "units", "covers"]
    assert list(table) == columns
    pairs = set(zip(table.one, table.other, strict=True))
    assert len(table) == 7 * len(pairs)  # no pair twice
    assert pairs >= {
        ("heads5 mean", "finetune5 mean"),
        ("heads5 min", "finetune5 mean"),
        ("lora2 mean_std", "finetune5 mean"),
        ("heads5 min", "heads5 mean"),
        ("heads5 min matched", "finetune5 min matched"),
        ("heads5 min", "heads2 min"),
        ("single mean", "finetune5 mean"),
        ("pretrain3 min", "finetune3 min"),
    }
    assert (table.low <= table.difference).all() and (table.difference <= table.high).all()
    one, other = (next(c for c in every if c.setting.label == f"{n} mean") for n in ("heads5", "finetune5"))
    rows = table[(table.one == "heads5 mean") & (table.other == "finetune5 mean")]
    np.testing.assert_array_equal(
        rows[["difference", "low", "high"]].T, two_way_interval(one.gold - other.gold)[:3]
    )


def test_a_shift_of_every_prompt_and_replicate_has_no_width():
    one = curve("heads2", "heads", gold=[[1, 5], [3, 2]])
    other = curve("lora2", gold=[[0.5, 4.5], [2.5, 1.5]])
    row = comparisons([one, other], [(one.setting, other.setting)]).iloc[0]
    assert (row.difference, row.low, row.high) == (0.5, 0.5, 0.5)


def test_ensembles_of_other_numbers_of_instances_are_paired_by_replicate_and_prompt():
    every = best_of_n_curves(grid())[0]
    table = comparisons(every)
    pairs = set(zip(table.one, table.other, strict=True))
    assert pairs >= {
        ("pretrain3 mean", "finetune2 mean"),
        ("heads4 min", "heads2 min"),
        ("heads2 uwo", "finetune2 uwo"),
    }
    one, other = (
        next(c for c in every if c.setting.label == f"{n} mean") for n in ("pretrain3", "finetune2")
    )
    assert (len(one.units), len(other.units)) == (4, 6)
    rows = table[(table.one == "pretrain3 mean") & (table.other == "finetune2 mean")]
    np.testing.assert_array_equal(
        rows[["difference", "low", "high"]].T, two_way_interval(one.gold - other.gold)[:3]
    )


def test_chosen_pairs(every):
    known = {c.setting.label: c.setting for c in every}
    one, other = known["lora2 min"], known["heads5 min matched"]
    nobody = replace(one, ensemble="nobody")
    table = comparisons(every, [(one, other), (one, nobody), (one, one), (one, other)])
    assert list(table.one) == ["lora2 min"] * 7 and list(table.other) == ["heads5 min matched"] * 7
    assert list(comparisons(every, [])) == list(table) and comparisons(every, []).empty


def test_an_ensemble_may_miss_a_replicate(scores):
    kept = [e for e in scores.ensembles if (e.name, e.replicate) != ("heads5", 1)]
    every = {c.setting.label: c for c in best_of_n_curves(replace(scores, ensembles=kept))[0]}
    heads, finetune = every["heads5 min"], every["finetune5 mean"]
    assert heads.replicates == [0, 2] and finetune.replicates == [0, 1, 2]
    assert (curves([heads]).units == 2).all()
    table = comparisons(every.values(), [(heads.setting, finetune.setting)])
    interval = two_way_interval(heads.gold - finetune.gold[[0, 2]])
    np.testing.assert_array_equal(table[["difference", "low", "high"]].T, interval[:3])
    assert (table.units == 2).all()


def test_ensembles_without_a_replicate_in_common_are_not_compared():
    one, other = curve("heads2", "heads", numbers=[0]), curve("lora2", numbers=[1])
    pair = [(one.setting, other.setting)]
    assert comparisons([one, other], pair).empty
    assert len(comparisons([one, curve("lora2", numbers=[0])], pair)) == 2


def test_the_order_of_ensembles_changes_no_number(scores, every):
    moved = best_of_n_curves(replace(scores, ensembles=scores.ensembles[::-1]))[0]
    keys = {curves: [*KEYS[:5], "pressure"], ends: KEYS[:5], comparisons: ["one", "other", "pressure"]}
    for table, order in keys.items():
        then, now = (table(x).sort_values(order).reset_index(drop=True) for x in (every, moved))
        pd.testing.assert_frame_equal(then, now, rtol=1e-9, atol=1e-12)


def test_methods_are_compared_with_the_reference_and_variants_with_their_plain_form():
    pairs = labels(
        usual_pairs(
            settings("finetune5", "finetune2", "lora5", "lora5_top", aggregators=("mean", "min", "mean_std"))
        )
    )
    lora = {other for one, other in pairs if one.startswith("lora5_top")}
    assert lora == {
        "lora5_top mean",
        "lora5 mean",
        "lora5 min",
        "lora5 mean_std",
        "finetune5 mean",
        "finetune5 min",
        "finetune5 mean_std",
    }
    assert ("lora5_top mean_std", "finetune5 mean") in pairs  # what the method is known with
    assert ("lora5_top min", "finetune5 mean") not in pairs
    assert ("finetune2 mean", "finetune5 mean") in pairs and ("finetune5 mean", "finetune2 mean") not in pairs
    assert ("finetune2 min", "finetune5 min") not in pairs  # another size
    assert ("finetune5 min", "finetune5 mean") in pairs
    assert all(one != other for one, other in pairs)


def test_the_claim_about_three_heads_is_looked_at():
    pairs = labels(
        usual_pairs(settings("heads3_1_epoch", "finetune3_3_epochs", "heads3", "heads8", "finetune5"))
    )
    assert ("heads3_1_epoch min", "finetune3_3_epochs min") in pairs
    assert ("heads3_1_epoch mean", "finetune3_3_epochs mean") not in pairs
    assert ("heads3_1_epoch min", "heads3 min") in pairs and ("heads8 min", "heads3 min") in pairs


def test_matched_penalties_are_compared_with_the_references_own():
    both = settings("finetune5", "heads5") + settings(
        "finetune5", "heads5", aggregators=("min",), pessimism="matched"
    )
    pairs = {(one, other) for one, other in labels(usual_pairs(both)) if "matched" in one + other}
    assert pairs == {("heads5 min matched", "finetune5 min matched")}


def test_the_oracle_is_compared_with_nothing():
    oracle = Setting("oracle", "oracle", 1, "mean")
    pairs = usual_pairs([oracle, *settings("finetune5", "heads5")])
    assert pairs and all(oracle not in pair for pair in pairs)


def test_curves_of_another_optimiser_or_kl_penalty_are_not_compared():
    run = {"optimiser": "ppo", "kl_coef": 0.0}
    alike = settings("finetune2", "lora2", **run)
    others = settings("finetune2", "lora2", **{**run, "kl_coef": 0.1})
    longer = settings("lora2", aggregators=("mean",), step_multiplier=4, **run)
    pairs = usual_pairs(alike + others + longer + settings("finetune2", "lora2"))
    assert pairs and all(one.regime == other.regime for one, other in pairs)
    assert not any(one.step_multiplier == 4 for one, _ in pairs)
    assert {(one.label, other.label) for one, other in pairs if one.kl_coef == 0.1} == {
        ("finetune2 min", "finetune2 mean"),
        ("lora2 min", "lora2 mean"),
        ("lora2 mean", "finetune2 mean"),
        ("lora2 min", "finetune2 min"),
    }
    table = comparisons([curve("finetune2", "finetune", **run), curve("lora2", **run)])
    assert table.iloc[0][["optimiser", "kl_coef", "step_multiplier"]].tolist() == ["ppo", 0.0, 1]


def test_the_reference_is_finetune5_or_the_largest_of_its_method():
    assert reference_of({"finetune2": 2, "finetune5": 5, "finetune9": 9}) == "finetune5"
    assert reference_of({"finetune2": 2, "finetune3": 3, "finetune3_1_epoch": 3}) == "finetune3"
    assert reference_of({"finetune1": 1}) is None and reference_of({}) is None


def test_a_study_of_single_models_has_tables_too(scores):
    every = best_of_n_curves(only(scores, "single", "average5"))[0]
    assert set(curves(every).ensemble) == {"single", "average5", "oracle"}
    assert comparisons(every).empty
