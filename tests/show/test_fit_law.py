"""Draw it, then fit it: the page's arithmetic is that of the laws in Python, and what does not fit is named."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget")
from rmlab.measure import laws
from rmlab.optimise.best_of_n import kl_bound
from rmlab.show import widgets
from rmlab.show.fit_law import CHOICES, FitLaw, sketch_error, straight_continuation, tables
from rmlab.show.rows import rows
from tests.show.page import browsing, module_of, said, settle

STUDY = "best_of_n_sighted"
NS = [1, 2, 4, 8, 16, 32, 64, 128]


def frames(alpha: float = 1.5, beta: float = 0.5) -> list[pd.DataFrame]:
    """A curve that follows the law exactly, and rows of the laws."""
    key = {"ensemble": "single", "method": "single", "k": 1, "aggregator": "mean", "pessimism": "paper"}
    key |= {"optimiser": "best_of_n", "units": 4}
    kl = kl_bound(np.array(NS))
    gold = 2.0 + np.sqrt(kl) * (alpha - beta * np.sqrt(kl))
    curve = pd.DataFrame({**key, "pressure": NS, "kl": kl, "ess": 100.0, "gold": gold})
    curve = curve.assign(gold_low=gold - 0.1, gold_high=gold + 0.1)
    law = {**key, "form": ["quadratic", "log"], "cut_d": np.sqrt(kl_bound(32)), "rmse_out": [0.0, 0.3]}
    for name, value in {
        "alpha": alpha,
        "beta": beta,
        "peak_d": alpha / (2 * beta),
        "excess_out": 0.1,
    }.items():
        law |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    return [curve, pd.DataFrame(law)]


def one(*more, **kw):
    return FitLaw(*(more or frames()), choices=[("single", "mean")], **kw)


def test_the_page_carries_the_rows():
    meta = tables(*frames(), [("single", "mean")])
    (curve,) = meta["curves"]
    assert (
        curve["n"] == NS
        and curve["label"] == "one reward model"
        and curve["units"] == 4
        and curve["cut"] == 32
    )
    np.testing.assert_allclose(np.square(curve["d"]), kl_bound(np.array(NS)))
    assert curve["weight"] == [1.0] * len(NS) and curve["laws"][1]["excess"]["high"] == pytest.approx(0.2)
    low, high = meta["span"]
    assert low < min(curve["gold"]["low"]) and high > max(curve["gold"]["high"])


def test_few_effective_answers_weigh_less_and_a_peak_may_have_no_end():
    curve, law = frames()
    weight = tables(curve.assign(ess=2.5), law.assign(peak_d_high=np.inf), [("single", "mean")])["curves"][0]
    assert weight["weight"] == [0.25] * len(NS) and weight["laws"][0]["peak_d"]["high"] is None


def test_straight_on_is_the_line_of_the_last_two_points():
    d, gold = np.array([0.0, 1.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0, 9.0])
    np.testing.assert_allclose(straight_continuation(d, gold, 3), [0.5, 1.0, 2.0, 2.5])
    assert sketch_error([1.0, 3.0], [2.0, 1.0]) == 1.5


@pytest.mark.parametrize(
    "which,change,named",
    [
        (0, lambda t: t.drop(columns="ess"), r"columns that curves lacks = \['ess'\]"),
        (1, lambda t: t.drop(columns="alpha_low"), "columns that laws lacks"),
        (0, lambda t: t.assign(optimiser="ppo"), "rows of curves = 'none of single mean'"),
        (1, lambda t: t.assign(ensemble="heads5"), "rows of laws = 'none of single mean'"),
        (0, lambda t: pd.concat([t, t]), "n of single mean"),
        (0, lambda t: t[t.pressure != 16], "n of single mean"),
        (0, lambda t: t[t.pressure <= 16], "n of single mean"),
        (0, lambda t: t.assign(gold=np.nan), "gold of curves of single mean"),
        (1, lambda t: pd.concat([t, t]), "rows of laws of single mean that are there twice"),
    ],
)
def test_tables_that_do_not_fit_are_named(which, change, named):
    two = frames()
    two[which] = change(two[which])
    with pytest.raises(ValueError, match=named):
        one(*two)


@pytest.mark.parametrize(
    "state,named",
    [
        ({"curve": "lora5 min"}, "curve = 'lora5 min'"),
        ({"step": "guess"}, "step = 'guess'"),
        ({"cut": 4}, "cut = 4"),
    ],
)
def test_a_state_that_the_rows_do_not_have_is_named(state, named):
    with pytest.raises(ValueError, match=named):
        one(**state)
    with pytest.raises(ValueError, match="choices"):
        FitLaw(*frames(), choices=[])


@pytest.fixture(scope="module")
def shipped():
    return [rows(name, STUDY) for name in ("curves", "laws")]


def computed(tab, meta: dict, states: list[dict]) -> list[dict]:
    """What the page computes in these states."""
    with module_of(tab, widgets.script("fit_law")) as worker:
        return worker.evaluate(
            "([d, states]) => states.map((t) => m.numbersOf(m.soundOf(d, t)))", [meta, states]
        )


@browsing
def test_numbers_equal_python(tab, shipped):
    meta = tables(*shipped, CHOICES)
    rng = np.random.default_rng(0)
    states = [
        {
            "curve": c["name"],
            "step": "fit",
            "sketch": rng.uniform(3, 5, 7).tolist(),
            "alpha": 1.3,
            "beta": 0.4,
            "cut": cut,
        }
        for c in meta["curves"]
        for cut in (8, 64, 1024)
    ]
    curves = {c["name"]: c for c in meta["curves"]}
    for state, got in zip(states, computed(tab, meta, states), strict=True):
        c = curves[state["curve"]]
        d, n, weight, gold = (np.array(x) for x in (c["d"], c["n"], c["weight"], c["gold"]["value"]))
        gain, below, edge = gold - gold[0], n <= state["cut"], np.sqrt(kl_bound(state["cut"])) + 1e-4
        best = laws.fit(d, gain, "quadratic", weight * below)
        errors = laws.extrapolation(d, gain, "quadratic", edge, weight)
        missed = np.square(d * (1.3 - 0.4 * d) - gain)
        own = [np.sqrt(np.average(missed[x], weights=weight[x])) for x in (below & (d > 0), ~below)]
        want = {"cut": state["cut"], "best_alpha": best.alpha, "best_beta": best.beta}
        want |= {"best_rmse_in": errors[0], "best_rmse_out": errors[1], "rmse_in": own[0], "rmse_out": own[1]}
        want |= {"sketch_error": sketch_error(state["sketch"], gold[5:])}
        want |= {"straight_error": sketch_error(straight_continuation(d, gold, 5)[5:], gold[5:])}
        if (
            state["cut"] == 8
        ):  # laws.extrapolation wants one point more than coefficients: three are just enough
            assert np.isfinite(errors).all()
        assert got == pytest.approx({k: float(v) for k, v in want.items()}, abs=1e-6), state


@browsing
def test_least_squares_at_the_rows_own_cut_is_what_the_rows_say(tab, shipped):
    meta = tables(*shipped, CHOICES)
    assert {c["cut"] for c in meta["curves"]} == {64}
    state = {"step": "fit", "sketch": [], "alpha": 1.0, "beta": 0.2, "cut": 64}
    got = computed(tab, meta, [{**state, "curve": c["name"]} for c in meta["curves"]])
    for c, result in zip(meta["curves"], got, strict=True):
        law = next(x for x in c["laws"] if x["form"] == "quadratic")
        assert result["best_rmse_out"] == pytest.approx(
            law["rmse_out"], abs=1e-3
        )  # the rows are rounded to five digits
        assert result["sketch_error"] is None


@browsing
def test_a_curve_that_follows_the_law_is_found(tab):
    meta = tables(*frames(1.5, 0.5), [("single", "mean")])
    state = {"curve": "", "step": "fit", "sketch": [], "alpha": 1.5, "beta": 0.5, "cut": 8}
    (got,) = computed(tab, meta, [state])
    assert [got["best_alpha"], got["best_beta"]] == pytest.approx([1.5, 0.5])
    assert got["best_rmse_out"] < 1e-9 and got["rmse_out"] < 1e-9


@browsing
def test_a_pointer_sets_the_heights_that_it_crosses(tab):
    with module_of(tab, widgets.script("fit_law")) as worker:
        call = "([h, d, last, to]) => m.sketched(h, d, last, to, 0.05)"
        flat, d = [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]
        assert worker.evaluate(call, [flat, d, None, {"x": 1.4, "y": 5}]) == [5, 0, 0]  # down: the nearest
        assert worker.evaluate(call, [flat, d, {"x": 0.5, "y": 0}, {"x": 2.5, "y": 4}]) == [1, 3, 0]
        assert worker.evaluate(call, [flat, d, {"x": 2.5, "y": 4}, {"x": 0.5, "y": 0}]) == [
            1,
            3,
            0,
        ]  # leftward
        assert worker.evaluate(call, [flat, d, {"x": 2.9, "y": 4}, {"x": 2.97, "y": 6}]) == [0, 0, 6]


@browsing
def test_a_sketch_by_mouse_is_scored_when_the_truth_is_shown(show, shipped):
    page = show(FitLaw(*shipped))
    assert "Where does it go?" in said(page) and page.locator(".rmx-you").count() == 0
    pad = page.locator(".rmx-pad").bounding_box()
    page.mouse.move(pad["x"] + 4, pad["y"] + 150)
    page.mouse.down()
    page.mouse.move(pad["x"] + pad["width"] - 2, pad["y"] + 60, steps=12)
    page.mouse.up()
    assert said(page).startswith("You draw gold going from 3.85") and page.locator(".rmx-you").count() == 1
    heights = [float(t.split()[0]) for t in (h.get_attribute("aria-valuetext") for h in sliders(page))]
    assert np.all(np.diff(heights) > 0)
    assert page.locator(".rmx-gold").get_attribute("d").count("L") == 4  # the rest is not there to be seen
    page.get_by_role("button", name="2 show").click()
    gold = (
        shipped[0]
        .query("ensemble == 'single' and optimiser == 'best_of_n' and pressure > 16")
        .gold.to_numpy()
    )
    found = re.search(r"Your sketch is off by ([\d.]+) on average", said(page))
    assert float(found[1]) == pytest.approx(sketch_error(heights, gold), abs=0.011)  # said to two digits
    assert page.locator(".rmx-gold").get_attribute("d").count("L") == 11
    page.get_by_role("button", name="reset").click()
    assert "Where does it go?" in said(page)


def sliders(page):
    return [x for x in page.locator(".rmx-handle[aria-orientation=vertical]").all() if x.is_visible()]


@browsing
def test_a_sketch_by_keys_sets_one_height_after_the_other(show, shipped):
    page = show(FitLaw(*shipped))
    settle(page)
    assert len(sliders(page)) == 7
    for k, key in enumerate(("ArrowUp", "ArrowDown", "PageUp")):
        sliders(page)[k].press(key)
        settle(page)
    first, second, third, *rest = (x.get_attribute("aria-valuetext") for x in sliders(page))
    level = [float(x.split()[0]) for x in (first, second, third)]
    assert level[0] > 3.85 > level[1] and level[2] > level[0] and rest[0].startswith("3.85 at n = 256")
    page.keyboard.press("Tab")  # the next height
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "your gold at n = 256"


@browsing
def test_the_sliders_fit_and_least_squares_sets_them(show, shipped):
    page = show(FitLaw(*shipped, step="fit", curve="finetune5 min"))
    first = said(page)
    page.get_by_label("α, gold a root nat").press("End")
    assert "α = 3.00" in said(page) != first
    page.get_by_role("button", name="least squares").click()
    settle(page)
    cells = page.locator(".rmx-fits").first.locator("tbody tr").nth(0).inner_text().split()
    assert cells[1:] == page.locator(".rmx-fits").first.locator("tbody tr").nth(1).inner_text().split()[-4:]
    law = shipped[1].query("ensemble == 'finetune5' and aggregator == 'min' and form == 'quadratic'").iloc[0]
    whole = page.locator(".rmx-fits").first.locator("tbody tr").nth(2).inner_text()
    assert f"{law.alpha:.2f}" in whole and f"{law.alpha_low:.2f} to {law.alpha_high:.2f}" in whole
    page.get_by_text("Other forms").click()
    assert "log(1 + d)" in page.locator("details").inner_text()
    page.get_by_label("whose winner").select_option("heads5 min")
    assert "your law misses" in said(page)  # another curve is fitted at once
