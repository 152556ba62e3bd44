"""A git commit with all its files as one file whose bytes follow from the commit: a bundle that is made one way.

Git's own bundles differ with its version and with how the repository is packed. This one has the commit, its trees and
its blobs in the order in which a walk meets them, each once, none of them compressed or as a difference. So the same
commit gives the same sha256 on every machine, and git can still read it: ``git bundle list-heads``, and
``git unpack-objects`` of what follows the header. History is not in it: parents are named as prerequisites.

Every object is hashed, when a bundle is written and when it is read: what is asked for by its commit is the commit.

Sources: gitformat-bundle(5), gitformat-pack(5), git's object format; RFC 1950 and 1951 for blocks that are stored.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self, TypeAlias

FILE, PROGRAM, LINK, FOLDER, MODULE = "100644", "100755", "120000", "40000", "160000"

_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_NAMES = {number: name for name, number in _TYPES.items()}
_STORED = 0xFFFF  # bytes in a block that is stored
_CHUNK = 1 << 18
_MOST_TREE = 64 << 20  # bytes of one commit or tree
_DEEPEST = 256
_OID = re.compile(r"[0-9a-f]{40}\Z")
_REF = "refs/heads/main"


class CommitError(ValueError):
    """It is not a commit with its files, or has something in it that no checkout can have."""


#: Type, size in bytes and content of the object with an id (sha1 hex). The content must be read before the next call.
Read: TypeAlias = Callable[[str], tuple[str, int, Iterator[bytes]]]


class Item(NamedTuple):
    """One path of a commit: its mode (one of the constants above) and the id of its blob, or of a module's commit."""

    path: bytes
    mode: str
    oid: str


def is_oid(text: str) -> bool:
    """Whether ``text`` is a whole object id."""
    return bool(_OID.match(text))


# -- objects -----------------------------------------------------------------------------------------------------------


def _whole(read: Read, oid: str, kind: str) -> bytes:
    found, size, content = read(oid)
    if found != kind:
        raise CommitError(f"{oid} is a {found}, and a {kind} is needed")
    if size > _MOST_TREE:
        raise CommitError(f"the {kind} {oid} has {size} bytes")
    data = b"".join(content)
    if hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest() != oid:
        raise CommitError(f"the {kind} {oid} has other bytes than its id says")
    return data


def _header(commit: bytes, name: bytes) -> list[str]:
    """The values of a commit's header, in order."""
    head = commit.partition(b"\n\n")[0]
    return [
        line[len(name) + 1 :].decode("ascii", "replace") for line in head.split(b"\n") if line.startswith(name + b" ")
    ]


def tree_of(read: Read, commit: str) -> str:
    """The id of a commit's tree."""
    found = _header(_whole(read, commit, "commit"), b"tree")
    if len(found) != 1 or not is_oid(found[0]):
        raise CommitError(f"the commit {commit} has no tree")
    return found[0]


def entries(data: bytes, oid: str) -> Iterator[tuple[bytes, str, str]]:
    """Name, mode and id of each entry of a tree object."""
    at = 0
    names: set[bytes] = set()
    while at < len(data):
        space, end = data.find(b" ", at, at + 8), data.find(b"\0", at)
        name = data[space + 1 : end]
        if space < 0 or end < 0 or end + 21 > len(data):
            raise CommitError(f"the tree {oid} is broken")
        if name in (b"", b".", b"..") or b"/" in name or name.lower() == b".git" or name in names or len(name) > 255:
            raise CommitError(f"the tree {oid} has the entry {_shown(name)}, which no checkout can have")
        names.add(name)
        yield name, _mode(data[at:space], name), data[end + 1 : end + 21].hex()
        at = end + 21


def _mode(raw: bytes, name: bytes) -> str:
    mode = raw.decode("ascii", "replace").lstrip("0")
    if mode.startswith("100"):  # old ones had the other permission bits too
        return PROGRAM if mode[3:4] in "157" else FILE
    if mode not in (LINK, FOLDER, MODULE):
        raise CommitError(f"{_shown(name)} has the unknown mode {mode}")
    return mode


def walk(read: Read, tree: str, below: bytes = b"") -> Iterator[Item]:
    """Every path of a tree, folders before what is in them, in git's order."""
    if below.count(b"/") >= _DEEPEST:
        raise CommitError(f"{_shown(below)} is more than {_DEEPEST} folders deep")
    for name, mode, oid in list(entries(_whole(read, tree, "tree"), tree)):
        path = below + b"/" + name if below else name
        yield Item(path, mode, oid)
        if mode == FOLDER:
            yield from walk(read, oid, path)


def subtree(read: Read, tree: str, path: str) -> str | None:
    """The id of the tree at ``path`` below ``tree``; None if there is no such folder."""
    for part in os.fsencode(path).split(b"/"):
        found = {name: oid for name, mode, oid in entries(_whole(read, tree, "tree"), tree) if mode == FOLDER}
        if part not in found:
            return None
        tree = found[part]
    return tree


# -- writing a bundle --------------------------------------------------------------------------------------------------


def bundle(read: Read, commit: str) -> Iterator[bytes]:
    """The bytes of the bundle of ``commit``, in pieces. Raises :class:`CommitError`."""
    tree = tree_of(read, commit)
    items = [Item(b"", FOLDER, tree), *walk(read, tree)]
    kinds = {commit: "commit"} | {
        item.oid: "tree" if item.mode == FOLDER else "blob" for item in items if item.mode != MODULE
    }
    parents = _header(_whole(read, commit, "commit"), b"parent")
    heads = "".join(f"-{parent}\n" for parent in parents)
    yield f"# v2 git bundle\n{heads}{commit} HEAD\n{commit} {_REF}\n\n".encode()
    state = hashlib.sha1(usedforsecurity=False)
    for piece in _pack(read, kinds):
        state.update(piece)
        yield piece
    yield state.digest()


def _pack(read: Read, kinds: dict[str, str]) -> Iterator[bytes]:
    yield b"PACK" + struct.pack(">II", 2, len(kinds))
    for oid, kind in kinds.items():
        found, size, content = read(oid)
        if found != kind:
            raise CommitError(f"{oid} is a {found}, and a {kind} is needed")
        yield _object_header(_TYPES[kind], size)
        yield from _deflated(_hashed(content, kind, size, oid), size)


def _object_header(kind: int, size: int) -> bytes:
    byte, size = kind << 4 | size & 15, size >> 4
    header = bytearray()
    while size:
        header.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    header.append(byte)
    return bytes(header)


def _hashed(content: Iterator[bytes], kind: str, size: int, oid: str) -> Iterator[bytes]:
    """The content, which must be that of the object ``oid``."""
    state = hashlib.sha1(b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
    for piece in content:
        state.update(piece)
        yield piece
    if state.hexdigest() != oid:
        raise CommitError(f"the {kind} {oid} has other bytes than its id says")


def _deflated(content: Iterator[bytes], size: int) -> Iterator[bytes]:
    """A zlib stream of blocks that are stored, all of them full but the last: its bytes depend on no library."""
    yield b"\x78\x01"
    check = zlib.adler32(b"")
    buffer = b""
    left = size
    for piece in content:
        check = zlib.adler32(piece, check)
        buffer += piece
        at = 0
        while len(buffer) - at >= _STORED and left > _STORED:
            yield _block(buffer[at : at + _STORED], last=False)
            at += _STORED
            left -= _STORED
        buffer = buffer[at:]
    if len(buffer) != left:
        raise CommitError("an object has another size than it says")
    yield _block(buffer, last=True)
    yield struct.pack(">I", check)


def _block(data: bytes, *, last: bool) -> bytes:
    return struct.pack("<BHH", last, len(data), len(data) ^ 0xFFFF) + data


# -- reading a bundle --------------------------------------------------------------------------------------------------


class Bundle:
    """A bundle that :func:`bundle` wrote. Every object is hashed when it is opened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._objects: dict[str, tuple[str, int, int]] = {}  # type, size, where its blocks begin
        try:
            self.commit = self._heads()
            self._index()
        except (CommitError, struct.error, IndexError, UnicodeDecodeError) as error:
            self._file.close()
            raise CommitError(f"{path.name} is no bundle of reprobox: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, oid: str) -> tuple[str, int, Iterator[bytes]]:
        """As :data:`Read`."""
        if oid not in self._objects:
            raise CommitError(f"the object {oid} is missing")
        kind, size, at = self._objects[oid]
        self._file.seek(at)
        return kind, size, _blocks(self._file, size)

    def content(self, oid: str) -> Iterator[bytes]:
        """A blob's bytes, in pieces."""
        return self.read(oid)[2]

    def _heads(self) -> str:
        if self._file.readline(100) != b"# v2 git bundle\n":
            raise CommitError("its first line is another one")
        commit = ""
        while line := self._file.readline(1000).rstrip(b"\n"):
            if not line.startswith(b"-"):
                commit = line.decode().partition(" ")[0]
        return commit

    def _index(self) -> None:
        magic, version, count = struct.unpack(">4sII", self._file.read(12))
        if (magic, version) != (b"PACK", 2):
            raise CommitError("it has no pack")
        for _ in range(count):
            kind, size = self._object()
            at = self._file.tell()
            state = hashlib.sha1(b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
            for piece in _blocks(self._file, size):
                state.update(piece)
            self._file.read(4)
            self._objects[state.hexdigest()] = (kind, size, at)
        if self.commit not in self._objects:
            raise CommitError("its commit is not in it")

    def _object(self) -> tuple[str, int]:
        byte = self._file.read(1)[0]
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            byte = self._file.read(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
        if kind not in _NAMES:
            raise CommitError("it has an object that is packed otherwise")
        return _NAMES[kind], size


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The content of a zlib stream of stored blocks, where ``file`` stands; it stands behind the last one then."""
    if file.read(2) != b"\x78\x01":
        raise CommitError("it has an object that is packed otherwise")
    last = 0
    while not last:
        last, length, inverse = struct.unpack("<BHH", file.read(5))
        data = file.read(length)
        if last not in (0, 1) or length ^ inverse != 0xFFFF or len(data) != length:
            raise CommitError("it has an object that is packed otherwise")
        size -= length
        yield data
    if size:
        raise CommitError("an object has another size than it says")


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))
