"""The files of a deposit: as they are, or a folder as one zip, since records have no folders. With their checksums."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import UsageError

#: What Zenodo takes in one record; others may take less, and say so themselves.
MOST_FILES, MOST_BYTES = 100, 50_000_000_000
_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
_GIVE = "give what `reprobox publish` wrote: a folder, or a file"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file to deposit: its name there, where it is, its bytes, its md5 (hex), by which archives know files."""

    name: str
    path: Path
    size: int
    md5: str


def files_of(paths: Sequence[Path], scratch: Path) -> tuple[File, ...]:
    """The files of ``paths``; folders become zips in the empty folder ``scratch``. Raises :class:`UsageError`."""
    found = []
    for path in paths:
        whole = path.absolute()
        if whole.is_dir():
            found.append(_file(_zipped(whole, scratch / f"{whole.name}.zip")))
        elif whole.is_file():
            found.append(_file(whole))
        else:
            raise UsageError("there is no such file or folder", where=str(path), hint=_GIVE)
    _check(found)
    return tuple(found)


def _check(found: Sequence[File]) -> None:
    names = [item.name for item in found]
    for item in found:
        if not item.name.isprintable() or item.name.startswith(".") or names.count(item.name) > 1:
            what = "two files have this name" if names.count(item.name) > 1 else "a deposit cannot have such a name"
            raise UsageError(what, where=str(item.path), hint="rename it")
        if item.size == 0:
            raise UsageError("it is empty", where=str(item.path), hint=_GIVE)
    if len(found) > MOST_FILES or sum(item.size for item in found) > MOST_BYTES:
        raise UsageError(
            f"a record takes {MOST_FILES} files and {MOST_BYTES // 10**9} GB",
            hint="pack them into one file, or leave the vault out and deposit it as a record of its own",
        )


def _file(path: Path) -> File:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
        size = file.tell()
    return File(name=path.name, path=path, size=size, md5=digest.hexdigest())


def _zipped(folder: Path, target: Path) -> Path:
    """The folder as a zip, below its own name; sorted, without times: the same files, the same bytes."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files_below(folder, folder.name)):
            entry = zipfile.ZipInfo(name, _TIME)
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                while data := source.read(_CHUNK):
                    sink.write(data)
    return target


def _files_below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for entry in os.scandir(folder):
        below = f"{name}/{entry.name}"
        if entry.is_symlink():
            raise UsageError("it is a link, and a deposit has none", where=entry.path, hint=_GIVE)
        if entry.is_dir():
            yield from _files_below(Path(entry.path), below)
        else:
            yield below, Path(entry.path)
