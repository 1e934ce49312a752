"""Which tasks run, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rmlab.store import Store, Task
from rmlab.study.schedule import Schedule


@dataclass(frozen=True)
class Text:
    text: str


def write(out: Path, settings: Text, **_) -> None:
    (out / "text").write_text(settings.text)


@pytest.fixture
def graph():
    """a, b -> c -> d"""
    a, b = (Task(write, Text(x), cost=cost) for x, cost in (("a", 1.0), ("b", 2.0)))
    c = Task(write, Text("c"), {"one": a, "all": [a, b]}, cost=4.0)
    return a, b, c, Task(write, Text("d"), {"one": c}, cost=8.0)


def test_inputs_come_first_and_of_what_can_start_the_costliest(graph, tmp_path):
    a, b, c, d = graph
    schedule, store = Schedule([d, c], Store(tmp_path)), Store(tmp_path)
    assert (schedule.total, schedule.cost_left) == (4, 15.0)
    assert [schedule.start(), schedule.start(), schedule.start()] == [b, a, None]
    for task in (a, b):
        store.run(task)
        schedule.finish(task)
    assert (schedule.done, schedule.total, schedule.cost_done, schedule.cost_left) == (2, 4, 3.0, 12.0)
    assert [schedule.start(), schedule.start()] == [c, None]


def test_only_what_is_read_is_looked_at(graph, tmp_path, capsys, monkeypatch):
    a, b, c, d = graph
    store = Store(tmp_path)
    for task in (a, b, c):
        store.run(task)
    (store.path(a) / "text").write_text("changed")
    verified = []
    monkeypatch.setattr(store, "verify", lambda task: verified.append(task) or Store.verify(store, task))
    assert list(Schedule([d], store).waiting) == [d.key] and verified == [c] and capsys.readouterr().err == ""
    (store.path(c) / "text").write_text("changed")
    assert list(Schedule([d, d], store).waiting) == [a.key, c.key, d.key] and verified == [c, c, a, b]
    assert capsys.readouterr().err.count("has 7 bytes where 1 were written: it is made again\n") == 2


def test_a_task_has_two_tries_and_its_inputs_are_checked_between(graph, tmp_path):
    a, _, c, _ = graph
    store = Store(tmp_path)
    schedule = Schedule([c], store)
    for task in (schedule.start(), schedule.start()):
        store.run(task)
        schedule.finish(task)
    assert schedule.start() is c
    store.discard(a)
    assert schedule.retry(c, "an error") and list(schedule.waiting) == [a.key, c.key]
    assert schedule.start() is a and schedule.start() is None
    store.run(a)
    schedule.finish(a)
    assert schedule.start() is c and not schedule.retry(c, "another error")
    assert schedule.failed == [f"{store.path(c).name} (write) failed: another error"]
    assert schedule.start() is None and not schedule.waiting and not schedule.running
