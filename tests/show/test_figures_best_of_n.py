"""The figures of best-of-n: what is drawn is what the shipped rows say, and the alternative text says what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from rmlab.show import figures_best_of_n as figures
from rmlab.show.figures import pick
from rmlab.show.rows import rows
from rmlab.show.style import LOOKS, look_of
from tests.show.fake_rows import best_of_n


@pytest.fixture(scope="module")
def curves():
    return rows("curves")


def drawn_by(ax, color):
    """The curves of one colour, longest first."""
    return sorted((x for x in ax.lines if x.get_color() == color), key=lambda x: -len(x.get_xdata()))


def test_gold_peaks_where_the_rows_do_and_the_readers_run_is_drawn_over_it(curves, panels):
    single = pick(curves, ensemble="single")
    figure = figures.overoptimisation(curves, own=curves.assign(gold=curves.gold - 0.5))
    upper, lower = panels
    for ax, column in ((upper, "gold"), (lower, "proxy")):
        np.testing.assert_allclose(drawn_by(ax, LOOKS[column].color)[0].get_ydata(), single[column])
    np.testing.assert_allclose(drawn_by(upper, LOOKS["you"].color)[0].get_ydata(), single.gold - 0.5)
    top = single.loc[single.gold[::-1].idxmax()]
    assert f"peak, n = {top.pressure}" in [t.get_text() for t in upper.texts]
    assert (
        f"up to {top.gold:.2f} at n = {top.pressure}, then down to {single.gold.iloc[-1]:.2f}" in figure.alt
    )


def test_the_shipped_peak_is_that_of_the_ends():
    """Rows are rounded to five digits, and the two highest of the single model are the same there."""
    figure = figures.overoptimisation(rows("curves"))
    end = pick(rows("ends"), ensemble="single").iloc[0]
    assert f"up to {end.peak:.2f} at n = {end.peak_pressure}, then" in figure.alt


def test_every_ensemble_is_drawn_under_every_aggregator(curves, panels):
    figure = figures.ensembles(curves, ["finetune3", "heads5"], ["mean", "uwo"])
    for ax, rule in zip(panels, ("mean", "uwo"), strict=True):
        for name, method in (("finetune3", "finetune"), ("heads5", "heads")):
            rows_of = pick(curves, ensemble=name, aggregator=rule)
            np.testing.assert_allclose(drawn_by(ax, LOOKS[method].color)[0].get_ydata(), rows_of.gold)
    labels = panels[0].get_legend_handles_labels()[1]
    assert labels == ["single", "3 finetuning seeds", "5 linear heads"]
    end = pick(curves, ensemble="heads5", aggregator="uwo").gold.iloc[-1]
    assert f"heads5 uwo {end:.2f}" in figure.alt and "oracle" not in figure.alt


def test_gains_are_the_rows_with_their_bands(curves, panels):
    figures.gains(curves, ["finetune3", "pretrain3"], (16, 256), ("mean", "min"))
    order = [
        ("pretrain3", "min"),
        ("pretrain3", "mean"),
        ("finetune3", "min"),
        ("finetune3", "mean"),
    ]  # upwards
    names = [
        "3 pretraining seeds: min",
        "3 pretraining seeds: mean",
        "3 finetuning seeds: min",
        "3 finetuning seeds: mean",
    ]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == names
    for ax, n in zip(panels, (16, 256), strict=True):
        bars = [x for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]
        for bar, (name, rule) in zip(bars, order, strict=True):
            r = pick(curves, ensemble=name, aggregator=rule, pressure=n).iloc[0]
            assert list(bar.get_xdata()) == [r.low, r.high]


def test_a_pick_is_judged_by_all_four(panels):
    table = rows("transfer")
    figure = figures.transfer(table)
    for judge, color in (
        ("self", "single"),
        ("finetune", "finetune"),
        ("pretrain", "pretrain"),
        ("gold", "gold"),
    ):
        scores = pick(table, judged_by=judge).score
        np.testing.assert_allclose(drawn_by(panels[0], LOOKS[color].color)[0].get_ydata(), scores)
        assert f"{judge} {scores.iloc[-1]:.2f}" in figure.alt


@pytest.mark.parametrize("column", ["corr_tail", "corr_error"])
def test_agreement_shows_three_means_a_relation_from_heads_to_pretraining_seeds(panels, column):
    table = (
        rows("agreement").drop(columns="corr_error", errors="ignore").rename(columns={"corr_tail": column})
    )
    figure = figures.agreement(table)
    assert ("of their errors" in figure.alt) == (column == "corr_error")
    (ax,) = panels
    means = [x.get_xdata()[0] for x in ax.lines if len(x.get_xdata()) == 1]
    by = table.groupby("relation")[["corr_heldout", "corr_pool", column]].mean()
    np.testing.assert_allclose(
        means, by.loc[["heads 5", "heads 3", "finetune", "pretrain"]].to_numpy().ravel()
    )


def test_probes_stand_in_the_order_of_golds_reaction(panels):
    table = rows("probes")
    figure = figures.probes(table)
    gold = pick(table, reward_model="gold").sort_values("reaction", ascending=False)
    left, right = panels
    np.testing.assert_allclose([p.get_width() for p in left.patches], gold.reaction)
    assert [t.get_text() for t in left.get_yticklabels()] == list(gold.label)
    ticks = [x for x in right.lines if x.get_marker() == "|"]
    assert {len(x.get_xdata()) for x in ticks} == {45}  # single models alone
    assert re.search(r"every fact stated wrong gold -\d\.\d, members [+-]0\.0\d", figure.alt)


def test_a_panel_a_draw_with_every_model_and_their_mean(panels):
    table = rows("replicates")
    figures.draws(table)
    singles = pick(table, ensemble="single")
    assert len(panels) == singles.draw.nunique()
    for ax, draw in zip(panels, sorted(singles.draw.unique()), strict=True):
        *thin, thick = ax.lines
        assert len(thin) == 15
        np.testing.assert_allclose(
            thick.get_ydata(), pick(singles, draw=draw).groupby("pressure").gold.mean()
        )


def test_fact_sensitivity_draws_a_mean_a_size(panels):
    table = rows("fact_sensitivity")
    figures.fact_sensitivity(table)
    means = [x for x in panels[0].lines if x.get_linestyle() != "None" and len(x.get_xdata()) > 2]
    expected = table.groupby(["hidden", "layers", "pairs"]).wrong.mean().groupby(level=[0, 1])
    for drawing, (_, group) in zip(means, expected, strict=True):
        np.testing.assert_allclose(drawing.get_ydata(), group)


def test_rows_at_equal_penalty_are_not_taken_for_the_papers(panels):
    table = best_of_n()
    figures.ensembles(table, ["heads3", "heads5"], ["min"])
    for name in ("heads3", "heads5"):
        r = pick(table, ensemble=name, aggregator="min", pessimism="paper")
        look = look_of(name, "heads")
        (plotted,) = (
            x for x in panels[0].lines if (x.get_color(), x.get_fillstyle()) == (look.color, look.fill)
        )
        np.testing.assert_allclose(plotted.get_ydata(), r.gold)
    assert panels[0].get_legend_handles_labels()[1] == ["single", "3 linear heads", "5 linear heads"]


def test_gains_show_the_aggregators_that_were_run(panels):
    table = best_of_n()
    figure = figures.gains(table, ["finetune5"], (16, 256, 4096))
    assert len(panels) == 2
    names = [t.get_text() for t in panels[0].get_yticklabels()]
    assert names == [f"5 finetuning seeds: {rule}" for rule in ("mean − std", "min", "mean")]
    at = pick(table, ensemble="finetune5", pessimism="paper", pressure=256)
    assert figure.alt.count("finetune5") == 3
    assert f"finetune5 min {pick(at, aggregator='min').gain.iloc[0]:+.2f}" in figure.alt


def test_ten_draws_stand_in_two_rows(panels):
    one = rows("replicates").query("ensemble == 'single' and draw == 0")
    figures.draws(pd.concat([one.assign(draw=d, gold=one.gold + d) for d in range(10)]))
    assert len(panels) == 10 and len({ax.get_position().y0 for ax in panels}) == 2
    means = [ax.lines[-1].get_ydata()[0] for ax in panels]
    np.testing.assert_allclose(np.diff(means), 1.0)


def test_accuracy_beside_the_gold_chosen_and_their_correlation(panels):
    """A tenth of the models is right more often and chooses better at 16, worse at 256."""
    better = np.tile(np.arange(10) == 0, 4)
    names = [f"d{d}/p0/f{i}" for d in range(4) for i in range(10)]
    at = {"ensemble": "single", "members": names, "draw": np.repeat(range(4), 10)}
    tables = [
        pd.DataFrame({**at, "pressure": n, "gold": sign * better}) for n, sign in ((16, 2.0), (256, -1.0))
    ]
    accuracy = pd.DataFrame({"member": names, "accuracy": 0.7 + 0.1 * better})
    figure = figures.accuracy_and_gold(pd.concat(tables), accuracy, (16, 256))
    assert [ax.get_title(loc="left") for ax in panels] == ["n = 16: r = 1.00", "n = 256: r = -1.00"]
    for ax, top in zip(panels, (1.8, -0.9), strict=True):
        x, y = ax.lines[0].get_data()
        assert x.max() == pytest.approx(9) and y[x.argmax()] == pytest.approx(top)
    assert "1.00 [1.00, 1.00] at n = 16; -1.00" in figure.alt
