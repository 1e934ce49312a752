"""Which tasks of a graph are to be run, which can start, and what became of them."""

from __future__ import annotations

import sys

from rmlab.files import require_writable
from rmlab.store import Store, Task

TRIES = 2


class Schedule:
    """The tasks that targets need and the store lacks.

    An artifact that is there is verified before it counts, once, and only if something reads it; what it was made from
    need not be there. `waiting` holds what has not started, {key: task}; `failed` a line for each task that failed twice.
    """

    def __init__(self, targets: list[Task], store: Store):
        self.store = store
        self.waiting: dict[str, Task] = {}
        self.running: dict[str, Task] = {}
        self.here: set[str] = set()  # keys of artifacts that can be read
        self.errors: dict[str, int] = {}
        self.failed: list[str] = []
        self.done = 0
        self.cost_done = 0.0
        for target in targets:
            self.need(target)

    @property
    def total(self) -> int:
        """Tasks that run, ran or wait."""
        return self.done + len(self.failed) + len(self.running) + len(self.waiting)

    @property
    def cost_left(self) -> float:
        """Seconds of one worker, as far as costs tell."""
        return sum(task.cost for task in [*self.waiting.values(), *self.running.values()])

    def need(self, task: Task) -> None:
        """See that a task's artifact can be read, or put the task, and what it needs, on the list."""
        if task.key in self.here or task.key in self.waiting or task.key in self.running:
            return
        if self.store.path(task).exists():
            fault = self.store.verify(task)
            if fault is None:
                self.here.add(task.key)
                return
            print(f"artifact {fault}: it is made again", file=sys.stderr, flush=True)
            require_writable(self.store.root, "artifacts")
            self.store.discard(task)
        for parent in task.parents:
            self.need(parent)
        self.waiting[task.key] = task

    def start(self) -> Task | None:
        """The costliest task whose inputs are here, now running; None if none can start."""
        for task in sorted(self.waiting.values(), key=lambda t: -t.cost):
            if all(parent.key in self.here for parent in task.parents):
                self.running[task.key] = self.waiting.pop(task.key)
                return task
        return None

    def finish(self, task: Task) -> None:
        """A task has run."""
        del self.running[task.key]
        self.here.add(task.key)
        self.done += 1
        self.cost_done += task.cost

    def retry(self, task: Task, error: str) -> bool:
        """A task has failed: put it back, its inputs checked again; False if it was its last try."""
        del self.running[task.key]
        self.errors[task.key] = self.errors.get(task.key, 0) + 1
        if self.errors[task.key] == TRIES:
            self.failed.append(f"{self.store.path(task).name} ({task.label}) failed: {error}")
            self.cost_done += task.cost
            return False
        self.here -= {parent.key for parent in task.parents}
        self.need(task)
        return True
