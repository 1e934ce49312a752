"""The laws every aggregator obeys, for arrays and tensors alike."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmlab.reward.aggregate import AGGREGATORS, aggregate, align

NAMES = list(AGGREGATORS)
LAM = {"quantile": 0.3}  # elsewhere 0.7 will do
rows = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    elements=st.floats(-50, 50, width=32),
)
lams = st.floats(1e-3, 1e3)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def lam_for(how):
    return LAM.get(how, 0.7)


@quick
@given(rows)
def test_lam_zero_is_exactly_the_mean(s):
    for how in ("mean_std", "uwo"):
        assert np.array_equal(aggregate(s, how, 0.0), aggregate(s, "mean"))
        assert torch.equal(aggregate(torch.tensor(s), how, 0.0), torch.tensor(s).mean(-1))


@quick
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(s, random):
    order = random.sample(range(s.shape[-1]), s.shape[-1])
    for how in NAMES:
        np.testing.assert_allclose(
            aggregate(s[..., order], how, lam_for(how)),
            aggregate(s, how, lam_for(how)),
            rtol=1e-10,
            atol=1e-10,
        )


@quick
@given(rows)
def test_arrays_equal_tensors(s):
    for how in NAMES:
        for kind, tol in ((np.float64, 1e-10), (np.float32, 2e-3 if how == "uwo" else 2e-4)):
            x = s.astype(kind)
            a, t = aggregate(x, how, lam_for(how)), aggregate(torch.tensor(x), how, lam_for(how))
            assert a.dtype == kind and t.numpy().dtype == kind and a.shape == tuple(t.shape) == s.shape[:-1]
            np.testing.assert_allclose(a, t.numpy(), rtol=tol, atol=tol)


@quick
@given(rows, lams)
def test_entropic_lies_between_min_and_mean(s, lam):
    low, value, mean = aggregate(s, "min"), aggregate(s, "entropic", lam), aggregate(s, "mean")
    assert (value >= low - 1e-9).all() and (value <= mean + 1e-9).all()


@quick
@given(rows)
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
@given(rows, st.floats(-9, 9))
def test_a_common_shift_shifts_the_result(s, c):
    for how in NAMES:
        lam = lam_for(how)
        np.testing.assert_allclose(
            aggregate(s + c, how, lam), aggregate(s, how, lam) + c, rtol=1e-9, atol=1e-8
        )


@pytest.mark.parametrize("how", NAMES)
def test_one_member_gives_its_own_score(how):
    s = np.random.default_rng(0).normal(size=(7, 1)).astype(np.float32)
    assert np.array_equal(aggregate(s, how, lam_for(how)), s[:, 0])
    assert torch.equal(aggregate(torch.tensor(s), how, lam_for(how)), torch.tensor(s[:, 0]))


def test_values_by_hand():
    s = np.array([1.0, 2.0, 6.0])  # mean 3, variance 14/3 over K (7 over K - 1)
    assert aggregate(s, "mean") == 3 and aggregate(s, "median") == 2
    assert aggregate(s, "min") == 1 and aggregate(s, "max") == 6
    assert aggregate(s, "uwo", 0.5) == pytest.approx(3 - 0.5 * 14 / 3)
    assert aggregate(s, "mean_std", 0.5) == pytest.approx(3 - 0.5 * np.sqrt(14 / 3))
    assert aggregate(s, "quantile", 0.25) == pytest.approx(1.5)
    assert aggregate(s, "entropic", 2.0) == pytest.approx(-2 * np.log(np.mean(np.exp(-s / 2))))
    assert aggregate([1, 2, 6], "mean").dtype == np.float32


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("s", [[0.5, -1.0, 2.0], [1.0, 1.0, 1.0], [3.0]], ids=["apart", "equal", "single"])
def test_gradients_flow_and_are_finite(how, s):
    x = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    aggregate(x, how, lam_for(how)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.sum().item() == pytest.approx(1.0)  # a common shift moves the result as much
    if len(set(s)) > 1:
        assert torch.autograd.gradcheck(lambda z: aggregate(z, how, lam_for(how)), x)


@pytest.mark.parametrize("how", NAMES)
def test_a_nan_is_never_hidden(how):
    s = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    for out in (aggregate(s, how, lam_for(how)), aggregate(torch.tensor(s), how, lam_for(how)).numpy()):
        assert np.isnan(out[0]) and np.isfinite(out[1])


@pytest.mark.parametrize(
    "s, how, lam, words",
    [
        ([1.0], "mode", 1, "how = 'mode'.*mean_std"),
        (np.zeros((3, 0)), "mean", 1, r"shape \(3, 0\)"),
        (1.0, "mean", 1, r"shape \(\)"),
        ([1.0], "quantile", 1.2, "lam = 1.2.*level from 0 to 1"),
        ([1.0], "quantile", -0.1, "lam = -0.1"),
        ([1.0], "entropic", 0, "lam = 0.*above 0"),
        ([1.0], "entropic", -2, "lam = -2"),
        ([1.0], "uwo", -0.5, "lam = -0.5.*0 is the mean"),
        ([1.0], "mean_std", float("nan"), "lam = nan"),
        ([1.0], "mean_std", float("inf"), "lam = inf"),
    ],
)
def test_bad_input_is_named(s, how, lam, words):
    with pytest.raises(ValueError, match=words):
        aggregate(s, how, lam)


def test_lam_is_ignored_where_the_table_says_so():
    s = np.random.default_rng(1).normal(size=(4, 3))
    for how, rule in AGGREGATORS.items():
        if rule.lam is None:
            assert np.array_equal(aggregate(s, how, -7), aggregate(s, how))
        else:
            assert not np.array_equal(aggregate(s, how, 0.9), aggregate(s, how, 0.2))
            assert rule.lam[0] <= rule.lam[2] <= rule.lam[1]
        assert rule.label and rule.formula and "2" in rule.source


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("how", NAMES)
def test_centring_removes_the_offsets_of_members(how, kind):
    rng = np.random.default_rng(2)
    s, ref = rng.normal(size=(5, 40, 3)), rng.normal(size=(5, 60, 3))
    everywhere, by_prompt = 9 * rng.normal(size=3), 9 * rng.normal(size=(5, 1, 3))

    def score(x, r, centring):
        return np.asarray(aggregate(align(kind(x), kind(r), centring), how, lam_for(how)))

    for offset, centring in ((everywhere, "global"), (by_prompt, "prompt")):
        before, after = score(s, ref, centring), score(s + offset, ref + offset, centring)
        np.testing.assert_allclose(before, after, atol=1e-9)
        assert np.array_equal(np.argsort(before, -1), np.argsort(after, -1))
    if how not in ("mean", "uwo", "mean_std"):  # and without it they decide the ranking
        assert not np.array_equal(
            np.argsort(score(s, ref, "none"), -1), np.argsort(score(s + everywhere, ref, "none"), -1)
        )


def test_alignment_gives_mean_zero_and_unit_width_on_the_reference():
    rng = np.random.default_rng(3)
    ref = (rng.normal(size=(6, 50, 4)) * [1, 2, 3, 4] + rng.normal(size=(6, 1, 4))).astype(np.float32)
    glob, prompt = align(ref, how="global"), align(ref, how="prompt")
    assert glob.dtype == np.float32
    np.testing.assert_allclose(glob.reshape(-1, 4).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(glob.reshape(-1, 4).std(0), 1, atol=1e-5)
    np.testing.assert_allclose(prompt.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose((prompt**2).mean((0, 1)), 1, atol=1e-5)
    np.testing.assert_allclose(align(ref, how="global", scale=False), ref - ref.mean((0, 1)), atol=1e-5)
    assert np.array_equal(align(ref, how="none"), ref)
    np.testing.assert_allclose(align(ref[0], ref, "global"), glob[0], atol=1e-6)


@pytest.mark.parametrize(
    "args, words",
    [
        ((np.ones((2, 3)), None, "rank"), "how = 'rank'"),
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
