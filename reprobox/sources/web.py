"""Files from the web: one address, brought here whole, and then taken for what it is."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox.attach.files import PROJECT as PROJECT_TAR
from reprobox.download.transfer import StatusError, Watch
from reprobox.errors import IntegrityError, UsageError
from reprobox.lock import FILE_NAME
from reprobox.project import MANIFEST_NAME
from reprobox.providers import Progress
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import Files, from_files
from reprobox.sources.source import PROJECT, Source, file_kind
from reprobox.urls import loopback, without_password

#: Most bytes that are taken from an address; what archives allow for a whole record.
MOST = 50 * 1000**3
_MOST_DOCUMENT = 64 << 20
_START = 512
_FILE = "give the address of the file that the page offers, its DOI, or git+https://… for a repository"


@dataclass(frozen=True, kw_only=True, slots=True)
class Got:
    """A file that was downloaded, as a source of its own, and what is to be told of where it is from."""

    source: Source
    facts: Mapping[str, str]


class _Moving(Watch):
    """Shows a download to people, and ends one that is larger than ``most`` bytes."""

    def __init__(self, progress: Progress, most: int, where: str) -> None:
        self._progress = progress
        self._most = most
        self._where = where
        self._count = 0

    def advance(self, count: int) -> None:
        self._count += count
        if self._count > self._most:
            raise IntegrityError(
                f"it sends more than {self._most} bytes",
                where=self._where,
                hint="it is another file than what was published, or download it yourself and give its path",
            )
        self._progress.advance(count)

    def note(self, text: str) -> None:
        self._progress.note(text)


def fetch(url: str, target: Path, means: Means, *, size: int = 0, most: int = MOST) -> str:
    """Bring what an address has to the new file ``target``; returns its sha256 hex. A broken connection is continued.

    ``size`` is what it has, where that is known. Raises :class:`FetchError`, :class:`OfflineError`, and
    :class:`IntegrityError` for more than ``most`` bytes.
    """
    shown = without_password(url)
    progress = means.reporter.moving(f"downloading {shown.rpartition('/')[2] or shown}")
    progress.start(size, 1)
    try:
        with target.open("x+b", buffering=0) as file:
            digest, _ = means.downloader.obtain(url, file, watch=_Moving(progress, most, shown))
        progress.done(target.name)
    finally:
        progress.stop()
    return digest


def check_address(url: str) -> None:
    """Raise :class:`UsageError` for an address whose answers anybody on the way can change."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and not loopback(parts.hostname or ""):
        hint = f"write https://{url.partition('://')[2]}, or download it yourself and give its path"
        raise UsageError("what comes over http:// can be changed on the way", where=without_password(url), hint=hint)


def download(source: Source, means: Means, folder: Path) -> Got | Obtained:
    """The file at the address of ``source``: a crate, an archive, a vault or a PDF; or a manifest beside its lock."""
    check_address(source.place)
    path = urllib.parse.urlsplit(source.place).path
    if path.rpartition("/")[2] in (MANIFEST_NAME, FILE_NAME):
        return _project(source, means, folder)
    target = folder / "downloaded"
    digest = fetch(source.place, target, means)
    shown = without_password(source.place)
    kind = kind_of(target, source.text)
    facts = {"address": shown, "sha256": digest}
    return Got(source=Source(kind=kind, text=source.text, place=str(target), inside=source.inside), facts=facts)


def kind_of(path: Path, where: str) -> str:
    """What a downloaded file is. Raises :class:`UsageError` for what nothing can be recreated from."""
    with path.open("rb") as file:
        start = file.read(_START).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UsageError("this is a web page", where=where, hint=_FILE)
    try:
        kind = file_kind(path)
    except UsageError:
        raise UsageError("nothing can be recreated from what is there", where=where, hint=_FILE) from None
    if kind in (PROJECT, FILE_NAME):
        raise UsageError("nothing can be recreated from what is there", where=where, hint=_FILE)
    return kind


def _project(source: Source, means: Means, folder: Path) -> Obtained:
    """Manifest and lock at one place, and the packed project, if it is there too."""
    base = source.place.rpartition("/")[0]
    files = {name: folder / name for name in (MANIFEST_NAME, FILE_NAME, PROJECT_TAR)}
    for name, target in files.items():
        try:
            fetch(f"{base}/{name}", target, means, most=MOST if name == PROJECT_TAR else _MOST_DOCUMENT)
        except StatusError as error:
            if name != PROJECT_TAR or error.code not in (403, 404, 410):
                raise
            target.unlink(missing_ok=True)
    project = folder / "project"
    project.mkdir()
    packed = files[PROJECT_TAR] if files[PROJECT_TAR].exists() else None
    found = Files(manifest=files[MANIFEST_NAME], lock=files[FILE_NAME], project=packed)
    left_out = from_files(found, project, source.text)
    facts = {"address": without_password(base)}
    return Obtained(folder=project, what="manifest and lock, downloaded", facts=facts, left_out=left_out)
