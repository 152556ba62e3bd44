"""What a container's file system has that its parents have not, read from its export and laid out on disk.

An export is the whole merged file system, whatever the engine keeps it in, so nothing depends on storage drivers: their
own lists of changes go by size and time, and miss a file that was rewritten with both. What is the same as in the
parents is hashed and dropped as it passes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from reprobox.archives.tar_stream import FILE, FOLDER, HARD_LINK, SYMLINK, Header, TarStream
from reprobox.digest import Entry, escape, hidden
from reprobox.pieces import ahead
from reprobox.tree import Tree

_IN_MEMORY = 4 << 20
#: Folders that engines add to every root.
ENGINES_OWN = (b"dev", b"etc", b"proc", b"run", b"sys", b"tmp")


class Difference:
    """Fills the empty folder ``root`` with what differs from ``parents``.

    Afterwards ``deleted`` are the topmost paths that are gone, and the folders that they were in are there. ``made``
    are paths that were made for mounts alone: without anything in them, they do not count. ``read`` gives a file's
    content where an export only names it: a new hard link to a file that did not change.
    """

    def __init__(self, root: Path, parents: Tree, made: frozenset[bytes], read: Callable[[bytes], bytes]) -> None:
        self._root = os.fsencode(root)
        self._parents = parents
        self._made = made
        self._read = read
        self._seen: set[bytes] = set()
        self._written: set[bytes] = set()
        self._modes: dict[bytes, int] = {}  # of folders that are on disk, or would be
        self._late: list[tuple[bytes, bytes, Header]] = []
        self.deleted: frozenset[bytes] = frozenset()

    def fill(self, export: Iterable[bytes]) -> None:
        with ahead(iter(export)) as pieces:
            stream = TarStream(pieces)
            for header in stream:
                path = _path(header.name)
                if path and not hidden(path):
                    self._seen.add(path)
                    self._take(path, header, stream)
        first: dict[bytes, bytes] = {}
        for path, target, header in self._late:
            if first.setdefault(target, path) != path:
                os.link(self._place(first[target]), self._place(path), follow_symlinks=False)
            else:
                self._write(path, header, iter((self._read(target),)))
        self._leave_out_made()
        self.deleted = frozenset(self._gone())
        for path in self.deleted:
            self._place(path)
        self._set_modes()

    def _take(self, path: bytes, header: Header, stream: TarStream) -> None:
        old = self._parents.entries.get(path)
        if header.kind == FOLDER:
            self._modes[path] = header.mode
            if old is None or old.kind != "d" or old.mode != header.mode:
                self._folder(path)
        elif header.kind == FILE:
            self._file(path, header, stream, old)
        elif header.kind == SYMLINK:
            if old != Entry("l", 0o777, escape(header.target), path):
                os.symlink(header.target, self._place(path))
                _set_time(self._place(path), header.mtime)
                self._written.add(path)
        elif header.kind == HARD_LINK:
            self._hard_link(path, header, old)
        else:
            os.mkfifo(self._place(path))  # whatever it was: it is told, and does not enter
            self._written.add(path)

    def _file(self, path: bytes, header: Header, stream: TarStream, old: Entry | None) -> None:
        if old is None or old.kind != "f" or old.mode != header.mode:
            self._write(path, header, stream.data())
            return
        state = hashlib.sha256()
        if header.size <= _IN_MEMORY:
            content = b"".join(stream.data())
            state.update(content)
            if state.hexdigest() != old.detail:
                self._write(path, header, iter((content,)))
            return
        self._write(path, header, _hashed(stream.data(), state))
        if state.hexdigest() == old.detail:
            os.unlink(self._place(path))
            self._written.discard(path)

    def _hard_link(self, path: bytes, header: Header, old: Entry | None) -> None:
        target = _path(header.target)
        if target in self._written:
            os.link(self._place(target), self._place(path), follow_symlinks=False)
            self._written.add(path)
            return
        same = self._parents.entries.get(target)
        if same is None or old is None or same._replace(path=path) != old:
            self._late.append((path, target, header))

    def _write(self, path: bytes, header: Header, content: Iterator[bytes]) -> None:
        place = self._place(path)
        with open(place, "xb") as file:
            file.writelines(content)
            os.fchmod(file.fileno(), header.mode)
        _set_time(place, header.mtime)
        self._written.add(path)

    # -- folders

    def _place(self, path: bytes) -> bytes:
        """Where a path is on disk; the folders above it are there."""
        above = path.rpartition(b"/")[0]
        if above:
            self._folder(above)
        return self._root + b"/" + path

    def _folder(self, path: bytes) -> None:
        if path not in self._written:
            os.mkdir(self._place(path), 0o700)
            self._written.add(path)

    def _set_modes(self) -> None:
        """Deepest first: a folder that its owner may not enter keeps that mode."""
        for path in sorted(self._written, reverse=True):
            if path in self._modes:
                os.chmod(self._root + b"/" + path, self._modes[path])

    # -- what is not there

    def _leave_out_made(self) -> None:
        """What was made for mounts goes, unless somebody put something into it."""
        for path in sorted(self._made & self._seen, reverse=True):
            place = self._root + b"/" + path
            if path not in self._written:
                continue
            if path in self._modes:
                if os.listdir(place):
                    continue
                os.rmdir(place)
            elif os.lstat(place).st_size:
                continue
            else:
                os.unlink(place)
            self._written.discard(path)

    def _gone(self) -> Iterator[bytes]:
        for path in self._parents.entries:
            above = path.rpartition(b"/")[0]
            if path not in self._seen and not hidden(path) and (not above or above in self._modes):
                yield path


def made_for(targets: Iterable[str], start: Tree) -> frozenset[bytes]:
    """What an engine makes in a root so that something can be mounted at ``targets``: they and the folders above."""
    found = {path for path in ENGINES_OWN if path not in start.entries}
    for target in targets:
        path = start.resolve(os.fsencode(target).strip(b"/"), final=True)
        while path and path not in start.entries:
            found.add(path)
            path = path.rpartition(b"/")[0]
    return frozenset(found)


def _path(name: bytes) -> bytes:
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _hashed(content: Iterator[bytes], state: hashlib._Hash) -> Iterator[bytes]:
    for piece in content:
        state.update(piece)
        yield piece


def _set_time(place: bytes, mtime_ns: int) -> None:
    os.utime(place, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
