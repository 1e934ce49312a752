"""Win rates with known answers: counted by hand, and planted in simulated judges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from rmlab.measure.clusters import mean_interval
from rmlab.measure.winrate import (
    gold_win_rate,
    gold_wins,
    length_controlled,
    pair_wins,
    rate_interval,
    win_rate,
)


def test_ties_count_half_and_the_margin_decides_what_is_one():
    first, second = np.array([1.0, 0.0, 2.0, 5.0]), np.array([0.5, 0.5, 2.0, 1.0])
    np.testing.assert_array_equal(gold_wins(first, second), [1, 0, 0.5, 1])
    np.testing.assert_array_equal(gold_wins(first, second, 0.5), [0.5, 0.5, 0.5, 1])
    np.testing.assert_array_equal(gold_wins(first, second, 0.49), [1, 0, 0.5, 1])
    assert gold_win_rate(first, second, np.arange(4)).value == 0.625


def test_an_answer_that_never_ended_loses_to_all_that_did():
    lost = -np.inf
    np.testing.assert_array_equal(gold_wins([lost, 1, lost], [-9, lost, lost], 100), [0, 1, 0.5])


@pytest.mark.parametrize(
    "bad", [dict(first=[np.nan]), dict(second=[np.inf]), dict(second=[1, 2]), dict(margin=-1)]
)
def test_gold_that_cannot_be_compared(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        gold_wins(**({"first": [0.0], "second": [1.0]} | bad))


def test_swapping_the_policies_turns_the_rate_round():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 60)).round(1)
    one, other = (gold_win_rate(*x, np.arange(60) // 3, 0.1) for x in ((first, second), (second, first)))
    assert one.value == pytest.approx(1 - other.value) and one.low == pytest.approx(1 - other.high)


def covered(rng, rate, prompts, answers, spread):
    """One study: a prompt's own chance of a win is Beta with mean `rate`; does the interval by prompts hold the rate?"""
    chance = rng.beta(rate * spread, (1 - rate) * spread, prompts)
    wins = (rng.random((prompts, answers)) < chance[:, None]).astype(float).reshape(-1)
    numbers = np.arange(prompts).repeat(answers)
    by_prompt, by_row = rate_interval(wins, numbers), rate_interval(wins, np.arange(wins.size))
    return [x.low <= rate <= x.high for x in (by_prompt, by_row)]


def test_the_interval_holds_the_rate_by_prompts_and_not_by_rows():
    rng = np.random.default_rng(1)
    share = np.mean([covered(rng, 0.6, 40, 8, 2.0) for _ in range(500)], 0)
    assert 0.925 <= share[0] <= 0.98  # of 500 studies
    assert share[1] < 0.85  # rows are not independent: what clustering is for


def test_no_certainty_from_rows_that_are_all_alike():
    for wins in (0.0, 0.5, 1.0):
        estimate = rate_interval(np.full(40, wins), np.arange(40) // 2)
        assert estimate.value == wins and estimate.high - estimate.low > 0.1
        assert 0 <= estimate.low <= wins <= estimate.high <= 1 and estimate.clusters == 20


def test_the_interval_is_the_plain_one_inside_and_cut_at_the_ends():
    rng = np.random.default_rng(2)
    wins, prompts = rng.random(60), np.arange(60) // 2
    assert rate_interval(wins, prompts) == mean_interval(wins, prompts)
    rare = np.r_[0.0, np.ones(19)]
    assert rate_interval(rare, np.arange(20)).high == 1.0 < mean_interval(rare, np.arange(20)).high


def judgements(*verdicts, **columns):
    """Rows of pairs from (verdict shown first, verdict shown second)."""
    rows = [(p, p, order, v) for p, pair in enumerate(verdicts) for order, v in enumerate(pair)]
    return pd.DataFrame(rows, columns=["pair", "prompt", "order", "verdict"]).assign(**columns)


def test_a_pair_counts_the_mean_of_its_two_orders():
    table = judgements(("first", "first"), ("first", "second"), ("tie", "first"), ("second", "second"))
    wins = pair_wins(table.sample(frac=1, random_state=0)).sort_values("pair")["wins"]
    assert list(wins) == [1, 0.5, 0.75, 0]
    rate = win_rate(table)
    assert (
        rate.rate.value == 2.25 / 4 and rate.flipped.value == 0.5 and (rate.pairs, rate.malformed) == (4, 0)
    )
    # for the answer shown first: 1 and 0; 1 and 1; a half and 0; 0 and 1
    assert rate.shown_first.value == pytest.approx((0.5 + 1 + 0.25 + 0.5) / 4)
    assert np.isnan(rate.controlled.value)


def test_what_cannot_be_read_is_no_tie_and_what_is_missing_is_counted():
    table = judgements(
        ("first", "first"),
        ("malformed", "second"),
        ("second", None),
        (None, "malformed"),
        ("second", "second"),
    )
    rate = win_rate(table)
    assert (rate.pairs, rate.malformed, rate.missing, rate.rate.value) == (2, 2, 1, 0.5)
    assert win_rate(table.drop(index=9)).missing == 2  # the row itself is not there
    nothing = win_rate(judgements(("malformed", "malformed")))
    assert nothing.pairs == 0 and np.isnan(nothing.rate.value) and np.isnan(nothing.flipped.value)


def test_without_numbers_of_pairs_a_prompt_is_one_pair():
    table = judgements(("first", "tie"), ("second", "second"))
    assert win_rate(table.drop(columns="pair")) == win_rate(table)


@pytest.mark.parametrize("bad", [dict(order=2), dict(verdict="A"), dict(pair=0)])
def test_rows_that_are_no_judgements(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        pair_wins(judgements(("first", "tie"), ("second", "second"), **bad))
    with pytest.raises(ValueError, match="order"):
        pair_wins(judgements(("first", "tie")).drop(columns="order"))


def judge(rng, pairs, better, lean):
    """A judge whose log odds for the answer shown first are its quality plus `lean`; the first policy is `better`."""
    quality = rng.normal(better, 1.0, pairs)
    shown_first = rng.random(pairs) < expit(quality + lean)
    shown_second = rng.random(pairs) > expit(lean - quality)
    name = np.array(["second", "first"])
    return judgements(*zip(name[shown_first.astype(int)], name[shown_second.astype(int)], strict=True))


def test_a_planted_lean_to_the_first_place_is_found_and_leaves_the_rate_fair():
    rng = np.random.default_rng(3)
    leaning, fair = (win_rate(judge(rng, 4000, 0.0, lean)) for lean in (1.5, 0.0))
    expected = expit(rng.normal(0, 1, 10**6) + 1.5).mean()
    assert leaning.shown_first.value == pytest.approx(expected, abs=0.015) and leaning.shown_first.low > 0.5
    assert fair.shown_first.low < 0.5 < fair.shown_first.high
    assert leaning.rate.low < 0.5 < leaning.rate.high and leaning.rate.value == pytest.approx(0.5, abs=0.02)
    only_place = win_rate(judgements(*[("first", "second")] * 30))  # no eye for the answers at all
    assert (only_place.rate.value, only_place.flipped.value, only_place.shown_first.value) == (0.5, 1.0, 1.0)


def test_one_order_alone_would_have_named_a_winner():
    """The lean of the test above, with the first policy always shown first, is a rate of .77 between equals."""
    table = pair_wins(judge(np.random.default_rng(4), 4000, 0.0, 1.5))
    assert table["shown_first"].mean() > 0.7 and table["wins"].mean() == pytest.approx(0.5, abs=0.02)


def lengths(rng, pairs, at_equal, slope):
    difference = rng.normal(30, 50, pairs)
    chance = expit(np.log(at_equal / (1 - at_equal)) + slope * np.tanh(difference / difference.std()))
    return (rng.random(pairs) < chance).astype(float), difference


def test_the_rate_at_equal_length_comes_back():
    rng = np.random.default_rng(5)
    held = []  # of 200 studies
    for _ in range(200):
        wins, difference = lengths(rng, 300, 0.4, 2.0)
        estimate = length_controlled(wins, difference, np.arange(300))
        held.append((estimate.value, estimate.low <= 0.4 <= estimate.high, wins.mean()))
    value, share, plain = np.mean(held, 0)
    assert value == pytest.approx(0.4, abs=0.01) and 0.91 <= share <= 0.99
    assert plain > 0.55  # what length alone has added


def test_length_control_agrees_with_statsmodels_and_follows_shared_prompts():
    statsmodels = pytest.importorskip("statsmodels.api")
    wins, difference = lengths(np.random.default_rng(6), 200, 0.3, 1.0)
    wins[::7] = 0.5
    x = statsmodels.add_constant(np.tanh(difference / difference.std()))
    fit = statsmodels.GLM(wins, x, family=statsmodels.families.Binomial()).fit(cov_type="HC1")
    one = length_controlled(wins, difference, np.arange(200))
    assert one.value == pytest.approx(expit(fit.params[0]), abs=1e-6)
    logit = np.log(one.high / (1 - one.high)) - fit.params[0]
    assert logit == pytest.approx(1.972 * fit.bse[0], rel=0.01)
    twice = length_controlled(wins.repeat(2), difference.repeat(2), np.arange(200).repeat(2))
    assert twice == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize(
    "wins, difference",
    [
        ([1, 0, 1, 0.5], [3, 3, 3, 3]),  # no other length
        ([1, 0, 1, 0], [1, 2, 3, 4]),  # the first is always longer
        ([1, 1, 0, 0], [2, 1, -1, -2]),  # length parts wins from losses
        ([1, 0.5, 0.5, 0], [1, 0, 0, -1]),
        ([1, 1, 1, 1], [1, 2, -3, 4]),
    ],
)
def test_no_rate_at_equal_length_where_nothing_tells_it(wins, difference):
    assert np.isnan(length_controlled(wins, difference, np.arange(4)).value)


def test_lengths_in_the_rows_give_the_controlled_rate():
    rng = np.random.default_rng(7)
    wins, difference = lengths(rng, 400, 0.5, 2.0)
    verdicts = np.array(["second", "first"])[wins.astype(int)]
    table = judgements(*zip(verdicts, verdicts, strict=True))
    table["first_length"], table["second_length"] = difference.repeat(2) + 500, 500
    rate = win_rate(table)
    assert rate.controlled == length_controlled(wins, difference + 500 - 500, np.arange(400))
    assert rate.rate.low > 0.55 and rate.controlled.low < 0.5 < rate.controlled.high
