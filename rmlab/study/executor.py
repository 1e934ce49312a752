"""Running a graph of tasks on this machine: one-thread processes side by side, and what fails stops nothing else.

A task that fails, or whose process dies, is tried once more and then reported; what does not depend on it goes on. Ctrl-C,
SIGTERM and the end of this process end the workers at once; what was finished stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rmlab.files import part_folder, require_writable
from rmlab.recipe import require
from rmlab.store import SourcesEdited, Store, Task, device_kind
from rmlab.study.progress import Progress
from rmlab.study.schedule import Schedule
from rmlab.study.workers import Outcome, Worker, refuse_unguarded, wait_for


@dataclass(frozen=True)
class Summary:
    """What became of a run's tasks."""

    done: int
    cached: int  # not run: they, or all that reads them, were in the store
    failed: tuple[str, ...]  # a line each: artifact and error
    skipped: int  # they depend on what failed
    seconds: float

    @property
    def text(self) -> str:
        """Counts in a line, then a line for each that failed."""
        counts = f"{self.done} done, {self.cached} cached, {len(self.failed)} failed, {self.skipped} skipped"
        return "\n".join([f"{counts}, {self.seconds / 60:.1f} minutes", *self.failed])


class StudyFailed(RuntimeError):
    """Tasks failed twice; `summary` says which."""

    def __init__(self, summary: Summary):
        super().__init__(summary.text)
        self.summary = summary


def execute(
    targets: list[Task],
    store: Store,
    workers: int | None = None,
    quiet: bool = False,
    gpus: int | None = None,
) -> Summary:
    """Make `targets` and whatever they need and the store lacks.

    Parameters
    ----------
    targets : tasks; artifacts that are there and are read are verified once, and made again if they changed
    workers : one-thread processes; one a core unless said, on CUDA one a device
    quiet : say nothing but what failed
    gpus : CUDA devices to use, all unless said; workers are pinned to them in turn by `RMLAB_DEVICE`

    Raises
    ------
    StudyFailed, at the end : a task failed twice
    SourcesEdited : code was edited during the run; stops it
    ValueError : workers or gpus below 1, a store that cannot be written to; before anything runs
    """
    refuse_unguarded()
    require(workers is None or workers >= 1, "workers", workers, "at least 1")
    require(gpus is None or gpus >= 1, "gpus", gpus, "at least 1")
    began = time.perf_counter()
    schedule = Schedule(targets, store)
    cached = len(all_tasks(targets)) - schedule.total
    store.sweep()  # also where nothing is left to run: a run may have been killed after its last task
    if schedule.waiting:
        devices = cuda_devices(gpus)
        require_writable(store.root, "artifacts")
        count = min(workers or len(devices) or cores(), len(schedule.waiting))
        with _ended_by_sigterm(), Progress(schedule, cached, count, quiet) as progress:
            _run(schedule, store, count, devices, progress)
    seconds = time.perf_counter() - began
    summary = Summary(schedule.done, cached, tuple(schedule.failed), len(schedule.waiting), seconds)
    if summary.failed:
        raise StudyFailed(summary)
    if not quiet:
        print(summary.text, flush=True)
    return summary


def _run(schedule: Schedule, store: Store, count: int, devices: list[str], progress: Progress) -> None:
    """Keep `count` workers busy until nothing more can start."""
    crew: list[Worker] = []
    with part_folder(store.root) as logs:
        try:
            for i in range(count):
                device = devices[i % len(devices)] if devices else None
                crew.append(Worker(store, logs / f"worker-{i}.log", device))
            while True:
                for worker in [w for w in crew if w.task is None]:
                    task = schedule.start()
                    if task is None:
                        break
                    worker.begin(task)
                if not schedule.running:
                    break
                for worker in wait_for(crew, seconds=1.0):
                    _settle(*worker.finish(), schedule, progress)
                progress.show()
            for worker in crew:
                worker.leave()
        finally:
            for worker in crew:  # all of them, before any is waited for
                worker.kill()
            for worker in crew:
                worker.end()
            store.sweep()


def _settle(task: Task, outcome: Outcome, schedule: Schedule, progress: Progress) -> None:
    """Note how a task ended; report it when it failed for good."""
    if outcome.edited:
        raise SourcesEdited(outcome.error)
    if not outcome.error:
        schedule.finish(task)
    elif schedule.retry(task, outcome.error):
        progress.say(f"{task.label} is tried again: {outcome.error}")
    else:
        settings = json.dumps(task.plain_settings)
        log = f"the end of its log:\n{outcome.log}\n" if outcome.log else ""
        report = f"{schedule.failed[-1]}\nsettings: {settings}\n{log}{outcome.traceback}"
        print(report, file=sys.stderr, flush=True)
    progress.show(task)


def all_tasks(targets: list[Task]) -> list[Task]:
    """Targets and everything they need, parents first, each once."""
    seen: dict[str, Task] = {}

    def visit(task: Task) -> None:
        if task.key not in seen:
            for parent in task.parents:
                visit(parent)
            seen[task.key] = task

    for target in targets:
        visit(target)
    return list(seen.values())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices(gpus: int | None = None) -> list[str]:
    """Values of `RMLAB_DEVICE` for workers: "cuda:0", ...; one if the variable names one, none where stages run elsewhere."""
    if device_kind() != "cuda":
        return []
    name = os.environ.get("RMLAB_DEVICE", "")
    if ":" in name:
        return [name]
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(gpus)]


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a block as Ctrl-C does, where nobody else handles it."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
