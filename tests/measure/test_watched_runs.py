"""What runs and sweeps show, against plain counting; and the tables that come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.alarms import fall
from rmlab.measure.detectors import RULES
from rmlab.measure.ensembles import RunResult
from rmlab.measure.watched_runs import detectors, seen_of_run, seen_of_sweep
from rmlab.optimise.best_of_n import best_of_n
from rmlab.reward.aggregate import aggregate
from tests.measure.fake_scores import in_step, only

L, B, T, K = 12, 40, 9, 3


def run(replicate: int, rng: np.random.Generator, harm: bool, kl_coef: float = 0.0) -> RunResult:
    """Twelve evaluations; where there is harm gold turns at the eighth, and answers move away and repeat themselves."""
    time = np.arange(L)
    late = np.maximum(time - 7, 0) * harm
    ids = rng.integers(1, 9, (L, B, T))
    for t in range(L):
        ids[t, :, : 2 * late[t]] = 5
    scores = time[:, None, None] * 0.1 + rng.normal(size=(L, B, K)) * (1 + late[:, None, None])
    gold = 0.2 * np.minimum(time, 7) - 0.4 * late
    record = {
        "step": time * 6,
        "ids": ids.astype(np.int16),
        "lengths": rng.integers(5, T + 1, (L, B)),
        "ended": rng.random((L, B)) < 0.9,
        "scores": scores.astype(np.float32),
        "proxy": scores.min(-1).astype(np.float32),
        "logprob": -rng.random((L, B)).astype(np.float32) - 3,
        "ref_logprob": -rng.random((L, B)).astype(np.float32) - 3 - time[:, None],
        "k1": (rng.random((L, B)) + time[:, None]).astype(np.float32),
    }
    views = {
        "judges": (scores[..., :2] - late[:, None, None]).astype(np.float32),
        "distance": rng.random((L, B)) + late[:, None],
        "training_distance": rng.random(500),
    }
    noisy = gold + rng.normal(0, 0.02, (20, L))
    rows = [{"step": int(t * 6)} for t in time]
    keys = {"ensemble": "heads5", "replicate": replicate, "number": 0, "aggregator": "min"}
    return RunResult(
        **keys,
        kl_coef=kl_coef,
        step_multiplier=1,
        rows=rows,
        gold=noisy,
        proxy=noisy,
        texts=[],
        record=record,
        views=views,
    )


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    base = only(in_step(10), "single", "heads5", "finetune5")
    runs = [run(r, rng, harm, 0.1 * (not harm)) for r in range(10) for harm in (True, False)]
    lengths = np.random.default_rng(1).integers(3, 20, base.gold.shape)
    return replace(base, ppo_runs=runs, lengths=lengths)


@pytest.fixture(scope="module")
def tables(scores):
    return detectors(scores)


def test_what_a_run_shows_is_counted(scores):
    r = scores.ppo_runs[0]
    seen, t = seen_of_run(r), 9
    record, views = r.record, r.views
    assert seen.spread[t] == pytest.approx(np.mean([np.std(x) for x in record["scores"][t].astype(float)]))
    counts = np.bincount([int(np.argmin(x)) for x in record["scores"][t]], minlength=K)
    np.testing.assert_allclose(seen.lowest[t], counts / B)
    assert seen.judge[t] == pytest.approx(views["judges"][t].mean(dtype=float))
    assert seen.kl[t] == pytest.approx(record["k1"][t].mean(dtype=float))
    assert seen.entropy[t] == pytest.approx(-record["logprob"][t].sum() / record["lengths"][t].sum())
    assert seen.start_logprob[t] == pytest.approx(record["ref_logprob"][t].sum() / record["lengths"][t].sum())
    limit = np.quantile(views["training_distance"], 0.99)
    assert seen.outliers[t] == np.mean([x > limit for x in views["distance"][t]])
    assert seen.unended[t] == pytest.approx(1 - record["ended"][t].mean()) and seen.law == "rl"


def test_a_run_without_judges_or_of_one_member_shows_less(scores):
    r = scores.ppo_runs[0]
    alone = replace(
        r,
        record=r.record | {"scores": r.record["scores"][..., :1]},
        views=r.views | {"judges": r.views["judges"][..., :0]},
    )
    seen = seen_of_run(alone)
    assert seen.judge is seen.spread is seen.members is seen.lowest is None and seen.outliers is not None
    assert seen_of_run(replace(alone, views=None)).outliers is None


def test_what_a_sweep_shows_is_exact_best_of_n(scores):
    e = next(e for e in scores.ensembles if e.name == "heads5")
    ns = np.array([1, 2, 4])
    seen, gold = seen_of_sweep(scores, e, "min", ns)
    proxy = aggregate(e.pool, "min")
    np.testing.assert_allclose(gold, best_of_n(proxy, scores.gold, ns, scores.ended).T)
    for name, values in (
        ("proxy", proxy),
        ("spread", e.pool.std(-1)),
        ("length", scores.lengths),
        ("judge", np.mean([m.pool[..., 0] for m in scores.members if m.id in {"d0/p1/f0", "d0/p2/f0"}], 0)),
    ):
        np.testing.assert_allclose(
            getattr(seen, name), best_of_n(proxy, values, ns, scores.ended).mean(0), rtol=1e-6
        )
    lowest = [best_of_n(proxy, (e.pool.argmin(-1) == k) * 1.0, ns, scores.ended).mean(0) for k in range(5)]
    np.testing.assert_allclose(seen.lowest.T, lowest)
    np.testing.assert_allclose(seen.lowest.sum(1), 1)
    assert seen.shift[0] == 0 and (np.diff(seen.shift) > 0).all() and seen.law == "best_of_n"


def test_planted_harm_is_seen_by_what_it_moves(tables):
    rows = tables["detectors"].query("where == 'ppo' and ensemble == 'all'").set_index("rule")
    for rule in ("spread_rise", "repetition_rise", "outlier_share"):
        row = rows.loc[rule]
        assert row.auc == 1 and row.caught == 1 and -12 <= row.lead <= 0, rule
        assert row.regret_high < rows.loc["never"].regret_low
    assert rows.loc["peek"].regret == 0 and rows.loc["never"].saved == 0
    assert rows.loc["judge_gap"].auc > 0.8 > rows.loc["unended_rise"].auc
    assert (rows.harmful == 10).all() and (rows.runs == 20).all() and (rows.units == 10).all()
    free = tables["detectors"].query("where == 'ppo' and kl_coef == 0").set_index("rule")
    assert free.auc.isna().all() and free.loc["spread_rise"].auc_points > 0.95  # no harmless run beside them


def test_alarms_are_a_row_a_run_where_each_rule_stopped_it(tables, scores):
    table = tables["alarms"]
    ppo, sweeps = table[table["where"] == "ppo"], table[table["where"] == "best_of_n"]
    assert len(ppo) == 20 and len(sweeps) == 10 * (1 + 3 + 3)
    assert ppo.harmful.tolist() == [fall(r.gold.T) > 0.1 for r in scores.ppo_runs]
    assert set(RULES) <= set(table) and ppo.end.eq(66).all() and sweeps.peak.isin([1, 2, 4, 8]).all()
    stopped = ppo.spread_rise.dropna()
    assert stopped.isin(np.arange(L) * 6).all()
    harmful = ppo[ppo.harmful]
    row = tables["detectors"].query("where == 'ppo' and kl_coef == 0 and rule == 'spread_rise'").iloc[0]
    assert row.lead == pytest.approx((harmful.peak - harmful.spread_rise.fillna(66)).mean())


def test_replicates_are_what_the_means_are_made_of(tables, scores):
    keys = ["where", "ensemble", "aggregator", "kl_coef", "step_multiplier", "rule"]
    of_sweeps = {"kl_coef": -1.0, "step_multiplier": -1.0}  # which have none
    by_replicate, whole = (tables[name].fillna(of_sweeps) for name in ("detectors_replicates", "detectors"))
    numbers, whole = ["regret", "saved"], whole.query("runs > 0").set_index(keys)
    means = by_replicate.groupby(keys)[numbers].mean()
    assert len(means) == len(whole) > 100 and not by_replicate.duplicated([*keys, "replicate"]).any()
    np.testing.assert_allclose(means, whole.loc[means.index, numbers], atol=1e-12)
    own = by_replicate.query("where == 'ppo' and kl_coef == 0").set_index(["rule", "replicate"])
    for r in (r for r in scores.ppo_runs if r.kl_coef == 0):
        gold = r.gold.mean(0)
        assert own.regret["never", r.replicate] == pytest.approx(gold.max() - gold[-1])
        stopped = tables["alarms"].query(f"kl_coef == 0 and replicate == {r.replicate}").spread_rise.iloc[0]
        at = -1 if np.isnan(stopped) else int(stopped / 6)
        assert own.saved["spread_rise", r.replicate] == pytest.approx(gold[at] - gold[-1])
    both = by_replicate.query("where == 'ppo' and ensemble == 'all' and rule == 'never'").set_index(
        "replicate"
    )
    each = [r.gold.mean(0) for r in scores.ppo_runs if r.replicate == 4]
    assert len(each) == 2 and both.regret[4] == pytest.approx(np.mean([g.max() - g[-1] for g in each]))


def test_sweeps_by_replicate_are_of_listed_ensembles_and_all():
    tables = detectors(only(in_step(2), "single", "finetune3"))
    table = tables["detectors_replicates"]
    assert set(table.ensemble) == {"single", "all"} and set(table.replicate) == {0, 1}
    assert set(tables["detectors"].ensemble) == {"single", "finetune3", "all"}


def test_settings_and_rules_are_those_that_exist(tables):
    table = tables["detectors"]
    single = table[(table.ensemble == "single")].rule
    assert "spread_rise" not in set(single) and {"judge_gap", "peek", "never"} <= set(single)
    sweeps = table[table["where"] == "best_of_n"]
    assert not set(sweeps.rule) & {"entropy_fall", "outlier_share", "repetition_rise", "unended_rise"}
    assert set(sweeps.aggregator) == {"mean", "min", "mean_std", "all"}
    keys = ["where", "ensemble", "aggregator", "kl_coef", "step_multiplier", "rule"]
    assert not table.duplicated(keys).any()


def test_one_replicate_gives_no_threshold_and_no_crash(scores):
    alone = only(in_step(1), "single", "heads5")
    tables = detectors(replace(alone, ppo_runs=[r for r in scores.ppo_runs if r.replicate == 0]))
    rules = tables["detectors"].query("rule not in ('peek', 'never')")
    assert set(tables["detectors_replicates"].rule) == {"peek", "never"}
    assert (rules.runs == 0).all() and rules[["regret", "caught", "lead_kl"]].isna().all(axis=None)
    assert tables["alarms"][list(RULES)].isna().all(axis=None)


def test_runs_that_were_not_recorded_are_left_out(scores):
    bare = [replace(r, record=None) for r in scores.ppo_runs]
    assert set(detectors(replace(scores, ppo_runs=bare))["alarms"]["where"]) == {"best_of_n"}
