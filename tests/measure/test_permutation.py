"""Permuted gold: the right sums, and the nominal rates where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.claims import Claim, Rows, find
from rmlab.measure.permutation import (
    FAMILY,
    PermutedRows,
    error_rates,
    gold_under,
    null_claims,
    permuted_gold,
    permuted_rows,
)
from rmlab.measure.pool_curves import best_of_n_curves
from rmlab.optimise.best_of_n import best_of_n, winner_chances
from tests.measure.fake_scores import grid, in_step

NS = [1, 4, 16, 64]
B = 150


def claim(name: str, quantity: str, left: tuple, right: tuple | None = None, **changes: object) -> Claim:
    keys = [dict(zip(("ensemble", "aggregator", "pessimism"), x, strict=True)) for x in (left, right) if x]
    read = {} if quantity in {"change", "fall"} else {"at": 16}
    fields = {"direction": "less" if not read else "greater", "margin": 0.1, "family": "primary", **read}
    fields |= {"left": keys[0], "right": keys[1] if right else None, "study": "s", "source": "rmlab"}
    return Claim(name, "A sentence.", quantity=quantity, **{**fields, **changes})


SINGLE, MEAN, MIN = ("single", "mean", "paper"), ("finetune3", "mean", "paper"), ("finetune3", "min", "paper")
CLAIMS = [
    claim("fall", "fall", SINGLE, peak_at_most=16),
    claim("mean", "gain", MEAN),
    claim("min", "gain", MIN),
    claim("min-mean", "gain", MIN, MEAN),
    claim("matched", "gold", ("heads5", "min", "matched"), ("finetune3", "min", "matched")),
    claim("change", "change", ("mixed7", "mean", "paper")),
]


@pytest.fixture(scope="module")
def scores():
    return in_step(6)


@pytest.fixture(scope="module")
def permuted(scores):
    return permuted_rows(scores, permuted_gold(scores.gold, B, seed=3), NS, CLAIMS)


def test_gold_under_chances_is_best_of_n():
    rng = np.random.default_rng(0)
    proxy, golds, ended = rng.integers(0, 20, (4, 32)), rng.normal(size=(5, 4, 32)), rng.random((4, 32)) < 0.8
    under = gold_under(winner_chances(proxy, NS[:3], ended), golds)
    direct = [best_of_n(proxy, gold, NS[:3], ended) for gold in golds]
    np.testing.assert_allclose(under, direct, atol=1e-12)
    with pytest.raises(ValueError, match=r"golds' shape"):
        gold_under(winner_chances(proxy, NS[:3], ended), golds[:, :3])


@pytest.mark.parametrize("study", [lambda: in_step(3), grid], ids=["in step", "grid"])
def test_without_a_permutation_the_rows_are_the_studys_own(study):
    scores = study()
    name = "finetune3" if scores.recipe.matched else "finetune2"
    claims = [
        claim("fall", "fall", SINGLE, peak_at_most=16),
        claim("gain", "gain", (name, "min", "paper"), SINGLE),
    ]
    claims += [claim("matched", "gain", (name, "min", "matched"))] if scores.recipe.matched else []
    own = ByPrompt.of(best_of_n_curves(scores)[0])
    rows = permuted_rows(scores, scores.gold[None], NS, claims).rows(0)
    assert {(s["ensemble"], s["aggregator"], s["pessimism"]) for s in rows.by_prompt.settings} == {
        tuple(keys.values()) for c in claims for keys in (c.left, c.right) if keys
    }
    for c in claims:
        expected = find(c, Rows("s", own))
        found = find(c, rows)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
        assert found.p == pytest.approx(expected.p, rel=1e-3) and expected.values.std() > 0


def test_a_permutation_moves_a_prompts_gold_among_its_answers():
    gold = np.arange(24.0).reshape(3, 8)
    golds = permuted_gold(gold, 20)
    np.testing.assert_array_equal(np.sort(golds, 2), np.broadcast_to(gold, (20, 3, 8)))
    order = golds - gold[:, :1]
    assert len({tuple(o) for o in order.reshape(-1, 8)}) > 50  # other ones for other prompts and permutations
    np.testing.assert_array_equal(permuted_gold(gold, 20), golds)
    np.testing.assert_array_equal(permuted_gold(-gold, 20), -golds)  # another study's pool of that shape
    assert (permuted_gold(gold, 20, seed=1) != golds).any()


def test_every_null_is_true_under_permutation(permuted):
    """Means over permutations are 0 within their error, the fall's among them: its peak is chosen elsewhere."""
    for c in CLAIMS:
        means = [find(c, permuted.rows(b)).values.mean() for b in range(B)]
        assert abs(np.mean(means)) < 3.5 * np.std(means) / np.sqrt(B), c.id
        assert np.std(means) > 0.01


def test_rates_are_nominal_where_nothing_is_true(permuted):
    table = error_rates(CLAIMS, {"s": permuted}).set_index("claim")
    assert list(table.index) == [*(c.id for c in CLAIMS), FAMILY] and (table.permutations == B).all()
    alone = table.loc[[c.id for c in CLAIMS]]
    assert (alone.alone_either_low <= 0.05).all() and (alone.alone_low <= 0.025).all()
    assert table.holds_low[FAMILY] <= 0.05 and table.holds[FAMILY] <= table.either[FAMILY] < 0.1
    assert (table.holds <= table.alone).all() and (table.alone <= table.alone_either).all()
    assert alone.alone_either.mean() > 0.005  # and not because nothing is ever found
    assert table.alone_either[FAMILY] > 0.05  # what Holm is for


def test_what_is_true_is_found(scores):
    """The study's own gold, again and again: gains are real there, and those of planted ones always hold."""
    golds = np.repeat(scores.gold[None], 5, 0)
    table = error_rates(CLAIMS, {"s": permuted_rows(scores, golds, NS, CLAIMS)}).set_index("claim")
    assert table.holds["mean"] == table.holds[FAMILY] == 1.0 and table.holds_low[FAMILY] > 0.5
    assert table.holds["change"] == 0.0 and table.either["change"] == 1.0  # gold rises: the other direction


def test_only_planted_gold_is_found():
    rng = np.random.default_rng(1)
    settings = [dict(zip(("ensemble", "aggregator", "pessimism"), x, strict=True)) for x in (SINGLE, MEAN)]
    gold = rng.normal(size=(40, 2, 6, 12, 4)).astype(np.float32)
    gold[:20, 1] += 3.0
    rows = PermutedRows(settings, np.array(NS), gold, np.zeros_like(gold))
    table = error_rates([claim("a", "gold", MEAN, SINGLE)], {"s": rows}).set_index("claim")
    assert 0.5 <= table.holds["a"] < 0.6 and table.holds["a"] == table.holds[FAMILY]


def test_which_claims_are_false_under_permutation():
    others = [
        claim("equivalent", "gain", MEAN, direction="equivalent"),
        claim("descriptive", "gain", MEAN, family="descriptive"),
        claim("elsewhere", "gain", MEAN, study="t"),
        claim("null", "gain", MEAN, null=-0.3),
        claim("level", "gold", MEAN),
        claim("table", "diversity.corr", MEAN, at=None),
        claim("proxy", "proxy", MEAN, SINGLE),
    ]
    assert null_claims([*CLAIMS, *others], "primary", ["s"]) == CLAIMS


def test_what_cannot_be_counted_is_named(scores, permuted):
    few = PermutedRows(permuted.settings, permuted.pressure, permuted.gold[:2], permuted.rival[:2])
    with pytest.raises(ValueError, match=r"permutations of studies = \[2, 150\]"):
        error_rates(CLAIMS, {"s": permuted, "t": few})
    with pytest.raises(ValueError, match="claims"):
        error_rates([], {"s": permuted})
    with pytest.raises(ValueError, match="claims"):
        permuted_rows(scores, scores.gold[None], NS, [claim("a", "gain", ("nobody", "min", "paper"))])
    with pytest.raises(ValueError, match="count = 0"):
        permuted_gold(scores.gold, 0)
