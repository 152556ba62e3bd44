"""DOIs: what the resolver says of one, the record that it leads to, and the file of it that has a project.

Sources: DOI Handbook, "Content Negotiation" (CSL JSON) and "Proxy Server REST API" (handles).
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.attach.files import PROJECT as PROJECT_TAR
from reprobox.download.transfer import StatusError
from reprobox.errors import FetchError, IntegrityError, UsageError
from reprobox.lock import FILE_NAME
from reprobox.project import MANIFEST_NAME
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import Files, from_files
from reprobox.sources.records import Record, RecordFile, read_record
from reprobox.sources.source import Source
from reprobox.sources.web import Got, check_address, fetch, kind_of

_CSL = {"Accept": "application/vnd.citationstyles.csl+json"}
_MOST = 4 << 20
_TOLD = 8
_CHUNK = 1 << 20
#: What may hold a project, the likeliest first.
_HOLDERS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".pdf")
_NEEDED = (
    f"a {MANIFEST_NAME} with its {FILE_NAME} would be needed, in a crate, an archive, a vault or a PDF; without them,"
    " follow what its authors write, and begin a manifest with `reprobox init`"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What the resolver knows of a DOI: the title, who publishes it, its page, DOIs of what belongs to it."""

    doi: str
    title: str
    publisher: str
    page: str
    related: tuple[str, ...]

    @property
    def shown(self) -> str:
        parts = [f"“{self.title}”" if self.title else "", f"({self.publisher})" if self.publisher else ""]
        return " ".join(part for part in parts if part) or self.doi


def resolve(source: Source, means: Means, folder: Path) -> Got | Obtained:
    """Bring the file of the DOI's record that has a project, or its files. ``source.inside`` names one.

    Raises :class:`UsageError` for a DOI that nothing can be recreated from, saying what there is; :class:`FetchError`;
    :class:`IntegrityError` for a file that is not the one that the record lists.
    """
    work = look_up(source.place, means)
    means.reporter.say(f"{source.place}: {work.shown}, at {work.page}")
    record = read_record(work.page, work.doi, means.downloader)
    if record is None:
        raise UsageError(
            f"this DOI is {work.shown}, and leads to {work.page}, which is no archive whose files can be listed"
            " (InvenioRDM, Zenodo, Dataverse, Figshare)",
            where=source.text,
            hint=_elsewhere(work),
        )
    facts = {"doi": work.doi, "title": record.title or work.title, "archive": record.archive, "page": record.page}
    names = {file.name for file in record.files}
    if not source.inside and {MANIFEST_NAME, FILE_NAME} <= names:
        return _three_files(record, facts, source, means, folder)
    file = _chosen(record, source)
    target = folder / "downloaded"
    _bring(file, target, means, source)
    try:
        kind = kind_of(target, source.text)
    except UsageError as error:
        raise UsageError(f"{file.name}: {error.message}", where=source.text, hint=_listing(record)) from None
    facts |= {"file": file.name, "checksum": file.checksum or "none is listed"}
    return Got(source=Source(kind=kind, text=source.text, place=str(target)), facts=facts)


# -- the resolver ------------------------------------------------------------------------------------------------------


def look_up(doi: str, means: Means) -> Work:
    """What is known of a DOI. Raises :class:`FetchError` where there is none."""
    base = means.resolver.rstrip("/")
    quoted = urllib.parse.quote(doi, safe="/:;()._-")
    said = _metadata(f"{base}/{quoted}", doi, means)
    page = _page(f"{base}/api/handles/{quoted}", means) or str(said.get("URL") or "")
    if not page.startswith(("https://", "http://")):
        raise FetchError("this DOI leads to no page", where=doi, hint="look how it is spelled")
    title = said.get("title")
    return Work(
        doi=doi,
        title=_text(title[0] if isinstance(title, list) and title else title),
        publisher=_text(said.get("publisher")),
        page=_safe(page),
        related=tuple(_related(said.get("relation"))),
    )


def _safe(page: str) -> str:
    """Old DOIs lead to http:// pages of servers that have long had https://."""
    try:
        check_address(page)
    except UsageError:
        return page.replace("http://", "https://", 1)
    return page


def _metadata(url: str, doi: str, means: Means) -> Mapping[str, Any]:
    """CSL JSON, by content negotiation; nothing where the agency has none."""
    try:
        found = json.loads(means.downloader.get(url, headers=_CSL, limit=_MOST).body)
    except StatusError as error:
        if error.code == 404:
            raise FetchError("there is no such DOI", where=doi, hint="look how it is spelled") from None
        if error.code in (204, 406):
            return {}
        raise
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _page(url: str, means: Means) -> str:
    """Where the DOI leads, as its handle says; empty where the resolver does not tell."""
    try:
        values = json.loads(means.downloader.get(url, limit=_MOST).body)["values"]
        return next(str(item["data"]["value"]) for item in values if item["type"] == "URL")
    except (StatusError, ValueError, KeyError, TypeError, StopIteration):
        return ""


def _related(relation: Any) -> list[str]:
    items = [item for found in relation.values() for item in found] if isinstance(relation, dict) else []
    return [str(item["id"]) for item in items if isinstance(item, dict) and item.get("id-type") == "doi"][:_TOLD]


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _elsewhere(work: Work) -> str:
    if work.related:
        return f"it says that these belong to it: {', '.join(work.related)}; try them"
    return "look on that page for the DOI of its code, or download the PDF and give its path"


# -- which file --------------------------------------------------------------------------------------------------------


def _chosen(record: Record, source: Source) -> RecordFile:
    """The file of the record that is meant. Raises :class:`UsageError`."""
    if source.inside:
        found = [file for file in record.files if file.name == source.inside]
        if not found:
            message = f"the record has no file {source.inside!r}"
            raise UsageError(message, where=source.text, hint=_listing(record))
        return found[0]
    for ending in _HOLDERS:
        found = [file for file in record.files if file.name.lower().endswith(ending)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:_TOLD])
            hint = f"name one behind a #: {source.text}#{found[0].name}"
            raise UsageError(f"several files of the record may be meant: {names}", where=source.text, hint=hint)
    what = f"{record.archive} “{record.title}”" if record.title else record.archive
    raise UsageError(
        f"nothing can be recreated from {what}: {_contents(record.files)}", where=source.text, hint=_NEEDED
    )


def _contents(files: Sequence[RecordFile]) -> str:
    if not files:
        return "it has no files that are open"
    shown = ", ".join(f"{file.name} ({file.size} bytes)" for file in files[:_TOLD])
    more = f" and {len(files) - _TOLD} more" if len(files) > _TOLD else ""
    return f"it holds {len(files)} file{'s' if len(files) > 1 else ''}: {shown}{more}"


def _listing(record: Record) -> str:
    return f"{_contents(record.files)}; {_NEEDED}"


def _three_files(record: Record, facts: dict[str, str], source: Source, means: Means, folder: Path) -> Obtained:
    """Manifest and lock that are files of the record, with the packed project where it is one too."""
    files = {file.name: file for file in record.files if file.name in (MANIFEST_NAME, FILE_NAME, PROJECT_TAR)}
    for name, file in files.items():
        _bring(file, folder / name, means, source)
    project = folder / "project"
    project.mkdir()
    packed = folder / PROJECT_TAR if PROJECT_TAR in files else None
    found = Files(manifest=folder / MANIFEST_NAME, lock=folder / FILE_NAME, project=packed)
    left_out = from_files(found, project, source.text)
    return Obtained(folder=project, what="the files of a record", facts=facts, left_out=left_out)


def _bring(file: RecordFile, target: Path, means: Means, source: Source) -> None:
    """Download a file, and hold it to what the record lists. Raises :class:`IntegrityError`."""
    check_address(file.url)
    fetch(file.url, target, means, size=file.size)
    if file.size and target.stat().st_size != file.size:
        said, found = f"{file.size} bytes", f"{target.stat().st_size}"
    elif file.checksum:
        algorithm, _, said = file.checksum.partition(":")
        found = _hash(target, algorithm)
    else:
        return
    if said not in (found, f"{found} bytes"):
        raise IntegrityError(
            f"{file.name} is not the file that the record lists: it has {found}, and {said} is listed",
            where=source.text,
            hint="try again later; if it stays so, tell the archive, and take another copy",
        )


def _hash(path: Path, algorithm: str) -> str:
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()
