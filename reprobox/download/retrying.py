"""When a request that failed is worth another attempt, and how long to wait for it."""

from __future__ import annotations

import collections
import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from reprobox.download.transfer import InterruptedTransferError, Location, Watch
from reprobox.errors import FetchError
from reprobox.urls import origin

T = TypeVar("T")
#: A connection that brought this many bytes before it broke earns a fresh set of attempts.
_WORTH_RESUMING = 1 << 20
#: Longest wait that a server may ask for with Retry-After, in seconds; more than that is a refusal.
_PATIENCE = 60.0
#: A server that nobody could reach is tried this often, and then left alone for so many seconds.
_KNOCKS = 3
_LEFT_ALONE = 30.0
_UNREACHABLE = "check the network connection, the name of the server, and the proxy settings (https_proxy, no_proxy)"


class Retrying:
    """The rule for one command; threads may share it. What it learns of a server counts for all requests to it.

    ``attempts`` bounds the tries without progress, ``backoff`` is the first delay in seconds (doubled each time).
    """

    def __init__(self, *, attempts: int, backoff: float) -> None:
        self._attempts = attempts
        self._backoff = backoff
        self._unreachable: dict[str, tuple[float, str]] = {}
        self._turns: collections.defaultdict[str, threading.RLock] = collections.defaultdict(threading.RLock)

    def until_answered(
        self,
        place: Location,
        watch: Watch,
        attempt: Callable[[], T],
        progress: Callable[[], int] = lambda: 0,
        attempts: int | None = None,
    ) -> T:
        """What ``attempt`` returns, when it does; ``progress`` is how far the attempts have come, in bytes."""
        failures = 0
        with self._turn(place):  # pauses too: nobody else asks meanwhile a server that wants to be asked slowly
            since, reason = self._unreachable.get(origin(place.url), (0.0, ""))
            if reason and time.monotonic() - since < _LEFT_ALONE:
                raise FetchError(reason, where=place.shown, hint=_UNREACHABLE)
            while True:
                before = progress()
                try:
                    return attempt()
                except InterruptedTransferError as error:
                    failures = 1 if progress() - before >= _WORTH_RESUMING else failures + 1
                    self._pause(error, failures, place, watch, attempts or self._attempts)

    def _turn(self, place: Location) -> contextlib.AbstractContextManager[object]:
        return self._turns[origin(place.url)] if place.alone else contextlib.nullcontext()

    def _pause(
        self, error: InterruptedTransferError, failures: int, place: Location, watch: Watch, attempts: int
    ) -> None:
        """Wait as long as is right before the next attempt, or raise because there should be none."""
        delay = self._backoff * 2 ** (failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311  (spreads out clients)
        if error.delay is not None:
            delay = max(error.delay, self._backoff)
        if not error.reached and failures >= min(_KNOCKS, attempts):
            self._unreachable[origin(place.url)] = (time.monotonic(), str(error))
            raise FetchError(str(error), where=place.shown, hint=_UNREACHABLE)
        if failures >= attempts or delay > _PATIENCE:
            if error.status:
                raise error.status
            tries = f", after {failures} attempts" if attempts > 1 else ""
            raise FetchError(f"{error}{tries}", where=place.shown)
        watch.note(f"{place.shown}: {error}; again in {delay:.1f} s")
        watch.sleep(delay)
