"""Putting a publication at its place: a folder or a zip, whole or not at all, over nothing that somebody else made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reprobox.crate_files import METADATA, PREVIEW
from reprobox.errors import UsageError
from reprobox.publish.crate import GENERATOR
from reprobox.publish.files import files_in
from reprobox.store import flush_all
from reprobox.tree import opened, remove, walk

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can name: no clock
_UNIX = 3
_CHUNK = 1 << 20
_OF_ITSELF = (METADATA, PREVIEW)  # they tell of all others, and so nothing tells their hashes


def is_zip(path: Path) -> bool:
    """Whether a publication of this name is one file."""
    return path.suffix.lower() == ".zip"


def check_place(path: Path) -> None:
    """Raise :class:`UsageError` unless a publication can be put at ``path``: a new name, or an older publication that
    nobody has changed."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError("its folder does not exist", where=str(path), hint="make the folder first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError("its folder cannot be written", where=str(path), hint="give -o another place")
    if os.path.lexists(path) and (wrong := _foreign(path)):
        raise UsageError(
            f"it exists already, and {wrong}",
            where=str(path),
            hint="give -o a new name, or remove it; only a publication that is as it was written is replaced",
        )


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, whose content is put there at the end; after an error nothing has changed."""
    folder = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    archive = folder.with_name(f"{folder.name}.zip")
    before = os.umask(0o022)
    try:
        folder.mkdir(mode=0o755)
        yield folder
        if is_zip(path):
            write_zip(folder, archive)
            archive.replace(path)
        else:
            flush_all(folder)
            _exchange(folder, path)
    finally:
        os.umask(before)
        remove(folder)
        archive.unlink(missing_ok=True)


def _exchange(folder: Path, path: Path) -> None:
    """Move ``folder`` to ``path``; what was there goes aside until that is done."""
    aside = folder.with_name(f"{folder.name}.old")
    there = os.path.lexists(path)
    if there:
        path.rename(aside)
    try:
        folder.rename(path)
    except OSError:
        if there:
            aside.rename(path)
        raise
    remove(aside)


# -- zip ---------------------------------------------------------------------------------------------------------------


def write_zip(folder: Path, path: Path) -> None:
    """A zip whose bytes follow from names, modes and contents: nothing is compressed, for libraries differ in how."""
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, status in sorted(walk(os.fsencode(folder))):
                _add(archive, folder, name.decode(), status)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)


def _add(archive: zipfile.ZipFile, folder: Path, name: str, status: os.stat_result) -> None:
    is_folder = stat.S_ISDIR(status.st_mode)
    entry = zipfile.ZipInfo(f"{name}/" if is_folder else name, _FIRST_DAY)
    entry.create_system = _UNIX
    mode = 0o777 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
    entry.external_attr = (stat.S_IFMT(status.st_mode) | mode) << 16 | (0x10 if is_folder else 0)
    if is_folder:
        archive.writestr(entry, b"")
    elif stat.S_ISLNK(status.st_mode):
        archive.writestr(entry, os.readlink(os.fsencode(folder / name)))
    else:
        with opened(folder / name) as source, archive.open(entry, "w", force_zip64=status.st_size >= 1 << 31) as sink:
            shutil.copyfileobj(source, sink, _CHUNK)


# -- what is there already ---------------------------------------------------------------------------------------------


def _foreign(path: Path) -> str:
    """Why what is at ``path`` is not a publication as it was written; empty if it is one."""
    try:
        document, hashes = _in_zip(path) if is_zip(path) else _in_folder(path)
        described = _described(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return "is no publication of reprobox"
    if described is None:
        return "was published by another program"
    changed = sorted(name for name in described.keys() | hashes.keys() if described.get(name) != hashes.get(name))
    return f"was changed since it was written: {changed[0]}" if changed else ""


def _described(document: bytes) -> dict[str, str] | None:
    """The files that metadata tells of, with their sha256; None where another program wrote it."""
    entities: list[dict[str, Any]] = json.loads(document)["@graph"]
    descriptor = next(entity for entity in [*entities, {}] if entity.get("@id") in (METADATA, None))
    if descriptor.get("creator") != {"@id": GENERATOR}:
        return None
    files = [item for item in entities if "File" in item["@type"] and _is_here(item["@id"])]
    return {unquote(item["@id"]): item["sha256"] for item in files}


def _is_here(identifier: str) -> bool:
    """Whether it is a file of the publication, and neither one of the web nor one that a run only names."""
    return not identifier.startswith("#") and not urlsplit(identifier).scheme


def _in_folder(path: Path) -> tuple[bytes, dict[str, str]]:
    """The metadata, and sha256 hex of every other file by path."""
    if path.is_symlink():
        raise ValueError(path)
    document = (path / METADATA).read_bytes()
    return document, {file.path: file.sha256 for file in files_in(path) if file.sha256 and file.path not in _OF_ITSELF}


def _in_zip(path: Path) -> tuple[bytes, dict[str, str]]:
    found, links = {}, {}
    with zipfile.ZipFile(path) as archive:
        document = archive.read(METADATA)
        for entry in archive.infolist():
            if stat.S_ISLNK(entry.external_attr >> 16):
                target = os.path.join(os.path.dirname(entry.filename), archive.read(entry).decode())
                links[entry.filename] = os.path.normpath(target)
            elif not entry.is_dir() and entry.filename not in _OF_ITSELF:
                with archive.open(entry) as file:
                    found[entry.filename] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return document, found | {name: found[target] for name, target in links.items() if target in found}
