"""What a reader can name: a folder, a file, a vault, a repository, an image, an address, a DOI."""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from reprobox import crate_files
from reprobox.archives.tar_stream import TarError, TarStream, decompressed
from reprobox.errors import UsageError
from reprobox.lock import FILE_NAME
from reprobox.project import MANIFEST_NAME
from reprobox.vault.remote import is_registry
from reprobox.wording import quote

PROJECT, CRATE, VAULT, ARCHIVE, PDF = "project", "crate", "vault", "archive", "pdf"
IMAGE, GIT, WEB, DOI = "image", "git", "web", "doi"

_START = 1024
_DOI = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)?(10\.[0-9]{4,9}/\S+)", re.IGNORECASE)
_SCP = re.compile(r"[\w.-]+@[\w.-]+:\S+")
_DOT_GIT = re.compile(r"(https?://\S+?\.git)/?(?:@(\S+))?")
_IMAGE = re.compile(r"[^\s/]+(?:/[^\s/]+)+")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_FORMS = (
    "give a folder, a file (research.toml, a crate, a PDF, a vault), an image in a registry, a git repository"
    " (https://host/name.git@v1.0), an https:// address, or a DOI (10.5281/zenodo.123)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What ``text`` means: the kind, a path or an address, of a repository the revision, and the folder ``inside``."""

    kind: str
    text: str
    place: str
    rev: str = ""
    inside: str = ""

    @property
    def path(self) -> Path:
        """Of a kind that lies on this machine."""
        return Path(self.place)

    @property
    def is_own(self) -> bool:
        """Whether it is a project that is used where it lies."""
        return self.kind == PROJECT


def understand(text: str) -> Source:
    """The source that ``text`` names; files of this machine are looked into. Raises :class:`UsageError`."""
    if not text or "\0" in text:
        raise UsageError("the source is empty", hint=_FORMS)
    if text.startswith("file://"):
        return understand(urllib.parse.unquote(text.removeprefix("file://")))
    if os.path.lexists(text):
        return _local(text, text, "")
    return _far(text) or _near(text)


def _near(text: str) -> Source:
    """What is on this machine, with a revision or a folder inside behind its name."""
    name, _, inside = text.partition("#")
    if inside and os.path.lexists(name):
        return _local(text, name, inside)
    at = name.rfind("@")
    while at > 0:
        if os.path.isdir(name[:at]):
            return _git(text, name[:at], name[at + 1 :], inside)
        at = name.rfind("@", 0, at)
    if _IMAGE.fullmatch(text) and not text.startswith((".", "~")) and _names_image(text):
        return Source(kind=IMAGE, text=text, place=text)
    raise UsageError("there is no such file or folder", where=text, hint=_FORMS)


def _names_image(text: str) -> bool:
    """A registry with a dot or a port, or a tag or a digest: a folder that is not there has none of them."""
    first, _, rest = text.partition("/")
    return "." in first or ":" in first or first == "localhost" or ":" in rest or "@sha256" in rest


def _far(text: str) -> Source | None:
    address, _, inside = text.partition("#")
    if match := _DOI.fullmatch(address):
        return Source(kind=DOI, text=text, place=match[1], inside=_checked(text, inside))
    if address.lower().startswith(("doi:", "https://doi.org/", "https://dx.doi.org/")):
        raise UsageError("this is no DOI", where=text, hint="a DOI begins with 10., such as 10.5281/zenodo.123")
    if is_registry(text):
        return Source(kind=IMAGE, text=text, place=text)
    if text.startswith("docker://"):
        return Source(kind=IMAGE, text=text, place=text.removeprefix("docker://"))
    if match := _DOT_GIT.fullmatch(address):
        return _git(text, match[1], match[2] or "", inside)
    scheme, mark, rest = address.removeprefix("git+").partition("://")
    if mark and (address.startswith("git+") or scheme in ("ssh", "git")):
        host, slash, path = rest.partition("/")
        path, _, rev = path.partition("@")
        return _git(text, f"{scheme}://{host}{slash}{path}", rev, inside)
    if _SCP.fullmatch(address):
        host, _, path = address.partition(":")
        path, _, rev = path.partition("@")
        return _git(text, f"{host}:{path}", rev, inside)
    if scheme in ("https", "http") and mark:
        return Source(kind=WEB, text=text, place=address, inside=_checked(text, inside))
    if mark:
        raise UsageError(f"{quote(scheme)} is no way to a source", where=text, hint=_FORMS)
    return None


def _git(text: str, place: str, rev: str, inside: str) -> Source:
    if rev.startswith("-") or any(char.isspace() for char in rev):
        raise UsageError(
            f"{quote(rev)} is no revision", where=text, hint="give a commit, a tag or a branch behind the @"
        )
    return Source(kind=GIT, text=text, place=place, rev=rev, inside=_checked(text, inside))


def _checked(text: str, inside: str) -> str:
    """The folder behind a ``#``, plain and relative."""
    plain = inside.strip("/")
    if plain and any(part in ("", ".", "..") for part in plain.split("/")):
        raise UsageError(f"{quote(inside)} is no folder inside it", where=text, hint="such as …#examples/xor")
    return plain


# -- what lies on this machine -----------------------------------------------------------------------------------------


def _local(text: str, place: str, inside: str) -> Source:
    path = Path(place)
    try:
        kind = _folder_kind(path) if path.is_dir() else file_kind(path)
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=place, hint="make it readable") from None
    if kind == FILE_NAME:
        kind, path = PROJECT, _beside(path)
    if inside and kind != ARCHIVE:
        raise UsageError(
            "it has no folders inside that could be named", where=text, hint="leave out what follows the #"
        )
    return Source(kind=kind, text=text, place=str(path), inside=_checked(text, inside))


def _beside(lock: Path) -> Path:
    """The project that a lock is of: it lies beside the manifest, under the one name that locks have."""
    manifest = lock.parent / MANIFEST_NAME
    if lock.name != FILE_NAME or not manifest.is_file():
        raise UsageError(
            "a lock says what the layers are made of, and its manifest what runs in them: the manifest is not here",
            where=str(lock),
            hint=f"put both into one folder, as {MANIFEST_NAME} and {FILE_NAME}",
        )
    return manifest


def _folder_kind(path: Path) -> str:
    if (path / crate_files.METADATA).is_file() and (path / crate_files.PROJECT / MANIFEST_NAME).is_file():
        return CRATE  # whatever else lies beside it
    if (path / MANIFEST_NAME).is_file():
        return PROJECT
    if (path / "oci-layout").is_file():
        return VAULT
    if (path / crate_files.METADATA).is_file() or (path / crate_files.PROJECT / MANIFEST_NAME).is_file():
        return CRATE
    if all((path / name).exists() for name in ("HEAD", "objects", "refs")):
        return GIT
    return PROJECT  # a folder above may have the manifest


def file_kind(path: Path) -> str:
    """What a file is, by its content: a kind of source, or ``research.lock``. Raises :class:`UsageError`."""
    with path.open("rb") as file:
        start = file.read(_START)
    if b"%PDF-" in start:
        return PDF
    if start.startswith(b"PK"):
        return ARCHIVE
    if start[257:262] == b"ustar" or start.startswith(_PACKED):
        return VAULT if start.startswith(b"oci-layout\0") and _is_vault(path) else ARCHIVE
    if start.startswith(b"# Written by reprobox") or path.name == FILE_NAME:
        return FILE_NAME
    if path.suffix != ".toml":
        raise UsageError("nothing can be recreated from a file like this", where=str(path), hint=_FORMS)
    return PROJECT


def _is_vault(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return next(iter(TarStream(decompressed(file)))).name == b"oci-layout"
    except (TarError, StopIteration):
        return False
