"""Laws plotted: a law that saw the left of a cut, coefficients of one form and rule, slopes and regrets as the rows say."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.optimise.best_of_n import kl_bound
from rmlab.show import figures_laws as figures
from rmlab.show.figures import pick
from rmlab.show.style import LOOKS
from tests.show import fake_measures as fake

JUDGES = [("single", "mean"), ("finetune5", "mean")]


def points(ax):
    return {
        (round(x.get_xdata()[0], 6), round(x.get_ydata()[0], 6)) for x in ax.lines if len(x.get_xdata()) == 1
    }


def test_a_law_is_drawn_on_beyond_what_it_saw(panels):
    table = fake.curves()
    figure = figures.beyond_the_cut({"sighted": table}, JUDGES)
    for ax, (ensemble, _), beta in zip(panels, JUDGES, (0.5, 0.25), strict=True):
        rows = pick(table, ensemble=ensemble, pessimism="paper")
        dots, quadratic, log1p = ax.lines
        np.testing.assert_allclose(dots.get_xdata() ** 2, rows.kl)
        np.testing.assert_allclose(dots.get_ydata(), rows.gold - rows.gold.iloc[0])
        x = quadratic.get_xdata()
        np.testing.assert_allclose(quadratic.get_ydata(), x * (1.6 - beta * x), rtol=1e-6)
        assert abs(log1p.get_ydata()[-1] - dots.get_ydata()[-1]) > 0.02
        (grey,) = ax.patches
        assert grey.get_x() == pytest.approx(np.sqrt(kl_bound(64)))
    assert [ax.get_title(loc="left") for ax in panels] == ["one model", "5 finetuning seeds, mean"]
    assert "one model: 1.28 at its highest, 0.81 at the end, where d (α − βd) says 0.81" in figure.alt


def test_what_lies_beyond_the_cut_moves_no_law(panels):
    table = fake.curves()
    far = table.assign(gold=np.where(table.pressure > 64, 0.0, table.gold))
    figures.beyond_the_cut({"true": table, "far": far}, JUDGES[:1])
    np.testing.assert_allclose(panels[0].lines[1].get_ydata(), panels[1].lines[1].get_ydata())
    assert panels[1].get_title(loc="left") == "far: one model"
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.beyond_the_cut({"true": table}, [("heads5", "mean")])


def test_points_that_rest_on_few_answers_weigh_less():
    rows = pick(fake.curves(), ensemble="single", pessimism="paper")
    d, gain, weights = figures.fit_points(rows)
    assert d[0] == gain[0] == 0 and weights[0] == 1
    np.testing.assert_allclose(weights[-1], 0.1)


def test_coefficients_are_of_one_rule_and_form(panels):
    table = fake.law_rows()
    figure = figures.coefficients(table, "min")
    rows = pick(table, form="quadratic")
    rows = rows[(rows.aggregator == "min") | (rows.ensemble == "single")]
    for ax, column in zip(panels, ("alpha", "beta"), strict=True):
        assert sorted(y for _, y in points(ax)) == sorted(rows[column].round(6))
        bars = [s[:, 1].round(6).tolist() for c in ax.collections for s in c.get_segments()]
        assert sorted(bars) == sorted(rows[[f"{column}_low", f"{column}_high"]].round(6).to_numpy().tolist())
    assert "one model 1.60 and 0.60; 3 finetuning seeds 1.61 and 0.55" in figure.alt
    with pytest.raises(ValueError, match="rule = 'median'"):
        figures.coefficients(table, "median")


def test_slopes_of_body_and_top_share_a_line(panels):
    table = fake.goodhart()
    figure = figures.goodhart_slopes(table, list(fake.JUDGES))
    (ax,) = panels
    plotted = points(ax)
    for y, r in enumerate(reversed(list(table.itertuples()))):
        assert (round(r.slope_body, 6), y) in plotted and (round(r.slope_top, 6), y) in plotted
    fills = [x.get_fillstyle() for x in ax.lines if len(x.get_xdata()) == 1]
    assert fills == ["none", "full"] * len(table)
    assert "one model 1.10 [1.05, 1.15] and -1.00 [-1.50, -0.50]; 5 finetuning seeds, mean" in figure.alt


def test_regrets_stand_by_rule_and_one_model_has_no_members(panels):
    table = fake.choices()
    figure = figures.regrets(table, JUDGES)
    (ax,) = panels
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == list(reversed(figures.RULES.values()))
    one = [
        (x.get_xdata()[0], round(x.get_ydata()[0]))
        for x in ax.lines
        if len(x.get_xdata()) == 1 and x.get_color() == LOOKS["single"].color
    ]
    rows = pick(table, ensemble="single").set_index("rule").regret
    assert len(one) == len(figures.RULES) - 1
    for y, rule in enumerate(reversed(figures.RULES)):
        assert rule == "members" or (rows[rule], y) in one
    assert "all there are: one model 0.70, 5 finetuning seeds, mean 0.71; members, no labels: 5" in figure.alt
