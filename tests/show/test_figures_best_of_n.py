"""The figures of best-of-n: what is drawn is what the shipped rows say, and the alternative text says what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from rmlab.show import figures_best_of_n as figures
from rmlab.show.figures import pick
from rmlab.show.rows import rows
from rmlab.show.style import LOOKS


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


def test_agreement_shows_three_means_a_relation_from_heads_to_pretraining_seeds(panels):
    table = rows("agreement")
    figure = figures.agreement(table)
    assert "of their errors" in figure.alt
    (ax,) = panels
    means = [x.get_xdata()[0] for x in ax.lines if len(x.get_xdata()) == 1]
    by = table.groupby("relation")[["corr_heldout", "corr_pool", "corr_error"]].mean()
    np.testing.assert_allclose(
        means, by.loc[["heads 5", "heads 3", "finetune", "pretrain"]].to_numpy().ravel()
    )


def test_probes_stand_in_the_order_of_golds_reaction(panels):
    table = rows("probes")
    figure = figures.probes(table)
    gold = pick(table, reward_model="gold").sort_values("reaction", ascending=False)
    (ax,) = panels
    assert [t.get_text() for t in ax.get_yticklabels()] == list(gold.label)
    assert [float(t.get_text().replace("−", "-")) for t in ax.texts] == list(gold.reaction.round(1))
    ticks = [x for x in ax.lines if x.get_marker() == "|"]
    assert {len(x.get_xdata()) for x in ticks} == {340}  # single models alone
    squares = [x.get_xdata()[0] for x in ax.lines if x.get_marker() == "s"]
    np.testing.assert_allclose(squares, [x.get_xdata().mean() for x in ticks])
    assert re.search(r"every fact stated wrong gold -6\.\d, members -2\.\d", figure.alt)


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
