"""Where results live: artifacts by content hash, written whole or not at all, checked before they are read again.

An artifact's key hashes what decides its bytes: the code that computes them, its settings, the keys of its inputs, the
versions of what computes and the kind of device. A change invalidates what depends on it and nothing else, and a run that
was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rmlab.files import part_folder, seal, sweep, sync_folder, sync_folders, write_atomic
from rmlab.fingerprint import code_fingerprint, source_stamps
from rmlab.recipe import digest, require

KEYED_VERSIONS = ("torch", "transformers", "numpy")


class SourcesEdited(RuntimeError):
    """Code was edited after keys were made from it: what runs now may not be what the keys say."""


@dataclass(frozen=True, eq=False)
class Task:
    """A stage to run: `stage(out, settings, **inputs)` writes files into the folder `out`.

    Parameters
    ----------
    stage : a function of a module
    settings : a frozen dataclass of numbers, text, tuples and further dataclasses
    inputs : argument names to tasks or lists of tasks; the stage receives their folders
    code : further functions, methods or classes, or their names "rmlab.reward.heads:train", whose code decides the bytes
        although the stage's own does not name them
    cost : a guess in seconds, for the order and the progress alone
    name : what progress and reports call it, the stage's name unless said; no part of the key
    """

    stage: Callable
    settings: object
    inputs: dict[str, Task | list[Task]] = field(default_factory=dict)
    code: tuple = ()
    cost: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        require(inspect.isfunction(self.stage), "stage", self.stage, "a function of a module")
        frozen = dataclasses.is_dataclass(self.settings) and self.settings.__dataclass_params__.frozen
        where = f"settings of {self.label}"
        require(frozen and not isinstance(self.settings, type), where, self.settings, "a frozen dataclass")
        for name, value in self.inputs.items():
            tasks = all(isinstance(t, Task) for t in _listed(value))
            require(tasks, f"inputs of {self.label}", name, "a task or a list of tasks for each")

    def __getstate__(self) -> dict:
        """What travels to another process: the key as it is here, and no `code`, which that process need not import."""
        kept = {"key": self.key, "code_and_sources": self.code_and_sources}
        return {**self.__dict__, **kept, "code": ()}

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.stage.__name__

    @property
    def parents(self) -> list[Task]:
        """The tasks whose folders the stage receives."""
        return [t for value in self.inputs.values() for t in _listed(value)]

    @functools.cached_property
    def key(self) -> str:
        """20 hexadecimal digits."""
        known = versions()
        parts = {
            "stage": self.stage.__name__,
            "code": [fingerprint for fingerprint, _ in self.code_and_sources],
            "settings": self.plain_settings,
            "inputs": self.input_keys,
            "versions": {name: known[name] for name in KEYED_VERSIONS},
            "device": device_kind(),
        }
        return digest(parts)[:20]

    @functools.cached_property
    def code_and_sources(self) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        """Fingerprint and files of the stage and of all `code`; kept, so that a task takes them to another process."""
        return [(code_fingerprint(target), source_stamps(target)) for target in (self.stage, *self.code)]

    @property
    def plain_settings(self) -> dict:
        """The settings as JSON takes them, with the class of every dataclass."""
        return _plain(self.settings, f"settings of {self.label}")

    @property
    def input_keys(self) -> dict[str, str | list[str]]:
        """The inputs, each as the keys of its artifacts."""
        return {n: [t.key for t in v] if isinstance(v, list) else v.key for n, v in self.inputs.items()}

    def refuse_edited(self) -> None:
        """Raise `SourcesEdited` if a file that the key read is not as it was then."""
        for path, stamp in [entry for _, files in self.code_and_sources for entry in files.items()]:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if (status.st_mtime_ns, status.st_size) == stamp:
                    continue
            raise SourcesEdited(
                f"{path} was edited after the keys of this run were made: {self.label} is not filed under a key of "
                "other code. Start the run again, in a new process; what is finished stays."
            )


class Store:
    """Artifacts under a folder, `<stage>-<key>/`; one with its `done.json` is complete."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, task: Task) -> Path:
        """Where a task's artifact is or will be."""
        return self.root / f"{task.stage.__name__}-{task.key}"

    def has(self, task: Task) -> bool:
        """Whether it is complete; `verify` says whether it is still what was written."""
        return (self.path(task) / "done.json").is_file()

    def facts(self, task: Task) -> dict:
        """What its `done.json` says: stage, key, settings, inputs, versions, device, seconds, files; {} if it is not there."""
        return json.loads((self.path(task) / "done.json").read_bytes()) if self.has(task) else {}

    def verify(self, task: Task) -> str | None:
        """None if every file is as it was written, else one line: which artifact, which file, what is wrong."""
        folder = self.path(task)
        try:
            facts = json.loads((folder / "done.json").read_bytes())
            whole = facts.pop("digest") == digest(facts) and facts["key"] == task.key
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return f"{folder.name}: done.json is missing or cannot be read"
        if not whole:
            return f"{folder.name}: done.json is not as it was written"
        files = set(_files(folder))
        for name, written in facts["files"].items():
            if name not in files:
                return f"{folder.name}: {name} is missing"
            try:
                now = seal(folder / name)
            except OSError as error:
                return f"{folder.name}: {name} cannot be read ({error.strerror})"
            if now["size"] != written["size"]:
                return f"{folder.name}: {name} has {now['size']} bytes where {written['size']} were written"
            if now["sha256"] != written["sha256"]:
                return f"{folder.name}: {name} has other bytes than were written"
        extra = sorted(files - set(facts["files"]))
        return f"{folder.name}: {extra[0]} was not written by its stage" if extra else None

    def sweep(self) -> None:
        """Remove what dead processes of this host left half done."""
        sweep(self.root)

    def discard(self, task: Task) -> None:
        """Remove an artifact, at once for whoever looks."""
        with part_folder(self.root) as aside, contextlib.suppress(FileNotFoundError):
            os.replace(self.path(task), aside / "discarded")

    def run(self, task: Task) -> Path:
        """Run a task whose inputs are here, in a folder aside, and file it when it is whole."""
        if self.has(task):
            return self.path(task)
        for parent in task.parents:
            if not self.has(parent):
                raise FileNotFoundError(
                    f"{self.path(parent).name}, an input of {task.label}, is not in the store"
                )
        task.refuse_edited()
        folders = {
            name: [self.path(t) for t in value] if isinstance(value, list) else self.path(value)
            for name, value in task.inputs.items()
        }
        with part_folder(self.root) as out:
            held = os.open(out, os.O_RDONLY)  # while it is held, no other folder can have its number
            try:
                began = time.perf_counter()
                task.stage(out, task.settings, **folders)
                seconds = round(time.perf_counter() - began, 2)
                if not out.is_dir() or not os.path.samestat(os.fstat(held), os.stat(out)):
                    raise RuntimeError(
                        f"the folder `out` of {task.label} was removed while it ran: nothing is filed"
                    )
            finally:
                os.close(held)
            self._file(task, out, seconds)
        return self.path(task)

    def _file(self, task: Task, out: Path, seconds: float) -> None:
        """Seal what a stage wrote and move it into place."""
        facts = {
            "stage": task.stage.__name__,
            "key": task.key,
            "settings": task.plain_settings,
            "inputs": task.input_keys,
            "versions": versions(),
            "device": device_kind(),
            "seconds": seconds,
            "files": {name: seal(out / name, sync=True) for name in _files(out)},
        }
        write_atomic(out / "done.json", json.dumps({**facts, "digest": digest(facts)}, indent=1))
        sync_folders(out)
        task.refuse_edited()
        try:
            os.replace(out, self.path(task))
        except OSError:
            if self.has(task):  # another process was first: its bytes are as good
                return
            self.discard(task)  # a folder without its done.json stands there
            os.replace(out, self.path(task))
        sync_folder(self.root)


def versions() -> dict[str, str]:
    """Versions of what decides numbers: those of `KEYED_VERSIONS` are part of every key, all are noted down."""
    return dict(_versions())


def device_kind() -> str:
    """Where stages compute, "cpu" or "cuda": the variable `RMLAB_DEVICE`, or CUDA where there is one."""
    name = os.environ.get("RMLAB_DEVICE", "auto").split(":")[0]
    return ("cuda" if _has_cuda() else "cpu") if name == "auto" else name


def _listed(value: Task | list[Task]) -> list[Task]:
    return value if isinstance(value, list) else [value]


def _plain(value: object, name: str) -> object:
    """A setting as JSON takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **{k: _plain(v, f"{name}: {k}") for k, v in parts.items()}}
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{name}: {k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, name) for v in value]
    simple = value is None or type(value) in (bool, int, float, str)
    require(simple, name, value, "numbers, text, None, tuples, dicts and dataclasses")
    return value


def _files(folder: Path) -> list[str]:
    """Names of an artifact's files, without its done.json."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in names if name != "done.json")


@functools.cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = (*KEYED_VERSIONS, "pandas", "scipy")
    return {
        "python": platform.python_version(),
        **{n: version(n) for n in names},
        "machine": platform.machine(),
    }


@functools.cache
def _has_cuda() -> bool:
    if "+cpu" in _versions()["torch"]:  # a build without CUDA: no need to load it
        return False
    import torch

    return torch.cuda.is_available()
