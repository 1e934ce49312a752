"""The wheel: what it holds, and that every notebook runs on it alone, without the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from rmlab.study.presets import SHIPPED

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(f.stem for f in (ROOT / "book").glob("*.ipynb"))
QUICK = {
    "index",
    "ch2_underspecified",
    "ch3_best_of_n",
}  # RMLAB_ALL_NOTEBOOKS=1 runs the others too: a minute more
ALONE = """
import json, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell("import rmlab; print(rmlab.__file__)"))
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(notebook.cells[-1].outputs[0]["text"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("rmlab", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    return next(folder.glob("rmlab_ensembles-*.whl"))


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """The Python of a new environment: this one's packages, rmlab from the wheel."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    theirs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "packages.pth").write_text(
        "\n".join(theirs)
    )  # their own .pth files, an editable rmlab, are not read
    zipfile.ZipFile(wheel).extractall(site)
    return folder / "bin" / "python"


def environment() -> dict[str, str]:
    """Without what would lead back to the repository."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RMLAB_DATA")}


def test_it_holds_every_module_and_every_row(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    ours = {f for p in ("py", "mjs", "css") for f in (ROOT / "rmlab").rglob(f"*.{p}")}
    expected = {f.relative_to(ROOT).as_posix() for f in ours}
    expected |= {f"rmlab/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "data").rglob("*") if f.is_file()}
    assert held == expected and wheel.stat().st_size < 15e6


def test_it_names_no_address(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = next(n for n in archive.namelist() if n.endswith("METADATA"))
        head = archive.read(about).decode().split("\n\n")[0]
    assert "\nName: rmlab-ensembles\n" in head and "-URL:" not in head and "Home-page" not in head


def test_an_installed_package_reads_its_rows(alone, tmp_path):
    code = (
        "import json, rmlab, rmlab.cli; from rmlab.show.rows import data_folder, pool, provenance, rows\n"
        "from rmlab.study.presets import SHIPPED as studies\n"
        "n = [len(rows('curves', s)) for s in studies], [provenance(s)['recipe'] for s in studies]\n"
        "print(json.dumps([rmlab.__file__, str(data_folder()), n, len(pool().prompts)]))"
    )
    done = subprocess.run(
        [alone, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    home, data, (lengths, recipes), prompts = json.loads(done.stdout)
    assert Path(home).is_relative_to(alone.parent.parent) and data == str(Path(home).parent / "data")
    assert min(lengths) > 10 and len(set(recipes)) == len(SHIPPED) and prompts


def test_an_installed_package_finds_the_studies_to_verify(alone, tmp_path):
    """Which folders it looks at, in an empty one; the cells themselves take minutes."""
    code = "import json; from rmlab import cli; print(json.dumps([str(f) for f in cli.shipped()]))"
    done = subprocess.run(
        [alone, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    folders = [Path(name) for name in json.loads(done.stdout)]
    assert [folder.name for folder in folders] == list(SHIPPED)
    assert all(folder.is_relative_to(alone.parent.parent) for folder in folders)
    assert all((folder / "accuracy.csv").is_file() for folder in folders[:1])


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_notebook_runs_alone(chapter, alone, tmp_path):
    """In an empty folder, with nothing of the repository but the notebook itself."""
    if chapter not in QUICK and not os.environ.get("RMLAB_ALL_NOTEBOOKS"):
        pytest.skip("RMLAB_ALL_NOTEBOOKS=1 runs it")
    shutil.copy(ROOT / "book" / f"{chapter}.ipynb", tmp_path)
    done = subprocess.run(
        [alone, "-c", ALONE, f"{chapter}.ipynb"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr[-3000:]
    assert Path(done.stdout.strip()).is_relative_to(alone.parent.parent)
