from __future__ import annotations

import json

import numpy as np
import pytest

from rmlab.show import (
    figures_alarms,
    figures_best_of_n,
    figures_calibration,
    figures_claims,
    figures_herding,
    figures_laws,
    figures_members,
    figures_multiples,
    figures_ppo,
    figures_sweeps,
    style,
)
from tests.show.page import ARGS, CHROMIUM, LOADER, MIME, PAGE


@pytest.fixture
def panels(monkeypatch):
    """The axes of every figure drawn in a test: what a reader sees, before it is a picture."""
    seen = []

    def canvas(*args, **kw):
        fig, axes = style.canvas(*args, **kw)
        seen.extend(np.atleast_1d(axes).ravel())
        return fig, axes

    modules = (figures_best_of_n, figures_members, figures_multiples, figures_ppo, figures_claims)
    later = (figures_sweeps, figures_calibration, figures_herding, figures_laws, figures_alarms)
    for module in (*modules, *later):
        monkeypatch.setattr(module, "canvas", canvas)
    return seen


@pytest.fixture(scope="module")
def tab():
    """One tab for every test, and what goes wrong on it."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser checks need playwright")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page, faults = browser.new_context().new_page(), []
        page.set_default_timeout(10_000)
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: faults.append(str(e)))
        inside = ("file:", "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(inside) else faults.append(r.url))
        yield page, faults
        browser.close()


@pytest.fixture
def show(tab, tmp_path):
    """show(*widgets): the tab, on a page that embeds them as the book does; nothing may go wrong on it."""
    from ipywidgets import embed

    page, faults = tab
    faults.clear()

    def open_page(*widgets, width=1000, dark=False, fragment=""):
        views = [json.dumps({"model_id": w.model_id}) for w in widgets]
        state = {"state": embed.dependency_state(list(widgets), drop_defaults=False)}
        theme, ink, ground = ("dark", "#ced6dd", "#121212") if dark else ("light", "#222", "#fff")
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.html"
        text = PAGE.format(
            theme=theme,
            ink=ink,
            ground=ground,
            mime=MIME,
            views="".join(f'<script type="{MIME}view+json">{view}</script>' for view in views),
            state=json.dumps(state),  # bare: no embedder need know of our text
            loader=LOADER.read_text(encoding="utf-8"),
        )
        path.write_text(text, encoding="utf-8")
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri() + fragment)
        shown = "[...document.querySelectorAll('.rmx')].filter((e) => e.querySelector('.rmx-svg *')).length"
        page.wait_for_function(f"{shown} === {len(widgets)}")
        return page

    yield open_page
    assert not faults
