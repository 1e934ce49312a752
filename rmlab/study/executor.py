"""Running a graph of tasks: one-thread processes side by side, a progress bar, Ctrl-C that loses nothing."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process

from rmlab.store import Store, Task


def execute(targets: list[Task], store: Store, workers: int, quiet: bool = False) -> None:
    """Run whatever `targets` need and the store lacks, `workers` one-thread processes at a time."""
    tasks = {t.key: t for t in all_tasks(targets)}
    missing = {k: t for k, t in tasks.items() if not store.has(t)}
    if not missing:
        return
    store.sweep()
    with _progress(sum(t.cost for t in missing.values()), workers, quiet) as show:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
        try:
            running: dict = {}
            while missing or running:
                ready = [t for t in missing.values() if all(store.has(p) for p in t.parents)]
                for task in sorted(ready, key=lambda t: -t.cost)[: workers - len(running)]:
                    running[pool.submit(store.run, task)] = task
                    del missing[task.key]
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    task = running.pop(future)
                    future.result()
                    show(task)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _end_with_parent() -> None:
    """Whatever ends the parent, a signal that it cannot catch too, ends its workers; what they had not finished is made again."""
    connection.wait([parent_process().sentinel])
    os._exit(1)


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


def _progress(total: float, workers: int, quiet: bool):
    """A context that yields `show(task)`: a bar with the time left, weighed by what each stage costs."""
    import contextlib

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console()

    @contextlib.contextmanager
    def bar():
        columns = (TextColumn("{task.description:<22}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
        done, said, started = 0.0, 0.0, time.perf_counter()
        with Progress(
            *columns, console=console, disable=quiet or not console.is_terminal, speed_estimate_period=600
        ) as progress:
            line = progress.add_task(f"study, {workers} workers", total=total)

            def show(task: Task) -> None:
                nonlocal done, said
                done += task.cost
                progress.update(line, advance=task.cost, description=f"done: {task.stage.__name__}")
                spent = time.perf_counter() - started
                if not quiet and not console.is_terminal and (spent - said > 20 or done >= total - 1e-6):
                    said = spent
                    print(
                        f"{done / total:4.0%}  {spent:5.0f} s  about {spent * (total - done) / done:.0f} s left  (last: {task.stage.__name__})",
                        flush=True,
                    )

            yield show

    return bar()
