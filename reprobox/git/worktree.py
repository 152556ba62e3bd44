"""Local files that enter an environment, and their tree hash: as git hashes trees.

Only what git would keep counts: the bytes, whether a file is executable, links, and names. No times, no owners, no
empty folders. So the hash of a clean checkout is the one that ``git rev-parse HEAD:path`` prints.
Source: git's object format (gitformat-pack(5), git-hash-object(1)).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from reprobox.errors import IntegrityError, ReproboxError
from reprobox.tree import Tree

#: Never part of code or of a copied folder: what reprobox, version control and a run of the code write themselves.
NEVER = frozenset(
    (
        b".git",
        b".reprobox",
        b"research.lock",
        b"research.runs",
        b"research.attestations",
        b"research.deposit.json",
        b"__pycache__",
    )
)

_FILE, _PROGRAM, _LINK, _FOLDER = b"100644", b"100755", b"120000", b"40000"
_CHUNK = 1 << 20


class Source(NamedTuple):
    """One local file or link: where it goes (relative, bytes), its git mode, its blob id (hex), where it is."""

    path: bytes
    mode: bytes
    blob: str
    origin: bytes


# -- what there is -----------------------------------------------------------------------------------------------------


def within(project: Path, name: str) -> Path:
    """Where ``name`` of the project is. Links of folders on the way may not lead out of the project; the last part is
    not followed.

    Raises :class:`ReproboxError` if it leads out or is not there.
    """
    path = Path(os.path.normpath(project / name))
    home = os.path.realpath(project)
    folder = home if path == Path(os.path.normpath(project)) else os.path.realpath(path.parent)
    if os.path.commonpath((home, folder)) != home:
        raise ReproboxError(
            f"{name} leads out of the project through a link",
            where=str(path),
            hint="put the files themselves into the project: manifest and lock travel with it",
        )
    with _told(os.fsencode(path)):
        os.lstat(path)
    return path


def collect(
    root: Path, *, skip: Collection[bytes] = (), ignored: Callable[[bytes, bool], bool] | None = None
) -> list[Source]:
    """Every file and link below the folder ``root``, by path bytes. Links are kept as links and never followed; FIFOs,
    sockets and devices are left out, as git does.

    ``skip`` are absolute paths to leave out with everything below; ``ignored(path, is_folder)`` decides the rest.
    Raises :class:`ReproboxError` naming what cannot be read.
    """
    found = list(_below(os.fsencode(root), b"", frozenset(skip), ignored or _nothing))
    return sorted(found, key=lambda item: item.path)


def one(path: Path) -> Source:
    """A single file or link, as :func:`collect` would list it under its own name."""
    full = os.fsencode(path)
    with _told(full):
        status = os.lstat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise ReproboxError(
            "it is neither a file nor a folder", where=str(path), hint="name a file, a folder or a link"
        )
    return _source(os.fsencode(path.name), full, status)


def _nothing(_: bytes, __: bool) -> bool:  # noqa: FBT001 - the shape of a predicate
    return False


def _below(
    root: bytes, below: bytes, skip: Collection[bytes], ignored: Callable[[bytes, bool], bool]
) -> Iterator[Source]:
    here = os.path.join(root, below) if below else root
    with _told(here):
        names = sorted(os.listdir(here))
    for name in names:
        path = os.path.join(below, name) if below else name
        full = os.path.join(root, path)
        with _told(full):
            status = os.lstat(full)
        folder = stat.S_ISDIR(status.st_mode)
        if name in NEVER or name.startswith(b".research.lock.") or full in skip or ignored(path, folder):
            continue
        if folder:
            yield from _below(root, path, skip, ignored)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield _source(path, full, status)


def _source(path: bytes, full: bytes, status: os.stat_result) -> Source:
    with _told(full):
        if stat.S_ISLNK(status.st_mode):
            return Source(path, _LINK, _hash(b"blob", os.readlink(full)), full)
        state = _blob(status.st_size)
        with open(full, "rb") as file:
            while data := file.read(_CHUNK):
                state.update(data)
    return Source(path, _PROGRAM if status.st_mode & 0o100 else _FILE, state.hexdigest(), full)


@contextmanager
def _told(path: bytes) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ReproboxError(
            "there is no such file or folder", where=os.fsdecode(path), hint="give one that exists in the project"
        ) from None
    except OSError as error:
        raise ReproboxError(
            f"it cannot be read: {error.strerror}",
            where=os.fsdecode(path),
            hint="make it readable, or leave it out: .gitignore and code.exclude are honoured for code",
        ) from None


# -- hashes ------------------------------------------------------------------------------------------------------------


def _blob(size: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _hash(kind: bytes, data: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data, usedforsecurity=False).hexdigest()


def tree_hash(sources: Sequence[Source]) -> str:
    """The git tree id (sha1 hex) of a folder with these files."""
    children: dict[bytes, list[Source]] = {}
    entries: list[tuple[bytes, bytes, str]] = []
    for item in sources:
        head, slash, rest = item.path.partition(b"/")
        if slash:
            children.setdefault(head, []).append(item._replace(path=rest))
        else:
            entries.append((item.path, item.mode, item.blob))
    entries += [(name, _FOLDER, tree_hash(items)) for name, items in children.items()]
    # git sorts a folder as if its name ended with a slash.
    entries.sort(key=lambda entry: entry[0] + b"/" if entry[1] == _FOLDER else entry[0])
    return _hash(b"tree", b"".join(mode + b" " + name + b"\0" + bytes.fromhex(blob) for name, mode, blob in entries))


# -- putting them in place ---------------------------------------------------------------------------------------------


class Placing:
    """Puts folders and files into the empty staging folder ``root``, where the parents' merged tree is what they meet.

    Used as a context: folders have their modes at its end, since some may not be written into.
    """

    def __init__(self, root: Path, parents: Tree) -> None:
        self._root = os.fsencode(root)
        self._parents = parents
        self._modes: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for path in sorted(self._modes, reverse=True):
                os.chmod(os.path.join(self._root, path), self._modes[path])

    def folder(self, path: bytes, mode: int | None = None) -> None:
        """Make ``path`` and what is above it, links of the parents followed.

        A folder that the parents have keeps its mode, a new one gets 0755, and the last one ``mode`` if that is given.
        Raises :class:`NotADirectoryError` where something else is in the way.
        """
        place = self._folders(path)
        if mode is not None:
            self._modes[place] = mode

    def file(self, source: Source, target: bytes) -> None:
        """Put one file at ``target`` (in the environment): mode 0644 or 0755, or a link.

        Folders are made as :meth:`folder` does; a link at ``target`` itself is replaced. Raises
        :class:`NotADirectoryError` or :class:`IsADirectoryError` where something else is in the way, and
        :class:`IntegrityError` if the file is no more what it was when it was listed.
        """
        full = self._free(target)
        same = _link(source, full) if source.mode == _LINK else _file(source, full)
        if not same:
            raise IntegrityError(
                "it changed while it was copied", where=os.fsdecode(source.origin), hint="run it again"
            )

    def write(self, target: bytes, pieces: Iterable[bytes], *, executable: bool) -> None:
        """Put a file with this content at ``target``; places, modes and errors as for :meth:`file`."""
        full = self._free(target)
        with open(full, "xb") as file:
            file.writelines(pieces)
        os.chmod(full, 0o755 if executable else 0o644)

    def link(self, target: bytes, to: bytes) -> None:
        """Put a symbolic link at ``target``; ``to`` is what it says."""
        os.symlink(to, self._free(target))

    def hard_link(self, target: bytes, old: bytes) -> None:
        """Put a second name at ``target`` for the file ``old``, which was put here before."""
        full = self._free(target)
        os.link(os.path.join(self._root, self._inside(old)), full, follow_symlinks=False)

    def takes(self, to: str) -> bool:
        """Whether a single file that is put at ``to`` goes into it: it ends with a slash, or is a folder there."""
        entry = self._parents.get(self._parents.resolve(os.fsencode(to.strip("/")), final=True))
        return to.endswith("/") or (entry is not None and entry.kind == "d")

    def _free(self, target: bytes) -> bytes:
        """Where ``target`` is on the host, with the folders above it made and what had its name taken away."""
        inside = self._inside(target)
        full = os.path.join(self._root, inside)
        if self._is_folder(inside):
            raise IsADirectoryError(errno.EISDIR, "a folder is in the way", f"/{os.fsdecode(inside)}")
        if os.path.lexists(full):
            os.unlink(full)
        return full

    def _inside(self, target: bytes) -> bytes:
        folder, _, name = target.rpartition(b"/")
        return b"/".join(part for part in (self._folders(folder), name) if part)

    def _folders(self, path: bytes) -> bytes:
        """Make every folder of ``path``; returns where that is."""
        resolved = self._parents.resolve(path, final=True)
        parts = resolved.split(b"/") if resolved else []
        for count in range(1, len(parts) + 1):
            inside = b"/".join(parts[:count])
            if inside not in self._modes:
                self._make(inside)
        return resolved

    def _make(self, inside: bytes) -> None:
        entry = self._parents.get(inside)
        full = os.path.join(self._root, inside)
        # What this layer brings is not followed either: on the host, a link would lead out of the staging folder.
        if (entry is not None and entry.kind != "d") or os.path.lexists(full):
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", f"/{os.fsdecode(inside)}")
        os.mkdir(full)
        os.chmod(full, 0o700)
        self._modes[inside] = entry.mode if entry else 0o755

    def _is_folder(self, inside: bytes) -> bool:
        entry = self._parents.get(inside)
        return inside in self._modes or (entry is not None and entry.kind == "d")


def _link(source: Source, full: bytes) -> bool:
    with _told(source.origin):
        target = os.readlink(source.origin)
    os.symlink(target, full)
    return _hash(b"blob", target) == source.blob


def _file(source: Source, full: bytes) -> bool:
    with _told(source.origin):
        descriptor = os.open(source.origin, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as reader, open(full, "wb") as writer:
        state = _blob(os.fstat(descriptor).st_size)
        while data := reader.read(_CHUNK):
            state.update(data)
            writer.write(data)
    os.chmod(full, 0o755 if source.mode == _PROGRAM else 0o644)
    return state.hexdigest() == source.blob


#: Ways in which a path of the environment can be no place for a file: errno values.
IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
