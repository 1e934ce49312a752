"""How good, how different and how dear the members of a synthetic study are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rmlab.measure.ensembles import by_name
from rmlab.measure.members import COSTS, accuracy, cost_cards, diversity_of_ensembles
from tests.measure.fake_scores import M, grid, in_step, only, with_copies


@pytest.fixture(scope="module")
def scores():
    return in_step()


@pytest.fixture(scope="module")
def diversity(scores):
    return diversity_of_ensembles(scores, top=16, n=16)["diversity"].set_index("ensemble")


def test_every_member_has_its_accuracy_with_a_binomial_error():
    scores = grid()
    table = accuracy(scores)
    assert list(table.member) == [i for m in scores.members for i in m.ids] and table.member.is_unique
    rows = table.set_index("member")
    for m in scores.members:
        right = m.heldout[:, 0] > m.heldout[:, 1]
        for k, name in enumerate(m.ids):
            row, share = rows.loc[name], right[:, k].mean()
            assert row.accuracy == share and row.accuracy_se == pytest.approx(
                np.sqrt(share * (1 - share) / M)
            )
            about = (row.draw, row.backbone, row.finetune, row.heads, row.pairs)
            assert about == (m.draw, m.backbone, m.finetune, m.k, M)
    assert "d1/p2/heads4.3" in rows.index


def test_members_that_differ_and_members_that_agree_are_told_apart(diversity):
    assert (diversity.units == 3).all()
    assert (diversity.accuracy >= diversity.accuracy_one - 1e-9)[diversity.k > 1].all()
    for column in ("corr_margin", "corr_error", "corr_error_tail", "corr_rank", "top_agreement"):
        assert diversity[column]["finetune5"] < diversity[column]["heads5"]
    for column in ("effective", "effective_error", "effective_error_tail"):
        assert diversity[column]["finetune5"] > diversity[column]["heads5"]
    assert diversity.verdict["lora2"].startswith("2 members") and diversity.verdict["heads5"].startswith(
        "5 heads"
    )
    assert (diversity.accuracy_se[diversity.k > 1] > 0).all()


def test_errors_correlate_as_they_were_planted_in_the_pool_and_in_its_tail(diversity):
    """Heads share 0.9 of their errors' variance, finetuning seeds 0.4: what they rightly share, gold, does not count."""
    for column in ("corr_error", "corr_error_tail"):
        assert diversity[column]["heads5"] == pytest.approx(0.9, abs=0.05)
        assert diversity[column]["finetune5"] == pytest.approx(0.4, abs=0.1)
    assert diversity.effective_error["finetune5"] == pytest.approx(5 / 2.6, rel=0.1)
    assert diversity.corr_rank["finetune5"] > 0.5


def test_one_member_has_nothing_to_agree_with(diversity):
    for name in ("single", "average5"):
        assert (diversity.loc[name, ["effective", "effective_error", "effective_error_tail"]] == 1).all()
        pairs = [
            "corr_margin",
            "corr_error",
            "corr_error_tail",
            "corr_rank",
            "top_agreement",
            "min_share",
            "worth_mean",
            "worth_min",
        ]
        assert diversity.loc[name, pairs].isna().all()


def test_only_linear_heads_on_one_encoder_have_directions(diversity):
    heads = diversity.head_rank.notna()
    assert set(diversity.index[heads]) == {"heads2", "heads5"}
    assert 60 < diversity.head_angle["heads5"] < 120
    assert 1 < diversity.head_rank["heads2"] <= 2


def test_numbers_are_means_over_replicates_with_their_standard_error(scores, diversity):
    group = by_name(scores.ensembles)["finetune3"]
    shares = [(e.heldout[:, 0].mean(-1) > e.heldout[:, 1].mean(-1)).mean() for e in group]
    assert diversity.accuracy["finetune3"] == pytest.approx(np.mean(shares))
    assert diversity.accuracy_se["finetune3"] == pytest.approx(np.std(shares, ddof=1) / np.sqrt(3))


def test_a_replicates_instances_are_averaged_before_the_error_is_taken():
    scores = grid()
    row = (
        diversity_of_ensembles(only(scores, "single", "heads2"), 16, 16)["diversity"]
        .set_index("ensemble")
        .loc["heads2"]
    )
    groups = [[e for e in scores.ensembles if e.name == "heads2" and e.replicate == d] for d in range(2)]
    shares = [
        np.mean([(e.heldout[:, 0].mean(-1) > e.heldout[:, 1].mean(-1)).mean() for e in g]) for g in groups
    ]
    assert row.units == 2 and row.accuracy == pytest.approx(np.mean(shares))
    assert row.accuracy_se == pytest.approx(np.std(shares, ddof=1) / np.sqrt(2))


def test_copies_are_called_so(scores):
    few = only(with_copies(scores), "copies5", "finetune5", "single")
    table = diversity_of_ensembles(few)["diversity"].set_index("ensemble")
    row = table.loc["copies5"]
    assert row.worth_min == pytest.approx(0, abs=1e-9) and row.worth_mean == pytest.approx(0, abs=1e-9)
    assert table.worth_min["finetune5"] != 0
    assert row.effective == pytest.approx(1) == row.effective_error == row.effective_error_tail
    assert row.head_rank == pytest.approx(1) and row.head_angle == pytest.approx(0, abs=1e-6)
    assert row.verdict == "5 heads, 1.0 effective: they are copies"


def test_one_replicate_has_no_standard_error():
    table = diversity_of_ensembles(only(in_step(1), "single", "lora2"), 16, 16)["diversity"]
    assert table.accuracy.notna().all() and table.accuracy_se.isna().all()


def test_the_order_of_replicates_changes_no_number(scores, diversity):
    few = only(scores, "lora2", "heads2")
    table = diversity_of_ensembles(replace(few, ensembles=few.ensembles[::-1]), 16, 16)[
        "diversity"
    ].set_index("ensemble")
    pd.testing.assert_frame_equal(table, diversity.loc[table.index], rtol=1e-12)


def test_cost_cards_take_the_median_and_compare_with_single(scores):
    cards = cost_cards(scores).set_index("ensemble")
    # a member of the label draw s takes 2 k + s seconds; five of them are added up
    assert cards.train_seconds["single"] == 3 and cards.train_seconds["finetune5"] == 15
    assert cards.train_seconds["heads5"] == 11
    assert cards.train_seconds_x["finetune5"] == 5 and cards.parameters_x["finetune5"] == 5
    assert cards.peak_mb["finetune5"] == 51 and cards.peak_mb["mixed7"] == 52  # the largest part's
    assert (cards.loc["single", [f"{name}_x" for name in COSTS]] == 1).all()
    assert list(cards.index) == list(by_name(scores.ensembles)) and (cards.k > 0).all()


def test_a_row_a_replicate_makes_up_the_mean(scores):
    tables = diversity_of_ensembles(scores, top=16, n=16)
    by_replicate, mean = tables["diversity_replicates"], tables["diversity"].set_index("ensemble")
    for name, rows in by_replicate.groupby("ensemble"):
        assert rows.replicate.is_unique and len(rows) == mean.units[name]
        np.testing.assert_allclose(rows.corr_margin.mean(), mean.corr_margin[name], equal_nan=True)
