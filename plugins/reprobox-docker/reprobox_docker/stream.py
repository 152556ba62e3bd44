"""Both directions of a container's or command's streams: a connection that the engine hands over to them.

The SDK hands out such a connection too, but loses what arrived together with the engine's answer: a quick command's
first words. Source: Docker Engine API, "Attach to a container", "Stream format".
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

from reprobox.errors import BackendError

_HEADER = 8
_CHUNK = 1 << 16
_MOST_HEAD = 1 << 16
_UPGRADED = (101, 200)


class Stream:
    """An open connection: what is written goes to standard input, what is read are the framed output streams."""

    def __init__(self, path: str, url: str, body: object = None) -> None:
        """Ask the engine at the socket ``path`` for the streams of ``url``. Raises :class:`BackendError`."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(path)
            self._ask(url, b"" if body is None else json.dumps(body).encode())
            self.early = self._answered()
        except BaseException:
            self.socket.close()
            raise

    def _ask(self, url: str, body: bytes) -> None:
        head = (
            f"POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)

    def _answered(self) -> bytes:
        """What came after the head of the answer."""
        data = b""
        while b"\r\n\r\n" not in data and len(data) < _MOST_HEAD:
            piece = self.socket.recv(_CHUNK)
            if not piece:
                break
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        words = head.split(None, 2)
        if len(words) < 2 or not words[1].isdigit() or int(words[1]) not in _UPGRADED:
            text = rest.decode(errors="replace").strip() or head.decode(errors="replace")
            raise BackendError(f"the engine does not hand over the streams: {text}")
        return rest

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(1 for standard output or 2 for standard error, bytes), until both have ended."""
        frames = Frames()
        yield from frames.feed(self.early)
        while data := self.socket.recv(_CHUNK):
            yield from frames.feed(data)

    def close(self) -> None:
        self.socket.close()


class Frames:
    """Takes the framed stream apart, in whatever pieces it comes: a frame's content is passed on as it arrives."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        while data:
            if not self._left:
                need = _HEADER - len(self._head)
                self._head, data = self._head + data[:need], data[need:]
                if len(self._head) < _HEADER:
                    return
                self._stream, self._left = self._head[0], int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            yield self._stream, piece
