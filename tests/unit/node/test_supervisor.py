"""The supervisor counts seconds that go only forward: a clock that is set back stops nothing."""

import itertools
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raypost.node import clock, supervisor
from raypost.node.process import SiteProcess


class Stop:
    """Stands for the signal: set by a timer."""

    def __init__(self, after_s: float) -> None:
        self.is_set = False
        self.reading, self._writing = os.pipe()
        self.timer = threading.Timer(after_s, self._set)

    def _set(self) -> None:
        self.is_set = True
        os.write(self._writing, b"x")


@pytest.fixture
def clock_set_back(monkeypatch) -> None:
    """The machine's clock is an hour earlier at each look, as when it is corrected again and again."""
    hours = itertools.count()
    begin = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    monkeypatch.setattr(clock.SystemClock, "now", lambda self: begin - timedelta(hours=next(hours)))


def test_what_died_is_started_again_after_the_clock_was_set_back(tmp_path, monkeypatch, clock_set_back) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    lives = tmp_path / "lives"
    child = supervisor._Child(SiteProcess("dying", "dying_process", (str(lives),)), None, is_verbose=False)
    stop = Stop(2.5)
    stop.timer.start()
    supervisor._watch([child], None, stop, None, as_json=True)
    child.tell_to_stop()
    child.stop(5)
    assert len(lives.read_text().splitlines()) >= 3


def test_one_that_does_not_stop_is_killed_in_time_whatever_the_clock_says(monkeypatch, clock_set_back) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    child = supervisor._Child(SiteProcess("deaf", "deaf_process"), None, is_verbose=False)
    child.ensure(1e9)
    stopping = threading.Thread(target=child.stop, args=(0.5,), daemon=True)
    stopping.start()
    stopping.join(10)
    is_left = stopping.is_alive()
    if is_left:
        os.kill(child._pid, signal.SIGKILL)
        stopping.join()
    assert not is_left
