"""Getting bytes over HTTP: proxies, the host's trust store, retries with back-off, resuming, servers that misbehave.

:class:`Downloader` is the one HTTP client of reprobox. ``get`` fetches a small document, ``save`` makes a file whole
whose size and hash are known; both follow the same rules for retrying. Nothing here knows what the bytes are for.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, Protocol, TypeVar

from reprobox import __version__
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError

if TYPE_CHECKING:
    import ssl

    import urllib3
    from urllib3.response import BaseHTTPResponse

USER_AGENT = f"reprobox/{__version__}"

T = TypeVar("T")

_BUSY = frozenset((408, 429, 500, 502, 503, 504))
#: How servers refuse HEAD that would answer GET.
_NO_QUESTIONS = frozenset((400, 403, 405, 501))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
_CHUNK = 1 << 18
#: A connection that brought this many bytes before it broke earns a fresh set of attempts.
_WORTH_RESUMING = 1 << 20
#: Longest wait that a server may ask for with Retry-After, in seconds; more than that is a refusal.
_PATIENCE = 60.0
#: A server that nobody could reach is tried this often, and then left alone for so many seconds.
_KNOCKS = 3
_LEFT_ALONE = 30.0


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


_HINTS = {
    401: "it wants to know who asks: check the credentials for this server",
    403: "it refuses: check the credentials for this server",
    407: "the proxy wants credentials: put them into the proxy's URL",
    429: "it limits how often one may ask: wait a while, log in, or use a mirror",
}


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
        while count and (data := file.read(min(count, _CHUNK))):
            yield data
            count -= len(data)


class Downloader:
    """An HTTP client for one command; threads may share it.

    ``attempts`` bounds the tries without progress, ``backoff`` is the first delay in seconds (doubled each time),
    ``timeout`` how many seconds a silent server is waited for. With ``offline``, whatever is not a file:// URL raises
    OfflineError.
    """

    def __init__(
        self, *, offline: bool = False, attempts: int = 5, backoff: float = 0.5, timeout: float = 60.0
    ) -> None:
        self.offline = offline
        self._attempts = attempts
        self._backoff = backoff
        self._timeout = timeout
        self._pools = _Pools(timeout)
        self._unreachable: dict[str, tuple[float, str]] = {}
        self._turns: collections.defaultdict[str, threading.RLock] = collections.defaultdict(threading.RLock)

    def get(
        self,
        location: str | Location,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = 64 << 20,
        data: bytes | None = None,
        watch: Watch | None = None,
    ) -> Document:
        """A document of at most ``limit`` bytes. ``data`` is posted as a form.

        Raises :class:`StatusError` for any status but 200 (or 304 where ``headers`` make the request conditional),
        :class:`FetchError` when there was no whole answer, :class:`OfflineError`.
        """
        place = _usable(location)
        sent = dict(headers or {})
        if data is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        conditional = any(name.lower() in ("if-none-match", "if-modified-since") for name in sent)

        def attempt() -> Document:
            form = None if data is None else Body(data=data)
            with self._answer(place, sent, form, "GET" if data is None else "POST") as response:
                if response.status != 200 and not (response.status == 304 and conditional):
                    _refuse(place, response)
                return Document(status=response.status, headers=_headers(response), body=_read(response, limit, place))

        path = local_path(place.url)
        return _read_local(path, limit, place) if path else self._retrying(place, watch or Watch(), attempt)

    def save(
        self, location: str | Location, file: IO[bytes], *, sha256: str, size: int, watch: Watch | None = None
    ) -> None:
        """Make ``file`` (readable, writable, unbuffered) hold exactly the ``size`` bytes with this sha256 (hex).

        Bytes already in the file are hashed and continued with a Range request. Raises :class:`FetchError` when the
        location does not have the bytes, and :class:`IntegrityError` when it has others; then the file is empty.
        """
        place = _usable(location)
        part = _Partial(file, sha256, size, watch or Watch())
        part.continued = part.count > 0
        try:
            if place.make:
                part.made(place.make, place)
                return
            self._fill(part, place)
            if part.continued and not part.right():  # what was there before may be at fault: once more from the start
                part.restart()
                self._fill(part, place)
            if not part.right():
                part.wrong(place, f"it has other bytes: their sha256 is {part.digest()}")
        except _OtherSizeError as error:
            raise IntegrityError(self._other(place, error), where=place.shown, hint=place.changed) from None
        except ReproboxError:
            part.watch.advance(-part.count)  # whoever continues this file counts what is in it again
            raise

    def _other(self, place: Location, error: _OtherSizeError) -> str:
        """What is wrong at a place that is the file's own, with the hash of what it has now."""
        try:
            with open(os.devnull, "wb") as nowhere:
                found, size = self.obtain(place, nowhere)
        except ReproboxError:
            return str(error)
        return f"it has other bytes: their sha256 is {found}, their size {size}"

    def obtain(self, location: str | Location, file: IO[bytes], *, watch: Watch | None = None) -> tuple[str, int]:
        """Write what the location has, whatever it is, into the empty ``file``; returns its sha256 (hex) and size.

        A connection that breaks is continued where the server says that it still has the same file. Raises
        :class:`FetchError` and :class:`OfflineError`.
        """
        place = _usable(location)
        growing = _Growing(file, watch or Watch())

        def attempt() -> None:
            with self._answer(place, growing.headers()) as response:
                growing.align(response, place)
                for chunk in response.stream(_CHUNK, decode_content=False):
                    growing.write(chunk)
            growing.finish()

        if path := local_path(place.url):
            growing.copy(path, place)
        else:
            self._retrying(place, growing.watch, attempt, progress=lambda: growing.count)
        return growing.digest(), growing.count

    def ask(self, location: str | Location, *, watch: Watch | None = None) -> Document:
        """What the server says of a document without sending it: status 200, headers, no body.

        A server that does not answer such questions is asked for the first byte. Raises what :meth:`get` does.
        """
        place = _usable(location)

        def attempt() -> Document:
            with self._answer(place, {}, method="HEAD") as response:
                response.drain_conn()  # there is nothing to drain, and so the connection can be used again
                if response.status == 200:
                    return Document(status=200, headers=_headers(response), body=b"")
                if response.status not in _NO_QUESTIONS:
                    _refuse(place, response)
            with self._answer(place, {"Range": "bytes=0-0"}) as response:
                if response.status not in (200, 206, 416):  # 416: it is empty
                    _refuse(place, response)
                headers = _headers(response)
                total = headers.pop("content-range", "").rpartition("/")[2]
                size = {"content-length": total} if response.status != 200 and total.isdecimal() else {}
                return Document(status=200, headers=headers | size, body=b"")

        if path := local_path(place.url):
            return _asked_local(path, place)
        return self._retrying(place, watch or Watch(), attempt)

    def send(
        self,
        method: str,
        location: str | Location,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        good: Collection[int] = (200,),
        again: bool = True,
    ) -> Document:
        """Ask for something else than a document, such as an upload; the answer's ``headers`` are what counts.

        Raises :class:`StatusError` for a status that is not in ``good``, :class:`FetchError`, :class:`OfflineError`.
        Without ``again`` there is one attempt: then a lost answer leaves open what the server has done.
        """
        place = _usable(location)
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Length"] = str(body.size)

        def attempt() -> Document:
            with self._answer(place, sent, body, method) as response:
                if response.status not in good:
                    _refuse(place, response)
                return Document(
                    status=response.status, headers=_headers(response), body=_read(response, 64 << 10, place)
                )

        return self._retrying(place, body.watch if body else Watch(), attempt, attempts=None if again else 1)

    def _fill(self, part: _Partial, place: Location) -> None:
        def attempt() -> None:
            headers = {"Range": f"bytes={part.count}-"} if part.count else {}
            with self._answer(place, headers) as response:
                part.align(response, place)
                for chunk in response.stream(_CHUNK, decode_content=False):
                    part.write(chunk, place)
            if part.count < part.size:
                raise _InterruptedError(f"it sent only {part.count} of {part.size} bytes")

        if path := local_path(place.url):
            part.copy(path, place)
        elif part.count < part.size:
            self._retrying(place, part.watch, attempt, progress=lambda: part.reached)

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _retrying(
        self,
        place: Location,
        watch: Watch,
        attempt: Callable[[], T],
        progress: Callable[[], int] = lambda: 0,
        attempts: int | None = None,
    ) -> T:
        if self.offline:
            raise OfflineError("the network may not be used", where=place.shown, hint="run it again without --offline")
        failures = 0
        with self._turn(place):  # pauses too: nobody else asks meanwhile a server that wants to be asked slowly
            since, reason = self._unreachable.get(_origin(place.url), (0.0, ""))
            if reason and time.monotonic() - since < _LEFT_ALONE:
                raise FetchError(reason, where=place.shown, hint=_UNREACHABLE)
            while True:
                before = progress()
                try:
                    return attempt()
                except _InterruptedError as error:
                    failures = 1 if progress() - before >= _WORTH_RESUMING else failures + 1
                    self._pause(error, failures, place, watch, attempts or self._attempts)

    def _turn(self, place: Location) -> contextlib.AbstractContextManager[object]:
        return self._turns[_origin(place.url)] if place.alone else contextlib.nullcontext()

    def _pause(self, error: _InterruptedError, failures: int, place: Location, watch: Watch, attempts: int) -> None:
        """Wait as long as is right before the next attempt, or raise because there should be none."""
        delay = self._backoff * 2 ** (failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311  (spreads out clients)
        if error.delay is not None:
            delay = max(error.delay, self._backoff)
        if not error.reached and failures >= min(_KNOCKS, attempts):
            self._unreachable[_origin(place.url)] = (time.monotonic(), str(error))
            raise FetchError(str(error), where=place.shown, hint=_UNREACHABLE)
        if failures >= attempts or delay > _PATIENCE:
            if error.status:
                raise error.status
            tries = f", after {failures} attempts" if attempts > 1 else ""
            raise FetchError(f"{error}{tries}", where=place.shown)
        watch.note(f"{place.shown}: {error}; again in {delay:.1f} s")
        watch.sleep(delay)

    # -- requests ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _answer(
        self, place: Location, headers: Mapping[str, str], body: Body | None = None, method: str = "GET"
    ) -> Iterator[BaseHTTPResponse]:
        """The server's answer with its body unread; urllib3's errors become ours, while the body is read too."""
        import ssl

        from urllib3 import exceptions

        try:
            response = self._request(place, headers, body, method)
            try:
                if response.status in _BUSY:
                    raise _busy(place, response)
                yield response
            finally:
                response.close()
        except (exceptions.LocationValueError, exceptions.ProxySchemeUnsupported, exceptions.InvalidHeader) as error:
            raise FetchError(f"this URL cannot be used: {error}", where=place.shown) from None
        except exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                message = f"its certificate is not trusted: {_reason(error)}"
                raise FetchError(message, where=place.shown, hint=_TRUST) from None
            if isinstance(error.args[0], ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise _InterruptedError(f"TLS was cut off: {_reason(error)}") from None
            raise FetchError(f"it does not speak TLS as it should: {_reason(error)}", where=place.shown) from None
        except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyError) as error:
            raise _InterruptedError(f"it cannot be reached: {_reason(error)}", reached=False) from None
        except exceptions.HTTPError as error:
            raise _InterruptedError(f"the connection broke: {_reason(error)}") from None

    def _request(self, place: Location, headers: Mapping[str, str], body: Body | None, method: str) -> BaseHTTPResponse:
        """Send it; follow redirects without taking secrets to another server, and answer one challenge."""
        url, login = _split_login(place.url)
        challenged = False
        for _ in range(_MAX_REDIRECTS + 1):
            private: dict[str, str] = {}
            if _origin(url) == _origin(place.url):
                private = {**login, **place.headers, **(place.auth.headers() if place.auth else {})}
            response = self._pools.pool(url).urlopen(
                method,
                url,
                body=body.pieces() if body else None,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers, **private},
                redirect=False,
                retries=False,
                preload_content=False,
            )
            if _leads_on(method, response):
                url = _redirected(place, url, response)
            elif (
                response.status == 401
                and place.auth
                and not challenged
                and _origin(url) == _origin(place.url)
                and place.auth.answer(response.headers.get("www-authenticate", ""), private)
            ):
                challenged = True
            else:
                return response
            response.drain_conn()
        raise FetchError(f"it redirects more than {_MAX_REDIRECTS} times", where=place.shown)


_UNREACHABLE = "check the network connection, the name of the server, and the proxy settings (https_proxy, no_proxy)"
_TRUST = "if your site re-signs traffic, point SSL_CERT_FILE at a file with its certificates"


class _InterruptedError(Exception):
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


class _OtherSizeError(Exception):
    """A place that is the file's own has one of another size."""


class _Growing:
    """A file of which nothing is known before its server says so."""

    def __init__(self, file: IO[bytes], watch: Watch) -> None:
        self.watch = watch
        self.count = 0
        self._file = file
        self._size = -1
        self._validator = ""
        self._state = hashlib.sha256()

    def digest(self) -> str:
        return self._state.hexdigest()

    def headers(self) -> dict[str, str]:
        """To continue, if it is still the same (RFC 9110, 13.1.5); else to begin again."""
        if self.count and self._validator:
            return {"Range": f"bytes={self.count}-", "If-Range": self._validator}
        return {}

    def align(self, response: BaseHTTPResponse, place: Location) -> None:
        """Make what is in the file fit what the server is about to send, or refuse its answer."""
        if response.status == 206 and response.headers.get("content-range", "").startswith(f"bytes {self.count}-"):
            return
        if response.status != 200:
            _refuse(place, response)
        self._restart()
        length = response.headers.get("content-length", "")
        self._size = int(length) if length.isdecimal() else -1
        tag = response.headers.get("etag", "")
        self._validator = tag if tag.startswith('"') else response.headers.get("last-modified", "")

    def copy(self, path: Path, place: Location) -> None:
        """Take the bytes from a file of this machine."""
        try:
            with path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    self.write(chunk)
        except OSError as error:
            raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self._file.name, error) from None
        self._state.update(chunk)
        self.count += len(chunk)
        self.watch.advance(len(chunk))

    def finish(self) -> None:
        if 0 <= self._size != self.count:
            raise _InterruptedError(f"it sent only {self.count} of {self._size} bytes")

    def _restart(self) -> None:
        if self.count:
            self.watch.advance(-self.count)
            self._file.seek(0)
            self._file.truncate()
        self.count = 0
        self._state = hashlib.sha256()


class _Partial:
    """A file that grows until it has its locked size; every byte is hashed, also those that were there before."""

    def __init__(self, file: IO[bytes], sha256: str, size: int, watch: Watch) -> None:
        self.size = size
        self.watch = watch
        self.count = 0
        self.reached = 0  # the most bytes ever in place: progress for the retry rule
        self.continued = False  # whether bytes of two answers, which may be of two files, are in it
        self._file = file
        self._sha256 = sha256
        self._state = hashlib.sha256()
        file.seek(0)
        while chunk := file.read(_CHUNK):
            self._add(chunk)
        if self.count > size:
            self.restart()

    def right(self) -> bool:
        return self.count == self.size and self.digest() == self._sha256

    def digest(self) -> str:
        return self._state.hexdigest()

    def restart(self) -> None:
        self.watch.advance(-self.count)
        self.count = 0
        self._state = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()

    def align(self, response: BaseHTTPResponse, place: Location) -> None:
        """Make what is in the file fit what the server is about to send, or refuse its answer."""
        length = response.headers.get("content-length", "")
        total = length if response.status == 200 else response.headers.get("content-range", "").rpartition("/")[2]
        if response.status in (200, 206) and total.isdecimal() and int(total) != self.size:
            self._other_size(place, f"it has {total} bytes where {self.size} are locked")
        if response.status == 200:
            if self.count:
                self.restart()
        elif response.status == 206 and response.headers.get("content-range", "").startswith(f"bytes {self.count}-"):
            self.continued = True
        elif response.status in (206, 416) and self.count:
            self.restart()
            raise _InterruptedError("it cannot continue where the download stopped")
        else:
            _refuse(place, response)

    def copy(self, path: Path, place: Location) -> None:
        """Take the bytes from a file of this machine."""
        self.restart()
        try:
            with path.open("rb") as source:
                if (size := os.fstat(source.fileno()).st_size) != self.size:
                    self._other_size(place, f"it has {size} bytes where {self.size} are locked")
                while chunk := source.read(_CHUNK):
                    self.write(chunk, place)
        except OSError as error:
            raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None

    def write(self, chunk: bytes, place: Location) -> None:
        if self.count + len(chunk) > self.size:
            self._other_size(place, f"it sends more than the {self.size} bytes that are locked")
        rest = memoryview(chunk)
        try:
            while rest:  # a raw write may be short, as on a disk that fills up
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self._file.name, error) from None
        self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        self._state.update(chunk)
        self.count += len(chunk)
        self.reached = max(self.reached, self.count)
        self.watch.advance(len(chunk))

    def made(self, make: Callable[[Callable[[bytes], None], Watch], None], place: Location) -> None:
        """Take the bytes from what makes them."""
        self.restart()
        try:
            make(lambda chunk: self.write(chunk, place), self.watch)
        except ReproboxError:
            self.restart()
            raise
        if not self.right():
            self.wrong(place, f"it has other bytes: their sha256 is {self.digest()}")

    def wrong(self, place: Location, message: str) -> NoReturn:
        self.restart()
        raise IntegrityError(message, where=place.shown, hint=place.changed or None)

    def _other_size(self, place: Location, message: str) -> NoReturn:
        self.restart()
        if place.changed and not place.make:
            raise _OtherSizeError(message)
        self.wrong(place, message)


def cannot_write(path: str | Path, error: OSError) -> ReproboxError:
    """What to tell a person whose disk is full, or who may not write there."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ReproboxError(
            "no space is left on the disk" if error.errno == errno.ENOSPC else "the disk quota is used up",
            where=str(path),
            hint="make room there, or set REPROBOX_STORE to a folder on another disk; nothing that is complete is lost",
        )
    return ReproboxError(f"it cannot be written: {error.strerror}", where=str(path))


class _Pools:
    """Connections, by proxy. Certificates are loaded when the first https URL is asked for: that takes a while."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def pool(self, url: str) -> urllib3.PoolManager:
        proxy, secure = key = (_proxy(url), url.startswith("https:"))
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._made(proxy, secure=secure)
            return self._pools[key]

    def _made(self, proxy: str, *, secure: bool) -> urllib3.PoolManager:
        import urllib3

        trust = self._trust() if secure or proxy.startswith("https:") else None
        timeout = urllib3.Timeout(connect=min(20.0, self._timeout), read=self._timeout)
        if not proxy:
            return urllib3.PoolManager(maxsize=16, timeout=timeout, ssl_context=trust)
        bare, login = _split_login(proxy)
        headers = {"Proxy-Authorization": login["Authorization"]} if login else None
        return urllib3.ProxyManager(
            bare, proxy_headers=headers, proxy_ssl_context=trust, maxsize=16, timeout=timeout, ssl_context=trust
        )

    def _trust(self) -> ssl.SSLContext:
        """The host's trust store; OpenSSL itself honours SSL_CERT_FILE and SSL_CERT_DIR."""
        import ssl

        self._context = self._context or ssl.create_default_context()
        return self._context


def _proxy(url: str) -> str:
    """The proxy that the environment names for ``url``; none for this machine itself, as Go programs have it."""
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if loopback(host) or urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _usable(location: str | Location) -> Location:
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


def loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, no port) is this machine."""
    return host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")


def without_password(url: str) -> str:
    """``url`` as it may be shown and remembered."""
    return _split_login(url)[0]


def local_path(url: str) -> Path | None:
    """The path of a ``file:`` URL; None for other schemes."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise FetchError("a file: URL cannot name another machine", where=url)
    return Path(urllib.parse.unquote(parts.path))


def _split_login(url: str) -> tuple[str, dict[str, str]]:
    """``url`` without user and password, and the header that says them."""
    import base64

    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return url, {}
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    user, _, password = login.partition(":")
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}".encode()
    return parts._replace(netloc=host).geturl(), {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def _leads_on(method: str, response: BaseHTTPResponse) -> bool:
    """Whether to ask elsewhere: what changes something is only repeated where the server says so (RFC 9110, 15.4)."""
    if "location" not in response.headers or response.status not in _REDIRECTS:
        return False
    return method in ("GET", "HEAD") or (method != "POST" and response.status in (307, 308))


def _redirected(place: Location, url: str, response: BaseHTTPResponse) -> str:
    target = urllib.parse.urljoin(url, response.headers["location"])
    if not target.startswith(("http://", "https://")) or (url.startswith("https:") and target.startswith("http:")):
        raise FetchError(f"it redirects to {without_password(target)}, which is not safe to follow", where=place.shown)
    return target


def _busy(place: Location, response: BaseHTTPResponse) -> _InterruptedError:
    error = _status(place, response)
    return _InterruptedError(error.message, delay=_retry_after(response.headers.get("retry-after", "")), status=error)


def _retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks to wait: a number of them, or a date."""
    from email.utils import parsedate_to_datetime

    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _refuse(place: Location, response: BaseHTTPResponse) -> NoReturn:
    raise _status(place, response)


def _status(place: Location, response: BaseHTTPResponse) -> StatusError:
    return StatusError(
        where=place.shown,
        code=response.status,
        reason=response.reason or "",
        headers=_headers(response),
        body=response.read(4096, decode_content=False),
    )


def _headers(response: BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _read(response: BaseHTTPResponse, limit: int, place: Location) -> bytes:
    body = bytearray()
    for chunk in response.stream(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > limit:
            raise FetchError(f"it sends more than the {limit} bytes allowed for this document", where=place.shown)
    return bytes(body)


def _read_local(path: Path, limit: int, place: Location) -> Document:
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None
    if len(body) > limit:
        raise FetchError(f"it has more than the {limit} bytes allowed for this document", where=place.shown)
    return Document(status=200, headers={}, body=body)


def _asked_local(path: Path, place: Location) -> Document:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None
    return Document(status=200, headers={"content-length": str(size)}, body=b"")


def _reason(error: Exception) -> str:
    """The innermost cause, in few words: urllib3 wraps them with the pool's name and the object's address."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__ or _argument(cause)) is not None:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause).rpartition(": ")[2] or type(cause).__name__


def _argument(error: BaseException) -> BaseException | None:
    return next((item for item in error.args if isinstance(item, BaseException)), None)
