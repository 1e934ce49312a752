"""Take the README's pictures from the built front page: the figure and the explorer. Needs Chromium.

make html && python scripts/pictures.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "book" / "_assets" / "readme"


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        window = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = window.new_page(viewport={"width": 1200, "height": 2400}, device_scale_factor=1.5)
        page.goto((ROOT / "_build" / "html" / "index.html").as_uri())
        page.wait_for_selector(".rmx [role=status]")
        page.wait_for_timeout(500)
        page.locator("svg.ink").first.screenshot(path=OUT / "overoptimisation.png")
        page.locator(".rmx").first.screenshot(path=OUT / "explorer.png")
        window.close()


if __name__ == "__main__":
    main()
