"""Waiting for other threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

#: The signal is taken by the other thread, as if it had come before the main one fell asleep: nothing wakes that one.
PROGRAM = """
import os, queue, signal, threading, time
from types import SimpleNamespace
from reprobox.crew import taken
from reprobox.engine import _Arrivals

def other():
    ready.wait()
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

ready = threading.Event()
threading.Thread(target=other, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
ready.set()
try:
    {wait}
except KeyboardInterrupt:
    os._exit(130)
"""


@pytest.mark.parametrize(
    "wait",
    [
        "taken(queue.SimpleQueue())",
        "_Arrivals(None, SimpleNamespace(steps=(), missing=())).wait('')",
    ],
    ids=["queue", "arrivals"],
)
def test_an_interrupt_ends_the_wait_whenever_it_comes(wait):
    program = textwrap.dedent(PROGRAM).format(wait=wait)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=15).returncode == 130
