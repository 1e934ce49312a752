"""Alarms by simulation: an onset that is planted, drift that does no harm, an oracle without regret."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.alarms import (
    Course,
    alarm,
    area,
    by_replicate,
    fall,
    gold_of_stops,
    stops,
    threshold,
    thresholds,
    verdict,
)

L, P = 20, 40


def course(replicate, rng, onset=None, group=(), jump=5.0) -> Course:
    """Noise that is suspected, and a jump after the onset, from which gold falls by 0.5 a point."""
    time = np.arange(L)
    mean = 0.2 * time if onset is None else 0.2 * np.minimum(time, onset) - 0.5 * np.maximum(time - onset, 0)
    gold = mean[:, None] + rng.normal(0, 0.5, P) + rng.normal(0, 0.05, (L, P))
    suspicion = rng.normal(size=L) + (0 if onset is None else jump * (time > onset))
    useless = rng.normal(size=L)
    return Course(replicate, group, time * 6.0, time * 0.5, gold, {"good": suspicion, "useless": useless})


def study(D=10, harmful=0.5, seed=0, **more) -> list[Course]:
    rng = np.random.default_rng(seed)
    onsets = [int(rng.integers(8, 14)) if rng.random() < harmful else None for _ in range(2 * D)]
    return [course(i // 2, rng, onset, **more) for i, onset in enumerate(onsets)]


def test_a_planted_onset_is_found_within_a_point():
    courses = study(30, jump=8.0)
    found = stops(courses, "good")
    for c, at in zip(courses, found, strict=True):
        if c.harmful and at >= c.quiet:
            assert at == c.peak + 1
    row = verdict(courses, "good", found)
    assert row["harmful"] == sum(c.harmful for c in courses) > 10
    assert row["caught"] == 1 and row["auc"] > 0.99 and row["auc_points"] > 0.97
    bad = verdict(courses, "useless", stops(courses, "useless"))
    assert row["regret"] < bad["regret"] / 3 and row["regret_high"] < bad["regret_low"]
    assert 0.3 < bad["auc"] < 0.7 and bad["auc_low"] < 0.5 < bad["auc_high"]
    assert row["saved"] > bad["saved"] and bad["lead_points"] < row["lead_points"]


def test_who_peeks_regrets_nothing_and_who_never_stops_saves_nothing():
    courses = study()
    peek, never = (verdict(courses, rule, stops(courses, rule)) for rule in ("peek", "never"))
    assert (peek["regret"], peek["regret_low"], peek["regret_high"]) == (0, 0, 0)
    assert (peek["lead_points"], peek["lead_kl"], peek["caught"]) == (0, 0, 1)
    assert np.isnan(peek["false_alarms"]) and np.isnan(peek["auc"])
    assert (never["saved"], never["caught"], never["false_alarms"]) == (0, 0, 0)
    assert never["regret"] == pytest.approx(peek["saved"]) and peek["saved"] > 0
    harmful = [c for c in courses if c.harmful]
    by_hand = {
        r: np.mean([c.peak - (L - 1) for c in harmful if c.replicate == r])
        for r in {c.replicate for c in harmful}
    }
    assert never["lead_points"] == pytest.approx(np.mean(list(by_hand.values())))
    assert never["lead_kl"] == pytest.approx(0.5 * never["lead_points"])


def test_gold_of_stops_is_read_at_the_stop():
    gold = np.array([[0.0, 1], [2, 3], [1, 1], [0, -1]])
    one = Course(0, (), np.arange(4.0), np.arange(4.0), gold, {})
    found = gold_of_stops([one] * 4, np.array([0, 2, np.inf, np.nan]))
    np.testing.assert_array_equal(found["regret"], [[2, 2], [1, 2], [2, 4], [np.nan] * 2])
    np.testing.assert_array_equal(found["saved"], [[0, 2], [1, 2], [0, 0], [np.nan] * 2])


def test_harmless_drift_raises_alarms_at_the_level():
    """Suspicion drifts upward in every run, harmless ones all: false alarms keep to a tenth."""
    rng = np.random.default_rng(1)
    raised = []
    for _ in range(150):
        courses = []
        for r in range(10):
            c = course(r, rng)
            drift = np.arange(L) * 0.3 + rng.normal(size=L)
            courses.append(Course(r, (), c.pressure, c.kl, c.gold, {"drift": drift}))
        assert not any(c.harmful for c in courses)
        raised += np.isfinite(stops(courses, "drift")).tolist()
    share = np.mean(raised)
    assert 0.07 < share < 0.13  # 1,500 runs at .1, a standard error of .008


def test_thresholds_are_other_replicates_own_groups():
    rng = np.random.default_rng(2)
    courses = [course(r, rng, group=(g,)) for r in range(3) for g in "ab"]
    for i, c in enumerate(courses):
        highest = [
            o.suspicions["good"].max() for o in courses if o.group == c.group and o.replicate != c.replicate
        ]
        assert thresholds(courses, "good")[i] == threshold(highest) == max(highest)
    before = thresholds(courses, "good")[0]
    courses[0].suspicions["good"][:] = 99  # its own changes nothing
    assert thresholds(courses, "good")[0] == before


def test_of_a_harmful_run_the_points_before_its_peak_are_quiet():
    rng = np.random.default_rng(3)
    courses = [course(0, rng, onset=9), course(1, rng)]
    assert courses[0].harmful and courses[0].peak == 9 and courses[1].quiet == L
    assert thresholds(courses, "good")[1] == courses[0].suspicions["good"][:9].max()


def test_without_another_replicate_there_is_no_threshold_and_no_row_is_made_up():
    courses = [course(0, np.random.default_rng(4), onset=9)]
    found = stops(courses, "good")
    assert np.isnan(found).all()
    row = verdict(courses, "good", found)
    assert row["runs"] == row["harmful"] == 0 and np.isnan([row["regret"], row["caught"], row["auc"]]).all()
    assert verdict(courses, "peek", stops(courses, "peek"))["runs"] == 1


def test_the_threshold_is_the_conformal_rank():
    assert threshold(range(1, 10)) == 9 and threshold(range(1, 20)) == 18 and threshold(range(1, 30)) == 27
    assert threshold([3, 1]) == 3 and threshold([1, 2, 3], 0.5) == 2 and np.isnan(threshold([]))
    with pytest.raises(ValueError, match="level"):
        threshold([1], 0)


def test_an_alarm_is_the_first_point_above():
    assert alarm(np.array([0, 2, 1, 3]), 1) == 1 and alarm(np.array([0, 2]), 2) is None
    assert alarm(np.array([0, 2]), np.nan) is None


def test_noise_alone_is_no_fall():
    """The highest of 20 noisy means lies above the last one; found on one half and read on the other it does not."""
    rng = np.random.default_rng(5)
    flat = rng.normal(size=(300, L, P))
    falls = np.array([fall(x) for x in flat])
    naive = np.mean([x.mean(1).max() - x[-1].mean() for x in flat])
    assert naive > 0.2 and abs(falls.mean()) < 3 * falls.std() / np.sqrt(300)
    down = np.linspace(0, -1, L)[:, None] + np.zeros(P)
    assert fall(down) == pytest.approx(1) and fall(-down) == 0
    assert fall(down[:, :1]) == pytest.approx(1)


def test_the_area_counts_pairs_of_a_group():
    rng = np.random.default_rng(6)
    courses = [
        course(i // 2, rng, onset=[None, 9][i % 2], group=(g,), jump=1.0) for g in "ab" for i in range(8)
    ]
    above = []
    for bad in (c for c in courses if c.harmful):
        for good in (c for c in courses if not c.harmful and c.group == bad.group):
            above.append(bad.suspicions["good"].max() > good.suspicions["good"].max())
    value, low, high = area(courses, "good")
    assert value == pytest.approx(np.mean(above)) and 0 <= low <= value <= high <= 1
    points = []
    for g in "ab":
        group = [c for c in courses if c.group == (g,)]
        bad = np.concatenate([c.suspicions["good"][c.peak + 1 :] for c in group if c.harmful])
        good = np.concatenate([c.suspicions["good"][: c.quiet] for c in group])
        points.append((bad[:, None] > good).mean())
    assert area(courses, "good", points=True)[0] == pytest.approx(np.mean(points), abs=0.02)


def test_the_areas_interval_covers():
    hits = []
    for seed in range(120):
        _, low, high = area(study(10, seed=seed), "useless")
        hits.append(low <= 0.5 <= high)
    assert np.mean(hits) > 0.88


def test_runs_of_a_replicate_are_averaged_first():
    values, replicates = np.array([1.0, 3.0, 10.0]), np.array([0, 0, 1])
    mean, low, high = by_replicate(values, replicates)
    assert mean == 6 and low < 6 < high
    assert by_replicate(np.array([[1.0, 2.0]]), np.array([0]))[0] == 1.5
    assert (
        np.isnan(by_replicate(values[:1], replicates[:1])[1])
        and np.isnan(by_replicate(values[:0], values[:0])).all()
    )
