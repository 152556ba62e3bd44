"""Unpacking image layers into one tree, where nothing that an archive says leads out of it.

Every path is walked from the tree's root on directory handles that do not follow links; symlinks are resolved inside
the root as the kernel's RESOLVE_IN_ROOT does. Layers are laid over each other as Docker does it. Owners and extended
attributes are left out, devices, FIFOs and sockets skipped. Folders get their modes last, so that an ordinary user can
fill those that are read-only.

Source: OCI Image Format Specification v1.1, "Filesystem Layers" (change sets, whiteouts).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from reprobox.archives.tar_stream import (
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    SYMLINK,
    Header,
    TarError,
    TarStream,
    decompressed,
)
from reprobox.errors import BuildError, IntegrityError, cannot_write
from reprobox.pieces import ahead

_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"

_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as the kernel's MAXSYMLINKS
_DEEPEST = 256
_HANDLES = 100
_LATEST = 1 << 62  # nanoseconds; what utimensat(2) takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one archive may unpack to: ``entries``, and bytes: ``ratio`` times its own size, but at least ``size``."""

    entries: int = 2_000_000
    size: int = 1 << 30
    ratio: int = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A layer's blob, and the sha256 hex that its tar must have ("diff id"); empty if nobody knows."""

    path: Path
    diff_id: str = ""


def unpack(root: Path, archives: Iterable[Archive], limits: Limits | None = None) -> Unpacker:
    """Lay the archives, lowest first, over each other in the empty folder ``root``; returns who did it, and so knows
    what was ``skipped``, and the ``contents``.

    Raises :class:`IntegrityError` for an archive that is not the one with its diff id, :class:`BuildError` for one that
    is broken or tries to leave the tree, and :class:`ReproboxError` when the disk is full.
    """
    with Unpacker(root) as unpacker:
        for archive in archives:
            unpacker.layer(archive, limits or Limits())
    return unpacker


class Unpacker:
    """A tree that is being made. As a context manager: modes of folders are set at its end.

    ``contents`` has the sha256 hex of the files that are in the tree, by path, so that nobody need read them again.
    """

    def __init__(self, root: Path) -> None:
        self.skipped: list[str] = []
        self.contents: dict[bytes, str] = {}
        self._where = root
        self._root = os.open(root, _HANDLE)
        self._handles: dict[bytes, tuple[int, bytes]] = {}  # path as written -> handle, path without links
        self._moved = False  # a link or a folder went, so paths may lead elsewhere; what is only added changes no way
        self._folders: dict[bytes, tuple[int, int]] = {}  # path without links -> mode, mtime
        self._written: set[bytes] = set()  # by the current layer: its whiteouts do not hide these

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close_handles()
            os.close(self._root)

    def layer(self, archive: Archive, limits: Limits) -> None:
        """Lay one archive over what is there."""
        self._written.clear()
        try:
            with archive.path.open("rb") as file:
                hashed = _Hashed(decompressed(file), limits, os.fstat(file.fileno()).st_size)
                with ahead(iter(hashed)) as pieces:
                    stream = TarStream(pieces)
                    for count, header in enumerate(stream):
                        if count >= limits.entries:
                            raise BuildError(f"it has more than {limits.entries} entries", where=str(archive.path))
                        self._write(header, stream)
        except TarError as error:
            raise BuildError(f"this layer cannot be unpacked: {error}", where=str(archive.path)) from None
        except OSError as error:
            raise cannot_write(self._where, error) from None
        found = hashed.digest()
        if archive.diff_id and found != archive.diff_id:
            raise IntegrityError(
                f"the layer unpacks to other bytes than its image says: sha256 {found}, not {archive.diff_id}",
                where=str(archive.path),
                hint="the image is broken where it was made: choose another tag or digest",
            )

    def entries(self, entries: Iterable[tuple[Header, Iterator[bytes]]], limits: Limits, packed: int) -> None:
        """Lay what another reader than that of tar archives has over what is there; ``packed`` is its size in bytes.

        Names that images keep for whiteouts are skipped.
        """
        self._written.clear()
        try:
            metered = _Metered(limits, packed)
            for header, content in entries:
                if _WHITEOUT in header.name and any(map(_is_whiteout, header.name.split(b"/"))):
                    self.skipped.append(f"/{_shown(header.name)} (a name that images keep for what is deleted)")
                    continue
                self._write(header, metered.over(content))
        except OSError as error:
            raise cannot_write(self._where, error) from None

    # -- entries -------------------------------------------------------------------------------------------------------

    def _write(self, header: Header, stream: _Content) -> None:
        parts = _parts(header.name)
        if not parts or any(part.startswith(_META) for part in parts[:-1]):
            return
        *folders, name = parts
        if name.startswith(_WHITEOUT):
            self._whiteout(b"/".join(folders), name)
            return
        handle, folder = self._entered(b"/".join(folders))
        path = folder + b"/" + name if folder else name
        if header.kind == FOLDER:
            self._folder(handle, name, path)
            self._folders[path] = (header.mode, header.mtime)
        else:
            self._plain(handle, name, path, header, stream)
        self._written.add(path)

    def _plain(self, handle: int, name: bytes, path: bytes, header: Header, stream: _Content) -> None:
        """Anything that is no folder; it replaces what has its name."""
        if header.kind == FILE:
            self._file(handle, name, path, header, stream)
        elif header.kind == SYMLINK:
            self._clear(handle, name, path)
            os.symlink(header.target, name, dir_fd=handle)
            os.utime(name, ns=_times(header.mtime), dir_fd=handle, follow_symlinks=False)
        elif header.kind == HARD_LINK:
            self._hard_link(handle, name, path, header)
        else:
            self._clear(handle, name, path)
            kind = "FIFO" if header.kind == FIFO else "device"
            self.skipped.append(f"/{os.fsdecode(path)} ({kind})")

    def _folder(self, handle: int, name: bytes, path: bytes) -> None:
        """Make a folder; one that is there keeps what is in it, and anything else goes, a link to a folder too."""
        try:
            os.mkdir(name, 0o700, dir_fd=handle)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=handle).st_mode):
                self._clear(handle, name, path)
                os.mkdir(name, 0o700, dir_fd=handle)

    def _file(self, handle: int, name: bytes, path: bytes, header: Header, stream: _Content) -> None:
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=handle)
        except FileExistsError:
            self._clear(handle, name, path)
            file = os.open(name, _CREATE, 0o600, dir_fd=handle)
        content = hashlib.sha256()
        try:
            for piece in stream.data():
                content.update(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(file, rest) :]
            os.fchmod(file, header.mode)
            os.utime(file, ns=_times(header.mtime))
            self.contents[path] = content.hexdigest()
            if header.mode & 0o6000 and stat.S_IMODE(os.fstat(file).st_mode) != header.mode:
                raise BuildError("set-id bits are dropped by the file system", where=str(self._where), hint=_SET_ID)
        finally:
            os.close(file)

    def _hard_link(self, handle: int, name: bytes, path: bytes, header: Header) -> None:
        """A second name for a file inside the tree, where absolute targets start at its root."""
        *folders, target = _parts(header.target) or [b""]
        found = self._walked(b"/".join(folders), make=False)
        try:
            if not found or not target:
                raise FileNotFoundError
            source, origin = os.lstat(target, dir_fd=found[0]), found[1] + b"/" + target if found[1] else target
            if stat.S_ISDIR(source.st_mode) or origin == path:
                raise TarError(f"/{_shown(path)} is a hard link to a folder or to itself")
            self._clear(handle, name, path)
            os.link(target, name, src_dir_fd=found[0], dst_dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            raise TarError(f"/{_shown(path)} is a hard link to {_shown(header.target)}, which is not there") from None
        finally:
            if found:
                os.close(found[0])
        if stat.S_ISREG(source.st_mode):
            if origin in self.contents:
                self.contents[path] = self.contents[origin]
            os.chmod(name, header.mode, dir_fd=handle)
            os.utime(name, ns=_times(header.mtime), dir_fd=handle)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _whiteout(self, folder: bytes, name: bytes) -> None:
        if name.startswith(_META) and name != _OPAQUE:
            return  # bookkeeping of a file system of Docker's early days
        if name in (_WHITEOUT, _WHITEOUT + b".", _WHITEOUT + b".."):
            raise TarError(f"the whiteout {_shown(name)} names nothing")
        found = self._walked(folder, make=False)
        if not found:
            return
        handle, path = found
        try:
            hidden = [name[len(_WHITEOUT) :]] if name != _OPAQUE else _names(handle)
            for item in hidden:
                self._remove(handle, item, path + b"/" + item if path else item, keep=self._written)
        finally:
            os.close(handle)

    def _clear(self, handle: int, name: bytes, path: bytes) -> None:
        self._remove(handle, name, path, keep=frozenset())

    def _remove(self, handle: int, name: bytes, path: bytes, keep: set[bytes] | frozenset[bytes]) -> None:
        """Take a path away, but nothing that is in ``keep``, nor the folders above that."""
        try:
            mode = os.lstat(name, dir_fd=handle).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            if path not in keep:
                os.unlink(name, dir_fd=handle)
                self.contents.pop(path, None)
                if stat.S_ISLNK(mode):
                    self._moved = True
            return
        inside = os.open(name, _HANDLE, dir_fd=handle)
        try:
            for item in _names(inside):
                self._remove(inside, item, path + b"/" + item, keep)
        finally:
            os.close(inside)
        if path not in keep:
            with contextlib.suppress(OSError):  # not empty: something in it stays
                os.rmdir(name, dir_fd=handle)
                self._folders.pop(path, None)
                self._moved = True

    # -- ways ----------------------------------------------------------------------------------------------------------

    def _entered(self, path: bytes) -> tuple[int, bytes]:
        """A handle on the folder ``path``, made where it is missing, and its path without links. Owned by the cache."""
        if self._moved or len(self._handles) >= _HANDLES:
            self._close_handles()
        if path not in self._handles:
            found = self._walked(path, make=True)
            assert found is not None
            self._handles[path] = found
        return self._handles[path]

    def _close_handles(self) -> None:
        for handle, _ in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self._moved = False

    def _walked(self, path: bytes, *, make: bool) -> tuple[int, bytes] | None:
        """A new handle on the folder ``path`` and its path without links; links lead no further than the root.

        A missing folder is made, or else None is returned.
        """
        ahead = deque(path.split(b"/"))
        names: list[bytes] = []
        handles = [os.dup(self._root)]
        links = 0
        try:
            while ahead:
                part = ahead.popleft()
                if part == b"..":
                    if names:
                        names.pop()
                        os.close(handles.pop())
                elif part not in (b"", b"."):
                    target = self._stepped(handles, names, part, make=make)
                    if target is None:
                        return None
                    if target:
                        links += 1
                        ahead.extendleft(reversed(target.split(b"/")))
                        if target.startswith(b"/"):
                            while names:
                                names.pop()
                                os.close(handles.pop())
                    if links > _LINKS or len(names) > _DEEPEST:
                        raise TarError(f"/{_shown(path)} leads through too many links or folders")
            return handles.pop(), b"/".join(names)
        finally:
            for handle in handles:
                os.close(handle)

    def _stepped(self, handles: list[int], names: list[bytes], part: bytes, *, make: bool) -> bytes | None:
        """Enter ``part``: empty when done, the target when it is a link, None when it is missing and not to be made."""
        for _ in range(2):
            try:
                handles.append(os.open(part, _HANDLE, dir_fd=handles[-1]))
            except FileNotFoundError:
                if not make:
                    return None
                os.mkdir(part, 0o700, dir_fd=handles[-1])
                self._folders[b"/".join([*names, part])] = (0o755, 0)
            except NotADirectoryError:
                try:
                    return os.readlink(part, dir_fd=handles[-1]) or b"."
                except OSError:
                    if not make:
                        return None
                    raise TarError(f"/{_shown(b'/'.join([*names, part]))} is a file where a folder must be") from None
            else:
                names.append(part)
                return b""
        raise AssertionError("a folder that was just made is not there")

    def _finish(self) -> None:
        """Give folders their modes and times, the deepest first."""
        try:
            for path in sorted(self._folders, reverse=True):
                mode, mtime = self._folders[path]
                parent, _, name = path.rpartition(b"/")
                handle, _ = self._entered(parent)
                folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
                try:
                    os.utime(folder, ns=_times(mtime))
                    os.fchmod(folder, mode)
                finally:
                    os.close(folder)
        except OSError as error:
            raise cannot_write(self._where, error) from None


_SET_ID = "its group must be one of yours: set REPROBOX_STORE to a folder of your own"


class _Hashed:
    """Passes pieces on, hashes them, and stops at what no honest archive unpacks to."""

    def __init__(self, pieces: Iterator[bytes], limits: Limits, packed: int) -> None:
        self._pieces = pieces
        self._left = max(limits.size, limits.ratio * packed)
        self._allowed = self._left
        self._state = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._left -= len(piece)
            if self._left < 0:
                raise TarError(f"it unpacks to more than {self._allowed} bytes, far more than its size lets expect")
            self._state.update(piece)
            yield piece

    def digest(self) -> str:
        return self._state.hexdigest()


class _Content(Protocol):
    """What has the content of an entry."""

    def data(self) -> Iterator[bytes]: ...


class _Metered:
    """The content of one entry after the other, until it is more than an honest file system holds."""

    def __init__(self, limits: Limits, packed: int) -> None:
        self._allowed = self._left = max(limits.size, limits.ratio * packed)
        self._content: Iterator[bytes] = iter(())

    def over(self, content: Iterator[bytes]) -> _Content:
        self._content = content
        return self

    def data(self) -> Iterator[bytes]:
        for piece in self._content:
            self._left -= len(piece)
            if self._left < 0:
                raise BuildError(f"it unpacks to more than {self._allowed} bytes, far more than its size lets expect")
            yield piece


def _is_whiteout(part: bytes) -> bool:
    return part.startswith(_WHITEOUT)


def _parts(name: bytes) -> list[bytes]:
    """The components of an entry's name, which starts at the root whether it has a slash there or not."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TarError(f"{_shown(name)} leads out of its folder")
    if len(parts) > _DEEPEST:
        raise TarError(f"{_shown(name)} is more than {_DEEPEST} folders deep")
    return parts


def _names(handle: int) -> list[bytes]:
    """What is in a folder. A handle that only leads somewhere cannot be listed, so it is opened once more."""
    folder = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    try:
        return [os.fsencode(name) for name in os.listdir(folder)]
    finally:
        os.close(folder)


def _times(mtime: int) -> tuple[int, int]:
    return (min(mtime, _LATEST),) * 2


def _shown(path: bytes) -> str:
    return path[:200].decode("utf-8", "backslashreplace")
