"""The repository as a whole: layers, import cost, the file map, one source for every version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from rmlab.study.presets import SHIPPED

ROOT = Path(__file__).resolve().parent.parent


def tracked(*patterns: str) -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / f for f in done.stdout.split("\n") if f and (ROOT / f).is_file()]


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_rmlab_imports_fast_and_without_torch():
    """An invariant of the package, with room for a slow disk: the best of five imports."""
    code = "import time; t = time.perf_counter(); import rmlab, sys; print(time.perf_counter() - t, 'torch' in sys.modules)"
    seconds, torch = zip(*(run(code).split() for _ in range(5)), strict=True)
    assert min(map(float, seconds)) < 0.3 and set(torch) == {"False"}


def test_what_a_reader_of_rows_needs_has_no_torch():
    """All of the floor that plots, and the estimator and bands it reads with."""
    shown = sorted(f"rmlab.show.{f.stem}" for f in (ROOT / "rmlab" / "show").glob("[!_]*.py"))
    measured = sorted(f"rmlab.measure.{f.stem}" for f in (ROOT / "rmlab" / "measure").glob("[!_]*.py"))
    names = [*shown, *measured, "rmlab.optimise.best_of_n"]
    assert "rmlab.show.explorer" in names and "rmlab.show.figures_best_of_n" in names
    assert run(f"import {', '.join(names)}, sys; print('torch' in sys.modules)").strip() == "False"


def test_every_public_name_loads():
    import rmlab

    for name in rmlab.__all__:
        assert getattr(rmlab, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rmlab.nonsense


def test_the_readme_maps_every_file():
    readme = (ROOT / "README.md").read_text("utf-8")
    tree = readme[readme.index("\nrmlab/\n") :]
    known = [
        f.name
        for p in ("py", "mjs", "css")
        for f in (ROOT / "rmlab").rglob(f"*.{p}")
        if f.name != "__init__.py"
    ]
    words = re.split(r"[\s,/]+", tree)
    assert not [n for n in set(known) if words.count(n) < known.count(n)]
    for link in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_readme_is_short():
    """150 lines of 120 columns, ten numbers with their intervals, eight words a file."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
    assert len(re.findall(r"\d (?:\[[^]]*\]|\([\d.]+-[\d.]+\))", "\n".join(lines))) <= 10
    for line in lines[lines.index("rmlab/") : -2]:
        assert len(re.split(r" {2,}", line.strip())[-1].split()) <= 8, line


def test_no_path_of_a_machine_and_no_registry_is_named():
    bad = re.compile(
        r"(^|[^\w.])/(work|root|opt|home)/|files\.python"
        + r"hosted|py"
        + r"pi\.org|registry\.np"
        + r"mjs|deb\.deb"
        + "ian"
    )
    for path in tracked():
        if path.suffix not in {".png", ".npz"} and path != Path(__file__):
            found = bad.search(path.read_text("utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found.group()}"


def test_every_address_is_one_of_others_that_stay():
    """Papers, namespaces and what tests invent; of ours there is none, and none that somebody else could take."""
    known = set(
        "HOST github.com colab.research.google.com git-lfs git-lfs.github.com www.w3.org 127.0.0.1 a.b example.org "
        "arxiv.org doi.org openreview.net aclanthology.org huggingface.co".split()
    )
    for path in tracked():
        if path.suffix in {".png", ".npz", ".csv", ".json"}:
            continue
        text = path.read_text("utf-8")
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        at_github = {x for x in re.findall(r"//github\.com/([\w.-]+/[\w.-]+)", text) if x != "OWNER/NAME"}
        assert hosts <= known and not at_github, (
            path.relative_to(ROOT),
            hosts - known,
            at_github,
        )
        named = re.search(r"(pip|uv|conda) install[^\n]*\brmlab\b(?!_)(?!-ensembles)", text)
        assert not named, f"{path.relative_to(ROOT)}: {named.group()}: another project's name"


def test_nothing_that_is_loaded_brings_code_along():
    """Every loader of a model or tokenizer says so itself; of weights, safetensors alone."""
    for path in tracked("rmlab/*.py"):
        text = path.read_text("utf-8")
        code = re.sub(r'"""(.*?)"""', "", text, flags=re.S)
        calls = len(re.findall(r"Auto\w+\.from_(?:pretrained|config)\(", code))
        said = len(re.findall(r"trust_remote_code(?:\"\:|=) ?False", code))
        assert said >= calls, path.relative_to(ROOT)
        if re.search(r"AutoModel\w*\.from_pretrained\(", code):
            assert '"use_safetensors": True' in code, path.relative_to(ROOT)
        assert (
            "import pickle" not in code
            and "weights_only=False" not in code
            and "allow_pickle=True" not in code
        )


def test_versions_have_one_source():
    """pyproject says what is needed, constraints.txt what was tested, environment.yml only points at both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [x for x in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if x and x[0] != "#"]
    pinned = {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}
    assert len(pinned) == len(lines)
    wishes = [*project["dependencies"], *(w for x in ("notebooks", "book", "test", "trl") for w in extras[x])]
    for text in wishes:
        requirement = Requirement(text)
        if requirement.name == project["name"]:  # an extra of its own
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text

    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert set(environment) == {"name", "channels", "dependencies"}
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip", "make"]
    assert SpecifierSet(project["requires-python"]).contains("3.11")
    assert pip == {"pip": ["-c constraints.txt", "-e .[book,test,trl]"]} and {"book", "test"} <= set(extras)
    import rmlab

    assert rmlab.__version__ == project["version"]


@pytest.mark.parametrize("study", SHIPPED)
def test_shipped_data_is_small_and_of_one_recipe(study):
    import pandas as pd

    files = [f for f in (ROOT / "data").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 25e6
    about = json.loads((ROOT / "data" / study / "provenance.json").read_text())
    tables = sorted((ROOT / "data" / study).glob("*.csv"))
    assert tables
    for table in tables:
        rows = pd.read_csv(table)
        assert list(rows)[:3] == ["study", "recipe", "seed"] and set(rows.recipe) == (
            {about["recipe"]} if len(rows) else set()
        )


@pytest.mark.parametrize("study", sorted(f.parent.name for f in (ROOT / "data").glob("*/explorer.npz")))
def test_an_explorers_pool_fits_a_page(study):
    from rmlab.optimise.compact import CompactPool

    assert CompactPool.load(ROOT / "data" / study / "explorer.npz").nbytes_in_page() < 800_000
