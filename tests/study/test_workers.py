"""A process that runs one task at a time and says how each ended."""

from __future__ import annotations

import importlib
import os

import pytest

from rmlab.store import Store, Task
from rmlab.study.workers import Worker, wait_for

STAGES = """
import os, sys, time
from dataclasses import dataclass

@dataclass(frozen=True)
class Text:
    text: str

def stage(out, settings):
    print("out:", settings.text)
    print("err:", settings.text, file=sys.stderr)
    os.write(1, b"written below python\\n")
    if settings.text == "leaves":
        sys.exit(3)
    if settings.text == "dies":
        os._exit(4)
    (out / "pid").write_text(str(os.getpid()))
"""


@pytest.fixture
def stages(tmp_path, monkeypatch):
    name = f"work_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(STAGES)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


def test_a_worker_outlives_errors_and_is_replaced_when_it_dies(stages, tmp_path, capfd):
    store = Store(tmp_path / "store")
    worker = Worker(store, tmp_path / "log", None)
    ended = {}
    try:
        for text in ("a", "leaves", "b", "dies", "c"):
            task = Task(stages.stage, stages.Text(text))
            worker.begin(task)
            assert wait_for([worker, Worker(store, tmp_path / "idle", None)], seconds=60) == [worker]
            ended[text] = worker.finish()
            assert ended[text][0] is task and worker.task is None
    finally:
        worker.end()
    assert [outcome.error for _, outcome in ended.values()] == [
        "",
        "SystemExit: 3",
        "",
        "its process ended with exit status 4",
        "",
    ]
    pids = [(store.path(ended[text][0]) / "pid").read_text() for text in "abc"]
    assert pids[0] == pids[1] != pids[2] and str(os.getpid()) not in pids
    assert sorted(ended["leaves"][1].log.splitlines()) == [
        "err: leaves",
        "out: leaves",
        "written below python",
    ]
    assert "out: dies" in ended["dies"][1].log and "leaves" not in ended["dies"][1].log
    assert "sys.exit(3)" in ended["leaves"][1].traceback
    assert capfd.readouterr() == ("", "")
