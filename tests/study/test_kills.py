"""A study that is killed again and again goes on to the same bytes, with no orphan and no leftover.

`RMLAB_KILLS=50 pytest tests/study/test_kills.py` kills each of the three tiny studies fifty times; unless said, one of them
is killed three times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RMLAB_KILLS", "3"))
STUDIES = ["tiny", "tiny_constructions", "tiny_ppo"] if "RMLAB_KILLS" in os.environ else ["tiny"]
TIMED = {"costs.csv"}  # seconds and megabytes are of a run, not of a recipe

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def children(pid: int) -> list[int]:
    """Processes that a process started and that are still there, zombies left out."""
    out = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            out.append(int(folder.name))
    return out


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tables(folder: Path) -> dict[str, bytes]:
    kept = (f for f in folder.iterdir() if f.suffix in {".csv", ".npz"} and f.name not in TIMED)
    return {f.name: f.read_bytes() for f in kept}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_killed_study_goes_on_to_the_same_bytes(name, tmp_path, tiny_studies):
    command = [sys.executable, "-m", "rmlab", "study", name, "--quiet", "--workers", "2"]
    command += ["--out", str(tmp_path / "out"), "--artifacts", str(tmp_path / "artifacts")]
    chance, started = random.Random(name), []
    for i in range(KILLS):
        run = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(2, 12))
        workers = children(run.pid)
        started += [run.pid, *workers]
        if i % 3 == 0:
            os.killpg(run.pid, signal.SIGKILL)
        elif i % 3 == 1 and len(workers) > 0:
            os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(chance.uniform(0, 3))
            started += children(run.pid)
            os.kill(run.pid, signal.SIGKILL)
        else:
            os.kill(run.pid, signal.SIGKILL)
        run.wait()
    end = time.time() + 30
    while any(map(alive, started)) and time.time() < end:
        time.sleep(0.1)
    assert not [pid for pid in started if alive(pid)], "orphans"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert tables(tmp_path / "out" / tiny_studies[name].name) == tables(tiny_studies[name])
    assert not [f.name for f in (tmp_path / "artifacts").iterdir() if f.name.startswith(".")]
    assert not [f.name for f in (tmp_path / "out").rglob(".*")]
