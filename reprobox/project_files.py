"""The project as one tar: manifest, lock, code, and every other file of it that realizing the lock reads.

Data that is mounted and files that hold secrets are never in it.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from reprobox.archives.fetched import Archive, ArchiveError, Limits, Member
from reprobox.errors import IntegrityError, LockError, ManifestError, ReproboxError
from reprobox.git.worktree import Placing, Source
from reprobox.image import file_header, folder_header, link_header, tar_end
from reprobox.layers.code import code_sources
from reprobox.layers.copy import copied_sources
from reprobox.layers.rootfs import copy_rootfs
from reprobox.lock import FILE_NAME, Input, Lock
from reprobox.lock_text import read
from reprobox.manifest import Manifest
from reprobox.oci import documents as oci
from reprobox.project import MANIFEST_NAME, Project
from reprobox.pypi import TYPES
from reprobox.redact import holders
from reprobox.secret_values import secret_values
from reprobox.session import Session
from reprobox.tree import Tree, opened, walk

_CHUNK = 1 << 20
_BLOCK = 512


# -- out of a project --------------------------------------------------------------------------------------------------


def gather(session: Session, project: Project, manifest: Manifest, lock: Lock, folder: Path) -> None:
    """Copy what belongs to the project into the empty ``folder``. Files of private layers are left out.

    Raises :class:`IntegrityError` where the base is another one than was locked, and :class:`ReproboxError` for a file
    that holds a secret.
    """
    private = manifest.private_layers()
    _put(project.manifest_path, folder / MANIFEST_NAME)
    _put(project.lock_path, folder / FILE_NAME)
    if lock.checkout is None:
        _put_sources(code_sources(session.project, manifest), folder / manifest.code.path)
    for layer in manifest.layers:
        if layer.kind == "copy" and layer.name not in private:
            for item in layer.options.files:
                _put_copied(session.project, manifest, item.source, folder)
    for name in _read_files(manifest, lock, private):
        if (session.project / name).is_file():
            _put(session.project / name, folder / name)
    _put_base(session, manifest, lock, folder)
    _refuse_private_base(manifest, lock, folder)
    refuse_secrets(session, manifest, folder)


def _put_copied(project: Path, manifest: Manifest, origin: str, folder: Path) -> None:
    sources = copied_sources(project, manifest, origin)
    inside = Path(os.path.normpath(origin))
    alone = not (project / origin).is_dir() or (project / origin).is_symlink()
    _put_sources(sources, folder / (inside.parent if alone else inside))


def _put_sources(sources: Sequence[Source], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        _put(Path(os.fsdecode(source.origin)), folder / os.fsdecode(source.path))


def _put(source: Path, target: Path) -> None:
    """Copy one file, or a link as it is: mode 0644, or 0755 for a program."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        return
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    with opened(source) as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _read_files(manifest: Manifest, lock: Lock, private: Collection[str]) -> list[str]:
    """Paths of files that say what layers ask for, such as ``requirements.txt``, and of keys of archives."""
    layers = [layer for target in lock.targets.values() for layer in target.layers if layer.name not in private]
    named: list[Any] = [name for layer in layers for name in _names(layer.facts.get("files"))]
    named += [source.key for layer in manifest.layers for source in getattr(layer.options, "sources", ()) if source.key]
    return sorted({name for name in named if _is_inside(name)})


def _names(table: Any) -> Iterator[str]:
    yield from table if isinstance(table, dict) else ()


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and not os.path.normpath(name).startswith("..")


def _put_base(session: Session, manifest: Manifest, lock: Lock, folder: Path) -> None:
    """A base that lies in the project: a root file system whole; of a layout the documents, its layers being inputs."""
    for name, target in lock.targets.items():
        path = str(target.base.facts.get("path", ""))
        if target.base.name in manifest.private_layers(name):
            continue
        if not path or not _is_inside(path) or (folder / path / "oci-layout").exists():
            continue
        if target.base.kind == "rootfs" and not (folder / path).exists():
            (folder / path).mkdir(parents=True)
            copy_rootfs(session.project / path, str(target.base.options["tree"]), folder / path)
        elif target.base.kind == "archive":
            _put(session.project / path, folder / path)
        elif target.base.kind == "oci":
            layout = session.project / path
            for document in ("index.json", "oci-layout"):
                _put(layout / document, folder / path / document)
            for blob in sorted((layout / "blobs" / "sha256").iterdir()):
                if blob.stat().st_size <= oci.MOST_MANIFEST and _is_document(blob):
                    _put(blob, folder / path / "blobs" / "sha256" / blob.name)


def _refuse_private_base(manifest: Manifest, lock: Lock, folder: Path) -> None:
    """A base that is private must not come along as code, or as a file of a layer."""
    for name, target in lock.targets.items():
        path = str(target.base.facts.get("path", ""))
        if target.base.name in manifest.private_layers(name) and path and os.path.lexists(folder / path):
            raise ReproboxError(
                f"the base is private, and the code has it: {path}",
                where="base.private",
                hint=f'leave it out of the code: [code] exclude = ["{path}"]',
            )


def _is_document(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def refuse_secrets(session: Session, manifest: Manifest, folder: Path) -> None:
    """No file of the project that is kept may hold the value of a secret that is known here."""
    values: dict[str, bytes] = {}
    for name in manifest.secrets:
        try:
            values |= secret_values(manifest, session.project, [(name, "")])
        except ManifestError:
            continue  # it is not here, and so it is in no file of ours
    for path, name in holders(folder, values):
        raise ReproboxError(
            f"{os.fsdecode(path)} holds the secret {name!r}, and what is kept or published is handed on",
            where=str(session.project),
            hint="take it out of that file, or leave the file out with code.exclude",
        )


# -- as a tar ----------------------------------------------------------------------------------------------------------


def write_project(folder: Path, sink: IO[bytes]) -> None:
    """The tar of what :func:`gather` made: sorted by path bytes, owner 0:0, time 0; the same files, the same bytes."""
    root = os.fsencode(folder)
    written = 0
    for path, status in sorted(walk(root)):
        full = os.path.join(root, path)
        if os.path.islink(full):
            written += link_header(sink, path, os.readlink(full))
        elif os.path.isdir(full):
            written += folder_header(sink, path, mode=status.st_mode & 0o7777)
        else:
            written += file_header(sink, path, status.st_size, mode=status.st_mode & 0o7777)
            with opened(full) as file:
                shutil.copyfileobj(file, sink, _CHUNK)
            sink.write(bytes(-status.st_size % _BLOCK))
            written += status.st_size + -status.st_size % _BLOCK
    tar_end(sink, written)


#: What one packed project may hold.
LIMITS = Limits(entries=500_000, size=1 << 28, ratio=100)
#: Folders that no project hands on: what git, Python and reprobox find in them is run or believed without being locked.
_LEFT_OUT = frozenset((".git", ".reprobox", "__pycache__"))
_OWN = (MANIFEST_NAME, FILE_NAME)
#: Folders beside the manifest that are written into later on.
_WRITTEN = ("research.runs", "research.attestations")
_DAMAGED = "it is damaged, or was made to do harm: get it again from where it was published"


def unpack_project(packed: Path, folder: Path, *, below: bytes = b"", where: str = "") -> tuple[str, ...]:
    """Put the files of a tar or zip archive, or those ``below`` a folder of it, into the empty ``folder``.

    Returns the folders that were left out. Modes are 0644, or 0755 for programs and folders; those of a base's files
    are part of what was locked and stay. Raises :class:`IntegrityError` for an archive that is broken or dangerous;
    ``where`` is what it calls the archive, for people who know it by another name.
    """
    try:
        with Placing(folder, Tree()) as placing:
            unpacking = _Unpacking(placing, folds_case=_folds_case(folder))
            for member, content in Archive(packed, below=below, limits=LIMITS).members():
                unpacking.put(member, content)
        _set_base_modes(unpacking.modes, folder)
    except (ArchiveError, OSError) as error:
        message = f"the project in it cannot be unpacked: {error}"
        raise IntegrityError(message, where=where or str(packed), hint=_DAMAGED) from None
    return tuple(sorted(unpacking.left_out))


class _Unpacking:
    """One project on its way out of an archive that anybody may have made."""

    def __init__(self, placing: Placing, *, folds_case: bool) -> None:
        self._placing = placing
        self._folds_case = folds_case
        self._seen: set[bytes] = set()
        self._folded: dict[str, bytes] = {}
        self.modes: dict[bytes, int] = {}
        self.left_out: set[str] = set()

    def put(self, member: Member, content: Iterable[bytes]) -> None:
        if left := left_out_part(os.fsdecode(member.path)):
            self.left_out.add(left)
            return
        self._check_name(member)
        self.modes[member.path] = member.mode
        if member.kind == "d":
            self._placing.folder(member.path)
        elif member.kind == "l":
            self._placing.link(member.path, member.target)
        elif member.kind == "h":
            self._placing.hard_link(member.path, member.target)
        else:
            self._placing.write(member.path, content, executable=member.kind == "x")

    def _check_name(self, member: Member) -> None:
        path, shown = member.path, repr(os.fsdecode(member.path[:200]))
        if path in self._seen and member.kind != "d":
            raise ArchiveError(f"{shown} is in it twice")
        self._seen.add(path)
        folded = unicodedata.normalize("NFC", os.fsdecode(path)).casefold()
        if folded in _OWN and (path != folded.encode() or member.kind not in ("f", "x")):
            raise ArchiveError(f"{shown} would pass for {folded}, and is another name or no file")
        if folded in _WRITTEN and member.kind == "l":
            raise ArchiveError(f"{shown} is a folder that is written into, and leads elsewhere as a link")
        if self._folds_case and self._folded.setdefault(folded, path) != path:
            raise ArchiveError(f"{shown} and {self._folded[folded]!r} are one name on this file system")


def left_out_part(path: str) -> str:
    """The folder that a path lies in and that no project hands on; empty if there is none."""
    parts = path.split("/")
    for number, part in enumerate(parts):
        if part.casefold().rstrip(". ") in _LEFT_OUT:
            return "/".join(parts[: number + 1])
    return ""


def _folds_case(folder: Path) -> bool:
    """Whether the file system takes upper and lower case for the same."""
    marker = folder / "a"
    marker.touch()
    try:
        return os.path.lexists(folder / "A")
    finally:
        marker.unlink()


def _set_base_modes(modes: Mapping[bytes, int], folder: Path) -> None:
    """Folders last, since some may not be written into. Where a file has a set-id bit, nobody else gets to it."""
    for base in _packed_bases(folder):
        root = os.fsencode(base)
        below = sorted((path for path in modes if path.startswith(root + b"/")), reverse=True)
        for path in below:
            full = os.path.join(os.fsencode(folder), path)
            if modes[path] and not os.path.islink(full):
                os.chmod(full, modes[path])
        if any(modes[path] & 0o6000 for path in below):
            (folder / base).chmod(0o700)


def _packed_bases(folder: Path) -> Iterator[str]:
    """Folders of the project that hold root file systems."""
    try:
        lock = read((folder / FILE_NAME).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, LockError):
        return  # whoever needs the lock says what is wrong with it
    for target in lock.targets.values():
        path = str(target.base.facts.get("path", ""))
        if target.base.kind == "rootfs" and _is_inside(path) and os.path.normpath(path) != ".":
            yield os.path.normpath(path)


# -- what lies in the project and is an input --------------------------------------------------------------------------


def places_in_project(lock: Lock) -> Iterator[tuple[Input, str]]:
    """Inputs that the project itself has, each with its path: wheels beside the manifest, layers of an OCI layout."""
    for target in lock.targets.values():
        base = target.base
        if base.kind == "sif" and _is_inside(str(base.facts["path"])):
            yield base.inputs[0], str(base.facts["path"])
        if base.kind == "oci" and _is_inside(str(base.facts["path"])):
            yield from ((item, f"{base.facts['path']}/blobs/sha256/{item.sha256}") for item in base.inputs)
        for layer in target.layers:
            for item in layer.inputs:
                if item.type in TYPES and _is_inside(item.facts.get("path", "/")):
                    yield item, item.facts["path"]
