"""Promised and delivered win rates, against pair-by-pair sums and against best-of-n played out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from rmlab.measure import promised as module
from rmlab.measure.calibration import temperature
from rmlab.measure.ensembles import EnsembleResult, StudyScores
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.promised import beaten_shares, promised, win_chances
from rmlab.optimise.best_of_n import winner_chances
from rmlab.recipe import Recipe
from tests.measure.fake_scores import grid, in_step, only

P, N, M = 40, 256, 4000


def rates_of(scores):
    return promised(scores)["promised"]


def study(odds: np.ndarray, gold: np.ndarray, heldout: np.ndarray, scale: float = 2.0) -> StudyScores:
    """Single models of D replicates: log odds of the pool (D, P, N), and of held-out pairs' chosen answers (D, M)."""
    template, ensembles = in_step(1).members[0], []
    for d, (pool, margins) in enumerate(zip(odds, heldout, strict=True)):
        pairs = np.stack([margins, np.zeros_like(margins)], 1)[..., None] / scale
        m = replace(
            template, id=f"d{d}/p0/f0", pool=pool[..., None] / scale, heldout=pairs, scale=np.array([scale])
        )
        ensembles.append(EnsembleResult("single", "single", d, 0, (m,), (m,)))
    members = [e.parts[0] for e in ensembles]
    return StudyScores(Recipe("planted", None), members, ensembles, gold, np.ones(gold.shape, bool))


def bradley_terry(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """True log odds, and a gold that prefers by them: the odds plus Gumbel noise, whose difference is logistic."""
    odds = rng.normal(0, 1.5, shape)
    return odds, odds + rng.gumbel(size=shape)


def heldout_of(odds: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Margins of the pairs (..., M, 2), chosen minus rejected by gold."""
    return (odds[..., 0] - odds[..., 1]) * np.sign(gold[..., 0] - gold[..., 1])


def by_hand(odds: np.ndarray, gold: np.ndarray, ended: np.ndarray, n: int) -> tuple[float, float]:
    """Promised and delivered of one prompt, (N,) each, from all pairs of winner and random answer."""
    chance = winner_chances(odds[None], [n], ended[None])[0, :, 0] * ended
    weights = np.outer(chance / chance.sum(), ended / ended.sum())
    promise = expit(odds[:, None] - odds)
    deliver = (np.sign(gold[:, None] - gold) + 1) / 2
    return float((weights * promise).sum()), float((weights * deliver).sum())


@pytest.mark.parametrize("spread", [0.01, 1.0, 20.0])
def test_the_grid_errs_by_less_than_it_says(spread):
    rng = np.random.default_rng(0)
    odds, ended = spread * rng.standard_t(3, (6, 200)), rng.random((6, 200)) < 0.8
    heats = (1.0, 0.3, 4.0)
    for i, heat in enumerate(heats):
        exact = np.stack(
            [expit((x[:, None] - x[m]) / heat).mean(1) for x, m in zip(odds, ended, strict=True)]
        )
        fast = win_chances(odds, ended, heats)[..., i]
        assert np.abs(fast - exact)[ended].max() < 2.5e-4
    at_one = win_chances(odds, ended)
    assert at_one.shape == (6, 200, 1) and np.isfinite(at_one).all()
    np.testing.assert_allclose((at_one[..., 0] * ended).sum(1) / ended.sum(1), 0.5, atol=1e-9)


def test_odds_too_far_apart_for_the_grid_are_compared_pair_by_pair(monkeypatch):
    odds = np.array([[0.0, 1.0, 1e12, -1e12]])
    ended = np.ones((1, 4), bool)
    far = win_chances(odds, ended)[0, :, 0]
    np.testing.assert_allclose(
        far, [(0.5 + expit(-1) + 1) / 4, (0.5 + expit(1) + 1) / 4, 3.5 / 4, 0.5 / 4], atol=1e-12
    )
    near = np.random.default_rng(0).normal(0, 3, (2, 50))
    grid_sums = win_chances(near, np.ones((2, 50), bool), (1.0, 2.0))
    monkeypatch.setattr(module, "MOST", 0)
    np.testing.assert_allclose(grid_sums, win_chances(near, np.ones((2, 50), bool), (1.0, 2.0)), atol=2.5e-4)


def test_equal_scores_promise_a_coin():
    np.testing.assert_allclose(win_chances(np.full((2, 9), 4.0), np.ones((2, 9), bool)), 0.5)
    with pytest.raises(ValueError, match="ended"):
        win_chances(np.zeros((2, 3)), np.array([[True, True, True], [False, False, False]]))
    with pytest.raises(ValueError, match="temperatures"):
        win_chances(np.zeros((1, 3)), np.ones((1, 3), bool), (0.0,))


def test_beaten_shares_by_hand():
    gold = np.array([[3.0, 1.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    ended = np.array([[True, True, True, False], [True, True, False, True]])
    shares = beaten_shares(gold, ended)
    np.testing.assert_allclose(shares[0], [2 / 3, 0.5 / 3, 2 / 3, 1])
    np.testing.assert_allclose(shares[1][ended[1]], 0.5)


def test_rates_are_exact_over_the_pool_for_aggregates_too():
    """All pairs of winner and random answer, ties and answers that never end among them."""
    scores = only(in_step(2), "single", "heads2")
    rounded = {m.id: replace(m, pool=(4 * m.pool).round() / 4, scale=m.scale * 1.5) for m in scores.members}
    ensembles = [replace(e, parts=tuple(rounded[p.id] for p in e.parts)) for e in scores.ensembles]
    scores = replace(scores, ensembles=ensembles, gold=scores.gold.round(1))
    table = rates_of(scores).query("recalibration == 'none'")
    assert sorted(table.n.unique()) == [1, 4, 16, 64]
    combine = {"mean": lambda x: x.mean(-1), "min": lambda x: x.min(-1), "max": lambda x: x.max(-1)}
    for (name, rule, n), row in table.set_index(["ensemble", "aggregator", "n"]).iterrows():
        if rule in combine:
            group = [e for e in scores.ensembles if e.name == name]
            odds = [1.5 * combine[rule](e.pool.astype(float)) for e in group]
            hand = np.array(
                [[by_hand(x[p], scores.gold[p], scores.ended[p], n) for p in range(12)] for x in odds]
            )
            mean = hand.mean((0, 1))
            assert row.promised == pytest.approx(mean[0], abs=2.5e-4)
            assert row.delivered == pytest.approx(mean[1], abs=1e-6)
            interval = two_way_interval(hand[..., 1])
            assert (row.delivered_low, row.delivered_high) == pytest.approx(interval[1:3], abs=1e-6)
            gap = two_way_interval(hand[..., 0] - hand[..., 1])
            assert (row.gap, row.gap_low, row.gap_high) == pytest.approx(gap[:3], abs=1e-3)


def test_true_log_odds_deliver_what_they_promise():
    """At n = 1 to the last digit, and at any n within sampling error: what they were chosen for is true."""
    rng = np.random.default_rng(1)
    odds, gold = bradley_terry(rng, P, N)
    pair_odds, pair_gold = bradley_terry(rng, M, 2)
    true = study(odds[None], gold, heldout_of(pair_odds, pair_gold)[None])
    table = rates_of(true).set_index(["recalibration", "n"])
    assert table.promised["none", 1] == table.delivered["none", 1] == 0.5 and table.gap["none", 1] == 0
    for n in (4, 16, 64):
        assert table.gap_low["none", n] < 0 < table.gap_high["none", n]
        assert abs(table.gap["temperature", n]) < 0.03 and table.promised["none", n] > 0.65


def test_selection_promises_more_than_it_delivers_by_what_playing_it_out_says():
    """A proxy with errors of heavy tails, at the temperature that calibrates it on random pairs."""
    rng = np.random.default_rng(2)
    gold, pair_gold = rng.normal(size=(P, N)), rng.normal(size=(M, 2))
    proxy, pair_proxy = gold + rng.standard_t(2, gold.shape), pair_gold + rng.standard_t(2, pair_gold.shape)
    margins = heldout_of(pair_proxy, pair_gold)
    heat = temperature(margins, np.ones(M))
    table = rates_of(study(proxy[None], gold, margins[None])).set_index(["recalibration", "n"])
    draws = 400
    for n in (1, 4, 16, 64):
        rows = np.repeat(np.arange(P), draws)
        drawn_answers = rng.random((P * draws, N)).argpartition(n - 1, 1)[:, :n]
        won = np.take_along_axis(proxy[rows], drawn_answers, 1).argmax(1)
        won = drawn_answers[np.arange(len(rows)), won]
        other = rng.integers(0, N, len(rows))
        apart = proxy[rows, won] - proxy[rows, other]
        delivered = (np.sign(gold[rows, won] - gold[rows, other]) + 1) / 2
        for name, promise in (("none", expit(apart)), ("temperature", expit(apart / heat))):
            error = np.std(promise - delivered) / np.sqrt(len(rows))
            row = table.loc[name, n]
            assert row.promised == pytest.approx(promise.mean(), abs=4 * promise.std() / np.sqrt(len(rows)))
            assert row.delivered == pytest.approx(
                delivered.mean(), abs=4 * delivered.std() / np.sqrt(len(rows))
            )
            assert row.gap == pytest.approx((promise - delivered).mean(), abs=4 * error)
    gaps, none = table.gap["temperature"], table.gap["none"]
    assert gaps[1] == 0 and gaps[256] > 0.2 and (none[[4, 16, 64]] > gaps[[4, 16, 64]]).all()
    assert table.gap_low["temperature", 64] > 0.02 and none.is_monotonic_increasing


def test_errors_of_light_tails_are_mended_by_a_temperature_even_for_winners():
    """With Gaussian gold and errors the chance that gold prefers depends on the difference alone, winners or not."""
    rng = np.random.default_rng(2)
    gold, pair_gold = rng.normal(size=(P, N)), rng.normal(size=(M, 2))
    proxy, pair_proxy = (3 * (x + rng.normal(size=x.shape)) for x in (gold, pair_gold))
    table = rates_of(study(proxy[None], gold, heldout_of(pair_proxy, pair_gold)[None])).set_index(
        ["recalibration", "n"]
    )
    assert (table.gap["temperature"].abs() < 0.02).all() and table.gap["none"][16] > 0.08


def test_a_temperature_changes_what_is_promised_and_not_who_wins():
    table = rates_of(in_step(2)).set_index(["ensemble", "aggregator", "n", "recalibration"])
    none, mended = (table.xs(name, level="recalibration") for name in ("none", "temperature"))
    for column in ("delivered", "delivered_low", "delivered_high"):
        np.testing.assert_array_equal(none[column], mended[column])
    later = none.index.get_level_values("n") > 1
    assert (np.abs(none.promised - mended.promised)[later] > 1e-3).mean() > 0.9


def test_the_scale_is_what_a_temperature_divides():
    """Scores of half the size under twice the scale are the same log odds; of any scale they are recalibrated to the same."""
    rng = np.random.default_rng(3)
    odds, gold = bradley_terry(rng, 2, P, N)
    heldout = heldout_of(*bradley_terry(rng, 2, M, 2))
    one = rates_of(study(odds, gold[0], heldout, scale=2.0))
    other = rates_of(study(odds, gold[0], heldout, scale=0.5))
    hot = rates_of(study(3 * odds, gold[0], 3 * heldout)).set_index("recalibration")
    np.testing.assert_allclose(one.promised, other.promised, atol=1e-6)
    same = one.set_index("recalibration").promised["temperature"]
    np.testing.assert_allclose(hot.promised["temperature"], same, atol=2e-3)
    assert (hot.promised["none"].to_numpy() >= one.promised[:5].to_numpy() - 1e-6).all()


def test_instances_of_a_replicate_count_as_one():
    scores = only(grid(), "single", "heads2")
    table = rates_of(scores)
    assert (table.units == 2).all() and len(table) == (1 + 4) * 2 * 4
    each = [
        rates_of(replace(scores, ensembles=[replace(e, replicate=0, number=0)])).promised
        for e in scores.ensembles
        if e.name == "single"
    ]
    np.testing.assert_allclose(table[table.ensemble == "single"].promised, np.mean(each, 0), atol=1e-8)


def test_prompts_without_an_answer_that_ended_are_left_out_and_one_prompt_has_no_interval():
    scores = only(in_step(1), "single")
    ended = np.zeros_like(scores.ended)
    ended[3, :5] = True
    table = rates_of(replace(scores, ended=ended))
    assert table[["promised", "delivered", "gap"]].notna().all(axis=None)
    assert table[["promised_low", "delivered_high", "gap_low"]].isna().all(axis=None)
    whole = rates_of(replace(scores, ended=np.where(np.arange(12)[:, None] == 3, ended, True)))
    assert whole.gap_low.notna().all()


def test_replicates_are_what_the_means_are_made_of():
    scores = in_step(2)
    tables = promised(scores)
    keys = ["ensemble", "aggregator", "recalibration", "n"]
    means = tables["promised_replicates"].groupby(keys)[["promised", "delivered", "gap"]].mean()
    whole = tables["promised"].set_index(keys).loc[means.index]
    assert set(tables["promised_replicates"].replicate) == {0, 1} and len(means) > 4
    assert np.allclose(means, whole[["promised", "delivered", "gap"]])
