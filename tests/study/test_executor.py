"""Workers end with the process that started them, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys
from rmlab.study.executor import execute
from rmlab.store import Store, Task
from stage import wait_long

if __name__ == "__main__":
    execute([Task(wait_long, {"folder": sys.argv[1], "name": n}) for n in ("a", "b")], Store(sys.argv[1] + "/store"), 2, True)
"""
STAGE = """
import os, pathlib, time

def wait_long(out, folder, name):
    (pathlib.Path(folder) / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(300)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(tmp_path, how):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "go.py").write_text(SCRIPT)
    where = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    parent = subprocess.Popen([sys.executable, tmp_path / "go.py", tmp_path], env={**os.environ, "PYTHONPATH": where})  # fmt: skip
    files = [tmp_path / "a.pid", tmp_path / "b.pid"]
    try:
        end = time.time() + 120
        while time.time() < end and not all(f.exists() and f.read_text() for f in files):
            assert parent.poll() is None
            time.sleep(0.1)
        pids = [int(f.read_text()) for f in files]
        assert all(map(_alive, pids))
        parent.send_signal(how)
        parent.wait(30)
        end = time.time() + 30
        while time.time() < end and any(map(_alive, pids)):
            time.sleep(0.1)
        assert not any(map(_alive, pids))
    finally:
        parent.kill()
