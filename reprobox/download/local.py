"""Documents of this machine, for ``file:`` URLs."""

from __future__ import annotations

from pathlib import Path

from reprobox.download.transfer import Document, Location
from reprobox.errors import FetchError


def read_local(path: Path, limit: int, place: Location) -> Document:
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None
    if len(body) > limit:
        raise FetchError(f"it has more than the {limit} bytes allowed for this document", where=place.shown)
    return Document(status=200, headers={}, body=body)


def asked_local(path: Path, place: Location) -> Document:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=place.shown) from None
    return Document(status=200, headers={"content-length": str(size)}, body=b"")
