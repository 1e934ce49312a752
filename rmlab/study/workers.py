"""One-thread processes that run one task at a time and end with the process that started them."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from multiprocessing import connection, current_process, get_context, parent_process
from pathlib import Path
from typing import NamedTuple

from rmlab.store import SourcesEdited, Store, Task

UNGUARDED = 78  # exit status of a process that found itself running its parent's script
LOG_LINES = 20
PATIENCE = 5  # seconds that a process has to end by itself
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Outcome(NamedTuple):
    """How a task ended; no error: well."""

    error: str = ""  # one line
    traceback: str = ""
    edited: bool = False  # a `SourcesEdited`
    log: str = ""  # the last lines that the task printed


class Worker:
    """A process with its own log and, where there is one, its own CUDA device; the first task starts it."""

    def __init__(self, store: Store, log: Path, device: str | None):
        self.store, self.log, self.device = store, log, device
        self.process = None
        self.task: Task | None = None

    def begin(self, task: Task) -> None:
        """Hand a task over."""
        self.task = task
        if self.process is None:
            self._start()
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is dead; `finish` will say so

    def finish(self) -> tuple[Task, Outcome]:
        """The task and how it ended, once `wait_for` has named this worker; one that is dead is replaced by the next `begin`."""
        task, self.task = self.task, None
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            if code == UNGUARDED:
                refuse = 'this script starts processes while it is read: put the call under if __name__ == "__main__":'
                raise RuntimeError(refuse) from None
            ending = f"signal {-code}" if code < 0 else f"exit status {code}"
            outcome = Outcome(f"its process ended with {ending}")
            self.end()
        if outcome.error and self.log.exists():
            lines = self.log.read_text(errors="replace").splitlines()
            outcome = outcome._replace(log="\n".join(lines[-LOG_LINES:]))
        return task, outcome

    def kill(self) -> None:
        """End the process, whatever it does, without waiting for its end."""
        if self.process is not None and self.process.pid is not None:
            self.process.kill()

    def leave(self) -> None:
        """Let a process without a task end by itself, so that it gives back what it holds."""
        if self.process is not None and self.task is None:
            self.connection.close()
            self.process.join(PATIENCE)

    def end(self) -> None:
        """End the process and what belongs to it."""
        self.kill()
        if self.process is not None and self.process.pid is not None:
            self.process.join()
            self.connection.close()
        self.process = None

    def _start(self) -> None:
        self.log.unlink(missing_ok=True)
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.store, self.log))
        # in the environment from the first moment on: numpy and torch read their threads when they are loaded
        theirs_only = ENVIRONMENT | ({"RMLAB_DEVICE": self.device} if self.device else {})
        before = {name: os.environ.get(name) for name in theirs_only}
        os.environ.update(theirs_only)
        try:
            self.process.start()
        finally:
            theirs.close()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def wait_for(crew: list[Worker], seconds: float) -> list[Worker]:
    """The busy workers whose task has ended, or who are dead; empty after `seconds` without any."""
    busy = {worker.connection: worker for worker in crew if worker.task}
    return [busy[c] for c in connection.wait(list(busy), timeout=seconds)]


def refuse_unguarded() -> None:
    """End a worker that runs its parent's script again, as one without a main guard makes it; the parent says why."""
    if getattr(current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def _serve(ours: connection.Connection, store: Store, log: Path) -> None:
    """A worker's life: take a task, run it, say how it ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    with contextlib.suppress(EOFError):  # the parent has gone
        while True:
            task = ours.recv()
            os.ftruncate(output, 0)
            ours.send(_outcome(store, task))


def _outcome(store: Store, task: Task) -> Outcome:
    """Run a task."""
    try:
        store.run(task)
    except SourcesEdited as error:
        return Outcome(str(error), edited=True)
    except BaseException as error:
        lines = "".join(traceback.format_exception_only(error)).splitlines()
        return Outcome("; ".join(lines), traceback.format_exc())
    return Outcome()


def _end_with_parent() -> None:
    """Whatever ends the parent, a signal that it cannot catch too, ends its workers; what they had not finished is made again."""
    connection.wait([parent_process().sentinel])
    os._exit(1)
