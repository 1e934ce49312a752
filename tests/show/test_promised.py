"""Promised and delivered, on a page: numbers in it are those of the rows, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget")
from rmlab.show import widgets
from rmlab.show.promised import Promised, pooled_error, tables
from rmlab.show.rows import rows
from tests.show.page import browsing, module_of, plain, said, settle

STUDY = "best_of_n_sighted"
NS = [1, 4, 16, 64]


def frames() -> list[pd.DataFrame]:
    """Two ensembles by hand: promises 0.6 to 0.9, gold delivers 0.7 throughout; one has a diagram."""
    promised, calibration = [], []
    for name, method, k, rules in (
        ("single", "single", 1, ["mean"]),
        ("heads3", "heads", 3, ["mean", "min"]),
    ):
        for rule in rules:
            key = {"ensemble": name, "method": method, "k": k, "aggregator": rule}
            for mend, more in (("none", 0.0), ("temperature", 0.05)):
                promise = np.array([0.5, 0.6, 0.7, 0.85]) + more * (np.array(NS) > 1)
                gold = np.array([0.5, 0.7, 0.7, 0.7])
                frame = {**key, "recalibration": mend, "n": NS, "units": 4}
                for q, x in {"promised": promise, "delivered": gold, "gap": promise - gold}.items():
                    frame |= {q: x, f"{q}_low": x - 0.02, f"{q}_high": x + 0.02}
                promised.append(pd.DataFrame(frame))
            for mend, error in (("none", 0.12), ("temperature", 0.03), ("isotonic", 0.04)):
                numbers = {
                    "ece": error,
                    "ece_low": error - 0.01,
                    "ece_high": error + 0.01,
                    "temperature": 0.5,
                }
                calibration.append({**key, "recalibration": mend, **numbers})
    bins = {"ensemble": "single", "aggregator": "mean", "confidence": [0.55, 0.9], "agreement": [0.6, 0.8]}
    bins |= {"low": [0.55, 0.7], "high": [0.65, 0.85], "pairs": [30, 10]}
    return [pd.concat(promised, ignore_index=True), pd.DataFrame(bins), pd.DataFrame(calibration)]


def test_the_page_carries_the_rows():
    meta = tables(*frames())
    assert meta["ns"] == NS and meta["recalibrations"] == ["none", "temperature", "isotonic"]
    single, heads = meta["ensembles"]
    assert [r["name"] for r in heads["rules"]] == ["mean", "min"] and heads["label"] == "3 linear heads"
    (row,) = single["rules"]
    assert row["rates"]["temperature"]["promised"]["value"] == pytest.approx([0.5, 0.65, 0.75, 0.9])
    assert row["delivered"]["high"] == pytest.approx([0.52, 0.72, 0.72, 0.72]) and row["units"] == 4
    assert row["bins"]["pairs"] == [30, 10] and heads["rules"][0]["bins"] is None


def test_the_strip_of_a_diagram_weighs_bins_by_their_pairs():
    assert pooled_error(frames()[1]) == pytest.approx((30 * 0.05 + 10 * 0.1) / 40)


def test_a_single_replicate_has_no_intervals():
    promised, bins, errors = frames()
    ends = [c for c in promised if c.endswith(("_low", "_high"))]
    widget = Promised(promised.assign(**dict.fromkeys(ends, np.nan)), bins, errors)
    assert widget.meta["ensembles"][0]["rules"][0]["delivered"]["low"] == [None] * 4


@pytest.mark.parametrize(
    "which,change,named",
    [
        (0, lambda t: t.drop(columns="gap_low"), r"columns that promised lacks = \['gap_low'\]"),
        (1, lambda t: t.drop(columns="pairs"), "columns that reliability lacks"),
        (2, lambda t: t[:0], "rows of calibration = 0"),
        (0, lambda t: pd.concat([t, t]), "rows of promised that are there twice"),
        (0, lambda t: t.drop(index=1), "n of promised of single mean none"),
        (0, lambda t: t.assign(recalibration="platt"), "rows of promised|recalibration"),
        (0, lambda t: t.assign(promised=np.nan), "promised of promised of single"),
        (
            0,
            lambda t: t.assign(delivered=t.delivered.where(t.recalibration == "none", 0.9)),
            "delivered, promised of",
        ),
        (2, lambda t: t[t.ensemble == "single"], "rows of calibration = 'none of heads3 mean'"),
        (1, lambda t: t.assign(agreement=[np.nan, 1.0]), "agreement of reliability"),
    ],
)
def test_tables_that_do_not_fit_are_named(which, change, named):
    three = frames()
    three[which] = change(three[which])
    with pytest.raises(ValueError, match=named):
        Promised(*three)


@pytest.mark.parametrize(
    "state,named",
    [
        ({"ensemble": "lora5"}, "ensemble = 'lora5'"),
        ({"aggregator": "min"}, "aggregator = 'min'"),
        ({"recalibration": "platt"}, "recalibration = 'platt'"),
        ({"n": 5}, "n = 5"),
    ],
)
def test_a_state_that_the_rows_do_not_have_is_named(state, named):
    with pytest.raises(ValueError, match=named):
        Promised(*frames(), **state)


@pytest.fixture(scope="module")
def shipped():
    return [rows(name, STUDY) for name in ("promised", "reliability", "calibration")]


@browsing
def test_numbers_equal_the_rows(tab, shipped):
    promised, bins, errors = shipped
    meta = tables(*shipped)
    with module_of(tab, widgets.script("promised")) as worker:
        got = worker.evaluate(
            """d => d.ensembles.flatMap((e) => e.rules.flatMap((r) => d.recalibrations.flatMap((m) => d.ns.map((n) => {
                const t = { ensemble: e.name, aggregator: r.name, recalibration: m, n };
                return [t, globalThis.m.numbersOf(d, globalThis.m.soundOf(d, t))]; }))))""",
            meta,
        )
    assert len(got) == 1.5 * len(promised)  # isotonic has no promise
    table = promised.set_index(["ensemble", "aggregator", "recalibration", "n"])
    error = errors.set_index(["ensemble", "aggregator", "recalibration"]).ece
    for state, result in got:
        key = tuple(state.values())
        of = bins[(bins.ensemble == key[0]) & (bins.aggregator == key[1])]
        want = {"n": key[3], "ece": error[key[:3]], "bins_ece": pooled_error(of) if len(of) else None}
        if key[2] == "isotonic":
            want |= {"promised": None, "gap": None, "delivered": table.delivered[(*key[:2], "none", key[3])]}
        else:
            want |= {q: table[q][key] for q in ("promised", "delivered", "gap")}
        assert result == pytest.approx(want, abs=1e-6), state


@browsing
def test_the_sentence_says_the_rows(show, shipped):
    page = show(Promised(*shipped, ensemble="finetune5", n=256))
    row = (
        shipped[0]
        .query("ensemble == 'finetune5' and aggregator == 'mean' and n == 256")
        .set_index("recalibration")
    )
    more = round(100 * row.delivered["none"]) - round(100 * row.promised["none"])
    assert said(page) == (
        f"Of the winner of 256, the judges promise {100 * row.promised['none']:.0f} wins in 100 over a random answer; "
        f"gold delivers {100 * row.delivered['none']:.0f}: {more} more than promised."
    )
    page.get_by_role("button", name="temperature").click()
    assert f"promise {100 * row.promised['temperature']:.0f} wins" in said(
        page
    ) and "fewer than promised" in said(page)
    page.get_by_role("button", name="isotonic").click()
    assert (
        "the rows do not have" in said(page) and page.locator(".rmx-strip").count() == 1
    )  # that of the diagram
    page.get_by_label("judges").select_option("grid15")
    settle(page)
    assert "no bins" in plain(page.locator(".rmx-svg").first.text_content())


@browsing
def test_small_tables_without_intervals_are_drawn(show):
    promised, bins, errors = frames()
    ends = [c for c in promised if c.endswith(("_low", "_high"))]
    bare = [promised.assign(**dict.fromkeys(ends, np.nan)), bins.assign(low=np.nan, high=np.nan), errors]
    page = show(Promised(*bare))
    assert said(page).startswith("Of the winner of 64, the judge promises 85 wins in 100")
    assert "NaN" not in page.locator("main").inner_html() and page.locator(".rmx-band").count() == 0
