"""Transfer, agreement and probes on a synthetic study, against loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.intervals import two_way_interval
from rmlab.measure.underspecification import agreement, checks, probes, transfer
from rmlab.optimise.best_of_n import best_of_n, kl_bound
from rmlab.recipe import Replicates
from tests.measure.fake_scores import PROBES, P, grid, in_step

NS = np.array([1, 2, 4, 8, 16, 32, 64])


@pytest.fixture(scope="module")
def scores():
    return grid()


def picked(scores, m, judge):
    return best_of_n(m.pool[..., 0], judge, NS, scores.ended)


def test_a_single_models_winner_is_judged_by_itself_by_others_and_by_gold(scores):
    table = transfer(scores)
    singles = {(m.draw, m.backbone, m.finetune): m for m in scores.singles}
    gold = (scores.gold - scores.gold.mean()) / scores.gold.std()
    judges = {
        "self": lambda d, p, f: singles[d, p, f].pool[..., 0],
        "finetune": lambda d, p, f: singles[d, p, 1 - f].pool[..., 0],
        "pretrain": lambda d, p, f: np.mean(
            [singles[d, q, g].pool[..., 0] for q in range(3) if q != p for g in range(2)], 0
        ),
        "gold": lambda d, p, f: gold,
    }
    assert list(table.judged_by.unique()) == ["self", "gold", "finetune", "pretrain"]
    for name, judge in judges.items():
        rows = table[table.judged_by == name]
        each = np.stack([picked(scores, m, judge(*key)) for key, m in singles.items()])
        np.testing.assert_allclose(rows.score, each.mean((0, 1)), atol=1e-12)
        interval = two_way_interval(each.reshape(2, 6, P, 7).mean(1))  # a replicate's six are averaged first
        np.testing.assert_allclose(rows[["low", "high"]].T, [interval.low, interval.high])
        assert (rows.units == 2).all() and (rows.covers == "replicates and prompts").all()
        np.testing.assert_array_equal(rows.pressure, NS)
        np.testing.assert_array_equal(rows.kl, kl_bound(NS))
    end = table[table.pressure == 64].set_index("judged_by").score
    assert end["self"] > end["finetune"] and end["self"] > end["gold"]


def test_without_other_seeds_there_is_nobody_else_to_judge():
    assert set(transfer(grid(1, 2, 1)).judged_by) == {"self", "gold", "pretrain"}
    assert set(transfer(grid(1, 1, 2)).judged_by) == {"self", "gold", "finetune"}


def test_agreement_is_between_members_of_one_label_draw(scores):
    table = agreement(scores)
    counts = table.groupby(["draw", "relation"]).size().unstack()
    # of 6 single models, 3 pairs share a backbone and 12 do not; of 3 models with k heads each, k (k - 1) / 2 pairs
    assert (
        counts.loc[0].to_dict()
        == counts.loc[1].to_dict()
        == {"finetune": 3, "pretrain": 12, "heads 2": 3, "heads 4": 18}
    )
    members = {name: (m, k) for m in scores.members for k, name in enumerate(m.ids)}
    for row in table.sample(12, random_state=0).itertuples():
        (a, j), (b, k) = members[row.a], members[row.b]
        assert a.draw == b.draw == row.draw
        left, right = ((m.heldout[:, 0, i] - m.heldout[:, 1, i]).astype(float) for m, i in ((a, j), (b, k)))
        assert row.pairs_agree == np.mean((left > 0) == (right > 0))
        assert row.corr_heldout == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-6)
        one, two = a.pool[..., j].astype(float), b.pool[..., k].astype(float)
        within = np.mean([np.corrcoef(one[p], two[p])[0, 1] for p in range(P)])
        assert row.corr_pool == pytest.approx(within)
        gold, left = scores.gold, []
        for x in (one, two):  # what a prompt's mean and one slope on gold do not explain
            rows = [np.stack([x[p, e], gold[p, e]]) for p, e in enumerate(scores.ended)]
            x, g = np.concatenate([r - r.mean(1, keepdims=True) for r in rows], 1)
            left.append(x - g * (g @ x) / (g @ g))
        assert row.corr_error == pytest.approx(np.corrcoef(*left)[0, 1])
    mean = table.groupby("relation")[["corr_pool", "corr_error"]].mean()
    assert (mean.loc["heads 4"] > mean.loc["finetune"]).all() and (mean > 0).all(axis=None)
    assert mean.corr_error["heads 4"] == pytest.approx(0.9, abs=0.05)  # as planted
    assert mean.corr_error["finetune"] == pytest.approx(0.4, abs=0.1)


def test_reactions_are_changes_against_the_good_answer(scores):
    table = probes(scores)
    assert list(table) == ["reward_model", "probe", "label", "reaction"]
    gold = table[table.reward_model == "gold"].set_index("probe")
    assert list(gold.index) == list(PROBES[1:])
    for c, name in enumerate(PROBES[1:], 1):
        change = (scores.probe_gold[:, c] - scores.probe_gold[:, 0]).mean()
        assert gold.reaction[name] == pytest.approx(change)
    heads = next(m for m in scores.members if m.id == "d1/p2/heads4")
    row = table[(table.reward_model == "d1/p2/heads4.3") & (table.probe == "missing")].iloc[0]
    change = (heads.probes[:, 3, 3] - heads.probes[:, 0, 3]).mean()
    assert row.reaction == pytest.approx(change, abs=1e-6)
    assert len(table) == 3 * (1 + sum(m.k for m in scores.members))


def test_probes_carry_their_labels_where_the_source_has_some(scores):
    labels = probes(scores).drop_duplicates("probe").set_index("probe").label
    assert labels["wrong"] == "every fact stated wrong" and labels["missing"] == "missing"


def test_a_source_may_have_other_probes(scores):
    other = replace(scores, probe_names=("base", "wrong", "rude", "late"))
    assert set(probes(other).probe) == {"wrong", "rude", "late"}


def test_checks_are_a_row_a_backbone_of_its_replicate(monkeypatch):
    scores = in_step(2)
    recipe = replace(scores.recipe, replicates=Replicates(draws=2, backbones=3, finetune=1))
    shares = [{"right": i / 10, "wrong": i / 20} for i in range(6)]
    table = checks(replace(scores, recipe=recipe, checks=shares))
    assert table.replicate.tolist() == [0, 0, 0, 1, 1, 1] and table.backbone.tolist() == [0, 1, 2] * 2
    assert table.right.tolist() == [row["right"] for row in shares]
