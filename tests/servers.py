"""A web server on loopback that misbehaves as it is told: for tests of everything that downloads.

>>> with Server() as server:
...     server.files["/a.deb"] = b"..."
...     server.faults["/a.deb"] = [status(429, retry_after="0"), half()]   # one fault a request, then it behaves
...     server.always["/b.deb"] = wrong()                                  # every request

It knows ranges, ETags and chunked answers, and ``seen`` lists the requests in the order they came.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from ``server.world``."""

    protocol_version = "HTTP/1.1"
    world: Server

    def do_GET(self) -> None:
        world = self.world
        if (count := world.cuts.pop(self.path, None)) is not None:
            self.rfile.read(count)
            self.hang_up()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with world.lock:
            world.seen.append(Request(self.command, self.path, dict(self.headers.items()), body))
            waiting = world.faults.get(self.path)
            fault = waiting.pop(0) if waiting else world.always.get(self.path)
            request = world.seen[-1]
        if fault:
            fault(self)
        elif answer := world.answers.get(self.path.partition("?")[0], world.otherwise):
            self.send(*answer(request))
        else:
            self.plain()

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET  # noqa: N815  (the names that http.server calls)

    @property
    def data(self) -> bytes | None:
        return self.world.files.get(self.path)

    def plain(self, *, ranges: bool = True) -> None:
        """The file as an honest server sends it."""
        data = self.data
        if data is None:
            self.send(404, {}, b"not here\n")
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        start = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if self.headers.get("If-None-Match") == etag:
            self.send(304, {"ETag": etag}, b"")
        elif not (ranges and start):
            self.send(200, {"ETag": etag}, data)
        elif int(start) >= len(data):
            self.send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        else:
            place = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(206, {"ETag": etag, "Content-Range": place}, data[int(start) :])

    def send(self, code: int, headers: Mapping[str, str], body: bytes, *, promised: int | None = None) -> None:
        """One answer; ``promised`` is the length to announce when it is not the truth."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if code != 304:
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"" if self.command == "HEAD" else body)

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client left
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


Fault: TypeAlias = Callable[[Handler], None]


def status(code: int, *, retry_after: str | None = None, body: bytes = b"no\n") -> Fault:
    """An error answer."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return lambda handler: handler.send(code, headers, body)


def half(count: int | None = None) -> Fault:
    """Announces everything (from where a Range asks), sends half of it or ``count`` bytes, and hangs up."""

    def fault(handler: Handler) -> None:
        data = handler.data or b""
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        rest = data[start:]
        code, place = (206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}) if start else (200, {})
        handler.send(code, place, rest[: len(rest) // 2 if count is None else count], promised=len(rest))
        handler.hang_up()

    return fault


def wrong() -> Fault:
    """Other bytes of the same length, with ranges."""

    def fault(handler: Handler) -> None:
        data = bytes(byte ^ 0xFF for byte in handler.data or b"")
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        place = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        handler.send(206 if start else 200, place if start else {}, data[start:])

    return fault


def no_ranges() -> Fault:
    """Always the whole file."""
    return lambda handler: handler.plain(ranges=False)


def chunked(data: bytes | None = None) -> Fault:
    """No announced length: the whole file, or ``data`` in its place, in chunks."""

    def fault(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        body = data if data is not None else handler.data or b""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), 65536):
                piece = body[start : start + 65536]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n")

    return fault


def slow(seconds: float, pieces: int = 10) -> Fault:
    """The whole file in ``pieces``, with a pause before each."""

    def fault(handler: Handler) -> None:
        data = handler.data or b""
        handler.send(200, {}, b"", promised=len(data))
        step = -(-len(data) // pieces)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), step):
                time.sleep(seconds)
                handler.wfile.write(data[start : start + step])

    return fault


def silent(seconds: float) -> Fault:
    """Accepts the request, and says nothing for a while."""

    def fault(handler: Handler) -> None:
        time.sleep(seconds)
        handler.hang_up()

    return fault


def redirect(target: str, code: int = 302) -> Fault:
    return lambda handler: handler.send(code, {"Location": target}, b"")


@dataclass(frozen=True)
class Request:
    """What a client asked; header names as it sent them."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class Server:
    """``files`` by path; ``faults`` are used up one a request, ``always`` is not; ``answers`` compute theirs.

    ``otherwise`` answers for every other path, as a server does that stands in front of another. ``cuts`` says, once for
    each path, after how many bytes of a request's body the connection is cut.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    answers: dict[str, Callable[[Request], tuple[int, Mapping[str, str], bytes]]] = field(default_factory=dict)
    otherwise: Callable[[Request], tuple[int, Mapping[str, str], bytes]] | None = None
    seen: list[Request] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    context: ssl.SSLContext | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        handler = type("BoundHandler", (Handler,), {"world": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if self.context:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, path: str) -> str:
        return f"{'https' if self.context else 'http'}://{self.host}{path}"

    def paths(self) -> list[str]:
        return [request.path for request in self.seen]
