"""Merged trees, and folders of this machine read, made and removed as trees, whatever their modes.

Standard library only: the sandbox's launcher imports this module in a bare interpreter, inside the user namespace,
where files that their owner may not read can be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from reprobox.digest import Entry, escape, read_index, unescape

_CHUNK = 1 << 16
_LINKS = 40  # as the kernel's MAXSYMLINKS


class Tree:
    """A merged file system as metadata: what a user of the stacked layers would see."""

    def __init__(self, entries: Mapping[bytes, Entry] | None = None) -> None:
        self.entries: dict[bytes, Entry] = dict(entries or {})

    @classmethod
    def merged(cls, indexes: Iterable[Iterable[Entry]]) -> Tree:
        """The tree that layers with these indexes, lowest first, show."""
        tree = cls()
        for index in indexes:
            tree.apply(index)
        return tree

    @classmethod
    def load(cls, *indexes: Path) -> Tree:
        """The merged tree of index files, lowest first."""
        return cls.merged(read_index(path.read_bytes()) for path in indexes)

    def apply(self, index: Iterable[Entry]) -> None:
        """Put one layer on top."""
        entries = self.entries
        gone = set()
        new = []
        for entry in index:
            old = entries.get(entry.path)
            if old is not None and old.kind == "d" and entry.kind != "d":
                gone.add(entry.path)
            if entry.kind == "w":
                entries.pop(entry.path, None)
            else:
                new.append(entry)
        if gone:
            self._remove_below(gone)
        for entry in new:
            entries[entry.path] = entry

    def _remove_below(self, folders: set[bytes]) -> None:
        prefixes = tuple(folder + b"/" for folder in folders)
        for path in [path for path in self.entries if path.startswith(prefixes)]:
            del self.entries[path]

    def get(self, path: bytes) -> Entry | None:
        """The entry at exactly ``path`` (relative, no ``./``); nothing is followed."""
        return self.entries.get(path)

    def resolve(self, path: bytes, *, final: bool = False) -> bytes:
        """``path`` with every symlink of its folders followed inside the root (the last component too if ``final``).

        Components that do not exist stand for themselves. Raises :class:`OSError` (ELOOP) after 40 links.
        """
        done: list[bytes] = []
        todo = [part for part in reversed(path.split(b"/")) if part]
        followed = 0
        while todo:
            part = todo.pop()
            if part == b".":
                continue
            if part == b"..":
                del done[-1:]
                continue
            entry = self.entries.get(b"/".join([*done, part]))
            if entry is None or entry.kind != "l" or not (todo or final):
                done.append(part)
                continue
            followed += 1
            if followed > _LINKS:
                raise OSError(40, "too many symbolic links", os.fsdecode(path))
            target = unescape(entry.detail)
            if target.startswith(b"/"):
                done.clear()
            todo.extend(piece for piece in reversed(target.split(b"/")) if piece)
        return b"/".join(done)

    def sorted(self) -> list[Entry]:
        """All entries by path bytes."""
        return [self.entries[path] for path in sorted(self.entries)]


def opened(path: bytes | str | Path, *, buffering: int = -1) -> BinaryIO:
    """Open a file of a tree for reading, also one of this user that its mode lets nobody read."""
    try:
        return open(path, "rb", buffering)
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, mode | 0o400)
        try:
            return open(path, "rb", buffering)
        finally:
            os.chmod(path, mode)


def file_sha256(path: bytes | str | Path) -> str:
    """sha256 hex of a file's content."""
    state = hashlib.sha256()
    with opened(path, buffering=0) as file:  # most files of a tree are smaller than what is read at a time
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()


def _nothing(_: bytes) -> bool:
    return False


def scan(
    root: Path, known: Mapping[bytes, str] | None = None, *, left_out: Callable[[bytes], bool] = _nothing
) -> list[Entry]:
    """The index of a plain folder: every directory, file and link below it, by path bytes; other types are left out.

    ``known`` has the sha256 hex of files, by path, that need not be read again. Paths of which ``left_out`` is true are
    neither read nor entered.
    """
    entries = []
    for path, status in walk(os.fsencode(root), left_out=left_out):
        entry = entry_of(os.fsencode(root), path, status, known or {})
        if entry is not None:
            entries.append(entry)
    return sorted(entries, key=lambda item: item.path)


def entry_of(
    root: bytes, path: bytes, status: os.stat_result, known: Mapping[bytes, str] = MappingProxyType({})
) -> Entry | None:
    """What an index says of the ``path`` below ``root`` that has this status; None for what no tree has.

    ``known`` has the sha256 hex of files, by path, that need not be read again.
    """
    mode = stat.S_IMODE(status.st_mode)
    full = root + b"/" + path
    if stat.S_ISDIR(status.st_mode):
        return Entry("d", mode, "-", path)
    if stat.S_ISLNK(status.st_mode):
        return Entry("l", 0o777, escape(os.readlink(full)), path)
    if stat.S_ISREG(status.st_mode):
        return Entry("f", mode, known.get(path) or file_sha256(full), path)
    return None


def walk(
    root: bytes, below: bytes = b"", *, left_out: Callable[[bytes], bool] = _nothing
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below a folder that this user owns, relative to it, whatever the modes of the folders; those of which
    ``left_out`` is true are not entered.
    """
    folder = root + b"/" + below if below else root
    with _allowed(folder, os.R_OK | os.X_OK), os.scandir(folder) as items:
        for item in sorted(items, key=lambda found: found.name):
            path = below + b"/" + item.name if below else item.name
            if left_out(path):
                continue
            status = item.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                yield from walk(root, path, left_out=left_out)


@contextlib.contextmanager
def _allowed(folder: bytes, wanted: int) -> Iterator[None]:
    """While this is held, the folder's owner may use it, whatever its mode says."""
    if os.access(folder, wanted):
        yield
        return
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    os.chmod(folder, mode | 0o700)
    try:
        yield
    finally:
        os.chmod(folder, mode)


def make_plain_folder(path: Path) -> None:
    """A folder with mode 0755 and nothing inherited from its parent folder, made if it is not there."""
    path.mkdir(mode=0o755, exist_ok=True)
    strip_inherited(path, 0o755)


def strip_inherited(path: Path, mode: int) -> None:
    """Give a folder exactly ``mode``, without the ACLs and the setgid bit that it may have from its parent folder."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        with contextlib.suppress(OSError):
            os.removexattr(path, name)
    path.chmod(mode)


def remove(path: Path) -> None:
    """Delete a folder that this user owns, whatever the modes inside it."""
    if not path.is_symlink() and path.is_dir():
        _remove(os.fsencode(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _remove(path: bytes) -> None:
    try:
        os.chmod(path, 0o700)
        items = list(os.scandir(path))
    except FileNotFoundError:
        return
    for item in items:
        if item.is_dir(follow_symlinks=False):
            _remove(item.path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(item.path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
