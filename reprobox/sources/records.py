"""What archives have under a DOI: the files of a record, by each archive's own REST API.

Sources: InvenioRDM, "REST API reference" (records, record files), which Zenodo has too; Dataverse, "Native API" (list
files in a dataset) and "Data Access API"; Figshare, API v2 (articles).
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprobox.download.downloader import Downloader
from reprobox.download.transfer import StatusError
from reprobox.errors import FetchError
from reprobox.urls import loopback

_MOST = 16 << 20
_JSON = {"Accept": "application/json"}
_CHECKSUM = re.compile(r"(md5|sha1|sha256|sha512):([0-9a-f]+)\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFile:
    """One file: its name in the record, bytes, ``algorithm:hex`` of its content (empty: not said), its address."""

    name: str
    size: int
    checksum: str
    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record: the archive's kind and page, what it is called, whose it is, and its files."""

    archive: str
    page: str
    title: str
    files: tuple[RecordFile, ...]


def read_record(page: str, doi: str, downloader: Downloader) -> Record | None:
    """The record whose landing page is ``page``; None where that is the page of none of these archives.

    Raises :class:`FetchError` where the archive does not answer as documented.
    """
    parts = urllib.parse.urlsplit(page)
    server = f"{parts.scheme}://{parts.netloc}"
    for pattern, reader in _PAGES:
        if match := pattern.search(f"{parts.path}?{parts.query}"):
            try:
                return reader(_Asking(downloader, server, page, doi), match)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                message = f"its listing of files is not as documented: {error!r}"
                raise FetchError(message, where=page, hint=_BY_HAND) from None
    return None


_BY_HAND = "download the file from its page, and give its path"


@dataclass(frozen=True, slots=True)
class _Asking:
    """One archive, and what is asked for."""

    downloader: Downloader
    server: str
    page: str
    doi: str

    def get(self, url: str) -> Any:
        """A JSON answer; of the same server, unless it is the API's own."""
        try:
            return json.loads(self.downloader.get(url, headers=_JSON, limit=_MOST).body)
        except StatusError as error:
            if error.code in (401, 403):
                raise FetchError(
                    "its files are not open to everybody", where=self.page, hint="ask its authors, or log in there"
                ) from None
            if error.code in (404, 410):
                hint = "look at its page whether it was withdrawn"
                raise FetchError("the archive has no such record", where=self.page, hint=hint) from None
            raise


def _invenio(asking: _Asking, match: re.Match[str]) -> Record:
    """InvenioRDM and Zenodo. The identifier of all versions leads to the newest one."""
    record = asking.get(f"{asking.server}/api/records/{match[1]}")
    identity = str(record["id"])
    if not re.fullmatch(r"[\w-]+", identity):
        raise ValueError(identity)
    listing = asking.get(f"{asking.server}/api/records/{identity}/files")
    if listing.get("enabled") is False:
        listing = {"entries": []}
    files = []
    for item in _several(listing["entries"]):
        links = item.get("links", {})
        url = links.get("content") or links["self"]
        files.append(_file(item["key"], item.get("size", 0), item.get("checksum") or "", url))
    return _record("an InvenioRDM record", asking, record["metadata"].get("title"), files)


def _dataverse(asking: _Asking, _: re.Match[str]) -> Record:
    query = urllib.parse.urlencode({"persistentId": f"doi:{asking.doi}"})
    base = f"{asking.server}/api/datasets/:persistentId"
    answer = asking.get(f"{base}/versions/:latest-published/files?{query}")
    if answer["status"] != "OK":
        raise ValueError(answer["status"])
    files = []
    for item in _several(answer["data"]):
        file = item["dataFile"]
        said = file.get("checksum") or ({"type": "MD5", "value": file["md5"]} if "md5" in file else {})
        checksum = f"{said['type'].replace('-', '').lower()}:{said['value']}" if said else ""
        name = "/".join(part for part in (item.get("directoryLabel", ""), item["label"]) if part)
        size = file.get("originalFileSize", file.get("filesize", 0))
        # What is a table was converted, and only its original has the checksum.
        files.append(
            _file(name, size, checksum, f"{asking.server}/api/access/datafile/{int(file['id'])}?format=original")
        )
    return _record("a Dataverse dataset", asking, None, files)


def _figshare(asking: _Asking, match: re.Match[str]) -> Record:
    host = urllib.parse.urlsplit(asking.server).hostname or ""
    api = asking.server if loopback(host) else "https://api.figshare.com"
    version = f"/versions/{match[2]}" if match[2] else ""
    article = asking.get(f"{api}/v2/articles/{match[1]}{version}")
    files = [
        _file(
            item["name"],
            item["size"],
            f"md5:{item['computed_md5'] or item.get('supplied_md5', '')}".removesuffix("md5:"),
            item["download_url"],
        )
        for item in _several(article["files"])
        if not item.get("is_link_only")
    ]
    return _record("a Figshare item", asking, article.get("title"), files)


_PAGES: Sequence[tuple[re.Pattern[str], Callable[[_Asking, re.Match[str]], Record]]] = (
    (re.compile(r"/articles/(?:[^/?]+/)*?([0-9]+)(?:/([0-9]+))?\?"), _figshare),
    (re.compile(r"persistentId="), _dataverse),
    (re.compile(r"/records?/([\w-]+)[/?]"), _invenio),
    (re.compile(r"/doi/10\.5281/zenodo\.([0-9]+)\?"), _invenio),
)


def _several(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _file(name: Any, size: Any, checksum: str, url: Any) -> RecordFile:
    if not isinstance(name, str) or not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise TypeError("a file has no name or address")
    known = checksum.lower()
    return RecordFile(name=name, size=int(size), checksum=known if _CHECKSUM.match(known) else "", url=url)


def _record(archive: str, asking: _Asking, title: Any, files: Sequence[RecordFile]) -> Record:
    return Record(archive=archive, page=asking.page, title=str(title or ""), files=tuple(files))
