"""What a run says of itself: on a terminal a bar, else lines at the start and now and then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rmlab.study import progress
from rmlab.study.progress import Progress


def schedule(done: int, total: int, cost_done: float, cost_left: float):
    return SimpleNamespace(done=done, total=total, cost_done=cost_done, cost_left=cost_left)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.seconds)
    return now


def test_without_a_terminal_a_line_says_what_comes_and_one_every_half_minute_how_far_it_is(clock, capsys):
    state = schedule(0, 8, 0.0, 1200.0)
    with Progress(state, 3, 4, quiet=False) as shown:
        assert capsys.readouterr().out == "8 tasks to run, 3 cached, 4 workers, about 5.0 minutes\n"
        clock.seconds += 29
        shown.show()
        assert capsys.readouterr().out == ""
        clock.seconds += 1  # nothing has ended, and still a line
        shown.show()
        assert capsys.readouterr().out == "0/8, about 5.0 minutes left, last: none yet\n"
        state.done, state.cost_done, state.cost_left = 2, 400.0, 800.0
        shown.show(SimpleNamespace(label="train_member"))
        assert capsys.readouterr().out == ""
        clock.seconds += 30
        shown.show()
        assert capsys.readouterr().out == "2/8, about 2.0 minutes left, last: train_member\n"
        shown.say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_quiet_says_nothing(clock, capsys, monkeypatch):
    for terminal in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", terminal)
        with Progress(schedule(0, 8, 0.0, 10.0), 0, 1, quiet=True) as shown:
            clock.seconds += 100
            shown.show(SimpleNamespace(label="x"))
            shown.say("a line")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    state = schedule(1, 2, 30.0, 10.0)
    with Progress(state, 0, 2, quiet=False) as shown:
        shown.show(SimpleNamespace(label="train_member"))
        shown.say("a line")
    out = capsys.readouterr().out
    assert "75%" in out and "last: train_member" in out and "a line" in out and "tasks to run" not in out
