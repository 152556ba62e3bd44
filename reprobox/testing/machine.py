"""What tests ask of the machine itself: its processes, a while, and a server that answers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path


def running(words: str) -> list[int]:
    """The processes of this machine whose command line holds ``words``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Wait for something to become true; returns whether it did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def answer_once(server: socket.socket, data: bytes) -> None:
    """Send ``data`` to the first that connects."""
    connection, _ = server.accept()
    with connection:
        connection.sendall(data)
