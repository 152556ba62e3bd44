"""``copy``: files of the project, put into the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprobox.digest import Json, hidden
from reprobox.errors import BuildError, LockError, ManifestError, Problem, ReproboxError
from reprobox.git.worktree import IN_THE_WAY, Placing, Source, collect, one, tree_hash, within
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.layers.left_out import left_out, skipped_paths
from reprobox.manifest import Layer, Manifest
from reprobox.table_rules import Check, Finding
from reprobox.tables import key
from reprobox.tree import Tree
from reprobox.value_checks import absolute_path, relative_inside
from reprobox.wording import quote


def _destination(text: str) -> Finding | None:
    if finding := absolute_path.find(text.removesuffix("/") if len(text) > 2 else text):
        return finding
    path = os.fsencode(text.strip("/"))
    if hidden(path) or hidden(path + b"/content"):
        return Finding(f"nothing at {quote(text)} is part of an environment: it is made anew for every run", _ELSEWHERE)
    return None


_ELSEWHERE = "choose another place, such as /opt or /usr/local"


destination = Check(find=_destination, schema=absolute_path.schema)
"""An absolute path; a slash at its end says that it is a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyFile:
    """One file or folder to copy.

    A folder's content goes into the folder ``to``. A file becomes ``to``; where ``to`` ends with a slash, or is a
    folder of the environment, it goes into that folder under its own name. Folders on the way are looked up through the
    links of the environment, and made where they are missing.
    """

    source: str = key(
        "File or folder of the project.", toml_name="from", check=relative_inside, hint='add from = "conf/"'
    )
    to: str = key("Where it goes in the environment.", check=destination, hint='add to = "/etc/…"')


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    """The keys of a ``copy`` layer."""

    files: tuple[CopyFile, ...] = key(
        "Files to copy.", nonempty=True, hint='add files = [{ from = "conf/", to = "/etc/xor" }]'
    )


class Copy:
    """The kind. Modes are 0644, 0755 for what is executable, 0755 for new folders; links stay links.

    Of a folder, what git would not keep is left out, and so are mount sources and files with secrets below it.
    """

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

    def destinations(self, layer: Layer) -> tuple[str, ...]:
        """Where it writes in the environment."""
        return tuple(item.to for item in layer.options.files)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Each source by its tree hash, as git hashes trees."""
        files: list[Json] = []
        problems: list[Problem] = []
        facts = left_out(request.manifest)
        for number, item in enumerate(request.layer.options.files):
            try:
                found = _found(request.world.project, item.source, facts)
            except ReproboxError as error:
                at = ("layers", request.layer.index, "files", number, "from")
                where = f"{error.where}: " if error.where else ""
                problems.append(request.manifest.problem(at, f"{where}{error.message}", error.hint or ""))
                continue
            kind = "folder" if found.folder else "file"
            files.append({"to": item.to, "kind": kind, "tree": tree_hash(found.sources)})
        if problems:
            raise ManifestError(problems)
        return Resolution(options={"files": files}, facts={"from": list(self.sources(request.layer)), **facts})

    def step(self, request: StepRequest) -> Files:
        """Copy what was locked, or say that it changed."""
        return Files(write=partial(_write, list(_work(request))))


def copied_sources(project: Path, manifest: Manifest, origin: str) -> Sequence[Source]:
    """The files that a ``from`` means now: below its folder, or the single one under its own name."""
    return _found(project, origin, left_out(manifest)).sources


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What a ``from`` is: a folder with these files, or a single one."""

    folder: bool
    sources: Sequence[Source]


def _found(project: Path, origin: str, facts: Mapping[str, Json]) -> _Found:
    path = within(project, origin)
    if not path.is_dir() or path.is_symlink():
        if path in {Path(os.path.normpath(project / name)) for name in skipped_paths({**facts, "mounts": ()})}:
            hint = "give it to the step that needs it, with `secrets` in a `run` layer"
            raise ReproboxError("it holds a secret, and no layer may", where=origin, hint=hint)
        return _Found(folder=False, sources=[one(path)])
    skip = {os.fsencode(os.path.normpath(project / name)) for name in skipped_paths(facts)}
    return _Found(folder=True, sources=collect(path, skip=skip))


def _work(request: StepRequest) -> Iterator[tuple[_Found, str]]:
    """What to copy, and where to; all of it still as it was locked."""
    origins, files = request.layer.facts["from"], request.layer.options["files"]
    assert isinstance(origins, Sequence)
    assert isinstance(files, Sequence)
    for origin, item in zip(origins, files, strict=True):
        assert isinstance(item, Mapping)
        try:
            found = _found(request.project, str(origin), request.layer.facts)
            same = ("folder" if found.folder else "file", tree_hash(found.sources)) == (item["kind"], item["tree"])
        except ReproboxError:
            same = False
        if not same:
            raise LockError(
                f"{origin} is not what was locked for layer {request.layer.name!r}",
                where=str(request.project / str(origin)),
                hint="restore it, or run `reprobox lock`",
            )
        yield found, str(item["to"])


def _write(work: Sequence[tuple[_Found, str]], root: Path, parents: Tree) -> None:
    with Placing(root, parents) as placing:
        for found, to in work:
            try:
                _copy(found, to, placing)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
                reason = f"{error.filename}: {error.strerror}"
                raise BuildError(f"{to} cannot be written: {reason}", hint="copy to another place") from None


def _copy(found: _Found, to: str, placing: Placing) -> None:
    target = os.fsencode(to.strip("/"))
    into = found.folder or placing.takes(to)
    if into:
        placing.folder(target)
    for source in found.sources:
        placing.file(source, target + b"/" + source.path if into else target)
