"""Regressional and extremal Goodhart: known slopes, known tails, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.measure.goodhart import gaussian_hill, hill, moments, slopes


def pool(rng, bend, replicates=4, prompts=20, answers=1024):
    """Moments (D, P, 2): gold follows the proxy at 0.5, and at 0.5 - bend beyond what 10% of answers reach."""
    sums = []
    for _ in range(replicates):
        proxy = rng.normal(size=(prompts, answers))
        gold = 0.5 * proxy - bend * np.maximum(proxy - 1.28, 0) + 0.3 * rng.normal(size=proxy.shape)
        sums.append(moments(proxy, gold + 7 * rng.normal(size=(prompts, 1)), np.ones(proxy.shape, bool)))
    return (np.stack(x) for x in zip(*sums, strict=True))


def test_a_line_has_the_same_slope_at_the_top_and_a_bend_is_seen():
    rng = np.random.default_rng(0)
    hits, bent = [], 0
    for _ in range(60):
        line = slopes(*pool(rng, 0.0))
        hits.append(line.difference.low <= 0 <= line.difference.high)
        bent += slopes(*pool(rng, 0.8)).difference.high < 0
    assert np.mean(hits) >= 0.88 and bent == 60
    assert line.body.mean == pytest.approx(0.5, abs=0.02) and line.top.mean == pytest.approx(0.5, abs=0.1)
    assert slopes(*pool(rng, 0.8)).top.mean == pytest.approx(-0.3, abs=0.1)


def test_slopes_are_those_of_numpy_and_leave_out_what_never_ended():
    rng = np.random.default_rng(1)
    proxy, ended = rng.normal(size=(1, 400)), rng.random((1, 400)) < 0.8
    gold = proxy**2 + rng.normal(size=proxy.shape)
    crossed, squared = moments(proxy, np.where(ended, gold, 1e9), ended, top=50)
    order = np.argsort(proxy[0][ended[0]])
    x, y = proxy[0][ended[0]][order], gold[0][ended[0]][order]
    for i, part in enumerate((slice(None, -50), slice(-50, None))):
        assert crossed[0, i] / squared[0, i] == pytest.approx(np.polyfit(x[part], y[part], 1)[0])


def test_a_pool_without_spread_has_no_slope():
    ones = np.ones((3, 8))
    crossed, squared = moments(ones, ones, ones > 0)
    assert (squared == 0).all() and np.isnan(slopes(crossed[None], squared[None]).top.mean)
    with pytest.raises(ValueError, match="proxy's shape"):
        moments(ones, ones[:2], ones > 0)


def test_hills_index_is_that_of_a_power_law_and_of_normal_errors():
    rng = np.random.default_rng(2)
    for index in (1.5, 3.0):
        assert hill(rng.pareto(index, 400_000) + 1) == pytest.approx(index, rel=0.05)
    normal = rng.normal(size=400_000)
    assert hill(normal) == pytest.approx(gaussian_hill(), rel=0.05)
    assert hill(rng.standard_t(3, 400_000)) < 0.6 * gaussian_hill()
    assert hill(3 * normal) == pytest.approx(hill(normal))


def test_too_few_errors_have_no_tail():
    assert np.isnan(hill(np.arange(500.0))) and np.isnan(hill(-np.ones(5000)))
    with pytest.raises(ValueError, match="share"):
        hill(np.ones(5), 0.7)
