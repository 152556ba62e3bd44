"""Archives as they are now: verified Release files, verified Packages indices in the store, and the files they name.

DebianRepository/Format. A warm lock asks the servers only whether the Release files changed.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from reprobox.archives.tar_stream import TarError, decompressed
from reprobox.debian import release as trust
from reprobox.debian.control import Package, Universe
from reprobox.debian.release import Keyring, Release
from reprobox.debian.sources import Read, Source, read_host
from reprobox.digest import Json
from reprobox.download.transfer import StatusError
from reprobox.errors import FetchError, IntegrityError, ResolveError
from reprobox.lock import Input

if TYPE_CHECKING:
    from reprobox.layers.kind import World

T = TypeVar("T")
R = TypeVar("R")
_THREADS = 8
_DIGITS = 64  # of a sha256; a torn memo has fewer
#: How an index is packed, best first: of Debian's largest, .gz takes a tenth of the time of .xz, and 12 MB to its 9.
_SUFFIXES = (".gz", ".xz", "")

_ARCHITECTURES = {
    "linux/386": "i386",
    "linux/amd64": "amd64",
    "linux/arm/v5": "armel",
    "linux/arm/v7": "armhf",
    "linux/arm64": "arm64",
    "linux/arm64/v8": "arm64",
    "linux/loong64": "loong64",
    "linux/ppc64le": "ppc64el",
    "linux/riscv64": "riscv64",
    "linux/s390x": "s390x",
}


def debian_architecture(platform: str) -> str:
    """Debian's name of an OCI platform. Raises :class:`ResolveError` for one that Debian does not have."""
    if platform not in _ARCHITECTURES:
        raise ResolveError(
            f"Debian has no packages for platform {platform!r}", hint=f"it has {', '.join(sorted(_ARCHITECTURES))}"
        )
    return _ARCHITECTURES[platform]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """One verified Packages file: what it is of, the Release that vouches for it, and where it lies decompressed.

    ``component`` is empty for a flat repository, whose index may hold packages of several architectures.
    ``uri`` is where the archive was reached this time; it never enters a lock.
    """

    suite: str
    component: str
    architecture: str
    release: Release
    uri: str
    sha256: str
    path: Path

    @property
    def label(self) -> str:
        return f"{self.release.archive} {self.suite}/{self.component}/{self.architecture}"

    def fact(self) -> dict[str, Json]:
        """What the lock tells of it. ``sha256`` is that of the signed Release file."""
        return {
            "archive": self.release.archive,
            "suite": self.suite,
            "component": self.component,
            "architecture": self.architecture,
            "date": self.release.date,
            "signer": self.release.signer,
            "sha256": self.release.sha256,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A source that answered, with the Release it answered with."""

    source: Source
    release: Release
    keyring: Keyring


def open_source(world: World, source: Source, trusted: Keyring, read: Read = read_host) -> Origin:
    """Fetch and check the Release file of one source.

    Raises :class:`FetchError` if there is none, and :class:`IntegrityError` if it is not to be believed.
    """
    keyring = trust.keys_for(source.signed_by, trusted, read)
    signed, content, signer, where = _signed_release(world, source, keyring)
    found = trust.parse(signed, content, signer, where=where)
    expires = source.expires and not world.offline
    trust.check(found, source.suite if source.exact else None, where=where, now=time.time(), expires=expires)
    if not (source.exact or found.is_called(source.suite)):
        world.say(f"{where}: asked for suite {source.suite!r}, it calls itself {found.called}")
    return Origin(source=source, release=found, keyring=keyring)


def _signed_release(world: World, source: Source, keyring: Keyring) -> tuple[bytes, bytes, str, str]:
    where = f"{source.dists}/InRelease"
    try:
        signed = world.get(where)
        return signed, *trust.verify(signed, keyring, where=where), where
    except FetchError as error:
        if not source.uri.startswith("file:") and not (isinstance(error, StatusError) and error.code in (403, 404)):
            raise
    where = f"{source.dists}/Release"
    signed = world.get(where)
    return signed, *trust.verify(signed, keyring, where=where, detached=world.get(f"{where}.gpg")), where


# -- indices -----------------------------------------------------------------------------------------------------------


def open_indices(
    world: World, origins: Sequence[Origin], architecture: str, *, needed: bool = True
) -> tuple[Index, ...]:
    """The Packages files of all components of ``origins`` for one architecture, in the store.

    Raises :class:`ResolveError` where a Release has no index for the architecture, unless it is not ``needed``.
    """
    wanted = {}
    for origin in origins:
        for path, suffixes in _listed(origin, architecture, needed=needed):
            wanted[origin.source.dists, path] = _Wanted(origin, path, suffixes)  # sources may name a component twice
    missing = [item for item in wanted.values() if _unpacked(world, item) is None]
    _side_by_side(lambda pair: _unpack(world, *pair), _fetched(world, missing) if missing else [])
    return tuple(_index(world, item, architecture) for item in wanted.values())


class _Wanted(NamedTuple):
    """An index: its path without a suffix, and the suffixes to try; all are listed in the Release."""

    origin: Origin
    path: str
    suffixes: tuple[str, ...]

    def packed(self) -> Input:
        digest, size = self.origin.release.files[self.path + self.suffixes[0]]
        return Input(type="index", name=posixpath.basename(self.path) + self.suffixes[0], sha256=digest, size=size)


def _fetched(world: World, wanted: Sequence[_Wanted]) -> list[tuple[_Wanted, Input]]:
    """Each index packed, in the store: as we like it best, or else as the mirror has it."""
    inputs = [item.packed() for item in wanted]
    for item, file in zip(wanted, inputs, strict=True):
        world.remember(file, _urls(item.origin, item.path + item.suffixes[0], file.sha256))
    try:
        world.fetch(inputs)
    except (FetchError, IntegrityError) as error:
        found = [world.store.has_blob(file.sha256) for file in inputs]
        others = [
            item if there else item._replace(suffixes=item.suffixes[1:])
            for item, there in zip(wanted, found, strict=True)
        ]
        if all(item.suffixes for item in others):
            return _fetched(world, others)
        raise type(error)(
            f"the package indices that the Release files name could not be had: {error.message}",
            where=", ".join(dict.fromkeys(item.origin.source.uri for item in wanted)),
            hint="the mirror is incomplete, or in the middle of an update: try again soon, or use another one",
        ) from None
    return list(zip(wanted, inputs, strict=True))


def _listed(origin: Origin, architecture: str, *, needed: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Paths of Packages files that the Release lists, without their suffix, and the suffixes that it lists."""
    if origin.source.architectures and architecture not in origin.source.architectures:
        return
    release = origin.release
    names = [architecture]
    if "all" in release.fields.get("Architectures", "").split() and (
        release.fields.get("No-Support-for-Architecture-all") != "Packages"
    ):
        names.append("all")
    if origin.source.flat:  # one index, of all architectures
        suffixes = _suffixes(origin, "Packages")
        if needed and not suffixes:
            _no_index(origin, "", architecture)
        if needed:
            yield "Packages", suffixes
        return
    for component in origin.source.components:
        found = [(path, suffixes) for path in _binary(component, names) if (suffixes := _suffixes(origin, path))]
        if not found and needed:
            _no_index(origin, f"{component!r} ", architecture)
        yield from found


def _binary(component: str, architectures: Iterable[str]) -> Iterator[str]:
    return (f"{component}/binary-{name}/Packages" for name in architectures)


def _suffixes(origin: Origin, path: str) -> tuple[str, ...]:
    """How the Release says that an index is packed, best first; none where it has no such index."""
    listed = [suffix for suffix in _SUFFIXES if path + suffix in origin.release.files]
    return tuple(suffix for suffix in listed if suffix) or tuple(listed)  # bare ones are listed, and not there


def _no_index(origin: Origin, which: str, architecture: str) -> NoReturn:
    has = {name: origin.release.fields.get(name, "(none)") for name in ("Architectures", "Components")}
    raise ResolveError(
        f"suite {origin.source.suite!r} has no {which}packages for {architecture}",
        where=origin.source.dists,
        hint=f"it has architectures {has['Architectures']} and components {has['Components']}",
    )


def _urls(origin: Origin, path: str, digest: str) -> list[str]:
    plain = f"{origin.source.dists}/{path}"
    by_hash = f"{posixpath.dirname(plain)}/by-hash/SHA256/{digest}"
    return [by_hash, plain] if origin.release.by_hash else [plain]


def _unpacked(world: World, item: _Wanted) -> str | None:
    """sha256 of the decompressed index if the store has it."""
    files = item.origin.release.files
    listed = [files[item.path][0]] if item.path in files else [_known(world, item, suffix) for suffix in _SUFFIXES]
    return next((digest for digest in listed if len(digest) == _DIGITS and world.store.has_blob(digest)), None)


def _known(world: World, item: _Wanted, suffix: str) -> str:
    """The same of an index that was had packed so before; empty where it was not."""
    packed = item.origin.release.files.get(item.path + suffix)
    try:
        return world.store.memo("packages", packed[0]).read_text() if packed else ""
    except FileNotFoundError:
        return ""


def _unpack(world: World, item: _Wanted, packed: Input) -> None:
    where = f"{item.origin.source.dists}/{item.path}"
    try:
        with world.store.blob(packed.sha256).open("rb") as file:
            data = b"".join(decompressed(file))
    except TarError as error:
        raise IntegrityError(f"the index cannot be unpacked: {error}", where=where) from None
    listed = item.origin.release.files.get(item.path)
    digest = world.store.add_blob(data)
    if listed and listed[0] != digest:
        raise IntegrityError("the unpacked index is not the one that was signed", where=where)
    world.store.remember("packages", packed.sha256, digest.encode())


def _index(world: World, item: _Wanted, architecture: str) -> Index:
    digest, origin = _unpacked(world, item), item.origin
    assert digest is not None
    component, binary, rest = item.path.rpartition("/binary-")
    return Index(
        suite=origin.source.suite,
        component=component,
        architecture=rest.partition("/")[0] if binary else architecture,
        release=origin.release,
        uri=origin.source.uri,
        sha256=digest,
        path=world.store.blob(digest),
    )


def universe(indices: Iterable[Index]) -> Universe:
    """All packages of these indices."""
    return Universe({index.label: index.path.read_bytes() for index in indices})


# -- packages ----------------------------------------------------------------------------------------------------------


def lock_packages(world: World, packages: Sequence[Package], indices: Sequence[Index]) -> tuple[Input, ...]:
    """The .debs as locked inputs, all fetched: indices lack the sha1 by which snapshot services find files."""
    by_label = {index.label: index for index in indices}
    inputs = []
    for package in packages:
        index = by_label[package.index]
        item = Input(
            type="deb",
            name=package.file_name,
            sha256=package["SHA256"],
            size=int(package["Size"]),
            facts={
                "package": package.name,
                "version": package.version,
                "architecture": package.architecture,
                "path": package["Filename"],
                "archive": index.release.archive,
                "suite": index.suite,
            },
        )
        inputs.append(item)
    _side_by_side(
        lambda pair: world.remember(pair[0], [f"{by_label[pair[1].index].uri}/{pair[1]['Filename']}"]),
        list(zip(inputs, packages, strict=True)),
    )
    return with_sha1(world, inputs)


def with_sha1(world: World, inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Fetch ``inputs`` and add the fact ``sha1`` to each."""
    world.fetch(inputs)
    sums = _side_by_side(lambda item: _sha1(world, item), inputs)
    return tuple(replace(item, facts={**item.facts, "sha1": digest}) for item, digest in zip(inputs, sums, strict=True))


def _side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``work`` for each item: the processor hashes and unpacks while the disk writes what is remembered."""
    if not items:
        return []
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(work, items))


def _sha1(world: World, item: Input) -> str:
    """Computed once for each file, which may be large."""

    def digest() -> bytes:
        with world.store.blob(item.sha256).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).digest()

    return world.store.derived("sha1", item.sha256, digest).hex()


def facts(indices: Sequence[Index], origins: Sequence[Origin]) -> dict[str, Json]:
    """What a lock tells of its archives: every index, and the keys that signed, as one armored block."""
    keyring = Keyring()
    for origin in origins:
        keyring.certs |= origin.keyring.certs
    return {
        "indices": [index.fact() for index in indices],
        "keys": keyring.armored({index.release.signer for index in indices}),
    }
