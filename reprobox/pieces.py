"""Bytes that one thread makes and another uses, in pieces, a few of which wait in between. Standard library only."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

_MOST = 8  # pieces that wait
_SIZE = 1 << 20

Give: TypeAlias = Callable[[bytes], None]


def ahead(pieces: Iterator[bytes]) -> contextlib.AbstractContextManager[Iterator[bytes]]:
    """The same pieces, made in a thread of their own, some ahead of their use: unpacking takes one processor, and
    making files another. The thread has ended, whatever happens, when the context does.
    """

    def make(give: Give) -> None:
        for piece in pieces:
            give(piece)

    return _made(make)


class Sink:
    """A file as far as writing goes: gathers what is written into pieces of about a mebibyte, and gives them away."""

    def __init__(self, give: Give) -> None:
        self._give = give
        self._gathered: list[bytes] = []
        self._size = 0

    def write(self, data: bytes, /) -> None:
        self._gathered.append(bytes(data))
        self._size += len(data)
        if self._size >= _SIZE:
            self.flush()

    def flush(self) -> None:
        if self._gathered:
            self._give(b"".join(self._gathered))
        self._gathered, self._size = [], 0


def written(write: Callable[[Sink], object]) -> contextlib.AbstractContextManager[Iterator[bytes]]:
    """What ``write`` writes into its sink, in pieces; it runs in a thread that has ended when the context has."""

    def make(give: Give) -> None:
        sink = Sink(give)
        write(sink)
        sink.flush()

    return _made(make)


class _Unwanted(Exception):  # noqa: N818 - nobody sees it
    """Whoever took the pieces went away."""


@contextlib.contextmanager
def _made(make: Callable[[Give], object]) -> Iterator[Iterator[bytes]]:
    """What ``make`` gives away, in a thread of its own. What it raises is raised where the next piece is asked for."""
    made: queue.Queue[bytes | BaseException | None] = queue.Queue(_MOST)
    stopped = threading.Event()

    def give(piece: bytes) -> None:
        if stopped.is_set():
            raise _Unwanted
        made.put(piece)

    def work() -> None:
        try:
            make(give)
            made.put(None)
        except _Unwanted:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the piece is asked for
            made.put(error)

    def taken() -> Iterator[bytes]:
        while (piece := made.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    thread = threading.Thread(target=work, name="reprobox-pieces", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.01)
        thread.join()
