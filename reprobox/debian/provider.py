"""Where locked .debs can be had: archives by name, as the user, this machine's apt and the base know them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from reprobox.archives.tar_stream import FILE, TarError, TarStream, decompressed
from reprobox.debian.control import fields
from reprobox.debian.release import archive_name
from reprobox.debian.sources import Read, Source, host_sources, read_sources, sibling
from reprobox.download.transfer import Location, StatusError
from reprobox.errors import FetchError, OfflineError, ReproboxError
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.store import Store, StoredLayer
from reprobox.tree import Tree, opened
from reprobox.urls import without_password

_APT = (b"etc/apt/sources.list", b"etc/apt/mirrors/")
_SOURCES = (".list", ".sources")
_LARGEST = 1 << 20  # bytes of a file that says where packages are
_SHA1 = re.compile(r"[0-9a-f]{40}")


class _Settings(Protocol):
    @property
    def archives(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def snapshots(self) -> Mapping[str, Sequence[str]]: ...


class _Documents(Protocol):
    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes: ...


class MirrorProvider:
    """Finds ``deb`` inputs at the mirrors that the user configured."""

    name = "package mirrors"
    first = True  # what the user says now counts more than where something was seen before

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Places by sha256, for archives that have a mirror. Asks nobody."""
        return {
            item.sha256: [_at(base, item) for base in self._settings.archives.get(item.facts.get("archive", ""), ())]
            for item in inputs
            if item.type == "deb" and "path" in item.facts
        }


def _at(base: str, item: Input) -> Location:
    return Location(
        url=f"{base}/{item.facts['path']}", label=f"{item.facts.get('archive', '')} ({without_password(base)})"
    )


class ArchiveProvider:
    """Finds ``deb`` inputs by archive name and pool path, at sources that the manifest declares and at those that this
    machine's apt uses. Mirrors that the user configured have been asked before.
    """

    name = "package archives"

    def __init__(self, settings: _Settings, documents: _Documents, declared: Sequence[Source] = ()) -> None:
        self._settings = settings
        self._documents = documents
        self._declared = tuple(declared)
        self._unasked: list[ReproboxError] = []  # what places said that did not tell which archive they have

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Places of ``inputs`` by sha256. Raises :class:`FetchError` when there would be some, but for the network."""
        wanted = [item for item in inputs if item.type == "deb" and "path" in item.facts]
        places = {item.sha256: list(self._places(item)) for item in wanted}
        if wanted and not any(places.values()):
            self._refuse_if_unasked(wanted)
        return places

    def _refuse_if_unasked(self, _: Sequence[Input]) -> None:
        for error in self._unasked[:1]:
            raise FetchError(error.message, where=error.where, hint=error.hint)

    def _places(self, item: Input) -> Iterator[Location]:
        archive = item.facts.get("archive", "")
        mirrors = self._settings.archives.get(archive, ())
        yield from (_at(base, item) for base in dict.fromkeys(self.known.get(archive, ())) if base not in mirrors)

    @cached_property
    def known(self) -> Mapping[str, Sequence[str]]:
        """Base URIs by archive name."""
        known: dict[str, list[str]] = {}
        for place, name in self.asked.values():
            if name:
                known.setdefault(name, []).append(place.uri)
        for uri in (*self._settings.archives.get("debian", ()), *known.get("debian", [])):
            known.setdefault("debian-security", []).append(sibling(uri, "debian-security"))
        return known

    @cached_property
    def asked(self) -> Mapping[str, tuple[Source, str]]:
        """Each place, with what it calls itself, by the address that it was asked at; empty where it did not tell."""
        places: dict[str, Source] = {}
        for place in (place for source in self._sources() for place in source.places()):
            if place.dists not in self._asked_elsewhere():
                places.setdefault(place.dists, place)
        return {address: (place, self._archive_of(place)) for address, place in places.items()}

    def _asked_elsewhere(self) -> Collection[str]:
        return ()

    def _sources(self) -> Sequence[Source]:
        return (*self._declared, *host_sources())

    def _archive_of(self, source: Source) -> str:
        """What the archive at this place calls itself. Unverified: what comes from there is held against its hash."""
        document = self._release(source)
        content = re.sub(rb"\A-----BEGIN PGP SIGNED MESSAGE-----\n.*?\n\n", b"", document, flags=re.DOTALL)
        return archive_name(fields(content))

    def _release(self, source: Source) -> bytes:
        """The Release file, signed within or apart; nothing where there is none to be had."""
        for name in ("InRelease", "Release"):
            try:
                return self._documents.get(f"{source.dists}/{name}", fresh=False)
            except OfflineError:
                continue
            except ReproboxError as error:
                if name == "Release" or not isinstance(error, StatusError):
                    self._unasked.append(error)
                    break
        return b""


class BaseArchiveProvider(ArchiveProvider):
    """Finds ``deb`` inputs that the archives ``near`` this machine lack: where the base's own apt would look, and at
    snapshot services that the user configured, which have what live archives have dropped.

    An image that was not unpacked yet takes time to be read, so nothing is read of it where that is not needed.
    """

    name = "archives of the base"

    def __init__(
        self,
        settings: _Settings,
        documents: _Documents,
        near: ArchiveProvider,
        target: LockedTarget | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__(settings, documents)
        self._near = near
        self._target = target
        self._store = store

    def _refuse_if_unasked(self, wanted: Sequence[Input]) -> None:
        if any(self._near.known.get(item.facts.get("archive", "")) for item in wanted):
            return  # there are places for them, which were asked already
        super()._refuse_if_unasked(wanted)
        if self._waits_for_base():
            raise FetchError(
                "no place of its archive is known here, and the base, which may know one, was not built yet",
                hint="run it again, now that the base is built; or name a mirror of the archive in the settings",
            )

    def _waits_for_base(self) -> bool:
        if self._store is None or self._target is None or self._target.base.kind == "bootstrap" or self._sources():
            return False
        return self._store.layer(self._target.base.id) is None

    def _places(self, item: Input) -> Iterator[Location]:
        archive, path = item.facts.get("archive", ""), item.facts["path"]
        asked = {f"{base}/{path}" for base in self._near.known.get(archive, ())}
        yield from (place for place in super()._places(item) if place.url not in asked)
        for base in self._settings.snapshots.get(archive, ()):
            if moment := self._moments.get(item.sha256):
                label = f"{archive} of {moment} ({without_password(base)})"
                yield Location(url=f"{base}/{moment}/{path}", label=label, alone=True)
            # A pin that was kept may be older than the date of the index: by its hash it is found at any time.
            service, found, _ = base.rpartition("/archive/")
            if found and _SHA1.fullmatch(item.facts.get("sha1", "")):
                url = f"{service}/file/{item.facts['sha1']}/{path.rpartition('/')[2]}"
                yield Location(url=url, label=f"{archive} by hash ({without_password(service)})", alone=True)

    def _asked_elsewhere(self) -> Collection[str]:
        return self._near.asked

    def _sources(self) -> Sequence[Source]:
        return self._of_base

    @cached_property
    def _of_base(self) -> tuple[Source, ...]:
        if self._target is None or self._store is None:
            return ()
        try:
            return base_sources(self._target.base, self._store)
        except (TarError, OSError):
            return ()  # who unpacks the image will say what is wrong with it

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


def base_sources(base: LockedLayer, store: Store) -> tuple[Source, ...]:
    """The sources that apt in the base uses.

    Packages are fetched while the base is being built: an image that is not unpacked yet is read from those of its
    blobs that are in the store.
    """
    stored = store.layer(base.id)
    if stored is not None:
        return _stored_sources(stored)
    files: dict[str, bytes] = {}
    for item in base.inputs:
        if ".layer." in item.facts.get("media_type", "") and store.has_blob(item.sha256):
            with store.blob(item.sha256).open("rb") as file:
                files |= _apt_files(TarStream(decompressed(file)))
    return read_sources(files.get, [path for path in files if path.endswith(_SOURCES)])


def _stored_sources(layer: StoredLayer) -> tuple[Source, ...]:
    tree = Tree.load(layer.index)
    read = _reader(tree, os.fsencode(layer.tree))
    folder = tree.resolve(b"etc/apt/sources.list.d", final=True) + b"/"
    names = (os.fsdecode(path.removeprefix(folder)) for path in tree.entries if path.startswith(folder))
    found = [f"/etc/apt/sources.list.d/{name}" for name in names if "/" not in name and name.endswith(_SOURCES)]
    return read_sources(read, ["/etc/apt/sources.list", *found])


def _reader(tree: Tree, root: bytes) -> Read:
    """Gives files by absolute path, links followed inside the root."""

    def read(path: str) -> bytes | None:
        try:
            place = tree.resolve(os.fsencode(path), final=True)
            entry = tree.get(place)
            if entry is None or entry.kind != "f":
                return None
            with opened(root + b"/" + place) as file:
                data = file.read(_LARGEST + 1)
        except OSError:  # links in a circle, or a layer that is being removed
            return None
        return data if len(data) <= _LARGEST else None

    return read


def _apt_files(stream: TarStream) -> dict[str, bytes]:
    found = {}
    for header in stream:
        name = header.name.removeprefix(b"./").lstrip(b"/")
        if header.kind == FILE and header.size <= _LARGEST and name.startswith(_APT):
            found["/" + name.decode("utf-8", "surrogateescape")] = b"".join(stream.data())
    return found
