"""Files that grow while their bytes arrive: every byte is hashed, and what arrived before is continued."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from reprobox.download.http import refuse
from reprobox.download.transfer import CHUNK, InterruptedTransferError, Location, Watch
from reprobox.errors import FetchError, IntegrityError, ReproboxError, cannot_write

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse


class OtherSizeError(Exception):
    """A place that is the file's own has one of another size."""


class _Hashed:
    """A file to which bytes are added, and the hash of those that are in it."""

    def __init__(self, file: IO[bytes], watch: Watch) -> None:
        self.watch = watch
        self.count = 0
        self._file = file
        self._state = hashlib.sha256()

    def digest(self) -> str:
        return self._state.hexdigest()

    def restart(self) -> None:
        self.watch.advance(-self.count)
        self.count = 0
        self._state = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()

    def _put(self, chunk: bytes) -> None:
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
        self.watch.advance(len(chunk))


class Growing(_Hashed):
    """A file of which nothing is known before its server says so."""

    def __init__(self, file: IO[bytes], watch: Watch) -> None:
        super().__init__(file, watch)
        self._size = -1
        self._validator = ""

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
            refuse(place, response)
        if self.count:
            self.restart()
        length = response.headers.get("content-length", "")
        self._size = int(length) if length.isdecimal() else -1
        tag = response.headers.get("etag", "")
        self._validator = tag if tag.startswith('"') else response.headers.get("last-modified", "")

    def copy(self, path: Path, place: Location) -> None:
        """Take the bytes from a file of this machine."""
        try:
            with path.open("rb") as source:
                while chunk := source.read(CHUNK):
                    self.write(chunk)
        except OSError as error:
            raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None

    def write(self, chunk: bytes) -> None:
        self._put(chunk)

    def finish(self) -> None:
        if 0 <= self._size != self.count:
            raise InterruptedTransferError(f"it sent only {self.count} of {self._size} bytes")


class Partial(_Hashed):
    """A file that grows until it has its locked size; every byte is hashed, also those that were there before."""

    def __init__(self, file: IO[bytes], sha256: str, size: int, watch: Watch) -> None:
        super().__init__(file, watch)
        self.size = size
        self.reached = 0  # the most bytes ever in place: progress for the retry rule
        self.continued = False  # whether bytes of two answers, which may be of two files, are in it
        self._sha256 = sha256
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._add(chunk)
        if self.count > size:
            self.restart()

    def right(self) -> bool:
        return self.count == self.size and self.digest() == self._sha256

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
            raise InterruptedTransferError("it cannot continue where the download stopped")
        else:
            refuse(place, response)

    def copy(self, path: Path, place: Location) -> None:
        """Take the bytes from a file of this machine."""
        self.restart()
        try:
            with path.open("rb") as source:
                if (size := os.fstat(source.fileno()).st_size) != self.size:
                    self._other_size(place, f"it has {size} bytes where {self.size} are locked")
                while chunk := source.read(CHUNK):
                    self.write(chunk, place)
        except OSError as error:
            raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None

    def write(self, chunk: bytes, place: Location) -> None:
        if self.count + len(chunk) > self.size:
            self._other_size(place, f"it sends more than the {self.size} bytes that are locked")
        self._put(chunk)

    def _add(self, chunk: bytes) -> None:
        super()._add(chunk)
        self.reached = max(self.reached, self.count)

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
            raise OtherSizeError(message)
        self.wrong(place, message)
