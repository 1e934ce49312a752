"""Curves on synthetic pools: brute force, matched penalties, copies, the oracle, the exact tilted policies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure import pool_curves as module
from rmlab.measure.compare import Setting
from rmlab.measure.ensembles import StudyScores, by_name
from rmlab.measure.pool_curves import best_of_n_curves, exact_curves, matched_penalty, stated_strength
from rmlab.optimise.best_of_n import best_of_n, ess, kl_bound
from rmlab.optimise.tilt import beta_for_kl, tilted_weights
from rmlab.reward.aggregate import aggregate
from tests.measure.fake_scores import N, P, grid, in_step, only, with_copies

NS = [1, 2, 4, 8, 16, 32, 64]
PENALTIES = ("min", "mean_std", "uwo")
SEVERAL = {"finetune5", "finetune3", "pretrain3", "heads2", "heads5", "lora2", "mixed7"}


def curves_of(scores):
    return {
        (c.setting.ensemble, c.setting.aggregator, c.setting.pessimism): c
        for c in best_of_n_curves(scores)[0]
    }


@pytest.fixture(scope="module")
def scores():
    return in_step()


@pytest.fixture(scope="module")
def curves(scores):
    return curves_of(scores)


def test_every_ensemble_has_a_curve_under_every_aggregator(scores, curves):
    expected = {(name, "mean", "paper") for name in ("single", "average5", "oracle")}
    for name in SEVERAL:
        expected |= {(name, a, "paper") for a in scores.recipe.aggregators}
        expected |= {(name, a, "matched") for a in PENALTIES}
    assert set(curves) == expected
    for curve in curves.values():
        assert curve.pressure.tolist() == NS and curve.replicates == [0, 1, 2]
        np.testing.assert_array_equal(curve.kl, kl_bound(np.array(NS)))
        np.testing.assert_array_equal(curve.columns["ess"], ess(N, NS))
        assert curve.gold.shape == curve.proxy.shape == curve.gain.shape == (3, P, 7)


def test_curves_equal_best_of_n_replicate_by_replicate(scores, curves):
    groups = by_name(scores.ensembles)
    single = [best_of_n(e.pool[..., 0], scores.gold, NS, scores.ended) for e in groups["single"]]
    for aggregator in scores.recipe.aggregators:
        curve = curves["lora2", aggregator, "paper"]
        for u, e in enumerate(groups["lora2"]):
            proxy = aggregate(e.pool, aggregator)
            gold = best_of_n(proxy, scores.gold, NS, scores.ended)
            np.testing.assert_array_equal(curve.gold[u], gold)
            np.testing.assert_array_equal(curve.proxy[u], best_of_n(proxy, proxy, NS, scores.ended))
            np.testing.assert_array_equal(curve.gain[u], gold - single[u])


def test_matched_penalties_are_all_the_target_on_every_unit(scores, curves):
    groups = by_name(scores.ensembles)
    gaps = [(e.pool.mean(-1) - e.pool.min(-1))[scores.ended].mean() for e in groups["finetune5"]]
    target = matched_penalty(scores)
    assert target == pytest.approx(np.mean(gaps), rel=1e-5)
    matched = [c for c in curves.values() if c.setting.pessimism == "matched"]
    assert len(matched) == len(SEVERAL) * len(PENALTIES)
    for curve in matched:
        np.testing.assert_allclose(curve.penalty, target, rtol=1e-5)


def test_a_matched_score_is_the_mean_minus_a_scaled_penalty(scores, curves):
    curve, target = curves["heads5", "uwo", "matched"], matched_penalty(scores)
    for u, e in enumerate(by_name(scores.ensembles)["heads5"]):
        members = e.pool.astype(np.float64)
        strength = target / members.var(-1)[scores.ended].mean()
        score = members.mean(-1) - strength * members.var(-1)
        np.testing.assert_allclose(curve.gold[u], best_of_n(score, scores.gold, NS, scores.ended), atol=1e-3)
        assert curve.strength[u] == pytest.approx(strength, rel=1e-4)


def test_matching_the_reference_to_itself_changes_little_and_weak_penalties_are_strengthened(curves):
    strength = {key: curve.strength.mean() for key, curve in curves.items()}
    assert strength["finetune5", "min", "matched"] == pytest.approx(1, abs=0.05)
    assert strength["heads5", "min", "matched"] > 2  # heads differ less
    assert strength["heads5", "min", "paper"] == strength["heads5", "mean_std", "paper"] == 1
    assert np.isnan(strength["heads5", "median", "paper"]) and np.isnan(strength["heads5", "mean", "paper"])


def test_without_matching_only_aggregators_with_a_strength_have_one(scores):
    every = ("min", "max", "median", "mean_std", "uwo", "quantile", "entropic")
    plain = curves_of(replace(scores, recipe=replace(scores.recipe, matched=False, aggregators=every)))
    assert {pessimism for *_, pessimism in plain} == {"paper"}
    stated = {a: plain["lora2", a, "paper"].strength.mean() for a in every}
    np.testing.assert_equal(stated, {a: stated_strength(a) for a in every})
    assert {a for a, x in stated.items() if np.isnan(x)} == {"min", "max", "median"}
    assert stated["quantile"] == 0.25 and stated["uwo"] == 1
    assert ("lora2", "mean", "paper") in plain  # what gains and comparisons are read from


def test_the_single_model_gains_exactly_nothing(curves):
    assert not curves["single", "mean", "paper"].gain.any()


def test_ensembles_of_independent_members_gain_more_than_ones_that_agree(curves):
    end = {name: curves[name, "mean", "paper"].gain[..., -1].mean() for name in ("finetune5", "heads5")}
    assert end["finetune5"] > end["heads5"]


def test_the_oracle_chooses_by_gold_and_is_the_same_on_every_replicate(scores, curves):
    oracle = curves["oracle", "mean", "paper"]
    best = best_of_n(scores.gold, scores.gold, NS, scores.ended)
    for u, unit in enumerate(oracle.units):
        assert unit == (u, "oracle")
        np.testing.assert_array_equal(oracle.gold[u], best)
        np.testing.assert_array_equal(oracle.proxy[u], best)
    others = [c.gold.mean((0, 1)) for key, c in curves.items() if key[0] != "oracle"]
    assert (oracle.gold.mean((0, 1)) >= np.max(others, 0) - 1e-12).all()


def test_answers_that_never_end_win_nothing(scores, curves):
    bait = np.where(scores.ended, 0, 99)[..., None].astype(np.float32)
    baited = {m.id: replace(m, pool=m.pool + bait) for m in scores.members}

    def renamed(e):
        parts, rivals = (tuple(baited[m.id] for m in group) for group in (e.parts, e.rivals))
        return replace(e, parts=parts, rivals=rivals)

    ensembles = [renamed(e) for e in scores.ensembles]
    other = curves_of(replace(scores, members=list(baited.values()), ensembles=ensembles))
    # at n = N an answer that ends always wins; the penalty never saw the others
    for key, curve in curves.items():
        np.testing.assert_allclose(curve.gold[..., -1], other[key].gold[..., -1], atol=1e-6)
        np.testing.assert_allclose(curve.penalty, other[key].penalty, rtol=1e-4)


def test_copies_have_no_penalty_to_match(scores):
    curves, left_out = best_of_n_curves(with_copies(scores))
    copies = {c.setting: c for c in curves if c.setting.ensemble == "copies5"}
    assert {(s.aggregator, s.pessimism) for s in copies} == {(a, "paper") for a in scores.recipe.aggregators}
    assert list(left_out.aggregator) == list(PENALTIES) and (left_out.ensemble == "copies5").all()
    assert left_out.strength.isna().all() and set(left_out.pessimism) == {"matched"}
    assert set(left_out.reason) == {"members are copies (replicates 0, 1, 2)"}
    first, *others = copies.values()
    for other in others:
        np.testing.assert_allclose(other.gold, first.gold, atol=1e-6)


def test_what_was_not_compared_is_not_left_out(scores):
    few = replace(scores, recipe=replace(scores.recipe, aggregators=("mean", "min", "median")))
    assert list(best_of_n_curves(with_copies(few))[1].aggregator) == ["min"]
    unmatched = replace(scores, recipe=replace(scores.recipe, matched=False))
    assert best_of_n_curves(with_copies(unmatched))[1].empty


def test_single_models_alone_need_no_reference(scores):
    alone = only(scores, "single", "average5")
    assert matched_penalty(alone) is None
    assert set(curves_of(alone)) == {(n, "mean", "paper") for n in ("single", "average5", "oracle")}


def test_without_finetune5_the_largest_ensemble_of_finetuning_seeds_is_matched(scores):
    names = {e.name for e in scores.ensembles} - {"finetune5"}
    group = by_name(scores.ensembles)["finetune3"]
    gaps = [(e.pool.mean(-1) - e.pool.min(-1))[scores.ended].mean() for e in group]
    assert matched_penalty(only(scores, *names)) == pytest.approx(np.mean(gaps), rel=1e-5)


def test_a_study_without_finetuning_seeds_has_nothing_to_match(scores):
    with pytest.raises(ValueError, match=r"ensembles = \['lora2', 'single'\]: give one of finetuning seeds"):
        best_of_n_curves(only(scores, "single", "lora2"))


def test_a_reference_of_copies_is_refused(scores):
    with pytest.raises(ValueError, match="members of finetune5 = 'copies'"):
        best_of_n_curves(with_copies(scores, "finetune5", "finetune5"))


def test_the_order_of_ensembles_changes_no_number(scores, curves):
    other = curves_of(replace(scores, ensembles=scores.ensembles[::-1], members=scores.members[::-1]))
    assert set(other) == set(curves)
    for key, curve in curves.items():
        assert other[key].units == curve.units
        for quantity in ("gold", "proxy", "gain", "penalty"):
            np.testing.assert_allclose(getattr(other[key], quantity), getattr(curve, quantity), rtol=1e-9)


def test_an_instance_is_measured_against_every_single_model_on_its_backbones():
    scores = grid()
    curves, single = curves_of(scores), {}
    for m in scores.singles:
        single[m.draw, m.backbone, m.finetune] = best_of_n(m.pool[..., 0], scores.gold, NS, scores.ended)
    singles = curves["single", "mean", "paper"]
    assert len(singles.units) == 12 and singles.gold.shape == (2, P, 7) and not singles.gain.any()
    every = [np.mean([x for (d, _, _), x in single.items() if d == draw], 0) for draw in range(2)]
    np.testing.assert_allclose(singles.gold, every)
    heads, pretrain = curves["heads4", "min", "paper"], curves["pretrain3", "min", "paper"]
    for curve in (
        heads,
        pretrain,
        curves["finetune2", "uwo", "paper"],
    ):  # on every backbone: all of the replicate
        np.testing.assert_allclose(curve.gold - curve.gain, every)
    for u, (d, p) in enumerate((d, p) for d in range(2) for p in range(3)):
        rival = ((single[d, p, 0] + single[d, p, 1]) / 2).mean(0)
        np.testing.assert_allclose(heads.by_unit["gold"][u] - heads.by_unit["gain"][u], rival)
        assert heads.units[u] == (d, "+".join(f"d{d}/p{p}/heads4.{k}" for k in range(4)))
    one = [
        e
        for e in scores.ensembles
        if e.name in {"single", "heads4"} and (e.name == "single" or e.number == 1)
    ]
    alone = curves_of(replace(scores, ensembles=one))["heads4", "min", "paper"]
    on_it = [(single[d, 1, 0] + single[d, 1, 1]) / 2 for d in range(2)]
    np.testing.assert_allclose(alone.gold - alone.gain, on_it)  # an ensemble on one backbone: its own alone
    assert [u.replicate for u in curves["oracle", "mean", "paper"].units] == [0, 1]


@pytest.mark.parametrize("study", [lambda: in_step(1), lambda: grid(1, 2, 2)], ids=["in step", "grid"])
def test_tilted_policies_reach_equal_kl_and_gain_over_single_models_at_the_same(study, monkeypatch):
    targets = [0.5, 2.0]
    monkeypatch.setattr(module, "KLS", (0.01, *targets, 5.0))  # the pool represents two of them
    scores = study()
    ensemble = next(e for e in scores.ensembles if e.name in {"pretrain2", "finetune3"} and e.number == 0)
    scores = replace(scores, ensembles=[e for e in scores.ensembles if e.name == "single"] + [ensemble])
    curves = {c.setting: c for c in exact_curves(scores, ("min",))}
    single = Setting("single", "single", 1, "mean", optimiser="tilt")
    several = Setting(ensemble.name, ensemble.method, ensemble.k, "min", optimiser="tilt")
    assert set(curves) == {replace(s, optimiser=o) for s in (single, several) for o in ("tilt", "best_of_n")}

    def weights(pool):
        proxy = aggregate(pool, "min").astype(np.float64)
        return [tilted_weights(proxy, beta_for_kl(proxy, k, scores.ended), scores.ended) for k in targets]

    np.testing.assert_allclose(curves[several].kl, targets, atol=1e-6)
    gold = [(w * scores.gold).sum(1) for w in weights(ensemble.pool)]
    np.testing.assert_allclose(curves[several].gold[0].T, gold)
    rivals = [[(w * scores.gold).sum(1) for w in weights(m.pool)] for m in ensemble.rivals]
    np.testing.assert_allclose((curves[several].gold - curves[several].gain)[0].T, np.mean(rivals, 0))
    effective = [[(1 / (w**2).sum(1)).mean() for w in weights(m.pool)] for m in scores.singles]
    np.testing.assert_allclose(curves[single].columns["ess"], np.mean(effective, 0))
    assert not curves[single].gain.any()
    assert np.isnan(curves[single].strength).all() and np.isnan(curves[single].penalty).all()


def test_best_of_n_beside_tilted_policies_has_its_exact_kl(scores, monkeypatch):
    monkeypatch.setattr(module, "KLS", (1.0,))
    every = ("mean", "mean_std")
    curves = {c.setting: c for c in exact_curves(only(scores, "single", "lora2"), every)}
    lora = [c for s, c in curves.items() if (s.ensemble, s.optimiser) == ("lora2", "best_of_n")]
    assert [c.setting.aggregator for c in lora] == list(every) and lora[1].strength.tolist() == [1, 1, 1]
    for curve in lora:
        assert curve.pressure.tolist() == NS and curve.kl_name == "exact on the pool"
        assert (np.diff(curve.kl) > 0).all() and curve.kl[-1] < np.log(N)
        assert curve.gold.shape == (3, P, 7)


def test_a_pool_too_small_for_every_kl_gets_one_that_it_represents(scores):
    few = scores.gold[:, :4]
    ensembles = []
    for e in by_name(scores.ensembles)["single"]:
        m = replace(e.parts[0], pool=e.parts[0].pool[:, :4])
        ensembles.append(replace(e, parts=(m,), rivals=(m,)))
    ended = np.ones((P, 4), bool)
    ended[0, 1:] = False  # one prompt has one answer: nothing to choose from
    curve = exact_curves(StudyScores(scores.recipe, [], ensembles, few, ended), ("mean",))[0]
    assert curve.pressure.shape == (1,) and 0 < curve.kl[0] < np.log(4)
