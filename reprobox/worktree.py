"""Local files that enter an environment, and their tree hash: as git hashes trees.

Only what git would keep counts: the bytes, whether a file is executable, links, and names. No times, no owners, no
empty folders. So the hash of a clean checkout is the one that ``git rev-parse HEAD:path`` prints.
Source: git's object format (gitformat-pack(5), git-hash-object(1)).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reprobox.tree import Tree

#: Never part of code or of a copied folder: what reprobox and version control write themselves.
NEVER = frozenset((b".git", b"research.lock", b".research.lock.new"))

_FILE, _PROGRAM, _LINK, _FOLDER = b"100644", b"100755", b"120000", b"40000"


class Source(NamedTuple):
    """One local file or link: where it goes (relative, bytes), its git mode, its blob id (hex), where it is."""

    path: bytes
    mode: bytes
    blob: str
    origin: bytes


def collect(
    root: Path, *, skip: Collection[bytes] = (), ignored: Callable[[str, bool], bool] | None = None
) -> list[Source]:
    """Every file and link below the folder ``root``, by path bytes. Links are kept as links and never followed.

    ``skip`` are absolute paths to leave out with everything below; ``ignored(path, is_folder)`` decides the rest.
    """
    found = list(_below(os.fsencode(root), b"", frozenset(skip), ignored or _nothing))
    return sorted(found, key=lambda item: item.path)


def one(path: Path, name: bytes = b"") -> Source:
    """A single file or link, as :func:`collect` would list it under ``name``."""
    return _source(name or os.fsencode(path.name), os.fsencode(path), os.lstat(path))


def _nothing(_: str, __: bool) -> bool:  # noqa: FBT001 - the shape of a predicate
    return False


def _below(
    root: bytes, below: bytes, skip: Collection[bytes], ignored: Callable[[str, bool], bool]
) -> Iterator[Source]:
    for name in sorted(os.listdir(os.path.join(root, below) if below else root)):
        path = os.path.join(below, name) if below else name
        full = os.path.join(root, path)
        status = os.lstat(full)
        folder = stat.S_ISDIR(status.st_mode)
        if name in NEVER or full in skip or ignored(os.fsdecode(path), folder):
            continue
        if folder:
            yield from _below(root, path, skip, ignored)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield _source(path, full, status)


def _source(path: bytes, full: bytes, status: os.stat_result) -> Source:
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(full)
        return Source(path, _LINK, _hash(b"blob", target), full)
    state = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
    with open(full, "rb") as file:
        while data := file.read(1 << 20):
            state.update(data)
    return Source(path, _PROGRAM if status.st_mode & 0o100 else _FILE, state.hexdigest(), full)


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


def ignore_rules(root: Path, patterns: Sequence[str]) -> Callable[[str, bool], bool]:
    """What ``patterns`` and the ``.gitignore`` files below ``root`` leave out: gitignore(5), nearest file last."""
    import pathspec

    own = pathspec.GitIgnoreSpec.from_lines(patterns)
    specs: dict[str, pathspec.GitIgnoreSpec] = {}

    def spec(folder: str) -> pathspec.GitIgnoreSpec:
        if folder not in specs:
            try:
                lines = (root / folder / ".gitignore").read_text(errors="surrogateescape").splitlines()
            except OSError:
                lines = []
            specs[folder] = pathspec.GitIgnoreSpec.from_lines(lines)
        return specs[folder]

    def ignored(path: str, folder: bool) -> bool:  # noqa: FBT001 - the shape of a predicate
        name = path + "/" if folder else path
        if own.match_file(name):
            return True
        above = path.rpartition("/")[0]
        while True:
            inside = name[len(above) + 1 :] if above else name
            verdict = spec(above).check_file(inside).include
            if verdict is not None:
                return verdict
            if not above:
                return False
            above = above.rpartition("/")[0]

    return ignored


def place(source: Source, target: bytes, root: Path, parents: Tree) -> None:
    """Put one file at ``target`` (in the environment) below the staging folder ``root``: mode 0644 or 0755, or a link.

    Folders of ``target`` are looked up through the links of the parents' tree, inside it; new ones get mode 0755.
    Raises :class:`NotADirectoryError` where the parents have a file in the way.
    """
    folder, _, name = target.rpartition(b"/")
    inside = make_folders(root, folder, parents)
    full = os.path.join(os.fsencode(root), inside, name) if inside else os.path.join(os.fsencode(root), name)
    if os.path.lexists(full):
        os.unlink(full)
    if source.mode == _LINK:
        os.symlink(os.readlink(source.origin), full)
        return
    with open(source.origin, "rb") as reader, open(full, "wb") as writer:
        while data := reader.read(1 << 20):
            writer.write(data)
    os.chmod(full, 0o755 if source.mode == _PROGRAM else 0o644)


def make_folders(root: Path, path: bytes, parents: Tree, mode: int = 0o755) -> bytes:
    """Make ``path`` and what is above it below ``root``; returns where that is, links of the parents followed.

    Folders that the parents have keep their modes; a new last one gets ``mode``, new ones above it 0755.
    """
    resolved = parents.resolve(path, final=True)
    parts = [part for part in resolved.split(b"/") if part]
    for count in range(1, len(parts) + 1):
        inside = b"/".join(parts[:count])
        entry = parents.get(inside)
        if entry is not None and entry.kind != "d":
            raise NotADirectoryError(20, "a file is in the way", "/" + os.fsdecode(inside))
        full = os.path.join(os.fsencode(root), inside)
        if not os.path.isdir(full):
            os.mkdir(full)
            os.chmod(full, entry.mode if entry else mode if count == len(parts) else 0o755)
    return resolved
