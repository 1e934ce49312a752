"""Every widget of rows in headless Chromium, offline: dragged, by keys, on a phone, light and dark, fast enough."""

from __future__ import annotations

from statistics import median

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget")
pytest.importorskip("playwright.sync_api", reason="the browser checks need playwright")
from rmlab.show.detector import Detector
from rmlab.show.fit_law import FitLaw
from rmlab.show.herd import Herd
from rmlab.show.promised import Promised
from rmlab.show.rows import rows
from tests.show.page import browsing, fits, redraws, said, settle, violations

pytestmark = browsing
SIGHTED = "best_of_n_sighted"
STATE_BYTES = 200_000  # of a widget in a page, its script and style sheet included


def promised(**state):
    return Promised(*(rows(name, SIGHTED) for name in ("promised", "reliability", "calibration")), **state)


def fit_law(step="fit", **state):
    return FitLaw(rows("curves", SIGHTED), rows("laws", SIGHTED), step=step, **state)


def sketch(**state):
    return fit_law(step="draw")


def herd(**state):
    return Herd(rows("herding", SIGHTED), rows("ceiling", SIGHTED), **state)


def herds(**state):
    """Two studies side by side: the second one's rows are the first's, larger."""
    other = rows("herding", SIGHTED)
    parts = [f"{q}{end}" for q in ("own", "shared", "idiosyncratic") for end in ("", "_low", "_high")]
    return herd(beside=other.assign(**{q: 1.3 * other[q] for q in parts}), **state)


def detector(**state):
    """In its second run of five: the first was stopped."""
    widget = Detector(rows("replicates", SIGHTED), rows("alarms", SIGHTED), **state)
    widget.set_trait("stops", [4])
    return widget


WIDGETS = {"promised": promised, "fit_law": fit_law, "herd": herd, "herds": herds}
every = pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
ALL = {**WIDGETS, "detector": detector}  # it has buttons and no handle
buttons_too = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def handle(page):
    """The first handle that is dragged sideways."""
    return page.locator(".rmx-handle[aria-orientation=horizontal]").first


def place(page):
    return float(handle(page).locator(".rmx-cursor").get_attribute("x1"))


@buttons_too
def test_it_is_small_and_needs_nothing_from_outside(make, show):
    state = make().get_state()
    assert len(state["meta"]) + len(state["_esm"]) + len(state["_css"]) < STATE_BYTES
    page = show(make())  # whose fixture fails for a request or an error
    assert said(page) and "NaN" not in page.locator("main").inner_html()


@every
def test_keys_move_the_handle_and_the_sentence(make, show):
    page = show(make())
    grip, seen = handle(page), []
    for key in ("Home", "ArrowRight", "ArrowUp", "PageUp", "ArrowLeft", "End"):
        grip.press(key)
        settle(page)
        seen.append((place(page), said(page), grip.get_attribute("aria-valuetext")))
        assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    places, sentences, spoken = zip(*seen, strict=True)
    assert places[0] < places[1] < places[2] < places[3] > places[4] < places[5]
    assert len(set(sentences)) >= 5 and len(set(spoken)) >= 5
    page.wait_for_function(
        "x => document.querySelector('.rmx-status').textContent.includes(x)", arg=sentences[-1]
    )


@every
def test_a_drag_moves_the_handle_and_the_sentence(make, show):
    page = show(make())
    handle(page).press("Home")
    first = said(page), place(page)
    box = handle(page).locator(".rmx-grip").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 180, y, steps=4)
    page.mouse.up()
    assert said(page) != first[0] and place(page) > first[1] + 60


@buttons_too
@pytest.mark.parametrize("dark,widths", [(False, (1280, 375, 360)), (True, (360, 1280))])
def test_accessible_and_never_wider_than_the_page(make, show, dark, widths):
    page = show(make(), dark=dark)
    fits(page, widths)
    assert not violations(page)


@every
def test_a_redraw_takes_less_than_a_frame(make, show):
    page = show(make())

    def act():
        for key in ["Home", *["ArrowRight"] * 6, "End", *["ArrowLeft"] * 6] * 2:
            handle(page).press(key)
            page.wait_for_timeout(40)  # settle's own frames would count

    took = redraws(page, act)
    assert len(took) > 20 and median(took) <= 16


@every
def test_two_on_one_page_do_not_share_their_state(make, show):
    page = show(make(), make())
    first, second = said(page, 0), said(page, 1)
    handle(page).press("Home")
    assert said(page, 0) != first and said(page, 1) == second


@every
def test_a_finger_moves_the_handle_and_leaves_the_page_to_scroll(make, tab, show):
    """Pointer events of a touch, as a browser sends them where `touch-action` lets a page be scrolled up and down."""
    page = show(make(), width=360)
    first = said(page)
    assert handle(page).evaluate("e => getComputedStyle(e.closest('.rmx-plot')).touchAction") == "pan-y"
    box = handle(page).locator(".rmx-grip").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, at in (("touchStart", x), ("touchMove", x - 30), ("touchMove", x - 90), ("touchEnd", None)):
        points = [] if at is None else [{"x": at, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert said(page) != first


def test_a_finger_draws_where_gold_goes(show):
    page = show(sketch(), width=360)
    pad = page.locator(".rmx-pad")
    assert pad.evaluate("e => getComputedStyle(e).touchAction") == "none"
    box, touch = pad.bounding_box(), page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.05), ("touchMove", 0.5), ("touchMove", 0.99), ("touchEnd", None)):
        at = (
            []
            if share is None
            else [{"x": box["x"] + share * box["width"], "y": box["y"] + 100 - 60 * share}]
        )
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
    assert said(page).startswith("You draw gold going from")
    heights = [
        x.get_attribute("aria-valuenow") for x in page.locator("[aria-orientation=vertical]").all()[:7]
    ]
    assert (
        sorted(map(int, heights)) == list(map(int, heights)) and len(set(heights)) > 4
    )  # each that it crossed
    fits(page, (360, 900))
    assert not violations(page)


def test_a_run_is_stopped_by_keys_and_by_a_finger(show):
    """The focus stays on the one button that says what comes next, and every state has its sentence."""
    page = show(detector(), width=360)
    heard = []
    for name, key in (("step", "Enter"), ("step", " "), ("stop here", "Enter")):
        page.get_by_role("button", name=name).press(key)
        heard.append(said(page))
    assert len(set(heard)) == 3 and "Run 2 of 5. You stopped at n = 4" in heard[-1]
    page.wait_for_function(
        "x => document.querySelector('.rmx-status').textContent.includes(x)", arg="Run 2 of 5. You"
    )
    assert page.evaluate("document.activeElement.textContent") == "next run"
    fits(page, (360, 1280))
    assert not violations(page)
    page.set_viewport_size({"width": 360, "height": 900})
    settle(page)
    page.get_by_role("button", name="next run").scroll_into_view_if_needed()
    settle(page)
    touch, box = (
        page.context.new_cdp_session(page),
        page.get_by_role("button", name="next run").bounding_box(),
    )
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    for kind, points in (("touchStart", [at]), ("touchEnd", [])):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_function("document.querySelector('.rmx-say').textContent.startsWith('Run 3 of 5, n')")
