"""The built pages, read as files: links, alternative texts, no errors, notebooks in step. Built by `make html`."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PAGES = [
    "index",
    "ch1_proxy",
    "ch2_underspecified",
    "ch3_best_of_n",
    "ch4_members",
    "ch5_heads",
    "ch6_ppo",
    "ch7_kl_penalty",
    "ch8_calibrated",
    "ch9_herding",
    "ch10_law",
    "ch11_alarms",
    "ch12_scoreboard",
    "your_data",
    "api",
    "references",
]


LONGER = (
    "ch5_heads",
    "ch6_ppo",
    "ch7_kl_penalty",
    "your_data",
)  # cells of up to 25 lines, some of them folded


@pytest.fixture(scope="module")
def soups():
    if not (HTML / "index.html").exists():
        pytest.skip("the pages are not built: make html")
    return {p: BeautifulSoup((HTML / f"{p}.html").read_text("utf-8"), "html.parser") for p in PAGES}


def test_notebooks_are_in_step_with_their_sources():
    done = subprocess.run(
        [sys.executable, "scripts/notebooks.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_notebooks_carry_no_outputs():
    for path in (ROOT / "book").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        assert not any(c.get("outputs") or c.get("execution_count") for c in cells)


def test_links_lead_somewhere(soups):
    @functools.cache
    def ids(path: Path) -> set[str]:
        return set(re.findall(r'\bid="([^"]+)"', path.read_text("utf-8")))

    broken = []
    for page, soup in soups.items():
        for node in soup.select("article a[href], link[href], script[src], img[src]"):
            target = urlsplit(node.get("href") or node.get("src"))
            if target.scheme or target.netloc:
                continue
            path = HTML / (unquote(target.path) or f"{page}.html")
            fragment = unquote(target.fragment)
            if not path.exists() or (fragment and path.suffix == ".html" and fragment not in ids(path)):
                broken.append((page, target.geturl()))
    assert not broken


def test_pictures_say_what_is_seen(soups):
    for page, soup in soups.items():
        for image in soup.select("article img"):
            alt = image.get("alt", "")
            assert alt and "/" not in alt and not alt.endswith((".png", ".svg")), (page, image)
        for drawing in soup.select("article svg"):
            assert (
                drawing.get("aria-label") or drawing.get("aria-labelledby") or drawing.get("aria-hidden")
            ), page
    assert all(soups[p].select("article svg.ink") for p in PAGES[:-2])


def test_every_page_of_the_contents_is_checked(soups):
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    listed = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert listed == PAGES


def test_no_page_names_the_machine_that_built_it(soups):
    for page in soups:
        assert str(ROOT) not in (HTML / f"{page}.html").read_text("utf-8"), page


def code_cells(path: Path) -> list[dict]:
    """A chapter's own: not the first of a notebook, which looks for rmlab."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "setup" not in c["metadata"].get("tags", [])]


@pytest.mark.parametrize("name", PAGES[:-2])
def test_every_code_cell_ran(name):
    """The executions that the pages are built from hold this one: its cells, run once each from the top."""
    executed = list((ROOT / "_build" / ".jupyter_cache" / "executed").glob("*/base.ipynb"))
    if not executed:
        pytest.skip("the chapters are not executed: make html")
    sources = ["".join(c["source"]) for c in code_cells(ROOT / "book" / f"{name}.ipynb")]
    runs = map(code_cells, executed)
    cells = next((c for c in runs if ["".join(x["source"]) for x in c] == sources), None)
    assert sources and cells, "its code has changed since it was executed"
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]


@pytest.mark.parametrize("name", PAGES[:-2])
def test_a_cell_can_be_read(name):
    """Code fits a column of a page, and what a reader sees of it fits a screen."""
    for cell in code_cells(ROOT / "book" / f"{name}.ipynb"):
        lines = "".join(cell["source"]).split("\n")
        tags = cell["metadata"].get("tags", [])
        if "remove-cell" not in tags:
            assert len(lines) <= (25 if name in LONGER else 15), lines[0]
            assert name in LONGER or "hide-input" not in tags, lines[0]
        assert not [x for x in lines if len(x) > 88]


def test_no_cell_failed(soups):
    for page, soup in soups.items():
        assert not soup.select(".output.error, .output.traceback, .cell_output .stderr"), page


def test_cells_show_tables_and_numbers(soups):
    chapter = soups["ch3_best_of_n"]
    assert len(chapter.select(".cell_output table")) >= 2
    assert not any("|---|" in output.get_text() for output in chapter.select(".cell_output"))


def test_the_explorer_travels_with_the_page(soups):
    for page in PAGES[:4]:
        state = soups[page].select_one('script[type="application/vnd.jupyter.widget-state+json"]')
        assert state and len(state.string) < 1_200_000
        assert soups[page].select_one('script[type="application/vnd.jupyter.widget-view+json"]')


def test_every_chapter_checks_its_claims():
    """Each chapter ends in a hidden cell that asserts its claims; an empty one would check nothing."""
    for page in PAGES[1:-2]:
        source = (ROOT / "book" / f"{page}.md").read_text("utf-8")
        assert source.split("# checks")[1].split("```")[0].count("assert ") >= 3
