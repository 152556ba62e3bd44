"""Layers made by hand: directories as a step leaves them, and the index entries that are expected of them."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.digest import Entry, escape, read_index, sha256
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree
from tests.engines.ordinary import OrdinaryUser

ROOT = Path(__file__).resolve().parents[1]
#: All that layers, their copies and their digests take.
MODULES = [
    "__init__",
    "digest",
    "errors",
    "image",
    "layer_copies",
    "namespace",
    "normalise",
    "scrub",
    "tree",
    "whiteouts",
]
EPOCH = 1_700_000_000
STARTED = 1_750_000_000.5

Writer = Callable[[Path], object]


def d(path: str | bytes, mode: int = 0o755) -> Entry:
    return Entry("d", mode, "-", os.fsencode(path))


def f(path: str | bytes, content: bytes = b"", mode: int = 0o644) -> Entry:
    return Entry("f", mode, sha256(content), os.fsencode(path))


def l(path: str | bytes, target: str) -> Entry:  # noqa: E743
    return Entry("l", 0o777, escape(os.fsencode(target)), os.fsencode(path))


def w(path: str | bytes) -> Entry:
    return Entry("w", 0, "-", os.fsencode(path))


def merged(*entries: Entry) -> Tree:
    return Tree.merged([entries])


@dataclass
class Layer:
    """What normalising made: ``tree``, ``index``, and what it dropped."""

    output: Path
    dropped: tuple[str, ...]

    @property
    def tree(self) -> Path:
        return self.output / "tree"

    @property
    def index_file(self) -> Path:
        return self.output / "index"

    @property
    def index(self) -> list[Entry]:
        return read_index(self.index_file.read_bytes())

    def stat(self, path: str) -> os.stat_result:
        return os.lstat(self.tree / path)


class LayerMaker:
    """Normalises what ``write`` puts into an empty upper directory or, with ``whole``, result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0

    def __call__(self, write: Writer, parents: Tree | None = None, **options: Any) -> Layer:
        self._made += 1
        root, output = self._folder / f"changes{self._made}", self._folder / f"layer{self._made}"
        root.mkdir()
        output.mkdir()
        write(root)
        changes = Changes(root=root, **{"epoch": EPOCH, "started": STARTED, **options})
        return Layer(output, normalise(changes, parents or Tree(), output))


def write(files: Mapping[str, bytes | None]) -> Callable[[Path], None]:
    """None is a whiteout as overlayfs makes it; a name that ends with a slash is a folder."""

    def put(root: Path) -> None:
        for name, content in files.items():
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                os.mknod(path, stat.S_IFCHR, 0)
            else:
                path.write_bytes(content)

    return put


def run_bare(user: OrdinaryUser, program: str, *arguments: str | Path) -> str:
    """What a program prints that the user runs in a bare interpreter, with :data:`MODULES` and no others of ours."""
    source = user.home / "layers"
    if not source.exists():
        (source / "reprobox").mkdir(parents=True)
        for name in MODULES:
            shutil.copy(ROOT / "reprobox" / f"{name}.py", source / "reprobox")
        user.give(source)
    python = sys.executable if os.geteuid() != 0 else "/usr/bin/python3"
    done = user.run([python, "-IS", "-c", f"import sys; sys.path.insert(0, {str(source)!r})\n{program}", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def opaque(path: Path) -> None:
    os.setxattr(path, "user.overlay.opaque", b"y")


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def put(root: Path) -> None:
        for step in steps:
            step(root)

    return put
