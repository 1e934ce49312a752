"""Large ensembles of planted Gaussian errors are predicted from two members."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure.ceiling import COLUMNS, ceiling, components
from rmlab.measure.herding import herding
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.winners import winner_means
from tests.measure.fake_scores import in_step
from tests.measure.planted import BACKBONE, LABELS, OWN, SLOPE, largest_of, planted

N, UNENDED = 256, 0.1
GRID = [(p, f) for p in range(5) for f in range(3)]
ENSEMBLES = {
    "finetune2": GRID[:2],
    "finetune3": GRID[:3],
    "pretrain5": [(p, 0) for p in range(5)],
    "grid15": GRID,
}


@pytest.fixture(scope="module")
def scores():
    return planted(ENSEMBLES, draws=6, P=40, N=N, unended=UNENDED)


@pytest.fixture(scope="module")
def table(scores):
    return ceiling(scores).set_index(["ensemble", "quantity", "kind", "n"]).sort_index()


def test_components_are_the_planted_variances(scores):
    few = [m for m in scores.members if m.draw == 0 and m.backbone < 2 and m.finetune < 2]
    found = components(few, scores)
    known = (LABELS + BACKBONE + OWN, LABELS + BACKBONE, LABELS)
    np.testing.assert_allclose(found["errors"], known, rtol=0.06)
    np.testing.assert_allclose(found["scores"], np.array(known) + SLOPE**2, rtol=0.06)
    grid = LABELS + BACKBONE / 2 + OWN / 4
    assert found["errors"].of_mean(few) == pytest.approx(grid, rel=0.06)
    assert found["errors"].of_mean(few[:1]) == found["errors"].own
    assert np.isnan(components(few[:2], scores)["errors"].other)
    assert components(few[:2], scores)["errors"].of_mean(few[:2]) == pytest.approx(
        LABELS + BACKBONE + OWN / 2, rel=0.06
    )


def test_predictions_ceilings_and_measurements_are_the_planted_ones(table):
    """Within 5%, gold 3%: the winner's gold is SLOPE / S x m(n), its gap V / S x m(n)."""
    V = {
        "finetune3": (LABELS + BACKBONE + OWN / 3, LABELS + BACKBONE),
        "pretrain5": (LABELS + (BACKBONE + OWN) / 5, LABELS),
        "grid15": (LABELS + BACKBONE / 5 + OWN / 15, LABELS),
    }
    for name, variances in V.items():
        for kind, variance in zip(("predicted", "ceiling"), variances, strict=True):
            S = np.sqrt(SLOPE**2 + variance)
            for n in (8, 64):
                gold, gap = (table.loc[(name, quantity, kind, n)] for quantity in ("gold", "gap"))
                assert gold.value == pytest.approx(SLOPE / S * largest_of(n, UNENDED), rel=0.03)
                assert gap.value == pytest.approx(variance / S * largest_of(n, UNENDED), rel=0.05)
                assert gap.low < gap.value < gap.high
        for quantity in ("gold", "gap"):
            rows = {kind: table.loc[(name, quantity, kind)].value for kind in ("predicted", "measured")}
            np.testing.assert_allclose(rows["measured"].iloc[2:7], rows["predicted"].iloc[2:7], rtol=0.05)
            difference = table.loc[(name, quantity, "difference")]
            np.testing.assert_allclose(difference.value, rows["measured"] - rows["predicted"], atol=1e-9)
            assert (difference.low.iloc[1:7] < 0.02).all() and (difference.high.iloc[1:7] > -0.02).all()
    assert table.loc[("grid15", "gap", "predicted", 64)].base == "pretrain2"
    assert table.loc[("finetune3", "gap", "predicted", 64)].base == "finetune2"


def test_errors_that_are_not_gaussian_are_not_predicted():
    """A blind spot of every member, rare and large, is found whatever the variances say."""
    scores = planted({"grid4": [(0, 0), (0, 1), (1, 0), (1, 1)]}, draws=4, P=40, N=N)
    rare = (np.random.default_rng(1).random((40, N)) < 0.01) * np.float32(5)
    members = {m.id: replace(m, pool=m.pool + rare[..., None]) for m in scores.members}
    ensembles = [replace(e, parts=tuple(members[p.id] for p in e.parts)) for e in scores.ensembles]
    table = ceiling(replace(scores, members=list(members.values()), ensembles=ensembles))
    off = table[(table.kind == "difference") & (table.quantity == "gap") & (table.n == 64)].iloc[0]
    assert off.low > 0.1


def test_what_is_measured_is_the_gap_of_herding(scores, table):
    gaps = herding(scores)["herding"]
    for name in ("finetune3", "grid15"):
        other = gaps[(gaps.ensemble == name) & (gaps.aggregator == "mean")]
        rows = table.loc[(name, "gap", "measured")]
        np.testing.assert_allclose(
            rows[["value", "low", "high"]], other[["gap", "gap_low", "gap_high"]], atol=1e-6
        )
    e = [e for e in scores.ensembles if e.name == "grid15"]
    means = np.array([[g[o].mean() for g, o in zip(scores.gold, scores.ended, strict=True)]])
    ends = np.array([N])
    won = [winner_means(x.pool.mean(-1), scores.gold[..., None], ends, scores.ended)[:, 0, 0] for x in e]
    row = table.loc[("grid15", "gold", "measured", N)]
    band = two_way_interval(np.array(won) - means)
    np.testing.assert_allclose([row.value, row.low, row.high], band[:3], atol=1e-6)


def test_only_plain_single_models_are_predicted_and_from_pairs_that_there_are(scores):
    found = ceiling(in_step())
    assert set(found.ensemble) == {
        "finetune5",
        "finetune3",
        "pretrain3",
    }  # not heads, not unions with adapters
    epochs = [replace(m, id=m.id + "/e3") for m in scores.members]
    by_id = {m.id: m for m in epochs}
    others = [replace(e, parts=tuple(by_id[p.id + "/e3"] for p in e.parts)) for e in scores.ensembles]
    empty = ceiling(replace(scores, members=epochs, ensembles=others))
    assert empty.empty and list(empty) == COLUMNS
    alone = [
        m for m in scores.members if m.finetune == 0
    ]  # no two of one backbone: nothing to predict seeds from
    assert set(ceiling(replace(scores, members=alone)).ensemble) == {"pretrain5"}


def test_tables_are_in_the_columns_of_an_empty_one(table):
    assert list(table.reset_index()[COLUMNS]) == COLUMNS and set(table.units) == {6}
