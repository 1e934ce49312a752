"""How far a run is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time

from rmlab.store import Task
from rmlab.study.schedule import Schedule

EVERY = 30.0  # seconds at most between two lines


class Progress:
    """A `with` block that shows how far a schedule is, weighed by what its tasks cost."""

    def __init__(self, schedule: Schedule, cached: int, workers: int, quiet: bool):
        from rich.console import Console

        console = Console()
        self.schedule, self.workers = schedule, workers
        self.lines = not quiet and not console.is_terminal
        self.bar = _bar(console) if not quiet and console.is_terminal else None
        self.last, self.done = "none yet", 0
        self.began = self.said = time.perf_counter()
        self.start_line = f"{schedule.total} tasks to run, {cached} cached, {workers} workers, about {self.minutes():.1f} minutes"

    def __enter__(self) -> Progress:
        if self.lines:
            print(self.start_line, flush=True)
        if self.bar:
            self.bar.start()
            self.line = self.bar.add_task(f"study, {self.workers} workers")
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, task: Task | None = None) -> None:
        """Say how far the schedule is, after `task` ended or just because time goes by."""
        schedule, now = self.schedule, time.perf_counter()
        self.last = task.label if task else self.last
        if self.bar:
            total = schedule.cost_done + schedule.cost_left
            description = f"last: {self.last}"
            self.bar.update(self.line, completed=schedule.cost_done, total=total, description=description)
        if self.lines and now - self.said >= EVERY:
            self.said = now
            counts = f"{schedule.done}/{schedule.total}"
            print(f"{counts}, about {self.minutes():.1f} minutes left, last: {self.last}", flush=True)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.lines or self.bar:
            print(text, flush=True)

    def minutes(self) -> float:
        """Minutes left: by the pace so far, before the first task ends by the costs alone."""
        done, left = self.schedule.cost_done, self.schedule.cost_left
        seconds = left / self.workers
        if done:
            seconds = (time.perf_counter() - self.began) * left / done
        return seconds / 60


def _bar(console):
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        speed_estimate_period=600,
    )
