"""The project as one tar: manifest, lock, code, and every other file of it that realizing the lock reads.

Data that is mounted and files that hold secrets are never in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from reprobox.archives.fetched import Archive, ArchiveError
from reprobox.archives.tar_stream import FILE, FOLDER, TarError, TarStream, decompressed
from reprobox.errors import IntegrityError, ManifestError, ReproboxError
from reprobox.git.worktree import Placing, Source
from reprobox.image import file_header, folder_header, link_header, tar_end
from reprobox.layers.code import code_sources
from reprobox.layers.copy import copied_sources
from reprobox.layers.rootfs import copy_rootfs
from reprobox.lock import FILE_NAME, Input, Lock
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
_WITH_MODE = (FILE, FOLDER)


# -- out of a project --------------------------------------------------------------------------------------------------


def gather(session: Session, project: Project, manifest: Manifest, lock: Lock, folder: Path) -> None:
    """Copy what belongs to the project into the empty ``folder``. Files of private layers are left out.

    Raises :class:`IntegrityError` where the base is another one than was locked, and :class:`ReproboxError` for a file
    that holds a secret.
    """
    private = {layer.name for layer in manifest.layers if layer.private}
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
    _put_base(session, lock, folder)
    _refuse_secrets(session, manifest, folder)


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


def _put_base(session: Session, lock: Lock, folder: Path) -> None:
    """A base that lies in the project: a root file system whole; of a layout the documents, its layers being inputs."""
    for target in lock.targets.values():
        path = str(target.base.facts.get("path", ""))
        if not path or not _is_inside(path) or (folder / path / "oci-layout").exists():
            continue
        if target.base.kind == "rootfs" and not (folder / path).exists():
            (folder / path).mkdir(parents=True)
            copy_rootfs(session.project / path, str(target.base.options["tree"]), folder / path)
        elif target.base.kind == "archive":
            _put(session.project / path, folder / path)
        elif target.base.kind == "oci":
            layout = session.project / path
            for name in ("index.json", "oci-layout"):
                _put(layout / name, folder / path / name)
            for blob in sorted((layout / "blobs" / "sha256").iterdir()):
                if blob.stat().st_size <= oci.MOST_MANIFEST and _is_document(blob):
                    _put(blob, folder / path / "blobs" / "sha256" / blob.name)


def _is_document(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _refuse_secrets(session: Session, manifest: Manifest, folder: Path) -> None:
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


def unpack_project(tar: Path, folder: Path) -> None:
    """Put the files of such a tar into the empty ``folder``. Raises :class:`IntegrityError` for one that is none."""
    try:
        with Placing(folder, Tree()) as placing:
            for member, content in Archive(tar).members():
                if member.kind == "d":
                    placing.folder(member.path)
                elif member.kind == "l":
                    placing.link(member.path, member.target)
                else:
                    placing.write(member.path, content, executable=member.kind == "x")
        _set_modes(tar, folder)
    except (ArchiveError, TarError, OSError) as error:
        raise IntegrityError(f"the packed project cannot be unpacked: {error}", where=str(tar)) from None


def _set_modes(tar: Path, folder: Path) -> None:
    """The modes of a base's files are part of what was locked. Folders last, since some may not be written into."""
    with tar.open("rb") as file:
        found = {item.name.rstrip(b"/"): item.mode for item in TarStream(decompressed(file)) if item.kind in _WITH_MODE}
    for path in sorted(found, reverse=True):
        os.chmod(os.path.join(os.fsencode(folder), path), found[path])


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
