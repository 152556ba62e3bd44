"""Pieces that one thread makes and another takes: in order, not too far ahead, and never with a thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from reprobox.pieces import Sink, ahead, written


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    yield
    assert "reprobox-pieces" not in {thread.name for thread in threading.enumerate()}


def test_they_come_in_order():
    with ahead(iter([b"%d" % number for number in range(100)])) as pieces:
        assert list(pieces) == [b"%d" % number for number in range(100)]
    with ahead(iter(())) as pieces:
        assert list(pieces) == []


def test_they_are_made_ahead_of_their_use_but_not_far():
    made: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            made.append(len(made))
            yield b"piece"

    with ahead(endless()) as pieces:
        assert next(pieces) == b"piece"
        until = time.monotonic() + 10
        while len(made) < 5:
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(0.05)
        assert len(made) <= 10


def test_what_goes_wrong_is_raised_where_the_next_piece_is_asked_for():
    def broken() -> Iterator[bytes]:
        yield b"good"
        raise ValueError("cut off")

    with ahead(broken()) as pieces:
        assert next(pieces) == b"good"
        with pytest.raises(ValueError, match="cut off"):
            next(pieces)

    def write(sink: Sink) -> None:
        sink.write(b"good")
        sink.flush()
        raise OSError("gone")

    with written(write) as pieces:
        assert next(pieces) == b"good"
        with pytest.raises(OSError, match="gone"):
            next(pieces)


def test_what_is_written_is_gathered_into_large_pieces():
    def write(sink: Sink) -> None:
        for number in range(3 << 10):
            sink.write(bytes([number % 251]) * 1024)
        sink.write(memoryview(b"the rest"))

    with written(write) as pieces:
        found = list(pieces)
    assert [len(piece) for piece in found] == [1 << 20, 1 << 20, 1 << 20, 8]
    assert b"".join(found) == b"".join(bytes([number % 251]) * 1024 for number in range(3 << 10)) + b"the rest"


def test_a_writer_ends_when_nobody_reads_any_more():
    ended = threading.Event()

    def write(sink: Sink) -> None:
        try:
            while True:
                sink.write(bytes(1 << 20))
        finally:
            ended.set()

    with written(write) as pieces:
        next(pieces)
        assert not ended.is_set()
    assert ended.is_set()
