"""The page that widgets are shown on in tests, and what is asked of it."""

import shutil
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browsing = pytest.mark.skipif(CHROMIUM is None, reason="the browser checks need Chromium or Chrome")
LOADER = Path(__file__).parents[2] / "book" / "_assets" / "anywidget-offline.js"
MIME = "application/vnd.jupyter.widget-"
ARGS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]


PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><title>page</title>
<meta name="viewport" content="width=device-width">
<style>body {{ color: {ink}; background: {ground} }}</style>
<main>{views}</main><script type="{mime}state+json">{state}</script><script>{loader}</script></html>"""


# every label of the picture that leaves it, that covers another or that lies on the curves; the peak's own is inside
MISPLACED = """[...document.querySelectorAll('.rmx-svg')].flatMap((picture) => {
    const { width, height } = picture.viewBox.baseVal, out = [];
    const { x1, x2 } = picture.querySelector('.rmx-grid'), [left, edge] = [x1, x2].map((x) => x.baseVal.value);
    const levels = [...picture.querySelectorAll('.rmx-grid')].map((e) => e.y1.baseVal.value);
    const texts = [...picture.querySelectorAll('text')], right = (a) => a.x + a.width, below = (a) => a.y + a.height;
    const all = texts.map((e) => [e.textContent, e.getBBox(), e.matches('.rmx-halo')]);
    all.forEach(([words, a, halo], k) => {
        if (a.x < -1 || a.y < -1 || right(a) > width + 1 || below(a) > height + 1) out.push(words + ' is cut');
        const inside = right(a) > left && a.x < edge && levels.some((y) => a.y < y && y < below(a));
        if (inside && !halo) out.push(words + ' is on the curves');
        for (const [other, b, above] of all.slice(0, halo ? 0 : k)) {
            const beside = right(a) <= b.x || right(b) <= a.x || below(a) <= b.y + 1 || below(b) <= a.y + 1;
            if (!beside && !above) out.push(words + ' covers ' + other);
        }
    });
    return out; })"""
SMALL = """[...document.querySelectorAll('.rmx :is(button, select, summary, [type=range], label:has(input))')]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 40)
    .map((e) => e.outerHTML.slice(0, 80))"""


def settle(page):
    """Two frames: changes are drawn in the next."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def plain(text):
    """With plain spaces: "n = 64" is not broken over two lines."""
    return text.replace("\u00a0", " ")


def said(page, which=0):
    """The sentence that is seen, once the changes are drawn."""
    settle(page)
    return plain(page.locator(".rmx-say").nth(which).text_content())


def fits(page, widths):
    """Every fold opened, nothing is cut, covered, too small to touch or wider than the page, at any of the widths."""
    page.evaluate("document.querySelectorAll('.rmx details').forEach((fold) => { fold.open = true; })")
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert not page.evaluate(MISPLACED), width
        assert not page.evaluate(SMALL), width


def violations(page):
    """What axe finds on the page, by rule and place."""
    axe = pytest.importorskip("axe_playwright_python", reason="the axe check needs axe-playwright-python")
    page.add_script_tag(path=Path(axe.__file__).with_name("axe.min.js"))
    rules = "{ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], resultTypes: ['violations'] }"
    report = page.evaluate(f"axe.run('main', {rules})")
    assert report["passes"]
    return [(v["id"], v["nodes"][0]["target"]) for v in report["violations"]]


def redraws(page, act):
    """Milliseconds of each frame that the page draws while `act` runs: the median is what a reader feels."""
    page.evaluate(
        """() => { const frame = window.requestAnimationFrame.bind(window); window.took = [];
            window.requestAnimationFrame = (draw) => frame((time) => { const start = performance.now(); draw(time);
                took.push(performance.now() - start); }); }"""
    )
    act()
    return page.evaluate("took")


@contextmanager
def module_of(tab, script):
    """A widget's script where there is no page, as `m`."""
    page = tab[0].context.browser.new_page()
    with page.expect_worker() as started:
        page.evaluate("window.worker = new Worker(URL.createObjectURL(new Blob(['']))), 0")
    started.value.evaluate(
        """async (source) => {
            globalThis.m = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" }))); }""",
        script,
    )
    yield started.value
    page.close()


@contextmanager
def worker_of(tab, pool):
    """The explorer's script where there is no page, as `m`, and the pool as `d`."""
    from rmlab.show.explorer import script

    with module_of(tab, script()) as worker:
        meta, data = pool.packed()
        worker.evaluate(
            """async ([meta, data]) => {
                globalThis.d = await m.unpack(meta, Uint8Array.from(atob(data), (c) => c.charCodeAt(0))); }""",
            [meta, b64encode(data).decode()],
        )
        yield worker
