"""The laws every aggregator obeys, for arrays and tensors alike."""

import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmlab.reward.aggregate import AGGREGATORS, aggregate, align, usual_strength

NAMES = list(AGGREGATORS)
STRENGTHS = {"quantile": 0.3}  # elsewhere 0.7 will do
rows = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    elements=st.floats(-50, 50, width=32),
)
temperatures = st.floats(1e-3, 1e3)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def strength_for(aggregator):
    return STRENGTHS.get(aggregator, 0.7)


@quick
@hypothesis.given(rows)
def test_a_strength_of_zero_is_exactly_the_mean(s):
    for aggregator in ("mean_std", "uwo"):
        assert np.array_equal(aggregate(s, aggregator, 0.0), aggregate(s, "mean"))
        assert torch.equal(aggregate(torch.tensor(s), aggregator, 0.0), torch.tensor(s).mean(-1))


@quick
@hypothesis.given(rows, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(s, random):
    order = random.sample(range(s.shape[-1]), s.shape[-1])
    for aggregator in NAMES:
        np.testing.assert_allclose(
            aggregate(s[..., order], aggregator, strength_for(aggregator)),
            aggregate(s, aggregator, strength_for(aggregator)),
            rtol=1e-10,
            atol=1e-10,
        )


@quick
@hypothesis.given(rows)
def test_arrays_equal_tensors(s):
    for aggregator in NAMES:
        for kind, tol in ((np.float64, 1e-10), (np.float32, 2e-3 if aggregator == "uwo" else 2e-4)):
            x = s.astype(kind)
            a, t = (
                aggregate(x, aggregator, strength_for(aggregator)),
                aggregate(torch.tensor(x), aggregator, strength_for(aggregator)),
            )
            assert a.dtype == kind and t.numpy().dtype == kind and a.shape == tuple(t.shape) == s.shape[:-1]
            np.testing.assert_allclose(a, t.numpy(), rtol=tol, atol=tol)


@quick
@hypothesis.given(rows, temperatures)
def test_entropic_lies_between_min_and_mean(s, strength):
    low, value, mean = aggregate(s, "min"), aggregate(s, "entropic", strength), aggregate(s, "mean")
    assert (value >= low - 1e-9).all() and (value <= mean + 1e-9).all()


@quick
@hypothesis.given(rows)
def test_limits_of_the_entropic_and_the_quantile(s):
    np.testing.assert_allclose(aggregate(s, "entropic", 1e9), aggregate(s, "mean"), atol=1e-4)
    np.testing.assert_allclose(aggregate(s, "entropic", 1e-7), aggregate(s, "min"), atol=1e-5)
    for x in (s, s.astype(np.float32)):
        np.testing.assert_allclose(
            aggregate(x, "entropic", 1e-308), aggregate(x, "min"), rtol=1e-6, atol=1e-30
        )
    assert np.array_equal(aggregate(s, "quantile", 0.0), aggregate(s, "min"))
    assert np.array_equal(aggregate(s, "quantile", 1.0), aggregate(s, "max"))
    np.testing.assert_allclose(aggregate(s, "quantile", 0.5), np.median(s, -1), atol=1e-12)
    np.testing.assert_allclose(aggregate(s, "median"), np.median(s, -1), atol=1e-12)
    np.testing.assert_allclose(aggregate(s, "quantile", 0.37), np.quantile(s, 0.37, axis=-1), atol=1e-10)


@quick
@hypothesis.given(rows, st.floats(-9, 9))
def test_a_common_shift_shifts_the_result(s, c):
    for aggregator in NAMES:
        strength = strength_for(aggregator)
        np.testing.assert_allclose(
            aggregate(s + c, aggregator, strength),
            aggregate(s, aggregator, strength) + c,
            rtol=1e-9,
            atol=1e-8,
        )


@pytest.mark.parametrize("aggregator", NAMES)
def test_one_member_gives_its_own_score(aggregator):
    s = np.random.default_rng(0).normal(size=(7, 1)).astype(np.float32)
    assert np.array_equal(aggregate(s, aggregator, strength_for(aggregator)), s[:, 0])
    assert torch.equal(
        aggregate(torch.tensor(s), aggregator, strength_for(aggregator)), torch.tensor(s[:, 0])
    )


def test_values_by_hand():
    s = np.array([1.0, 2.0, 6.0])  # mean 3, variance 14/3 over K (7 over K - 1)
    assert aggregate(s, "mean") == 3 and aggregate(s, "median") == 2
    assert aggregate(s, "min") == 1 and aggregate(s, "max") == 6
    assert aggregate(s, "uwo", 0.5) == pytest.approx(3 - 0.5 * 14 / 3)
    assert aggregate(s, "mean_std", 0.5) == pytest.approx(3 - 0.5 * np.sqrt(14 / 3))
    assert aggregate(s, "quantile", 0.25) == pytest.approx(1.5)
    assert aggregate(s, "entropic", 2.0) == pytest.approx(-2 * np.log(np.mean(np.exp(-s / 2))))
    assert aggregate([1, 2, 6], "mean").dtype == np.float32


@pytest.mark.parametrize("aggregator", NAMES)
@pytest.mark.parametrize("s", [[0.5, -1.0, 2.0], [1.0, 1.0, 1.0], [3.0]], ids=["apart", "equal", "single"])
def test_gradients_flow_and_are_finite(aggregator, s):
    x = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    aggregate(x, aggregator, strength_for(aggregator)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.sum().item() == pytest.approx(1.0)  # a common shift moves the result as much
    if len(set(s)) > 1:
        assert torch.autograd.gradcheck(lambda z: aggregate(z, aggregator, strength_for(aggregator)), x)


@pytest.mark.parametrize("aggregator", NAMES)
def test_a_nan_is_never_hidden(aggregator):
    s = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    for out in (
        aggregate(s, aggregator, strength_for(aggregator)),
        aggregate(torch.tensor(s), aggregator, strength_for(aggregator)).numpy(),
    ):
        assert np.isnan(out[0]) and np.isfinite(out[1])


@pytest.mark.parametrize(
    "s, aggregator, strength, words",
    [
        ([1.0], "mode", 1, "aggregator = 'mode'.*mean_std"),
        (np.zeros((3, 0)), "mean", 1, r"shape \(3, 0\)"),
        (1.0, "mean", 1, r"shape \(\)"),
        ([1.0], "quantile", 1.2, "strength = 1.2.*level from 0 to 1"),
        ([1.0], "quantile", -0.1, "strength = -0.1"),
        ([1.0], "entropic", 0, "strength = 0.*above 0"),
        ([1.0], "entropic", -2, "strength = -2"),
        ([1.0], "uwo", -0.5, "strength = -0.5.*0 is the mean"),
        ([1.0], "mean_std", float("nan"), "strength = nan"),
        ([1.0], "mean_std", float("inf"), "strength = inf"),
    ],
)
def test_bad_input_is_named(s, aggregator, strength, words):
    with pytest.raises(ValueError, match=words):
        aggregate(s, aggregator, strength)


def test_a_strength_is_ignored_where_the_table_says_so():
    s = np.random.default_rng(1).normal(size=(4, 3))
    for aggregator, rule in AGGREGATORS.items():
        if rule.strength is None:
            assert np.array_equal(aggregate(s, aggregator, -7), aggregate(s, aggregator))
        else:
            assert not np.array_equal(aggregate(s, aggregator, 0.9), aggregate(s, aggregator, 0.2))
            assert rule.strength[0] <= usual_strength(aggregator) == rule.strength[2] <= rule.strength[1]
        assert rule.label and rule.formula and "2" in rule.source


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("aggregator", NAMES)
def test_centring_removes_the_offsets_of_members(aggregator, kind):
    rng = np.random.default_rng(2)
    s, ref = rng.normal(size=(5, 40, 3)), rng.normal(size=(5, 60, 3))
    everywhere, by_prompt = 9 * rng.normal(size=3), 9 * rng.normal(size=(5, 1, 3))

    def score(x, r, centring):
        return np.asarray(aggregate(align(kind(x), kind(r), centring), aggregator, strength_for(aggregator)))

    for offset, centring in ((everywhere, "global"), (by_prompt, "prompt")):
        before, after = score(s, ref, centring), score(s + offset, ref + offset, centring)
        np.testing.assert_allclose(before, after, atol=1e-9)
        assert np.array_equal(np.argsort(before, -1), np.argsort(after, -1))
    if aggregator not in ("mean", "uwo", "mean_std"):  # and without it they decide the ranking
        assert not np.array_equal(
            np.argsort(score(s, ref, "none"), -1), np.argsort(score(s + everywhere, ref, "none"), -1)
        )


def test_alignment_gives_mean_zero_and_unit_width_on_the_reference():
    rng = np.random.default_rng(3)
    ref = (rng.normal(size=(6, 50, 4)) * [1, 2, 3, 4] + rng.normal(size=(6, 1, 4))).astype(np.float32)
    glob, prompt = align(ref, centring="global"), align(ref, centring="prompt")
    assert glob.dtype == np.float32
    np.testing.assert_allclose(glob.reshape(-1, 4).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(glob.reshape(-1, 4).std(0), 1, atol=1e-5)
    np.testing.assert_allclose(prompt.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose((prompt**2).mean((0, 1)), 1, atol=1e-5)
    np.testing.assert_allclose(align(ref, centring="global", scale=False), ref - ref.mean((0, 1)), atol=1e-5)
    assert np.array_equal(align(ref, centring="none"), ref)
    np.testing.assert_allclose(align(ref[0], ref, "global"), glob[0], atol=1e-6)


@pytest.mark.parametrize(
    "args, words",
    [
        ((np.ones((2, 3)), None, "rank"), "centring = 'rank'"),
        ((np.ones((2, 3)), np.ones((2, 2))), "2 members and scores have 3"),
        ((np.ones((2, 3)), np.ones((2, 3)), "prompt"), "scores .P, N, K."),
        ((np.arange(6.0).reshape(3, 2) * [1, 0], None, "global"), r"members \[1\] are constant"),
        ((np.full((999, 1), 0.1, np.float32), None, "global"), r"members \[0\] are constant"),
    ],
)
def test_bad_alignment_is_named(args, words):
    with pytest.raises(ValueError, match=words):
        align(*args)


def test_aggregation_needs_no_torch():
    code = "import sys; from rmlab.reward.aggregate import aggregate; aggregate([1, 2], 'uwo')"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_scores_whose_squares_overflow_keep_their_spread(kind):
    """Members near 1e25: in float32 the variance is infinite, and the reward was minus infinity."""
    s = kind(np.array([[1e25, 3e25], [1.0, 3.0]], np.float32))
    value = aggregate(s, "mean_std", 0.5)
    assert value.dtype == s.dtype
    np.testing.assert_allclose(value, [1.5e25, 1.5], rtol=1e-6)
    np.testing.assert_allclose(
        aggregate(kind(np.array([[3e38, 3e38]], np.float32)), "mean"), [3e38], rtol=1e-6
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("xp", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_an_aggregate_that_its_type_cannot_hold_is_refused(xp, kind):
    s = np.array([[1.0, 2.0], [1e25, 3e25]], kind) ** (1 if kind is np.float32 else 12)
    with pytest.raises(ValueError, match=r"scores of up to .* under 'uwo' overflow .*float(32|64)"):
        aggregate(xp(s), "uwo")


def test_an_infinite_score_is_the_callers_and_is_kept():
    s = np.array([[np.inf, 1.0], [-np.inf, 1.0]])
    assert aggregate(s, "mean").tolist() == [np.inf, -np.inf]
    assert aggregate(s, "min").tolist() == [1.0, -np.inf]


def test_the_usual_strength_is_the_tables():
    assert (
        usual_strength("quantile") == 0.25
        and usual_strength("mean_std") == 1.0
        and usual_strength("min") == 1.0
    )
    with pytest.raises(ValueError, match="aggregator = 'mode' is no aggregator"):
        usual_strength("mode")
