"""Herding on a page: the areas are the rows, two studies go side by side, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget")
from rmlab.show import widgets
from rmlab.show.herd import Herd, tables
from rmlab.show.rows import rows
from tests.show.page import browsing, module_of, plain, said, settle

STUDY = "best_of_n_sighted"
NS = [1, 2, 4, 8]


def herding(
    factor: float = 1.0, names: tuple[str, ...] = ("finetune3", "finetune5", "heads3")
) -> pd.DataFrame:
    """Rows by hand: shared is three quarters of the whole, which falls with the number of members."""
    frames = []
    for name in names:
        method, k = name[:-1], int(name[-1])
        own = factor * np.array([0.0, 0.4, 0.6, 0.8]) * (1 + 1 / k)
        key = {"ensemble": name, "method": method, "k": k, "aggregator": "mean", "n": NS, "units": 4}
        parts = {"own": own, "shared": 0.75 * own, "idiosyncratic": 0.25 * own}
        parts["shared_share"] = np.where(own > 0, 0.75, np.nan)
        for q, x in parts.items():
            key |= {q: x, f"{q}_low": x - 0.05, f"{q}_high": x + 0.05}
        frames.append(pd.DataFrame(key))
    return pd.concat(frames, ignore_index=True)


def ceiling(name: str = "finetune5") -> pd.DataFrame:
    """Rows of a ceiling by hand, and others that are not of the gap."""
    kinds = {"predicted": 0.9, "measured": 0.8, "difference": -0.1, "ceiling": 0.7}
    key = {"ensemble": name, "n": NS}
    frames = [
        pd.DataFrame({**key, "quantity": quantity, "kind": kind, "value": value * np.log(NS)})
        for kind, value in kinds.items()
        for quantity in ("gap", "gold")
    ]
    return pd.concat(frames, ignore_index=True)


def test_the_page_carries_the_rows():
    meta = tables([(herding(), ceiling())], ["sighted", "blind"])
    assert meta["ns"] == NS and meta["methods"] == [
        ["finetune", "finetuning seeds"],
        ["heads", "linear heads"],
    ]
    (study,) = meta["studies"]
    three, five, _heads = study["sets"]
    assert (three["k"], five["k"], three["ceiling"]) == (3, 5, None)
    assert five["ceiling"]["ceiling"] == pytest.approx(list(0.7 * np.log(NS)))
    row = five["rules"]["mean"]
    assert row["shared_share"]["value"] == [None, 0.75, 0.75, 0.75] and row["units"] == 4
    assert row["shared"]["high"] == pytest.approx(list(0.9 * np.array([0.0, 0.4, 0.6, 0.8]) + 0.05))


def test_the_largest_of_the_first_kind_is_shown_unless_said():
    widget = Herd(herding())
    assert (widget.method, widget.k, widget.aggregator, widget.n) == ("finetune", 5, "mean", 8)


@pytest.mark.parametrize(
    "change,named",
    [
        (lambda t: t.drop(columns="own_low"), r"columns that herding lacks = \['own_low'\]"),
        (lambda t: t[:0], "rows of herding = 0"),
        (lambda t: pd.concat([t, t]), "rows of herding that are there twice"),
        (lambda t: t.drop(index=1), "n of herding of finetune3 mean"),
        (lambda t: t.assign(shared=np.nan), "shared of herding of finetune3"),
    ],
)
def test_a_table_that_does_not_fit_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        Herd(change(herding()))
    with pytest.raises(ValueError, match=named):
        Herd(herding(), beside=change(herding()))


@pytest.mark.parametrize(
    "state,named",
    [
        ({"method": "lora"}, "method = 'lora'"),
        ({"method": "heads", "k": 5}, "k = 5"),
        ({"aggregator": "min"}, "aggregator = 'min'"),
        ({"n": 3}, "n = 3"),
        ({"names": ("a", "a")}, "names"),
        ({"beside_ceiling": ceiling()}, "beside_ceiling"),
        ({"beside": herding()[lambda t: t.n < 8]}, "n of blind"),
        ({"ceiling": ceiling().drop(columns="kind")}, "columns that ceiling lacks"),
        ({"ceiling": ceiling()[lambda t: t.kind != "measured"]}, "n of ceiling of finetune5 measured"),
    ],
)
def test_a_state_that_the_rows_do_not_have_is_named(state, named):
    with pytest.raises(ValueError, match=named):
        Herd(herding(), **state)


@pytest.fixture(scope="module")
def shipped():
    return [rows(name, STUDY) for name in ("herding", "ceiling")]


@browsing
def test_numbers_equal_the_rows(tab, shipped):
    whole, far = shipped
    meta = tables([(whole, far), (whole.assign(own=2 * whole.own), None)], ["sighted", "blind"])
    states = whole[["method", "k", "aggregator", "n"]].to_dict("records")
    with module_of(tab, widgets.script("herd")) as worker:
        got = worker.evaluate("([d, all]) => all.map((t) => m.numbersOf(d, m.soundOf(d, t)))", [meta, states])
    gap = far[far.quantity == "gap"].set_index(["ensemble", "n", "kind"]).value
    for row, result in zip(whole.itertuples(), got, strict=True):
        parts = {q: getattr(row, q) for q in ("own", "shared", "idiosyncratic")}
        parts["shared_share"] = None if row.n == 1 else row.shared_share
        kinds = ("predicted", "measured", "ceiling")
        known = row.aggregator == "mean" and (row.ensemble, row.n, "ceiling") in gap.index
        ends = {kind: gap[row.ensemble, row.n, kind] if known else None for kind in kinds}
        assert result["n"] == row.n and result["sighted"] == pytest.approx(parts | ends, abs=1e-6)
        other = parts | {"own": 2 * row.own} | dict.fromkeys(kinds)
        assert result["blind"] == pytest.approx(other, abs=1e-6)
        assert result["sighted"]["own"] == pytest.approx(
            row.shared + row.idiosyncratic, abs=1e-4
        )  # five digits


@browsing
def test_the_areas_lie_one_on_the_other(show):
    """Read off the picture against the axis: at the last n shared ends at three quarters of the whole."""
    page = show(Herd(herding(), method="finetune", k=5))
    ends = page.evaluate(
        """() => { const marks = [...document.querySelectorAll('.rmx-grid')].map((e) => e.y1.baseVal.value);
        const points = (c) => document.querySelector(c).getAttribute('d').slice(1).split('L').map((p) =>
            +p.replace('Z', '').split(' ')[1]);
        return [marks[0], points('.rmx-edge').at(-1), points('.rmx-whole').at(-1)]; }"""
    )
    zero, shared, whole = ends
    assert (zero - shared) / (zero - whole) == pytest.approx(0.75, abs=0.01)


@browsing
def test_the_sentence_says_the_share(show, shipped):
    page = show(Herd(*shipped, method="finetune", k=5))
    row = shipped[0].query("ensemble == 'finetune5' and aggregator == 'mean' and n == 256").iloc[0]
    shares = [f"{100 * row[c]:.0f}%" for c in ("shared_share", "shared_share_low", "shared_share_high")]
    assert said(page) == (
        f"Of what the winner of 256 is overrated by, {shares[0]} (95%: {shares[1]} to {shares[2]}) is shared by all "
        "members: no further member of their kind removes it."
    )
    reading = plain(page.locator(".rmx").inner_text())
    assert f"overrated by {row.own:.2f}" in reading and "for members without end" in reading
    page.get_by_role("group", name="how many").get_by_role("button", name="3").click()
    assert "66% (95%: 61% to 71%)" in said(page)
    page.get_by_label("members", exact=True).select_option("heads")
    assert "83%" in said(page) and "without end" not in plain(page.locator(".rmx").inner_text())
    assert "3 heads on one encoder" in page.locator(".rmx-hint").inner_text()
    page.get_by_role("button", name="min").click()
    assert "84%" in said(page) and "on average" in page.locator(".rmx-hint").inner_text()
    page.locator(".rmx-handle").press("Home")
    assert said(page) == "The winner of 1 is a random answer: it is overrated by nothing."


@browsing
def test_two_studies_go_side_by_side_and_their_handles_together(show):
    few = herding(1.5, ("finetune3", "heads3"))
    page = show(Herd(herding(), method="heads", n=4, beside=few))
    assert "75% where judges are sighted and 75% where judges are blind is shared" in said(page)
    places = [x.get_attribute("x1") for x in page.locator(".rmx-cursor").all()]
    page.locator(".rmx-handle").nth(1).press("End")
    settle(page)
    after = [x.get_attribute("x1") for x in page.locator(".rmx-cursor").all()]
    assert len(after) == 2 and all(float(a) > float(b) for a, b in zip(after, places, strict=True))
    page.get_by_label("members", exact=True).select_option("finetune")  # the nearest number of members
    assert "blind" in said(page)
    page.get_by_role("group", name="how many").get_by_role("button", name="5").click()
    assert "The rows of blind judges do not have these members." in said(page)
    assert page.locator(".rmx-whole").count() == 1


@browsing
def test_a_single_replicate_has_no_bars(show):
    bare = herding()
    ends = [c for c in bare if c.endswith(("_low", "_high"))]
    page = show(Herd(bare.assign(**dict.fromkeys(ends, np.nan))))
    assert "75% is shared by all members" in said(page) and page.locator(".rmx-whisker").count() == 0
    assert "NaN" not in page.locator("main").inner_html()
