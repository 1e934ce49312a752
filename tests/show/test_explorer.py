"""The explorer in a headless browser, on a page with no kernel and no network."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmlab.optimise.compact import CompactPool, curve_ns

pytest.importorskip("anywidget", reason="the explorer needs anywidget")
pytest.importorskip("playwright.sync_api", reason="the browser checks need playwright")
from rmlab.show.explorer import Explorer, script
from rmlab.show.style import LOOKS
from tests.show.fake_pool import fake_pool, full_pool
from tests.show.page import MISPLACED, browsing, fits, plain, said, settle, violations, worker_of

SHOW = Path(__file__).parents[2] / "rmlab" / "show"
RULES = [
    ("mean", 1.0),
    ("median", 1.0),
    ("min", 1.0),
    ("max", 1.0),
    ("mean_std", 1.5),
    ("mean_std", 0.0),
    ("uwo", 0.7),
    ("quantile", 0.3),
    ("entropic", 0.4),
    ("gold", 1.0),
]


@pytest.fixture(scope="module")
def pool() -> CompactPool:
    return fake_pool()


@pytest.fixture(scope="module")
def worker(pool, tab):
    with worker_of(tab, pool) as started:
        yield started


@browsing
def test_numbers_equal_python(pool, worker):
    ns = curve_ns(pool.N)
    np.testing.assert_allclose(worker.evaluate("Array.from(d.gold)"), pool.gold.ravel(), atol=1e-9)
    for members in ([0], [0, 3, 6], [0, 1], list(range(9))):
        for aggregator, strength in RULES:
            got = worker.evaluate(
                "([c, rule, strength, ns]) => { const { worth: gold, proxy, rows } = m.curve(d, c, rule, strength, ns);"
                " const won = [1, 7, 512].map((n) => rows.map((l) => m.typicalWinner(l, n)));"
                " return { gold, proxy, won }; }",
                [members, aggregator, strength, ns],
            )
            want = pool.curve(members, aggregator, strength, ns)
            for name in ("gold", "proxy"):
                np.testing.assert_allclose(
                    np.transpose(got[name]), want[name], atol=1e-6, err_msg=f"{name} {aggregator} {members}"
                )
            won = [pool.typical_winner(members, aggregator, strength, n) for n in (1, 7, 512)]
            np.testing.assert_array_equal(got["won"], won, err_msg=f"{aggregator} {members}")


@browsing
@pytest.mark.parametrize("members", [[0], [0, 3, 6], list(range(9))])
def test_tilt_equals_python(pool, worker, members):
    betas = [64.0, 1.0, 0.25, 0.11, 0.01]
    for aggregator, strength in RULES:
        got = worker.evaluate(
            "([c, aggregator, strength, betas]) => { const rows = m.ladders(d, c, aggregator, strength);"
            " const typical = betas.map((b) => rows.map((l, p) => m.typicalTilted(d, p, l, b)));"
            " const { worth: gold, ...rest } = m.tilts(d, rows, betas);"
            " return { gold, ...rest, typical }; }",
            [members, aggregator, strength, betas],
        )
        want = pool.tilted(members, aggregator, strength, betas)
        for name in ("gold", "proxy", "kl", "ess"):
            np.testing.assert_allclose(
                np.transpose(got[name]), want[name], rtol=1e-9, atol=1e-9, err_msg=f"{name} {aggregator}"
            )
        typical = [pool.typical_tilted(members, aggregator, strength, b) for b in betas]
        np.testing.assert_array_equal(got["typical"], typical, err_msg=aggregator)


@browsing
def test_prices_go_from_no_kl_to_where_best_of_n_ends(pool, worker):
    for aggregator, strength in RULES:
        betas = worker.evaluate(
            "([h, l]) => m.prices(d, m.ladders(d, [0, 3, 6], h, l))", [aggregator, strength]
        )
        kl = pool.tilted([0, 3, 6], aggregator, strength, betas)["kl"].mean(0)
        most = pool.tilted([0, 3, 6], aggregator, strength, [1e-6])["kl"].mean()
        assert (np.diff(betas) < 0).all() and kl[0] < 0.01
        assert 0.85 * min(most, np.log(pool.N) - 1) < kl[-1] <= np.log(pool.N) - 1 + 1 / pool.N, aggregator
    flat = "m.prices(d, d.orders.map(() => ({ s: new Float64Array(d.M) })))"  # a proxy that does not differ
    assert len(worker.evaluate(flat)) == 1
    assert worker.evaluate("m.along([-1, 0, 0.5, 3, 9], [0, 1, 5], [2, 4, 8])") == [2, 2, 3, 6, 8]


@browsing
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("members", [[0, 1], [0, 3, 6], [12, 3, 11, 4], list(range(12, 20))])
def test_correlation_equals_python(pool, worker, members, tail):
    want = pool.correlation(members, tail)
    got, (rho, worth) = worker.evaluate(
        "([c, tail]) => { const r = m.correlation(d, c, tail); return [r, m.effective(r)]; }", [members, tail]
    )
    np.testing.assert_allclose(got, want, atol=1e-9)
    K = len(members)
    assert rho == pytest.approx((want.sum() - K) / (K * (K - 1)))
    assert worth == pytest.approx(min(K, K / (1 + (K - 1) * rho)))


@browsing
def test_fewer_than_no_relation_is_no_more_than_all(worker):
    assert worker.evaluate("m.effective([[1, -0.9], [-0.9, 1]])") == pytest.approx([-0.9, 2])


def test_the_files_are_one_module():
    whole = script()
    assert "import {" not in whole and 'from "./' not in whole
    assert whole.count("export default") == 1
    assert max(map(len, whole.splitlines())) <= 120
    names = re.findall(r"^(?:export )?(?:async )?(?:const|function) (\w+)", whole, re.M)
    assert len(names) == len(set(names))
    for file in (*SHOW.glob("explorer*.mjs"), SHOW / "widget.mjs"):
        for used in re.findall(r"import \{([^}]*)\}", file.read_text(encoding="utf-8")):
            assert set(re.findall(r"\w+", used)) <= set(
                re.findall(r"^export .*?(?:const|function) (\w+)", whole, re.M)
            )


TRAITS = {
    "ensemble": "pretrain",
    "members": [0, 3, 6],
    "aggregator": "min",
    "strength": 1.0,
    "n": 64,
    "prompt": 2,
    "optimiser": "best_of_n",
    "beta": 0.25,
}


@browsing
def test_the_state_needs_no_page(worker):
    assert worker.evaluate("[typeof document, typeof window]") == ["undefined", "undefined"]
    assert worker.evaluate(
        "Object.keys(m.sound(d, m.choicesOf(d), t => t) ?? {})".replace("t => t", json.dumps(TRAITS))
    )


@browsing
@pytest.mark.parametrize(
    "traits,sound",
    [
        ({}, {"at": 64, "members": [0, 3, 6], "prompt": 2, "tilt": False}),
        ({"ensemble": "nobody"}, {"members": [0]}),  # one model
        ({"members": []}, {"members": [0, 3, 6]}),
        ({"members": [3, 99]}, {"members": [0, 3, 6]}),
        ({"members": [6, 0]}, {"members": [6, 0]}),
        ({"ensemble": "single", "members": [4, 5]}, {"members": [0]}),
        ({"aggregator": "vote"}, {"aggregator": "mean"}),
        ({"aggregator": "quantile", "strength": 7}, {"strength": 1}),
        ({"aggregator": "entropic", "strength": 0}, {"strength": 1e-3}),
        ({"strength": -1}, {"strength": 0}),
        ({"n": 0}, {"n": 1, "at": 1}),
        ({"n": 1e9}, {"n": 512}),
        ({"prompt": 99}, {"prompt": 7}),
        ({"optimiser": "tilt"}, {"tilt": True, "at": 0.25, "n": 64}),
    ],
)
def test_traits_are_made_sound(worker, traits, sound):
    state = worker.evaluate(
        "t => { const s = m.sound(d, m.choicesOf(d), t); return { ...s, ensemble: s.ensemble.name }; }",
        {**TRAITS, **traits},
    )
    assert sound.items() <= state.items()


@browsing
def test_an_address_is_read_as_it_was_written(worker):
    through = """([t, place]) => { const s = m.sound(d, m.choicesOf(d), t), text = m.toAddress(s, place);
        return [text, m.fromAddress(text, place), m.fromAddress(text, place + 1)]; }"""
    for traits in (
        TRAITS,
        {**TRAITS, "optimiser": "tilt"},
        {**TRAITS, "ensemble": "heads_8", "members": [14, 12]},
    ):
        text, again, other = worker.evaluate(through, [traits, 1])
        unsaid = {"n", "beta"} if traits["optimiser"] == "best_of_n" else {"n"}
        assert {k: v for k, v in again.items() if k not in unsaid} == {
            k: v for k, v in traits.items() if k not in unsaid
        }
        assert text.startswith("#x=1~") and other is None
    for stray in (
        "",
        "#a",
        "#x=",
        "#x=1~pretrain~0~min~1~64",
        "#x=1~pretrain~0~vote~1~64~0",
        "#x=1~pretrain~0~min~x~64~0",
    ):
        assert worker.evaluate("text => m.fromAddress(text, 1)", stray) is None
    assert worker.evaluate("m.fromAddress('#x=0~nobody~9.99~min~1~%~0', 0)") is None


@browsing
@pytest.mark.parametrize("optimiser", ["best_of_n", "tilt"])
def test_curves_are_the_means_that_python_computes(pool, worker, optimiser):
    now, point, rivals, late = worker.evaluate(
        """t => { const choices = m.choicesOf(d), store = m.storeOf(d, choices), s = m.sound(d, choices, t);
            const now = m.curvesOf(store, s), late = m.rivalsOf(store, s, -1);
            if (m.curvesOf(store, { ...s, prompt: 0, n: 1 }) !== now) throw new Error("computed again");
            const { rows, ...rest } = { ...now, grid: now.grid.map((x) => (isFinite(x) ? x : null)) };
            return [rest, m.pointOf(store, now, s), m.rivalsOf(store, s), late]; }""",
        {**TRAITS, "optimiser": optimiser},
    )
    tilt = optimiser == "tilt"
    grid = [np.inf if x is None else x for x in now["grid"]]
    curves = pool.tilted if tilt else pool.curve
    python = curves([0, 3, 6], "min", 1.0, grid)
    np.testing.assert_allclose(now["worth"], python["gold"].mean(0), atol=1e-9)
    np.testing.assert_allclose(now["proxy"], python["proxy"].mean(0), atol=1e-9)
    gain = python["gold"] - python["gold"][:, :1]
    np.testing.assert_allclose(now["se"], gain.std(0, ddof=1) / np.sqrt(len(gain)), atol=1e-9)
    few = 1 / (1 / python["ess"]).mean(0) < 10 if tilt else np.zeros(len(grid), bool)
    assert now["last"] == np.flatnonzero(~few).max()
    assert now["peak"] == python["gold"].mean(0)[: now["last"] + 1].argmax()
    at = curves([0, 3, 6], "min", 1.0, [0.25 if tilt else 64])
    assert point["worth"] == pytest.approx(at["gold"].mean()) and point["proxy"] == pytest.approx(
        at["proxy"].mean()
    )
    assert late["waiting"] and late["alone"] is None and len(rivals["oracle"]) == len(rivals["at"])
    if not tilt:
        alone = np.mean([pool.curve([c], "mean", 1.0, grid)["gold"].mean(0) for c in (0, 3, 6)], 0)
        np.testing.assert_allclose(rivals["alone"], alone, atol=1e-9)
        np.testing.assert_allclose(
            rivals["oracle"], pool.curve([], "gold", 1.0, grid)["gold"].mean(0), atol=1e-9
        )


@browsing
def test_words_of_the_state(worker):
    say = "- price : fair ! i know it . trust me , friend"
    assert worker.evaluate("m.readable", say) == "– price: fair! I know it. Trust me, friend"
    assert worker.evaluate("[m.num(-0.001), m.num(-1.234, 1), m.signed(0.5), m.signed(-0.5)]") == [
        "0.00",
        "−1.2",
        "+0.50",
        "−0.50",
    ]
    called = worker.evaluate("[m.called(false, 1024), m.called(true, 0.2468), m.called(true, Infinity)]")
    assert list(map(plain, called)) == ["n = 1,024", "β = 0.25", "β = ∞"]


@browsing
def test_sentence_and_readout_say_what_python_computes(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="min", n=64))
    gold = pool.curve([0, 3, 6], "min", 1.0, [1, 64])["gold"].mean(0)
    assert f"gold {gold[1]:.2f} (+{gold[1] - gold[0]:.2f} over a uniform pick)" in plain(
        page.locator(".rmx-readout").inner_text()
    )
    assert f"gold is {gold[1]:.2f}" in said(page)
    whole = pool.curve([0, 3, 6], "min", 1.0, curve_ns(pool.N))["gold"].mean(0)
    peak = f"best was n = {curve_ns(pool.N)[whole.argmax()]}: {whole.max():.2f}"
    assert peak in plain(page.locator(".rmx-readout").inner_text())


@browsing
def test_every_control_moves_the_picture(pool, show):
    page = show(Explorer(pool))
    seen = [said(page)]
    page.get_by_label("n, answers to choose from").press("End")
    seen.append(said(page))
    assert "512 answers" in seen[-1]
    page.get_by_label("judges", exact=True).select_option("pretrain")
    seen.append(said(page))
    page.get_by_label("aggregator").select_option("mean_std")
    seen.append(said(page))
    page.get_by_label("λ").press("End")
    seen.append(said(page))
    page.get_by_label("p1 f0").uncheck()
    seen.append(said(page))
    page.get_by_role("button", name="ask gold").click()
    seen.append(said(page))
    assert len(set(seen)) == len(seen)
    assert page.get_by_label("λ").is_disabled()
    words = page.locator(".rmx-request").inner_text()
    page.get_by_role("button", name="next request").press("Enter")
    settle(page)
    assert page.locator(".rmx-request").inner_text() != words
    assert "request 2 of 8" in page.locator(".rmx-bar").inner_text()


@browsing
def test_arrow_keys_reach_every_n(pool, show):
    page = show(Explorer(pool, n=1))
    n = page.get_by_label("n, answers to choose from")
    seen = []
    for _ in range(6):
        n.press("ArrowRight")
        settle(page)
        seen.append(int(page.locator(".rmx-n output").inner_text()))
    assert seen == [2, 3, 4, 5, 6, 7]


@browsing
def test_jupyterlab_leaves_the_keys_to_the_controls(pool, show):
    """Its shortcuts on a focused element (arrows, Enter) stop only at this attribute of the element."""
    page = show(Explorer(pool, ensemble="finetune"))
    page.get_by_text("Do these members differ?").click()
    bare = ".rmx :is(button, input, select, summary):not([data-lm-suppress-shortcuts=true])"
    assert page.locator(bare).count() == 0


@browsing
def test_handle_is_dragged_on_the_plot(pool, show):
    page = show(Explorer(pool, n=1))
    box = page.locator(".rmx-svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 100, steps=3)
    page.mouse.up()
    assert "512 answers" in said(page)


@browsing
def test_the_tilt_says_what_python_computes(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="min", optimiser="tilt", beta=0.8))
    at = {k: v.mean(0) for k, v in pool.tilted([0, 3, 6], "min", 1.0, [np.inf, 0.8]).items()}
    numbers = f"the tilt at beta = 0.8: KL {at['kl'][1]:.2f} nats, gold is {at['gold'][1]:.2f}, "
    sentence = said(page)
    assert numbers in sentence and "effective" not in sentence
    assert f"the proxy is {at['proxy'][1]:.2f}." in sentence.replace("−", "-")
    readout = plain(page.locator(".rmx-readout").inner_text())
    assert f"β = 0.8 · KL {at['kl'][1]:.2f} · gold {at['gold'][1]:.2f}" in readout
    i = pool.typical_tilted([0, 3, 6], "min", 1.0, 0.8)[0]
    assert "median answer by the proxy at β = 0.8" in plain(page.locator(".rmx-panels").inner_text())
    total = page.locator(".rmx-total .rmx-value").inner_text().replace("−", "-")
    assert float(total) == pytest.approx(pool.gold[0, i], abs=0.006)


@browsing
def test_the_optimiser_is_switched_with_the_keyboard(pool, show):
    page = show(Explorer(pool))
    first = said(page)
    assert page.locator(".rmx-beta").is_hidden()
    group = page.get_by_role("group", name="optimiser")
    group.get_by_role("button", name="tilt").press("Enter")
    assert "tilt at beta = 0.25" in said(page) and page.locator(".rmx-n").is_hidden()
    assert group.get_by_role("button", name="tilt").get_attribute("aria-pressed") == "true"
    beta = page.get_by_label("β, the proxy a nat must earn")
    beta.press("ArrowRight")
    assert "tilt at beta = 0.23" in said(page)  # to the right is more KL, as with n
    assert beta.get_attribute("aria-valuetext").startswith("0.23, KL ")
    group.get_by_role("button", name="best of n").press("Enter")
    assert said(page) == first


@browsing
def test_few_effective_answers_are_said_and_dotted(pool, show):
    page = show(Explorer(pool, optimiser="tilt"))
    assert page.locator(".rmx-gold.rmx-thin").count() == 1
    beta = page.get_by_label("β, the proxy a nat must earn")
    beta.press("End")
    settle(page)
    last = float(page.locator(".rmx-beta output").inner_text())
    few = 1 / (1 / pool.tilted([0], "mean", 1.0, [last])["ess"]).mean()
    assert f"{few:.1f} effective answers: the pool cannot represent this policy." in said(page)
    beta.press("Home")
    assert "cannot represent" not in said(page)
    box = page.locator(".rmx-svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 100, steps=3)
    page.mouse.up()
    assert "cannot represent" in said(page)  # dragged to the same end
    assert page.locator(".rmx-beta output").inner_text() == f"{last:g}"
    page.get_by_role("button", name="ask gold").click()
    beta.press("Home")
    assert "The best before the dots, " in said(page)  # gold still rises there: no peak


@browsing
def test_last_member_stays(pool, show):
    page = show(Explorer(pool, ensemble="finetune", members=[1]))
    page.get_by_label("p0 f1").click()
    settle(page)
    assert page.get_by_label("p0 f1").is_checked()


@browsing
def test_address_keeps_the_state_and_only_after_a_touch(pool, show):
    widget = Explorer(pool)
    page = show(widget)
    untouched = said(page)
    page.wait_for_timeout(350)  # the address follows after 300 ms
    assert "#" not in page.url
    saved = {}
    for button, end in (("several, the worst", "~512~0"), ("tilt", "~0.25")):
        page.get_by_role("button", name=button).click()
        page.wait_for_function("x => location.hash.startsWith('#x=0~') && location.hash.endsWith(x)", arg=end)
        saved[page.url[page.url.index("#") :]] = said(page)
    assert len({untouched, *saved.values()}) == 3
    first, second = saved
    page = show(widget, fragment=first)
    assert said(page) == saved[first]
    for fragment in (second, "#x=0~nobody~9.99~min~NaN~~", "#100%", "#x=%E0%A4%A", "#a-section"):
        page.evaluate("x => { location.hash = x; }", fragment)
        assert said(page) == saved[second]  # kept by those that are strays


@browsing
def test_two_on_one_page_do_not_clash(pool, show):
    page = show(
        Explorer(pool),
        Explorer(pool, ensemble="heads", aggregator="min"),
        fragment="#x=1~finetune~0.2~max~1~32~3",
    )
    assert "One judge" in said(page, 0) and "from 32 answers" in said(page, 1)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    before = said(page, 1)
    page.get_by_role("button", name="ask gold").first.click()
    assert "Gold itself" in said(page, 0) and said(page, 1) == before


@browsing
def test_the_menu_has_a_series_once_and_a_slider_goes_through_it(pool, show):
    page = show(Explorer(pool, ensemble="heads"))
    menu = page.get_by_label("judges", exact=True)
    assert menu.locator("option").all_inner_texts() == [
        "one reward model",
        "3 finetuning seeds",
        "3 pretraining seeds",
        "3 heads on one encoder",
        "the average of 3 models' weights",
        "2 pretraining seeds, 2 heads",
    ]
    heads = page.get_by_label("heads", exact=True)
    heads.focus()
    seen = [said(page)]
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)  # the slider keeps the focus while the picture is drawn anew
        seen.append(said(page))
    assert len(set(seen)) == 5  # 1, 2, 3, 4 and 8 heads; 3 twice, and 8 is the end
    want = pool.curve(list(range(12, 20)), "mean", 1.0, [64])["gold"].mean()
    assert "The judges (8 heads on one encoder)" in seen[-1] and f"gold is {want:.2f}" in seen[-1]
    assert heads.get_attribute("aria-valuetext") == "8 heads on one encoder"
    assert page.locator(".rmx-members input").count() == 8
    assert (
        menu.input_value() == "heads"
        and menu.locator("option:checked").inner_text() == "8 heads on one encoder"
    )
    menu.select_option("mixed")
    menu.select_option("heads")
    assert "3 heads on one encoder" in said(page)


@browsing
def test_the_members_slider_takes_the_first(pool, show):
    page = show(Explorer(pool, ensemble="mixed", aggregator="min"))
    slider, out = page.get_by_label("members", exact=True), page.locator(".rmx-count output")
    slider.press("Home")
    assert "One judge (p0 f0)" in said(page) and out.inner_text() == "1 of 4"
    slider.press("ArrowRight")
    assert "2 of 4 judges (2 pretraining seeds, 2 heads)" in said(page)
    ticked = page.locator(".rmx-members :checked")
    assert [box.get_attribute("value") for box in ticked.all()] == ["0", "3"]
    page.get_by_label("head 1").check()
    settle(page)
    assert out.inner_text() == "3 of 4" and slider.input_value() == "3"
    slider.press("ArrowLeft")
    settle(page)
    assert [box.get_attribute("value") for box in ticked.all()] == ["0", "3"]


@browsing
def test_a_family_of_one_and_one_of_many_columns(pool, show):
    page = show(Explorer(pool, ensemble="average"))
    for gone in (".rmx-count", ".rmx-members", ".rmx-alike"):
        assert page.locator(gone).is_hidden()
    page.get_by_label("judges", exact=True).select_option("single")
    settle(page)
    assert page.locator(".rmx-count").is_hidden()
    one = page.get_by_label("which one")
    groups = one.locator("optgroup").evaluate_all("all => all.map((g) => [g.label, g.children.length])")
    assert groups == [
        ["3 finetuning seeds", 3],
        ["3 pretraining seeds", 2],
        ["heads", 18],
        ["the average of 3 models' weights", 1],
    ]
    assert one.locator("option").count() == len(pool.columns)  # each once
    one.select_option(label="4h 2")
    assert "One judge (4h 2)" in said(page)


@browsing
def test_a_pool_without_ensembles(pool, show):
    page = show(Explorer(replace(pool, ensembles=[])))
    assert page.locator(".rmx-ensemble").is_hidden()  # nothing to pick from
    assert page.locator(".rmx-presets button").all_inner_texts() == ["one judge", "ask gold"]
    page.get_by_label("which one").select_option("1")
    assert "One judge (p0 f1)" in said(page)


@browsing
@pytest.mark.parametrize("width", [390, 1000])
def test_the_plot_stays_while_the_heads_are_dragged(pool, show, width):
    page = show(Explorer(pool, ensemble="heads"), width=width)
    heads, tops = page.get_by_label("heads", exact=True), set()
    heads.press("Home")
    for _ in range(5):
        settle(page)
        tops.add(page.locator(".rmx-svg").bounding_box()["y"])
        heads.press("ArrowRight")
    assert len(tops) == 1


@browsing
def test_the_pool_may_say_which_one_is_single(pool, show):
    ensembles = [{"name": "single", "label": "the best of five", "members": [4]}, *pool.ensembles]
    page = show(Explorer(replace(pool, ensembles=ensembles)))
    assert "One judge (p1 f1)" in said(page)
    assert page.get_by_label("judges", exact=True).locator("option").first.inner_text() == "the best of five"
    page.get_by_role("button", name="several, the worst").click()
    page.get_by_role("button", name="one judge").click()
    assert "One judge (p1 f1)" in said(page)


@browsing
def test_do_these_members_differ(pool, show):
    page = show(Explorer(pool, ensemble="heads_8"))
    assert page.locator(".rmx-matrix").count() == 0
    page.get_by_text("Do these members differ?").press("Enter")
    page.wait_for_selector(".rmx-matrix")
    texts = []
    for tail, button in ((False, "all answers"), (True, "the best tenth")):
        page.get_by_role("button", name=button).press("Enter")
        settle(page)
        assert page.get_by_role("button", name=button).get_attribute("aria-pressed") == "true"
        matrix = pool.correlation(list(range(12, 20)), tail)
        rho = (matrix.sum() - 8) / 56
        texts.append(page.locator(".rmx-alike summary b").inner_text())
        where = " in the best tenth" if tail else ""
        assert texts[-1] == f"8 heads, {8 / (1 + 7 * rho):.1f} effective members{where}"
        page.wait_for_function(
            "x => document.querySelector('.rmx-status').textContent.endsWith(x)", arg=texts[-1] + "."
        )
        shown = page.get_by_role("table", name=f"Correlation of two members' scores, {button}")
        cells = [float(x) for x in shown.locator("tbody td").all_inner_texts()]
        np.testing.assert_allclose(cells, matrix.ravel(), atol=0.00501)
        assert shown.get_by_role("columnheader", name="2 8h 1").count() == 1
        assert shown.get_by_role("rowheader", name="2 8h 1").count() == 1
    assert texts[0] != texts[1]
    assert page.locator(".rmx-status").text_content() == texts[1] + "."  # only what is new
    for preset in ("one judge", "ask gold"):
        page.get_by_role("button", name=preset).click()
        settle(page)
        assert page.locator(".rmx-alike").is_hidden()


@browsing
def test_the_live_region_waits_until_the_hand_rests(pool, show):
    page = show(Explorer(pool, n=1))
    words = [f"document.querySelector('.rmx-{name}').textContent" for name in ("status", "say")]
    page.wait_for_function(f"{words[0]}.startsWith({words[1]})")
    page.evaluate(
        """() => { window.heard = 0;
            const status = document.querySelector('.rmx-status');
            new MutationObserver(() => heard++).observe(status, { childList: true }); }"""
    )
    box = page.locator(".rmx-svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.mouse.down()
    seen = set()
    for step in range(8):
        page.mouse.move(box["x"] + 60 + 50 * step, box["y"] + 100)
        settle(page)
        seen.add(plain(page.locator(".rmx-readout").inner_text()))
    assert len(seen) == 8
    page.mouse.up()
    page.wait_for_function(f"{words[0]}.startsWith({words[1]})")
    assert 1 <= page.evaluate("heard") <= 2  # a slow machine may rest once on the way


@browsing
def test_a_frame_draws_once_however_many_changes(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="mean_std"))
    settle(page)
    frames = page.evaluate(
        """async () => {
            let count = 0;
            const plot = document.querySelector('.rmx-plot');
            new MutationObserver(() => count++).observe(plot, { childList: true });
            const box = document.querySelector('.rmx-strength input');
            for (let k = 0; k < 20; k++) { box.value = k / 10; box.dispatchEvent(new Event('input')); }
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            return count; }"""
    )
    assert frames == 1
    assert "mean − 1.90 std" in said(page)


@browsing
def test_bill_adds_up(pool, show):
    page = show(Explorer(pool, n=512))
    values = [float(v.replace("−", "-")) for v in page.locator(".rmx-bill .rmx-value").all_inner_texts()]
    i = pool.typical_winner([0], "mean", 1.0, 512)[0]
    assert values[-1] == pytest.approx(pool.gold[0, i], abs=0.006)
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.005 * len(values))


FONTS = {
    "narrow": "font-family: 'DejaVu Sans Condensed', sans-serif; letter-spacing: -.02em",
    "wide": "font-family: 'DejaVu Sans Mono', monospace; letter-spacing: .12em",
    "large": "font-family: 'DejaVu Sans', sans-serif; font-size: 19px !important",
}


@browsing
def test_no_font_pushes_a_label_out_or_over_another(pool, show):
    states = [
        {"aggregator": "gold"},
        {"optimiser": "tilt"},
        {"ensemble": "pretrain", "aggregator": "min"},
        {"ensemble": "pretrain", "aggregator": "uwo", "optimiser": "tilt"},
        {"ensemble": "heads_8", "aggregator": "max"},
    ]
    page, labels = show(*(Explorer(pool, **state) for state in states)), set()
    style = page.add_style_tag(content="/* a font */")
    for font, rule in FONTS.items():
        style.evaluate("(e, rule) => { e.textContent = rule; }", f".rmx-plot text {{ {rule} }}")
        for width in (320, 360, 1000):
            page.set_viewport_size({"width": width, "height": 900})
            settle(page)
            settle(page)  # the first two measure the new font and width
            assert not page.evaluate(MISPLACED), (font, width)
            labels |= set(map(plain, page.locator(".rmx-svg text").all_text_contents()))
    words = " ".join(labels)
    assert {
        "gold",
        "proxy",
        "gold reward",
        "n = 1",
        "β = ∞",
        "uniform pick",
        "uniform",
    } <= labels  # wrapped or not
    assert all(x in words for x in ("alone", "oracle", "↑", "peak", "KL", "judges say"))


@browsing
@pytest.mark.parametrize("N", [1, 2, 3])
def test_the_smallest_pools_are_shown(show, N):
    full = full_pool(P=1, N=8)
    full |= {k: full[k][:, :N] for k in ("gold_counts", "scores", "tokens", "lengths")}
    page = show(
        *(Explorer(CompactPool.from_pool(**full), optimiser=x) for x in ("best_of_n", "tilt")), width=360
    )
    settle(page)
    assert not page.evaluate(MISPLACED)
    assert "NaN" not in page.locator("main").inner_html()
    assert f"rank of {N}" in page.locator(".rmx-panels").first.inner_text()


@browsing
def test_another_font_moves_the_labels(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="min"), width=360)
    edge = "document.querySelector('.rmx-start').x1.baseVal.value"
    before = page.evaluate(edge)
    page.add_style_tag(content=f".rmx-plot text {{ {FONTS['wide']} }}")
    page.wait_for_function(f"{edge} >= {before} + 3", timeout=5000)
    assert not page.evaluate(MISPLACED)


@browsing
def test_a_label_is_measured_once(pool, show):
    page = show(Explorer(pool, ensemble="pretrain", aggregator="mean_std"))
    settle(page)
    page.evaluate(
        """() => { const own = SVGTextContentElement.prototype, length = own.getComputedTextLength;
            window.measured = [];
            own.getComputedTextLength = function () {
                measured.push(this.textContent);
                return length.call(this); }; }"""
    )
    box = page.get_by_label("n, answers to choose from")
    for key in ("End", "Home", "ArrowRight"):
        box.press(key)
        settle(page)
    assert page.evaluate("measured") == []  # no word of the picture depends on n
    for key in ("End", "Home", "End", "Home"):
        page.get_by_label("λ").press(key)
        settle(page)
    measured = page.evaluate("measured")
    assert measured and len(measured) == len(set(measured))


@browsing
@pytest.mark.parametrize("dark,widths", [(False, (1280, 375, 360)), (True, (360, 1280))])
def test_accessible_and_never_wider_than_the_page(pool, show, dark, widths):
    """axe looks at the last width: light on a phone, dark on a wide screen."""
    states = [
        ("single", "best_of_n"),
        ("pretrain", "best_of_n"),
        ("heads_8", "best_of_n"),
        ("pretrain", "tilt"),
    ]
    widgets = [Explorer(pool, ensemble=c, aggregator="uwo", optimiser=optimiser) for c, optimiser in states]
    page = show(*widgets, dark=dark)
    fits(page, widths)
    assert page.locator(".rmx-matrix").count() == 3  # open, and so looked at
    assert not violations(page)


@browsing
def test_text_is_text_and_words_of_any_length_wrap(pool, show):
    """Whoever embeds the state: nothing in it ends or begins a script, and no word is wider than a phone."""
    hostile = ["</script>", "</SCRIPT >", "<!--<script>", "<b>bold</b>", "&lt;", "w" * 400]
    columns = [f"p0 {hostile[c % 6]}{c}" for c in range(len(pool.columns))]
    bill = [{**term, "label": x} for term, x in zip(pool.bill, hostile + ["a", "b"], strict=True)]
    ensembles = [{**e, "label": hostile[k % 6]} for k, e in enumerate(pool.ensembles)]
    vocab = [hostile[k % 6] + word for k, word in enumerate(pool.vocab)]
    texts = [" ".join(hostile)] * len(pool.prompts)
    other = replace(pool, prompts=texts, vocab=vocab, columns=columns, bill=bill, ensembles=ensembles)
    page = show(Explorer(other, ensemble="pretrain"), Explorer(other), width=360)
    page.evaluate("document.querySelectorAll('.rmx details').forEach((fold) => { fold.open = true; })")
    settle(page)
    assert page.locator(".rmx b:has-text('bold'), .rmx script").count() == 0
    request = page.locator(".rmx-request").first.text_content()
    assert all(x.lower() in request.lower() for x in hostile)
    i = other.typical_winner([0, 3, 6], "mean", 1.0, 64)[0]
    assert (
        page.locator(".rmx blockquote").first.text_content().split()[-1].lower()
        == other.text(0, i).split()[-1].lower()
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.evaluate(MISPLACED)
    assert page.locator(".rmx-matrix th[scope=row]").first.bounding_box()["width"] < 200


def test_meta_crosses_to_the_browser_and_back(pool):
    other = replace(pool, prompts=["</SCRIPT><!--<script>"] * len(pool.prompts))
    wid = Explorer(other)
    state = wid.get_state("meta")
    assert "<" not in state["meta"] and json.loads(state["meta"]) == wid.meta
    wid.set_state(state)
    assert wid.meta["prompts"] == other.prompts


def test_colours_show_on_light_and_dark():
    css = dict(re.findall(r"--(gold|single): (#\w{6})", (SHOW / "widget.css").read_text()))
    assert css == {name: LOOKS[name].color for name in ("gold", "single")}
    colours = {look.color for look in LOOKS.values()}

    def light(colour):
        c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for colour in colours:
        for ground in ("#ffffff", "#121212"):
            low, high = sorted((light(colour), light(ground)))
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, ground)


def test_bad_state_is_named(pool):
    cases = [
        ({"ensemble": "lora"}, "ensemble = 'lora'"),
        ({"members": [0, 1]}, "members = "),
        ({"members": []}, "members = "),
        ({"ensemble": "finetune", "members": [7]}, "members = "),
        ({"aggregator": "vote"}, "aggregator = 'vote'"),
        ({"aggregator": "entropic", "strength": 0.0}, " = 0.0"),
        ({"n": 0}, "n = 0"),
        ({"n": 513}, "n = 513"),
        ({"prompt": 8}, "prompt = 8"),
        ({"optimiser": "ppo"}, "optimiser = 'ppo'"),
        ({"beta": 0.0}, "beta = 0.0"),
        ({"beta": float("inf")}, "beta = inf"),
    ]
    for state, words in cases:
        with pytest.raises(ValueError, match=re.escape(words)):
            Explorer(pool, **state)


def test_state_is_traits(pool):
    wid = Explorer(pool, ensemble="heads")
    assert (
        Explorer(pool, aggregator="quantile").strength == 0.25
        and Explorer(pool, aggregator="uwo").strength == 1.0
    )
    assert wid.members == [9, 10, 11] and Explorer(pool).members == [0] and Explorer(pool).n == 64
    assert set(wid.get_state()) >= {
        "ensemble",
        "members",
        "aggregator",
        "strength",
        "n",
        "prompt",
        "optimiser",
        "beta",
        "result",
        "meta",
        "data",
    }
