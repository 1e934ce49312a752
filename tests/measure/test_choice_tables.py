"""Choices and certificates on synthetic studies whose best strength is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure import choice_tables as module
from rmlab.measure.choice_tables import choice_tables, measured
from rmlab.measure.choose import families
from tests.measure.fake_scores import grid, in_step, only

RULES = {
    "start",
    "all",
    "oracle",
    "hedge_tune",
    "hedge_tune_poisson",
    "law",
    "tilt",
    "chi_square",
    "certificate",
}


def case(bend: float, seed: int = 0, prompts: int = 64, answers: int = 512) -> module.Case:
    rng = np.random.default_rng(seed)
    proxy = rng.normal(size=(prompts, answers))
    gold = 0.7 * proxy - bend * np.maximum(proxy - 0.8, 0) ** 2 + 0.5 * rng.normal(size=proxy.shape)
    ended = rng.random(proxy.shape) < 0.95
    return module.Case(families(proxy, gold, ended, soft=False), proxy, gold, ended, None)


def test_rules_stop_near_the_peak_and_all_falls_below_the_start():
    rules, certificates = measured(case(1.2), "mean", np.random.default_rng(0), draws=10)
    gain = {rule: x["gain"].mean() for rule, x in rules.items()}
    regret = {rule: x["regret"].mean() for rule, x in rules.items()}
    assert gain["all"] < -0.5 < 0 < gain["oracle"] and gain["start"] == 0
    for rule in ("hedge_tune", "hedge_tune_poisson", "law", "certificate"):
        assert regret[rule] < 0.5 * regret["all"] and gain[rule] > 0, (rule, gain[rule])
        assert 1 < np.median(rules[rule]["strength"]) <= 64
    assert regret["oracle"] == 0 and certificates["best_of_n"]["wrong_all"].mean() <= 0.1
    assert certificates["best_of_n"]["largest_safe"][0] < 512


def test_rules_go_on_where_gold_rises():
    rules, certificates = measured(case(0.0), "mean", np.random.default_rng(0), draws=10)
    assert np.median(rules["certificate"]["strength"]) == 512 == certificates["best_of_n"]["largest_safe"][0]
    assert np.median(rules["hedge_tune"]["strength"]) >= 256
    assert rules["hedge_tune"]["regret"].mean() < 0.2 * rules["start"]["regret"].mean()
    assert certificates["tilt"]["some"].mean() > 0.9


@pytest.mark.parametrize("staked", [0, 2])
def test_a_level_that_losses_of_few_prompts_break_is_said_not_to_hold(staked):
    """Gold rises a little with the proxy; two prompts of 64 have an answer of proxy 12 that loses 10, which tilting stakes all on."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(64, 256))
    gold = 0.1 * proxy + 0.3 * rng.normal(size=proxy.shape)
    proxy[:staked, 0], gold[:staked, 0] = 12.0, -10.0
    ended = np.ones(proxy.shape, bool)
    one = module.Case(families(proxy, gold, ended, soft=False), proxy, gold, ended, None)
    _, certificates = measured(one, "mean", np.random.default_rng(1), draws=10)
    attained = {family: x["attained"][0] for family, x in certificates.items()}
    if staked:
        assert certificates["tilt"]["wrong_all"].mean() > 0.4 and attained["tilt"] > 0.25
    else:
        assert certificates["tilt"]["wrong_all"].mean() == 0 and max(attained.values()) < 0.13


def test_what_a_rule_earns_is_read_off_its_policy():
    one = case(0.5)
    rules, _ = measured(one, "mean", np.random.default_rng(1), draws=3)
    best = one.families["best_of_n"]
    np.testing.assert_allclose(rules["all"]["gold"], best.gold[:, -1])
    np.testing.assert_allclose(rules["start"]["kl"], best.kl[:, 0])
    np.testing.assert_allclose(rules["all"]["gain"], best.gold[:, -1] - best.gold[:, 0])


@pytest.fixture(scope="module")
def tables():
    return choice_tables(only(in_step(), "single", "finetune5", "heads5", "lora2"), draws=3)


def test_every_listed_ensemble_has_every_rule(tables):
    table = tables["choices"]
    rules = table.groupby(["ensemble", "aggregator"]).rule.agg(set)
    assert set(rules.index) == {
        ("single", "mean"),
        *((e, a) for e in ("finetune5", "heads5") for a in ("mean", "min")),
    }
    assert rules["single", "mean"] == RULES | {"soft"}
    assert rules["heads5", "mean"] == RULES | {"soft", "members"} and rules["heads5", "min"] == RULES | {
        "members"
    }
    assert (table.gain_low <= table.gain).all() and (table.units == 3).all()
    start = table[table.rule == "start"]
    assert (start.gain == 0).all() and (start.strength == 1).all()
    assert (table[table.rule == "oracle"].regret == 0).all()
    certificates = tables["certificates"]
    assert len(certificates) == 2 * len(rules) and certificates.violation.between(0, 1).all()
    assert certificates.level_attained.between(0.1, 1).all()
    assert certificates.level_holds.equals(certificates.level_attained <= 0.15)


def test_replicates_are_what_the_means_are_made_of(tables):
    keys, numbers = ["ensemble", "aggregator", "family"], ["certified", "gain", "violation", "violation_all"]
    by_replicate = tables["certificates_replicates"]
    means, counts = by_replicate.groupby(keys)[numbers].mean(), by_replicate.groupby(keys).replicate.agg(list)
    whole = tables["certificates"].set_index(keys)
    np.testing.assert_allclose(means, whole.loc[means.index, numbers], atol=1e-12)
    assert len(means) == len(whole) and all(x == [0, 1, 2] for x in counts)
    assert {"method", "k", "level", "labels"} <= set(by_replicate)
    spread = by_replicate.groupby(keys).gain.std().loc[whole.index]  # Student's over three replicates
    half = 4.302653 * spread / np.sqrt(3)
    np.testing.assert_allclose(whole.gain_high - whole.gain, half, rtol=1e-5)
    assert (spread > 0).any()


def test_the_same_study_gives_the_same_table_and_few_prompts_or_replicates_do_not_stop_it(tables):
    again = choice_tables(only(in_step(), "single", "finetune5", "heads5", "lora2"), draws=3)
    assert all(again[name].equals(table) for name, table in tables.items())
    scores = only(grid(draws=1), "single")
    small = choice_tables(replace(scores, recipe=replace(scores.recipe, matched=True)), draws=2)
    assert small["choices"].gold.notna().all() and small["certificates"].gain_low.isna().all()
