"""The notebooks beside the chapters: their first cell, and what is built from the repository's address."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
ELSEWHERE = "https://example.org/owner/name"


@pytest.fixture
def scripts(monkeypatch):
    """The modules of scripts/, which are no package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import notebooks
    import repository
    import setup_cell

    return SimpleNamespace(notebooks=notebooks, repository=repository, setup_cell=setup_cell)


def first_cell(path: Path) -> dict:
    return next(c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code")


def executed(source: str, folder: Path) -> subprocess.CompletedProcess:
    """The cell in a Python that sees the folder and no site-packages."""
    (folder / "cell.py").write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            (
                f"import sys; sys.path.insert(0, {str(folder)!r}); exec(open({str(folder / 'cell.py')!r}).read())"
            ),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_every_notebook_begins_with_the_same_setup(scripts):
    assert len(CHAPTERS) == 14
    for path in CHAPTERS:
        cell = first_cell(path)
        assert "".join(cell["source"]) == scripts.setup_cell.source(scripts.repository.address())
        assert "setup" in cell["metadata"]["tags"]


def test_setup_without_rmlab_says_how_to_install(scripts, tmp_path):
    done = executed(scripts.setup_cell.source(""), tmp_path)
    said = done.stderr.strip().split("\n")[-1]
    assert said.startswith("ImportError: rmlab is not installed: %pip install '.[notebooks]' in a checkout")
    assert "rmlab_ensembles" in said and "http" not in said


@pytest.mark.parametrize("form", ["package", "namespace", "module"])
@pytest.mark.parametrize("url", ["", ELSEWHERE])
def test_setup_names_another_project_and_the_mend(form, url, scripts, tmp_path):
    folder = tmp_path / "rmlab"
    if form == "module":
        (tmp_path / "rmlab.py").write_text("raise RuntimeError('imported')")
    else:
        (folder / "api").mkdir(parents=True)
    if form == "package":
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    source = scripts.setup_cell.source(url).replace("    %pip", "    pass  # %pip")
    said = executed(source, tmp_path).stderr.strip().split("\n")[-1]
    assert re.search(
        rf"^ImportError: the rmlab in \['{re.escape(str(tmp_path))}/rmlab.*'\] is another project", said
    )
    assert "%pip uninstall -y rmlab" in said and said.endswith("Then restart the kernel.")
    assert (f"'rmlab-ensembles[notebooks] @ git+{ELSEWHERE}'" in said) == bool(url)


def test_setup_is_silent_where_this_rmlab_is(scripts, tmp_path):
    (tmp_path / "rmlab").symlink_to(ROOT / "rmlab")
    done = executed(scripts.setup_cell.source(""), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setup_installs_from_the_published_address(scripts):
    source = scripts.setup_cell.source(ELSEWHERE)
    assert f'\npackage = "rmlab-ensembles[notebooks] @ git+{ELSEWHERE}"\n' in source
    assert '\n    %pip -q install "{package}"\n' in source
    assert max(map(len, source.split("\n"))) <= 88


def test_without_an_address_there_is_nothing_to_click(scripts):
    repository = scripts.repository
    assert repository.badge("", "x.ipynb") == "" and repository.theme_options("") == {}
    if not repository.address():
        for path in CHAPTERS:
            assert not re.search(r"git\+|colab|github\.com", path.read_text("utf-8"), re.I), path.name


def test_one_setting_reaches_notebooks_and_book(tmp_path):
    """In a copy: the notebooks are stale, and written anew they name the address; so does the book's theme."""
    for name in ("book", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    text = re.sub(r'^repository = ".*"$', f'repository = "{ELSEWHERE}/"', text, flags=re.M)
    (tmp_path / "pyproject.toml").write_text(text)
    command = [sys.executable, "scripts/notebooks.py"]
    assert subprocess.run([*command, "--check"], cwd=tmp_path, capture_output=True).returncode == 1
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    for path in (tmp_path / "book").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        assert cells[0]["source"] == [f"[The repository]({ELSEWHERE})"]
        assert f"git+{ELSEWHERE}" in "".join(first_cell(path)["source"])


@pytest.mark.slow
@pytest.mark.parametrize("url", ["", ELSEWHERE])
def test_a_built_page_links_to_the_repository_and_brings_its_notebook(url, tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_assets", tmp_path / "book" / "_assets")
    for name in ("_config.yml", "book/references.bib", "book/index.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "book" / "index.md").write_text("# A page\n")
    (tmp_path / "pyproject.toml").write_text(f'[tool.rmlab]\nrepository = "{url}"\n')
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "book"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    page = (tmp_path / "_build" / "html" / "index.html").read_text("utf-8")
    outside = {x for x in re.findall(r'<a [^>]*href="(https?:[^"]+)"', page) if "jupyterbook.org" not in x}
    assert outside == ({url} if url else set())
    assert 'href="_sources/index.ipynb"' in page
    offered = (tmp_path / "_build" / "html" / "_sources" / "index.ipynb").read_bytes()
    assert offered == (ROOT / "book" / "index.ipynb").read_bytes()


def test_colab_opens_what_lies_where_it_can(scripts):
    url = scripts.repository.GITHUB + "owner/name"
    badge = scripts.repository.badge(url, "index.ipynb")
    assert badge.endswith("/github/owner/name/blob/main/book/index.ipynb)")
    options = scripts.repository.theme_options(url)
    assert options["repository_url"] == url and "colab_url" in options["launch_buttons"]


def test_an_address_that_is_none_is_refused(scripts, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.rmlab]\nrepository = "owner/name"\n')
    with pytest.raises(ValueError, match="'owner/name': https://HOST/OWNER/NAME, or empty"):
        scripts.repository.address(tmp_path)
