"""The built pages in headless Chromium, with the network blocked: light, dark, phone."""

from __future__ import annotations

import functools
import http.server
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = [
    "index",
    "ch1_proxy",
    "ch2_underspecified",
    "ch3_best_of_n",
    "ch4_members",
    "ch5_heads",
    "ch6_ppo",
    "ch7_kl_penalty",
    "your_data",
    "api",
    "references",
]
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# faults of the theme, not of the book
EXCLUDE = [[".citation-list"], ["details.hide > summary"], [".search-button-field"]]

PART = {
    "api": "article section section:nth-of-type(-n+9)"
}  # of a page that is one kind of section, over and over

light = pytest.mark.parametrize("window", ["light"], indirect=True)  # where the theme changes nothing

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the pages are not built: make html"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def play():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        yield p


@pytest.fixture(scope="module", params=["light", "dark"])
def window(request, play):
    with tempfile.TemporaryDirectory() as folder:
        context = play.chromium.launch_persistent_context(
            folder,
            executable_path=BROWSER,
            args=ARGS,
            color_scheme=request.param,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()


@pytest.fixture
def page(window):
    page = window.new_page()
    page.set_default_timeout(10_000)
    yield page
    page.close()


def watch(page, base):
    seen = {"outside": [], "failed": [], "console": []}
    inside = (base, "data:", "blob:", "file:")
    page.on("request", lambda r: None if r.url.startswith(inside) else seen["outside"].append(r.url))
    page.on("response", lambda r: seen["failed"].append(r.url) if r.status >= 400 else None)
    page.on("console", lambda m: seen["console"].append(m.text[:200]) if m.type == "error" else None)
    page.on("pageerror", lambda e: seen["console"].append(str(e)[:200]))
    return seen


@pytest.mark.parametrize("name", PAGES)
def test_quiet_offline_and_accessible(page, site, name):
    import axe_playwright_python

    seen = watch(page, site)
    page.goto(site + name + ".html", wait_until="load")
    if name.startswith(("index", "ch")):
        page.wait_for_selector(".rmx [role=status]")
    page.wait_for_timeout(200)
    assert seen == {
        "outside": [],
        "failed": [],
        "console": [],
    }  # before axe, which fetches style sheets by itself
    axe = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
    page.add_script_tag(path=str(axe))
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    report = page.evaluate(
        "([where, options]) => axe.run(where, options)",
        [{"include": [[PART.get(name, "article")]], "exclude": EXCLUDE}, options],
    )
    assert report["passes"]  # something was looked at
    assert not [(v["id"], v["impact"], v["nodes"][0]["target"]) for v in report["violations"]]


GOLD = "document.querySelector('.rmx path.rmx-gold').getAttribute('d')"
SAID = "document.querySelector('.rmx-say').innerText"  # seen at once; the live region follows when the hand rests


@pytest.mark.parametrize("name", PAGES[:4])
def test_n_moves_the_handle_the_sentence_and_the_winner(page, site, name):
    page.goto(site + name + ".html")
    slider = page.get_by_label("n, answers to choose from")
    seen = []
    for key, n in (("Home", 0), ("End", int(slider.get_attribute("max")))):
        slider.press(key)
        page.wait_for_timeout(100)
        assert int(slider.input_value()) == n
        handle = float(page.locator(".rmx circle.rmx-at").first.get_attribute("cx"))
        seen.append((handle, page.evaluate(SAID), page.inner_text(".rmx blockquote >> nth=0")))
    (left, said_first, won_first), (right, said_last, won_last) = seen
    assert left < right and said_first != said_last and won_first != won_last


@pytest.mark.parametrize("name", PAGES[:4])
def test_lambda_moves_the_curve_and_the_sentence(page, site, name):
    page.goto(site + name + ".html")
    page.get_by_label("judges").select_option("pretrain")
    page.get_by_label("aggregator").select_option("mean_std")
    slider = page.locator(".rmx input[id$=-strength]")
    slider.press("Home")  # 0: the mean
    page.wait_for_timeout(100)
    path, said = page.evaluate(GOLD), page.evaluate(SAID)
    slider.press("End")
    page.wait_for_function(f"([path, said]) => {GOLD} != path && {SAID} != said", arg=[path, said])


@light
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_does_not_scroll_sideways(page, site, name):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(site + name + ".html")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@light
@pytest.mark.parametrize("name", [name for name in PAGES if name not in {"api", "references"}])
def test_figures_are_whole_on_a_phone(page, site, name):
    """No figure is cut by its frame; on a phone a tap enlarges it, and then it scrolls."""
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(site + name + ".html")
    wide = """[...document.querySelectorAll('article svg.ink')].map((svg) =>
        [svg.getBoundingClientRect().right, svg.closest('figure, .cell_output').getBoundingClientRect().right])"""
    found = page.evaluate(wide)
    assert found and all(figure <= frame + 0.5 for figure, frame in found)


def test_a_tap_enlarges_a_figure(play, site):
    with tempfile.TemporaryDirectory() as folder:
        phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
        context = play.chromium.launch_persistent_context(folder, executable_path=BROWSER, args=ARGS, **phone)
        page = context.new_page()
        page.goto(site + "index.html")
        figure = page.locator("article svg.ink").first
        before = figure.bounding_box()["width"]
        figure.tap()
        assert before < 360 < figure.bounding_box()["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        context.close()


@light
@pytest.mark.parametrize("name", ["index", "ch3_best_of_n"])
def test_the_page_works_as_a_file(page, name):
    seen = watch(page, "file:")
    page.goto((HTML / f"{name}.html").as_uri())
    page.wait_for_selector(".rmx [role=status]")
    said = page.inner_text(".rmx [role=status]")
    assert "gold" in said
    page.locator(".rmx .rmx-n input").focus()
    page.keyboard.press("Home")
    page.wait_for_function("s => document.querySelector('.rmx [role=status]').innerText != s", arg=said)
    assert not seen["outside"] and not seen["console"]


@light
def test_equations_are_drawn_without_a_network_or_fonts(page):
    page.goto((HTML / "ch3_best_of_n.html").as_uri())
    formulas = page.locator("article .math")
    assert formulas.count() > 0
    page.wait_for_function(
        "n => document.querySelectorAll('article .math mjx-container svg').length >= n",
        arg=formulas.count(),
        timeout=10_000,
    )
