"""Gold by replicate and prompt: what is kept, read again, joined, and named when it is not there."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from rmlab.measure.by_prompt import ByPrompt, kept_points
from rmlab.measure.compare import curves
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.pool_curves import best_of_n_curves
from rmlab.measure.ppo_curves import ppo_curves
from tests.measure.fake_scores import P, grid, in_step, with_runs


@pytest.fixture(scope="module")
def every():
    return best_of_n_curves(grid())[0]


@pytest.fixture(scope="module")
def stored(every):
    return ByPrompt.of(every)


def runs(*settings):
    return ppo_curves(with_runs(in_step(), *settings))


def test_every_curve_is_kept_at_powers_of_four(every, stored):
    assert stored.settings == [asdict(c.setting) for c in every]
    assert stored.gold.shape == stored.proxy.shape == stored.rival.shape == (len(every), 2, P, 4)
    assert stored.gold.dtype == np.float32 and (stored.pressure == [1, 4, 16, 64]).all()
    for s, curve in enumerate(every):
        np.testing.assert_array_equal(stored.gold[s], curve.gold[..., ::2].astype(np.float32))
        np.testing.assert_array_equal(stored.proxy[s], curve.proxy[..., ::2].astype(np.float32))
        rival = (curve.gold - curve.gain)[..., ::2]
        np.testing.assert_array_equal(stored.rival[s], rival.astype(np.float32))


def test_an_interval_can_be_computed_again(every, stored):
    rows = curves(every)
    row = rows[(rows.ensemble == "heads4") & (rows.aggregator == "min") & (rows.pressure == 16)].iloc[0]
    for quantity, names in {
        "gold": ["gold", "gold_low", "gold_high"],
        "gain": ["gain", "low", "high"],
    }.items():
        x = stored.values(16, quantity, ensemble="heads4", aggregator="min")
        assert x.shape == (2, P) and x.dtype == np.float64
        np.testing.assert_allclose(two_way_interval(x)[:3], row[names].to_numpy(float), atol=1e-6)


def test_the_difference_of_two_settings_is_paired(every, stored):
    one, other = (stored.values(64, ensemble=e, aggregator="mean") for e in ("pretrain3", "finetune2"))
    left, right = (
        next(c for c in every if c.setting.label == f"{e} mean") for e in ("pretrain3", "finetune2")
    )
    np.testing.assert_allclose(one - other, left.gold[..., -1] - right.gold[..., -1], atol=1e-5)


def test_the_same_values_give_the_same_bytes(stored, tmp_path):
    digests = []
    for name in ("a.npz", "b.npz"):
        stored.save(tmp_path / name)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        time.sleep(2.1)  # a zip's clock ticks every two seconds
    assert digests[0] == digests[1]
    again = ByPrompt.load(tmp_path / "a.npz")
    assert again.settings == stored.settings
    for name in ("pressure", "gold", "proxy", "rival"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stored, name))


def test_runs_are_kept_at_no_more_than_twelve_evaluations_with_the_first_and_the_last():
    short, long = runs(("single", "mean", 0.1, 1), ("heads5", "min", 0.0, 7))
    assert kept_points(short).tolist() == [0, 1, 2, 3, 4]
    assert kept_points(long).tolist() == [*range(0, 29, 4)]  # 29 evaluations: every fourth
    odd = replace(long, **{n: getattr(long, n)[:28] for n in ("pressure", "kl")})
    assert kept_points(odd).tolist() == [*range(0, 28, 4), 27]
    both = ByPrompt.of([short, long])
    assert both.pressure.shape == (2, 8) and np.isnan(both.pressure[0, 5:]).all()
    assert np.isnan(both.gold[0, ..., 5:]).all() and np.isfinite(both.gold[1]).all()
    np.testing.assert_array_equal(both.values(84, kl_coef=0.0), long.gold[..., -1].astype(np.float32))
    assert long.gain is None and np.isnan(both.rival[1]).all()
    assert np.isnan(both.values(84, "gain", ensemble="heads5")).all()
    assert not both.values(12, "gain", ensemble="single").any()


def test_a_missing_replicate_stays_empty():
    scores = in_step()
    kept = [e for e in scores.ensembles if (e.name, e.replicate) != ("heads5", 1)]
    stored = ByPrompt.of(best_of_n_curves(replace(scores, ensembles=kept))[0])
    x = stored.values(4, ensemble="heads5", aggregator="uwo", pessimism="paper")
    assert np.isnan(x[1]).all() and np.isfinite(x[[0, 2]]).all()


def test_those_of_several_studies_are_one(stored):
    few = ByPrompt.of(best_of_n_curves(in_step(1))[0][:2])
    parts = [({"axis": "flips", "value": 0.0}, stored), ({"axis": "flips", "value": 0.25}, few)]
    both = ByPrompt.join(parts)
    assert both.gold.shape == (len(stored.settings) + 2, 2, P, 4)
    assert both.settings[0] == {"axis": "flips", "value": 0.0, **stored.settings[0]}
    np.testing.assert_array_equal(
        both.values(16, value=0.0, ensemble="single"), stored.values(16, ensemble="single")
    )
    x = both.values(16, value=0.25, ensemble="single")
    np.testing.assert_array_equal(x[:1], few.values(16, ensemble="single"))
    assert np.isnan(x[1]).all()  # this one has a single replicate


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"pressure": 3, "ensemble": "single"}, "pressure = 3: give one of 1, 4, 16, 64"),
        ({"pressure": 4, "quantity": "worth"}, "quantity = 'worth': give one of gold, proxy, rival, gain"),
        (
            {"pressure": 4, "ensemble": "heads9"},
            "not of 0: ensemble of single, finetune2, heads2, heads4, pretrain3",
        ),
        ({"pressure": 4, "ensemble": "heads4"}, "not of 5: aggregator of mean, median, min, mean_std, uwo"),
        (
            {"pressure": 4, "ensembel": "heads4"},
            r"keys of a setting = \['ensembel'\]: give some of ensemble, method",
        ),
    ],
)
def test_what_is_not_there_is_named(stored, keys, words):
    with pytest.raises(ValueError, match=words):
        stored.values(**keys)


def test_another_file_and_other_shapes_are_refused(stored, tmp_path):
    np.savez(tmp_path / "x.npz", gold=np.zeros(3))
    with pytest.raises(ValueError, match="a file without pressure, proxy, rival, settings"):
        ByPrompt.load(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="rival's shape"):
        replace(stored, rival=stored.rival[:, :1])
    with pytest.raises(ValueError, match="settings = 1: give one for each"):
        replace(stored, settings=stored.settings[:1])
