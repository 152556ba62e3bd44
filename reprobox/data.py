"""The content of a data folder as one hash: the tree digest's lines, with modes and times left out.

sha256 over one line per path, sorted by path bytes, as ``reprobox.digest`` has them: ``d 0755 - <path>`` for a
folder, ``f 0644 <sha256> <path>`` for a file, ``l 0777 <target> <path>`` for a link. Modes, owners and times do not
count, since archives, network shares and other file systems change them; empty folders do, since programs see them. It
is not the hash of git's trees: data comes from strangers, and is checked by sha256 as all else is. No name is special.

Hashing runs in threads. What was hashed is remembered by size, times and inode, so that a second look reads no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reprobox.digest import Entry, escape, read_index, sha256, write_index
from reprobox.errors import IntegrityError, ReproboxError
from reprobox.store import Store

#: A file that changed less than this before it was read is not remembered: it may change again within one tick of its
#: file system's clock, and look the same. Some network and memory-stick file systems have ticks of two seconds.
_TICK = 2.0
_THREADS = 8
_MOST_FILES, _MOST_BYTES = 32, 8 << 20  # of a piece of work for one thread
_MEMO = 1
_ITSELF = b"."  # the path of a source that is a single file


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a data folder holds: ``tree`` is the sha256 hex of ``listing``; ``size`` is of all its files, in bytes."""

    listing: bytes
    files: int
    size: int

    @property
    def tree(self) -> str:
        return sha256(self.listing)


class State(NamedTuple):
    """What changes when a file is written: size, times of content and inode in ns, inode number."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> State:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def content(source: Path, store: Store) -> Content:
    """What ``source``, a folder or a file, holds; the listing is kept in the store by its hash, for :func:`listing`.

    Raises :class:`ReproboxError` for what cannot be read or locked, :class:`IntegrityError` for a file that changes.
    """
    root = os.fsencode(os.path.realpath(source))
    entries: list[Entry] = []
    files: list[tuple[bytes, State]] = []
    for path, status in walk(root):
        if stat.S_ISREG(status.st_mode):
            files.append((path, State.of(status)))
        else:
            entries.append(_entry(root, path, status))
    hashes = hashes_of(root, files, store)
    entries += [Entry("f", 0o644, hashes[path], path) for path, _ in files]
    entries.sort(key=lambda entry: entry.path)
    found = Content(listing=write_index(entries), files=len(files), size=sum(state.size for _, state in files))
    _remember(store, "data", found.tree, found.listing)
    return found


def file_sha256(path: Path, store: Store) -> str:
    """sha256 hex of one file, which is not read again while it looks as it did. Raises what :func:`content` does."""
    (entry,) = read_index(content(path, store).listing)
    return entry.detail


def listing(store: Store, tree: str) -> bytes | None:
    """The listing with this hash, if it was made or fetched with this store."""
    with contextlib.suppress(OSError):
        data = store.memo("data", tree).read_bytes()
        return data if sha256(data) == tree else None
    return None


def differences(locked: bytes, found: bytes) -> list[str]:
    """Paths that differ between two listings, by path bytes: ``missing a/b``, ``new c``, ``changed d``."""
    old = {entry.path: entry for entry in read_index(locked)}
    new = {entry.path: entry for entry in read_index(found)}
    differing = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return [_said(path, old, new) for path in differing]


def _said(path: bytes, old: Mapping[bytes, Entry], new: Mapping[bytes, Entry]) -> str:
    how = "missing" if path not in new else "new    " if path not in old else "changed"
    return f"{how} {path.decode(errors='backslashreplace')}"


# -- looking -----------------------------------------------------------------------------------------------------------


def walk(root: bytes, skipped: Callable[[bytes], bool] = lambda _: False) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below ``root``, or ``root`` itself where it is a file; links are not followed.

    Paths that are ``skipped`` are left out, with all below them. Raises :class:`ReproboxError` for what cannot be read.
    """
    with _told(root):
        status = os.stat(root)
        if not stat.S_ISDIR(status.st_mode):
            yield _ITSELF, status
            return
    todo = [b""]
    while todo:
        below = todo.pop()
        folder = os.path.join(root, below) if below else root
        with _told(folder), os.scandir(folder) as items:
            found = [(item.name, item.stat(follow_symlinks=False)) for item in items]
        for name, status in found:
            path = below + b"/" + name if below else name
            if skipped(path):
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                todo.append(path)


def _entry(root: bytes, path: bytes, status: os.stat_result) -> Entry:
    full = root if path == _ITSELF else os.path.join(root, path)
    if stat.S_ISDIR(status.st_mode):
        return Entry("d", 0o755, "-", path)
    if not stat.S_ISLNK(status.st_mode):
        hint = "data is files, folders and links: remove it, or keep it in another folder"
        raise ReproboxError("a device, FIFO or socket cannot be locked", where=_shown(full), hint=hint)
    with _told(full):
        target = os.readlink(full)
    inside = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if target.startswith(b"/") or inside.split(b"/")[0] == b"..":
        raise ReproboxError(
            f"a link that leads out of the folder, to {_shown(target)}: the environment would not see what is there",
            where=_shown(full),
            hint="put the files themselves into the folder, or mount the place that the link leads to",
        )
    return Entry("l", 0o777, escape(target), path)


@contextlib.contextmanager
def _told(path: bytes) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise IntegrityError("it went away while it was read", where=_shown(path), hint=_AGAIN) from None
    except OSError as error:
        raise ReproboxError(
            f"it cannot be read: {error.strerror}", where=_shown(path), hint="make it readable, or remove it"
        ) from None


_AGAIN = "wait until nothing writes to the folder any more, and run it again"


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


# -- hashing -----------------------------------------------------------------------------------------------------------


def hashes_of(root: bytes, files: Sequence[tuple[bytes, State]], store: Store) -> dict[bytes, str]:
    """sha256 hex by path; files that look as they did when they were hashed last are not read."""
    key = sha256(root)
    known = _known(store, key)
    hashes = {path: known[path][1] for path, state in files if path in known and known[path][0] == state}
    missing = [(path, state) for path, state in files if path not in hashes]
    settled = set(hashes)
    with ThreadPoolExecutor(min(_THREADS, max(len(missing), 1)), "reprobox-data") as pool:
        for found in pool.map(lambda piece: [_hash(root, *item) for item in piece], _pieces(missing)):
            for path, digest, old_enough in found:
                hashes[path] = digest
                settled |= {path} if old_enough else set()
    if missing or len(known) != len(settled):
        kept = {os.fsdecode(path): [*state, hashes[path]] for path, state in files if path in settled}
        _remember(store, "data-seen", key, json.dumps({"format": _MEMO, "files": kept}).encode())
    return hashes


def _pieces(files: Sequence[tuple[bytes, State]]) -> Iterator[list[tuple[bytes, State]]]:
    """Work for one thread at a time: neither a thousand small files one by one, nor many large ones together."""
    piece: list[tuple[bytes, State]] = []
    size = 0
    for path, state in files:
        piece.append((path, state))
        size += state.size
        if len(piece) == _MOST_FILES or size >= _MOST_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _hash(root: bytes, path: bytes, state: State) -> tuple[bytes, str, bool]:
    """Path, sha256 hex, and whether the file had been at rest long enough to be remembered."""
    full = root if path == _ITSELF else os.path.join(root, path)
    started = time.time()
    with _told(full):
        # Not blocking: what was a file when it was listed may be a FIFO by now.
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            same = State.of(os.fstat(descriptor)) == state
            digest = hashlib.file_digest(file, "sha256").hexdigest() if same else ""
            same = same and State.of(os.fstat(descriptor)) == state
    if not same:
        raise IntegrityError("it changed while it was read", where=_shown(full), hint=_AGAIN)
    return path, digest, max(state.mtime, state.ctime) < (started - _TICK) * 1e9


def _known(store: Store, key: str) -> dict[bytes, tuple[State, str]]:
    try:
        document = json.loads(store.memo("data-seen", key).read_bytes())
        if document["format"] != _MEMO:
            return {}
        return {os.fsencode(path): (State(*value[:4]), value[4]) for path, value in document["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or none of ours: it can be had again
        return {}


def _remember(store: Store, kind: str, key: str, data: bytes) -> None:
    with contextlib.suppress(ReproboxError):  # a store that may only be read remembers nothing
        if kind == "data-seen" or not store.memo(kind, key).exists():
            store.remember(kind, key, data)
