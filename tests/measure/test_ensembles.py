"""Members side by side, who is measured against whom, and scores that do not fit each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.ensembles import by_name
from tests.measure.fake_scores import M, N, P, grid, in_step, only


@pytest.fixture(scope="module")
def scores():
    return in_step()


def test_parts_stand_side_by_side(scores):
    mixed = by_name(scores.ensembles)["mixed7"][1]
    *seeds, lora = mixed.parts
    assert mixed.k == 7 and mixed.pool.shape == (P, N, 7) and mixed.heldout.shape == (M, 2, 7)
    for i, m in enumerate(seeds):
        np.testing.assert_array_equal(mixed.pool[..., i], m.pool[..., 0])
        np.testing.assert_array_equal(mixed.heldout[..., i], m.heldout[..., 0])
    np.testing.assert_array_equal(mixed.pool[..., 5:], lora.pool)
    assert mixed.members == [*(f"d1/p0/f{i}" for i in range(5)), "d1/p0/lora2.0", "d1/p0/lora2.1"]
    assert mixed.cost["parameters"] == 700 and mixed.cost["peak_mb"] == 52
    assert mixed.heads is None and by_name(scores.ensembles)["heads5"][0].heads.shape == (5, 8)


def test_single_models_are_those_that_gains_are_measured_from(scores):
    assert (
        [m.id for m in scores.singles]
        == ["d0/p0/f0", "d1/p0/f0", "d2/p0/f0"]
        == [m.id for m in scores.rivals]
    )
    assert len(grid().singles) == len(grid().rivals) == 12


def test_ensembles_are_grouped_by_name_and_ordered_by_replicate(scores):
    groups = by_name(scores.ensembles[::-1])
    assert list(groups)[:2] == ["mixed7", "average5"]
    assert all([e.replicate for e in group] == [0, 1, 2] for group in groups.values())


def test_a_replicates_instances_stand_in_the_order_of_their_numbers():
    group = by_name(grid().ensembles[::-1])["single"]
    assert [(e.replicate, e.number) for e in group] == [(d, i) for d in range(2) for i in range(6)]


def test_what_a_measurement_does_not_read_is_left_empty(scores):
    empty = [replace(m, pool=None, probes=None) for m in scores.members]
    assert replace(scores, members=empty, gold=None, ended=None).gold is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"gold": s.gold[0]}, "gold and ended"),
        (lambda s: {"ended": s.ended.astype(int)}, "gold and ended"),
        (lambda s: {"ended": s.ended & False}, "gold and ended"),
        (lambda s: {"ended": None}, "gold and ended"),
        (
            lambda s: {"gold": s.gold[:, :9], "ended": s.ended[:, :9]},
            r"pool shape of d0/p0/f0 = \(12, 64, 1\)",
        ),
        (
            lambda s: {"members": [replace(s.members[0], pool=s.members[0].pool[..., 0])]},
            "pool shape of d0/p0/f0",
        ),
        (
            lambda s: {"ensembles": s.ensembles + s.ensembles[:1]},
            r"replicates and numbers of single = \[\(0, 0\), \(0, 0\), \(1, 0\), \(2, 0\)\]",
        ),
        (
            lambda s: {"ensembles": [replace(e, rivals=()) for e in s.ensembles if e.name == "lora2"]},
            r"replicates of lora2 without a single model = \[0, 1, 2\]: give an ensemble 'single'",
        ),
        (
            lambda s: {"ensembles": [replace(e, name="single") for e in only(s, "heads2").ensembles]},
            r"members of single = \[2, 2, 2\]: give one",
        ),
    ],
)
def test_scores_that_do_not_fit_are_named(scores, change, words):
    with pytest.raises(ValueError, match=words):
        replace(scores, **change(scores))
