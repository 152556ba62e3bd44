"""Where locked .debs can be had: archives by name, as the user, the base and this machine's apt know them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from reprobox.debian.control import fields
from reprobox.debian.release import archive_name
from reprobox.debian.sources import Source, host_sources, sibling
from reprobox.download import Location
from reprobox.errors import ReproboxError
from reprobox.lock import Input, LockedTarget


class _Settings(Protocol):
    @property
    def archives(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def snapshots(self) -> Mapping[str, Sequence[str]]: ...


class _Documents(Protocol):
    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes: ...


class ArchiveProvider:
    """Finds ``deb`` inputs by archive name and pool path.

    Asked in this order: mirrors that the user configured, what this machine's apt uses, and snapshot services that
    the user configured, which have what live archives have dropped.
    """

    name = "package archives"

    def __init__(self, settings: _Settings, documents: _Documents, target: LockedTarget | None = None) -> None:
        self._settings = settings
        self._documents = documents
        self._target = target
        self._bases: dict[str, list[str]] | None = None

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Places of ``inputs`` by sha256."""
        wanted = [item for item in inputs if item.type == "deb" and "path" in item.facts]
        return {item.sha256: list(self._places(item)) for item in wanted}

    def _places(self, item: Input) -> Iterator[Location]:
        archive, path = item.facts.get("archive", ""), item.facts["path"]
        for base in dict.fromkeys([*self._settings.archives.get(archive, ()), *self._known().get(archive, ())]):
            yield Location(url=f"{base}/{path}", label=f"{archive} ({base})")
        moment = self._moment(item)
        for base in self._settings.snapshots.get(archive, ()):
            if moment:
                yield Location(url=f"{base}/{moment}/{path}", label=f"{archive} of {moment} ({base})")

    def _known(self) -> dict[str, list[str]]:
        """Base URIs by archive name, as this machine's apt has them; asked for once."""
        if self._bases is None:
            self._bases = {}
            for source in host_sources():
                for place in source.places():
                    self._bases.setdefault(self._archive_of(place), []).append(place.uri)
            for uri in (*self._settings.archives.get("debian", ()), *self._bases.get("debian", [])):
                self._bases.setdefault("debian-security", []).append(sibling(uri, "debian-security"))
        return self._bases

    def _archive_of(self, source: Source) -> str:
        """What the archive at this place calls itself. Unverified: what comes from there is held against its hash."""
        try:
            document = self._documents.get(f"{source.dists}/InRelease", fresh=False)
        except ReproboxError:
            return ""
        content = re.sub(rb"\A-----BEGIN PGP SIGNED MESSAGE-----\n.*?\n\n", b"", document, flags=re.DOTALL)
        return archive_name(fields(content))

    def _moment(self, item: Input) -> str:
        """The time of the index that offered ``item``, as snapshot services write it: 20260711T101637Z."""
        for layer in self._target.layers if self._target else ():
            if item in layer.inputs:
                seconds = _index_date(layer.facts.get("indices"), item)
                if seconds:
                    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
        return ""


def _index_date(indices: Any, item: Input) -> int:
    for index in indices or ():
        if (index.get("archive"), index.get("suite")) == (item.facts.get("archive"), item.facts.get("suite")):
            return int(index["date"])
    return 0
