"""Work that begins before it is known that somebody wants what it gives, so that waiting for others costs no time.

Only what changes nothing may be done so: looking, and asking a server.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead:
    """Work of one command, in threads, each under a name that says all that the result depends on.

    ``stop`` ends what nobody came for; then it is as new.
    """

    def __init__(self) -> None:
        self._begun: dict[str, Future[Any]] = {}
        self._threads: list[threading.Thread] = []
        self._programs: set[subprocess.Popen[Any]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def begin(self, name: str, work: Callable[[], object]) -> None:
        """Do ``work`` meanwhile, unless work of this name was begun before."""
        if name not in self._begun:
            future = self._begun[name] = Future()
            thread = threading.Thread(target=_finish, args=(future, work), name="reprobox-ahead", daemon=True)
            self._threads.append(thread)
            thread.start()

    def answer(self, name: str, work: Callable[[], T]) -> T:
        """What the work of this name gave, or raised, waiting for it; where none was begun, ``work`` is done now."""
        future = self._begun.get(name)
        return work() if future is None else future.result()

    @contextlib.contextmanager
    def running(self, program: subprocess.Popen[Any]) -> Iterator[None]:
        """While this is held, ``stop`` ends the program, for which the caller waits."""
        with self._lock:
            self._programs.add(program)
            if self._stopped:
                program.kill()
        try:
            yield
        finally:
            with self._lock:
                self._programs.discard(program)

    def stop(self) -> None:
        """End the programs that run, wait for the threads, and forget all answers."""
        with self._lock:
            self._stopped = True
            for program in self._programs:
                program.kill()
        for thread in self._threads:
            thread.join()
        self._begun.clear()
        self._threads.clear()
        self._stopped = False


def _finish(future: Future[Any], work: Callable[[], object]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again where somebody asks
        future.set_exception(error)
