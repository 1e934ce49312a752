"""Processes that run one task at a time, say how each ended, and never outlive the process that started them."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmlab.store import Store, Task
from rmlab.study.workers import Worker, wait_for

STAGES = '''
import os, sys, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Text:
    text: str
    folder: str = ""
    seconds: float = 0.0

def noted(out, settings, **parts):
    """Says in `folder` that it has started, and takes its time."""
    (Path(settings.folder) / settings.text).touch()
    time.sleep(settings.seconds)
    folders = [f for v in parts.values() for f in (v if isinstance(v, list) else [v])]
    (out / "text").write_text("".join((f / "text").read_text() for f in folders) + settings.text)

def stage(out, settings):
    print("out:", settings.text)
    print("err:", settings.text, file=sys.stderr)
    os.write(1, b"written below python\\n")
    if settings.text == "leaves":
        sys.exit(3)
    if settings.text == "dies":
        os._exit(4)
    (out / "pid").write_text(str(os.getpid()))
'''


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


# whole processes

SCRIPT = """
import signal, sys
from rmlab.store import Store, Task
from rmlab.study.executor import execute
from stages import Text, noted

def tasks(folder, names):
    rows = [Task(noted, Text(x, folder, 0.15)) for x in names]
    for _ in range(2):
        rows = [Task(noted, Text("-" + t.settings.text, folder, 0.1), {"one": t, "all": rows}) for t in rows]
    return rows

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    store, names, seconds = sys.argv[1:]
    rows = tasks("logs", names)
    summary = execute(rows, Store(store), 2)
    print("cached", summary.cached)
"""


class Process:
    """A script of tasks in a session of its own."""

    def __init__(self, folder: Path, store: str = "store", names: str = "abc", script: str = SCRIPT):
        for name, content in (("stages.py", STAGES), ("go.py", script)):
            if not (folder / name).exists() or name == "go.py":
                (folder / name).write_text(content)
        (folder / "logs").mkdir(exist_ok=True)
        path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[2])])
        command = [sys.executable, str(folder / "go.py"), str(folder / store), names, "0"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.store = folder / store

    def wait_for_tasks(self, count: int) -> None:
        """Until `count` tasks have started."""
        end = time.monotonic() + 60
        while len(list((self.store.parent / "logs").iterdir())) < count:
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it printed; all that it started must have ended within seconds."""
        out, _ = self.process.communicate(timeout=60)
        end = time.monotonic() + 10
        while self.alive():
            assert time.monotonic() < end, "processes outlive their parent"
            time.sleep(0.02)
        return self.process.returncode, out

    def alive(self) -> list[int]:
        """Processes of its session."""
        rows = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, *rest = file.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if state not in "ZX" and int(rest[2]) == self.process.pid:
                rows.append(int(file.parent.name))
        return rows


@pytest.fixture
def start(tmp_path):
    """Starts a `Process` in `tmp_path`; whatever is left of it ends with the test."""
    started = []

    def begin(*args, **options):
        started.append(Process(tmp_path, *args, **options))
        return started[-1]

    yield begin
    for run in started:
        for pid in run.alive():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()
        run.process.stdout.close()


def content(store: Path) -> dict[str, bytes]:
    return {f.parent.name: f.read_bytes() for f in store.glob("[!.]*/text")}


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@needs_proc
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bytes(start, tmp_path):
    """kill -9 of the parent, of all, of one worker; SIGTERM and Ctrl-C: no orphans, nothing half, the same bytes at the end."""
    status, _ = start("whole").end()
    whole = content(tmp_path / "whole")
    assert status == 0 and len(whole) == 9
    rng = random.Random(0)
    for act in ("parent", "all", "term", "interrupt", "parent", "worker"):
        shutil.rmtree(tmp_path / "logs")
        store = tmp_path / ("worker" if act == "worker" else "store")
        run = start(store.name)
        if act == "worker":
            run.wait_for_tasks(1)
        time.sleep(rng.uniform(0.0, 0.3 if act == "worker" else 1.2))
        workers = [pid for pid in run.alive() if is_worker(pid)]
        before = content(store)
        if act == "worker":
            os.kill(rng.choice(workers), signal.SIGKILL)
        elif act == "all":
            os.killpg(run.process.pid, signal.SIGKILL)
        elif act == "interrupt":  # as a terminal does: to everyone
            os.killpg(run.process.pid, signal.SIGINT)
        else:
            os.kill(run.process.pid, signal.SIGKILL if act == "parent" else signal.SIGTERM)
        status, out = run.end()
        assert before.items() <= content(store).items() <= whole.items(), act
        assert status == 0 or act != "worker", out
    assert start().end()[0] == 0
    assert content(tmp_path / "store") == content(tmp_path / "worker") == whole
    assert not list(tmp_path.glob("*/.part-*"))


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_ends_its_workers_and_sweeps(start, tmp_path, number):
    run = start(names="abcd")
    run.wait_for_tasks(3)
    os.kill(run.process.pid, number)
    status, out = run.end()
    assert status == (143 if number == signal.SIGTERM else -signal.SIGINT), out
    assert not list((tmp_path / "store").glob(".part-*")) and len(content(tmp_path / "store")) >= 1


def test_two_runs_share_a_store(start, tmp_path):
    """Some tasks are the same, some are not; the second starts while the first works, and neither loses anything."""
    one = start(names="abcde")
    one.wait_for_tasks(2)
    two = start(names="cdefg")
    results = [one.end(), two.end()]
    assert [status for status, _ in results] == [0, 0], results
    assert not any("tried again" in out or "failed: " in out for _, out in results)
    assert len(list((tmp_path / "store").glob("noted-*"))) == 7 + 10 + 10 and not list(
        (tmp_path / "store").glob(".part-*")
    )


def test_a_script_without_a_main_guard_is_told(start):
    script = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    status, out = start(script=script).end()
    assert status == 1 and out.count("Traceback") == 1
    assert (
        'RuntimeError: this script starts processes while it is read: put the call under if __name__ == "__main__":'
        in out
    )
