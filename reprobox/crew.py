"""Threads that move bytes for one command, and tell the calling thread what happens, so that it can tell people."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from reprobox.download.transfer import Watch

T = TypeVar("T")

#: Seconds after which a thread that waits for others looks up. Where Python waits without an end, it does not notice an
#: interrupt that comes just as it begins to.
LOOKS_UP = 0.5


class Progress(Protocol):
    """Shows a transfer to people. Every call comes from the thread that began it."""

    def start(self, size: int, files: int) -> None:
        """``files`` files of ``size`` bytes together are to be moved."""

    def advance(self, count: int) -> None:
        """``count`` more bytes are in place (those of an earlier try too); negative when bytes were thrown away."""

    def done(self, name: str) -> None:
        """One file is complete, and checked."""

    def note(self, text: str) -> None:
        """Something worth a line: a retry, another process that is waited for."""

    def stop(self) -> None:
        """It is over, however it ended."""


class Silent:
    """Progress that is shown to nobody."""

    def start(self, size: int, files: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def done(self, name: str) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class StoppedError(Exception):
    """The work is over; a worker finds out at its next chunk."""


_Event: TypeAlias = Callable[[Progress], None]


class Errand(Watch):
    """Passes on what happens in a worker to the calling thread, and stops the transfer when the work is over."""

    def __init__(self, events: queue.SimpleQueue[_Event | None], stop: threading.Event) -> None:
        self._events = events
        self._stop = stop

    def advance(self, count: int) -> None:
        if self._stop.is_set():
            raise StoppedError
        self._events.put(lambda progress: progress.advance(count))

    def note(self, text: str) -> None:
        self._events.put(lambda progress: progress.note(text))

    def done(self, name: str) -> None:
        """See :meth:`Progress.done`."""
        self._events.put(lambda progress: progress.done(name))

    def sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise StoppedError


Task: TypeAlias = Callable[[Errand], None]


def taken(from_others: queue.SimpleQueue[T]) -> T:
    """The next thing that other threads put into a queue; an interrupt ends the wait whenever it comes."""
    while True:
        with contextlib.suppress(queue.Empty):
            return from_others.get(timeout=LOOKS_UP)


class Crew:
    """Workers for a list of tasks.

    The threads are daemons: after Ctrl-C nobody waits for a silent server, and a partial file may stop anywhere.
    """

    def __init__(self) -> None:
        self._todo: collections.deque[Task] = collections.deque()
        self._events: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        self._stop = threading.Event()

    def work(self, tasks: Sequence[Task], progress: Progress, most: int) -> None:
        """Until every task is done or has failed. Raises what a task raised: then the others stop."""
        self._todo.extend(tasks)
        workers = min(most, len(tasks))
        for _ in range(workers):
            threading.Thread(target=self._worker, name="reprobox-fetch", daemon=True).start()
        try:
            while workers:
                if event := taken(self._events):
                    event(progress)
                else:
                    workers -= 1
        finally:
            self._stop.set()

    def _worker(self) -> None:
        try:
            while not self._stop.is_set() and (task := self._next()):
                task(Errand(self._events, self._stop))
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again in the calling thread)
            self._events.put(_raising(error))
        self._events.put(None)

    def _next(self) -> Task | None:
        try:
            return self._todo.popleft()
        except IndexError:
            return None


def _raising(error: BaseException) -> _Event:
    def event(_: Progress) -> None:
        raise error

    return event
