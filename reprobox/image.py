"""OCI images made of layers: deterministic layer tars, the image's documents, layouts and docker archives.

A layer's tar is a pure function of its index, its tree and the epoch, so the store keeps no tars: they are streamed
when something needs one. POSIX.1-2001 pax headers are written only where ustar cannot say it, in an encoding of our own
(not ``tarfile``'s, whose output is allowed to change between Python versions); the format is frozen by golden vectors.

Source: POSIX.1-2017 pax(1); OCI Image Format Specification v1.1 (layer, config, manifest, image-layout); Docker image
specification v1.2 for the archive of ``docker load``. Standard library only at import: the sandbox's launcher needs it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reprobox import namespace
from reprobox.digest import Entry, Json, canonical, prefixed, read_index, sha256, unescape
from reprobox.tree import opened

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

_BLOCK = 512
_RECORD = 20 * _BLOCK
_CHUNK = 1 << 20
_BLOBS = "blobs/sha256"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_FILE, _LINK, _SYMLINK, _FOLDER, _PAX = b"0", b"1", b"2", b"5", b"x"


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class Hashed:
    """A sink that passes bytes on and knows their sha256 and number."""

    def __init__(self, sink: _Sink | None = None) -> None:
        self._sink = sink
        self._state = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> None:
        self._state.update(data)
        self.size += len(data)
        if self._sink is not None:
            self._sink.write(data)

    def hexdigest(self) -> str:
        return self._state.hexdigest()


# -- layer tars --------------------------------------------------------------------------------------------------------


def write_layer(tree: Path, index: Path, epoch: int, sink: _Sink) -> None:
    """Write a layer's uncompressed tar: entries by path bytes, owner 0:0, times from the tree, no other metadata."""
    entries = read_index(index.read_bytes())
    if namespace.hides(entries):
        namespace.call("reprobox.image:stream_layer", str(tree), str(index), epoch, sink=sink)
    else:
        _write_entries(os.fsencode(tree), entries, epoch, sink)


def stream_layer(sink: _Sink, tree: str, index: str, epoch: int) -> None:
    """:func:`write_layer` by one who may read the whole tree."""
    _write_entries(os.fsencode(tree), read_index(Path(index).read_bytes()), epoch, sink)


def _write_entries(root: bytes, entries: Iterable[Entry], epoch: int, sink: _Sink) -> None:
    first: dict[tuple[int, int], bytes] = {}
    written = 0
    for entry in sorted(entries, key=_tar_name):
        name = _tar_name(entry)
        if entry.kind == "w":
            written += _header(sink, name, _FILE, 0, 0, epoch)
        elif entry.kind == "d":
            written += _header(sink, name + b"/", _FOLDER, entry.mode, 0, epoch)
        else:
            written += _write_entry(sink, root + b"/" + entry.path, entry, first)
    written += 2 * _BLOCK
    sink.write(bytes(2 * _BLOCK + -written % _RECORD))


def _tar_name(entry: Entry) -> bytes:
    if entry.kind != "w":
        return entry.path
    folder, slash, name = entry.path.rpartition(b"/")
    return folder + slash + b".wh." + name


def _write_entry(sink: _Sink, full: bytes, entry: Entry, first: dict[tuple[int, int], bytes]) -> int:
    status = os.lstat(full)
    seconds = status.st_mtime_ns // 10**9
    if entry.kind == "l":
        return _header(sink, entry.path, _SYMLINK, 0o777, 0, seconds, unescape(entry.detail))
    key = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and key in first:
        return _header(sink, entry.path, _LINK, entry.mode, 0, seconds, first[key])
    first[key] = entry.path
    return _header(sink, entry.path, _FILE, entry.mode, status.st_size, seconds) + _content(sink, full, status.st_size)


def _content(sink: _Sink, full: bytes, size: int) -> int:
    left = size
    with opened(full, buffering=0) as file:
        while left and (data := file.read(min(left, _CHUNK))):
            sink.write(data)
            left -= len(data)
    if left:
        raise OSError(5, "the file became shorter while it was read", os.fsdecode(full))
    padding = -size % _BLOCK
    if padding:
        sink.write(bytes(padding))
    return size + padding


def _header(sink: _Sink, name: bytes, kind: bytes, mode: int, size: int, seconds: int, target: bytes = b"") -> int:
    pax: list[tuple[bytes, bytes]] = []
    short, prefix = _ustar_name(name)
    if short is None:
        pax.append((b"path", name))
        short, prefix = name[:100], b""
    if len(target) > 100 or not target.isascii():
        pax.append((b"linkpath", target))
        target = target[:100]
    if size >= 8**11:
        pax.append((b"size", b"%d" % size))
    if seconds >= 8**11:
        pax.append((b"mtime", b"%d" % seconds))
    written = _pax_header(sink, pax) if pax else 0
    fitting = size if size < 8**11 else 0
    sink.write(_block(short, prefix, kind, mode, fitting, min(seconds, 8**11 - 1), target))
    return written + _BLOCK


def _ustar_name(name: bytes) -> tuple[bytes | None, bytes]:
    """The name and prefix fields, or None where ustar cannot hold the name."""
    if not name.isascii():
        return None, b""
    if len(name) <= 100:
        return name, b""
    split = name.rfind(b"/", 0, min(156, len(name) - 1))
    if split > 0 and len(name) - split - 1 <= 100:
        return name[split + 1 :], name[:split]
    return None, b""


def _pax_header(sink: _Sink, records: list[tuple[bytes, bytes]]) -> int:
    if any(not _is_utf8(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    data = b"".join(_pax_record(key, value) for key, value in records)
    sink.write(_block(b"PaxHeaders/0", b"", _PAX, 0o644, len(data), 0, b""))
    padding = -len(data) % _BLOCK
    sink.write(data + bytes(padding))
    return _BLOCK + len(data) + padding


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) != len(str(len(body))):
        length = len(body) + len(str(length))
    return b"%d" % length + body


def _block(name: bytes, prefix: bytes, kind: bytes, mode: int, size: int, seconds: int, target: bytes) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % seconds,
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        b"ustar\00000",
        bytes(64),  # owner names
        b"0000000\0",
        b"0000000\0",
        prefix.ljust(155, b"\0"),
        bytes(12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def layer_digest(tree: Path, index: Path, epoch: int) -> tuple[str, int]:
    """(diff id as sha256 hex, size in bytes) of a layer's uncompressed tar."""
    sink = Hashed()
    write_layer(tree, index, epoch, sink)
    return sink.hexdigest(), sink.size


# -- documents ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """An OCI content descriptor; ``digest`` is sha256 hex."""

    media_type: str
    digest: str
    size: int

    def document(self) -> dict[str, Json]:
        return {"mediaType": self.media_type, "digest": prefixed(self.digest), "size": self.size}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer of an image: its blob, its diff id (sha256 hex), and the blob's file or else the tree it is made of."""

    descriptor: Descriptor
    diff_id: str
    blob: Path | None = None
    tree: Path | None = None
    index: Path | None = None

    def write(self, sink: _Sink, epoch: int) -> None:
        """Write the blob's bytes."""
        if self.blob is not None:
            with self.blob.open("rb") as file:
                while data := file.read(_CHUNK):
                    sink.write(data)
        elif self.tree is not None and self.index is not None:
            write_layer(self.tree, self.index, epoch, sink)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the image's config says besides its layers, in OCI words; empty values are left out."""

    architecture: str
    os: str = "linux"
    variant: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Json]:
        values: dict[str, Json] = {
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "User": self.user,
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "WorkingDir": self.workdir,
            "Volumes": {path: {} for path in self.volumes},
            "Labels": dict(self.labels),
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A whole image, as values: settings, layers lowest first, and the epoch (unix seconds) that it was created at."""

    settings: Settings
    layers: tuple[Layer, ...]
    epoch: int

    def config(self) -> bytes:
        """The image configuration, RFC 8785 JSON. It has no history: what varies would vary the digest."""
        document: dict[str, Json] = {
            "architecture": self.settings.architecture,
            "os": self.settings.os,
            "created": rfc3339(self.epoch),
            "config": self.settings.document(),
            "rootfs": {"type": "layers", "diff_ids": [prefixed(layer.diff_id) for layer in self.layers]},
        }
        if self.settings.variant:
            document["variant"] = self.settings.variant
        return canonical(document)

    def manifest(self) -> bytes:
        """The image manifest, RFC 8785 JSON."""
        config = self.config()
        return canonical(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": Descriptor(media_type=CONFIG_TYPE, digest=sha256(config), size=len(config)).document(),
                "layers": [layer.descriptor.document() for layer in self.layers],
            }
        )

    def digest(self) -> str:
        """The image digest: sha256 hex of the manifest."""
        return sha256(self.manifest())


def rfc3339(seconds: int) -> str:
    """``2026-11-22T00:00:00Z``"""
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def oci_media_type(media_type: str) -> str:
    """The OCI name of a Docker layer type; other types stand for themselves."""
    if media_type.startswith("application/vnd.docker.image.rootfs") and media_type.endswith(".tar.gzip"):
        return LAYER_TYPE + "+gzip"
    if media_type.startswith("application/vnd.docker.image.rootfs"):
        return LAYER_TYPE
    return media_type


# -- layouts and archives ----------------------------------------------------------------------------------------------


def write_layout(image: Image, folder: Path, *, name: str = "") -> None:
    """Write an OCI image layout into the existing, empty ``folder``; ``name`` becomes the reference annotation."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in image.layers:
        with (blobs / layer.descriptor.digest).open("wb") as file:
            layer.write(file, image.epoch)
    for data in (image.config(), image.manifest()):
        (blobs / sha256(data)).write_bytes(data)
    (folder / "index.json").write_bytes(_index(image, name))
    (folder / "oci-layout").write_bytes(_LAYOUT)


def _index(image: Image, name: str) -> bytes:
    manifest = image.manifest()
    entry = Descriptor(media_type=MANIFEST_TYPE, digest=sha256(manifest), size=len(manifest)).document()
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    return canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]})


def write_archive(image: Image, tag: str, sink: _Sink) -> None:
    """Write one tar that is an OCI image layout and also what any ``docker load`` reads, as ``docker save`` does since
    Docker 25: ``apptainer build x.sif oci-archive:FILE`` and skopeo take it too.

    The same image and ``tag`` (``name:tag``) give the same bytes.
    """
    config, manifest = image.config(), image.manifest()
    documents = {f"{_BLOBS}/{sha256(data)}": data for data in (config, manifest)}
    layers = [(f"{_BLOBS}/{layer.descriptor.digest}", layer) for layer in image.layers]
    entry = {"Config": f"{_BLOBS}/{sha256(config)}", "RepoTags": [tag], "Layers": [name for name, _ in layers]}
    # Apptainer unpacks it, and makes no folder that the tar does not name.
    written = sum(folder_header(sink, name.encode()) for name in (_BLOBS.partition("/")[0], _BLOBS))
    for name, data in documents.items():
        written += _member(sink, name, data, image.epoch)
    for name, layer in _once(layers):
        written += _layer_member(sink, name, layer, image.epoch)
    documents = {"index.json": _index(image, tag.rpartition(":")[2]), "oci-layout": _LAYOUT}
    for name, data in {**documents, "manifest.json": canonical([entry])}.items():
        written += _member(sink, name, data, image.epoch)
    tar_end(sink, written)


def write_docker_archive(image: Image, tag: str, sink: _Sink, *, without: Collection[str] = ()) -> None:
    """Write the tar that ``docker load`` reads; the same image and ``tag`` (``name:tag``) give the same bytes.

    ``without`` are diff ids (sha256 hex) of layers that are named but not sent: an engine that has them needs no more.
    """
    config = image.config()
    config_name = f"{sha256(config)}.json"
    names = [f"{layer.diff_id}.tar" for layer in image.layers]
    index: Json = [{"Config": config_name, "RepoTags": [tag] if tag else [], "Layers": names}]
    written = _member(sink, config_name, config, image.epoch)
    for name, layer in _once(zip(names, image.layers, strict=True)):
        if layer.diff_id in without:
            continue
        written += _layer_member(sink, name, layer, image.epoch)
    written += _member(sink, "manifest.json", canonical(index), image.epoch)
    tar_end(sink, written)


def file_header(sink: _Sink, name: bytes, size: int, *, mode: int = 0o644, seconds: int = 0) -> int:
    """Write the header of a plain file in a tar; returns how many bytes it has. Content is padded to 512 bytes."""
    return _header(sink, name, _FILE, mode, size, seconds)


def folder_header(sink: _Sink, name: bytes, *, mode: int = 0o755) -> int:
    """Write a folder of a tar; returns how many bytes that are."""
    return _header(sink, name + b"/", _FOLDER, mode, 0, 0)


def link_header(sink: _Sink, name: bytes, target: bytes) -> int:
    """Write a symbolic link of a tar; returns how many bytes that are."""
    return _header(sink, name, _SYMLINK, 0o777, 0, 0, target)


def tar_end(sink: _Sink, written: int) -> None:
    """Write the end of a tar that has so many bytes."""
    written += 2 * _BLOCK
    sink.write(bytes(2 * _BLOCK + -written % _RECORD))


def _once(pairs: Iterable[tuple[str, Layer]]) -> Iterator[tuple[str, Layer]]:
    seen = set()
    for name, layer in pairs:
        if name not in seen:
            seen.add(name)
            yield name, layer


def _layer_member(sink: _Sink, name: str, layer: Layer, epoch: int) -> int:
    size = layer.descriptor.size
    written = _header(sink, name.encode(), _FILE, 0o644, size, epoch)
    layer.write(sink, epoch)
    sink.write(bytes(-size % _BLOCK))
    return written + size + -size % _BLOCK


def _member(sink: _Sink, name: str, data: bytes, epoch: int) -> int:
    padding = -len(data) % _BLOCK
    written = _header(sink, name.encode(), _FILE, 0o644, len(data), epoch)
    sink.write(data + bytes(padding))
    return written + len(data) + padding
