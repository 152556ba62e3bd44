"""``copy``: files of the project, put into the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprobox.digest import Json
from reprobox.errors import BuildError, LockError, ManifestError
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.manifest import Layer, absolute_path, key, relative_inside
from reprobox.tree import Tree
from reprobox.worktree import Source, collect, one, place, tree_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyFile:
    """One file or folder to copy.

    A folder's content goes into the folder ``to``. A file becomes ``to``; where ``to`` ends with a slash, or is a
    folder of the environment, it goes into that folder under its own name.
    """

    source: str = key(
        "File or folder of the project.", toml_name="from", check=relative_inside, hint='add from = "conf/"'
    )
    to: str = key("Where it goes in the environment.", check=absolute_path, hint='add to = "/etc/…"')


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    """The keys of a ``copy`` layer."""

    files: tuple[CopyFile, ...] = key(
        "Files to copy.", nonempty=True, hint='add files = [{ from = "conf/", to = "/etc/xor" }]'
    )


class Copy:
    """The kind. Modes are 0644, 0755 for what is executable, 0755 for folders; links stay links."""

    name = "copy"
    recipe = 1
    pinned = False
    options = CopyOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Nothing: it may be beside others that write elsewhere."""
        return ()

    def sources(self, layer: Layer) -> tuple[str, ...]:
        """Paths of the project that this layer is made of, relative to it."""
        return tuple(item.source for item in layer.options.files)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Each source by its tree hash, as git hashes trees."""
        files: list[Json] = []
        mounts = sorted({mount.source for mount in request.manifest.mounts.values() if mount.source})
        for number, item in enumerate(request.layer.options.files):
            try:
                found = _sources(request.world.project, item.source, mounts)
            except FileNotFoundError:
                path = ("layers", request.layer.index, "files", number, "from")
                problem = request.manifest.problem(
                    path, f"there is no {item.source} in the project", "give a file or folder that exists"
                )
                raise ManifestError([problem]) from None
            entry = {"to": item.to, "kind": "folder" if _is_folder(request.world.project, item.source) else "file"}
            files.append({**entry, "tree": tree_hash(found)})
        origins = [item.source for item in request.layer.options.files]
        return Resolution(options={"files": files}, facts={"from": origins, "mounts": mounts})

    def step(self, request: StepRequest) -> Files:
        """Copy what was locked, or say that it changed."""
        origins, files = request.layer.facts["from"], request.layer.options["files"]
        assert isinstance(origins, Sequence)
        assert isinstance(files, Sequence)
        work = []
        for origin, item in zip(origins, files, strict=True):
            assert isinstance(item, Mapping)
            work.append((_locked(request, str(origin), str(item["tree"])), str(item["to"]), str(item["kind"])))
        return Files(write=partial(_write, work))


def _locked(request: StepRequest, origin: str, wanted: str) -> list[Source]:
    mounts = request.layer.facts["mounts"]
    assert isinstance(mounts, Sequence)
    try:
        found = _sources(request.project, origin, [str(mount) for mount in mounts])
    except FileNotFoundError:
        found = None
    if found is None or tree_hash(found) != wanted:
        raise LockError(
            f"{origin} is not what was locked for layer {request.layer.name!r}",
            where=str(request.project / origin),
            hint="restore it, or run `reprobox lock`",
        )
    return found


def _is_folder(project: Path, origin: str) -> bool:
    path = project / origin
    return path.is_dir() and not path.is_symlink()


def _sources(project: Path, origin: str, mounts: Sequence[str]) -> list[Source]:
    path = Path(os.path.normpath(project / origin))
    skip = {os.fsencode(os.path.normpath(project / mount)) for mount in mounts}
    return collect(path, skip=skip) if _is_folder(project, origin) else [one(path)]


def _write(work: Sequence[tuple[Sequence[Source], str, str]], root: Path, parents: Tree) -> None:
    for sources, to, kind in work:
        target = os.fsencode(to.strip("/"))
        entry = parents.get(parents.resolve(target, final=True))
        into = kind == "folder" or to.endswith("/") or (entry is not None and entry.kind == "d")
        for source in sources:
            try:
                place(source, target + b"/" + source.path if into else target, root, parents)
            except (NotADirectoryError, IsADirectoryError) as error:
                raise BuildError(
                    f"{to} cannot be written: {error.filename} is in the way", hint="copy to another place"
                ) from None
