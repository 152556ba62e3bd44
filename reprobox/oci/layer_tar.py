"""A layer's tar back into a layer: a tree and its index, exactly as the step that built it left them.

Nothing is believed. Entries may only come in folders that came before them, none twice, so that nothing leads out of
the tree; and what was unpacked is made into a tar once more, which must be the same one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from reprobox.archives.tar_stream import FILE, FOLDER, HARD_LINK, SYMLINK, Header, TarError, TarStream, decompressed
from reprobox.digest import Entry, escape, prefixed, write_index
from reprobox.errors import IntegrityError, cannot_write
from reprobox.image import layer_digest
from reprobox.pieces import ahead
from reprobox.tree import strip_inherited
from reprobox.whiteouts import whiteout

_WHITEOUT = b".wh."
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 256
_LATEST = 1 << 62  # nanoseconds; what utimensat(2) takes


def unpack_layer(packed: Path, output: Path, *, diff_id: str, size: int, epoch: int) -> None:
    """Make ``output/tree`` and ``output/index`` of the packed tar whose sha256 (hex) and bytes are these.

    Raises :class:`IntegrityError` unless it is that very tar, and one that a layer of this epoch has.
    """
    tree = output / "tree"
    tree.mkdir(mode=0o755)
    strip_inherited(tree, 0o755)
    try:
        found = _unpack(packed, tree, size)
    except TarError as error:
        raise IntegrityError(f"it is no layer: {error}") from None
    except OSError as error:
        raise cannot_write(tree, error) from None
    if found.digest != diff_id:
        raise IntegrityError(f"it unpacks to {prefixed(found.digest)}, and not to its diff id {prefixed(diff_id)}")
    found.finish(epoch)
    (output / "index").write_bytes(write_index(found.entries[path] for path in sorted(found.entries)))
    if layer_digest(tree, output / "index", epoch) != (diff_id, size):
        raise IntegrityError("it is a tar that no layer is made of")


def _unpack(packed: Path, tree: Path, size: int) -> _Growing:
    growing = _Growing(os.fsencode(tree))
    state = hashlib.sha256()

    def hashed(pieces: Iterator[bytes]) -> Iterator[bytes]:
        left = size
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise TarError(f"it unpacks to more than the {size} bytes that it says")
            state.update(piece)
            yield piece

    with packed.open("rb") as file, ahead(hashed(decompressed(file))) as pieces:
        stream = TarStream(pieces)
        for header in stream:
            growing.add(header, stream)
    growing.digest = state.hexdigest()
    return growing


class _Growing:
    """A tree that is being made, and its entries by path."""

    def __init__(self, tree: bytes) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.digest = ""
        self._tree = tree
        self._times: dict[bytes, int] = {}

    def add(self, header: Header, stream: TarStream) -> None:
        path = header.name.removesuffix(b"/") if header.kind == FOLDER else header.name
        folder, _, name = path.rpartition(b"/")
        gone = name.startswith(_WHITEOUT)
        if gone:
            name = name[len(_WHITEOUT) :]
            path = folder + b"/" + name if folder else name
        if not self._may_come(folder, name, path) or (gone and (header.kind != FILE or header.size)):
            raise TarError(f"/{escape(path)[:200]} is not where an entry of a layer may be")
        target = self._tree + b"/" + path
        if gone:
            whiteout(target)
            self.entries[path] = Entry("w", 0, "-", path)
        else:
            self.entries[path] = self._made(header, path, target, stream)

    def _may_come(self, folder: bytes, name: bytes, path: bytes) -> bool:
        """Whether a new entry may have this path: in a folder that is there, so no link is on the way."""
        above = self.entries.get(folder)
        return (
            (not folder or (above is not None and above.kind == "d"))
            and name not in (b"", b".", b"..")
            and not name.startswith(_WHITEOUT)
            and not path.startswith(b"/")
            and path not in self.entries
            and path.count(b"/") < _DEEPEST
        )

    def _made(self, header: Header, path: bytes, target: bytes, stream: TarStream) -> Entry:
        if header.kind == FOLDER:
            os.mkdir(target, 0o700)
            self._times[path] = header.mtime
            return Entry("d", header.mode, "-", path)
        if header.kind == SYMLINK:
            os.symlink(header.target, target)
            _set_time(target, header.mtime)
            return Entry("l", 0o777, escape(header.target), path)
        if header.kind == HARD_LINK:
            first = self.entries.get(header.target)
            if first is None or first.kind != "f":
                raise TarError(f"/{escape(path)[:200]} is a link to no file of the layer")
            os.link(self._tree + b"/" + header.target, target, follow_symlinks=False)
            return first._replace(path=path)
        if header.kind != FILE or header.mode & 0o6000:
            raise TarError(f"/{escape(path)[:200]} is a device, or has a set-id bit")
        return Entry("f", header.mode, _write(target, header, stream), path)

    def finish(self, epoch: int) -> None:
        """Give the folders their modes and times; last, since they may be closed to everybody."""
        for path in sorted(self._times, reverse=True):
            target = self._tree + b"/" + path
            os.chmod(target, self.entries[path].mode)
            _set_time(target, self._times[path])
        _set_time(self._tree, epoch * 10**9)


def _write(target: bytes, header: Header, stream: TarStream) -> str:
    state = hashlib.sha256()
    file = os.open(target, _CREATE, 0o600)
    try:
        for piece in stream.data():
            state.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fchmod(file, header.mode)
        os.utime(file, ns=_times(header.mtime))
    finally:
        os.close(file)
    return state.hexdigest()


def _set_time(path: bytes, mtime: int) -> None:
    os.utime(path, ns=_times(mtime), follow_symlinks=False)


def _times(mtime: int) -> tuple[int, int]:
    return (min(mtime, _LATEST),) * 2
