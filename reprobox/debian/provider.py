"""Where locked .debs can be had: archives by name, as the user, this machine's apt and the base know them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from reprobox.debian.control import fields
from reprobox.debian.release import archive_name
from reprobox.debian.sources import Source, host_sources, read_sources, sibling
from reprobox.download import Location
from reprobox.errors import ReproboxError
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.store import Store
from reprobox.tar_stream import FILE, TarError, TarStream, decompressed

_APT = (b"etc/apt/sources.list", b"etc/apt/mirrors/")
_LARGEST = 1 << 20  # bytes of a file that says where packages are


class _Settings(Protocol):
    @property
    def archives(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def snapshots(self) -> Mapping[str, Sequence[str]]: ...


class _Documents(Protocol):
    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes: ...


class ArchiveProvider:
    """Finds ``deb`` inputs by archive name and pool path.

    Asked in this order: mirrors that the user configured; what this machine's apt uses, and then what the base image's
    does; and snapshot services that the user configured, which have what live archives have dropped.
    """

    name = "package archives"

    def __init__(
        self,
        settings: _Settings,
        documents: _Documents,
        target: LockedTarget | None = None,
        store: Store | None = None,
    ) -> None:
        self._settings = settings
        self._documents = documents
        self._target = target
        self._store = store

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Places of ``inputs`` by sha256."""
        wanted = [item for item in inputs if item.type == "deb" and "path" in item.facts]
        return {item.sha256: list(self._places(item)) for item in wanted}

    def _places(self, item: Input) -> Iterator[Location]:
        archive, path = item.facts.get("archive", ""), item.facts["path"]
        for base in dict.fromkeys([*self._settings.archives.get(archive, ()), *self._known.get(archive, ())]):
            yield Location(url=f"{base}/{path}", label=f"{archive} ({base})")
        for base in self._settings.snapshots.get(archive, ()):
            if moment := self._moments.get(item.sha256):
                yield Location(url=f"{base}/{moment}/{path}", label=f"{archive} of {moment} ({base})")

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        """Base URIs by archive name, as apt here and in the base has them."""
        known: dict[str, list[str]] = {}
        for source in dict.fromkeys((*host_sources(), *self._base_sources())):
            for place in source.places():
                known.setdefault(self._archive_of(place), []).append(place.uri)
        for uri in (*self._settings.archives.get("debian", ()), *known.get("debian", [])):
            known.setdefault("debian-security", []).append(sibling(uri, "debian-security"))
        return known

    def _base_sources(self) -> tuple[Source, ...]:
        if self._target is None or self._store is None:
            return ()
        try:
            return image_sources(self._target.base, self._store)
        except (TarError, OSError):
            return ()  # who unpacks the image will say what is wrong with it

    def _archive_of(self, source: Source) -> str:
        """What the archive at this place calls itself. Unverified: what comes from there is held against its hash."""
        try:
            document = self._documents.get(f"{source.dists}/InRelease", fresh=False)
        except ReproboxError:
            return ""
        content = re.sub(rb"\A-----BEGIN PGP SIGNED MESSAGE-----\n.*?\n\n", b"", document, flags=re.DOTALL)
        return archive_name(fields(content))

    @cached_property
    def _moments(self) -> dict[str, str]:
        """For each locked .deb the date of the index that offered it, as snapshot services write it."""
        moments = {}
        for layer in self._target.layers if self._target else ():
            dates = _dates(layer.facts.get("indices"))
            for item in layer.inputs:
                if seconds := dates.get((item.facts.get("archive"), item.facts.get("suite"))):
                    moments[item.sha256] = datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
        return moments


def _dates(indices: Any) -> dict[tuple[str | None, str | None], int]:
    return {(index.get("archive"), index.get("suite")): int(index["date"]) for index in indices or ()}


def image_sources(base: LockedLayer, store: Store) -> tuple[Source, ...]:
    """The sources that apt in an image base uses, read from the image's blobs as far as they are in the store.

    The base need not be unpacked yet: packages are fetched while it is being built.
    """
    files: dict[str, bytes] = {}
    for item in base.inputs:
        if ".layer." in item.facts.get("media_type", "") and store.has_blob(item.sha256):
            with store.blob(item.sha256).open("rb") as file:
                files |= _apt_files(TarStream(decompressed(file)))
    return read_sources(files.get, [path for path in files if path.endswith((".list", ".sources"))])


def _apt_files(stream: TarStream) -> dict[str, bytes]:
    found = {}
    for header in stream:
        name = header.name.removeprefix(b"./").lstrip(b"/")
        if header.kind == FILE and header.size <= _LARGEST and name.startswith(_APT):
            found["/" + name.decode("utf-8", "surrogateescape")] = b"".join(stream.data())
    return found
