"""Where the repository is published: `[tool.rmlab] repository` in pyproject.toml, and what is built from it.

`scripts/notebooks.py` takes a notebook's badge and install line from here. The book loads this file as a Sphinx
extension, which adds the link to the repository and, where Colab can open it, the launch button. While the setting
is empty there is none of them. Either way a chapter's page offers its notebook for download.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = "https://github.com/"  # what Colab opens
COLAB = "https://colab.research.google.com"
BRANCH = "main"


def address(root: Path = ROOT) -> str:
    """The published address without a slash at its end, or "" while there is none."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["rmlab"]
    url = settings["repository"].rstrip("/")
    if url and not url.startswith("https://"):
        raise ValueError(f"pyproject.toml: repository = {url!r}: https://HOST/OWNER/NAME, or empty")
    return url


def badge(url: str, notebook: str) -> str:
    """The line above a notebook that opens it elsewhere: in Colab, or, of another host, the repository itself."""
    if not url:
        return ""
    if not url.startswith(GITHUB):
        return f"[The repository]({url})"
    return f"[Open in Colab]({COLAB}/github/{url.removeprefix(GITHUB)}/blob/{BRANCH}/book/{notebook})"


def theme_options(url: str) -> dict:
    """What the book's theme needs to show the link and the button."""
    if not url:
        return {}
    options = {"icon_links": [{"name": "Repository", "url": url, "icon": "fa-solid fa-code-branch"}]}
    if url.startswith(GITHUB):
        options |= {
            "repository_url": url,
            "repository_branch": BRANCH,
            "path_to_docs": "book",
            "launch_buttons": {"colab_url": COLAB, "notebook_interface": "jupyterlab"},
        }
    return options


def add_options(app: object, config: object) -> None:
    """The theme's options of _config.yml, and these."""
    config.html_theme_options = {**config.html_theme_options, **theme_options(address())}


def offer_notebook(app: object, page: str, template: str, context: dict, doctree: object) -> None:
    """The theme's download menu lists the notebook beside a chapter."""
    if Path(app.srcdir, f"{page}.ipynb").is_file():
        context["ipynb_source"] = f"{page}.ipynb"


def copy_notebooks(app: object, error: Exception | None) -> None:
    """Put them where the menu points: as they are, with their first cell and without outputs."""
    for notebook in Path(app.srcdir).glob("*.ipynb"):
        if error is None and Path(app.outdir, f"{notebook.stem}.html").is_file():
            shutil.copy(notebook, Path(app.outdir, "_sources"))


def setup(app: object) -> dict:
    """Sphinx calls this."""
    app.connect("config-inited", add_options, priority=100)  # before the theme reads them
    app.connect("html-page-context", offer_notebook, priority=100)  # before the theme writes the menu
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True}
