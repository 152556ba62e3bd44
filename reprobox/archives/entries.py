"""The entries of a tree digest, read from an archive without unpacking it: what is in an image, as its users see it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from reprobox.archives.tar_stream import FILE, FOLDER, HARD_LINK, SYMLINK, Header, TarStream
from reprobox.digest import Entry, escape, hidden


def tree_entries(items: Iterable[tuple[Header, Iterable[bytes]]]) -> list[Entry]:
    """One entry for each path that the tree digest has, from headers with their content, in any order of folders.

    A hard link is the file that it names, which comes before it. Of two entries of one path, the later one counts.
    """
    found: dict[bytes, Entry] = {}
    for header, content in items:
        path = _clean(header.name)
        if not path or hidden(path):
            continue
        if header.kind == FOLDER:
            found[path] = Entry("d", header.mode, "-", path)
        elif header.kind == SYMLINK:
            found[path] = Entry("l", 0o777, escape(header.target), path)
        elif header.kind == FILE:
            found[path] = Entry("f", header.mode, _sha256(content), path)
        elif header.kind == HARD_LINK and (first := found.get(_clean(header.target))) is not None:
            found[path] = first._replace(path=path)
    return [found[path] for path in sorted(found)]


def tar_entries(chunks: Iterator[bytes]) -> list[Entry]:
    """The same for the tar of a whole file system. Raises :class:`reprobox.archives.tar_stream.TarError`."""
    stream = TarStream(chunks)
    return tree_entries((header, stream.data()) for header in stream)


def _clean(name: bytes) -> bytes:
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _sha256(content: Iterable[bytes]) -> str:
    state = hashlib.sha256()
    for piece in content:
        state.update(piece)
    return state.hexdigest()
