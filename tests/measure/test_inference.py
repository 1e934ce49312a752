"""p-values, equivalence, power and falls: against statsmodels, SciPy and simulation, and the rules of a verdict."""

import numpy as np
import pytest
from scipy.stats import nct, ttest_1samp
from scipy.stats import t as student

from rmlab.measure.inference import (
    Verdict,
    equivalence,
    fall,
    holm,
    p_value,
    power,
    replicates_needed,
    replicates_to_decide,
    verdict,
)
from rmlab.measure.intervals import Interval, two_way_interval


def crossed(rng, D, P, replicate, prompt, noise, trials=()):
    """(D, P, ...) of mean 0 with these standard deviations."""
    return (
        replicate * rng.normal(size=(D, 1, *trials))
        + prompt * rng.normal(size=(1, P, *trials))
        + noise * rng.normal(size=(D, P, *trials))
    )


def with_components(D, P, replicate, prompt, noise, seed=0):
    """(D, P) whose variance components are exactly these squared standard deviations."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(D, P))
    e -= e.mean(0) + e.mean(1, keepdims=True) - e.mean()
    e *= noise / np.sqrt((e**2).sum() / ((D - 1) * (P - 1)))
    r, p = rng.normal(size=(D, 1)), rng.normal(size=(1, P))
    r, p = ((v - v.mean()) / v.std(ddof=1) for v in (r, p))
    return e + r * np.sqrt(replicate**2 + noise**2 / P) + p * np.sqrt(prompt**2 + noise**2 / D)


# adjusted p-values


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([0.2]).tolist() == [0.2]


@pytest.mark.parametrize("M", [1, 2, 7, 40])
def test_holm_is_that_of_statsmodels(M):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(M).random(M) ** 3
    p[: M // 3] = p[0]  # ties
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_keeps_false_findings_of_a_family_below_alpha():
    rng = np.random.default_rng(0)
    p = rng.random((4000, 10))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.012)
    assert (p < 0.05).any(1).mean() > 0.35  # what it is without


# p-values


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_over_one_replicate_the_p_value_is_students(alternative):
    x = np.random.default_rng(1).normal(0.3, 1, (1, 30))
    expected = ttest_1samp(x[0], 0.1, alternative=alternative).pvalue
    assert p_value(two_way_interval(x), 0.1, alternative) == pytest.approx(expected)


def test_a_p_value_below_5_percent_is_an_interval_without_the_null():
    x = crossed(np.random.default_rng(2), 4, 15, 0.3, 0.3, 1, (200,)) + 0.4
    i = two_way_interval(x)
    p = p_value(i)
    assert np.array_equal(p < 0.05, (i.low > 0) | (i.high < 0)) and 0.1 < (p < 0.05).mean() < 0.9
    np.testing.assert_allclose(p_value(i, 0, "greater") + p_value(i, 0, "less"), 1)


def test_without_spread_the_p_value_is_0_or_1():
    i = two_way_interval(np.stack([np.full((3, 5), v) for v in (-1.0, 0.0, 1.0)], -1))
    assert p_value(i).tolist() == [0, 1, 0]
    assert p_value(i, 0, "greater").tolist() == [1, 1, 0]
    assert p_value(i, 0, "less").tolist() == [0, 1, 1]


# equivalence


@pytest.mark.parametrize("seed", range(20))
def test_equivalence_is_the_narrower_interval_inside_the_margin(seed):
    x = 0.1 + crossed(np.random.default_rng(seed), 4, 20, 0.1, 0.2, 0.5)
    found = equivalence(x, 0.3)
    i = two_way_interval(x, 0.9)
    assert found.interval == i
    assert found.holds == (found.p < 0.05) == bool(i.low > -0.3 and i.high < 0.3)


def test_equivalence_errs_in_one_of_twenty_cases_at_the_margin():
    rng = np.random.default_rng(3)
    x = 0.5 + crossed(rng, 5, 30, 0.1, 0.2, 0.5, (1000,))
    rate = np.mean([equivalence(x[..., t], 0.5).holds for t in range(1000)])
    assert 0.025 < rate < 0.075
    assert equivalence(x[..., 0] - 0.5, 0.5).holds and not equivalence(x[..., 0] + 1, 0.5).holds


# power

CASES = [(0.1, 0.0, 0.5), (0.1, 0.5, 0.5), (0.3, 0.3, 0.5), (0.3, 0.0, 0.3)]  # replicates, prompts, noise


@pytest.mark.parametrize("replicate, prompt, noise", CASES)
@pytest.mark.parametrize("D", [3, 5, 10])
def test_power_is_what_a_simulation_finds(replicate, prompt, noise, D):
    rng = np.random.default_rng(D)
    x = with_components(6, 20, replicate, prompt, noise)
    errors = crossed(rng, D, 20, replicate, prompt, noise, (2000,))
    close = 0.1 if D == 3 else 0.04
    for effect in (0.2, 0.4):
        found = (p_value(two_way_interval(errors + effect)) < 0.05).mean()
        assert power(effect, x, D) == pytest.approx(found, abs=close)
        assert power(-effect, x, D) == power(effect, x, D)
        i = two_way_interval(errors, 0.9)
        within = ((i.low > -effect) & (i.high < effect)).mean()
        assert power(effect, x, D, test="equivalence") == pytest.approx(within, abs=close)


def test_with_replicates_alone_power_is_that_of_a_t_test():
    x = with_components(5, 10, 0.4, 0, 1e-6)
    away, limit = 0.3 / (0.4 / np.sqrt(8)), student.ppf(0.975, 7)
    expected = nct.sf(limit, 7, away) + nct.cdf(-limit, 7, away)
    assert power(0.3, x, 8) == pytest.approx(expected, abs=2e-3)
    assert power(0, x, 8) == pytest.approx(0.05, abs=2e-3)


@pytest.mark.parametrize("test", ["difference", "equivalence"])
def test_the_replicates_needed_are_the_fewest_that_reach_the_power(test):
    x = with_components(5, 40, 0.3, 0.2, 0.5)
    needed = replicates_needed(0.25, x, 0.8, test=test)
    assert needed > 3 and power(0.25, x, needed, test=test) >= 0.8 > power(0.25, x, needed - 1, test=test)
    assert replicates_needed(0.5, x, test=test) < needed < replicates_needed(0.2, x, test=test)
    assert replicates_needed(5, x, test=test) == 2


def test_where_the_prompts_alone_stand_in_the_way_no_number_of_replicates_is_enough():
    x = with_components(5, 12, 0.1, 1.0, 0.2)
    assert power(0.3, x, np.inf) < 0.3
    assert replicates_needed(0.3, x) == np.inf == replicates_needed(0, x)
    more = with_components(5, 400, 0.1, 1.0, 0.2)
    assert replicates_needed(0.3, more) < 10


def test_data_without_spread_needs_the_fewest_replicates():
    assert replicates_needed(0.1, np.full((3, 4), 0.7)) == 2 and power(0.1, np.full((3, 4), 0.7), 2) == 1


def decided(claim, x, margin, factor):
    interval = two_way_interval(x)
    p = equivalence(x, margin).p if claim == "equivalent" else p_value(interval)
    return verdict(claim, interval, min(1.0, factor * p), margin).word != "undecided"


@pytest.mark.parametrize(
    ("claim", "mean"),
    [("greater", 0.06), ("greater", 0.02), ("less", -0.24), ("equivalent", 0.03), ("equivalent", 0.2)],
)
@pytest.mark.parametrize("factor", [1, 12])
def test_a_claim_is_decided_with_the_replicates_that_it_is_said_to_need(claim, mean, factor):
    def rows(D):
        return mean + with_components(D, 64, 0.4, 0.05, 0.5)

    needed = replicates_to_decide(claim, rows(10), 0.1, factor)
    assert 10 < needed < 2000 and not decided(claim, rows(10), 0.1, factor)
    assert decided(claim, rows(int(1.15 * needed)), 0.1, factor)
    assert needed < 14 or not decided(claim, rows(int(0.85 * needed)), 0.1, factor)


def test_half_the_margin_takes_longest_and_prompts_may_stand_in_the_way():
    rows = with_components(10, 64, 0.3, 0.05, 0.5)
    near, half, far = (replicates_to_decide("greater", m + rows, 0.1) for m in (0.01, 0.055, 0.12))
    assert near < half > far
    few = with_components(5, 12, 0.1, 1.0, 0.2)
    assert replicates_to_decide("greater", 0.05 + few, 0.1) == np.inf
    alone = np.random.default_rng(0).normal(0.0, 0.3, (6, 1))
    assert 6 < replicates_to_decide("less", alone - alone.mean() - 0.1, 0.02) < 200


# falls


def flat(rng, D, P=20, L=15):
    """Gold that goes nowhere: noise of prompts, of replicates and of both at every point, and levels of their own."""
    level = rng.normal(size=(D, P, 1))
    run = 0.3 if D > 1 else 0.0  # what only other replicates can tell
    parts = ((1, P, L), 0.5), ((D, 1, L), run), ((D, P, L), 1.0)
    return level + sum(size * rng.normal(size=shape) for shape, size in parts)


@pytest.mark.parametrize("D", [1, 3, 5])
def test_a_flat_curve_falls_by_nothing_on_average_though_every_one_ends_below_its_peak(D):
    rng = np.random.default_rng(D)
    change, from_peak, naive = [], [], []
    for _ in range(500):
        gold = flat(rng, D)
        found = fall(gold)
        change.append(found.change)
        from_peak.append(found.from_peak)
        mean = gold.mean((0, 1))
        naive.append(mean[-1] - mean.max())
    for every in (change, from_peak):
        i = np.array(every)  # (trials, 5)
        mean, error = i[:, 0].mean(), i[:, 0].std() / np.sqrt(len(i))
        covered = ((i[:, 1] <= 0) & (0 <= i[:, 2])).mean()
        assert abs(mean) < 3 * error
        assert 0.91 < covered < 0.985
    assert np.mean(naive) < -0.3 and np.mean(np.array(naive) < 0) > 0.9


def test_a_curve_that_rises_and_falls_is_measured():
    rng = np.random.default_rng(5)
    shape = np.concatenate([np.linspace(0, 2, 8), np.linspace(2, 0.5, 8)[1:]])
    gold = shape + 0.2 * rng.normal(size=(4, 30, 15))
    found = fall(gold)
    assert found.from_peak.mean == pytest.approx(-1.5, abs=0.1) and found.from_peak.high < -1.3
    assert found.change.mean == pytest.approx(0.5, abs=0.1) and found.change.low > 0.3
    assert set(found.peaks.ravel()) <= {6, 7, 8} and found.peaks.shape == (4, 2)


def test_the_fall_by_hand():
    # prompts 0 and 2 are even: points 1 and 2 are the peaks of the even and the odd prompts
    even, odd = [0.0, 5.0, 1.0, 3.0], [0.0, 1.0, 4.0, 2.0]
    found = fall(np.array([[even, odd, even, odd]]))
    assert found.peaks.tolist() == [[2, 1]]
    assert found.from_peak.mean == pytest.approx(((3 - 1) + (2 - 1)) / 2)
    assert found.change.mean == pytest.approx(2.5)


def test_other_replicates_choose_the_peak():
    up, down = [0.0, 1.0, 9.0, 0.0], [0.0, 7.0, 1.0, 0.0]
    found = fall(np.array([[up] * 4, [down] * 4]))
    assert found.peaks.tolist() == [[1, 1], [2, 2]] and found.from_peak.mean == -1


def test_the_peak_may_be_held_to_low_pressure():
    gold = np.tile([0.0, 1.0, 3.0, 2.0], (2, 4, 1))
    n = np.array([1, 16, 256, 2048])
    assert fall(gold, n, 256).from_peak.mean == -1
    assert fall(gold, n, 16).from_peak.mean == 1
    assert fall(np.sort(gold)).from_peak[:3] == (0, 0, 0)  # the end is the peak: no fall
    assert fall(np.sort(gold), n, 256).from_peak.mean == 1


# verdicts


def interval(mean, half):
    return Interval(mean, mean - half, mean + half, half / 2, 100.0)


@pytest.mark.parametrize(
    "claim, mean, half, p, word",
    [
        ("greater", 0.5, 0.2, 0.01, "holds"),
        ("less", -0.5, 0.2, 0.01, "holds"),
        ("greater", -0.5, 0.2, 0.01, "fails"),
        ("less", 0.5, 0.2, 0.01, "fails"),
        ("greater", 0.02, 0.05, 0.4, "fails"),  # whatever there is does not matter
        ("greater", 0.08, 0.05, 0.4, "undecided"),  # an interval that leaves the margin
        ("greater", 0.5, 0.2, 0.08, "undecided"),  # adjusted, it is not shown
        ("greater", 0.05, 0.02, 0.01, "holds"),  # shown, though small
        ("equivalent", 0.02, 0.05, 0.01, "equivalent"),
        ("equivalent", 0.5, 0.2, 0.99, "fails"),
        ("equivalent", -0.5, 0.2, 0.99, "fails"),
        ("equivalent", 0.05, 0.2, 0.3, "undecided"),
    ],
)
def test_a_verdict_follows_its_rules(claim, mean, half, p, word):
    found = verdict(claim, interval(mean, half), p, margin=0.1, needed=12)
    assert found.word == word
    assert (found.needed == 12) if word == "undecided" else np.isnan(found.needed)


def test_an_undecided_verdict_says_what_would_decide():
    say = lambda n: str(verdict("greater", interval(0.5, 0.6), 0.2, 0.1, n))  # noqa: E731
    assert say(12.0) == "undecided: would need 12 replicates"
    assert say(np.inf) == "undecided: with these prompts no number of replicates would decide"
    assert say(np.nan) == "undecided" and str(Verdict("holds", np.nan)) == "holds"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: holm([]), "p's shape"),
        (lambda x: holm([0.2, np.nan]), "p = "),
        (lambda x: holm([1.2]), "p = "),
        (lambda x: p_value(two_way_interval(x), 0, "larger"), "alternative"),
        (lambda x: equivalence(x, 0), "margin = 0"),
        (lambda x: equivalence(x, 1, 0.7), "alpha = 0.7"),
        (lambda x: equivalence(x[..., None], 1), "x's shape"),
        (lambda x: power(1, x, 1), "replicates = 1"),
        (lambda x: power(np.nan, x, 3), "effect"),
        (lambda x: power(1, x, 3, test="none"), "test"),
        (lambda x: power(1, x[:1], 3), "x's shape"),
        (lambda x: power(1, np.where(x > 0, x, np.nan), 3), "x = 'NaN"),
        (lambda x: replicates_needed(np.inf, x), "effect"),
        (lambda x: replicates_needed(1, x, 1.0), "power"),
        (lambda x: fall(x), "gold's shape"),
        (lambda x: fall(x[..., None]), "gold's shape"),
        (lambda x: fall(x[None], [1, 2], 1), "pressure's shape"),
        (lambda x: fall(x[None], None, 1), "pressure"),
        (lambda x: fall(x[None], np.arange(1, 6), 0), "peak_at_most = 0"),
        (lambda x: verdict("more", interval(0, 1), 0.1, 1), "claim"),
        (lambda x: verdict("less", interval(0, 1), np.nan, 1), "p_adjusted"),
        (lambda x: verdict("less", interval(0, 1), 0.1, 0), "margin"),
        (lambda x: verdict("less", two_way_interval(x[..., None]), 0.1, 1), "interval's shape"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0).normal(size=(4, 5)))
