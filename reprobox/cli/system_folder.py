"""A folder that somebody unpacked a system into, as ``inspect`` shows it: which system it is, and what is in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reprobox.bom.inside import machine_of, packages_in, release_of
from reprobox.cli.report import human, on_one_line
from reprobox.digest import hidden, prefixed, tree_digest
from reprobox.errors import UsageError
from reprobox.project import MANIFEST_NAME
from reprobox.tree import Tree, scan

_RELEASES = ("etc/os-release", "usr/lib/os-release")
_OWNER = "run this as the user to whom the files belong, or as root"
_SORTS = {"deb": "Debian", "pypi": "Python"}


def holds_system(path: Path) -> bool:
    """Whether it is a folder with the files of a system; this machine's own is none, nor is a project's folder."""
    return (
        path.is_dir()
        and not path.samefile("/")
        and not (path / MANIFEST_NAME).exists()
        and any(os.path.lexists(path / name) for name in _RELEASES)
    )


def describe(path: Path) -> dict[str, Any]:
    """What its own files say, but for those that the tree digest leaves out; the size counts hard links once. Raises
    :class:`UsageError` if one cannot be read.
    """
    try:
        tree = Tree({entry.path: entry for entry in scan(path, left_out=hidden)})
        size = sum(_sizes(path, tree).values())
    except OSError as error:
        where = os.fsdecode(error.filename or path)
        hint = "give a copy of the folder" if error.errno == errno.EROFS else _OWNER
        raise UsageError(f"it cannot be read: {error.strerror}", where=where, hint=hint) from None
    packages = packages_in(path, tree, "base")
    return {
        "location": str(path),
        "system": release_of(path, tree).get("PRETTY_NAME", ""),
        "machine": machine_of(path, tree),
        "tree_digest": prefixed(tree_digest(tree.sorted())),
        "size": size,
        "files": sum(1 for entry in tree.entries.values() if entry.kind == "f"),
        "packages": [{"kind": item.kind, "name": item.name, "version": item.version} for item in packages],
    }


def _sizes(root: Path, tree: Tree) -> dict[tuple[int, int], int]:
    """Bytes of every file, by device and inode."""
    found = (os.lstat(os.path.join(os.fsencode(root), item.path)) for item in tree.entries.values() if item.kind == "f")
    return {(status.st_dev, status.st_ino): status.st_size for status in found}


def show(document: Mapping[str, Any]) -> None:
    """Print what :func:`describe` found."""
    for line in _lines(document):
        print(on_one_line(line))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"{document['location']}, a folder with the files of a system"
    yield f"system        {document['system'] or 'not said'}"
    yield f"machine       {document['machine'] or 'not known'}"
    yield f"tree digest   {document['tree_digest']}"
    yield f"size          {human(document['size'])} in {document['files']} files"
    kinds = [item["kind"] for item in document["packages"]]
    counts = [f"{kinds.count(kind)} of {name}" for kind, name in _SORTS.items() if kind in kinds]
    yield f"packages      {', '.join(counts) or 'none in the databases of dpkg and of Python'}"
