"""Calibration of ensembles whose log odds are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from rmlab.measure import accuracy
from rmlab.measure import calibration as pairwise
from rmlab.measure.ensembles import EnsembleResult, StudyScores
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.recalibrate import by_isotonic, by_temperature, cross_fitted
from rmlab.measure.study_calibration import NUMBERS, calibration, heldout_margins, log_odds, rules_of
from rmlab.recipe import Recipe
from tests.measure.fake_scores import grid, in_step, only

M = 1500


def planted(heat: float, replicates: int = 4, instances: int = 2, scale: float = 3.0, seed: int = 0):
    """Single models whose raw differences are `heat` times the log odds that gold prefers the answer chosen."""
    rng = np.random.default_rng(seed)
    template, ensembles = in_step(1).members[0], []
    for d in range(replicates):
        for i in range(instances):
            odds = rng.normal(0, 1.5, M)
            margins = heat * odds * np.where(rng.random(M) < expit(odds), 1, -1)
            heldout = np.stack([margins, np.zeros(M)], 1)[..., None] / scale + 7  # offsets cancel
            m = replace(template, id=f"d{d}/p{i}/f0", heldout=heldout, scale=np.array([scale]))
            ensembles.append(EnsembleResult("single", "single", d, i, (m,), (m,)))
    return StudyScores(Recipe("planted", None), [e.parts[0] for e in ensembles], ensembles)


def rows(scores: StudyScores) -> pd.DataFrame:
    return calibration(scores)["calibration"].set_index("recalibration")


def test_calibrated_scores_have_no_error_beyond_noise():
    table = rows(planted(1.0))
    assert (table.calibration_error_low == 0).all() and (table.calibration_error < 0.02).all()
    assert (table.ece > 0.015).all()  # which noise makes
    assert table.temperature_low["none"] < 1 < table.temperature_high["none"]
    assert table.temperature["none"] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("heat", [0.4, 3.0])
def test_a_planted_temperature_is_found_and_mended(heat):
    table, true = rows(planted(heat)), rows(planted(1.0))
    assert table.temperature["none"] == pytest.approx(heat, rel=0.06)
    assert table.temperature_low["none"] < heat < table.temperature_high["none"]
    assert table.calibration_error_low["none"] > 0.05 > 0.03 > table.calibration_error["temperature"]
    assert table.temperature["temperature"] == pytest.approx(1, abs=0.02)
    assert table.log_loss["temperature"] == pytest.approx(true.log_loss["none"], abs=0.002)
    assert table.accuracy["temperature"] == table.accuracy["none"] == true.accuracy["none"]
    assert table.brier["isotonic"] < table.brier["none"]


def test_the_unit_is_the_members_scale_and_their_mean_for_an_aggregate():
    scores = in_step()
    members = [replace(m, scale=np.arange(1.0, m.k + 1)) for m in scores.members]
    known = {m.id: m for m in members}
    e = next(e for e in scores.ensembles if e.name == "heads5")
    e = replace(e, parts=tuple(known[p.id] for p in e.parts))
    np.testing.assert_array_equal(e.scale, [1, 2, 3, 4, 5])
    apart = {
        "mean": lambda x: x.mean(-1),
        "min": lambda x: x.min(-1),
        "max": lambda x: x.max(-1),
        "mean_std": lambda x: x.mean(-1) - x.std(-1),
    }
    assert set(rules_of(5)) == set(apart) and rules_of(1) == ("mean",)
    for rule, combine in apart.items():
        chosen, rejected = np.moveaxis(combine(e.heldout.astype(float)), 1, 0)
        np.testing.assert_allclose(heldout_margins(e, rule), 3 * (chosen - rejected), atol=1e-5)
    alone = np.random.default_rng(0).normal(size=(4, 3, 1))
    np.testing.assert_allclose(log_odds(alone, np.array([2.5]), "mean"), 2.5 * alone[..., 0])


def test_members_without_a_scale_are_named():
    scores = in_step(1)
    bare = {m.id: replace(m, scale=None) for m in scores.members}
    stripped = [replace(e, parts=tuple(bare[p.id] for p in e.parts)) for e in scores.ensembles]
    with pytest.raises(ValueError, match=r"without a scale = \['d0/p0/f0'\]"):
        calibration(replace(scores, ensembles=stripped))


def test_numbers_are_those_of_the_workbench_averaged_by_replicate():
    """Instances of a replicate first, then Student over replicates; squares of errors and logs of temperatures."""
    scores = grid(draws=3)
    table = calibration(only(scores, "single", "heads4"))["calibration"]
    group = [e for e in scores.ensembles if e.name == "heads4"]
    labels, clusters = np.ones(200), np.arange(200)
    for name, fit in (("none", None), ("temperature", by_temperature), ("isotonic", by_isotonic)):
        row = table.query(f"ensemble == 'heads4' and aggregator == 'min' and recalibration == '{name}'")
        row = row.iloc[0]
        by_replicate: dict[int, list[tuple]] = {}
        for e in group:
            x = heldout_margins(e, "min")
            x = cross_fitted(fit, x, labels, clusters) if fit else x
            numbers = (accuracy.agreement(x, labels).mean(), pairwise.ece(x, labels))
            numbers += (pairwise.debiased_square(x, labels, clusters),)
            numbers += (np.log(pairwise.temperature(x, labels)), accuracy.log_losses(x, labels).mean())
            by_replicate.setdefault(e.replicate, []).append(numbers)
        values = np.array([np.mean(x, 0) for x in by_replicate.values()])  # (D, 5)
        expected = two_way_interval(values[:, None])
        for i, column in enumerate(("accuracy", "ece", "", "", "log_loss")):
            if column:
                assert row[column] == pytest.approx(expected.mean[i])
                ends = (row[f"{column}_low"], row[f"{column}_high"])
                assert ends == pytest.approx((expected.low[i], expected.high[i]))
        assert row.calibration_error == pytest.approx(np.sqrt(max(expected.mean[2], 0)))
        assert row.calibration_error_high == pytest.approx(np.sqrt(expected.high[2]))
        assert row.temperature == pytest.approx(np.exp(expected.mean[3]))
        assert row.temperature_low == pytest.approx(np.exp(expected.low[3]))
        assert row.units == 3 and row.pairs == 200


def test_the_debiased_square_is_the_errors_own():
    margins = heldout_margins(in_step(1).ensembles[0], "mean")
    square = pairwise.debiased_square(3 * margins, np.ones(200), np.arange(200))
    assert pairwise.calibration_error(3 * margins, np.ones(200), np.arange(200)).value ** 2 == pytest.approx(
        square
    )
    rng, squares = np.random.default_rng(8), []
    for _ in range(300):
        odds = rng.normal(0, 1.5, 1000)
        labels = (rng.random(1000) < expit(odds)).astype(float)
        squares.append(pairwise.debiased_square(odds, labels, np.arange(1000)))
    assert min(squares) < 0 and abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(300) < 2e-4


def test_every_ensemble_has_its_rows():
    scores = in_step()
    tables = calibration(scores)
    table, bins = tables["calibration"], tables["reliability"]
    assert list(table.ensemble.unique()) == list(dict.fromkeys(e.name for e in scores.ensembles))
    per = table.groupby("ensemble").size()
    assert per["single"] == per["average5"] == 3 and per["heads5"] == 12
    assert set(bins.ensemble) == {"single", "finetune5", "heads5"}
    columns = "ensemble method k aggregator confidence agreement low high pairs"
    assert list(bins) == columns.split()
    for _, few in bins.groupby(["ensemble", "aggregator"]):
        assert few.pairs.sum() == 3 * 200 and len(few) == 10
        assert ((few.low <= few.agreement) & (few.agreement <= few.high)).all()
    numbers = [f"{n}{end}" for n in NUMBERS for end in ("", "_low", "_high")]
    assert list(table)[-len(numbers) :] == numbers and table[numbers].notna().all(axis=None)


def test_a_diagram_of_calibrated_scores_lies_on_the_diagonal():
    bins = calibration(planted(1.0, replicates=6))["reliability"]
    inside = (bins.low <= bins.confidence) & (bins.confidence <= bins.high)
    assert inside.sum() >= 9 and (np.abs(bins.agreement - bins.confidence) < 0.03).all()
    hot = calibration(planted(3.0, replicates=6))["reliability"]
    assert (hot.high < hot.confidence).sum() >= 7


def test_replicates_that_differ_widen_a_diagram():
    """Half of the models are over-confident and half under-confident: pairs alone would not tell."""
    cold, hot = planted(0.3, 4, seed=1), planted(4.0, 4, seed=2)
    mixed = [
        replace(e, replicate=e.replicate + 4 * i) for i, x in enumerate((cold, hot)) for e in x.ensembles
    ]
    wide = calibration(replace(cold, ensembles=mixed))["reliability"]
    narrow = calibration(planted(1.0, 8))["reliability"]
    assert (wide.high - wide.low).max() > 1.5 * (narrow.high - narrow.low).max()


def test_one_replicate_has_numbers_without_an_interval():
    tables = calibration(in_step(1))
    table = tables["calibration"]
    assert table[list(NUMBERS)].notna().all(axis=None)
    assert table[[f"{n}_low" for n in NUMBERS]].isna().all(axis=None)
    assert tables["reliability"].low.notna().all()  # by pairs


def test_replicates_are_what_the_means_are_made_of():
    tables = calibration(planted(2.0, replicates=4))
    keys = ["ensemble", "aggregator", "recalibration"]
    means = tables["calibration_replicates"].groupby(keys).mean(numeric_only=True)
    whole = tables["calibration"].set_index(keys).loc[means.index]
    for column in ("accuracy", "ece", "brier", "log_loss"):
        assert np.allclose(means[column], whole[column])
    assert np.allclose(np.exp(means.log_temperature), whole.temperature)
    assert np.allclose(np.sqrt(np.maximum(means.square_error, 0)), whole.calibration_error)
