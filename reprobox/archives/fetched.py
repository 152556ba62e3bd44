"""Archives that people publish, tar and zip, read as one stream of members that cannot lead out of their folder.

What a hostile archive may try is refused with :class:`ArchiveError` before anything is written: ``..`` and absolute
names, links that lead out, entries behind links, devices, more than an honest archive holds. A tar is read once, from
its start; of a zip its central directory counts, and each entry must agree with it.

Sources: POSIX.1-2017 pax(1); PKWARE APPNOTE 6.3.10; Info-ZIP's external attributes, as zip(1) writes them.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from reprobox.archives.tar_stream import FIFO, FILE, FOLDER, HARD_LINK, SYMLINK, TarError, TarStream, decompressed

_CHUNK = 1 << 18
_LINKS = 40  # as the kernel's MAXSYMLINKS
_DEEPEST = 256
_LONGEST_LINK = 4096
_UNIX = (3, 19)  # "version made by": Unix, macOS
_ENCRYPTED, _UTF8 = 0x1, 0x800
_LONGEST_END = (1 << 16) + 22 + 20  # the end record with the longest comment, and the locator of zip64 before it
_LOCATOR, _IN_ZIP64 = 20, 0xFFFFFFFF


class ArchiveError(ValueError):
    """The archive is none that can be unpacked; the message says which entry, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one archive may hold: ``entries``, and bytes: ``ratio`` times its own size, but at least ``size``."""

    entries: int = 1_000_000
    size: int = 1 << 30
    ratio: int = 200


class Member(NamedTuple):
    """One entry: where it goes (relative, plain), what it is, and a link's target.

    ``kind`` is ``d``, ``f``, ``x`` (an executable file), ``l`` (``target`` as it says) or ``h`` (``target`` is the path
    of an earlier file of this archive). ``mode`` are the permission bits that the archive says, 0 where it says none.
    """

    path: bytes
    kind: str
    target: bytes = b""
    mode: int = 0


class Archive:
    """The archive at ``path``, whose content goes into the folder ``home`` of the environment (no slash at its ends).

    The first ``strip`` folders of every name are left out, as GNU tar's ``--strip-components`` does. With ``below``,
    only what is in that folder of the archive counts, and it is the archive's root.
    """

    def __init__(
        self, path: Path, *, home: bytes = b"", strip: int = 0, below: bytes = b"", limits: Limits | None = None
    ) -> None:
        self._path = path
        self._home = home
        self._strip = strip
        self._below = below.split(b"/") if below else []
        self._limits = limits or Limits()
        self._allowed = max(self._limits.size, self._limits.ratio * path.stat().st_size)
        self._unpacked = 0

    def members(self) -> Iterator[tuple[Member, Iterable[bytes]]]:
        """Every member with its content, in the archive's order. Raises :class:`ArchiveError`, also after the last."""
        self._unpacked = 0
        with self._path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            found = _Zip(self) if start in (b"PK\x03\x04", b"PK\x05\x06") else _Tar(self)
            yield from self._checked(found.entries(file), once=isinstance(found, _Zip))

    @property
    def most_directory(self) -> int:
        """Bytes that a zip's directory may take: it is read into memory before anything of it can be counted."""
        return 200 * self._limits.entries

    def check(self) -> None:
        """Read it all, and raise :class:`ArchiveError` for what :meth:`members` would."""
        for _, content in self.members():
            for _ in content:
                pass

    def metered(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass unpacked bytes on, and stop at what no honest archive unpacks to."""
        for piece in pieces:
            self._unpacked += len(piece)
            if self._unpacked > self._allowed:
                raise ArchiveError(
                    f"it unpacks to more than {self._allowed} bytes, far more than its"
                    f" {self._path.stat().st_size} bytes let expect"
                )
            yield piece

    def _checked(
        self, entries: Iterable[tuple[Member, Iterable[bytes]]], *, once: bool
    ) -> Iterator[tuple[Member, Iterable[bytes]]]:
        seen = _Seen(self._home, once=once)
        for count, (entry, content) in enumerate(entries):
            if count >= self._limits.entries:
                raise ArchiveError(f"it has more than {self._limits.entries} entries")
            path = self._stripped(entry.path)
            if not path:
                continue
            target = self._stripped(_plain(entry.target)) if entry.kind == "h" else entry.target
            member = entry._replace(path=path, target=target)
            seen.add(member)
            yield member, content
        seen.finish(self._strip)

    def _stripped(self, path: bytes) -> bytes:
        parts = path.split(b"/")
        if parts[: len(self._below)] != self._below:
            return b""
        return b"/".join(parts[len(self._below) + self._strip :])


class _Seen:
    """What came so far: so that nothing goes through a link, nor is two things at once."""

    def __init__(self, home: bytes, *, once: bool) -> None:
        self._home = [part for part in home.split(b"/") if part]
        self._once = once
        self._folders: set[bytes] = {b""}
        self._others: dict[bytes, Member] = {}

    def add(self, member: Member) -> None:
        path = member.path
        self._make_folders(path if member.kind == "d" else path.rpartition(b"/")[0], path)
        if member.kind == "d":
            return
        if path in self._folders:
            raise ArchiveError(f"{_shown(path)} is a folder and something else too")
        if self._once and path in self._others:
            raise ArchiveError(f"{_shown(path)} is in it twice, and programs differ in which one they take")
        if member.kind == "h":
            old = self._others.get(member.target)
            if old is None or old.kind == "l" or member.target == path:
                raise ArchiveError(f"{_shown(path)} is a hard link to {_shown(member.target)}, which is no file of it")
            member = old
        self._others[path] = member

    def _make_folders(self, folder: bytes, path: bytes) -> None:
        while folder not in self._folders:
            if (other := self._others.get(folder)) is not None:
                what = "a link" if other.kind == "l" else "a file"
                raise ArchiveError(
                    f"{_shown(folder)} is a folder and something else too"
                    if folder == path
                    else f"{_shown(path)} goes through {_shown(folder)}, which is {what} of the archive"
                )
            self._folders.add(folder)
            folder = folder.rpartition(b"/")[0]

    def finish(self, strip: int) -> None:
        """What can only be said at the end: links may lead to what comes after them."""
        if len(self._folders) == 1 and not self._others:
            raise ArchiveError(f"strip = {strip} leaves nothing of it" if strip else "there is nothing in it")
        for path, member in self._others.items():
            if member.kind == "l" and self._leads_out(path, member.target):
                raise ArchiveError(
                    f"{_shown(path)} is a link to {_shown(member.target)}, out of the folder that it is unpacked into"
                )

    def _leads_out(self, path: bytes, target: bytes) -> bool:
        at = path.split(b"/")[:-1]
        todo = self._ahead(at, target)
        links = 0
        while todo is not None and todo and links <= _LINKS:
            part = todo.pop()
            if part == b"..":
                if not at:
                    return True
                at.pop()
                continue
            here = b"/".join([*at, part])
            other = self._others.get(here)
            if other is None or other.kind != "l":
                at.append(part)
                continue
            links += 1
            more = self._ahead(at, other.target)
            todo = None if more is None else [*todo, *more]
        return todo is None

    def _ahead(self, at: list[bytes], target: bytes) -> list[bytes] | None:
        """The parts of a target, the first one last. One that starts at the root goes through the folder itself."""
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        if target.startswith(b"/"):
            if parts[: len(self._home)] != self._home:
                return None
            at.clear()
            del parts[: len(self._home)]
        return parts[::-1]


# -- tar ---------------------------------------------------------------------------------------------------------------

_KINDS = {FOLDER: "d", SYMLINK: "l", HARD_LINK: "h"}


class _Tar:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def entries(self, file: IO[bytes]) -> Iterator[tuple[Member, Iterable[bytes]]]:
        count = 0
        try:
            stream = TarStream(iter(self._archive.metered(decompressed(file))))
            for header in stream:
                count += 1
                path = _plain(header.name)
                if header.kind not in (FILE, *_KINDS):
                    raise ArchiveError(f"{_shown(path)} is a {'FIFO' if header.kind == FIFO else 'device'}")
                kind = _KINDS.get(header.kind) or ("x" if header.mode & 0o100 else "f")
                yield Member(path, kind, header.target, header.mode & 0o7777), _told(stream)
        except TarError as error:
            if count == 0:
                raise ArchiveError(f"it is neither a tar nor a zip archive ({error})") from None
            raise ArchiveError(str(error)) from None


def _told(stream: TarStream) -> Iterator[bytes]:
    try:
        yield from stream.data()
    except TarError as error:
        raise ArchiveError(str(error)) from None


# -- zip ---------------------------------------------------------------------------------------------------------------


class _Zip:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def entries(self, file: IO[bytes]) -> Iterator[tuple[Member, Iterable[bytes]]]:
        size = _directory_size(file)
        if size > self._archive.most_directory:
            raise ArchiveError(f"the list of what is in it takes {size} bytes")
        try:
            with zipfile.ZipFile(file) as packed:
                for info in packed.infolist():
                    yield self._entry(packed, info)
        except UnicodeDecodeError:
            raise ArchiveError("a name in it is not UTF-8, though it says so") from None
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ArchiveError(f"this zip archive is broken: {error}") from None

    def _entry(self, packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[Member, Iterable[bytes]]:
        name = _zip_name(info)
        path = _plain(name)
        if info.flag_bits & _ENCRYPTED:
            raise ArchiveError(f"{_shown(path)} is encrypted")
        mode = info.external_attr >> 16 if info.create_system in _UNIX else 0
        if name.endswith(b"/"):
            return Member(path, "d", mode=mode & 0o7777), ()
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
            raise ArchiveError(f"{_shown(path)} is neither a file, a folder nor a link")
        if stat.S_ISLNK(mode):
            if info.file_size > _LONGEST_LINK:
                raise ArchiveError(f"{_shown(path)} is a link of {info.file_size} bytes")
            target = b"".join(self._content(packed, info, path))
            if not target or b"\0" in target:
                raise ArchiveError(f"{_shown(path)} is a link to nothing")
            return Member(path, "l", target), ()
        kind = "x" if mode & 0o100 else "f"
        return Member(path, kind, mode=mode & 0o7777), self._content(packed, info, path)

    def _content(self, packed: zipfile.ZipFile, info: zipfile.ZipInfo, path: bytes) -> Iterator[bytes]:
        try:
            with packed.open(info) as content:
                yield from self._archive.metered(iter(lambda: content.read(_CHUNK), b""))
        except NotImplementedError:
            raise ArchiveError(
                f"{_shown(path)} is packed with method {info.compress_type}, which is not known here"
            ) from None
        except (zlib.error, zipfile.BadZipFile, EOFError, OSError, UnicodeDecodeError) as error:
            raise ArchiveError(f"{_shown(path)} is broken: {error}") from None


def _directory_size(file: IO[bytes]) -> int:
    """Bytes of the central directory, as the end of the archive says; 0 where there is no end.

    Source: PKWARE APPNOTE 6.3.10, 4.3.14 to 4.3.16.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _LONGEST_END))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if size == _IN_ZIP64 and at >= _LOCATOR and tail[at - _LOCATOR :].startswith(b"PK\x06\x07"):
        file.seek(min(end, int.from_bytes(tail[at - 12 : at - 4], "little")))
        size = int.from_bytes(file.read(56)[40:48], "little")
    file.seek(0)
    return size


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    """The name's bytes. Unix has no encoding for names; elsewhere they are code page 437, unless they say UTF-8."""
    if info.flag_bits & _UTF8:
        return info.orig_filename.encode()
    if info.create_system in _UNIX:
        return info.orig_filename.encode("cp437")
    return info.orig_filename.replace("\\", "/").encode()  # some programs of that world write their own slashes


# -- names -------------------------------------------------------------------------------------------------------------


def _plain(name: bytes) -> bytes:
    """The name without ``.`` and doubled slashes; empty for the folder itself."""
    if name.startswith(b"/"):
        raise ArchiveError(f"{_shown(name)} is an absolute name")
    if b"\0" in name:
        raise ArchiveError(f"{_shown(name)} has a NUL in its name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveError(f"{_shown(name)} leads out of the folder that it is unpacked into")
    if len(parts) > _DEEPEST or any(len(part) > 255 for part in parts):
        raise ArchiveError(f"{_shown(name)} is too deep or too long a name")
    return b"/".join(parts)


def _shown(path: bytes) -> str:
    return repr(path[:200].decode("utf-8", "backslashreplace"))
