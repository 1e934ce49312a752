"""The explorer on pools of text: gold as a number, held-out members where there is no gold, the proxy alone."""

import re

import numpy as np
import pytest

from rmlab.optimise.compact import CompactPool, curve_ns

pytest.importorskip("anywidget", reason="the explorer needs anywidget")
pytest.importorskip("playwright.sync_api", reason="the browser checks need playwright")
from rmlab.show.explorer import Explorer
from tests.show.fake_pool import text_pool
from tests.show.page import MISPLACED, browsing, fits, plain, said, settle, violations, worker_of

TEXTS = [
    "</script><script>document.title = 'broken'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title = 'broken'\"> & &lt;b&gt;bold</b>",
    "日本語の答え。\n二行目、\tそして 👩‍🚀 e\u0301 \u2028end",
    "مرحبا: 3 < 4",
    "\ufeffa mark at its start, and - a : colon , i think",
    "w" * 400,
    "one\n\n    three, indented\r\nfour",
    "long " * 1000 + "end",
]
BLANK = ["", "   \n\t ", "\u200b\u2060\u3164", "\x00"]


def pool_of(texts, gold=None):
    """A request a text, its best answer being the request's own text."""
    scores = np.tile([[1.0, 0.5], [0.0, -0.2]], (len(texts), 1, 1))
    return CompactPool.from_text(texts, [[text, "another"] for text in texts], scores, gold=gold)


@pytest.fixture(scope="module", params=["gold", "held out"])
def text(request):
    return text_pool(gold=request.param == "gold", keep=90)


@pytest.fixture(scope="module")
def worker(text, tab):
    with worker_of(tab, text) as started:
        yield started


@browsing
@pytest.mark.parametrize("members", [[0], [3, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("rule,strength", [("mean", 1.0), ("mean_std", 0.7), ("min", 1.0)])
def test_numbers_equal_python(text, worker, members, rule, strength):
    ns, betas = curve_ns(text.N), [64.0, 1.0, 0.2]
    curve, tilts, won, typical = worker.evaluate(
        """([c, rule, strength, ns, betas]) => { const { rows, ...curve } = m.curve(d, c, rule, strength, ns);
            const won = [1, 9, 240].map((n) => rows.map((l) => m.typicalWinner(l, n)));
            const typical = betas.map((b) => rows.map((l, p) => m.typicalTilted(d, p, l, b)));
            return [curve, m.tilts(d, rows, betas), won, typical]; }""",
        [members, rule, strength, ns, betas],
    )
    for got, python in (
        (curve, text.curve(members, rule, strength, ns)),
        (tilts, text.tilted(members, rule, strength, betas)),
    ):
        worth = python.pop("gold", None) if text.gold is not None else python.pop("held_out", None)
        assert (got["worth"] is None) == (worth is None) == (text.gold is None and len(members) == 4)
        if worth is not None:
            np.testing.assert_allclose(np.transpose(got["worth"]), worth, rtol=1e-9, atol=1e-9)
        for name, values in python.items():
            np.testing.assert_allclose(np.transpose(got[name]), values, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(won, [text.typical_winner(members, rule, strength, n) for n in (1, 9, 240)])
    np.testing.assert_array_equal(typical, [text.typical_tilted(members, rule, strength, b) for b in betas])


@browsing
def test_every_answer_is_the_same_text(text, worker):
    seen = worker.evaluate("[...d.weight.keys()].map((i) => m.answerOf(d, i))")
    assert seen == [text.text(p, i) for p in range(3) for i in range(text.weight.shape[1])]


@browsing
def test_any_text_is_carried_letter_by_letter(tab):
    pool = pool_of([*TEXTS, *BLANK])
    with worker_of(tab, pool) as worker:
        assert worker.evaluate("d.prompts.map((_, p) => m.answerOf(d, p * d.M))") == [*TEXTS, *BLANK]
        assert worker.evaluate("d.prompts") == [*TEXTS, *BLANK]


@browsing
@pytest.mark.parametrize("size,digits", [(1e-3, 5), (0.1, 3), (1.0, 2), (300.0, 0)])
def test_digits_and_betas_follow_the_size_of_the_scores(tab, size, digits):
    scores = np.random.default_rng(0).normal(0, size, (2, 300, 2))
    scores[0, 0, 1] = -1e4 * size  # one far outside does not count
    answers = [["text"] * 300] * 2
    pool = CompactPool.from_text(["a", "b"], answers, scores, keep=300)
    with worker_of(tab, pool) as worker:
        assert worker.evaluate("d.digits") == digits
        betas = worker.evaluate("m.prices(d, m.ladders(d, [0], 'mean', 1))")
        kl = pool.tilted([0], "mean", 1.0, betas)["kl"].mean(0)
        assert (np.diff(betas) < 0).all() and kl[0] < 0.01
        assert 0.85 * (np.log(300) - 1) < kl[-1] <= np.log(300) - 1 + 1 / 300


@browsing
def test_the_result_says_gold_or_held_out_or_the_proxy_alone(text, worker):
    through = """([c, optimiser]) => { const choices = m.choicesOf(d), store = m.storeOf(d, choices);
        const s = m.sound(d, choices, { ensemble: "all", members: c, aggregator: "min", strength: 1, n: 16,
            prompt: 0, optimiser, beta: 1 });
        const now = m.curvesOf(store, s); return m.resultOf(d, s, now, m.pointOf(store, now, s)); }"""
    for members in ([0, 2], [0, 1, 2, 3]):
        result = worker.evaluate(through, [members, "best_of_n"])
        python = text.curve(members, "min", 1.0, [16])
        assert result["proxy"] == pytest.approx(python["proxy"].mean())
        name = "gold" if text.gold is not None else "held_out"
        if name not in python:
            assert set(result) == {"proxy"}
            assert set(worker.evaluate(through, [members, "tilt"])) == {"proxy", "kl", "ess"}
            continue
        assert set(result) == {name, "proxy", "peak_n", f"peak_{name}"}
        assert result[name] == pytest.approx(python[name].mean())
        peak = text.curve(members, "min", 1.0, [result["peak_n"]])[name].mean()
        assert result[f"peak_{name}"] == pytest.approx(peak) and peak >= result[name]


@browsing
def test_texts_are_shown_as_text(show):
    """Nothing in a request or an answer is read as HTML; line breaks stay; nothing is wider than a phone."""
    pool = pool_of(TEXTS, gold=np.zeros((len(TEXTS), 2)))
    page = show(Explorer(pool, n=2), width=320)
    page.evaluate("document.querySelector('.rmx details:has(blockquote)').open = true")
    for text in TEXTS:
        settle(page)
        for box in (".rmx-request", ".rmx blockquote >> nth=0"):
            node = page.locator(box)
            assert node.text_content() == text
            assert node.evaluate("e => (e.querySelector('.rmx-text') ?? e).dir") == "auto"
        assert page.locator(".rmx :is(script, img, b:has-text('bold'))").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), text
        page.get_by_role("button", name="next request").click()
    assert page.title() == "page"
    settle(page)
    assert page.locator(".rmx-request").text_content() == TEXTS[0]  # once around
    page.evaluate("location.hash = '#x=0~single~0~mean~1~2~7'")
    page.wait_for_function("document.querySelector('.rmx-request').textContent.startsWith('one')")
    assert len(page.locator(".rmx blockquote").first.inner_text().splitlines()) == 4


@browsing
def test_an_answer_that_looks_empty_says_so(show):
    page = show(Explorer(pool_of(BLANK), n=2))
    for _ in BLANK:
        settle(page)
        assert page.locator(".rmx-request").text_content() == "(an empty request)"
        assert page.locator(".rmx blockquote").first.text_content() == "(says nothing)"
        page.get_by_role("button", name="next request").press("Enter")


@browsing
def test_a_long_answer_scrolls_in_its_box_and_stays_there(show):
    long = "\n".join(f"Step {k}: let it rest." for k in range(230))
    assert len(long) > 5000
    page = show(Explorer(pool_of(["short?", long]), prompt=1, n=2), width=360)
    box, request = page.locator("blockquote .rmx-text").first, page.locator(".rmx-request")
    assert box.bounding_box()["height"] < 400 and request.bounding_box()["height"] < 400
    assert box.get_attribute("tabindex") == "0" and request.get_attribute("tabindex") == "0"
    assert page.get_by_role("group", name="the answer").count() == 1
    assert page.locator("[tabindex='0']:not([data-lm-suppress-shortcuts=true])").count() == 0
    box.focus()
    page.keyboard.press("End")
    page.wait_for_function(
        """() => { const box = document.querySelector('blockquote .rmx-text');
            return box.scrollTop + box.clientHeight >= box.scrollHeight - 1; }"""
    )
    place = box.evaluate("e => e.scrollTop")
    page.get_by_label("aggregator").select_option("min")  # the same winner
    assert "One judge" in said(page)
    assert box.evaluate("e => e.scrollTop") == pytest.approx(place, abs=2)
    page.get_by_role("button", name="previous request").click()
    settle(page)
    assert box.text_content() == "short?" and box.get_attribute("tabindex") is None


@browsing
def test_gold_is_a_number_with_its_unit(show):
    pool = text_pool(keep=90)
    page = show(Explorer(pool, ensemble="all", aggregator="min", n=240))
    gold = pool.curve([0, 1, 2, 3], "min", 1.0, [1, 240])["gold"].mean(0)
    assert f"gold is {gold[1]:.2f}" in said(page)
    assert f"gold {gold[1]:.2f} (" in plain(page.locator(".rmx-readout").inner_text())
    i = pool.typical_winner([0, 1, 2, 3], "min", 1.0, 240)[0]
    uniform = (pool.weight[0] * pool.gold[0]).sum() / pool.weight[0].sum()
    panel = page.locator(".rmx-panels > div").last
    assert "Gold for it (points)" in panel.inner_text() and "bill" not in page.locator(".rmx").inner_text()
    seen = [float(x.replace("−", "-")) for x in panel.locator(".rmx-value").all_inner_texts()]
    np.testing.assert_allclose(seen, [pool.gold[0].max(), uniform, pool.gold[0, i]], atol=0.00501)
    assert panel.locator("li").last.inner_text().startswith("this answer")
    assert "gold reward (points)" in page.locator(".rmx-svg").text_content()
    best = page.locator(".rmx details:has(blockquote)")
    best.locator("summary").press("Enter")
    settle(page)
    assert best.locator("blockquote").text_content() == pool.text(0, int(pool.gold[0].argmax()))
    assert "Carried: 90 of each request's 240 answers" in page.locator(".rmx .rmx-hint").all_inner_texts()[1]


@browsing
def test_without_gold_the_held_out_members_are_shown(show):
    pool = text_pool(gold=False)
    page = show(Explorer(pool, ensemble="all", members=[0, 2], n=240))
    python = pool.curve([0, 2], "mean", 1.0, [1, 240])
    proxy, held = (python[name].mean(0) for name in ("proxy", "held_out"))
    sentence = said(page)
    assert f"the proxy is {proxy[1]:.2f}, {proxy[1] - proxy[0]:.2f} above a uniform pick" in sentence
    assert f"the 2 members held out say {held[1]:.2f}, " in sentence and "There is no gold." in sentence
    assert f"proxy {proxy[1]:.2f} · held-out members {held[1]:.2f} (" in plain(
        page.locator(".rmx-readout").inner_text()
    )
    assert page.locator(".rmx-gold, .rmx-oracle, .rmx-alone").count() == 0
    assert page.locator(".rmx-held").count() == 1 and page.locator("circle.rmx-at").count() == 2
    assert page.get_by_label("aggregator").locator("option[value=gold]").count() == 0
    assert page.locator(".rmx-presets button").all_inner_texts() == [
        "one judge",
        "several, their mean",
        "several, the worst",
    ]
    assert page.locator(".rmx-bill").count() == 0
    rows = page.locator(".rmx-ranks tbody th").all_inner_texts()
    assert [row.replace(" (the minimum)", "") for row in rows] == [
        "reward model 0",
        "reward model 2",
        "reward model 1 (held out)",
        "reward model 3 (held out)",
        "held out, their mean",
    ]
    i = pool.typical_winner([0, 2], "mean", 1.0, 240)[0]
    shown = page.locator(".rmx-by-gold td").first.inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(pool.compared([0, 2])["held_out"][0, i], abs=0.00501)
    page.get_by_label("reward model 1").check()
    assert "reward model 3, held out, says" in said(page)


@browsing
def test_where_every_member_judges_the_proxy_stands_alone(show):
    pool = text_pool(gold=False)
    page = show(Explorer(pool, ensemble="all"))
    assert "All members judge: untick one to hold it out." in said(page)
    assert page.locator(":is(.rmx-gold, .rmx-held, .rmx-band, .rmx-peak)").count() == 0
    assert page.locator("circle.rmx-at").count() == 1  # the proxy's
    assert page.locator(".rmx details:has(blockquote)").is_hidden()
    first = said(page)
    page.get_by_label("n, answers to choose from").press("End")
    assert said(page) != first and "240 answers" in said(page)
    page.get_by_label("n, answers to choose from").press("Home")
    settle(page)
    box = page.locator(".rmx-svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 100, steps=3)
    page.mouse.up()
    assert "240 answers" in said(page)
    page.get_by_role("button", name="tilt").click()
    assert "KL" in said(page) and "NaN" not in page.locator("main").inner_html()
    page.get_by_label("reward model 2").uncheck()
    assert "reward model 2, held out, says" in said(page) and page.locator(".rmx-held").count() >= 1


@browsing
def test_one_request_of_one_and_of_two_members(show):
    pools = [text_pool(1, 60, K, gold=gold) for K, gold in ((1, False), (2, False), (2, True))]
    page = show(*map(Explorer, pools), fragment="#x=1~all~0.1~gold~1~8~0")  # an address from another pool
    assert "No other member is there to be held out." in said(page, 0)
    assert "All members judge" in said(page, 1) and "by mean, choose from 8 answers" in said(page, 1)
    assert "gold is" in said(page, 2)
    assert page.get_by_role("button", name="next request").count() == 0
    notes = page.locator(".rmx .rmx-hint").all_inner_texts()
    assert sum("One request: no band." in note for note in notes) == 3
    assert not page.evaluate(MISPLACED) and "NaN" not in page.locator("main").inner_html()


@browsing
def test_a_unit_of_any_length_and_only_empty_answers(show):
    pool = CompactPool.from_text(["?"], [["", ""]], np.ones((1, 2, 2)), np.zeros((1, 2)), gold_unit="w" * 90)
    page = show(Explorer(pool), width=320)
    settle(page)
    assert not page.evaluate(MISPLACED)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert f"Gold for it ({'w' * 90})" in page.locator(".rmx-panels").text_content()
    assert page.locator(".rmx blockquote").first.text_content() == "(says nothing)"


@browsing
@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("gold", [True, False])
def test_the_smallest_pools_are_shown(show, N, gold):
    pool = text_pool(1, N, 2, gold=gold)
    states = [(e, x) for e in ("single", "all") for x in ("best_of_n", "tilt")]
    page = show(*(Explorer(pool, ensemble=e, optimiser=x) for e, x in states), width=360)
    settle(page)
    assert not page.evaluate(MISPLACED)
    assert not re.search("NaN|undefined", page.locator("main").inner_html())


@browsing
@pytest.mark.parametrize("dark,widths", [(False, (1000, 360, 320)), (True, (320, 360, 1000))])
def test_accessible_and_never_wider_than_the_page(show, dark, widths):
    """axe looks at the last width: light on a phone, dark on a wide screen."""
    gold, none, hostile = text_pool(), text_pool(gold=False), pool_of(TEXTS[::-1])
    widgets = [
        Explorer(gold, ensemble="all", aggregator="uwo"),
        Explorer(gold, aggregator="gold", optimiser="tilt"),
        Explorer(none, ensemble="all", members=[1, 2], aggregator="min"),
        Explorer(none, ensemble="all", optimiser="tilt", beta=1.0),
        Explorer(hostile, n=2),
    ]
    page = show(*widgets, dark=dark)
    fits(page, widths)
    assert page.locator(".rmx-text[tabindex]").count() >= 2  # long texts, open, and so looked at
    assert not violations(page)


def test_what_a_pool_does_not_have_is_named():
    none = text_pool(1, 30, 2, gold=False)
    with pytest.raises(ValueError, match="aggregator = 'gold': give another one: this pool has no gold"):
        Explorer(none, aggregator="gold")
    large = text_pool(4, 400, 4, keep=400)
    wide = CompactPool.from_text(
        [f"{k}" * 250_000 for k in range(4)], [["a", "b"]] * 4, np.zeros((4, 2, 1)), keep=2
    )
    assert Explorer(large).n == 64
    with pytest.raises(ValueError, match=r"bytes of pool = \d+: give at most 800000: fewer prompts"):
        Explorer(wide)
