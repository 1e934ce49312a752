"""The figures about members: what is drawn is what the shipped rows say, and every ensemble has a name in words."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_members as figures
from rmlab.show.figures import pick
from rmlab.show.rows import rows
from rmlab.show.style import LOOKS


@pytest.fixture(scope="module")
def tables():
    return tuple(rows(t, "constructions") for t in ("curves", "diversity", "costs"))


def bars(ax):
    return [x for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]


def test_every_ensemble_of_the_study_has_a_name_in_words(tables):
    for ensemble in tables[1].ensemble:
        assert figures.name(ensemble) != ensemble and "_" not in figures.name(ensemble)


def test_judges_have_names():
    assert figures.name("lora5") == "5 LoRA adapters"
    assert figures.called("single", "mean") == "one model"
    assert figures.called("finetune5", "mean_std") == "5 finetuning seeds, mean − std"


def test_cost_draws_the_gain_at_the_cost(tables, panels):
    curves, _, costs = tables
    figure = figures.cost(curves, costs, ["heads5", "grid25"])
    end = pick(curves, aggregator="mean", pessimism="paper", pressure=2048).set_index("ensemble")
    times = costs.set_index("ensemble")
    for ax, column in zip(panels, ("train_seconds_x", "score_seconds_x"), strict=True):
        for bar, x in zip(bars(ax), ("heads5", "grid25"), strict=True):
            assert set(bar.get_xdata()) == {times[column][x]}
            assert list(bar.get_ydata()) == [end.low[x], end.high[x]]
    assert (
        f"5 linear heads {end.gain['heads5']:+.2f} for {times.train_seconds_x['heads5']:.1f} times"
        in figure.alt
    )


def test_effective_members_are_drawn_against_those_paid_for(tables, panels):
    table = tables[1].set_index("ensemble")
    figures.effective(
        tables[1], {"heads": ["heads2", "heads16"], "finetune": ["finetune2", "finetune5"]}, "effective"
    )
    _, heads, finetune = panels[0].lines
    assert list(heads.get_xdata()) == [2, 16] and list(finetune.get_xdata()) == [2, 5]
    np.testing.assert_allclose(heads.get_ydata(), table.effective[["heads2", "heads16"]])
    assert finetune.get_color() == LOOKS["finetune"].color


def test_the_band_of_effective_members_is_students_and_holds_to_what_is_possible(tables, panels):
    rows = tables[1].query("ensemble in ['finetune2', 'finetune5']").copy()
    rows["units"], rows["effective"], rows["effective_se"] = [3, 5], [1.5, 4.8], [0.05, 0.2]
    figures.effective(rows, {"finetune": ["finetune2", "finetune5"]}, "effective")
    (band,) = panels[0].collections
    ends = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices}
    low, high = 1.5 - 4.302653 * 0.05, 4.8 - 2.776445 * 0.2
    assert {(2, round(low, 6)), (5, round(high, 6)), (5, 5.0)} <= ends


@pytest.mark.parametrize("column", ["corr_tail", "corr_error"])
def test_diversity_spans_the_two_correlations(tables, panels, column):
    rows = tables[1].drop(columns="corr_error", errors="ignore")
    rows = rows.rename(columns={"corr_tail": column})
    table = rows.set_index("ensemble")
    figure = figures.diversity(rows, ["heads5", "lora5"])
    assert ("errors on a pool's answers" in figure.alt) == (column == "corr_error")
    for bar, x in zip(bars(panels[0]), ("lora5", "heads5"), strict=True):
        assert list(bar.get_xdata()) == [table[column][x], table.corr_margin[x]]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["5 LoRA adapters", "5 linear heads"]


def test_gains_are_the_last_rows_and_what_could_not_be_matched_says_why(tables, panels):
    curves = tables[0]
    figures.gains(curves, ["average5", "frozen5_l2", "heads5"], [("min", "paper"), ("min", "matched")])
    for ax, pessimism in zip(panels, ("paper", "matched"), strict=True):
        r = pick(curves, ensemble="heads5", aggregator="min", pessimism=pessimism, pressure=2048).iloc[0]
        assert list(bars(ax)[0].get_xdata()) == [r.low, r.high]  # from below
    assert [t.get_text() for t in panels[1].texts] == ["no penalty to match", "one model"]


def test_gains_and_costs_are_read_at_the_n_that_is_named(tables, panels):
    curves, _, costs = tables
    figures.gains(curves, ["heads5"], [("min", "paper")], n=256)
    r = pick(curves, ensemble="heads5", aggregator="min", pessimism="paper", pressure=256).iloc[0]
    assert list(bars(panels[0])[0].get_xdata()) == [r.low, r.high]
    assert panels[0].get_xlabel().endswith("n = 256")
    figures.cost(curves, costs, ["heads5"], n=256)
    r = pick(curves, ensemble="heads5", aggregator="mean", pessimism="paper", pressure=256).iloc[0]
    assert list(bars(panels[1])[0].get_ydata()) == [r.low, r.high]


def test_ensembles_of_the_new_studies_have_names():
    assert figures.name("grid15") == "5 x 3 grid of seeds"
    assert figures.name("dropout5") == "5 dropout masks" and figures.name("laplace5") == "5 Laplace samples"
