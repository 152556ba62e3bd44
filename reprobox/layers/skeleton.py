"""``skeleton``: the folders that every engine needs and the mount points, so that no engine has to add them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprobox.errors import BuildError
from reprobox.git.worktree import IN_THE_WAY, Placing
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.manifest import Layer, Manifest
from reprobox.tree import Tree

#: Also where the parents have them otherwise: apt, and whoever runs here as another user, need these so.
_MODES = {"/tmp": 0o1777, "/var/tmp": 0o1777}  # noqa: S108 - paths inside the environment
_ALWAYS = ("/dev", "/etc", "/proc", "/run", "/sys", "/tmp")  # noqa: S108


@dataclass(frozen=True, kw_only=True, slots=True)
class NoKeys:
    """Nobody writes this kind into a manifest."""


class Skeleton:
    """The kind: the last layer of every environment, but for baked-in code. It has no keys of its own."""

    name = "skeleton"
    recipe = 1
    pinned = False
    options = NoKeys

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """The graph places it."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The folders of this manifest, by path."""
        return Resolution(options={"folders": sorted(set(_folders(request.manifest)))})

    def step(self, request: StepRequest) -> Files:
        """Make those that the parents lack."""
        folders = request.layer.options["folders"]
        assert isinstance(folders, Sequence)
        return Files(write=partial(_write, [str(folder) for folder in folders]))


def _folders(manifest: Manifest) -> Iterator[str]:
    yield from _ALWAYS
    yield manifest.workdir
    yield manifest.code.target
    yield from manifest.mounts


def _write(folders: Sequence[str], root: Path, parents: Tree) -> None:
    with Placing(root, parents) as placing:
        for folder in folders:
            try:
                placing.folder(os.fsencode(folder.strip("/")), _MODES.get(folder))
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
                raise BuildError(
                    f"{folder} cannot be a folder of the environment: {error.filename}: {error.strerror}",
                    hint="choose another mount point or working directory",
                ) from None
