"""The files of a vault as they lie: in a folder, or in one tar. Nothing that a link points to is ever read.

Both have the same names: ``oci-layout``, ``index.json``, ``README`` and ``blobs/sha256/<hex>``. A tar is made one way
(:class:`TarWriter`), so every byte of it that is no file's content can be checked too.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

from reprobox.errors import IntegrityError, UsageError
from reprobox.image import Hashed, file_header, tar_end

BLOBS = "blobs/sha256/"
#: While a vault is written, this folder of it says so; see ``reprobox.vault.write``.
WRITING = ".writing"
CHUNK = 1 << 20
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is not as it should be in a vault: which of its files, and what is wrong."""

    name: str
    message: str


class Shelf(Protocol):
    """What a vault's files are read through."""

    path: Path

    def names(self) -> list[str]:
        """All files, sorted; what is neither file nor folder too."""

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes, in pieces. Raises :class:`FileNotFoundError`, and :class:`IntegrityError` for a link."""

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None where there is no such file."""

    def wrongs(self) -> Iterator[Wrong]:
        """What is wrong beside the files' content."""


def open_shelf(path: Path) -> Shelf:
    """The vault at ``path``. Raises :class:`UsageError` where there is none."""
    try:
        if path.is_dir():
            if "oci-layout" in os.listdir(path):
                return FolderShelf(path)
            raise UsageError("this folder is no vault: it has no oci-layout", where=str(path), hint=_MAKE)
        if path.is_file():
            path.open("rb").close()
            return TarShelf(path)
    except OSError as error:
        hint = "whoever made it must let you read it: chmod -R a+rX"
        raise UsageError(f"the vault cannot be read: {error.strerror}", where=str(path), hint=hint) from None
    raise UsageError("there is no vault", where=str(path), hint=_MAKE)


_MAKE = "give the folder or the .tar that `reprobox vault PATH` wrote"


class FolderShelf:
    """A vault that is a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(name for name in _files_below(self.path, "") if not name.startswith(f"{WRITING}/"))

    def read(self, name: str) -> Iterator[bytes]:
        descriptor = self._opened(name)
        with open(descriptor, "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                yield data

    def size(self, name: str) -> int | None:
        try:
            status = os.lstat(self.path / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def wrongs(self) -> Iterator[Wrong]:
        for folder in ("blobs", "blobs/sha256"):
            if (self.path / folder).is_symlink():
                yield Wrong(folder, "it is a link, and a vault has none")

    def _opened(self, name: str) -> int:
        """A descriptor of the file; no link is followed, not even one that a folder on the way is."""
        here = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            *folders, last = name.split("/")
            for folder in folders:
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IntegrityError(f"{name} cannot be read: {_reason(error)}", where=str(self.path)) from None
        finally:
            os.close(here)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IntegrityError(f"{name} is no file", where=str(self.path))
        return descriptor


def _reason(error: OSError) -> str:
    a_link = error.errno in (errno.ELOOP, errno.ENOTDIR)  # where a file, or a folder, is wanted
    return "it is a link, or lies behind one" if a_link else str(error.strerror)


def _files_below(root: Path, below: str) -> Iterator[str]:
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(root, f"{name}/")
            else:
                yield name


class TarShelf:
    """A vault that is one file, as :class:`TarWriter` makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str) -> Iterator[bytes]:
        if name not in self._members:
            raise FileNotFoundError(name)
        at, left = self._members[name]
        with self.path.open("rb", buffering=0) as file:
            file.seek(at)
            while left and (data := file.read(min(left, CHUNK))):
                left -= len(data)
                yield data

    def size(self, name: str) -> int | None:
        return self._members[name][1] if name in self._members else None

    def wrongs(self) -> Iterator[Wrong]:
        """Every byte between the files must be the one that a vault has there."""
        with self.path.open("rb") as file:
            at = 0
            for name, (start, size) in self._members.items():
                expected = io.BytesIO()
                file_header(expected, name.encode(), size)
                file.seek(at)
                if file.read(start - at) != expected.getvalue():
                    yield Wrong(name, "its header in the tar is damaged")
                file.seek(start + size)
                if any(file.read(-size % _BLOCK)):
                    yield Wrong(name, "the tar is damaged behind it")
                at = start + size + -size % _BLOCK
            file.seek(at)
            end = Hashed()
            tar_end(end, at)
            if file.read() != bytes(end.size):
                yield Wrong(self.path.name, "the end of the tar is damaged, or something follows it")

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """Where each file begins, and its size."""
        found: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in archive:
                    if not member.isreg() or member.name in found:
                        raise IntegrityError(f"{member.name} is in it twice, or is no file", where=str(self.path))
                    found[member.name] = (member.offset_data, member.size)
        except (tarfile.TarError, UnicodeError, ValueError, EOFError) as error:
            raise IntegrityError(
                f"it is no vault: it cannot be read as a tar: {error}", where=str(self.path), hint=_MAKE
            ) from None
        return found


class TarWriter:
    """Writes files one after the other, so that the same ones give the same bytes."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._written = 0

    def start(self, name: str, size: int) -> None:
        """A file of ``size`` bytes follows; the caller writes them to the sink."""
        self._written += file_header(self._sink, name.encode(), size) + size

    def end(self, size: int) -> None:
        """The file is written."""
        self._sink.write(bytes(-size % _BLOCK))
        self._written += -size % _BLOCK

    def close(self) -> None:
        """All files are written."""
        tar_end(self._sink, self._written)


def whole(shelf: Shelf, name: str, limit: int) -> bytes:
    """A small file of a vault. Raises :class:`IntegrityError` where it is missing or larger than ``limit`` bytes."""
    data = b""
    try:
        for piece in shelf.read(name):
            data += piece
            if len(data) > limit:
                raise IntegrityError(f"{name} has more than {limit} bytes", where=str(shelf.path))
    except FileNotFoundError:
        raise IntegrityError(f"it lacks {name}", where=str(shelf.path), hint=DAMAGED) from None
    return data


DAMAGED = "the vault is damaged: take another copy of it, or make it anew with `reprobox vault`"
