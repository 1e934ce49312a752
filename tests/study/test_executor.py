"""A run of tasks: what fails, dies, vanishes or is changed stops nothing else."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rmlab.store import SourcesEdited, Store, Task
from rmlab.study.executor import StudyFailed, all_tasks, cores, cuda_devices, execute

STAGES = '''
import os, signal, shutil, sys, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Text:
    text: str = "a"
    folder: str = ""
    seconds: float = 0.0

def note(settings, line):
    """A line that stays when the process dies; how many there are now."""
    path = Path(settings.folder) / f"{settings.text}.log"
    with path.open("a") as file:
        file.write(line + "\\n")
    return len(path.read_text().splitlines())

def write(out, settings, **parts):
    time.sleep(settings.seconds)
    folders = [f for v in parts.values() for f in (v if isinstance(v, list) else [v])]
    (out / "text").write_text("".join((f / "text").read_text() for f in folders) + settings.text)

def noted(out, settings, **parts):
    note(settings, "start")
    write(out, settings, **parts)

def broken(out, settings, **parts):
    tries = note(settings, "start")
    print("printed by try", tries)
    raise ValueError("two\\nlines of an error")

def broken_once(out, settings):
    if note(settings, "start") == 1:
        raise EOFError("once")
    write(out, settings)

def killed(out, settings):
    note(settings, "start")
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def killed_once(out, settings):
    if note(settings, "start") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    write(out, settings)

def remove(out, settings, **parts):
    """Removes the folder that it is told to, as somebody else might."""
    shutil.rmtree(settings.folder)
    write(out, settings)

def remove_input(out, settings, source):
    shutil.rmtree(source)
    raise FileNotFoundError(source)

def edit(out, settings):
    Path(__file__).write_text(Path(__file__).read_text() + "# edited\\n")
    write(out, settings)

def device(out, settings):
    time.sleep(settings.seconds)
    threads = __import__("torch").get_num_threads() if settings.text == "0" else 1
    (out / "text").write_text(f"{os.environ['RMLAB_DEVICE']} {threads} {os.getpid()}")
'''


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """The stages above, as a module that worker processes can import too."""
    name = f"stages_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(STAGES)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


def text(store: Store, task: Task) -> str:
    return (store.path(task) / "text").read_text()


def starts(folder: Path, name: str) -> int:
    return len((folder / f"{name}.log").read_text().splitlines())


def parts(store: Store) -> list:
    return list(store.root.glob(".part-*"))


def test_a_graph_runs_and_is_kept(stages, tmp_path, capsys):
    store = Store(tmp_path / "store")
    first = [Task(stages.write, stages.Text(x)) for x in "ab"]
    last = Task(stages.write, stages.Text("c"), {"parts": first, "one": first[0]})
    summary = execute([last, first[0]], store, workers=2)
    assert (summary.done, summary.cached, summary.failed, summary.skipped) == (3, 0, (), 0)
    assert text(store, last) == "abac" and not parts(store) and all_tasks([last]) == [*first, last]
    out = capsys.readouterr()
    assert out.out.splitlines()[0] == "3 tasks to run, 0 cached, 2 workers, about 0.0 minutes" and not out.err
    assert out.out.splitlines()[-1].startswith("3 done, 0 cached, 0 failed, 0 skipped, ")
    more = Task(stages.write, stages.Text("d"), {"source": last})
    store.discard(first[1])  # nobody reads it any more
    again = execute([more], store, workers=1, quiet=True)
    assert (again.done, again.cached) == (1, 3) and text(store, more) == "abacd" and not store.has(first[1])
    assert execute([more], store).text.startswith("0 done, 4 cached, 0 failed, 0 skipped, ")
    assert not capsys.readouterr().err


def test_a_run_with_nothing_left_to_do_sweeps_too(stages, tmp_path):
    store, dead = Store(tmp_path / "store"), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    task = Task(stages.write, stages.Text("a"))
    execute([task], store, workers=1, quiet=True)
    (store.root / f".part-{socket.gethostname()}-{dead.pid}-1-aa").mkdir()  # killed after its last task
    assert execute([task], store, quiet=True).cached == 1 and not parts(store)


def test_a_task_that_fails_is_tried_twice_and_stops_only_what_needs_it(stages, tmp_path, capsys):
    store, settings = Store(tmp_path / "store"), stages.Text("bad", str(tmp_path))
    bad = Task(stages.broken, settings, cost=9.0, name="the bad one")
    once = Task(stages.broken_once, stages.Text("once", str(tmp_path)))
    good = [Task(stages.write, stages.Text(x)) for x in "ab"]
    needs = Task(stages.write, stages.Text("needs"), {"source": bad, "good": good})
    target = Task(stages.write, stages.Text("target"), {"source": needs})
    with pytest.raises(StudyFailed) as failure:
        execute([target, once], store, workers=2, quiet=True)
    summary = failure.value.summary
    assert (summary.done, summary.cached, summary.skipped, len(summary.failed)) == (3, 0, 2, 1)
    line = f"broken-{bad.key} (the bad one) failed: ValueError: two; lines of an error"
    assert summary.failed[0].startswith(line) and str(failure.value) == summary.text and line in summary.text
    assert starts(tmp_path, "bad") == 2 == starts(tmp_path, "once") and text(store, once) == "once"
    assert not parts(store) and not store.has(bad)
    out, report = capsys.readouterr()
    assert not out and report.count("the bad one") == 1
    for part in (
        'settings: {"class": "Text", "text": "bad"',
        "printed by try 2",
        "Traceback",
        "in broken",
        "lines of an error",
    ):
        assert part in report
    assert "printed by try 1" not in report and "once" not in report.replace("tried once", "")


def test_a_worker_that_dies_is_its_tasks_failure_and_no_others(stages, tmp_path, capsys):
    store, where = Store(tmp_path / "store"), str(tmp_path)
    dies = Task(stages.killed, stages.Text("dies", where), cost=9.0)
    once = Task(stages.killed_once, stages.Text("once", where), cost=8.0)
    beside = Task(stages.noted, stages.Text("beside", where, seconds=2.0), cost=10.0)
    after = Task(stages.noted, stages.Text("after", where))
    with pytest.raises(StudyFailed) as failure:
        execute([dies, once, beside, after], store, workers=2)
    assert failure.value.summary.failed[0].endswith("failed: its process ended with signal 9")
    assert [starts(tmp_path, x) for x in ("dies", "once", "beside", "after")] == [2, 2, 1, 1]
    assert all(store.verify(t) is None for t in (once, beside, after)) and not parts(store)
    out, report = capsys.readouterr()
    assert "about to die" in report and "killed_once is tried again: its process ended with signal 9" in out


def test_ten_changed_artifacts_are_named_and_made_again(stages, tmp_path, capsys):
    store = Store(tmp_path / "store")
    read = [Task(stages.write, stages.Text(f"part {i}")) for i in range(10)]
    execute(read, store, workers=1, quiet=True)
    before = [text(store, t) for t in read]
    folders = [store.path(t) for t in read]
    (folders[0] / "text").write_text(before[0][:3])  # cut
    (folders[1] / "text").write_bytes(bytes(6))  # zeroed
    (folders[2] / "text").write_text(before[2].replace("2", "3"))  # one bit
    (folders[3] / "text").unlink()
    (folders[4] / "text").write_text("")
    (folders[5] / "more").write_text("x")
    (folders[6] / "done.json").unlink()
    (folders[7] / "done.json").write_text("{}")
    for file in folders[8].iterdir():
        file.unlink()
    (folders[9] / "done.json").write_bytes((folders[8].parent / folders[5].name / "done.json").read_bytes())
    capsys.readouterr()
    target = Task(stages.write, stages.Text("!"), {"parts": read})
    summary = execute([target], store, workers=1, quiet=True)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[0].removeprefix("artifact ") for line in lines) == sorted(
        f.name for f in folders
    )
    assert all(line.endswith(": it is made again") for line in lines) and summary.done == 11
    assert [text(store, t) for t in read] == before and text(store, target) == "".join(before) + "!"
    assert all(store.verify(t) is None for t in all_tasks([target])) and not parts(store)


def test_an_input_that_vanishes_is_made_again_or_the_run_ends(stages, tmp_path, capsys):
    store = Store(tmp_path / "store")
    cached = Task(stages.write, stages.Text("cached"))
    execute([cached], store, workers=1, quiet=True)
    removes = Task(stages.remove, stages.Text("removes", str(store.path(cached))))
    target = Task(stages.write, stages.Text("!"), {"source": cached, "after": removes})
    summary = execute([target], store, workers=1)
    assert summary.done == 3 and text(store, target) == "cachedremoves!"
    always = Task(stages.remove_input, stages.Text(), {"source": cached})
    with pytest.raises(StudyFailed, match=r"remove_input.* failed: FileNotFoundError") as failure:
        execute([always], store, workers=2)
    assert len(failure.value.summary.failed) == 1
    assert "is not in the store" in capsys.readouterr().out


def test_an_edit_during_the_run_stops_it_with_one_error(stages, tmp_path, capsys):
    store = Store(tmp_path / "store")
    edits = Task(stages.edit, stages.Text("x"), cost=9.0)
    after = [Task(stages.write, stages.Text(x), {"source": edits}) for x in "ab"]
    others = [Task(stages.write, stages.Text(x), cost=10.0) for x in "cd"]
    with pytest.raises(SourcesEdited, match=rf"{stages.__name__}\.py was edited after the keys of this run"):
        execute([*after, *others], store, workers=1, quiet=True)
    assert [store.has(t) for t in (*others, edits, *after)] == [True, True, False, False, False]
    assert not parts(store) and capsys.readouterr() == ("", "")


def test_what_cannot_run_is_refused_before_anything_does(stages, tmp_path):
    task = Task(stages.write, stages.Text())
    store = Store(tmp_path / "store")
    for workers in (0, -2):
        with pytest.raises(ValueError, match=f"^workers = {workers}: give at least 1"):
            execute([task], store, workers)
    with pytest.raises(ValueError, match=r"^gpus = 0: give at least 1"):
        execute([task], store, gpus=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ValueError, match=r"^artifacts = '.*file/under': give a folder that can be written to"
    ):
        execute([task], Store(tmp_path / "file" / "under"))
    assert not store.root.exists()


def test_a_store_that_can_only_be_read_serves(stages, tmp_path, monkeypatch):
    store, task = Store(tmp_path / "store"), Task(stages.write, stages.Text())
    execute([task], store, workers=1, quiet=True)

    def refuse(*_, **__):
        raise PermissionError("read-only")

    for call in ("mkdir", "replace", "rename", "unlink", "rmdir"):
        monkeypatch.setattr(os, call, refuse)
    assert execute([task], store).cached == 1


def test_workers_take_gpus_in_turn_and_have_one_thread(stages, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("RMLAB_DEVICE", "cuda")
    assert cuda_devices(3) == ["cuda:0", "cuda:1", "cuda:2"]
    tasks = [Task(stages.device, stages.Text(str(i), seconds=0.5)) for i in range(6)]
    store = Store(tmp_path / "store")
    execute(tasks, store, quiet=True, gpus=2)
    rows = [text(store, t).split() for t in tasks]
    assert {r[0] for r in rows} == {"cuda:0", "cuda:1"} and {r[1] for r in rows} == {"1"}
    assert len({(r[0], r[2]) for r in rows}) == 2  # a worker a GPU
    assert os.environ["RMLAB_DEVICE"] == "cuda" and "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("RMLAB_DEVICE", "cuda:1")
    assert cuda_devices(3) == ["cuda:1"]
    monkeypatch.setenv("RMLAB_DEVICE", "cpu")
    assert cuda_devices(3) == [] and cores() >= 1
