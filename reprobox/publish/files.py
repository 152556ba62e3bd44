"""The files of a publication: what each is, how large, and of which bytes."""

from __future__ import annotations

import os
import posixpath
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import ReproboxError
from reprobox.tree import file_sha256, walk

#: By the end of the name; a machine's own table would make files that differ from machine to machine.
_TYPES = {
    ".bib": "application/x-bibtex",
    ".c": "text/x-c",
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".ipynb": "application/x-ipynb+json",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonld": "application/ld+json",
    ".lock": "application/toml",
    ".md": "text/markdown",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".oci.tar": "application/x-tar",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".r": "text/x-r",
    ".sh": "application/x-sh",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".tex": "application/x-tex",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".whl": "application/zip",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
}
_BYTES = "application/octet-stream"
_LOOK = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file: its path in the publication, sha256 hex and bytes of its content, and its media type.

    A link has a ``target``; where that is a file, the rest is that file's.
    """

    path: str
    sha256: str
    size: int
    media_type: str
    target: str = ""

    @property
    def id(self) -> str:
        """Its path as a URI reference."""
        return uri(self.path)


def uri(path: str) -> str:
    """A path as RO-Crate names it: a relative URI reference, RFC 3986."""
    return urllib.parse.quote(path, safe="/-._~!$&'()*+,;=@")


def files_in(folder: Path) -> Iterator[File]:
    """All files and links below ``folder``, by path. Raises :class:`ReproboxError` for a name that is not UTF-8."""
    yield from (file_at(folder, path) for path in names_in(folder))


def names_in(folder: Path) -> list[str]:
    """The paths of all files and links below ``folder``, sorted. Raises as :func:`files_in`."""
    found = (_named(name) for name, status in sorted(walk(os.fsencode(folder))) if not stat.S_ISDIR(status.st_mode))
    return [path for path in found if (folder / path).is_symlink() or (folder / path).is_file()]


def file_at(folder: Path, path: str) -> File:
    """The file or link at ``path`` below ``folder``, hashed."""
    full = folder / path
    if full.is_symlink() and not _leads_to_file(folder, path):
        return File(path=path, sha256="", size=0, media_type="", target=os.readlink(full))
    return File(
        path=path,
        sha256=file_sha256(full),
        size=full.stat().st_size,
        media_type=media_type_of(full),
        target=os.readlink(full) if full.is_symlink() else "",
    )


def _named(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ReproboxError(
            f"its name is not UTF-8: {name!r}",
            where=os.fsdecode(name),
            hint="rename it, or leave it out with code.exclude: archives of publications have names in UTF-8",
        ) from None


def _leads_to_file(folder: Path, path: str) -> bool:
    """Whether a link leads to a file of the publication: what is outside is not told of."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.readlink(folder / path)))
    return not target.startswith(("/", "..")) and (folder / target).is_file() and not (folder / target).is_symlink()


def media_type_of_name(path: str) -> str:
    """By the end of its name; bytes where that says nothing."""
    name = posixpath.basename(path).lower()
    ends = (name[name.find(".") :], posixpath.splitext(name)[1])
    return next((_TYPES[end] for end in ends if end in _TYPES), _BYTES)


def media_type_of(path: Path) -> str:
    """By its name; else text or bytes, as its beginning is."""
    named = media_type_of_name(path.name)
    if named != _BYTES:
        return named
    with path.open("rb") as file:
        data = file.read(_LOOK)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:
            return _BYTES
    return _BYTES if b"\0" in data else "text/plain"
