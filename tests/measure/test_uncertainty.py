"""Planted errors: an uncertainty that knows their size sees them as well as it can, and one that knows nothing sees nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm, spearmanr

from rmlab.measure import uncertainty as un
from rmlab.measure.ensembles import EnsembleResult, MemberScores, StudyScores
from rmlab.measure.pool_curves import best_of_n_curves, matched_penalty
from rmlab.optimise.best_of_n import best_of_n, n_grid
from rmlab.recipe import Recipe, Replicates
from rmlab.study.presets import best_of_n as best_of_n_preset
from rmlab.study.presets import best_of_n_sighted, quick, sweeps, tiny_constructions, tiny_ppo
from rmlab.study.sweep import parts_of
from tests.measure.fake_scores import in_step, with_copies

WIDE = 3.0  # times as large are the errors of half of the answers


def member(name: str, draw: int, pool: np.ndarray) -> MemberScores:
    pool = pool.astype(np.float32)
    return MemberScores(
        f"d{draw}/{name}", name, draw, 0, 0, {}, {}, np.zeros((2, 2, pool.shape[-1])), pool=pool
    )


def planted(D: int = 4, P: int = 24, N: int = 1024, seed: int = 0) -> StudyScores:
    """Gold plus errors of two sizes; "knows" is that size, "nothing" is noise."""
    rng = np.random.default_rng(seed)
    gold, ensembles, distances = rng.normal(size=(P, N)), [], []
    for d in range(D):
        size = rng.choice([1.0, WIDE], (P, N))
        error = rng.normal(size=(P, N)) * size
        single = member("single", d, (gold + error)[..., None])
        other = member("other", d, rng.normal(size=(P, N, 1)))
        ensembles += [
            EnsembleResult("single", "single", d, 0, (single,), (single,)),
            EnsembleResult("finetune2", "finetune", d, 0, (single, other), (single,)),
        ]
        distances.append({"knows": size.astype(np.float32), "nothing": rng.random((P, N)).astype(np.float32)})
    recipe = Recipe("planted", None, replicates=Replicates(D, 1, 1), matched=True)
    members = [p for e in ensembles for p in e.parts]
    return StudyScores(recipe, members, ensembles, gold, rng.random((P, N)) < 2, distances=distances)


@pytest.fixture(scope="module")
def study():
    return planted()


@pytest.fixture(scope="module")
def tables(study):
    return un.uncertainty(study)


def row(table, **keys):
    found = table
    for name, value in keys.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def exact_auroc(tails: float) -> float:
    """Of a score that is the errors' size, 1 or 3 by equal chance, for the tenth with the largest errors on 1 or 2 tails."""

    def share(t: float, size: float) -> float:
        return tails * norm.sf(t / size)

    t = brentq(lambda t: (share(t, 1) + share(t, WIDE)) / 2 - 0.1, 0, 20)
    event = share(t, WIDE) / 2 / 0.1
    other = (1 - share(t, WIDE)) / 2 / 0.9
    return (1 + event - other) / 2  # ties count half


@pytest.mark.parametrize(("error", "tails"), [("absolute", 2), ("signed", 1)])
def test_the_size_of_planted_errors_sees_them_as_well_as_it_can(tables, error, tails):
    found = row(tables["uncertainty"], score="knows", n=1, error=error)
    assert found.auroc == pytest.approx(exact_auroc(tails), abs=0.006) and found.auroc > 0.7
    assert found.auroc_low < exact_auroc(tails) < found.auroc_high and found.share == pytest.approx(
        0.1, abs=1e-3
    )


def test_ranks_of_planted_errors_correlate_as_they_do_in_a_large_sample(tables):
    rng = np.random.default_rng(9)
    size = rng.choice([1.0, WIDE], 200_000)
    error = rng.normal(size=200_000) * size
    for name, values in (("absolute", np.abs(error)), ("signed", error)):
        found = row(tables["uncertainty"], score="knows", n=1, error=name)
        assert found.corr_rank == pytest.approx(spearmanr(size, values)[0], abs=0.01)


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.parametrize("error", un.ERRORS)
def test_a_score_that_knows_nothing_sees_nothing(tables, n, error):
    found = row(tables["uncertainty"], score="nothing", n=n, error=error)
    assert found.auroc == pytest.approx(0.5, abs=0.05 if n > 1 else 0.01)
    assert found.auroc_low < 0.5 < found.auroc_high and found.corr_rank_low < 0 < found.corr_rank_high
    assert found.outliers == pytest.approx(0.01, abs=0.01 if n > 1 else 1e-3)


def test_winners_err_upwards_and_where_errors_are_large(tables):
    typical, winners = (row(tables["uncertainty"], score="knows", n=n, error="signed") for n in (1, 64))
    assert winners.share > 0.5 > typical.share and winners.outliers == 0  # nothing lies beyond a size of 3
    assert set(tables["uncertainty"].n) == {1, 64} and set(tables["uncertainty"].kind) == {
        "disagreement",
        "distance",
    }


def test_weight_below_is_counted_one_by_one_ties_half():
    rng = np.random.default_rng(3)
    keys, weights = rng.integers(0, 5, (3, 12)), rng.random((3, 12, 2))
    below = un.weight_below(keys, weights)
    for p in range(3):
        for i in range(12):
            beside = (keys[p] < keys[p, i]) + (keys[p] == keys[p, i]) / 2
            np.testing.assert_allclose(below[p, i], beside @ weights[p])
    with pytest.raises(ValueError, match="keys"):
        un.weight_below(np.full((1, 2), np.nan), np.ones((1, 2, 1)))


def test_the_auroc_of_winners_is_that_of_all_their_pairs():
    scores = planted(D=1, P=4, N=64)
    table = un.uncertainty(scores)["uncertainty"]
    kept, ns = np.ones(4, bool), np.array([1, 8])
    one = un._replicate(scores.ensembles[0], scores, kept, ns)
    ordered = pairs = 0.0
    u, w, event = scores.distances[0]["knows"], one.weights[..., 1], one.event[..., 1]
    for p in range(4):
        for i in np.flatnonzero(event[p]):
            for j in np.flatnonzero(~event[p]):
                pairs += w[p, i] * w[p, j]
                ordered += w[p, i] * w[p, j] * ((u[p, i] > u[p, j]) + (u[p, i] == u[p, j]) / 2)
    assert row(table, score="knows", n=8, error="signed").auroc == pytest.approx(ordered / pairs)


def test_a_score_that_is_the_error_sees_all_of_it_in_every_prompt():
    """The AUROC is 1 whatever prompts' numbers of pairs: its interval has no width."""
    scores = planted(D=2, P=4, N=64)
    ones = [un._replicate(e, scores, np.ones(4, bool), np.array([1, 8])) for e in scores.ensembles[::2]]
    distances = [{"rank": one.rank[:, :, 0, 1].astype(np.float32)} for one in ones]  # of the signed error
    found = un.uncertainty(replace(scores, distances=distances))["uncertainty"]
    found = found[(found.score == "rank") & (found.error == "signed")]
    np.testing.assert_allclose(found[["auroc", "auroc_low", "auroc_high", "corr_rank"]], 1, atol=1e-6)


def test_golds_zero_and_unit_change_no_bound():
    scores = planted(D=2, P=4, N=64)
    bounds = un.uncertainty(scores)["bounds"]
    other = un.uncertainty(replace(scores, gold=3 * scores.gold + 5))["bounds"]
    for column in ("strength", "coverage", "coverage_chosen"):
        np.testing.assert_allclose(bounds[column], other[column], rtol=1e-9, err_msg=column)
    np.testing.assert_allclose(3 * bounds.gold + 5, other.gold)


def test_the_largest_tenth_is_of_the_answers_that_ended():
    values, ended = np.arange(40.0)[None] - 50, np.ones((1, 40), bool)
    ended[0, 30:] = False  # larger than all others, and they never ended
    assert np.flatnonzero(un._largest(values, ended)).tolist() == [27, 28, 29]
    assert un._largest(values, ended & (np.arange(40) < 3)).sum() == 1  # at least one


def test_under_no_uncertainty_best_of_n_is_the_single_models(study, tables):
    curves, _ = best_of_n_curves(study)
    single = next(c for c in curves if c.setting.ensemble == "single")
    bare = tables["bounds"][tables["bounds"].score == "single"]
    np.testing.assert_allclose(bare.gold, single.gold.mean((0, 1)), rtol=1e-6)
    assert (bare.gain == 0).all() and (bare.strength == 0).all() and set(bare.rule) == {"none"}
    np.testing.assert_allclose(bare.coverage, bare.coverage_chosen)


def test_a_bound_that_knows_the_errors_size_gains_and_one_that_knows_nothing_does_not(tables):
    for rule, most in (("matched", 0.02), ("coverage", -0.1)):
        knows, nothing = (row(tables["bounds"], score=s, rule=rule, n=64) for s in ("knows", "nothing"))
        assert knows.low > 0 and nothing.high < most, rule


def test_a_penalty_that_is_the_error_makes_an_oracle_at_the_matched_strength(study):
    """u = error + c of mean the matched penalty: lambda is 1, and what is left of the proxy is gold and a constant."""
    target, distances = matched_penalty(study), []
    for e in study.ensembles[::2]:
        error = e.pool[..., 0].astype(np.float64) - study.gold
        distances.append({"error": error - error.mean() + target})
    bounds = un.uncertainty(replace(study, distances=distances))["bounds"]
    found = bounds[(bounds.score == "error") & (bounds.rule == "matched")]
    oracle = best_of_n(study.gold, study.gold, n_grid(study.gold.shape[1])).mean(0)
    np.testing.assert_allclose(found.strength, 1, rtol=1e-6)
    np.testing.assert_allclose(found.gold, oracle, atol=1e-4)


def test_matched_penalties_cost_the_same_at_one_answer(study, tables):
    matched = tables["bounds"][tables["bounds"].rule == "matched"]
    np.testing.assert_allclose(matched.penalty, matched_penalty(study))
    at_one = tables["bounds"][tables["bounds"].n == 1]
    np.testing.assert_allclose(at_one.gain, 0, atol=1e-12)


def test_a_strength_covers_nine_tenths_of_the_labelled_winners_and_of_the_others():
    """The 90th of 100 ordered ratios lies on average at 90 of 101 of their distribution."""
    bounds = un.uncertainty(planted(D=20, P=16, N=512, seed=4))["bounds"]
    for score in ("knows", "nothing", "finetune2"):
        found = row(bounds, score=score, rule="coverage", n=64)
        assert found.coverage == pytest.approx(90 / 101, abs=0.02), score
    bare = row(bounds, score="single", n=64)
    assert bare.coverage < 0.3  # winners are praised too highly
    blind = row(bounds, score="nothing", rule="coverage", n=64)
    knows = row(bounds, score="knows", rule="coverage", n=64)
    assert knows.penalty < blind.penalty  # it need not doubt every answer


def test_a_prompts_strength_is_of_the_other_halfs_winners():
    """Even prompts' errors are ten times as large as odd ones', and u does not say so: each half is bounded by the other's."""
    scores = planted(D=2, P=16, N=512)
    scores = replace(scores, distances=[{"even": np.ones((16, 512), np.float32)}] * 2)
    for e in scores.ensembles[::2]:
        pool = e.parts[0].pool[..., 0]
        pool[::2] = scores.gold[::2] + 10 * (pool[::2] - scores.gold[::2])
    one = un._replicate(scores.ensembles[0], scores, np.ones(16, bool), np.array([1, 64]))
    of_even, of_odd = (un._covering(np.ones((16, 512)), one, half) for half in (0, 1))
    assert of_even > 3 * of_odd and (one.labelled[0, :, 0] % 2 == 0).all()
    by_prompt = un._Grid(one).bound(np.ones((16, 512)), np.array([of_odd, of_even]))[0][2, :, 6]
    found = row(un.uncertainty(scores)["bounds"], score="even", rule="coverage", n=64)
    assert by_prompt[::2].max() < 0.5 and by_prompt[1::2].min() > 0.99
    assert found.coverage == pytest.approx(by_prompt.mean(), abs=0.1) and found.coverage < 0.7


def test_the_covering_strength_is_the_smallest():
    proxy, truth, u = np.arange(1.0, 11), np.zeros(10), np.full(10, 2.0)
    assert un.covering_strength(proxy, u, truth) == pytest.approx(9 / 2)
    assert un.covering_strength(proxy, u, truth, 1.0) == pytest.approx(10 / 2)
    assert un.covering_strength(-proxy, u, truth) == 0  # covered as it is
    u[9] = 0.0  # what cannot be covered may be among the tenth
    assert un.covering_strength(proxy, u, truth) == pytest.approx(9 / 2)


def test_a_study_of_the_usual_ensembles_has_a_row_for_each_and_copies_have_none():
    scores = with_copies(in_step())
    rng = np.random.default_rng(0)
    scores = replace(
        scores,
        distances=[{"mahalanobis": rng.random(scores.gold.shape).astype(np.float32)} for _ in range(3)],
    )
    tables = un.uncertainty(scores)
    several = ["finetune5", "finetune3", "pretrain3", "heads2", "heads5", "lora2", "mixed7"]
    assert list(tables["uncertainty"].score.unique()) == [*several, "mahalanobis"]
    assert list(tables["bounds"].score.unique()) == ["single", *several, "mahalanobis"]
    assert not tables["uncertainty"].isna().any().any() and not tables["bounds"].isna().any().any()
    assert set(tables["uncertainty"].n) == {1, 8} and (tables["bounds"].units == 3).all()
    alone = un.uncertainty(replace(scores, distances=scores.distances))
    for name in tables:
        assert tables[name].equals(alone[name])  # labelled winners are of named streams


def test_prompts_without_two_answers_that_end_are_left_out(study):
    ended = study.ended.copy()
    ended[0] = False
    ended[1, 1:] = False
    few = replace(study, ended=ended)
    gold = un.uncertainty(few)["bounds"]
    cut = replace(
        study,
        members=[],
        ensembles=[
            replace(e, parts=tuple(replace(m, pool=m.pool[2:]) for m in e.parts)) for e in study.ensembles
        ],
        gold=study.gold[2:],
        ended=study.ended[2:],
        distances=[{n: u[2:] for n, u in x.items()} for x in study.distances],
    )
    bare = (gold.score == "single").to_numpy()
    np.testing.assert_allclose(gold[bare].gold, un.uncertainty(cut)["bounds"][bare].gold)
    with pytest.raises(ValueError, match="two prompts"):
        un.uncertainty(replace(study, ended=np.arange(24)[:, None] < np.ones((1, 1024))))
    with pytest.raises(ValueError, match="distances"):
        un.uncertainty(replace(study, distances=study.distances[:2]))


def test_one_replicate_has_intervals_over_prompts():
    tables = un.uncertainty(planted(D=1, P=6, N=64))
    assert (tables["uncertainty"].auroc_low < tables["uncertainty"].auroc_high).all()


def test_only_studies_of_best_of_n_at_equal_penalties_are_measured():
    for recipe in (best_of_n_preset(), best_of_n_sighted(), tiny_constructions()):
        assert un.is_measured(recipe)
    for recipe in (quick(), tiny_ppo(), *(r for _, r in parts_of(sweeps()))):
        assert not un.is_measured(recipe)


def test_winners_are_looked_at_where_answers_count():
    assert un.winners_of(2048) == [64, 256] and un.winners_of(1024) == [64] and un.winners_of(32) == [4]
    assert un.winners_of(4) == [2]


def test_replicates_are_what_the_means_are_made_of(tables):
    keys = ["score", "n", "error"]
    means = tables["uncertainty_replicates"].groupby(keys).mean(numeric_only=True)
    whole = tables["uncertainty"].set_index(keys).loc[means.index]
    assert set(tables["uncertainty_replicates"].replicate) == {0, 1, 2, 3}
    assert np.allclose(means.corr_rank, whole.corr_rank)
    assert np.allclose(means.auroc, whole.auroc, atol=0.01)  # a ratio of means and a mean of ratios
