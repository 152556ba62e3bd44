"""Getting bytes over HTTP: documents, files whose hash is known and files whose hash is not yet, and uploads.

:class:`Downloader` is the one HTTP client of reprobox. ``get`` fetches a small document, ``save`` makes a file whole
whose size and hash are known; both follow the same rules for retrying. Nothing here knows what the bytes are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import IO, TypeVar

from reprobox.download.growing import Growing, OtherSizeError, Partial
from reprobox.download.http import Http, headers_of, read, refuse
from reprobox.download.local import asked_local, read_local
from reprobox.download.retrying import Retrying
from reprobox.download.transfer import CHUNK, Body, Document, InterruptedTransferError, Location, Watch, usable
from reprobox.errors import IntegrityError, OfflineError, ReproboxError
from reprobox.urls import local_path

#: How servers refuse HEAD that would answer GET.
_NO_QUESTIONS = frozenset((400, 403, 405, 501))

T = TypeVar("T")


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
        self._http = Http(timeout)
        self._retrying = Retrying(attempts=attempts, backoff=backoff)

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
        place = usable(location)
        sent = dict(headers or {})
        if data is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        conditional = any(name.lower() in ("if-none-match", "if-modified-since") for name in sent)

        def attempt() -> Document:
            form = None if data is None else Body(data=data)
            with self._http.answer(place, sent, form, "GET" if data is None else "POST") as response:
                if response.status != 200 and not (response.status == 304 and conditional):
                    refuse(place, response)
                return Document(status=response.status, headers=headers_of(response), body=read(response, limit, place))

        path = local_path(place.url)
        return read_local(path, limit, place) if path else self._persist(place, watch or Watch(), attempt)

    def save(
        self, location: str | Location, file: IO[bytes], *, sha256: str, size: int, watch: Watch | None = None
    ) -> None:
        """Make ``file`` (readable, writable, unbuffered) hold exactly the ``size`` bytes with this sha256 (hex).

        Bytes already in the file are hashed and continued with a Range request. Raises :class:`FetchError` when the
        location does not have the bytes, and :class:`IntegrityError` when it has others; then the file is empty.
        """
        place = usable(location)
        part = Partial(file, sha256, size, watch or Watch())
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
        except OtherSizeError as error:
            raise IntegrityError(self._other(place, error), where=place.shown, hint=place.changed) from None
        except ReproboxError:
            part.watch.advance(-part.count)  # whoever continues this file counts what is in it again
            raise

    def _other(self, place: Location, error: OtherSizeError) -> str:
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
        place = usable(location)
        growing = Growing(file, watch or Watch())

        def attempt() -> None:
            with self._http.answer(place, growing.headers()) as response:
                growing.align(response, place)
                for chunk in response.stream(CHUNK, decode_content=False):
                    growing.write(chunk)
            growing.finish()

        if path := local_path(place.url):
            growing.copy(path, place)
        else:
            self._persist(place, growing.watch, attempt, progress=lambda: growing.count)
        return growing.digest(), growing.count

    def ask(self, location: str | Location, *, watch: Watch | None = None) -> Document:
        """What the server says of a document without sending it: status 200, headers, no body.

        A server that does not answer such questions is asked for the first byte. Raises what :meth:`get` does.
        """
        place = usable(location)

        def attempt() -> Document:
            with self._http.answer(place, {}, method="HEAD") as response:
                response.drain_conn()  # there is nothing to drain, and so the connection can be used again
                if response.status == 200:
                    return Document(status=200, headers=headers_of(response), body=b"")
                if response.status not in _NO_QUESTIONS:
                    refuse(place, response)
            with self._http.answer(place, {"Range": "bytes=0-0"}) as response:
                if response.status not in (200, 206, 416):  # 416: it is empty
                    refuse(place, response)
                headers = headers_of(response)
                total = headers.pop("content-range", "").rpartition("/")[2]
                size = {"content-length": total} if response.status != 200 and total.isdecimal() else {}
                return Document(status=200, headers=headers | size, body=b"")

        if path := local_path(place.url):
            return asked_local(path, place)
        return self._persist(place, watch or Watch(), attempt)

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
        place = usable(location)
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Length"] = str(body.size)

        def attempt() -> Document:
            with self._http.answer(place, sent, body, method) as response:
                if response.status not in good:
                    refuse(place, response)
                return Document(
                    status=response.status, headers=headers_of(response), body=read(response, 64 << 10, place)
                )

        return self._persist(place, body.watch if body else Watch(), attempt, attempts=None if again else 1)

    def _fill(self, part: Partial, place: Location) -> None:
        def attempt() -> None:
            headers = {"Range": f"bytes={part.count}-"} if part.count else {}
            with self._http.answer(place, headers) as response:
                part.align(response, place)
                for chunk in response.stream(CHUNK, decode_content=False):
                    part.write(chunk, place)
            if part.count < part.size:
                raise InterruptedTransferError(f"it sent only {part.count} of {part.size} bytes")

        if path := local_path(place.url):
            part.copy(path, place)
        elif part.count < part.size:
            self._persist(place, part.watch, attempt, progress=lambda: part.reached)

    def _persist(
        self,
        place: Location,
        watch: Watch,
        attempt: Callable[[], T],
        progress: Callable[[], int] = lambda: 0,
        attempts: int | None = None,
    ) -> T:
        if self.offline:
            raise OfflineError("the network may not be used", where=place.shown, hint="run it again without --offline")
        return self._retrying.until_answered(place, watch, attempt, progress, attempts)
