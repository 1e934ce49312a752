"""The lowest versions, read off pyproject.toml."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
lowest = runpy.run_path(str(ROOT / "scripts" / "bounds.py"))["lowest"]


def project(folder: Path, *wishes: str) -> Path:
    (folder / "pyproject.toml").write_text(
        f'[project]\ndependencies = ["numpy>=1.26", "a-b>=2,<3"]\n[project.optional-dependencies]\nx = {list(wishes)}\n'
    )
    return folder


def test_bounds_become_pins(tmp_path):
    root = project(tmp_path, "c==1.0.post1", "numpy>=1.26")
    assert lowest(root=root) == ["numpy==1.26", "a-b==2"]
    assert lowest("x", root=root) == ["numpy==1.26", "a-b==2", "c==1.0.post1"]


@pytest.mark.parametrize("wish", ["c", "c~=1.0", "numpy>=2"])
def test_what_has_no_bound_or_two_is_named(wish, tmp_path):
    with pytest.raises(ValueError, match=wish.split("~")[0]):
        lowest("x", root=project(tmp_path, wish))


def test_every_bound_of_ours_is_one():
    names = [pin.split("==")[0] for pin in lowest("notebooks", "test")]
    assert {"torch", "transformers", "anywidget", "pytest"} <= set(names)
