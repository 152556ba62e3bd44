"""Projects in archives and crates: where they are in them, and out of them into a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from reprobox import crate_files
from reprobox.archives.fetched import Archive, ArchiveError
from reprobox.attach.files import PROJECT as PROJECT_TAR
from reprobox.errors import IntegrityError, UsageError
from reprobox.lock import FILE_NAME
from reprobox.project import MANIFEST_NAME
from reprobox.project_files import LIMITS, unpack_project, write_project
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.source import Source
from reprobox.tree import walk

_CHUNK = 1 << 20
_FIX = "ask whoever published it for one project with one lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where things are in an archive or a crate: the ``project``'s folder (empty: the root), and a vault beside it.

    ``files`` says that manifest, lock and the packed project are files of their own there.
    """

    project: str
    files: bool = False
    crate: bool = False
    vault: str = ""


def layout(names: Collection[str], inside: str, where: str) -> Layout:
    """Find the project among the ``names`` of files, relative paths. ``inside`` names its folder.

    Raises :class:`UsageError` where there is none, and :class:`IntegrityError` where there are several.
    """
    there = set(names)
    tops = {name.partition("/")[0] for name in names}
    top = f"{tops.pop()}/" if len(tops) == 1 and MANIFEST_NAME not in there else ""
    root = f"{top}{inside}/" if inside else top
    manifest = _only(MANIFEST_NAME, root, there, where)
    if manifest is None:
        raise UsageError(
            f"there is no {MANIFEST_NAME} in it",
            where=where,
            hint=_what_else(there) if not inside else f"there is none in {inside} either: look how it is spelled",
        )
    lock = _only(FILE_NAME, root, there, where)
    if lock is not None and lock != manifest:
        raise IntegrityError(f"its lock is not beside its manifest: {lock}{FILE_NAME}", where=where, hint=_FIX)
    return Layout(
        project=manifest.rstrip("/"),
        files=f"{manifest}{PROJECT_TAR}" in there,
        crate=f"{root}{crate_files.METADATA}" in there,
        vault=f"{root}{crate_files.VAULT}" if f"{root}{crate_files.VAULT}" in there else "",
    )


def _only(name: str, root: str, there: Collection[str], where: str) -> str | None:
    """The one folder that has the file."""
    found = [folder for folder in (root, f"{root}{crate_files.PROJECT}/") if f"{folder}{name}" in there]
    if len(found) > 1:
        listed = " and ".join(f"{folder}{name}" for folder in found)
        what = "manifests" if name == MANIFEST_NAME else "locks"
        raise IntegrityError(f"it has two {what}: {listed}", where=where, hint=_FIX)
    return found[0] if found else None


def _what_else(there: Collection[str]) -> str:
    below = sorted(name.rpartition("/")[0] for name in there if name.endswith(f"/{MANIFEST_NAME}"))
    if below:
        return f"name the folder that has one behind a #: {', '.join(below[:5])}"
    if FILE_NAME in {name.rpartition("/")[2] for name in there}:
        return f"it has a {FILE_NAME} alone: the manifest belongs to it"
    return "it was not made with reprobox: look in it for how its authors installed what they used"


# -- archives ----------------------------------------------------------------------------------------------------------


def from_archive(source: Source, means: Means, folder: Path) -> Obtained:
    """The project in a zip or tar archive, which may be a crate. Raises :class:`IntegrityError` for a dangerous one."""
    path = source.path
    found = layout(_names(path), source.inside, source.text)
    project = folder / "project"
    project.mkdir()
    left_out: tuple[str, ...] = ()
    if found.files:
        manifest, lock, packed = (folder / name for name in (MANIFEST_NAME, FILE_NAME, PROJECT_TAR))
        for target in (manifest, lock, packed):
            _take(path, f"{found.project}/{target.name}".lstrip("/"), target)
        left_out = from_files(Files(manifest=manifest, lock=lock, project=packed), project, source.text)
    else:
        left_out = unpack_project(path, project, below=os.fsencode(found.project), where=source.text)
    vaults: tuple[str, ...] = ()
    if found.vault and means.inputs:
        _take(path, found.vault, folder / crate_files.VAULT)
        vaults = (str(folder / crate_files.VAULT),)
    what = "a crate" if found.crate else "an archive"
    return Obtained(folder=project, what=what, facts={"file": str(path)}, vaults=vaults, left_out=left_out)


def _names(path: Path) -> list[str]:
    try:
        members = Archive(path, limits=LIMITS).members()
        return [os.fsdecode(member.path) for member, _ in members if member.kind in "fx"]
    except ArchiveError as error:
        raise _cannot(path, error) from None


def _cannot(path: Path, error: Exception) -> IntegrityError:
    hint = "it is damaged, or was made to do harm: get it again from where it was published"
    return IntegrityError(f"it cannot be unpacked: {error}", where=str(path), hint=hint)


def _take(packed: Path, name: str, target: Path) -> None:
    """One file of an archive."""
    try:
        for member, content in Archive(packed, limits=LIMITS).members():
            if member.path == os.fsencode(name) and member.kind in "fx":
                with target.open("xb") as file:
                    file.writelines(content)
    except (ArchiveError, OSError) as error:
        raise _cannot(packed, error) from None


# -- three files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What is attached to things: the manifest, the lock, and the packed project where it is needed."""

    manifest: Path
    lock: Path
    project: Path | None = None


def from_files(files: Files, project: Path, where: str) -> tuple[str, ...]:
    """Put the project together in the empty folder ``project``; returns what was left out.

    Raises :class:`IntegrityError` where the packed project has another manifest or lock than lie beside it.
    """
    left_out = unpack_project(files.project, project, where=where) if files.project else ()
    for name, path in ((MANIFEST_NAME, files.manifest), (FILE_NAME, files.lock)):
        if not path.exists():
            raise IntegrityError(f"it has no {name}", where=where, hint=_FIX)
        target = project / name
        if not target.exists():
            target.write_bytes(path.read_bytes())
        elif target.read_bytes() != path.read_bytes():
            message = f"it has two of {name}, and they differ: one of its own, and one in {PROJECT_TAR}"
            raise IntegrityError(message, where=where, hint=_FIX)
    return left_out


# -- folders -----------------------------------------------------------------------------------------------------------


def from_crate(source: Source, _: Means, folder: Path) -> Obtained:
    """The project of a crate that is a folder: a copy, so that the crate stays as it was published."""
    crate = source.path
    place = crate / crate_files.PROJECT
    if place.is_symlink() or not (place / MANIFEST_NAME).is_file():
        raise UsageError(
            f"this crate has no {crate_files.PROJECT}/{MANIFEST_NAME}",
            where=str(crate),
            hint="it was not made with reprobox, or is not whole",
        )
    for name, what in ((MANIFEST_NAME, "manifests"), (FILE_NAME, "locks")):
        if (crate / name).exists():
            listed = f"{name} and {crate_files.PROJECT}/{name}"
            raise IntegrityError(f"it has two {what}: {listed}", where=str(crate), hint=_FIX)
    project = folder / "project"
    left_out = copy_project(place, folder / "copy.tar", project)
    vaults = [str(crate / name) for name in (crate_files.VAULT, "vault") if (crate / name).exists()]
    facts = {"folder": str(crate)}
    return Obtained(folder=project, what="a crate", facts=facts, vaults=tuple(vaults[:1]), left_out=left_out)


def copy_project(place: Path, packed: Path, project: Path) -> tuple[str, ...]:
    """Copy a folder by way of the tar ``packed``, under the same rules as what comes in one."""
    for path, status in walk(str(place).encode()):
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            shown = repr(path.decode("utf-8", "backslashreplace"))
            raise IntegrityError(f"{shown} is neither a file, a folder nor a link", where=str(place), hint=_FIX)
    with packed.open("xb") as file:
        write_project(place, file)
    project.mkdir()
    try:
        return unpack_project(packed, project, where=str(place))
    finally:
        packed.unlink()
