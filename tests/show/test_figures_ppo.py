"""The figures about PPO: what is drawn is what the rows say, and the alternative text says what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from rmlab.show import figures_ppo as pressure
from rmlab.show.figures_best_of_n import pick
from rmlab.show.style import LOOKS

BETAS = (0.0, 0.02, 0.05, 0.1)
KINDS = {"single": "single", "finetune5": "finetune", "heads5": "heads"}
JUDGES = [("single", "mean")] + [
    (x, how) for x in ("finetune5", "heads5") for how in ("mean", "min", "mean_std")
]
SPANS = {x: 1 - 0.05 * i for i, x in enumerate(JUDGES)}  # a number of each judge's own


def curve(judge, beta, longer=1, steps=120):
    """Gold rises and falls with the step, less where a nat is dear."""
    step = np.arange(0, steps * longer + 1, 6)
    far = step / steps * (1 - 5 * beta)
    gold = 1.75 + far - far**2 * 2 * SPANS[judge]
    return pd.DataFrame(
        {
            "line": judge[0],
            "how": judge[1],
            "beta": beta,
            "longer": longer,
            "kind": KINDS[judge[0]],
            "step": step,
            "k1": 20 * far,
            "gold": gold,
            "gold_lo": gold - 0.2,
            "gold_hi": gold + 0.3,
            "proxy": 2 * far,
        }
    )


@pytest.fixture(scope="module")
def curves():
    long = [curve(x, 0.0, 4) for x in (("single", "mean"), ("heads5", "min"))]
    return pd.concat(long + [curve(x, b) for x in JUDGES for b in BETAS], ignore_index=True)


@pytest.fixture(scope="module")
def ends(curves):
    last = curves.groupby(["line", "how", "beta", "longer"], sort=False).last().reset_index()
    return last.rename(columns={"gold": "end", "gold_lo": "end_lo", "gold_hi": "end_hi"}).assign(start=1.75)


@pytest.fixture(scope="module")
def exact():
    some = []
    for line, how in JUDGES:
        for optimiser, sign in (("best_of_n", 1), ("tilt", -1)):
            kl = np.array([0.25, 1.0, 4.0, 6.25])
            gold = 1.8 + sign * 0.01 * kl
            some.append(
                pd.DataFrame(
                    {
                        "line": line,
                        "how": how,
                        "kind": KINDS[line],
                        "optimiser": optimiser,
                        "kl": kl,
                        "gold": gold,
                        "gold_lo": gold - 0.1,
                        "gold_hi": gold + 0.1,
                        "ess": [900.0, 300.0, 20.0, 2.0],
                    }
                )
            )
    return pd.concat(some, ignore_index=True)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure made: what a reader sees, before it is a picture."""
    seen, made = [], pressure.canvas

    def canvas(*args, **kw):
        fig, axes = made(*args, **kw)
        seen.extend(np.atleast_1d(axes).ravel())
        return fig, axes

    monkeypatch.setattr(pressure, "canvas", canvas)
    return seen


def lines(ax):
    """The curves of an axes, without the reference lines and the legend's empty ones."""
    return [x for x in ax.lines if len(x.get_xdata()) > 2]


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.\d+", text)]


def test_axis_draws_three_optimisers_and_leaves_out_what_the_pool_does_not_hold(curves, exact, drawn):
    shown = [("single", "mean"), ("heads5", "min")]
    figure = pressure.axis(curves, exact, shown)
    assert len(drawn) == 2
    for ax, (line, how) in zip(drawn, shown, strict=True):
        best, tilt, ppo = lines(ax)
        for some, optimiser in ((best, "best_of_n"), (tilt, "tilt")):
            rows = pick(exact[exact.ess >= 10], line=line, how=how, optimiser=optimiser)
            np.testing.assert_allclose(some.get_xdata(), np.sqrt(rows.kl))
            np.testing.assert_allclose(some.get_ydata(), rows.gold)
            assert max(some.get_xdata()) == 2.0  # not the point with two effective answers
        rows = curve((line, how), 0.0)
        np.testing.assert_allclose(ppo.get_xdata(), np.sqrt(rows.k1))
        np.testing.assert_allclose(ppo.get_ydata(), rows.gold)
        assert ppo.get_color() == LOOKS[KINDS[line]].color
    assert (
        f"up to a KL of 20.0, gold at most {curve(shown[1], 0.0).gold.max():.2f} and {curve(shown[1], 0.0).gold.iloc[-1]:.2f} at the end"
        in figure.alt
    )


def test_prices_draws_every_judge_at_every_price_with_its_band(ends, drawn):
    figure = pressure.prices(ends, ["finetune5", "heads5"])
    for ax, how in zip(drawn, ("mean", "min", "mean_std"), strict=True):
        for some, line in zip(lines(ax), ("single", "finetune5", "heads5"), strict=True):
            rule = "mean" if line == "single" else how
            rows = pick(ends, line=line, how=rule, longer=1)
            np.testing.assert_allclose(some.get_ydata(), rows.end)
            np.testing.assert_allclose(some.get_xdata(), range(4), atol=0.2)
        bars = np.concatenate([[s[:, 1] for s in c.get_segments()] for c in ax.collections])
        rows = pd.concat(
            [
                ends.query("line == @x and how == @h and longer == 1")
                for x, h in (("single", "mean"), ("finetune5", how), ("heads5", how))
            ]
        )
        np.testing.assert_allclose(bars, rows[["end_lo", "end_hi"]])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.02", "0.05", "0.1"]
    said = ends.query("line == 'heads5' and how == 'mean_std' and longer == 1").end
    assert f"5 linear heads, mean − std {', '.join(f'{x:.2f}' for x in said)}" in figure.alt
    assert figure.alt.count("one model") == 1


def test_stopping_draws_a_line_a_price_and_marks_its_end(curves, drawn):
    figure = pressure.stopping(curves, [("single", "mean"), ("finetune5", "min")])
    for ax, judge in zip(drawn, (("single", "mean"), ("finetune5", "min")), strict=True):
        assert [t.get_text() for t in ax.texts] == [*(f"β = {b:g}" for b in BETAS), pressure.called(*judge)]
        assert len({x.get_linestyle() for x in lines(ax)} | {str(x._dash_pattern) for x in lines(ax)}) >= 4
        for some, beta in zip(lines(ax), BETAS, strict=True):
            np.testing.assert_allclose(some.get_ydata(), curve(judge, beta).gold)
            np.testing.assert_allclose(some.get_xdata(), np.sqrt(curve(judge, beta).k1))
        marks = [x for x in ax.lines if len(x.get_xdata()) == 1]
        np.testing.assert_allclose(
            [m.get_ydata()[0] for m in marks], [curve(judge, b).gold.iloc[-1] for b in BETAS]
        )
    assert (
        f"one model at 0.1: gold {curve(('single', 'mean'), 0.1).gold.iloc[-1]:.2f} at a KL of 10.0"
        in figure.alt
    )


def test_gold_at_a_kl_is_where_the_curve_first_gets_there():
    kl, gold = [0.0, 2.0, 4.0, 3.0, 5.0], [1.0, 2.0, 1.0, 0.0, -1.0]
    assert pressure.at_kl(kl, gold, 3.0) == 1.5  # not the 0 of the way back
    assert pressure.at_kl(kl, gold, 0.0) == 1.0
    assert pressure.at_kl(kl, gold, 4.5) == -0.75
    assert np.isnan(pressure.at_kl(kl, gold, 5.1))


@pytest.mark.parametrize(
    ("gold", "price"),
    [(-1.0, 0.0), (0.0, 0.0), (0.5, 0.01), (1.0, 0.02), (1.6, 0.09), (1.7, 0.1), (1.71, np.inf)],
)
def test_the_price_worth_as_much_is_read_off_one_models_line(gold, price):
    ends = pd.DataFrame(
        {"line": "single", "how": "mean", "longer": 1, "beta": BETAS, "end": [0.0, 1.0, 0.9, 1.7]}
    )
    wrong = ends.assign(longer=4, end=9.0)  # of a long run: not to be read
    found = pressure.same_price(pd.concat([wrong, ends]), gold)
    assert found == pytest.approx(0.05 + 0.05 * 0.6 / 0.7 if gold == 1.6 else price)


def test_exchange_draws_the_price_and_what_the_band_becomes(ends, drawn):
    figure = pressure.exchange(ends, ["finetune5", "heads5"], ("mean", "min"))
    (ax,) = drawn
    order = [(x, how) for how in ("mean", "min") for x in ("finetune5", "heads5")]
    assert [t.get_text() for t in ax.get_yticklabels()] == [pressure.called(*x) for x in reversed(order)]
    marks = [x for x in ax.lines if x.get_marker() in "^v"]
    bars = [x for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]
    for mark, bar, (line, how) in zip(marks, bars, reversed(order), strict=True):
        r = ends.query("line == @line and how == @how and beta == 0 and longer == 1").iloc[0]
        assert mark.get_xdata()[0] == pytest.approx(pressure.same_price(ends, r.end))
        assert list(bar.get_xdata()) == pytest.approx(
            [pressure.same_price(ends, g) for g in (r.end_lo, r.end_hi)]
        )
        assert f"{pressure.called(line, how)} {mark.get_xdata()[0]:.3f}" in figure.alt
    dear = ends.assign(end=ends.end.where(ends.line != "heads5", 9.0), end_hi=9.5)
    drawn.clear()
    pressure.exchange(dear, ["heads5"], ("min",))
    assert [t.get_text() for t in drawn[0].texts] == ["more than the study has"]
    assert drawn[0].get_xlim()[1] == 0.1


def test_far_marks_the_usual_end_and_the_last_step_and_no_label_covers_another(curves, drawn):
    figure = pressure.far(curves, 120)
    (ax,) = drawn
    judges = [("single", "mean"), ("heads5", "min")]
    for some, judge in zip(lines(ax), judges, strict=True):
        np.testing.assert_allclose(some.get_ydata(), curve(judge, 0.0, 4).gold)
        np.testing.assert_array_equal(some.get_xdata(), curve(judge, 0.0, 4).step)
    marks = [x for x in ax.lines if x.get_marker() in "sv" and len(x.get_xdata()) == 2]
    assert [list(m.get_xdata()) for m in marks] == [[120, 480]] * 2
    assert {t.get_text() for t in ax.texts} == {"80 nats", "the other runs end here"}
    close = curves.assign(gold=curves.gold.where(curves.step < 480, -5.0))
    drawn.clear()
    pressure.far(close, 120)
    low, high = sorted(t.xy[1] for t in drawn[0].texts if "nats" in t.get_text())
    assert high - low > 0.05 * np.ptp(drawn[0].get_ylim())
    last = curve(("heads5", "min"), 0.0, 4).iloc[-1]
    assert f"gold {last.gold:.2f} at step 480, 80 nats" in figure.alt


def test_rivals_draws_the_first_as_a_line_and_the_others_as_points(drawn):
    found = {
        "tilted policy": (np.array([0.0, 1.0, 4.0]), np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.5, 1.25])),
        "best of n": (np.array([0.25, 1.0, 2.25]), np.array([0.3, 0.9, 1.4]), np.array([1.1, 1.4, 1.3])),
    }
    figure = pressure.rivals(found)
    for ax, column in zip(drawn, (1, 2), strict=True):
        line, points = ax.lines
        assert (line.get_linestyle(), points.get_linestyle()) == ("-", "None")
        for some, label in ((line, "tilted policy"), (points, "best of n")):
            np.testing.assert_allclose(some.get_xdata(), np.sqrt(found[label][0]))
            np.testing.assert_allclose(some.get_ydata(), found[label][column])
    assert numbers(figure.alt) == [4.0, 2.0, 1.25, 2.2, 1.4, 1.3]


def test_judges_have_names():
    assert pressure.called("single", "mean") == "one model"
    assert pressure.called("finetune5", "mean_std") == "5 finetuning seeds, mean − std"


def test_no_two_figures_of_a_page_share_an_id(curves, ends, exact):
    made = [
        pressure.axis(curves, exact, [("single", "mean"), ("heads5", "min")]),
        pressure.prices(ends, ["heads5"]),
        pressure.stopping(curves, [("single", "mean"), ("heads5", "min")]),
        pressure.exchange(ends, ["heads5"]),
        pressure.far(curves, 120),
    ]
    ids = [set(re.findall(r' id="([^"]+)"', x.svg)) for x in made]
    assert all(ids) and len(set.union(*ids)) == sum(map(len, ids))
