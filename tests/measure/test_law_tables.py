"""Tables of the laws on synthetic studies: planted laws, brute force, coverage of slopes over ensembles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rmlab.measure import laws
from rmlab.measure.law_tables import (
    best_curves,
    cut_of,
    distance,
    effective_errors,
    law_of_ensembles,
    law_tables,
    laws_by_replicate,
    laws_of,
    slope_over_ensembles,
)
from rmlab.measure.pool_curves import best_of_n_curves
from rmlab.optimise.best_of_n import kl_bound
from rmlab.recipe import PpoStudy
from tests.measure.fake_scores import grid, in_step, only, with_runs


@pytest.fixture(scope="module")
def scores():
    return in_step()


@pytest.fixture(scope="module")
def tables(scores):
    return law_tables(scores)


def test_every_setting_has_every_form_and_the_same_curves_as_the_comparison(scores, tables):
    table = tables["laws"]
    theirs = {c.setting: c for c in best_of_n_curves(scores)[0]}
    mine = {c.setting: c for c in best_curves(scores)}
    assert set(mine) == {s for s in theirs if s.pessimism == "paper" and s.ensemble != "oracle"}
    for setting, curve in mine.items():
        np.testing.assert_array_equal(curve.gold, theirs[setting].gold)
    counts = table.groupby(["ensemble", "aggregator"]).form.agg(list)
    assert len(counts) == len(mine) and all(sorted(x) == sorted(laws.FORMS) for x in counts)
    row = table[(table.ensemble == "heads5") & (table.aggregator == "min") & (table.form == "log")].iloc[0]
    (curve,) = (c for s, c in mine.items() if (s.ensemble, s.aggregator) == ("heads5", "min"))
    gain = curve.gold.mean((0, 1)) - curve.gold.mean((0, 1))[0]
    d, weights = distance(curve)
    law = laws.fit(d, gain, "log", weights)
    assert row.alpha == pytest.approx(law.alpha) and row.beta == pytest.approx(law.beta)
    assert (table.alpha_low <= table.alpha_high).all() and (table.units == 3).all()
    own = table[table.form == "quadratic"]
    assert own.excess_out.isna().all()  # 64 answers: nothing beyond the cut
    assert table.cut_d.iloc[0] == pytest.approx(np.sqrt(kl_bound(64)))


def test_replicates_are_fitted_to_their_own_curves(scores, tables):
    keys = ["ensemble", "aggregator", "form"]
    table = tables["laws_replicates"].set_index([*keys, "replicate"])
    means, whole = table.groupby(keys)[["alpha", "beta"]].mean(), tables["laws"].set_index(keys)
    assert len(means) == len(whole) and len(table) == 3 * len(whole)
    linear = means.drop("power", level="form")
    np.testing.assert_allclose(linear, whole.loc[linear.index, ["alpha", "beta"]], atol=1e-9)
    for curve in best_curves(only(scores, "heads5")):
        s, d = curve.setting, distance(curve)[0]
        for i, replicate in enumerate(curve.replicates):
            alone = replace(curve, gold=curve.gold[[i]], units=[curve.units[i]])
            own = laws_of(alone).set_index("form")
            for form in laws.FORMS:
                row = table.loc[(s.ensemble, s.aggregator, form, replicate)]
                for name in ("alpha", "beta", "peak_d", "peak_gain", "rmse_in", "rmse_out"):
                    assert row[name] == pytest.approx(own.loc[form, name], nan_ok=True), (form, name)
        assert cut_of(curve, d) < kl_bound(128)
    assert table.alpha.groupby(keys).std().min() > 0


def test_the_errors_of_a_replicate_are_those_of_a_planted_law():
    """Up to the cut d (2 - d) exactly, beyond it the same moved by 0.1: nothing missed inside, 0.1 outside."""
    (curve, *_) = best_curves(only(in_step(2), "single"))
    d = np.arange(len(curve.kl)) * 0.5
    cut = cut_of(curve, d)
    gold = np.stack([d * (2 - d) + 0.1 * r * (d > cut) for r in (0, 1)])[:, None] + np.zeros((2, 12, 1))
    table = laws_by_replicate(replace(curve, kl=d**2, gold=gold, columns={}))
    rows = table[table.form == "quadratic"].set_index("replicate")
    np.testing.assert_allclose(
        rows.loc[0, ["alpha", "beta", "peak_d", "peak_gain"]].to_numpy(float), [2, 1, 1, 1]
    )
    assert d.max() > cut and rows.rmse_in.to_numpy() == pytest.approx(0, abs=1e-9)
    assert rows.rmse_out.to_numpy() == pytest.approx([0, 0.1], abs=1e-9)
    assert rows.alpha[1] != pytest.approx(2)


def test_slopes_of_replicates_are_what_the_slope_is_the_mean_of(tables):
    keys = ["aggregator", "coefficient", "regressor"]
    table, whole = tables["law_of_ensembles_replicates"], tables["law_of_ensembles"].set_index(keys)
    means = table.groupby(keys).slope.mean()
    np.testing.assert_allclose(means, whole.loc[means.index].slope)
    assert len(means) == len(whole) and len(table) == 3 * len(whole)
    own = tables["laws_replicates"].query("aggregator == 'mean' and form == 'quadratic' and replicate == 1")
    one = table.query("aggregator == 'mean' and coefficient == 'beta' and regressor == 'log_k'")
    slope = one.set_index("replicate").slope[1]
    assert slope == pytest.approx(np.polyfit(np.log(own.k), own.beta, 1)[0])


def test_points_with_few_effective_answers_weigh_less(scores):
    d, weights = distance(best_curves(only(scores, "single"))[0])
    assert d[0] == 0 and weights[0] == 1 and weights[-1] == pytest.approx(0.1)


def test_runs_of_ppo_have_laws_too():
    scores = with_runs(
        in_step(), *((e, a, 0.1, 1) for e in ("single", "finetune5", "heads5") for a in ("mean",))
    )
    scores = replace(scores, recipe=replace(scores.recipe, ppo_study=PpoStudy()))
    tables = law_tables(scores)
    table = tables["laws"]
    assert set(table.optimiser) == {"ppo"} and len(table) == 3 * len(laws.FORMS)
    first = table.groupby("ensemble").form.first()
    assert (first == "log").all() and (table.kl_coef == 0.1).all()
    assert table.cut_d.to_numpy() == pytest.approx(table.observed_d.to_numpy() / 2)
    slopes = tables["law_of_ensembles"]
    assert set(slopes.ensembles) == {3} and slopes.slope_low.isna().all()  # too few for an interval


def test_one_replicate_and_several_instances_do_not_stop_it():
    for scores in (grid(), grid(draws=1), in_step(1)):
        tables = law_tables(scores)
        by_replicate = {"laws_replicates", "law_of_ensembles_replicates"}
        assert set(tables) == {"laws", "law_of_ensembles", "goodhart", *by_replicate}
        assert tables["laws"].alpha.notna().all() and len(tables["goodhart"])


def test_the_slope_over_ensembles_is_least_squares_and_covers():
    rng = np.random.default_rng(0)
    x = np.log([1, 3, 5, 3, 5, 3, 5, 5, 5, 5, 15])
    y = rng.normal(size=(10, 11))
    assert slope_over_ensembles(x, y).mean == pytest.approx(np.polyfit(x, y.mean(0), 1)[0])
    hits = []
    for _ in range(400):
        y = 0.3 * x + 0.1 * rng.normal(size=11) + rng.normal(size=(10, 1)) * (1 + 0.2 * x)
        interval = slope_over_ensembles(x, y + 0.2 * rng.normal(size=(10, 11)))
        hits.append(interval.low <= 0.3 <= interval.high)
    assert 0.90 <= np.mean(hits) <= 0.99


def test_a_slope_needs_ensembles_that_differ():
    y = np.random.default_rng(0).normal(size=(3, 5))
    assert np.isnan(slope_over_ensembles(np.ones(5), y)).all()
    few = slope_over_ensembles(np.array([0.0, 0.0, 1.0, 1.0, 1.0]), y)
    assert np.isfinite(few.mean) and np.isnan(few.low)
    assert np.isnan(slope_over_ensembles(np.arange(5.0), y[:1]).low)


def test_a_planted_dependence_on_log_k_is_recovered():
    """Curves whose beta falls by 0.1 for each e-fold of members."""
    curves = []
    for curve in best_curves(only(in_step(), "single", "finetune3", "finetune5", "heads5", "mixed7")):
        if curve.setting.aggregator != "mean":
            continue
        d, _ = distance(curve)
        beta = 0.6 - 0.1 * np.log(curve.setting.k)
        gold = np.broadcast_to(d * (2 - beta * d), curve.gold.shape).copy()
        curves.append(replace(curve, gold=gold))
    table = law_of_ensembles(curves, {c.setting.ensemble: 2.0 + c.setting.k for c in curves})
    row = table[(table.coefficient == "beta") & (table.regressor == "log_k")].iloc[0]
    assert row.slope == pytest.approx(-0.1) and row.ensembles == 5 and row.units == 3
    assert table[table.coefficient == "alpha"].slope.abs().max() < 1e-9
    assert pd.isna(row.kl_coef)
    frame = laws_of(curves[0])
    assert frame.iloc[0].beta == pytest.approx(0.6) and cut_of(curves[0], d) == pytest.approx(
        1.7817, abs=1e-4
    )


def test_effective_members_are_those_of_the_diversity_table(scores):
    from rmlab.measure.members import diversity_of_ensembles

    table = diversity_of_ensembles(scores, n=16)["diversity"].set_index("ensemble").effective_error
    mine = effective_errors(scores)
    assert mine["single"] == 1.0 and set(mine) == set(table.index)
    for name, size in mine.items():
        assert size == pytest.approx(table[name])


def test_goodhart_of_every_ensemble(tables, scores):
    table = tables["goodhart"]
    assert set(table.aggregator) == {"mean", "min"} and (table.top == 16).all()
    assert (table.slope_body_low < table.slope_body).all() and (table.slope_body > 0).all()
