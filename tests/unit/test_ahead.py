"""What begins before it is wanted: an answer is had once, errors come to who asks, and nothing is left behind."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from reprobox.ahead import Ahead
from reprobox.errors import FetchError


def test_what_was_begun_is_not_done_again():
    ahead, done = Ahead(), []
    for _ in range(2):
        ahead.begin("one", lambda: done.append(threading.current_thread().name))
    ahead.answer("one", lambda: done.append("again"))
    assert done == ["reprobox-ahead"]


def test_what_was_not_begun_is_done_now():
    ahead = Ahead()
    ahead.begin("one", lambda: 1)
    assert ahead.answer("other", lambda: 2) == 2


def test_an_error_comes_to_who_asks_and_to_nobody_else():
    def fail() -> None:
        raise FetchError("no answer")

    ahead = Ahead()
    ahead.begin("one", fail)
    ahead.stop()
    ahead.begin("one", fail)
    with pytest.raises(FetchError, match="no answer"):
        ahead.answer("one", lambda: None)


def sleeping(ahead: Ahead, started: threading.Event) -> int:
    program = subprocess.Popen(["sleep", "60"])
    with ahead.running(program):
        started.set()
        return program.wait()


def test_what_nobody_came_for_is_ended():
    ahead, started = Ahead(), threading.Event()
    ahead.begin("sleep", lambda: sleeping(ahead, started))
    started.wait(10)
    before = time.monotonic()
    ahead.stop()
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "reprobox-ahead"]


def test_a_program_that_starts_too_late_is_ended_too():
    ahead, go = Ahead(), threading.Event()

    def late() -> int:
        go.wait(10)
        return sleeping(ahead, threading.Event())

    ahead.begin("late", late)
    threading.Timer(0.2, go.set).start()
    before = time.monotonic()
    ahead.stop()
    assert time.monotonic() - before < 10


def test_afterwards_it_is_as_new():
    ahead, started = Ahead(), threading.Event()
    ahead.begin("sleep", lambda: sleeping(ahead, started))
    ahead.stop()
    assert ahead.answer("sleep", lambda: "asked anew") == "asked anew"
    program = subprocess.Popen(["true"])
    with ahead.running(program):
        assert program.wait() == 0
