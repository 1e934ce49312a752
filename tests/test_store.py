"""Artifacts: what invalidates them, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmlab.recipe import Labels, tiny
from rmlab.store import Store, Task, fingerprint
from rmlab.study import grid as study


def _write(out: Path, text: str) -> None:
    (out / "text").write_text(text)


def _double(out: Path, source: Path) -> None:
    (out / "text").write_text((source / "text").read_text() * 2)


def test_a_task_runs_once_and_is_whole(tmp_path):
    store = Store(tmp_path)
    first = Task(_write, {"text": "a"})
    second = Task(_double, {}, {"source": first})
    store.run(first)
    assert (store.run(second) / "text").read_text() == "aa"
    before = store.path(second).stat().st_mtime_ns
    store.run(second)
    assert store.path(second).stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".part-*"))


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def broken(out):
        (out / "half").write_text("x")
        raise RuntimeError("no")

    store, task = Store(tmp_path), Task(broken, {})
    with pytest.raises(RuntimeError):
        store.run(task)
    assert list(tmp_path.iterdir()) == []


def test_settings_and_inputs_decide_the_key():
    one, two = Task(_write, {"text": "a"}), Task(_write, {"text": "b"})
    assert one.key != two.key and Task(_write, {"text": "a"}).key == one.key
    assert Task(_double, {}, {"source": one}).key != Task(_double, {}, {"source": two}).key


def test_a_code_change_reaches_what_uses_it_and_nothing_else(tmp_path):
    """In a copy of the package: edit a definition, and see whose fingerprint moves."""
    import shutil

    shutil.copytree(
        Path(study.__file__).parent, tmp_path / "rmlab", ignore=shutil.ignore_patterns("__pycache__")
    )
    ask = "import json, rmlab.study.grid as s; from rmlab.store import fingerprint as f; print(json.dumps({n: f(getattr(s, n)) for n in ('backbone', 'policy', 'pairs', 'pool_part', 'member', 'rows')}))"

    def prints():
        done = subprocess.run(
            [sys.executable, "-c", ask],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def edit(file, old, new):
        path = tmp_path / "rmlab" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    start = prints()
    edit("recipe.py", 'name="quick",', 'name="quick",  # a comment')
    edit("recipe.py", "pool=Pool(prompts=32, answers=2048)", "pool=Pool(prompts=33, answers=2048)")
    assert prints() == start  # comments and presets decide no stage's bytes
    edit("sandbox/gold.py", "LONG = 32", "LONG = 33")
    after = prints()
    assert {n for n in start if after[n] != start[n]} == {"pairs", "pool_part", "member", "rows"}
    edit("reward/training.py", "if recipe.centre:", "if recipe.centre > 0:")
    assert {n for n, p in prints().items() if p != after[n]} == {"member"}


def test_fingerprint_is_stable():
    assert fingerprint(study.member) == fingerprint(study.member)


def _rows(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.glob("*/*")) if f.suffix in {".csv", ".npz"}}


def test_a_killed_study_goes_on_to_the_same_bytes(tmp_path):
    """kill -9 in the middle, then the same command again: rows equal to an uninterrupted run's, byte for byte."""
    command = [sys.executable, "-c", "from rmlab.cli import main; main()", "study", "tiny"]
    whole = [*command, "--out", str(tmp_path / "whole"), "--artifacts", str(tmp_path / "a"), "--workers", "2"]
    subprocess.run(whole, check=True, capture_output=True)
    broken = [
        *command,
        "--out",
        str(tmp_path / "broken"),
        "--artifacts",
        str(tmp_path / "b"),
        "--workers",
        "1",
    ]
    running = subprocess.Popen(
        broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while running.poll() is None and len(list((tmp_path / "b").glob("[!.]*"))) < 6:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = len(list((tmp_path / "b").glob("[!.]*")))
    assert 6 <= done < len(list((tmp_path / "a").glob("[!.]*"))) and not (tmp_path / "broken").exists()
    subprocess.run(broken, check=True, capture_output=True)
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "broken") and len(_rows(tmp_path / "whole")) == 10
    assert not list((tmp_path / "b").glob(".part-*"))


def test_a_bad_recipe_is_refused_before_anything_runs(tmp_path):
    import dataclasses

    recipe = dataclasses.replace(tiny(), labels=Labels(flips=0.7))
    with pytest.raises(ValueError, match=r"labels.flips = 0.7: give a share"):
        study.run(recipe, tmp_path / "out", tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()
