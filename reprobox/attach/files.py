"""The files that are attached: ``research.toml``, ``research.lock``, and ``research-project.tar`` where code is needed.

Whoever reads them has got them from a stranger. They are read under limits, and count only where they belong together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox import lock as locks
from reprobox.archives.fetched import Archive, ArchiveError, Limits
from reprobox.archives.tar_stream import TarError
from reprobox.digest import sha256
from reprobox.errors import IntegrityError, LockError, ReproboxError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.layers.code import is_locked_code
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.manifest_reader import MAX_BYTES, Kind
from reprobox.paired import MOST_LOCK, pair
from reprobox.project import MANIFEST_NAME, Project
from reprobox.project_files import gather, write_project
from reprobox.resolve import refuse_unavailable
from reprobox.session import Session

MANIFEST, LOCK, PROJECT = MANIFEST_NAME, locks.FILE_NAME, "research-project.tar"
NAMES = (MANIFEST, LOCK, PROJECT)
#: Most bytes of each that are read.
MOST: Mapping[str, int] = {MANIFEST: MAX_BYTES, LOCK: MOST_LOCK, PROJECT: 2 << 30}
ABOUT: Mapping[str, str] = {
    MANIFEST: "What the computational environment of this work needs (reprobox manifest)",
    LOCK: "Every byte of the computational environment of this work, by hash (reprobox lock)",
    PROJECT: "The code of this work, with its manifest and lock",
}
_AGAIN = "ask its authors for the file as it was, or take it from another place"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """Files in a folder, under their names; ``where`` is what messages call the thing that they are attached to."""

    folder: Path
    where: str
    names: tuple[str, ...]

    def path(self, name: str) -> Path | None:
        """One of the files; None where it is not attached."""
        return self.folder / name if name in self.names else None

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    @property
    def project(self) -> Path | None:
        """The whole project as a tar; None where manifest and lock are all that is needed."""
        return self.path(PROJECT)

    @property
    def size(self) -> int:
        """In bytes, together."""
        return sum((self.folder / name).stat().st_size for name in self.names)


# -- written by the author ---------------------------------------------------------------------------------------------


def prepare(session: Session, project: Project, folder: Path, *, code: bool = True) -> tuple[Attached, Manifest, Lock]:
    """Write what is to be attached into the empty ``folder``; without ``code``, manifest and lock alone.

    Raises :class:`LockError` unless the lock is fresh and the code is what it pins.
    """
    manifest = project.manifest(session.plugins.kinds)
    refuse_unavailable(manifest)
    lock = project.lock(session.store)
    ensure_fresh(session, manifest, lock, str(project.lock_path))
    if not is_locked_code(session.project, manifest, lock):
        raise LockError("the code is not what was locked", where=str(project.root), hint="run `reprobox lock`")
    written = folder / "project"
    written.mkdir()
    gather(session, project, manifest, lock, written)
    names = [MANIFEST, LOCK]
    for name in names:
        (folder / name).write_bytes((written / name).read_bytes())
    if code and {entry.name for entry in os.scandir(written)} != set(names):
        with (folder / PROJECT).open("xb") as file:
            write_project(written, file)
        names.append(PROJECT)
    for name in names:
        if (folder / name).stat().st_size > MOST[name]:
            raise ReproboxError(
                f"{name} would have more than the {MOST[name]} bytes that are read of it",
                where=str(project.root),
                hint="leave what is large out with code.exclude, or give --without-code",
            )
    return Attached(folder=folder, where=str(project.root), names=tuple(names)), manifest, lock


# -- read by others ----------------------------------------------------------------------------------------------------


def save(pieces: Iterable[bytes], folder: Path, name: str, where: str) -> None:
    """Write one attached file into ``folder``. Raises :class:`IntegrityError` for more bytes than such a file has."""
    written = 0
    with (folder / name).open("xb") as file:
        for piece in pieces:
            written += len(piece)
            if written > MOST[name]:
                raise IntegrityError(
                    f"{name} in it unpacks to more than {MOST[name]} bytes, and no honest one does",
                    where=where,
                    hint="do not use this file; tell whoever gave it to you",
                )
            file.write(piece)


def found(folder: Path, where: str, others: Iterable[str] = ()) -> Attached:
    """What was saved in ``folder``. ``others`` are names of what else is there. Raises :class:`ReproboxError` unless
    there are both a manifest and a lock."""
    names = tuple(name for name in NAMES if (folder / name).is_file())
    if missing := [name for name in (MANIFEST, LOCK) if name not in names]:
        listed = ", ".join(sorted(map(shown, others))[:8])
        there = f"; there are: {listed}" if listed else ""
        raise ReproboxError(
            f"no {missing[0]} is attached to it{there if names or listed else ', nor anything else'}",
            where=where,
            hint="its authors attach one with `reprobox attach`",
        )
    return Attached(folder=folder, where=where, names=names)


def check(attached: Attached, kinds: Mapping[str, Kind]) -> tuple[Manifest, Lock]:
    """Manifest and lock, which belong together, and the project too where there is one. Nothing is run.

    Raises as :func:`reprobox.paired.pair`, and :class:`IntegrityError` for another project than theirs.
    """
    manifest, lock = pair(attached.manifest.read_bytes(), attached.lock.read_bytes(), kinds, attached.where)
    if attached.project is not None:
        _check_project(attached, attached.project)
    return manifest, lock


def _check_project(attached: Attached, tar: Path) -> None:
    """The tar is one, and has the same manifest and lock: nobody shows one project and hands on another."""
    wanted = {name: sha256((attached.folder / name).read_bytes()) for name in (MANIFEST, LOCK)}
    seen: dict[str, str] = {}
    try:
        for member, content in Archive(tar, limits=Limits(size=MOST[PROJECT], ratio=1)).members():
            name = os.fsdecode(member.path)
            data = _joined(content, MOST[name] if name in wanted else 0)
            if name in wanted:
                seen[name] = sha256(data) if member.kind in ("f", "x") else ""
    except (ArchiveError, TarError, OSError) as error:
        raise IntegrityError(f"{PROJECT} in it cannot be read: {error}", where=attached.where, hint=_AGAIN) from None
    for name, digest in wanted.items():
        if seen.get(name) != digest:
            fault = f"has another {name} than the one beside it" if name in seen else f"has no {name}"
            raise IntegrityError(f"{PROJECT} in it {fault}", where=attached.where, hint=_AGAIN)


def _joined(pieces: Iterable[bytes], most: int) -> bytes:
    """At most ``most`` bytes and what came with them; the rest is read and forgotten."""
    kept = bytearray()
    for piece in pieces:
        if len(kept) <= most and most:
            kept += piece
    return bytes(kept)


def shown(name: str) -> str:
    """A name from a stranger, for a message."""
    return repr("".join(sign if sign.isprintable() else "?" for sign in name)[:100])


def write_all(attached: Attached, folder: Path) -> None:
    """Copy the files into ``folder``, which may be there. Raises :class:`UsageError` rather than write over one."""
    folder.mkdir(exist_ok=True)
    for name in attached.names:
        if os.path.lexists(folder / name):
            raise UsageError("it exists already", where=str(folder / name), hint="give -o another folder")
    for name in attached.names:
        with (attached.folder / name).open("rb") as source, (folder / name).open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
