"""The two-way interval and that of a share: their numbers, and how often they hold the truth."""

import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import sem
from scipy.stats import t as student

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.intervals import clustered_share, columns_of, mean_interval, two_way_interval

DATA = Path(__file__).resolve().parents[2] / "data"


def trials(rng, D, ratio, prompt=1.0, P=20, T=3000):
    """T data sets (D, P, T) of mean 0: noise 1, prompts `prompt`, replicates `ratio` times the noise / sqrt(P)."""
    replicate = ratio / np.sqrt(P) * rng.normal(size=(D, 1, T))
    return replicate + prompt * rng.normal(size=(1, P, T)) + rng.normal(size=(D, P, T))


def coverage(x):
    i = two_way_interval(x)
    return float(((i.low <= 0) & (0 <= i.high)).mean())


@pytest.mark.parametrize("D", [3, 5, 10])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2, 4, 8])
def test_the_interval_of_a_mean_covers_as_often_as_it_says(D, ratio):
    rng = np.random.default_rng(int(100 * ratio) + D)
    assert 0.93 <= coverage(trials(rng, D, ratio)) <= 0.97
    # without an effect of the prompts it may be too wide, as its docstring says, but not too narrow
    assert 0.93 <= coverage(trials(rng, D, ratio, prompt=0)) <= (0.997 if ratio < 2 else 0.98)


@pytest.mark.parametrize("D", [3, 5, 10])
@pytest.mark.parametrize("ratio", [0.25, 1, 8])
def test_the_interval_of_a_paired_difference_covers(D, ratio):
    """What both share, prompts and replicates of ten times the noise, cancels before anything is measured."""
    rng = np.random.default_rng(D)
    shared = 10 * trials(rng, D, 5)
    x, y = shared + trials(rng, D, ratio), shared
    assert 0.93 <= coverage(x - y) <= 0.97
    assert two_way_interval(x - y).se.mean() < two_way_interval(x).se.mean() / 3


@pytest.mark.parametrize("D", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_the_interval_of_ensembles_over_a_replicates_own_backbones_covers(D, spread):
    """Each replicate trains five backbones of its own; its value is the mean over the ten sets of three of them."""
    rng = np.random.default_rng(D)
    sets = np.array([[i in s for i in range(5)] for s in combinations(range(5), 3)]) / 3  # (10, 5)
    backbones = spread * rng.normal(size=(D, 1, 3000, 5)) + 0.2 * rng.normal(size=(D, 20, 3000, 5))
    assert 0.93 <= coverage((backbones @ sets.T).mean(-1) + 0.1 * rng.normal(size=(1, 20, 3000))) <= 0.97


def test_the_interval_is_the_formula_worked_by_hand():
    x = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])  # replicates 3 and 3, prompts 2, 2 and 5
    i = two_way_interval(x)
    R, Q, E = 0.0, 2 * 3.0, (1 + 0 + 1) * 2 / 2
    assert (i.mean, i.se) == pytest.approx((3, np.sqrt((R + Q - E) / 6)))
    df = (2 * Q - E) ** 2 / ((2 * Q) ** 2 / 2 + E**2 / 2)  # Q counts (3 + 1) / (3 - 1) fold
    assert i.df == pytest.approx(df)
    assert (i.low, i.high) == pytest.approx(
        (3 - student.ppf(0.975, df) * i.se, 3 + student.ppf(0.975, df) * i.se)
    )


def test_a_factor_of_one_level_leaves_students_interval_over_the_other():
    x = np.random.default_rng(1).normal(size=(12, 3))
    for i in (two_way_interval(x[None]), two_way_interval(x[:, None])):
        np.testing.assert_allclose(i.se, sem(x))
        assert i.df.tolist() == [11, 11, 11]
        np.testing.assert_allclose(i.high - i.mean, student.ppf(0.975, 11) * sem(x))


@pytest.mark.parametrize("shape", [(3, 20), (1, 20), (4, 1), (3, 20, 5)])
def test_data_without_spread_has_no_width(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        i = two_way_interval(np.full(shape, 0.1))
    assert np.array_equal(i.low, i.mean) and np.array_equal(i.high, i.mean) and not np.any(i.se)
    assert np.all(i.df >= 1) and np.shape(i.df) == shape[2:]


def test_points_are_apart_and_a_shift_or_a_scale_goes_through():
    x = np.random.default_rng(2).normal(size=(3, 8, 4)) + np.arange(3)[:, None, None]
    whole, moved = two_way_interval(x, 0.9), two_way_interval(2 * x + 5, 0.9)
    for k in range(4):
        np.testing.assert_allclose(np.array(whole)[:, k], np.array(two_way_interval(x[..., k], 0.9)))
    np.testing.assert_allclose(moved.high, 2 * whole.high + 5)
    np.testing.assert_allclose(moved.df, whole.df)
    turned = two_way_interval(x.swapaxes(0, 1), 0.9)
    np.testing.assert_allclose(np.array(turned), np.array(whole))


def mixed_model(x: np.ndarray) -> tuple[float, float]:
    """REML's mean and standard error of x (D, P) with crossed random effects, all of one group."""
    formula = pytest.importorskip("statsmodels.formula.api")
    import pandas as pd

    d, p = np.indices(x.shape)
    rows = pd.DataFrame({"x": x.ravel(), "replicate": d.ravel(), "prompt": p.ravel(), "all": 1})
    parts = {"replicate": "0 + C(replicate)", "prompt": "0 + C(prompt)"}
    model = formula.mixedlm("x ~ 1", rows, groups="all", vc_formula=parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance near 0 is "on the boundary"
        fit = model.fit(reml=True, method="powell")
    return fit.fe_params["Intercept"], fit.bse_fe["Intercept"]


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_and_its_error_are_those_of_a_mixed_model(seed):
    """Balanced data, so they agree where no variance is 0."""
    rng = np.random.default_rng(seed)
    D, P = 5, 20
    x = 0.4 + 0.6 * rng.normal(size=(D, 1)) + 0.8 * rng.normal(size=(1, P)) + rng.normal(size=(D, P))
    mean, se = mixed_model(x)
    i = two_way_interval(x)
    assert mean == pytest.approx(i.mean, abs=1e-6) and se == pytest.approx(i.se, rel=5e-3)


def test_a_shipped_comparison_has_the_error_of_a_mixed_model():
    """The claim min-beats-mean: five finetuning seeds, their minimum over their mean, 20 replicates and 64 prompts."""
    shipped = ByPrompt.load(DATA / "best_of_n_sighted" / "by_prompt.npz")
    least, mean = (
        shipped.values(256, "gain", ensemble="finetune5", aggregator=rule, pessimism="paper")
        for rule in ("min", "mean")
    )
    i = two_way_interval(least - mean)
    assert (i.mean, i.se) == pytest.approx(mixed_model(least - mean), rel=1e-3) and i.mean > 0.05


@pytest.mark.parametrize(
    "x, level, words",
    [
        (np.zeros(5), 0.95, r"x's shape = \(5,\)"),
        (np.zeros((1, 1, 7)), 0.95, "x's shape"),
        (np.zeros((0, 7)), 0.95, "x's shape"),
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), 0.95, "2 values NaN or infinite"),
        (np.zeros((3, 4)), 95, "level = 95"),
    ],
)
def test_what_has_no_interval_is_refused(x, level, words):
    with pytest.raises(ValueError, match=words):
        two_way_interval(x, level)


@pytest.mark.parametrize("spread", [0.0, 0.15])
@pytest.mark.parametrize("groups", [6, 40])
def test_the_interval_of_a_share_covers_whether_groups_agree_or_not(spread, groups):
    """Groups of unequal size, each with a share of its own: the truth is their expectation."""
    rng = np.random.default_rng(0)
    hits, trials = 0, 600
    for _ in range(trials):
        sizes = rng.integers(1, 40, groups)
        own = 0.75 + spread * rng.choice([-1, 1], groups)
        correct = rng.random(sizes.sum()) < np.repeat(own, sizes)
        _, low, high = clustered_share(correct, np.repeat(np.arange(groups), sizes))
        hits += low <= 0.75 <= high
    assert 0.93 <= hits / trials <= (0.98 if groups == 40 else 1)


def test_groups_of_one_are_wilsons_and_groups_of_the_same_count_once():
    correct = np.arange(100) < 80
    share, low, high = clustered_share(correct, range(100))
    assert (share, low, high) == pytest.approx((0.8, 0.710, 0.867), abs=2e-3)
    share, low, high = clustered_share(np.repeat(correct, 5), np.repeat(range(100), 5))
    assert (share, low, high) == pytest.approx((0.8, 0.710, 0.867), abs=2e-3)
    share, low, high = clustered_share(np.ones(50), np.arange(50) % 10)
    assert share == high == 1 and 0.6 < low < 0.75  # ten groups, all right
    assert np.isnan(clustered_share(correct, ["one"] * 100)[1:]).all()
    with pytest.raises(ValueError, match="pairs and their groups"):
        clustered_share(correct, range(99))
    with pytest.raises(ValueError, match="level = 95"):
        clustered_share(correct, range(100), 95)


def test_a_mean_without_an_interval_has_no_ends():
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    for one, other in zip(mean_interval(x), two_way_interval(x), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = mean_interval(x[:1, :1])
    np.testing.assert_array_equal(alone.mean, x[0, 0])
    assert np.isnan(alone.low).all() and alone.high.shape == (2,)
    for missing in (x[:, :0, 0], np.full((3, 4), np.nan)):
        assert np.isnan(mean_interval(missing)).all()
    x[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 values NaN"):
        mean_interval(x)


def test_an_interval_is_three_columns():
    band = two_way_interval(np.random.default_rng(0).normal(size=(3, 4)))
    assert columns_of("gap", band) == {"gap": band.mean, "gap_low": band.low, "gap_high": band.high}
    assert list(columns_of("gap", band, "")) == ["gap", "low", "high"]
