"""Images in one tar file: docker-archives, as ``docker save`` writes them, and oci-archives, which are layouts.

Both are read into the same values: which images there are, and of each its config and its layers by hash. The names
of members, the order in which they come and what else is beside them do not count, so an archive may be written anew.
What is named is found by the hash of its bytes, whatever the archive calls it.

Sources: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; OCI Image Format
Specification v1.1, "Image Layout"; containers-transports(5).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from reprobox.archives.sif import is_sif
from reprobox.archives.tar_stream import FILE, HARD_LINK, SYMLINK, TarError, TarStream, decompressed
from reprobox.digest import Json, canonical, prefixed, sha256
from reprobox.errors import FetchError, IntegrityError, UsageError
from reprobox.image import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, Descriptor
from reprobox.oci import documents as oci
from reprobox.oci.registry import Reference

_FORMAT = 1
_MOST_MEMBERS = 100_000
_MOST_DOCUMENTS = 64 << 20  # bytes
_LEAST, _RATIO = 16 << 30, 200  # what a compressed archive may unpack to, in bytes: so many, or so many times its own
_CHUNK = 1 << 20
_MAGIC = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_AGAIN = "write it again: `docker save -o base.tar NAME:TAG`, or `skopeo copy … oci-archive:base.tar`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file of the archive: sha256 hex and size in bytes; ``start`` is what it begins with.

    ``offset`` is where its bytes begin in the archive, or -1 in one that is compressed.
    """

    sha256: str
    size: int
    start: bytes
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What an archive holds: files by their plain names, and the small ones, which may be documents, by sha256."""

    members: Mapping[str, Member]
    documents: Mapping[str, bytes]

    def document(self) -> bytes:
        """As :meth:`parse` reads it."""
        members: Json = {
            name: [item.sha256, item.size, item.start.hex(), item.offset] for name, item in self.members.items()
        }
        documents: Json = {digest: data.decode("latin-1") for digest, data in self.documents.items()}
        return canonical({"format": _FORMAT, "members": members, "documents": documents})

    @classmethod
    def parse(cls, data: bytes) -> Contents | None:
        """What was remembered; None where that is something else."""
        try:
            said = json.loads(data)
            if said["format"] != _FORMAT:
                return None
            members = {
                name: Member(sha256=digest, size=size, start=bytes.fromhex(start), offset=offset)
                for name, (digest, size, start, offset) in said["members"].items()
            }
            return cls(
                members=members,
                documents={digest: text.encode("latin-1") for digest, text in said["documents"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def text(self, name: str) -> bytes | None:
        """The bytes of a small file."""
        member = self.members.get(name)
        return self.documents.get(member.sha256) if member else None

    def has(self, digest: str) -> Member | None:
        """A file with this sha256 hex."""
        return next((item for item in self.members.values() if item.sha256 == digest), None)


# -- reading the tar ---------------------------------------------------------------------------------------------------


def contents(path: Path) -> Contents:
    """Read the archive once, hashing every file. Raises :class:`FetchError` for one that cannot be read."""
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    kept = 0
    with _reading(path) as file:
        for name, target, offset, pieces in _files(file, path):
            if target:
                links[name] = target
            else:
                members[name], small = _member(pieces, offset)
                if small is not None and (kept := kept + len(small)) <= _MOST_DOCUMENTS:
                    documents[members[name].sha256] = small
    for name, target in links.items():  # `docker save` links to the layers that an archive has twice
        if (found := members.get(target)) is not None:
            members[name] = found
    return Contents(members=members, documents=documents)


def extract(path: Path, found: Contents, digest: str) -> Iterator[bytes]:
    """The bytes of the file with this sha256, in pieces; nothing where there is none. They are not hashed again."""
    member = found.has(digest)
    if member is None:
        return
    with _reading(path) as file:
        if member.offset >= 0:
            file.seek(member.offset)
            yield from _read(file, member.size)
            return
        names = {name for name, item in found.members.items() if item is member or item == member}
        for name, target, _, pieces in _files(file, path):
            if name in names and not target:
                yield from pieces
                return


def _read(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (data := file.read(min(size, _CHUNK))):
        yield data
        size -= len(data)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The archive, and what is wrong with it told as such."""
    try:
        with path.open("rb") as file:
            yield file
    except TarError as error:
        raise FetchError(f"this archive cannot be read: {error}", where=str(path), hint=_AGAIN) from None
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=str(path)) from None


def _files(file: IO[bytes], path: Path) -> Iterator[tuple[str, str, int, Iterator[bytes]]]:
    """Every file: its plain name, what it links to (plain; empty for a file itself), its bytes' place, and they."""
    count = 0
    start = file.read(512)
    file.seek(0)
    plain_tar = start[257:262] == b"ustar" or not any(start.startswith(magic) for magic in (*_MAGIC, b"BZh", b"\xfd7z"))
    try:
        stream = TarStream(_metered(decompressed(file), path))
        for header in stream:
            count += 1
            if count > _MOST_MEMBERS:
                raise FetchError(f"it has more than {_MOST_MEMBERS} members, so it is no image", where=str(path))
            name = _plain(header.name, path)
            if header.kind == FILE:
                yield name, "", stream.position if plain_tar else -1, stream.data()
            elif header.kind == SYMLINK:
                yield name, _plain(posixpath.dirname(header.name) + b"/" + header.target, path), -1, iter(())
            elif header.kind == HARD_LINK:
                yield name, _plain(header.target, path), -1, iter(())
    except TarError as error:
        if count:
            raise
        hint = 'a SIF or SquashFS file is taken by sif = "…"' if start.startswith(b"hsqs") or is_sif(start) else _AGAIN
        raise FetchError(f"it is no tar archive: {error}", where=str(path), hint=hint) from None
    if not count:
        raise FetchError("it is an empty archive", where=str(path), hint=_AGAIN)


def _metered(pieces: Iterator[bytes], path: Path) -> Iterator[bytes]:
    allowed = left = max(_LEAST, _RATIO * path.stat().st_size)
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise TarError(f"it unpacks to more than {allowed} bytes, far more than its size lets expect")
        yield piece


def _plain(name: bytes, path: Path) -> str:
    plain = posixpath.normpath(name.decode("utf-8", "backslashreplace"))
    if plain.startswith("/") or plain.split("/")[0] == "..":
        raise FetchError(
            f"it has the member {plain[:200]!r}, which leads out of it",
            where=str(path),
            hint="no engine writes such an archive: do not use it",
        )
    return plain


def _member(pieces: Iterator[bytes], offset: int) -> tuple[Member, bytes | None]:
    """The member, and its bytes where it may be a document."""
    state = hashlib.sha256()
    size, start = 0, b""
    kept: list[bytes] | None = []
    for piece in pieces:
        state.update(piece)
        size += len(piece)
        start = (start + piece)[:6] if len(start) < 6 else start
        if kept is not None:
            kept.append(piece)
            if size > oci.MOST_CONFIG or start[:1] not in (b"{", b"["):
                kept = None
    found = Member(sha256=state.hexdigest(), size=size, start=start, offset=offset)
    return found, b"".join(kept) if kept else None


# -- choosing an image -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    names: tuple[str, ...]
    open: Callable[[], oci.Image]


def choose(found: Contents, name: str | None, platform: str, where: str) -> oci.Image:
    """The image called ``name`` for ``platform``; without a name, the only one.

    ``where`` is the archive's name for messages. Raises :class:`FetchError`, as :mod:`reprobox.oci.documents` does too.
    """
    candidates = _candidates(found, platform, where)
    wanted = [item for item in candidates if name is None or is_named(name, item.names)]
    if len(wanted) == 1:
        return wanted[0].open()
    listing = ", ".join(sorted({other for item in candidates for other in item.names})) or "none with a name"
    if name is not None and not wanted:
        raise FetchError(f"it has no image {name!r}; it has {listing}", where=where, hint=SAY_WHICH)
    if not candidates:
        raise FetchError("it has no image", where=where, hint=_AGAIN)
    raise FetchError(
        f"it has {len(wanted)} images{'' if name is None else f' called {name!r}'}: {listing}",
        where=where,
        hint=SAY_WHICH,
    )


SAY_WHICH = 'say which one with its name and tag: name = "debian:12", in [base] beside its path'


def _full(name: str) -> str:
    try:
        return str(Reference.parse(name.removeprefix("localhost/")))
    except UsageError:
        return name


def _candidates(found: Contents, platform: str, where: str) -> list[_Candidate]:
    index = found.text("index.json")
    if index is not None and "oci-layout" in found.members:
        return list(_in_layout(found, index, platform, where))
    said = found.text("manifest.json")
    if said is None:
        if "repositories" in found.members:
            raise FetchError(
                "it was written by a Docker older than 1.10, which named layers by chance and not by their bytes",
                where=where,
                hint="load it into a newer Docker and save it again: `docker load -i`, `docker save -o`",
            )
        raise FetchError(
            "it is no image: it has neither index.json, as oci-archives have, nor manifest.json, as docker-archives do",
            where=where,
            hint='an archive of files is taken by a layer of kind "fetch", or unpacked for rootfs = "dir"; '
            "`docker export` writes one of files, and `docker save` an image",
        )
    return list(_in_docker_archive(found, said, platform, where))


def in_index(index: bytes, platform: str, where: str) -> list[tuple[Descriptor, tuple[str, ...]]]:
    """The images of a layout's ``index.json`` that may be for the platform, each once and with all its names.

    Raises :class:`FetchError`, and :class:`PlatformError` where all are for others.
    """
    said = oci.read_manifest(index, INDEX_TYPE, where)
    if not isinstance(said, oci.Index):
        raise FetchError("its index.json is no index", where=where)
    wanted = oci.Platform.parse(platform)
    names: dict[str, list[str]] = {}
    fitting: dict[str, Descriptor] = {}
    for (item, other), entry in zip(said.manifests, json.loads(index)["manifests"], strict=True):
        if other is None or wanted.runs(other):
            fitting[item.digest] = item
            annotations = entry.get("annotations")
            known = annotations if isinstance(annotations, dict) else {}
            names.setdefault(item.digest, []).extend(str(known[key]) for key in _NAMES if key in known)
    if not fitting:
        said.select(platform, where)  # says which platforms there are
    return [(item, tuple(names[digest])) for digest, item in fitting.items()]


def is_named(asked: str, names: Sequence[str]) -> bool:
    """Whether one of an image's names is the one that is asked for, each written with a registry or without."""
    return any(asked == said or _full(asked) == _full(said) for said in names)


def _in_layout(found: Contents, index: bytes, platform: str, where: str) -> Iterator[_Candidate]:
    for item, names in in_index(index, platform, where):
        yield _Candidate(names=names, open=partial(_open, found, item, platform, where))


def _open(found: Contents, item: Descriptor, platform: str, where: str) -> oci.Image:
    def read(wanted: Descriptor) -> bytes:
        if wanted.digest not in found.documents:
            raise FetchError(f"the archive lacks the blob {prefixed(wanted.digest)}", where=where, hint=_AGAIN)
        return found.documents[wanted.digest]

    image = oci.open_image(read(item), item.media_type, read, platform, where)
    for number, layer in enumerate(image.manifest.layers):
        member = found.has(layer.digest)
        if member is None or member.size != layer.size:
            message = f"the archive lacks layer {number} of the image, {prefixed(layer.digest)}"
            raise FetchError(message, where=where, hint=_AGAIN)
    return image


def _in_docker_archive(found: Contents, said: bytes, platform: str, where: str) -> Iterator[_Candidate]:
    try:
        for entry in json.loads(said):
            names = tuple(str(name) for name in entry.get("RepoTags") or ())
            config, layers = str(entry["Config"]), tuple(str(name) for name in entry["Layers"])
            yield _Candidate(names=names, open=partial(_docker_image, found, config, layers, platform, where))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FetchError("its manifest.json is not what engines write", where=where, hint=_AGAIN) from None


def _docker_image(found: Contents, config: str, layers: Sequence[str], platform: str, where: str) -> oci.Image:
    text = found.text(posixpath.normpath(config))
    if text is None:
        raise FetchError(f"the archive lacks the image's config {config[:200]!r}", where=where, hint=_AGAIN)
    blobs = []
    for name in layers:
        member = found.members.get(posixpath.normpath(name))
        if member is None:
            raise FetchError(f"the archive lacks the layer {name[:200]!r}", where=where, hint=_AGAIN)
        suffix = next((ending for magic, ending in _MAGIC.items() if member.start.startswith(magic)), "")
        blobs.append(Descriptor(media_type=LAYER_TYPE + suffix, digest=member.sha256, size=member.size))
    manifest = oci.Manifest(
        config=Descriptor(media_type=CONFIG_TYPE, digest=sha256(text), size=len(text)), layers=tuple(blobs)
    )
    settings = oci.read_config(text, manifest, platform, where)
    for name, blob, diff_id in zip(layers, blobs, settings.diff_ids, strict=True):
        if blob.media_type == LAYER_TYPE and blob.digest != diff_id:
            raise IntegrityError(
                f"its layer {name[:200]!r} has other bytes than its image says: sha256 {blob.digest}, not {diff_id}",
                where=where,
                hint=_AGAIN,
            )
    return oci.Image(
        index="",
        descriptor=manifest.config,
        manifest=manifest,
        config=settings,
        documents={manifest.config.digest: text},
    )
