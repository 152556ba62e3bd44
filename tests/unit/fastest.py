"""What some work costs."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(work: Callable[[], object], times: int = 4) -> float:
    """The best of some runs: what the work costs when nothing else has the processor."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def growth(small: Callable[[], object], large: Callable[[], object], rounds: int = 5) -> float:
    """How many times as much the larger work costs, at the least of some rounds: both were done one after the other
    there, so that whoever else is on the machine slowed both or none.
    """
    return min(fastest(large, 1) / fastest(small, 2) for _ in range(rounds))
