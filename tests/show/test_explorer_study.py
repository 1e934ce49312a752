"""A study's rows beside the explorer's pool: packed, read by the page as they were, and drawn where the state is a row."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlab.optimise.best_of_n import kl_bound
from rmlab.optimise.compact import CompactPool
from rmlab.show.explorer_study import QUANTITIES, StudyCurves, study_curves
from rmlab.show.rows import data_folder, rows
from rmlab.show.rows import pool as shipped_pool
from tests.show.fake_pool import fake_pool, text_pool

pytest.importorskip("anywidget", reason="the explorer needs anywidget")
pytest.importorskip("playwright.sync_api", reason="the browser checks need playwright")
from rmlab.show.explorer import Explorer
from tests.show.page import browsing, fits, plain, said, settle, violations, worker_of

SHIPPED = sorted(path.parent.name for path in Path(data_folder()).glob("*/explorer.npz"))
BOOK = Path(__file__).parents[2] / "book"
NS = [2**k for k in range(10)]
GOLD = {  # at n = 256: in another order than the fake pool's own
    ("single", "mean"): 1.21,
    ("finetune3", "mean"): 1.4,
    ("pretrain3", "mean"): 1.9,
    ("pretrain3", "min"): 1.62,
    ("pretrain3", "mean_std"): 1.5,
    ("heads3", "mean"): 1.33,
    ("oracle", "mean"): 4.7,
}


def curve(ensemble: str, aggregator: str, gold: float) -> pd.DataFrame:
    """Ten replicates' mean curve that has this gold at n = 256, where it is highest."""
    kl = kl_bound(np.array(NS))
    gold = gold - 0.05 * (kl - kl[8]) ** 2
    strength = (
        1.0 if aggregator in {"min", "mean_std"} else np.nan
    )  # that of min is not the reader's to choose
    frame = {"ensemble": ensemble, "aggregator": aggregator, "pessimism": "paper", "optimiser": "best_of_n"}
    frame |= {"strength": strength, "pressure": NS, "gold": gold, "proxy": 0.4 * kl}
    frame |= {
        "gold_low": gold - 0.11,
        "gold_high": gold + 0.13,
        "units": 10,
        "covers": "replicates and prompts",
    }
    return pd.DataFrame(frame)


def table() -> pd.DataFrame:
    """A study's `curves`, with rows that are nobody's here: another pessimism, and another optimiser."""
    curves = [curve(*key, gold) for key, gold in GOLD.items()]
    strange = [curves[3].assign(pessimism="matched", gold=9.0), curves[0].assign(optimiser="tilt", gold=9.0)]
    return pd.concat([*strange, *curves], ignore_index=True)


@pytest.fixture(scope="module")
def pool():
    return fake_pool()


@pytest.fixture(scope="module")
def study(pool):
    return study_curves(pool, table())


def test_the_rows_are_those_of_the_pools_ensembles(study):
    assert study.keys == [
        ("single", "mean", None, 10),
        ("finetune", "mean", None, 10),
        ("pretrain", "mean", None, 10),
        ("pretrain", "min", None, 10),
        ("pretrain", "mean_std", 1.0, 10),
        ("heads", "mean", None, 10),
        ("oracle", "gold", None, 10),
    ]
    assert study.ns == NS and study.over == "replicates"
    assert study.singles == [0, 1, 2, 3, 6]  # of seeds; no head, and no average of weights


def test_sixteen_bits_hold_the_rows_to_four_digits(study):
    assert study.values.dtype == np.int16 and len(study.packed()[1]) == 2 * 7 * 4 * len(NS)
    known = table().query("optimiser == 'best_of_n' and pessimism == 'paper'")
    for name, aggregator, n in (
        ("pretrain", "min", 256),
        ("single", "mean", 1),
        ("pretrain", "mean_std", 512),
    ):
        ensemble = name if name == "single" else f"{name}3"
        row = known[(known.ensemble == ensemble) & (known.aggregator == aggregator) & (known.pressure == n)]
        assert study.at(name, aggregator, n) == pytest.approx(dict(row[list(QUANTITIES)].iloc[0]), abs=1e-4)


def test_between_two_n_is_the_straight_line_over_kl_and_beyond_is_nothing(study):
    low, high = study.at("pretrain", "min", 128), study.at("pretrain", "min", 256)
    share = (kl_bound(200) - kl_bound(128)) / (kl_bound(256) - kl_bound(128))
    for q, value in study.at("pretrain", "min", 200).items():
        assert value == pytest.approx(low[q] + share * (high[q] - low[q]))
    assert study.at("pretrain", "min", 513) is None and study.at("pretrain", "median", 8) is None


def test_a_model_by_itself_goes_by_its_columns_name_or_is_single(pool):
    named = ["average5" if c == 12 else label for c, label in enumerate(pool.columns)]
    alone = [
        {"name": "average", "label": "x", "members": [12]},
        {"name": "heads1", "label": "y", "members": [0]},
    ]
    other = replace(pool, columns=named, ensembles=[*pool.ensembles[:2], *alone])
    found = study_curves(other, pd.concat([table(), curve("average5", "mean", 0.5)]))
    assert found.at("average", "mean", 256)["gold"] == pytest.approx(0.5, abs=1e-4)
    assert found.at("heads1", "mean", 256) == found.at("single", "mean", 256)


def test_longer_curves_end_with_the_pool(pool):
    longer = table()
    more = longer[longer.pressure == 512].assign(pressure=1024)
    assert study_curves(pool, pd.concat([longer, more])).ns == NS


@pytest.mark.parametrize(
    "change,named",
    [
        (lambda t: t.drop(columns="gold_low"), "gold_low"),
        (lambda t: t.assign(optimiser="ppo"), "rows of the pool's ensembles"),
        (lambda t: t[t.ensemble == "oracle"], "rows of the pool's ensembles"),
        (lambda t: pd.concat([t, t]), "n of single mean"),
        (lambda t: t.drop(index=t.index[-4 * len(NS)]), "n of pretrain3 min"),
        (lambda t: t.assign(gold_high=np.nan), "not finite"),
        (lambda t: t.assign(strength=np.nan), "strength of mean_std"),
    ],
)
def test_what_does_not_fit_is_named(pool, change, named):
    with pytest.raises(ValueError, match=named):
        study_curves(pool, change(table()))


def test_without_gold_there_is_nothing_to_lead():
    with pytest.raises(ValueError, match="gold of the pool"):
        Explorer(text_pool(gold=False), curves=table())


def test_pools_are_shipped():
    assert len(SHIPPED) >= 2


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rows_have_every_ensemble_of_their_pool_in_a_few_kilobytes(name):
    pool = shipped_pool(name)
    found = study_curves(pool, rows("curves", name))
    assert {key[0] for key in found.keys if key[1] == "mean"} == {
        "single",
        *(e["name"] for e in pool.ensembles),
    }
    assert found.nbytes_in_page() < 12_000


def read_by_page(tab, pool, study: StudyCurves, code: str, *more):
    """What JavaScript makes of a packed study, as `s` beside the pool `d` and the module `m`."""
    about, data = study.packed()
    with worker_of(tab, pool) as worker:
        worker.evaluate(
            "([about, data]) => { d.study = m.studyOf(about, Uint8Array.from(atob(data), (c) => c.charCodeAt(0))); }",
            [about, b64encode(data).decode()],
        )
        return worker.evaluate(code, *more)


@browsing
def test_the_page_reads_what_python_packed(tab, pool, study):
    ns = [1, 2, 3, 100, 255, 256, 512, 513]
    got = read_by_page(
        tab, pool, study, "ns => d.study.rows.map((row) => ns.map((n) => m.rowAt(row, n)))", ns
    )
    for (name, aggregator, *_), points in zip(study.keys, got, strict=True):
        for n, point in zip(ns, points, strict=True):
            want = study.at(name, aggregator, n)
            if want is None:
                assert point is None and n == 513
                continue
            assert [point[q] for q in ("worth", "low", "high", "proxy")] == pytest.approx(list(want.values()))
            assert point["exact"] == (n in NS)


@browsing
def test_a_state_is_a_row_or_the_page_says_why_not(tab, pool, study):
    usual = {"strength": 1.0, "n": 64, "prompt": 0, "optimiser": "best_of_n", "beta": 0.25}
    states = [
        (("pretrain", [0, 3, 6], "min", {}), "pretrain min"),
        (("pretrain", [6, 0, 3], "mean_std", {}), "pretrain mean_std"),
        (("single", [3], "max", {}), "single mean"),
        (("finetune", [0], "gold", {}), "oracle gold"),
        (("pretrain", [0, 3], "min", {}), "the study's rows are of all 3 members"),
        (("pretrain", [0, 3, 6], "mean_std", {"strength": 1.1}), "the study's row is at λ = 1"),
        (("pretrain", [0, 3, 6], "median", {}), "the study has no row of this aggregator"),
        (("mixed", [0, 3, 9, 10], "mean", {}), "the study has no rows of 2 pretraining seeds, 2 heads"),
        (("single", [9], "mean", {}), "head 0 is no single model"),
        (("pretrain", [0, 3, 6], "min", {"optimiser": "tilt"}), "the study's rows are of best of n"),
    ]
    traits = [
        {**usual, "ensemble": e, "members": c, "aggregator": a, **more} for (e, c, a, more), _ in states
    ]
    code = """all => all.map((t) => { const { row, why } = m.rowOf(d, m.sound(d, m.choicesOf(d), t));
        return why ?? `${row.ensemble} ${row.aggregator}`; })"""
    assert read_by_page(tab, pool, study, code, traits) == [want for _, want in states]


@browsing
def test_the_result_has_the_studys_numbers_where_the_state_is_a_row(tab, pool, study):
    code = """all => all.map((members) => { const choices = m.choicesOf(d), store = m.storeOf(d, choices);
        const s = m.sound(d, choices, { ensemble: "pretrain", members, aggregator: "min", strength: 1, n: 256,
            prompt: 0, optimiser: "best_of_n", beta: 1 });
        const now = m.curvesOf(store, s); return m.resultOf(d, s, now, m.pointOf(store, now, s)); })"""
    row, other = read_by_page(tab, pool, study, code, [[0, 3, 6], [0, 3]])
    want = study.at("pretrain", "min", 256)
    names = ("study_gold", "study_low", "study_high", "study_proxy")
    assert [row[name] for name in names] == pytest.approx(list(want.values()))
    own = pool.curve([0, 3, 6], "min", 1.0, [256])["gold"].mean()
    assert row["gold"] == pytest.approx(own) and not set(names) & set(other)


@browsing
def test_the_band_is_the_studys_and_goes_with_a_member(pool, show):
    page = show(Explorer(pool, n=256, curves=table()))
    page.get_by_role("button", name="several, the worst").click()
    n = page.get_by_label("n, answers to choose from")
    n.fill("0")
    n.press("End")
    settle(page)
    words = page.locator(".rmx-svg text")

    def labels():
        return " ".join(words.all_text_contents())

    assert page.locator(".rmx-band").count() == 1
    assert page.locator(".rmx-gold").count() == 2 and page.locator(".rmx-gold.rmx-corner").count() == 1
    assert page.locator(".rmx-proxy.rmx-corner").count() == 1
    assert (
        "all 10 replicates" in labels() and "this corner" in labels() and "peak, n = 256" in plain(labels())
    )
    thick, thin = (
        page.locator(f".rmx-gold{x}").first.evaluate("e => parseFloat(getComputedStyle(e).strokeWidth)")
        for x in (":not(.rmx-corner)", ".rmx-corner")
    )
    assert thick > 2 * thin
    page.get_by_label("p1 f0").uncheck()
    settle(page)
    assert page.locator(".rmx-band").count() == 0
    assert page.locator(".rmx-gold").count() == page.locator(".rmx-gold.rmx-corner").count() == 1
    assert "all 10 replicates" not in labels() and "this corner" in labels()
    assert "Only this corner: the study's rows are of all 3 members." in said(page)
    assert "this corner: gold" in plain(page.locator(".rmx-readout").inner_text())
    page.get_by_label("p1 f0").check()
    settle(page)
    assert page.locator(".rmx-band").count() == 1


@browsing
def test_the_band_lies_where_its_numbers_are(pool, show):
    """Its ends at n = 256, read off the picture against the levels of the axis, are those of the row."""
    page = show(Explorer(pool, ensemble="pretrain", aggregator="min", n=256, curves=table()))
    settle(page)
    got = page.evaluate(
        """() => { const marks = [...document.querySelectorAll('.rmx-grid')].map((e) => e.y1.baseVal.value);
        const texts = [...document.querySelectorAll('.rmx-svg text')], top = document.querySelector('.rmx-band');
        const level = (y) => texts.find((t) => { const b = t.getBBox(); return b.x < 40 && b.y < y && y < b.y + b.height
            && /^[−\\d.]+$/.test(t.textContent); }).textContent.replace('−', '-');
        const points = top.getAttribute('d').slice(1, -1).split('L').map((p) => p.split(' ').map(Number));
        return { marks: marks.slice(0, 2).map((y) => [y, +level(y)]), points }; }"""
    )
    (y0, v0), (y1, v1) = got["marks"]
    high, low = (v0 + (got["points"][k][1] - y0) * (v1 - v0) / (y1 - y0) for k in (8, len(NS) + 1))
    assert len(got["points"]) == 2 * len(NS)
    assert [low, high] == pytest.approx([1.62 - 0.11, 1.62 + 0.13], abs=0.02)


@browsing
def test_the_sentence_and_the_readout_say_the_studys_first_and_the_corners_then(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="min", n=256, curves=table()))
    own = pool.curve([0, 3, 6], "min", 1.0, [256])
    gold, proxy = (f"{own[q].mean():.2f}".replace("-", "−") for q in ("gold", "proxy"))
    assert abs(own["gold"].mean() - 1.62) > 0.05
    sentence = said(page)
    assert "gold is 1.62 over all 10 replicates (95% interval 1.51 to 1.75)" in sentence
    assert sentence.index("all 10 replicates") < sentence.index(
        f"In this corner gold is {gold} and the proxy {proxy}."
    )
    readout = plain(page.locator(".rmx-readout").inner_text())
    assert "n = 256 · gold 1.62 (95%: 1.51 to 1.75), all 10 replicates · this corner " + gold in readout
    heard = "document.querySelector('.rmx-status').textContent"
    page.wait_for_function(f"{heard}.includes('all 10 replicates') && {heard}.includes('In this corner')")
    picture = page.locator(".rmx-svg[role=img]").get_attribute("aria-label")
    assert "over all 10 replicates, with its 95% interval" in picture and "this corner's gold" in picture
    page.get_by_label("n, answers to choose from").press("ArrowLeft")
    assert "gold is about 1.6" in said(page)  # between two n of the rows
    assert "· gold ≈ 1.6" in page.locator(".rmx-readout").inner_text()


@browsing
def test_of_one_judge_the_mean_is_nobodys_own(pool, show):
    page = show(Explorer(pool, members=[3], n=256, curves=table()))
    assert "One judge chooses from 256 answers: gold is 1.21 over all 10 replicates" in said(page)
    assert "In this corner (p1 f0) gold is " in said(page)


@browsing
def test_rows_that_end_before_the_pool_are_not_drawn_on(pool, show):
    page = show(
        Explorer(pool, ensemble="pretrain", aggregator="min", n=512, curves=table().query("pressure <= 256"))
    )
    assert "The study's rows end at n = 256." in said(page)
    assert "this corner: gold" in page.locator(".rmx-readout").inner_text()
    assert page.locator(".rmx-band").count() == 1


@browsing
def test_the_tilt_and_another_strength_are_the_corner_alone(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="mean_std", n=256, curves=table()))
    assert page.locator(".rmx-band").count() == 1
    page.get_by_label("λ").press("ArrowRight")
    assert (
        "Only this corner: the study's row is at λ = 1." in said(page)
        and not page.locator(".rmx-band").count()
    )
    page.get_by_label("λ").press("ArrowLeft")
    assert "over all 10 replicates" in said(page)
    page.get_by_role("button", name="tilt").press("Enter")
    assert "Only this corner: the study's rows are of best of n." in said(page)
    assert not page.locator(".rmx-band").count()


@browsing
@pytest.mark.parametrize("dark,widths", [(False, (1280, 375, 360)), (True, (360, 1280))])
def test_a_study_fits_every_page(pool, show, dark, widths):
    """axe looks at the last width: light on a phone, dark on a wide screen."""
    states = [
        ("single", "mean", [3]),
        ("pretrain", "min", None),
        ("pretrain", "min", [0, 3]),
        ("heads_8", "mean", None),
    ]
    states += [("single", "gold", None)]
    widgets = [
        Explorer(pool, ensemble=e, aggregator=a, members=c, n=256, curves=table()) for e, a, c in states
    ]
    page = show(*widgets, dark=dark)
    fits(page, widths)
    assert not violations(page)


def shown_gold(page) -> dict[str, float]:
    """The gold that the readout puts first at n = 256, of every preset that the study has a row of."""
    gold = {}
    for button in page.locator(".rmx-presets button").all():
        button.click()
        page.evaluate("document.querySelector('.rmx').scrollIntoView()")
        slider = page.get_by_label("n, answers to choose from")
        slider.press("End")
        for _ in range(16 * 13):
            if slider.get_attribute("aria-valuetext") == "256 answers":
                break
            slider.press("ArrowLeft")
            settle(page)
        readout = plain(page.locator(".rmx-readout").inner_text())
        found = re.match(r"n = 256 · gold ([−\d.]+) \(95%", readout)
        if found:
            gold[button.inner_text()] = float(found[1].replace("−", "-"))
        else:
            assert "this corner: gold" in readout and "Only this corner: " in said(page)
    return gold


def agrees(shown: dict[str, float], known: dict[str, float]) -> bool:
    """Whether no pair of presets stands in another order than in the rows, and each has its row's number."""
    near = all(abs(shown[x] - known[x]) <= 0.00501 for x in known)
    pairs = combinations(known, 2)
    return (
        set(shown) == set(known)
        and near
        and all((shown[a] - shown[b]) * (known[a] - known[b]) >= 0 for a, b in pairs)
    )


def rows_gold(curves: pd.DataFrame, pool: CompactPool) -> dict[str, float]:
    """Gold at n = 256 of the presets, as the rows have it: several are pretraining seeds, or the first with members."""
    sizes = {e["name"]: len(e["members"]) for e in pool.ensembles}
    several = "pretrain" if "pretrain" in sizes else next(name for name, K in sizes.items() if K > 1)
    several += str(sizes[several])
    keys = [("one judge", "single", "mean"), ("several, their mean", several, "mean")]
    keys += [("several, the worst", several, "min"), ("ask gold", "oracle", "mean")]
    at = curves.query("pressure == 256 and optimiser == 'best_of_n' and pessimism == 'paper'")
    gold = at.set_index(["ensemble", "aggregator"]).gold
    return {label: float(gold[e, a]) for label, e, a in keys if (e, a) in gold.index}


@browsing
@pytest.mark.parametrize("name", SHIPPED)
def test_the_presets_stand_in_the_order_of_the_studys_rows(show, name):
    pool, curves = shipped_pool(name), rows("curves", name)
    known = rows_gold(curves, pool)
    assert len(known) >= 3
    assert agrees(shown_gold(show(Explorer(pool, curves=curves))), known)


@browsing
def test_the_order_is_the_rows_even_where_the_pools_is_another(pool, show):
    curves = table()
    own = {
        label: pool.curve(members, rule, 1.0, [256])["gold"].mean()
        for label, members, rule in (
            ("one judge", [0], "mean"),
            ("several, their mean", [0, 3, 6], "mean"),
            ("several, the worst", [0, 3, 6], "min"),
        )
    }
    known = rows_gold(curves, pool)
    assert not agrees(own, {label: known[label] for label in own})  # the page must not show the pool's
    assert agrees(shown_gold(show(Explorer(pool, curves=curves))), known)


def test_every_explorer_of_a_shipped_pool_stands_beside_its_rows():
    cells = []
    for chapter in sorted(BOOK.glob("*.md")):
        found = re.findall(r"```\{code-cell\}[^`]*?^Explorer\([^`]*", chapter.read_text("utf-8"), re.M)
        cells += [(chapter.name, cell) for cell in found]
    assert len(cells) >= 8
    assert not [name for name, cell in cells if "curves=" not in cell]
