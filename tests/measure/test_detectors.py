"""Every rule on series whose answer is known, and none that looks ahead."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from rmlab.measure.detectors import (
    LARGEST,
    RULES,
    Seen,
    distribution_shift,
    entropy,
    judge_regret,
    outside_judges,
    predicted_peak,
    repetition,
    slope,
    suspicions,
)


def noisy(L: int = 12, K: int = 3, seed: int = 0) -> Seen:
    rng = np.random.default_rng(seed)
    series = {f.name: rng.random(L) for f in fields(Seen) if f.name not in {"kl", "law", "members", "lowest"}}
    kl = np.sort(rng.random(L)) * 5
    return Seen(kl, law="rl", members=rng.random((L, K)), lowest=rng.dirichlet(np.ones(K), L), **series)


def cut(seen: Seen, L: int) -> Seen:
    return replace(seen, **{f.name: getattr(seen, f.name)[:L] for f in fields(Seen) if f.name != "law"})


def test_no_rule_looks_ahead():
    whole = suspicions(noisy())
    assert tuple(whole) == RULES and len(RULES) >= 10
    for L in (1, 2, 5, 11):
        for name, series in suspicions(cut(noisy(), L)).items():
            np.testing.assert_allclose(series, whole[name][:L], err_msg=name)


def test_what_a_run_does_not_show_has_no_rule():
    bare = Seen(np.arange(4.0), np.arange(4.0), "best_of_n")
    assert set(suspicions(bare)) == {"kl_budget", "predicted_peak", "proxy_slope"}
    alone = replace(bare, members=np.ones((4, 1)), lowest=np.ones((4, 1)))
    assert set(suspicions(alone)) == set(suspicions(bare))  # one member has none to differ from


def test_drifts_are_from_the_first_point_in_the_direction_of_harm():
    x = np.array([2.0, 1.0, 4.0])
    seen = replace(
        cut(noisy(), 3),
        **dict.fromkeys(("spread", "length", "unended", "repetition", "entropy", "start_logprob"), x),
    )
    found = suspicions(seen)
    for name in ("spread_rise", "unended_rise", "repetition_rise"):
        assert found[name].tolist() == [0, -1, 2]
    for name in ("entropy_fall", "start_logprob_fall"):
        assert found[name].tolist() == [0, 1, -2]
    assert found["length_drift"].tolist() == [0, 1, 2]


def test_the_slope_is_least_squares_over_the_last_points():
    x = np.random.default_rng(0).normal(size=9)
    expected = [0, 0] + [
        np.polyfit(range(len(w)), w, 1)[0] for t in range(2, 9) for w in [x[max(0, t - 3) : t + 1]]
    ]
    np.testing.assert_allclose(slope(x, window=4), expected, atol=1e-12)


def test_a_judge_regrets_where_it_falls_while_the_proxy_rises():
    judge = np.array([0.0, 2, 1, 1, 3, 2])
    proxy = np.array([0.0, 1, 2, 0.5, 3, 3])
    assert judge_regret(judge, proxy).tolist() == [0, 0, 1, 0, 0, 0]


def test_the_worst_member_and_the_gap_of_the_judge():
    seen = replace(
        cut(noisy(), 3),
        proxy=np.array([0.0, 1, 2]),
        members=np.array([[0.0, 0], [1, 3], [0.5, 1]]),
        judge=np.array([5.0, 5.5, 5.5]),
        lowest=np.array([[0.5, 0.5], [0.5, 0.5], [1, 0]]),
    )
    found = suspicions(seen)
    assert found["member_regret"].tolist() == [0, 0, 2]
    assert found["judge_gap"].tolist() == [0, 0.5, 1.5]
    np.testing.assert_allclose(found["lowest_entropy"], [0, 0, np.log(2)])


@pytest.mark.parametrize("law", ["rl", "best_of_n"])
def test_the_peak_of_a_curve_that_follows_the_law_is_found(law):
    a, b = 2.0, 0.6
    d = np.linspace(0, 4, 15)
    bend = np.log(np.maximum(d, 1e-9)) if law == "rl" else d
    proxy = 7 + d * (a - b * bend)
    peak = np.exp(a / b - 1) if law == "rl" else a / (2 * b)
    found = predicted_peak(d**2, proxy, law)
    assert (found[:3] == 0).all()  # two points with a KL do not tell
    np.testing.assert_allclose(found[3:], d[3:] / peak, rtol=1e-6)
    if law == "best_of_n":  # the curve's own top is where it says
        assert np.abs(d[proxy.argmax()] - peak) < d[1]
        assert (predicted_peak(d**2, -proxy, law)[3:] == 0).all()
        assert predicted_peak(d**2, -(d**2) - d, law)[5] == LARGEST  # it only ever falls


def test_the_law_must_be_known():
    with pytest.raises(ValueError, match="law = 'ppo'"):
        predicted_peak(np.ones(3), np.ones(3), "ppo")


def test_entropy():
    np.testing.assert_allclose(entropy(np.array([[0.25] * 4, [1, 0, 0, 0]])), [np.log(4), 0])


def test_the_shift_is_kolmogorov_and_smirnovs():
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(m, 1, 60) for m in (0, 0.3, 2)]).round(1)  # with ties
    expected = [0, *(ks_2samp(values[0], row).statistic for row in values[1:])]
    np.testing.assert_allclose(distribution_shift(values), expected, atol=1e-12)
    union = values.ravel()
    weights = np.kron(np.eye(3), np.full((60, 1), 1 / 60))  # (180, 3): each point's own answers
    np.testing.assert_allclose(distribution_shift(union, weights), expected, atol=1e-12)


def test_repetition_is_the_share_of_pairs_seen_before():
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(1, 4, (2, 5, 9)), rng.integers(2, 10, (2, 5))
    expected = []
    for L in range(2):
        shares = []
        for row, n in zip(ids[L], lengths[L], strict=True):
            pairs = list(zip(row[: n - 1].tolist(), row[1:n].tolist(), strict=True))
            shares.append(1 - len(set(pairs)) / len(pairs))
        expected.append(np.mean(shares))
    np.testing.assert_allclose(repetition(ids, lengths), expected)
    assert repetition(ids[..., :1], np.ones((2, 5))).tolist() == [0, 0]
    one = repetition(np.array([[[3, 3, 3, 3], [1, 0, 0, 0]]]), np.array([[4, 1]]))
    np.testing.assert_allclose(one, [(2 / 3 + 0) / 2])  # an answer of one token repeats nothing


def scorer(draw: int, backbone: int, finetune: int, epochs: str = "", method: str = "single"):
    name = f"d{draw}/p{backbone}/f{finetune}{epochs}"
    return SimpleNamespace(id=name, method=method, draw=draw, backbone=backbone, finetune=finetune)


def test_judges_are_of_the_replicate_and_from_other_backbones_first():
    singles = [scorer(d, p, f) for d in (0, 1) for p in (0, 1, 2) for f in (0, 1)]
    singles += [scorer(1, 2, 0, "/e3"), scorer(1, 2, 5, method="heads")]

    def ids(*parts):
        return [s.id for s in outside_judges([scorer(1, p, f) for p, f in parts], singles)]

    assert ids((0, 0), (0, 1)) == ["d1/p1/f0", "d1/p2/f0"]
    assert ids((0, 0), (1, 0), (2, 0)) == ["d1/p0/f1", "d1/p1/f1"]
    assert ids((0, 0), (1, 0)) == ["d1/p2/f0", "d1/p2/f1"]
    assert ids(*((p, f) for p in range(3) for f in (0, 1))) == []
    assert ids(*((p, f) for p in range(3) for f in (0, 1) if (p, f) != (1, 1))) == ["d1/p1/f1"]
