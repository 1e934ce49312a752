"""A run stopped without gold: what a page says is lost is what Python says, and tables that do not fit are named."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget")
from rmlab.measure.budget import budgets
from rmlab.show import widgets
from rmlab.show.detector import CLOSE, Detector, losses, tables
from rmlab.show.rows import rows
from tests.show.page import browsing, module_of, said, settle

STUDY = "best_of_n_sighted"
NS = [1, 2, 4, 8]
GOLD = [[0.0, 1.0, 2.0, 1.0], [0.0, 3.0, 1.0, 0.0], [0.0, 1.0, 2.0, 4.0]]
SETTING = {"ensemble": "single", "aggregator": "mean"}
OF_PPO = {**SETTING, "kl_coef": 0.05, "step_multiplier": 1}


def frames(kind: str = "best_of_n") -> list[pd.DataFrame]:
    """Three runs by hand, and what two rules did; a second model a replicate and other settings are not theirs."""
    points = NS if kind == "best_of_n" else [0, 10, 20, 30]
    keys = {**SETTING, "pessimism": "paper", "optimiser": kind}
    keys |= {"kl_coef": np.nan if kind == "best_of_n" else 0.05, "step_multiplier": 1}
    runs = []
    for r, gold in enumerate(GOLD):
        column = {"replicate": r, "pressure": points, "proxy": 0.1 * np.arange(4) + r}
        if kind == "ppo":
            column |= {"kl": np.arange(4) + 0.5 * r, "disagreement": 0.0, "eval_length": [20.0, 21, 22, 30]}
            column["entropy"] = np.nan
        first = pd.DataFrame({**keys, **column, "members": f"d{r}/p0/f0", "gold": gold})
        other = first.assign(members=f"d{r}/p0/f1", gold=9.0)
        far = first.iloc[-1:].assign(pressure=99, gold=99.0)  # beyond what rules watched
        runs += [first, other, far, first.assign(aggregator="min"), first.assign(optimiser="tilt")]
    gold = np.array(GOLD)
    alarms = pd.DataFrame(
        {
            **SETTING,
            "where": kind,
            "kl_coef": keys["kl_coef"],
            "step_multiplier": np.nan if kind == "best_of_n" else 1,
            "replicate": range(3),
            "number": 0,
            "peak": [points[k] for k in gold.argmax(1)],
            "end": points[-1],
            "fall": gold.max(1) - gold[:, -1],
            "judge_regret": [points[3], points[2], np.nan],
            "length_drift": [np.nan, points[1], np.nan],
            "kl_budget": np.nan,
        }
    )
    return [pd.concat(runs, ignore_index=True), alarms]


@pytest.mark.parametrize("kind,where", [("best_of_n", SETTING), ("ppo", OF_PPO)])
def test_the_page_carries_the_runs_that_rules_watched(kind, where):
    meta = tables(*frames(kind), where)
    assert [run["gold"] for run in meta["runs"]] == GOLD and meta["kind"] == kind
    names = ["budget", "judge_regret", "length_drift", "never"]
    assert [name for name, _ in meta["rules"]] == names
    assert [list(run["stops"].values()) for run in meta["runs"]] == [
        [1, 3, None, None],
        [3, 2, 1, None],
        [1, None, None, None],
    ]
    assert [run["stops"]["budget"] for run in meta["runs"]] == budgets(np.array(GOLD), range(3)).tolist()
    seen = [s["name"] for s in meta["series"]]
    assert seen == (["proxy"] if kind == "best_of_n" else ["proxy", "kl", "eval_length"])
    low, high = meta["series"][0]["span"]  # of all runs alike
    assert low < 0 and high > 2.3 and meta["runs"][2]["seen"]["proxy"] == pytest.approx([2, 2.1, 2.2, 2.3])


def test_one_replicate_has_no_budget_and_rules_may_be_named():
    runs, alarms = (t[t.replicate == 0] for t in frames())
    meta = tables(runs, alarms, SETTING)
    assert [name for name, _ in meta["rules"]] == ["judge_regret", "never"]
    meta = tables(*frames(), SETTING, ["kl_budget"])
    assert [name for name, _ in meta["rules"]] == ["budget", "kl_budget", "never"]
    with pytest.raises(ValueError, match="rule = 'fall'"):
        tables(*frames(), SETTING, ["fall"])


def test_a_stop_loses_what_it_is_below_the_best():
    assert losses(GOLD[0], [0, 2, 3, None]) == [2.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "change,named",
    [
        (lambda r, a: (r.drop(columns="proxy"), a), r"columns that runs lacks = \['proxy'\]"),
        (lambda r, a: (r, a.drop(columns="fall")), r"columns that alarms lacks = \['fall'\]"),
        (lambda r, a: (r, a[:0]), "rows of alarms = 0"),
        (lambda r, a: (r.assign(aggregator="min"), a), "rows of runs"),
        (lambda r, a: (r[r.replicate != 1], a), "runs of replicate 1 = 'none'"),
        (lambda r, a: (r, a.assign(number=2)), "runs of replicate 0 = 2"),
        (lambda r, a: (r, a.assign(number=1)), "gold of runs of replicate 0"),  # another model's run
        (lambda r, a: (r.assign(gold=r.gold + 1e-2 * r.pressure), a), "gold of runs of replicate 0"),
        (lambda r, a: (pd.concat([r, r]), a), "there twice"),
        (lambda r, a: (r[r.pressure != 4], a), "points of runs of replicate 0"),
        (lambda r, a: (r[(r.pressure != 2) | (r.replicate != 2)], a), "points of replicate 2"),
    ],
)
def test_tables_that_do_not_fit_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        Detector(*change(*frames()))


def test_a_choice_is_of_five_runs_and_its_seed():
    shipped = rows("replicates", STUDY), rows("alarms", STUDY)
    one, two, other = (Detector(*shipped, seed=s).order for s in (0, 0, 1))
    assert one == two != other and len(set(one)) == 5 and set(one) <= set(range(20))
    assert sorted(Detector(*frames()).order) == [0, 1, 2]


@pytest.mark.parametrize("study", ["best_of_n", STUDY])
def test_shipped_runs_are_those_that_the_alarms_are_of(study):
    runs, alarms = rows("replicates", study), rows("alarms", study)
    meta = tables(runs, alarms, SETTING)
    falls = alarms.query("ensemble == 'single'").set_index("replicate").sort_index().fall
    never = [losses(run["gold"], [run["stops"]["never"]])[0] for run in meta["runs"]]
    np.testing.assert_allclose(never, falls, atol=CLOSE)
    saved = rows("detectors_replicates", study).query("ensemble == 'single' and rule == 'judge_regret'")
    found = [losses(run["gold"], [run["stops"]["judge_regret"]])[0] for run in meta["runs"]]
    np.testing.assert_allclose(found, saved.sort_values("replicate").regret, atol=CLOSE)


@browsing
def test_what_is_lost_equals_python(tab):
    meta = tables(rows("replicates", STUDY), rows("alarms", STUDY), SETTING)
    rng = np.random.default_rng(0)
    states = []
    for _ in range(20):
        order = rng.permutation(20)[:5].tolist()
        stops = rng.integers(0, 9, rng.integers(0, 6)).tolist()
        states.append(
            {"order": order, "stops": stops, "at": int(rng.integers(9)), "over": bool(rng.integers(2))}
        )
    with module_of(tab, widgets.script("detector")) as worker:
        got = worker.evaluate("([d, all]) => all.map((t) => m.numbersOf(d, m.soundOf(d, t)))", [meta, states])
    for state, result in zip(states, got, strict=True):
        played = [meta["runs"][u] for u in state["order"][: len(state["stops"])]]
        lost = [losses(run["gold"], [at])[0] for run, at in zip(played, state["stops"], strict=True)]
        over = bool(played) and (state["over"] or len(played) == 5)
        assert result["played"] == len(played)
        assert result["lost"] == (pytest.approx(lost[-1], abs=1e-6) if over else None)
        assert result["you"] == (pytest.approx(np.mean(lost), abs=1e-6) if played else None)
        for name, _ in meta["rules"]:
            each = [losses(run["gold"], [run["stops"][name]])[0] for run in played]
            assert result["rules"][name] == (pytest.approx(np.mean(each), abs=1e-6) if played else None)


@browsing
def test_a_state_that_does_not_fit_becomes_one_that_does(tab):
    meta = tables(*frames(), SETTING)
    states = [
        {"order": [7, 1, 1], "stops": [], "at": 99, "over": True},
        {"order": [], "stops": [9, 9, 9, 9], "at": -1, "over": False},
    ]
    with module_of(tab, widgets.script("detector")) as worker:
        ask = """([d, all]) => all.map((t) => { const s = m.soundOf(d, t);
            return [s.order, s.stops, s.at, s.over, s.done]; })"""
        got = worker.evaluate(ask, [meta, states])
        picks = worker.evaluate("[...Array(40)].map(() => m.chosen(8, 5))")
        paces = worker.evaluate("[m.paceOf(9, false), m.paceOf(9, true), m.paceOf(600, false)]")
    assert got == [[[1], [], 3, False, False], [[0, 1, 2], [3, 3, 3], 3, True, True]]
    assert all(len(set(p)) == 5 and set(p) <= set(range(8)) for p in picks)
    assert {u for p in picks for u in p} == set(range(8)) and len({tuple(p) for p in picks}) > 20
    assert paces == [800, 2000, 150]


@browsing
def test_gold_is_not_on_the_page_before_the_run_is_over(show):
    page = show(Detector(*frames(), seed=0))
    seen = [page.locator("main").inner_text() + page.locator(".rmx-svg").last.inner_html()]
    for _ in range(2):
        page.get_by_role("button", name="step").click()
        settle(page)
        seen.append(page.locator(".rmx-svg").last.inner_html())
    assert page.locator(".rmx-gold").count() == 0 and len(set(seen[1:])) == 1
    assert "Gold is hidden" in said(page)
    page.get_by_role("button", name="step").click()  # the last point: the run is over
    assert "You let it run to its end" in said(page) and page.locator(".rmx-gold").count() == 1


@browsing
@pytest.mark.parametrize("kind", ["best_of_n", "ppo"])
def test_a_round_is_played_and_scored(show, kind):
    widget = Detector(*frames(kind), kl_coef=0.05 if kind == "ppo" else None)
    order = widget.order
    page = show(widget)
    assert f"Run 1 of 3, {'n = 1 of 8' if kind == 'best_of_n' else 'step 0 of 30'}" in said(page)
    lost = []
    for k, u in enumerate(order):
        for _ in range(k):
            page.get_by_role("button", name="step").click()
            settle(page)
        page.get_by_role("button", name="stop here").click()
        lost.append(max(GOLD[u]) - GOLD[u][k])
        words = said(page)
        assert f"gold was best, {max(GOLD[u]):.2f}" in words or f"{lost[-1]:.2f} lost" in words
        if k < 2:
            page.get_by_role("button", name="next run").click()
            settle(page)
    budget = [losses(GOLD[u], [budgets(np.array(GOLD), range(3))[u]])[0] for u in order]
    never = [losses(GOLD[u], [None])[0] for u in order]
    score = re.search(
        r"you lost (\d\.\d+) a run, never stopping (\d\.\d+), the budget of the other runs (\d\.\d+)",
        said(page),
    )
    assert [float(x) for x in score.groups()] == pytest.approx(
        [np.mean(lost), np.mean(never), np.mean(budget)], abs=0.006
    )
    cells = page.locator(".rmx-fits tbody tr").first.inner_text().split()
    assert cells[0] == "you" and float(cells[-1]) == pytest.approx(np.mean(lost), abs=0.006)
    main = page.locator(".rmx-run button").first
    assert main.inner_text() == "new choice"
    main.click()
    assert "Run 1 of 3" in said(page) and page.evaluate("document.activeElement.textContent") == "stop here"


@browsing
def test_it_plays_and_pauses_and_ends_by_itself(show):
    page = show(Detector(*frames()))
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.rmx-say').textContent.includes('2 of 8')")
    page.get_by_role("button", name="pause").click()
    page.wait_for_timeout(1200)
    assert "n = 2 of 8" in said(page)
    page.get_by_role("button", name="play").click()
    page.wait_for_function(
        "document.querySelector('.rmx-say').textContent.includes('to its end')", timeout=8000
    )
    assert page.get_by_role("button", name="play").get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="play").press("Enter")  # it says that it does nothing, and does nothing
    assert "to its end" in said(page)


@browsing
def test_where_motion_is_unwelcome_it_plays_slower(show):
    page = show(Detector(*frames()))
    page.emulate_media(reduced_motion="reduce")
    try:
        page.get_by_role("button", name="play").click()
        page.wait_for_timeout(1300)  # a point would have taken 800 ms
        assert "n = 1 of 8" in said(page)
        page.wait_for_function("document.querySelector('.rmx-say').textContent.includes('2 of 8')")
    finally:
        page.emulate_media(reduced_motion=None)
