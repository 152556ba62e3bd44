"""Which package a path of an environment belongs to: by dpkg's lists of files, and by the RECORDs of wheels."""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from reprobox.lock import LockedLayer, LockedTarget, ancestors
from reprobox.store import StoredLayer
from reprobox.tree import opened

_LISTS = "var/lib/dpkg/info"
_MERGED = ("bin/", "sbin/", "lib/", "lib32/", "lib64/", "libx32/")  # once beside /usr, now links into it
_COMPILED = re.compile(r"(.*?)__pycache__/([^/]+?)\.[^./]+(?:\.opt-\d)?\.pyc\Z")


class Owners:
    """The packages of a layer and of those below it. ``stored`` has the layers whose bytes are here, by name.

    Sources: dpkg's ``info/NAME.list``; "Recording installed projects" of the Python packaging specifications.
    """

    def __init__(self, target: LockedTarget, layer: LockedLayer, stored: Mapping[str, StoredLayer]) -> None:
        stack = (layer, *reversed(ancestors(target.layers, layer.name)))
        self._trees = [stored[item.name].tree for item in stack if item.name in stored]
        debs = (item for below in reversed(stack) for item in below.inputs if item.type == "deb")
        self._versions = {item.facts.get("package", ""): item.facts.get("version", "") for item in debs}
        self._found: dict[str, str] | None = None

    def of(self, path: bytes) -> str:
        """``libc6 2.36-9 (deb)``, ``numpy 2.1.0 (wheel)``; empty for a path that no package has."""
        if self._found is None:
            self._found = dict(self._all())
        name = os.fsdecode(path)
        compiled = _COMPILED.match(name)
        return self._found.get(name) or (self._found.get(f"{compiled[1]}{compiled[2]}.py", "") if compiled else "")

    def _all(self) -> Iterator[tuple[str, str]]:
        """Paths and their owners; layers further up come last, for what they say counts."""
        for tree in reversed(self._trees):
            for package, paths in _debian(tree):
                shown = " ".join(word for word in (package, self._versions.get(package, ""), "(deb)") if word)
                yield from ((path, shown) for path in paths)
            for package, paths in _wheels(tree):
                yield from ((path, f"{package} (wheel)") for path in paths)


def _debian(tree: Path) -> Iterator[tuple[str, list[str]]]:
    """Package names, and the paths that each one's list has."""
    for path in _sorted(tree, tree / _LISTS, ".list"):
        lines = _text(path).splitlines()
        yield path.name.removesuffix(".list").partition(":")[0], [name for line in lines for name in _places(line)]


def _places(line: str) -> tuple[str, ...]:
    """A path of a list, relative, and where it is on a system whose ``/bin`` is a link to ``/usr/bin``."""
    path = line.strip().lstrip("/")
    return (path, f"usr/{path}") if path.startswith(_MERGED) else (path,)


def _wheels(tree: Path) -> Iterator[tuple[str, list[str]]]:
    """``numpy 2.1.0``, and the paths that its RECORD has."""
    patterns = ("usr/lib/python3*/*-packages", "usr/local/lib/python3*/*-packages", "opt/*/lib/python3*/site-packages")
    for folder in (found for pattern in patterns for found in sorted(tree.glob(pattern))):
        for info in _sorted(tree, folder, ".dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            site = folder.relative_to(tree).as_posix()
            rows = csv.reader(_text(info / "RECORD").splitlines())
            yield f"{name} {version}", [posixpath.normpath(f"{site}/{row[0]}") for row in rows if row]


def _sorted(tree: Path, folder: Path, ending: str) -> list[Path]:
    """What is in a folder of the tree, unless a link leads out of it."""
    try:
        if not folder.resolve().is_relative_to(tree.resolve()):
            return []
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    except OSError:
        return []


def _text(path: Path) -> str:
    """A file's text; none of a link, which could lead anywhere, and of what cannot be read."""
    try:
        if path.is_symlink():
            return ""
        with opened(path) as file:
            return file.read().decode(errors="surrogateescape")
    except OSError:
        return ""
