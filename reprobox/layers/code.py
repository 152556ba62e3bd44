"""``code``: the project's code. Mounted when it runs; this layer bakes it in, for ``--with-code``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reprobox.errors import BuildError, LockError, ReproboxError
from reprobox.git.worktree import IN_THE_WAY, Placing, Source, collect, tree_hash, within
from reprobox.layers.gitignore import ignore_rules
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.layers.left_out import left_out, skipped_paths
from reprobox.layers.skeleton import NoKeys
from reprobox.lock import Lock
from reprobox.manifest import Layer, Manifest
from reprobox.tree import Tree


class CodeKind:
    """The kind: the last layer, only where the code is baked in. It has no keys of its own."""

    name = "code"
    recipe = 1
    pinned = False
    options = NoKeys

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """The graph places it."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The code by its tree hash."""
        manifest = request.manifest
        return Resolution(
            options={"target": manifest.code.target, "tree": code_hash(request.world.project, manifest)},
            facts={
                "path": manifest.code.path,
                "exclude": list(manifest.code.exclude),
                **left_out(manifest),
            },
        )

    def step(self, request: StepRequest) -> Files:
        """Copy the code, if it is still what was locked."""
        facts, options = request.layer.facts, request.layer.options
        exclude, skipped = _strings(facts["exclude"]), skipped_paths(facts)
        sources = _collect(request.project, str(facts["path"]), exclude, skipped)
        if tree_hash(sources) != options["tree"]:
            raise LockError("the code changed while it was used", where=str(request.project), hint="run it again")
        return Files(write=partial(_write, sources, os.fsencode(str(options["target"]).strip("/"))))


def code_hash(project: Path, manifest: Manifest) -> str:
    """The git tree id of the code as it is now: without version control, locks, mount sources, files that hold secrets,
    and what is ignored."""
    return tree_hash(code_sources(project, manifest))


def code_sources(project: Path, manifest: Manifest) -> list[Source]:
    """The files of the code as they are now, by their paths below the code's folder."""
    skipped = skipped_paths(left_out(manifest))
    return _collect(project, manifest.code.path, manifest.code.exclude, skipped)


def is_locked_code(project: Path, manifest: Manifest, lock: Lock) -> bool:
    """Whether what runs is what the lock pins; code from a repository always is."""
    return lock.checkout is not None or code_hash(project, manifest) == lock.code


def _collect(project: Path, path: str, exclude: Sequence[str], skipped: Sequence[str]) -> list[Source]:
    root = within(project, path)
    if root.is_symlink() or not root.is_dir():
        raise ReproboxError("the code is not a folder", where=str(root), hint="code.path names a folder of the project")
    skip = {os.fsencode(os.path.normpath(project / name)) for name in skipped}
    top = Path(os.path.normpath(project))
    return collect(root, skip=skip, ignored=ignore_rules(root, exclude, top))


def _strings(value: object) -> list[str]:
    assert isinstance(value, Sequence)
    return [str(item) for item in value]


def _write(sources: Sequence[Source], target: bytes, root: Path, parents: Tree) -> None:
    with Placing(root, parents) as placing:
        try:
            placing.folder(target)
            for source in sources:
                placing.file(source, target + b"/" + source.path)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
            raise BuildError(
                f"the code cannot be put at /{os.fsdecode(target)}: {error.filename}: {error.strerror}",
                hint="choose another code.target",
            ) from None
