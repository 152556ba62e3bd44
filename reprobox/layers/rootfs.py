"""``rootfs``: a base that is a folder of this machine, taken as it is.

The folder is not fetched from anywhere: whoever realizes the lock needs one with the same tree digest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reprobox.digest import hidden, tree_digest
from reprobox.errors import IntegrityError, ManifestError
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.manifest import Base, Layer
from reprobox.tree import Tree, opened, scan


class Rootfs:
    """The kind: ``[base] rootfs = "dir/"``."""

    name = "rootfs"
    recipe = 1
    options = Base
    pinned = False

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """A base stands on nothing."""
        return ()

    def sources(self, layer: Layer) -> tuple[str, ...]:
        """The folder that this base is made of."""
        return (layer.options.reference,)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin the folder by its tree digest."""
        path = request.manifest.base.reference
        folder = request.world.project / path
        if not folder.is_dir():
            problem = request.manifest.problem(("base", "rootfs"), f"there is no folder {path}", "give an existing one")
            raise ManifestError([problem])
        return Resolution(options={"tree": tree_digest(scan(folder, left_out=hidden))}, facts={"path": path})

    def step(self, request: StepRequest) -> Files:
        """Copy the folder, and check what was copied."""
        folder = request.project / str(request.layer.facts["path"])
        return Files(write=partial(_copy, folder, str(request.layer.options["tree"])))


def _copy(folder: Path, wanted: str, root: Path, _: Tree) -> None:
    copy_rootfs(folder, wanted, root)


def copy_rootfs(folder: Path, wanted: str, root: Path) -> None:
    """Copy a base's folder into the empty ``root``. Raises :class:`IntegrityError` unless it has the tree digest."""
    if not folder.is_dir():
        hint = "copy it there from where the lock was made: a rootfs base is not kept anywhere else"
        raise IntegrityError("the folder of the base is not here", where=str(folder), hint=hint)
    entries = scan(folder, left_out=hidden)
    if tree_digest(entries) != wanted:
        hint = "restore it, or run `reprobox lock` to take it as it is"
        raise IntegrityError("the folder of the base is not the one that was locked", where=str(folder), hint=hint)
    source, target = os.fsencode(folder), os.fsencode(root)
    for entry in entries:
        old, new = source + b"/" + entry.path, target + b"/" + entry.path
        if entry.kind == "d":
            os.mkdir(new, 0o700)
        elif entry.kind == "l":
            os.symlink(os.readlink(old), new)
        else:
            with opened(old) as reader, open(new, "wb") as writer:
                shutil.copyfileobj(reader, writer)
            os.chmod(new, entry.mode)
    for entry in reversed(entries):
        if entry.kind == "d":
            os.chmod(target + b"/" + entry.path, entry.mode)
