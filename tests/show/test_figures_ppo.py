"""The figures about PPO: what is drawn is what the rows say, and the alternative text says what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from rmlab.show import figures_ppo as figures
from rmlab.show.figures import pick
from rmlab.show.style import LOOKS
from tests.show.fake_rows import ppo

BETAS = (0.0, 0.02, 0.05, 0.1)
METHODS = {"single": "single", "finetune5": "finetune", "heads5": "heads"}
RULES = ("mean", "min", "mean_std")
JUDGES = [("single", "mean")] + [(x, rule) for x in ("finetune5", "heads5") for rule in RULES]
SPANS = {x: 1 - 0.05 * i for i, x in enumerate(JUDGES)}  # a number of each judge's own
LONG = [("single", "mean"), ("heads5", "min")]


def keys(judge, **more):
    """The columns that tell a curve from another."""
    return {"ensemble": judge[0], "method": METHODS[judge[0]], "aggregator": judge[1], **more}


def curve(judge, beta, step_multiplier=1, steps=120):
    """Gold rises and falls with the step, less under a higher KL penalty."""
    step = np.arange(0, steps * step_multiplier + 1, 6)
    far = step / steps * (1 - 5 * beta)
    gold = 1.75 + far - far**2 * 2 * SPANS[judge]
    numbers = {"pressure": step, "kl": 20 * far, "proxy": 2 * far}
    numbers |= {"gold": gold, "gold_low": gold - 0.2, "gold_high": gold + 0.3}
    return pd.DataFrame(
        {**keys(judge, optimiser="ppo", kl_coef=beta, step_multiplier=step_multiplier), **numbers}
    )


def exact_curve(judge, optimiser, sign):
    """Best of n or the tilted policy on a pool, whose last point has two effective answers."""
    kl = np.array([0.25, 1.0, 4.0, 6.25])
    gold = 1.8 + sign * 0.01 * kl
    numbers = {
        "pressure": [2, 4, 8, 16],
        "kl": kl,
        "gold": gold,
        "gold_low": gold - 0.1,
        "gold_high": gold + 0.1,
    }
    numbers |= {"ess": [900.0, 300.0, 20.0, 2.0], "step_multiplier": 1}
    return pd.DataFrame({**keys(judge, optimiser=optimiser), **numbers})


@pytest.fixture(scope="module")
def curves():
    runs = [curve(x, 0.0, 4) for x in LONG] + [curve(x, b) for x in JUDGES for b in BETAS]
    exact = [exact_curve(x, o, sign) for x in JUDGES for o, sign in (("best_of_n", 1), ("tilt", -1))]
    return pd.concat(runs + exact, ignore_index=True)


@pytest.fixture(scope="module")
def ends(curves):
    groups = pick(curves, optimiser="ppo").groupby(
        ["ensemble", "aggregator", "kl_coef", "step_multiplier"], sort=False
    )
    names = {"gold": "end", "gold_low": "end_low", "gold_high": "end_high"}
    return groups.last().reset_index().rename(columns=names).assign(start=1.75)


def lines(ax):
    """The curves of an axes, without the reference lines and the legend's empty ones."""
    return [x for x in ax.lines if len(x.get_xdata()) > 2]


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.\d+", text)]


def test_hacked_draws_the_mean_with_its_band_and_every_run(curves, panels):
    mean = curves.assign(proxy_low=curves.proxy - 0.1, proxy_high=curves.proxy + 0.1)
    runs = pd.concat([curve(JUDGES[0], 0.0).assign(replicate=r) for r in range(3)])
    runs["gold"] += runs.replicate
    figure = figures.hacked(mean, runs)
    single = curve(JUDGES[0], 0.0)
    for ax, column in zip(panels, ("gold", "proxy"), strict=True):
        *each, bold = lines(ax)
        assert len(each) == 3
        np.testing.assert_allclose(bold.get_xdata(), np.sqrt(single.kl))
        np.testing.assert_allclose(bold.get_ydata(), single[column])
    np.testing.assert_allclose(lines(panels[0])[1].get_ydata(), single.gold + 1)
    top = single.loc[single.gold.idxmax()]
    assert f"peak of {top.gold:.2f} at step {top.pressure:.0f}" in figure.alt
    assert f"peak, step {top.pressure:.0f}" in [t.get_text() for t in panels[0].texts]


def test_several_single_models_of_a_replicate_are_lines_of_their_own(curves, panels):
    mean = curves.assign(proxy_low=curves.proxy - 0.1, proxy_high=curves.proxy + 0.1)
    one = curve(JUDGES[0], 0.0)
    runs = pd.concat([one.assign(replicate=0, members=f"d0/p0/f{f}", gold=one.gold + f) for f in range(3)])
    figures.hacked(mean, runs)
    *each, _ = lines(panels[0])
    assert len(each) == 3
    for f, line in enumerate(each):
        np.testing.assert_allclose(line.get_ydata(), one.gold + f)


def test_three_optimisers_are_drawn_without_what_the_pool_does_not_hold(curves, panels):
    judges = [("single", "mean"), ("heads5", "min")]
    figure = figures.optimisers(curves, judges)
    assert len(panels) == 2
    for ax, judge in zip(panels, judges, strict=True):
        best, tilt, ppo = lines(ax)
        for drawing, optimiser in ((best, "best_of_n"), (tilt, "tilt")):
            rows = pick(curves[curves.ess >= 10], **keys(judge, optimiser=optimiser))
            np.testing.assert_allclose(drawing.get_xdata(), np.sqrt(rows.kl))
            np.testing.assert_allclose(drawing.get_ydata(), rows.gold)
            assert max(drawing.get_xdata()) == 2.0  # not the point with two effective answers
        rows = curve(judge, 0.0)
        np.testing.assert_allclose(ppo.get_xdata(), np.sqrt(rows.kl))
        np.testing.assert_allclose(ppo.get_ydata(), rows.gold)
        assert ppo.get_color() == LOOKS[METHODS[judge[0]]].color
    gold = curve(judges[1], 0.0).gold
    assert (
        f"up to a KL of 20.0, gold at most {gold.max():.2f} and {gold.iloc[-1]:.2f} at the end" in figure.alt
    )


def test_every_judge_is_drawn_at_every_penalty_with_its_band(ends, panels):
    figure = figures.penalties(ends, ["finetune5", "heads5"])
    for ax, rule in zip(panels, RULES, strict=True):
        judges = [("single", "mean"), ("finetune5", rule), ("heads5", rule)]
        rows = [pick(ends, **keys(x, step_multiplier=1)) for x in judges]
        for drawing, r in zip(lines(ax), rows, strict=True):
            np.testing.assert_allclose(drawing.get_ydata(), r.end)
            np.testing.assert_allclose(drawing.get_xdata(), range(4), atol=0.2)
        bars = np.concatenate([[s[:, 1] for s in c.get_segments()] for c in ax.collections])
        np.testing.assert_allclose(bars, pd.concat(rows)[["end_low", "end_high"]])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.02", "0.05", "0.1"]
    said = pick(ends, **keys(("heads5", "mean_std"), step_multiplier=1)).end
    assert f"5 linear heads, mean − std {', '.join(f'{x:.2f}' for x in said)}" in figure.alt
    assert figure.alt.count("one model") == 1


def test_stopping_draws_a_line_a_penalty_and_marks_its_end(curves, panels):
    judges = [("single", "mean"), ("finetune5", "min")]
    figure = figures.stopping(curves, judges)
    for ax, judge in zip(panels, judges, strict=True):
        assert [t.get_text() for t in ax.texts] == [*(f"β = {b:g}" for b in BETAS), figures.called(*judge)]
        assert len({x.get_linestyle() for x in lines(ax)} | {str(x._dash_pattern) for x in lines(ax)}) >= 4
        for drawing, beta in zip(lines(ax), BETAS, strict=True):
            np.testing.assert_allclose(drawing.get_ydata(), curve(judge, beta).gold)
            np.testing.assert_allclose(drawing.get_xdata(), np.sqrt(curve(judge, beta).kl))
        marks = [x.get_ydata()[0] for x in ax.lines if len(x.get_xdata()) == 1]
        np.testing.assert_allclose(marks, [curve(judge, b).gold.iloc[-1] for b in BETAS])
    last = curve(("single", "mean"), 0.1).gold.iloc[-1]
    assert f"one model at 0.1: gold {last:.2f} at a KL of 10.0" in figure.alt


def test_gold_at_a_kl_is_where_the_curve_first_gets_there():
    kl, gold = [0.0, 2.0, 4.0, 3.0, 5.0], [1.0, 2.0, 1.0, 0.0, -1.0]
    assert figures.at_kl(kl, gold, 3.0) == 1.5  # not the 0 of the way back
    assert figures.at_kl(kl, gold, 0.0) == 1.0
    assert figures.at_kl(kl, gold, 4.5) == -0.75
    assert np.isnan(figures.at_kl(kl, gold, 5.1))


@pytest.mark.parametrize(
    ("gold", "penalty"),
    [
        (-1.0, 0.0),
        (0.0, 0.0),
        (0.5, 0.01),
        (1.0, 0.02),
        (1.6, 0.05 + 0.05 * 0.6 / 0.7),
        (1.7, 0.1),
        (1.71, np.inf),
    ],
)
def test_the_penalty_worth_as_much_is_read_off_one_models_line(gold, penalty):
    usual = pd.DataFrame(
        {
            "ensemble": "single",
            "aggregator": "mean",
            "step_multiplier": 1,
            "kl_coef": BETAS,
            "end": [0.0, 1.0, 0.9, 1.7],
        }
    )
    long = usual.assign(step_multiplier=4, end=9.0)  # not to be read
    assert figures.same_penalty(pd.concat([long, usual]), gold) == pytest.approx(penalty)


def test_exchange_draws_the_penalty_and_what_the_band_becomes(ends, panels):
    figure = figures.exchange(ends, ["finetune5", "heads5"], ("mean", "min"))
    (ax,) = panels
    order = [(x, rule) for rule in ("mean", "min") for x in ("finetune5", "heads5")]
    assert [t.get_text() for t in ax.get_yticklabels()] == [figures.called(*x) for x in reversed(order)]
    marks = [x for x in ax.lines if x.get_marker() in "^v"]
    bars = [x for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]
    for mark, bar, judge in zip(marks, bars, reversed(order), strict=True):
        r = pick(ends, **keys(judge, kl_coef=0, step_multiplier=1)).iloc[0]
        assert mark.get_xdata()[0] == pytest.approx(figures.same_penalty(ends, r.end))
        band = [figures.same_penalty(ends, g) for g in (r.end_low, r.end_high)]
        assert list(bar.get_xdata()) == pytest.approx(band)
        assert f"{figures.called(*judge)} {mark.get_xdata()[0]:.3f}" in figure.alt


def test_more_gold_than_any_penalty_buys_is_said_and_not_drawn_beyond_the_axis(ends, panels):
    better = ends.assign(end=ends.end.where(ends.ensemble != "heads5", 9.0), end_high=9.5)
    figures.exchange(better, ["heads5"], ("min",))
    assert [t.get_text() for t in panels[0].texts] == ["more than the study has"]
    assert panels[0].get_xlim()[1] == 0.1


def test_long_runs_mark_the_usual_end_and_the_last_step(curves, panels):
    figure = figures.long_runs(curves, 120)
    (ax,) = panels
    for drawing, judge in zip(lines(ax), LONG, strict=True):
        np.testing.assert_allclose(drawing.get_ydata(), curve(judge, 0.0, 4).gold)
        np.testing.assert_array_equal(drawing.get_xdata(), curve(judge, 0.0, 4).pressure)
    marks = [x for x in ax.lines if x.get_marker() in "sv" and len(x.get_xdata()) == 2]
    assert [list(m.get_xdata()) for m in marks] == [[120, 480]] * 2
    assert {t.get_text() for t in ax.texts} == {"80 nats", "the other runs end here"}
    last = curve(("heads5", "min"), 0.0, 4).iloc[-1]
    assert f"gold {last.gold:.2f} at step 480, 80 nats" in figure.alt


def test_labels_of_long_runs_do_not_cover_each_other(curves, panels):
    figures.long_runs(curves.assign(gold=curves.gold.where(curves.pressure < 480, -5.0)), 120)
    low, high = sorted(t.xy[1] for t in panels[0].texts if "nats" in t.get_text())
    assert high - low > 0.05 * np.ptp(panels[0].get_ylim())


def test_rivals_draws_the_first_as_a_line_and_the_others_as_points(panels):
    reached = {
        "tilted policy": (np.array([0.0, 1.0, 4.0]), np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.5, 1.25])),
        "best of n": (np.array([0.25, 1.0, 2.25]), np.array([0.3, 0.9, 1.4]), np.array([1.1, 1.4, 1.3])),
    }
    figure = figures.rivals(reached)
    for ax, column in zip(panels, (1, 2), strict=True):
        first, points = ax.lines
        assert (first.get_linestyle(), points.get_linestyle()) == ("-", "None")
        for drawing, label in ((first, "tilted policy"), (points, "best of n")):
            np.testing.assert_allclose(drawing.get_xdata(), np.sqrt(reached[label][0]))
            np.testing.assert_allclose(drawing.get_ydata(), reached[label][column])
    assert numbers(figure.alt) == [4.0, 2.0, 1.25, 2.2, 1.4, 1.3]


def test_no_two_figures_of_a_page_share_an_id(curves, ends):
    page = [
        figures.optimisers(curves, LONG),
        figures.penalties(ends, ["heads5"]),
        figures.stopping(curves, LONG),
        figures.exchange(ends, ["heads5"]),
        figures.long_runs(curves, 120),
    ]
    ids = [set(re.findall(r' id="([^"]+)"', x.svg)) for x in page]
    assert all(ids) and len(set.union(*ids)) == sum(map(len, ids))


@pytest.fixture(scope="module")
def penalised():
    """A study with two penalties, whose ensembles were run under some of the rules."""
    curves = ppo()
    names = {"gold": "end", "gold_low": "end_low", "gold_high": "end_high"}
    keys = ["ensemble", "aggregator", "kl_coef", "step_multiplier"]
    ends = pick(curves, optimiser="ppo").groupby(keys, sort=False).last().reset_index()
    return curves, ends.rename(columns=names).assign(start=2.7)


def test_runs_under_two_penalties_end_in_dots_with_intervals(penalised, panels):
    curves, _ = penalised
    judges = [("finetune5", "min"), ("finetune5", "mean"), ("heads5", "min")]
    figure = figures.at_penalties(curves, judges, (0.05, 0.1))
    assert [ax.get_visible() for ax in panels] == [True, True, True, False]
    for ax, judge in zip(panels, judges, strict=False):
        runs = [(who, beta) for who in (("single", "mean"), judge) for beta in (0.05, 0.1)]
        dots = [x for x in ax.lines if len(x.get_xdata()) == 1]
        for plotted, dot, bar, (who, beta) in zip(lines(ax), dots, ax.collections, runs, strict=True):
            keys = {"ensemble": who[0], "aggregator": who[1], "optimiser": "ppo", "kl_coef": beta}
            r = pick(curves, **keys)
            np.testing.assert_allclose(plotted.get_ydata(), r.gold)
            np.testing.assert_allclose(plotted.get_xdata(), np.sqrt(r.kl.clip(lower=0)))
            end = r.iloc[-1]
            assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (np.sqrt(end.kl), end.gold)
            np.testing.assert_allclose(bar.get_paths()[0].vertices[:, 1], [end.gold_low, end.gold_high])
            words = f"at {beta:g}: {end.gold:.2f} [{end.gold_low:.2f}, {end.gold_high:.2f}] at a KL of {end.kl:.1f}"
            assert words in figure.alt
    assert figure.alt.count("one model at 0.05") == 1
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.at_penalties(curves, judges, (0.0,))


def test_penalties_show_what_was_run_and_name_all_of_it(penalised, panels):
    _, ends = penalised
    figure = figures.penalties(ends, ["finetune5", "pretrain5", "heads5"])
    assert [ax.get_xlabel().split("\n")[0] for ax in panels] == ["mean", "min"]
    plotted = [[x.get_label() for x in ax.lines if not x.get_label().startswith("_")] for ax in panels]
    assert plotted[0] == ["one model", "5 finetuning seeds"]
    assert plotted[1] == ["one model", "5 finetuning seeds", "5 pretraining seeds", "5 linear heads"]
    named = [t.get_text() for t in panels[0].figure.legends[0].get_texts()]
    assert named == plotted[1]
    r = pick(ends, ensemble="heads5")
    assert f"5 linear heads, min {', '.join(f'{e:.2f}' for e in r.end)}" in figure.alt


def test_without_a_free_run_ensembles_are_exchanged_at_the_lowest_penalty(penalised, panels):
    _, ends = penalised
    figure = figures.exchange(ends, ["finetune5", "heads5"])
    assert panels[0].get_xlabel().endswith("as an ensemble at β = 0.05")
    single = pick(ends, ensemble="single").set_index("kl_coef").end
    gold = pick(ends, ensemble="finetune5", aggregator="mean", kl_coef=0.05).end.iloc[0]
    at = 0.05 + 0.05 * (gold - single[0.05]) / (single[0.1] - single[0.05])
    assert (
        0.05 < at < 0.1
        and f"worth as much as the ensemble at 0.05: 5 finetuning seeds, mean {at:.3f}" in figure.alt
    )


def test_optimisers_meet_at_a_penalty(penalised, panels):
    curves, _ = penalised
    exact = curves.assign(ess=np.where(curves.optimiser == "ppo", np.nan, 1000.0))
    figure = figures.optimisers(exact, [("heads5", "min")], kl_coef=0.1)
    assert "PPO, β = 0.1, KL estimated by k1: up to a KL of 7.2" in figure.alt and "tilted" not in figure.alt
    labels = panels[0].get_legend_handles_labels()[1]
    assert labels[-1] == "PPO, β = 0.1, KL estimated by k1"
    with pytest.raises(ValueError, match="keys of some rows"):
        figures.optimisers(exact, [("heads5", "min")])
