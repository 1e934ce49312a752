"""Curves of synthetic PPO runs: keys, gains, intervals, ends, the rows and the answers that are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.compare import Setting, comparisons, curves, ends
from rmlab.measure.ppo_curves import answers, ppo_curves, read_run, run_rows
from tests.measure.fake_scores import grid, in_step, with_runs

RUNS = [("single", "mean", 0.0, 1), ("single", "mean", 0.1, 1), ("heads5", "mean", 0.0, 1)]
RUNS += [("heads5", "mean_std", 0.1, 1), ("heads5", "min", 0.0, 2)]


@pytest.fixture(scope="module")
def scores():
    return with_runs(in_step(), *RUNS)


@pytest.fixture(scope="module")
def by_setting(scores):
    return {c.setting: c for c in ppo_curves(scores)}


def setting(ensemble, aggregator, kl_coef, step_multiplier):
    method, k = {"single": ("single", 1), "heads5": ("heads", 5), "finetune2": ("finetune", 2)}[ensemble]
    regime = {"optimiser": "ppo", "kl_coef": kl_coef, "step_multiplier": step_multiplier}
    return Setting(ensemble, method, k, aggregator, **regime)


def runs_of(scores, *key):
    runs = [r for r in scores.ppo_runs if (r.ensemble, r.aggregator, r.kl_coef, r.step_multiplier) == key]
    return sorted(runs, key=lambda r: (r.replicate, r.number))


def test_runs_that_differ_in_their_replicate_alone_are_one_curve(scores, by_setting):
    assert list(by_setting) == [setting(*run) for run in RUNS]
    for key in RUNS:
        curve, runs = by_setting[setting(*key)], runs_of(scores, *key)
        assert curve.replicates == [0, 1, 2] and curve.kl_name == "k1 (nats an answer)"
        assert curve.pressure.tolist() == list(range(0, 12 * key[3] + 1, 3))
        np.testing.assert_array_equal(curve.gold, [r.gold for r in runs])
        np.testing.assert_array_equal(curve.proxy, [r.proxy for r in runs])
        columns = {
            "k3": "eval_k3",
            "length": "eval_length",
            "ended": "eval_ended",
            "disagreement": "disagreement",
        }
        assert set(curve.columns) == set(columns)
        for name, column in {**columns, "kl": "eval_k1"}.items():
            mean = np.mean([[row[column] for row in r.rows] for r in runs], 0)
            np.testing.assert_allclose(curve.kl if name == "kl" else curve.columns[name], mean)


def test_the_gain_is_over_the_single_model_of_the_same_replicate_and_regime(scores, by_setting):
    for key in (("heads5", "mean", 0.0, 1), ("heads5", "mean_std", 0.1, 1)):
        single = [r.gold for r in runs_of(scores, "single", "mean", *key[2:])]
        curve = by_setting[setting(*key)]
        np.testing.assert_array_equal(curve.gain, curve.gold - single)
    assert not by_setting[setting("single", "mean", 0.1, 1)].gain.any()
    assert by_setting[setting("heads5", "min", 0.0, 2)].gain is None  # no single model ran for so long


def test_one_missing_run_of_the_single_model_leaves_no_gain(scores):
    kept = [r for r in scores.ppo_runs if (r.ensemble, r.kl_coef, r.replicate) != ("single", 0.0, 1)]
    every = {c.setting: c for c in ppo_curves(replace(scores, ppo_runs=kept))}
    assert every[setting("heads5", "mean", 0.0, 1)].gain is None
    assert every[setting("heads5", "mean_std", 0.1, 1)].gain is not None


def test_tables_of_runs_have_the_keys_of_every_study(scores, by_setting):
    table = curves(by_setting.values())
    assert set(table.optimiser) == {"ppo"} and (table.units == 3).all()
    long = table[table.step_multiplier == 2]
    assert long.gain.isna().all() and long.pressure.max() == 24
    assert table[table.aggregator == "mean_std"].strength.eq(1).all() and table.penalty.isna().all()
    last = ends(by_setting.values())
    assert len(last) == len(RUNS) and last.end_pressure.tolist() == [12, 12, 12, 12, 24]
    one = next(r for r in last.itertuples() if r.aggregator == "mean" and r.ensemble == "heads5")
    runs = runs_of(scores, "heads5", "mean", 0.0, 1)
    mean = np.mean([r.gold.mean(0) for r in runs], 0)
    assert one.start == pytest.approx(mean[0]) and one.peak == pytest.approx(mean.max())
    assert one.fall == pytest.approx(mean[-1] - mean[0]) and one.fall_from_peak > one.end - one.peak


def test_a_policy_is_compared_with_the_reference_at_its_own_kl_penalty():
    runs = [(n, "mean", c, 1) for n in ("single", "finetune3", "heads5") for c in (0.0, 0.1)]
    ensembles = [e for e in in_step().ensembles if e.name in {"single", "finetune3", "heads5"}]
    scores = with_runs(replace(in_step(), ensembles=ensembles), *runs)
    table = comparisons(ppo_curves(scores))
    assert set(zip(table.one, table.other, table.kl_coef, strict=True)) == {
        (one, "finetune3 mean", c) for one in ("single mean", "heads5 mean") for c in (0.0, 0.1)
    }
    rows = table[(table.one == "heads5 mean") & (table.kl_coef == 0.1)]
    heads, finetune = (
        np.mean([r.gold for r in runs_of(scores, n, "mean", 0.1, 1)], (0, 1)) for n in ("heads5", "finetune3")
    )
    np.testing.assert_allclose(rows.difference, heads - finetune)


def test_the_mean_of_a_replicates_runs_against_single_models_is_the_rival():
    scores = with_runs(grid(), ("single", "mean", 0.0, 1), ("finetune2", "min", 0.0, 1))
    kept = [r for r in scores.ppo_runs if r.number < (2 if r.ensemble == "single" else 1)]
    scores = replace(scores, ppo_runs=kept)
    every = {c.setting: c for c in ppo_curves(scores)}
    curve, alone = every[setting("finetune2", "min", 0.0, 1)], every[setting("single", "mean", 0.0, 1)]
    single = np.array(
        [r.gold for r in runs_of(scores, "single", "mean", 0.0, 1)]
    )  # finetuning seeds run fastest
    rival = (single[::2] + single[1::2]) / 2
    np.testing.assert_allclose(curve.gold - curve.gain, rival)
    np.testing.assert_allclose(alone.gold, rival)
    assert not alone.gain.any() and [u.members for u in alone.units[:2]] == ["d0/p0/f0", "d0/p0/f1"]
    assert (curves(every.values()).units == 2).all() and len(run_rows(scores)) == 5 * (4 + 2)


def test_every_run_is_in_the_rows_as_it_was(scores):
    table = run_rows(scores)
    assert len(table) == sum(len(r.rows) for r in scores.ppo_runs) and "step" not in table
    keys = [
        "ensemble",
        "method",
        "k",
        "aggregator",
        "pessimism",
        "strength",
        "penalty",
        "optimiser",
        "kl_coef",
    ]
    keys += ["step_multiplier", "replicate", "draw", "members", "pressure", "kl", "kl_name"]
    assert list(table)[: len(keys)] == keys
    run = runs_of(scores, "heads5", "mean_std", 0.1, 1)[1]
    rows = table[(table.aggregator == "mean_std") & (table.replicate == 1)]
    assert rows.pressure.tolist() == [row["step"] for row in run.rows]
    for column in ("reward", "length", "gold_length", "eval_k1", "eval_length", "disagreement"):
        assert rows[column].tolist() == [row[column] for row in run.rows]
    assert rows.kl.tolist() == rows.eval_k1.tolist() and (rows.strength == 1).all()
    # an adapted penalty does not take the place of the one that the run is keyed by
    assert (rows.kl_coef == 0.1).all() and rows.adapted_kl_coef.tolist() == [
        row["kl_coef"] for row in run.rows
    ]
    assert (rows.draw == 1).all() and (rows.members == "+".join(f"d1/p0/heads5.{k}" for k in range(5))).all()


def test_answers_are_kept_of_every_evaluation_of_the_first_replicates_runs(scores):
    table = answers(scores)
    assert set(table.kl_coef) == {0, 0.1} and set(table.replicate) == {0}
    steps = table.groupby(["ensemble", "aggregator", "kl_coef"]).step.apply(list).to_dict()
    assert steps == {
        ("heads5", "mean", 0.0): [0, 3, 6, 9, 12],
        ("heads5", "mean_std", 0.1): [0, 3, 6, 9, 12],
        ("heads5", "min", 0.0): list(range(0, 25, 3)),
        ("single", "mean", 0.0): [0, 3, 6, 9, 12],
        ("single", "mean", 0.1): [0, 3, 6, 9, 12],
    }
    assert json.loads(table.tokens[0]) == [["b", 0.1, 0.2, 0.3]] and table.prompt.eq("a").all()
    by_token = table[table.tokens != "[]"].groupby(["ensemble", "aggregator", "kl_coef"]).step.apply(list)
    assert by_token["heads5", "min", 0.0] == [0, 12, 24] and by_token["single", "mean", 0.1] == [0, 6, 12]
    none = answers(replace(scores, ppo_runs=[r for r in scores.ppo_runs if r.replicate]))
    assert none.empty and list(none) == list(table)


def test_of_several_single_models_the_firsts_answers_are_kept():
    scores = with_runs(grid(), ("single", "mean", 0.0, 1))
    assert answers(scores).step.tolist() == [0, 3, 6, 9, 12]


def test_a_run_is_read_from_what_its_stage_wrote(tmp_path):
    setting = {
        "ensemble": "lora2",
        "method": "lora",
        "k": 2,
        "aggregator": "min",
        "kl_coef": 0.1,
        "step_multiplier": 1,
    }
    seen = {"gold": 0.5, "proxy": 0.1, "eval_k1": 0.0, "gold_very": 1.0}
    by_prompt = [{"gold_by_prompt": [t, 1.0], "proxy_by_prompt": [0.1, t]} for t in (0.0, 2.0)]
    rows = [
        {"step": 0, **seen, **by_prompt[0]},
        {"step": 1, "reward": 0.3},
        {"step": 2, **seen, **by_prompt[1]},
    ]
    run = {"setting": setting, "replicate": 1, "rows": rows, "texts": [{"step": 0}]}
    other = {**run, "setting": {**setting, "number": 2}}
    (tmp_path / "run.json").write_text(json.dumps(other))
    assert read_run(tmp_path).number == 2
    (tmp_path / "run.json").write_text(json.dumps(run))
    run = read_run(tmp_path)
    assert (run.ensemble, run.aggregator, run.kl_coef, run.step_multiplier) == ("lora2", "min", 0.1, 1)
    assert (run.replicate, run.number) == (1, 0) and run.texts == [{"step": 0}]
    assert run.rows == [{"step": 0, **seen}, {"step": 2, **seen}]  # evaluations alone, by their numbers alone
    np.testing.assert_array_equal(run.gold, [[0, 2], [1, 1]])  # (P, L)
    np.testing.assert_array_equal(run.proxy, [[0.1, 0.1], [0, 2]])
