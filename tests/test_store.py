"""Artifacts: what decides their keys, that they are whole, and that every change of them is named."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rmlab import store as module
from rmlab.store import SourcesEdited, Store, Task, device_kind, versions


@dataclass(frozen=True)
class Text:
    text: str = "a"


@dataclass(frozen=True)
class Other:
    text: str = "a"

    def gold(self) -> int:
        return 1

    def best(self) -> int:
        return 2


@dataclass(frozen=True)
class Nested:
    source: object = Text()
    sizes: tuple = (1, 2.5, None, True)
    options: dict = dataclasses.field(default_factory=lambda: {"rate": 0.1})


def write(out: Path, settings: Text) -> None:
    (out / "in").mkdir()
    (out / "text").write_text(settings.text)
    np.save(out / "in" / "array.npy", np.arange(100.0))


def double(out: Path, settings: Text, source: Path) -> None:
    (out / "text").write_text((source / "text").read_text() * 2)


def join(out: Path, settings: Text, parts: list[Path]) -> None:
    (out / "text").write_text("".join((p / "text").read_text() for p in parts))


def broken(out: Path, settings: Text) -> None:
    (out / "half").write_text("x")
    raise RuntimeError("no")


def moved_away(out: Path, settings: Text) -> None:
    """As if another process had swept its folder, and the stage had gone on."""
    (out / "first").write_text("x")
    shutil.rmtree(out)
    if settings.text == "again":
        out.mkdir()
        (out / "second").write_text("x")


def full(out: Path, settings: Text) -> None:
    (out / "half").write_text("x")
    with open("/dev/full", "w") as file:
        file.write("x" * 10_000)


def slow(out: Path, settings: Text) -> None:
    for i in range(10):
        (out / str(i)).write_text(settings.text)
        time.sleep(0.02)


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_a_task_runs_once_and_is_whole(tmp_path):
    store = Store(tmp_path)
    first = Task(write, Text("a"))
    second = Task(double, Text(), {"source": first})
    third = Task(join, Text(), {"parts": [first, second]})
    for task in (first, second, third):
        store.run(task)
    assert (store.path(third) / "text").read_text() == "aaa"
    before = store.path(third).stat().st_mtime_ns
    assert store.run(third).stat().st_mtime_ns == before and store.verify(third) is None
    assert names(tmp_path) == sorted(store.path(t).name for t in (first, second, third))
    assert store.path(first).name == f"write-{first.key}" and len(first.key) == 20


def test_done_json_says_what_an_artifact_is(tmp_path):
    store, settings = Store(tmp_path), Nested(Other("b"))
    first = Task(write, Text())
    task = Task(join, settings, {"parts": [first]}, name="a name")
    store.run(first)
    assert store.facts(task) == {}
    store.run(task)
    facts = store.facts(task)
    assert facts["stage"] == "join" and facts["key"] == task.key and facts["inputs"] == {"parts": [first.key]}
    assert facts["settings"] == {
        "class": "Nested",
        "source": {"class": "Other", "text": "b"},
        "sizes": [1, 2.5, None, True],
        "options": {"rate": 0.1},
    }
    assert facts["versions"] == versions() and facts["device"] == device_kind() and facts["seconds"] >= 0
    assert facts["files"] == {
        "text": {"size": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    }


@pytest.mark.parametrize(
    "task",
    [Task(broken, Text()), Task(full, Text()), Task(moved_away, Text("")), Task(moved_away, Text("again"))],
)
def test_a_stage_that_fails_leaves_nothing(tmp_path, task):
    with pytest.raises((RuntimeError, OSError), match=r"^no$|No space|was removed while it ran"):
        Store(tmp_path).run(task)
    assert names(tmp_path) == []


def test_a_disk_that_is_full_while_an_artifact_is_filed_leaves_nothing(tmp_path, monkeypatch):
    store, task, real = Store(tmp_path), Task(write, Text()), os.fsync
    left = 0

    def fsync(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for before in range(5):  # two files, done.json, two folders; the sixth comes when it stands in its place
        left = before
        with pytest.raises(OSError, match="No space"):
            store.run(task)
        assert not names(tmp_path)
    left = 6
    store.run(task)
    assert left == 0 and store.verify(task) is None


def test_an_input_that_is_not_there_is_named(tmp_path):
    first = Task(write, Text())
    with pytest.raises(
        FileNotFoundError, match=rf"write-{first.key}, an input of double, is not in the store"
    ):
        Store(tmp_path).run(Task(double, Text(), {"source": first}))
    assert not names(tmp_path)


# keys


def test_what_decides_the_bytes_decides_the_key():
    one, two = Task(write, Text("a")), Task(write, Text("b"))
    tasks = [
        one,
        two,
        Task(write, Other("a")),
        Task(slow, Text("a")),
        Task(write, Text("a"), code=(Other.gold,)),
        Task(write, Text("a"), code=(Other.best,)),
        Task(write, Text("a"), code=(Other,)),
        Task(write, Text("a"), code=("rmlab.noise",)),
        Task(double, Text(), {"source": one}),
        Task(double, Text(), {"source": two}),
        Task(double, Text(), {"source": [one]}),
        Task(join, Text(), {"parts": [one, two]}),
        Task(join, Text(), {"parts": [two, one]}),
        Task(write, Nested()),
        Task(write, Nested(Other())),
        Task(write, Nested(sizes=(1,))),
        Task(write, Nested(options={"rate": 0.2})),
    ]
    assert len({t.key for t in tasks}) == len(tasks)
    assert Task(write, Text("a"), cost=9.0, name="other").key == one.key
    assert Task(write, Text("a"), code=(Other("x").gold,)).key == tasks[4].key


@pytest.mark.parametrize("library", ["torch", "transformers", "numpy"])
def test_versions_and_device_decide_every_key(monkeypatch, tmp_path, library):
    def keys():
        first = Task(write, Text())
        return {first.key, Task(double, Text(), {"source": first}).key}

    before = keys()
    monkeypatch.setenv("RMLAB_DEVICE", "cuda:1")
    on_cuda = keys()
    monkeypatch.setenv("RMLAB_DEVICE", "cuda")
    assert keys() == on_cuda and not before & on_cuda
    monkeypatch.setenv("RMLAB_DEVICE", "cpu")
    on_cpu, real = keys(), versions()
    monkeypatch.setattr(module, "versions", lambda: {**real, "scipy": "9.9.9", "machine": "other"})
    assert keys() == on_cpu
    monkeypatch.setattr(module, "versions", lambda: {**real, library: "9.9.9"})
    assert not keys() & on_cpu
    store, task = Store(tmp_path), Task(write, Text())
    store.run(task)
    assert store.facts(task)["versions"][library] == "9.9.9"


def test_a_device_is_known_by_kind(monkeypatch):
    monkeypatch.delenv("RMLAB_DEVICE", raising=False)
    import torch

    assert device_kind() == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("RMLAB_DEVICE", "cuda:3")
    assert device_kind() == "cuda"


def test_a_task_travels_with_its_key_and_without_code(monkeypatch):
    first = Task(write, Text(), code=(Other.gold,))
    second = Task(double, Text(), {"source": first}, code=("rmlab.noise",))
    there = pickle.loads(pickle.dumps(second))
    monkeypatch.setattr(module, "versions", lambda: {name: "9.9.9" for name in versions()})
    assert there.key == second.key and there.parents[0].key == first.key and there.code == ()
    assert there.code_and_sources == second.code_and_sources and len(there.code_and_sources) == 2


def test_what_cannot_be_a_task_is_refused():
    for stage in (functools.partial(write), Store, "write"):
        with pytest.raises(ValueError, match=r"^stage = .*: give a function of a module"):
            Task(stage, Text())
    for settings in ({"text": "a"}, Text, None):
        with pytest.raises(ValueError, match=r"^settings of write = .*: give a frozen dataclass"):
            Task(write, settings)
    with pytest.raises(ValueError, match=r"^inputs of double = 'source': give a task or a list of tasks"):
        Task(double, Text(), {"source": Path("x")})
    with pytest.raises(ValueError, match=r"^settings of write: text = array\(\[1\]\): give numbers, text"):
        _ = Task(write, Text(np.array([1]))).key
    with pytest.raises(ValueError, match=r"^code = "):
        _ = Task(lambda out, settings: None, Text()).key


def test_a_plan_of_a_thousand_tasks_reads_no_source_twice(monkeypatch):
    """What a key costs is parsing: after the first key there is none left, however many tasks there are."""
    from rmlab import syntax
    from rmlab.recipe import Recipe

    def plan() -> Task:
        parts = [Task(write, Nested(Recipe("r", None, seed=i)), code=(Other.gold,)) for i in range(100)]
        members = [
            Task(double, Nested(Recipe("r", None, seed=i)), {"source": parts[i % 100]}) for i in range(900)
        ]
        return Task(join, Text(), {"parts": [*parts, *members]})

    first = plan().key
    monkeypatch.setattr(syntax.ast, "parse", lambda *_: pytest.fail("a source is parsed again"))
    assert plan().key == first


# changes of what is stored


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


CHANGES = {
    "cut": (
        lambda f: (f / "in/array.npy").write_bytes((f / "in/array.npy").read_bytes()[:50]),
        r"in/array\.npy has 50 bytes where 928",
    ),
    "zeroed": (lambda f: (f / "in/array.npy").write_bytes(bytes(928)), r"in/array\.npy has other bytes"),
    "one bit": (lambda f: flip(f / "in/array.npy"), r"in/array\.npy has other bytes"),
    "emptied file": (lambda f: (f / "text").write_text(""), r"text has 0 bytes where 1 "),
    "deleted": (lambda f: (f / "text").unlink(), r"text is missing"),
    "replaced by a folder": (lambda f: ((f / "text").unlink(), (f / "text").mkdir()), r"text is missing"),
    "an extra file": (lambda f: (f / "in/more").write_text("x"), r"in/more was not written by its stage"),
    "emptied folder": (lambda f: (shutil.rmtree(f), f.mkdir()), r"done\.json is missing or cannot be read"),
    "done.json deleted": (lambda f: (f / "done.json").unlink(), r"done\.json is missing or cannot be read"),
    "done.json cut": (
        lambda f: (f / "done.json").write_bytes((f / "done.json").read_bytes()[:100]),
        r"done\.json is missing or",
    ),
    "done.json no table": (lambda f: (f / "done.json").write_text("[1]"), r"done\.json is missing or"),
    "done.json edited": (
        lambda f: (f / "done.json").write_text((f / "done.json").read_text().replace('"cpu"', '"tpu"')),
        r"done\.json is not as",
    ),
    "of another key": (
        lambda f: (f / "done.json").write_bytes((f.parent / "other.json").read_bytes()),
        r"done\.json is not as",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_an_artifact_is_named_and_it_is_made_again(tmp_path, change, monkeypatch):
    monkeypatch.setenv("RMLAB_DEVICE", "cpu")
    store, task, other = Store(tmp_path), Task(write, Text()), Task(write, Text("other"))
    folder = store.run(task)
    shutil.copy(store.run(other) / "done.json", tmp_path / "other.json")
    before = (folder / "in/array.npy").read_bytes()
    act, fault = CHANGES[change]
    act(folder)
    line = store.verify(task)
    assert re_match(rf"{folder.name}: {fault}", line) and "\n" not in line
    store.discard(task)
    assert not folder.exists() and store.verify(other) is None
    store.run(task)
    assert store.verify(task) is None and (folder / "in/array.npy").read_bytes() == before


def re_match(pattern: str, line: str) -> bool:
    import re

    return re.match(pattern, line) is not None


def test_what_stands_there_without_its_done_json_is_replaced(tmp_path):
    store, task = Store(tmp_path), Task(write, Text())
    store.path(task).mkdir(parents=True)
    (store.path(task) / "half").write_text("x")
    assert not store.has(task)
    store.run(task)
    assert store.verify(task) is None and names(tmp_path) == [store.path(task).name]


def test_many_who_make_the_same_artifact_all_end_well(tmp_path):
    """Nothing half is ever filed, and nothing else is left."""
    store, errors = Store(tmp_path), []

    def work(task):
        try:
            store.run(task)
        except BaseException as error:
            errors.append(error)

    tasks = [Task(slow, Text("x")), Task(slow, Text("y"))]
    threads = [threading.Thread(target=work, args=(task,)) for task in tasks for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert all(not store.has(task) or store.verify(task) is None for task in tasks)
        time.sleep(0.005)
    assert not errors and all(store.verify(task) is None for task in tasks)
    assert names(tmp_path) == sorted(store.path(task).name for task in tasks)


def test_code_that_was_edited_meanwhile_is_not_filed(tmp_path, monkeypatch):
    """Before a stage runs and while it runs; an edit of other code does no harm."""
    (tmp_path / "edited_stage.py").write_text(
        "import os\nfrom pathlib import Path\n\ndef stage(out, settings):\n    (out / 'text').write_text('x')\n"
        "    if settings.text:\n        Path(__file__).write_text(Path(__file__).read_text() + '# edited')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import edited_stage

    store = Store(tmp_path / "store")
    still, edits, late = (Task(edited_stage.stage, Text(t)) for t in ("", "edits", "later"))
    keys = [t.key for t in (still, edits, late)]
    assert store.run(still).is_dir() and len(set(keys)) == 3
    with pytest.raises(SourcesEdited, match=r"edited_stage\.py was edited after .*: stage is not filed"):
        store.run(edits)
    with pytest.raises(SourcesEdited, match=r"edited_stage\.py was edited"):
        store.run(pickle.loads(pickle.dumps(late)))  # as another process gets it
    assert names(tmp_path / "store") == [store.path(still).name]
    store.run(Task(write, Text()))
