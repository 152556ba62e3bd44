"""The words of a transfer: where from, what goes along, who watches, and what came of it. No connections."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reprobox.errors import FetchError
from reprobox.urls import without_password

#: How much is read and written at once.
CHUNK = 1 << 18
_HINTS = {
    401: "it wants to know who asks: check the credentials for this server",
    403: "it refuses: check the credentials for this server",
    407: "the proxy wants credentials: put them into the proxy's URL",
    429: "it limits how often one may ask: wait a while, log in, or use a mirror",
}


class Auth(Protocol):
    """Answers a server that wants to know who asks. One object serves many requests and threads."""

    def headers(self) -> Mapping[str, str]:
        """What to send with a request, as known so far."""

    def answer(self, challenge: str, sent: Mapping[str, str]) -> bool:
        """The server said 401 with this ``WWW-Authenticate`` to ``sent``: do ``headers`` now hold something better?"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A place that may have a file. ``label`` is what messages show; the default is the URL without any password.

    ``headers`` and ``auth`` go to that server only, never to one that it redirects to. Where the place is the file's
    own, and no copy of it among others, ``changed`` is what to do when it has other bytes; their hash is told then.
    ``make`` is for what no server has as a file: it hands the bytes to the function that it is given, piece by piece.
    A server that is to be asked over one connection at a time is asked ``alone``. ``ask`` is for places that ``make``:
    how many bytes it has of it, or -1 where that is only known when it is made; it raises where it has nothing.
    """

    url: str
    label: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: Auth | None = None
    changed: str = ""
    make: Callable[[Callable[[bytes], None], Watch], None] | None = None
    alone: bool = False
    ask: Callable[[], int] | None = None

    @property
    def shown(self) -> str:
        return self.label or without_password(self.url)


class Watch:
    """Told what happens during a transfer, and able to stop it by raising. This one looks on silently."""

    def advance(self, count: int) -> None:
        """``count`` more bytes are in place; negative when bytes had to be thrown away."""

    def note(self, text: str) -> None:
        """Something that a person who waits would like to know."""

    def sleep(self, seconds: float) -> None:
        """Wait before the next attempt."""
        time.sleep(seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a request brings along: ``data``, or ``count`` bytes of the file ``path`` from ``start``.

    ``watch`` is told why it has to be sent again.
    """

    data: bytes = b""
    path: Path | None = None
    start: int = 0
    count: int = 0
    watch: Watch = field(default_factory=Watch)

    @property
    def size(self) -> int:
        return self.count if self.path else len(self.data)

    def pieces(self) -> bytes | Iterator[bytes]:
        """The bytes, anew for each attempt."""
        return self.data if self.path is None else _region(self.path, self.start, self.count)


def _region(path: Path, start: int, count: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while count and (data := file.read(min(count, CHUNK))):
            yield data
            count -= len(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A small answer: HTTP status (200, or 304 to a conditional request), headers by lower-case name, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StatusError(FetchError):
    """The server answered with a status that is not the document; ``code`` says which, ``body`` is its start."""

    def __init__(self, *, where: str, code: int, reason: str, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"it answered {code} {reason}".rstrip(), where=where, hint=_HINTS.get(code))
        self.code = code
        self.headers = headers
        self.body = body


class InterruptedTransferError(Exception):
    """Worth another attempt. ``delay`` is what the server asked for, ``status`` the error if attempts run out;
    ``reached`` is False when no server answered at all.
    """

    def __init__(
        self, message: str, *, delay: float | None = None, status: StatusError | None = None, reached: bool = True
    ) -> None:
        super().__init__(message)
        self.delay = delay
        self.status = status
        self.reached = reached


def usable(location: str | Location) -> Location:
    place = Location(url=location) if isinstance(location, str) else location
    try:
        parts = urllib.parse.urlsplit(place.url)
        good = (
            bool(place.make) or parts.scheme == "file" or (parts.scheme in ("http", "https") and bool(parts.hostname))
        )
    except ValueError:
        good = False
    if not good:
        raise FetchError("this is no URL that can be used", where=place.shown, hint="begin it with https://")
    return place
