"""What winners hold, against enumeration, and hacks that are planted in members and in some of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rmlab.measure import hacks as module
from rmlab.measure.hacks import hacks
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.winners import winner_means
from rmlab.optimise.best_of_n import n_grid
from tests.measure.fake_scores import N, P, grid, in_step, only

TERMS = ("list", "fact", "never")


def with_terms(scores, seed=0):
    """A list in 8% of the answers, a fact or more in half of them."""
    rng = np.random.default_rng(seed)
    terms = np.stack([rng.random((P, N)) < 0.08, rng.poisson(0.7, (P, N)), np.zeros((P, N))], -1)
    return replace(scores, terms=terms.astype(np.uint8), term_names=TERMS)


def liking(scores, bonus):
    """The study with members that like lists by a bonus each, (K,) or one for all."""
    listed = (scores.terms[..., :1] > 0).astype(np.float32)
    members = {m.id: replace(m, pool=m.pool + listed * np.float32(bonus)) for m in scores.members}
    ensembles = [
        replace(e, parts=tuple(members[p.id] for p in e.parts), rivals=tuple(members[p.id] for p in e.rivals))
        for e in scores.ensembles
    ]
    return replace(scores, members=list(members.values()), ensembles=ensembles)


@pytest.fixture(scope="module")
def scores():
    return with_terms(in_step())


def test_rates_and_counts_are_those_of_all_draws(monkeypatch):
    monkeypatch.setattr(module, "AFTER", 3)
    scores = with_terms(in_step(1))
    keep = np.s_[:2, :6]
    members = {m.id: replace(m, pool=m.pool[keep]) for m in scores.members}
    e = next(e for e in scores.ensembles if e.name == "lora2")
    e, single = (
        replace(x, parts=tuple(members[p.id] for p in x.parts), rivals=tuple(members[p.id] for p in x.rivals))
        for x in (e, scores.ensembles[0])
    )
    terms = np.random.default_rng(1).poisson(1.0, (2, 6, 3)).astype(np.uint8)
    ended = np.array([[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1]], bool)
    small = replace(
        scores, members=[], ensembles=[single, e], gold=scores.gold[keep], ended=ended, terms=terms
    )
    table = hacks(small).set_index(["ensemble", "aggregator", "n", "term"]).sort_index()
    choosers = {
        "mean": [e.pool.mean(-1)],
        "min": [e.pool.min(-1)],
        "member": [e.pool[..., 0], e.pool[..., 1]],
    }
    for rule, choosing in choosers.items():
        for n in (3, 6):
            for f, term in enumerate(TERMS):
                won = np.zeros((2, 2))  # rate and count, of each prompt
                for p in range(2):
                    for score in choosing:
                        draws = [[a for a in d if ended[p, a]] for d in combinations(range(6), n)]
                        held = [terms[p, max(d, key=lambda a: score[p, a]), f] for d in draws if d]
                        won[p] += np.array([np.mean(np.array(held) > 0), np.mean(held)]) / len(choosing)
                row = table.loc[("lora2", rule, n, term)]
                np.testing.assert_allclose([row["rate"], row["count"]], won.mean(0))
    first = np.mean([(terms[p, ended[p]] > 0).mean(0) for p in range(2)], 0)
    np.testing.assert_allclose(table.loc[("single", "mean", 1)].rate, first)
    assert table.loc[("lora2", "min", 6, "list")].before == pytest.approx(first[0])


def test_n_is_1_for_single_alone_and_terms_that_never_occur_have_no_row(scores):
    table = hacks(scores)
    assert set(table.term) == {"list", "fact"} and set(table.n) == {1, 64}
    assert set(table[table.n == 1].ensemble) == {"single"}
    rules = table.groupby("ensemble").aggregator.agg(set)
    assert rules["single"] == rules["average5"] == {"mean"} and rules["finetune5"] == {"mean", "min"}
    assert rules["heads5"] == rules["mixed7"] == {"member", "mean", "min"}
    assert not table.duplicated(["ensemble", "aggregator", "n", "term"]).any() and (table.units == 3).all()


def test_a_hack_that_all_members_like_goes_through_the_ensemble_and_that_of_one_does_not(scores):
    """All five heads like lists by 4: the ensemble as much as any. One does: the minimum never."""
    table = hacks(liking(scores, 4.0)).set_index(["ensemble", "aggregator", "n", "term"]).sort_index()
    single, before = table.loc[("single", "mean", 64, "list")], table.loc[("single", "mean", 1, "list")]
    assert 0.05 < before.rate < 0.11 and before.low < before.rate < before.high
    assert single.rate > 0.5 and single.before == before.rate
    for rule in ("member", "mean", "min"):
        assert table.loc[("heads5", rule, 64, "list")].rate > 0.5

    listed = (scores.terms[..., :1] > 0) * np.array([15.0, 0, 0, 0, 0])
    e = next(e for e in scores.ensembles if e.name == "heads5")
    one = [
        replace(x, parts=(replace(x.parts[0], pool=(x.pool + listed).astype(np.float32)),))
        if x.name == e.name
        else x
        for x in scores.ensembles
    ]
    table = (
        hacks(replace(scores, ensembles=one)).set_index(["ensemble", "aggregator", "n", "term"]).sort_index()
    )
    member, mean, least = (table.loc[("heads5", rule, 64, "list")] for rule in ("member", "mean", "min"))
    assert 0.2 < member.rate < 0.4 and mean.rate > 0.6 and least.rate < 0.2


def test_an_interval_is_over_replicates_whose_instances_are_averaged():
    scores = with_terms(grid())
    table = hacks(scores)
    row = table[
        (table.ensemble == "heads4") & (table.aggregator == "min") & (table.n == 64) & (table.term == "fact")
    ].iloc[0]
    held = (scores.terms[..., 1:2] > 0).astype(float)
    found = [
        winner_means(e.pool.min(-1), held, n_grid(N)[-1:], scores.ended)[:, 0, 0]
        for e in scores.ensembles
        if e.name == "heads4"
    ]
    band = two_way_interval(np.reshape(found, (2, 3, -1)).mean(1))
    np.testing.assert_allclose(
        [row.rate, row.low, row.high], [band.mean, max(band.low, 0), min(band.high, 1)]
    )


def test_rates_stay_between_0_and_1(scores):
    table = hacks(liking(only(scores, "single", "finetune3"), 9.0))
    assert table[["rate", "low", "high"]].stack().between(0, 1).all() and (table.high == 1).any()


def test_a_source_without_a_bill_is_refused():
    with pytest.raises(ValueError, match="terms"):
        hacks(in_step())
    with pytest.raises(ValueError, match="terms' shape"):
        replace(with_terms(in_step()), term_names=("list",))
