"""A compact pool: the curves of the full one, the same bytes each time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmlab.optimise.compact import PAGE_BYTES, CompactPool, bill_total, curve_ns
from rmlab.optimise.packing import read
from rmlab.optimise.tilt import tilt
from rmlab.reward.aggregate import aggregate
from tests.show import fake_pool as fake

P, N = 8, 512
RULES = [
    ("mean", 1.0),
    ("min", 1.0),
    ("max", 1.0),
    ("mean_std", 1.0),
    ("uwo", 0.5),
    ("quantile", 0.25),
    ("gold", 1.0),
]


@pytest.fixture(scope="module")
def full():
    return fake.full_pool(P, N)


@pytest.fixture(scope="module")
def pool(full):
    return CompactPool.from_pool(**full, keep=160)


def full_curve(full, members, aggregator, strength, ns, scores=None):
    """(P, len(ns)) gold of n draws from all N answers: rank r wins with (r/N)^n - ((r-1)/N)^n, ties share."""
    gold = bill_total(full["gold_counts"], full["bill"])
    scores = full["scores"] if scores is None else scores
    score = gold if aggregator == "gold" else aggregate(scores[..., members], aggregator, strength)
    out = np.zeros((len(gold), len(ns)))
    for p in range(len(gold)):
        _, group = np.unique(np.round(score[p], 8), return_inverse=True)
        size = np.bincount(group)
        top = np.cumsum(size) / size.sum()
        for j, n in enumerate(ns):
            won = np.diff(top**n, prepend=0.0)
            out[p, j] = won @ (np.bincount(group, gold[p]) / size)
    return out


def spread(full):
    return bill_total(full["gold_counts"], full["bill"]).std()


@pytest.mark.parametrize("aggregator,strength", RULES)
@pytest.mark.parametrize("members", [[0], [0, 3, 6]])
def test_keeping_everything_is_exact(full, members, aggregator, strength):
    """Given the scores as int16 keeps them, which are half a step off at most."""
    pool = CompactPool.from_pool(**full, keep=N)
    np.testing.assert_array_equal(pool.weight, 1)
    np.testing.assert_array_less(np.abs(pool.member_scores - full["scores"]).max((0, 1)), 0.51 * pool.scale)
    ns = curve_ns(N)
    want = full_curve(full, members, aggregator, strength, ns, pool.member_scores)
    np.testing.assert_allclose(pool.curve(members, aggregator, strength, ns)["gold"], want, atol=1e-9)


@pytest.mark.parametrize("aggregator,strength", RULES)
@pytest.mark.parametrize("members", [[0], [1], [0, 1, 2], [0, 3, 6], [9, 10, 11]])
def test_a_third_of_the_pool_tracks_all_of_it(full, pool, members, aggregator, strength):
    """Within a thirtieth of gold's standard deviation, averaged over prompts, at every n."""
    ns = curve_ns(N)
    off = pool.curve(members, aggregator, strength, ns)["gold"].mean(0) - full_curve(
        full, members, aggregator, strength, ns
    ).mean(0)
    assert np.abs(off).max() < spread(full) / 30


@pytest.mark.parametrize("keep", [1, 37, 160, N, N + 5])
def test_weights_sum_to_the_pool(full, keep):
    pool = CompactPool.from_pool(**full, keep=keep)
    assert pool.weight.shape == (P, min(keep, N))
    assert (pool.weight > 0).all()
    np.testing.assert_allclose(pool.weight.sum(1, dtype=np.float64), N, rtol=1e-5)


def test_proxy_rises_with_n_and_n_one_is_the_mean(pool):
    curve = pool.curve([0, 3, 6], "min", 1.0, curve_ns(N))
    assert (np.diff(curve["proxy"], axis=1) >= -1e-12).all()
    np.testing.assert_allclose(
        curve["gold"][:, 0],
        (pool.weight * pool.gold).sum(1) / pool.weight.sum(1, dtype=np.float64),
        rtol=1e-6,
    )


def test_equal_scores_share_the_win(full):
    flat = dict(full, scores=np.zeros_like(full["scores"]))
    pool = CompactPool.from_pool(**flat, keep=N)
    curve = pool.curve([0, 1], "mean", 1.0, [1, 8, N])["gold"]
    np.testing.assert_allclose(curve, np.repeat(pool.gold.mean(1)[:, None], 3, 1))


def test_typical_winner_is_the_median_winner(pool):
    rng = np.random.default_rng(0)
    for n in (1, 5, 64):
        i = pool.typical_winner([0, 1, 2], "mean", 1.0, n)
        score = pool.aggregated([0, 1, 2], "mean")
        for p in range(2):
            draws = rng.choice(
                score.shape[1],
                (4000, n),
                p=pool.weight[p].astype(np.float64) / pool.weight[p].sum(dtype=np.float64),
            )
            best = score[p, draws].max(1)
            assert abs((best >= score[p, i[p]] - 1e-12).mean() - 0.5) < 0.5 * (1 - np.exp(-1 / n)) + 0.1
            assert (best <= score[p, i[p]] + 1e-12).mean() >= 0.5 - 0.04


@pytest.mark.parametrize("aggregator,strength", RULES)
def test_tilt_of_everything_is_the_exact_one(full, aggregator, strength):
    pool = CompactPool.from_pool(**full, keep=N)
    score, betas = pool.aggregated([0, 3, 6], aggregator, strength), [np.inf, 3.0, 0.25, 0.01]
    got = pool.tilted([0, 3, 6], aggregator, strength, betas)
    want = tilt(score, np.stack([pool.gold, score], -1), betas, floor=0)
    np.testing.assert_allclose(got["gold"], want.values[..., 0], atol=1e-9)
    np.testing.assert_allclose(got["proxy"], want.values[..., 1], atol=1e-9)
    np.testing.assert_allclose(got["kl"], want.kl, atol=1e-9)
    np.testing.assert_allclose(got["ess"], want.ess, rtol=1e-9)


@pytest.mark.parametrize("members", [[0], [0, 3, 6], [9, 10, 11]])
def test_tilt_of_a_third_of_the_pool_tracks_all_of_it(full, pool, members):
    betas = [4.0, 1.0, 0.5, 0.25, 0.15]
    got = pool.tilted(members, "mean", 1.0, betas)
    whole = CompactPool.from_pool(**full, keep=N).tilted(members, "mean", 1.0, betas)
    assert np.abs((got["gold"] - whole["gold"]).mean(0)).max() < spread(full) / 15
    assert np.abs((got["kl"] - whole["kl"]).mean(0)).max() < 0.1
    small = whole["ess"].mean(0) < 10
    assert small.any() and (got["ess"].mean(0) < 1.05 * whole["ess"].mean(0)).all()
    np.testing.assert_allclose(got["ess"].mean(0)[small], whole["ess"].mean(0)[small], rtol=0.05)


def test_tilt_between_its_ends(pool):
    betas = [np.inf, 10.0, 1.0, 0.1, 1e-6]
    got = pool.tilted([0, 3, 6], "min", 1.0, betas)
    uniform = pool.curve([0, 3, 6], "min", 1.0, [1])
    for name in ("gold", "proxy"):
        np.testing.assert_allclose(got[name][:, 0], uniform[name][:, 0], atol=1e-9)
    np.testing.assert_allclose(got["kl"][:, 0], 0, atol=1e-12)
    assert (np.diff(got["proxy"], axis=1) >= 0).all() and (np.diff(got["kl"], axis=1) > 0).all()
    best = pool.aggregated([0, 3, 6], "min").argmax(1)
    np.testing.assert_array_equal(pool.typical_tilted([0, 3, 6], "min", 1.0, 1e-6), best)
    np.testing.assert_allclose(got["ess"][:, -1], 1)
    assert pool.tilted([0], "mean", 1.0, [])["gold"].shape == (P, 0)


def test_typical_tilted_is_the_median(pool):
    score = pool.aggregated([0, 1, 2], "mean")
    pi = pool.weight * np.exp(score / 0.3)
    pi /= pi.sum(1, keepdims=True)
    for p, i in enumerate(pool.typical_tilted([0, 1, 2], "mean", 1.0, 0.3)):
        assert pi[p, score[p] < score[p, i] - 1e-9].sum() < 0.5 <= pi[p, score[p] <= score[p, i] + 1e-9].sum()


def test_correlation_is_pearson_s_within_prompts(full):
    pool = CompactPool.from_pool(**full, keep=N)  # all weights 1
    members = [0, 3, 6, 12]
    scores = pool.member_scores[..., members]
    want = np.mean([np.corrcoef(s.T) for s in scores], 0)
    np.testing.assert_allclose(pool.correlation(members), want, atol=1e-12)
    tenth, want = N // 10, []  # 51.2: the 52nd answer counts a fifth
    for s in scores:
        s = (s - s.mean(0))[np.argsort(-s.mean(1))]
        m = s.mean(1)
        slope = m @ s / (m @ m)
        tail = np.repeat((s - np.outer(m, slope))[: tenth + 1], [*[5] * tenth, 1], 0)
        cov = np.cov(tail.T, ddof=0) + np.outer(slope, slope) * m.var()
        want.append(cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov))))
    np.testing.assert_allclose(pool.correlation(members, tail=True), np.mean(want, 0), atol=1e-9)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_the_best_tenth_of_gaussian_members_correlates_as_all_of_them(full, rho):
    rng = np.random.default_rng(0)
    shape = full["scores"].shape
    scores = np.sqrt(rho) * rng.normal(size=(*shape[:2], 1)) + np.sqrt(1 - rho) * rng.normal(size=shape)
    pool = CompactPool.from_pool(**dict(full, scores=scores), keep=N)
    members = list(range(8))
    off = ~np.eye(8, dtype=bool)
    assert pool.correlation(members, tail=True)[off].mean() == pytest.approx(rho, abs=0.04)


def test_correlation_of_a_third_of_the_pool_tracks_all_of_it(full, pool):
    whole = CompactPool.from_pool(**full, keep=N)
    for tail, off in ((False, 0.05), (True, 0.1)):
        np.testing.assert_allclose(
            pool.correlation([0, 3, 6], tail), whole.correlation([0, 3, 6], tail), atol=off
        )


def test_correlation_of_equal_and_of_constant_members(full):
    scores = full["scores"].copy()
    scores[..., 1] = scores[..., 0]
    scores[..., 2] = 0.0
    pool = CompactPool.from_pool(**dict(full, scores=scores), keep=160)
    for tail in (False, True):
        np.testing.assert_allclose(pool.correlation([0, 1], tail), 1.0)
        np.testing.assert_allclose(pool.correlation([0, 2], tail), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(pool.correlation([2, 2], True), np.eye(2))
    with pytest.raises(ValueError, match=r"members = \[99\]"):
        pool.correlation([99])


def test_a_series_has_each_size_once(full):
    twice = [{"name": x, "label": x, "members": [9, 10], "series": "heads"} for x in "ab"]
    with pytest.raises(ValueError, match="each size of a series once"):
        CompactPool.from_pool(**dict(full, ensembles=twice))


def test_texts_are_the_pool_s(full):
    pool = CompactPool.from_pool(**full, keep=N)
    for p, i in ((0, 0), (3, 17), (P - 1, N - 1)):
        ids = full["tokens"][p, i, : full["lengths"][p, i]]
        assert pool.text(p, i) == " ".join(full["vocab"][t] for t in ids)


def test_bytes_are_stable_and_round_trip(full, pool, tmp_path):
    pool.save(tmp_path / "a.npz")
    again = CompactPool.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    CompactPool.from_pool(**full, keep=160).save(tmp_path / "c.npz")
    assert (
        (tmp_path / "a.npz").read_bytes()
        == (tmp_path / "b.npz").read_bytes()
        == (tmp_path / "c.npz").read_bytes()
    )
    assert again.packed() == pool.packed()
    np.testing.assert_array_equal(again.scores, pool.scores)


def test_size_in_the_page(pool):
    meta, data = pool.packed()
    assert pool.nbytes_in_page() >= len(data) * 4 / 3
    assert sum(size for _, _, size in meta["layout"]) > 0


def test_bad_input_is_named(full, pool, tmp_path):
    cases = [
        ({"keep": 0}, "keep = 0"),
        ({"lengths": full["lengths"][:, :5]}, "shapes of gold_counts, scores, tokens, lengths"),
        ({"lengths": full["lengths"] + 300}, "lengths = "),
        ({"gold_counts": full["gold_counts"] + 300}, "gold_counts = 30[0-9]: give numbers from 0 to 255"),
        ({"gold_counts": full["gold_counts"] - 1}, "gold_counts = -1"),
        ({"columns": full["columns"][:-1]}, "labels in columns = 26: give 27"),
        ({"vocab": full["vocab"][:-1]}, "tokens = [0-9]+: give ids below"),
        ({"vocab": full["vocab"] * 9}, "words of vocab = "),
        ({"ensembles": [{"name": "x", "label": "x", "members": [40]}]}, r"members of ensemble 'x' = \[40\]"),
        ({"ensembles": [{"name": "a~b", "label": "x", "members": [1]}]}, "name of an ensemble = 'a~b'"),
    ]
    for fields, message in cases:
        with pytest.raises(ValueError, match=message):
            CompactPool.from_pool(**{**full, **fields})
    with pytest.raises(ValueError, match=r"members = \[99\]"):
        pool.curve([99], "mean", 1.0, [1])
    for ns in ([0], [float("nan")], 1):
        with pytest.raises(ValueError, match="at least 1"):
            pool.curve([0], "mean", 1.0, ns)
    for betas in ([0.0], [-1.0], [float("nan")], 1.0):
        with pytest.raises(ValueError, match="each above 0"):
            pool.tilted([0], "mean", 1.0, betas)
    with pytest.raises(ValueError, match="that exists"):
        CompactPool.load(tmp_path / "none.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(full, pool, value):
    scores = full["scores"].copy()
    scores[2, 7, 3] = value
    message = re.escape(f"scores[2, 7, 3] = {value}: give a finite number")
    with pytest.raises(ValueError, match=message):
        CompactPool.from_pool(**{**full, "scores": scores}, keep=160)
    for name in ("weight", "scale", "offset"):
        values = getattr(pool, name).copy()
        values.flat[1] = value
        place = [0, 1] if name == "weight" else [1]
        with pytest.raises(ValueError, match=re.escape(f"{name}{place} = {value}: give a finite number")):
            replace(pool, **{name: values})
    with pytest.raises(ValueError, match=re.escape("bill of 'very'[1] = ")):
        replace(pool, bill=[*pool.bill[:-1], {**pool.bill[-1], "values": [0.0, value]}])
    with pytest.raises(ValueError, match=r"scores\[0, 0, 0\] = "):
        replace(pool, scores=np.full(pool.scores.shape, value))


def test_weights_are_shares_of_the_pool(pool):
    for change, message in ((1.01, "sum of a row of weight = 517"), (-1.0, "weight = -")):
        with pytest.raises(ValueError, match=message):
            replace(pool, weight=pool.weight * change)


# ---- text, gold as a number or not at all


@pytest.fixture(scope="module")
def text_full():
    return fake.full_text(3, 240, 4)


@pytest.fixture(scope="module", params=[True, False], ids=["gold", "no gold"])
def text(request):
    return fake.text_pool(3, 240, 4, gold=request.param, keep=90)


def test_text_kept_whole_is_what_it_was(text_full):
    pool = CompactPool.from_text(**text_full, keep=240)
    np.testing.assert_array_equal(pool.member_scores, text_full["member_scores"].astype(np.float32))
    np.testing.assert_array_equal(pool.gold, text_full["gold"].astype(np.float32))
    for p, row in enumerate(text_full["answers"]):
        assert [pool.text(p, i) for i in range(240)] == row
    assert [e["label"] for e in pool.ensembles] == ["all 4 members"] and pool.gold_unit == "points"


def test_the_curve_of_text_is_exact(text_full):
    pool, ns = CompactPool.from_text(**text_full, keep=240), [1, 3, 64, 240]
    got = pool.curve([0, 2], "min", 1.0, ns)
    for p in range(3):
        score = pool.member_scores[p][:, [0, 2]].min(-1)
        order = np.argsort(score)  # no two are equal
        won = np.diff((np.arange(241)[:, None] / 240) ** np.array(ns), axis=0)
        np.testing.assert_allclose(got["gold"][p], pool.gold[p, order] @ won, rtol=1e-9)
        np.testing.assert_allclose(got["proxy"][p], score[order] @ won, rtol=1e-9)


@pytest.mark.parametrize("members", [[0], [0, 1], [0, 1, 2]])
def test_a_third_of_the_text_tracks_all_of_it(text_full, members):
    ns = [1, 4, 16, 64, 240]
    whole, part = (CompactPool.from_text(**text_full, keep=keep) for keep in (240, 90))
    off = part.curve(members, "mean", 1.0, ns)["gold"] - whole.curve(members, "mean", 1.0, ns)["gold"]
    assert np.abs(off.mean(0)).max() < text_full["gold"].std() / 15


@pytest.mark.parametrize("far", [-1e6, 1e30])
def test_a_score_far_off_leaves_the_order_of_the_others(text_full, far):
    scores = text_full["member_scores"].copy()
    scores[1, 7, 2] = far
    pool = CompactPool.from_text(**{**text_full, "member_scores": scores}, keep=240)
    exact = scores.astype(np.float32)
    for p in range(3):
        for c in range(4):
            _, ranks = np.unique(pool.member_scores[p, :, c], return_inverse=True)
            np.testing.assert_array_equal(ranks, np.unique(exact[p, :, c], return_inverse=True)[1])
    assert (pool.typical_winner([2], "mean", 1.0, 10**6)[1] == 7) == (far > 0)


def test_without_gold_the_members_that_do_not_judge_stand_for_it():
    pool = fake.text_pool(gold=False)
    assert pool.gold is None and list(pool.compared([0, 1, 2, 3])) == []
    others = pool.member_scores[..., [1, 3]].mean(-1)
    np.testing.assert_allclose(pool.compared([0, 2])["held_out"], others)
    curve, tilted = pool.curve([0, 2], "mean", 1.0, [1, 240]), pool.tilted([0, 2], "mean", 1.0, [np.inf, 1.0])
    assert set(curve) == {"held_out", "proxy"} and set(tilted) == {"held_out", "proxy", "kl", "ess"}
    uniform = (pool.weight * others).sum(1) / pool.weight.sum(1)
    np.testing.assert_allclose(curve["held_out"][:, 0], uniform, rtol=1e-5)
    np.testing.assert_allclose(tilted["held_out"][:, 0], uniform, rtol=1e-5)
    assert set(pool.curve([0, 1, 2, 3], "min", 1.0, [1])) == {"proxy"}
    with pytest.raises(ValueError, match="aggregator = 'gold': give another one: this pool has no gold"):
        pool.curve([0], "gold", 1.0, [1])


def test_text_is_saved_and_read_with_the_same_bytes(text, tmp_path):
    text.save(tmp_path / "a.npz")
    again = CompactPool.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert again.packed() == text.packed() and again.prompts == text.prompts
    assert again.text(2, 5) == text.text(2, 5)
    assert (again.gold is None) == (text.gold is None)


def test_text_is_thinned_until_it_fits_a_page(text_full):
    rng = np.random.default_rng(0)
    letters = "".join(map(chr, range(0x4E00, 0x5200)))
    noise = ["".join(rng.choice(list(letters), 900)) for _ in range(240)]  # hardly compresses
    full = {**text_full, "answers": [noise] * 3}
    pool = CompactPool.from_text(**full)
    assert 0.8 * PAGE_BYTES < pool.nbytes_in_page() <= PAGE_BYTES and 20 < pool.weight.shape[1] < 240
    assert CompactPool.from_text(**full, keep=240).nbytes_in_page() > PAGE_BYTES
    prompts = {**full, "prompts": ["x" * 300_000] * 3}
    with pytest.raises(
        ValueError, match=r"bytes of a page with 20 answers a prompt = \d+: give at most 800000"
    ):
        CompactPool.from_text(**prompts)
    assert fake.text_pool(1, 400, 2).weight.shape == (1, 350)


def test_one_member_and_members_of_numpy(text_full):
    one = {**text_full, "member_scores": text_full["member_scores"][..., :1], "columns": None}
    assert CompactPool.from_text(**one).ensembles == []
    ensembles = [{"name": "two", "label": "two", "members": list(np.array([1, 3]))}]
    pool = CompactPool.from_text(**text_full, ensembles=ensembles)
    assert json.dumps(pool.ensembles) == '[{"name": "two", "label": "two", "members": [1, 3]}]'
    with pytest.raises(ValueError, match="keep = 0"):
        CompactPool.from_text(**text_full, keep=0)
    with pytest.raises(
        ValueError, match=re.escape("score of 'reward model 1' for answer 9 to prompt 2 = nan")
    ):
        scores = text_full["member_scores"].copy()
        scores[2, 9, 1] = np.nan
        CompactPool.from_text(**{**text_full, "member_scores": scores})


def test_gold_is_a_bill_or_a_number(pool, text):
    number = np.zeros(pool.weight.shape)
    for change in ({"gold_values": number}, {"counts": None}, {"bill": None}):
        with pytest.raises(ValueError, match="a bill with its counts, or gold_values, or none of them"):
            replace(pool, **change)
    words = replace(pool, bill=None, counts=None, gold_values=number)  # words may have a number
    assert not words.gold.any() and words.text(0, 0) == pool.text(0, 0)
    with pytest.raises(ValueError, match="shape of gold_values"):
        replace(text, gold_values=number)


@pytest.mark.parametrize(
    "study,gold",
    [("constructions", [1.6555797, 2.2993357, 2.3677769])],
)
def test_shipped_pools_are_read_as_they_were_written(study, gold, tmp_path):
    """Their bytes, and the numbers that they gave when answers that never ended were taken out."""
    path = Path(__file__).parents[2] / "data" / study / "explorer.npz"
    pool = CompactPool.load(path)
    np.testing.assert_allclose(
        pool.curve([0, 1, 2], "min", 1.0, [1, 64, 4096])["gold"].mean(0), gold, atol=1e-7
    )
    pool.save(tmp_path / "again.npz")
    first, again = read(path), read(tmp_path / "again.npz")
    assert first[0] == again[0] and list(first[1]) == list(again[1])
    for name, array in first[1].items():
        np.testing.assert_array_equal(array, again[1][name])
        assert array.dtype == again[1][name].dtype
