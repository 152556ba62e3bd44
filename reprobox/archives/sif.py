"""The Singularity Image Format: its header and its table of descriptors, as values, read and written.

A SIF is a header of 128 bytes, a table of descriptors of 585 bytes each, and the objects that they describe: a
definition file, labels, partitions, signatures. Nothing here knows what is in a partition. The same values give the
same bytes: identity and times are given, not drawn, and objects are aligned to 4096 bytes on every machine.

Source: SIF specification, version 01, as github.com/apptainer/sif (pkg/sif) has it: ``header``, ``rawDescriptor``,
``partition``, all little-endian and packed. Standard library only.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

#: Types of objects.
DEFINITION, ENVIRONMENT, LABELS, PARTITION, SIGNATURE, JSON, GENERIC, CRYPTOGRAPHIC, SBOM, OCI_INDEX, OCI_BLOB = range(
    0x4001, 0x400C
)
#: File systems of partitions.
SQUASHFS, EXT3, ARCHIVE, RAW, ENCRYPTED_SQUASHFS = range(1, 6)
#: Roles of partitions.
SYSTEM, PRIMARY, DATA, OVERLAY = range(1, 5)

MAGIC = b"SIF_MAGIC\0"
#: The first line of the file: a SIF that may be executed is run by this program.
LAUNCH = b"#!/usr/bin/env run-singularity\n"
DEFAULT_GROUP = 0xF0000001
NO_LINK = 0

_VERSION = b"01\0"
_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
_PARTITION = struct.Struct("<ii3s")
_TABLE_AT = 4096
_ALIGNMENT = 4096
#: Descriptors in a table that is written here, as all other writers have it.
CAPACITY = 48
_MOST_DESCRIPTORS = 4096
_UNKNOWN = "00"
_ARCHITECTURES = {
    "386": "01",
    "amd64": "02",
    "arm": "03",
    "arm64": "04",
    "ppc64": "05",
    "ppc64le": "06",
    "mips": "07",
    "mipsle": "08",
    "mips64": "09",
    "mips64le": "10",
    "s390x": "11",
    "riscv64": "12",
}
_NAMES = {code: name for name, code in _ARCHITECTURES.items()}


class SifError(ValueError):
    """It is no SIF, or a broken one; the message says which part of it."""


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    """One used descriptor.

    ``type`` is one of the constants above; ``offset`` and ``size`` are in bytes from the file's start, ``padded`` is
    ``size`` with the padding before it; times are unix seconds; ``extra`` is what only its type knows, without the
    zeros at its end.
    """

    id: int
    type: int
    offset: int
    size: int
    padded: int
    created: int
    modified: int
    name: str = ""
    group: int = DEFAULT_GROUP
    link: int = NO_LINK
    extra: bytes = b""

    @property
    def partition(self) -> Partition | None:
        """What kind of partition it is; None for other objects."""
        if self.type != PARTITION:
            return None
        system, role, code = _PARTITION.unpack(self.extra.ljust(_PARTITION.size, b"\0")[: _PARTITION.size])
        return Partition(filesystem=system, role=role, architecture=_NAMES.get(_text(code), ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A partition's file system, its role, and its architecture as OCI calls it (``amd64``), empty if unknown."""

    filesystem: int
    role: int
    architecture: str = ""

    def extra(self) -> bytes:
        """As a descriptor holds it. Raises :class:`SifError` for an architecture that SIF has no code for."""
        if self.architecture not in _ARCHITECTURES:
            raise SifError(f"SIF has no code for the architecture {self.architecture!r}")
        return _PARTITION.pack(self.filesystem, self.role, _code(self.architecture))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sif:
    """A SIF's header and used descriptors; ``identity`` is its UUID's 16 bytes, times are unix seconds."""

    identity: bytes
    created: int
    modified: int
    objects: tuple[Object, ...]
    architecture: str = ""
    launch: bytes = LAUNCH
    capacity: int = CAPACITY
    data_at: int = _TABLE_AT + CAPACITY * _DESCRIPTOR.size

    @property
    def primary(self) -> Object | None:
        """The partition with the root file system, if there is one."""
        return next((item for item in self.objects if item.partition and item.partition.role == PRIMARY), None)

    def of_type(self, kind: int) -> tuple[Object, ...]:
        """The objects of one type, in the table's order."""
        return tuple(item for item in self.objects if item.type == kind)


# -- reading -----------------------------------------------------------------------------------------------------------


def is_sif(start: bytes) -> bool:
    """Whether a file that starts with these bytes (42 are enough) says that it is a SIF."""
    return start[32 : 32 + len(MAGIC)] == MAGIC


def read(file: IO[bytes]) -> Sif:
    """The header and descriptors of the SIF that ``file`` is from its start. Nothing of what they say lies outside it.

    Raises :class:`SifError`.
    """
    size = file.seek(0, 2)
    file.seek(0)
    data = file.read(_HEADER.size)
    if not is_sif(data):
        raise SifError("it is no SIF: SIF_MAGIC is not at byte 32")
    if len(data) < _HEADER.size:
        raise SifError(f"it is cut off: a SIF's header has {_HEADER.size} bytes, and the file {size}")
    launch, _, version, code, identity, created, modified, free, total, at, length, data_at, _ = _HEADER.unpack(data)
    if version != _VERSION:
        raise SifError(f"it is of version {_text(version)!r} of the format, and 01 is the one that is known here")
    if not 0 <= total <= _MOST_DESCRIPTORS or not 0 <= free <= total:
        raise SifError(f"its header speaks of {total} descriptors, {free} of them free")
    if at < _HEADER.size or length < 0 or at + total * _DESCRIPTOR.size > size:
        raise SifError(f"its table of {total} descriptors at byte {at} reaches beyond its {size} bytes: it is cut off")
    file.seek(at)
    table = file.read(total * _DESCRIPTOR.size)
    objects = tuple(_object(fields, size) for fields in _DESCRIPTOR.iter_unpack(table) if fields[1])
    if sum(1 for item in objects if item.partition and item.partition.role == PRIMARY) > 1:
        raise SifError("it has two primary partitions, and only one can be the root file system")
    return Sif(
        identity=identity,
        created=created,
        modified=modified,
        objects=objects,
        architecture=_NAMES.get(_text(code), ""),
        launch=launch.rstrip(b"\0"),
        capacity=total,
        data_at=data_at,
    )


def _object(fields: tuple[int | bytes, ...], size: int) -> Object:
    kind, _, number, group, link, offset, length, padded, created, modified, _, _, name, extra = fields
    assert isinstance(name, bytes)
    assert isinstance(extra, bytes)
    found = Object(
        id=int(number),
        type=int(kind),
        offset=int(offset),
        size=int(length),
        padded=int(padded),
        created=int(created),
        modified=int(modified),
        name=_text(name),
        group=int(group),
        link=int(link),
        extra=extra.rstrip(b"\0"),
    )
    if found.offset < _HEADER.size or found.size < 0 or found.offset + found.size > size:
        raise SifError(
            f"its object {found.id} ({found.size} bytes at byte {found.offset}) reaches beyond its {size} bytes:"
            " it is cut off, or a wrong offset was written"
        )
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """An object to be written: its size in bytes must be that of its pieces."""

    type: int
    size: int
    name: str = ""
    extra: bytes = b""
    link: int = NO_LINK


def identity(text: bytes) -> bytes:
    """A UUID (RFC 9562, version 8) that follows from ``text``, such as a tree digest: 16 bytes."""
    digest = bytearray(hashlib.sha256(text).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def laid_out(contents: Sequence[Content], *, identity: bytes, created: int) -> Sif:
    """A SIF of these objects in this order, numbered from 1; its architecture is that of its primary partition.

    Raises :class:`SifError` where they do not fit into one.
    """
    if len(contents) > CAPACITY:
        raise SifError(f"a SIF has room for {CAPACITY} objects, not for {len(contents)}")
    if len(identity) != 16:
        raise SifError("an identity has 16 bytes")
    start = end = _TABLE_AT + CAPACITY * _DESCRIPTOR.size
    objects = []
    for number, item in enumerate(contents, 1):
        if len(item.name.encode()) > 127 or len(item.extra) > 384:
            raise SifError(f"the name or the extra field of object {number} is too long")
        offset = end + -end % _ALIGNMENT
        objects.append(
            Object(
                id=number,
                type=item.type,
                offset=offset,
                size=item.size,
                padded=offset - end + item.size,
                created=created,
                modified=created,
                name=item.name,
                link=item.link,
                extra=item.extra.rstrip(b"\0"),
            )
        )
        end = offset + item.size
    roots = [item.partition for item in objects if item.partition and item.partition.role == PRIMARY]
    return Sif(
        identity=identity,
        created=created,
        modified=created,
        objects=tuple(objects),
        architecture=roots[0].architecture if roots else "",
        data_at=start,
    )


def head(sif: Sif) -> bytes:
    """The file's bytes up to its first object, or to the end of its table where it has none."""
    size = sum(item.padded for item in sif.objects)
    table_size = sif.capacity * _DESCRIPTOR.size
    header = _HEADER.pack(
        sif.launch,
        MAGIC,
        _VERSION,
        _code(sif.architecture),
        sif.identity,
        sif.created,
        sif.modified,
        sif.capacity - len(sif.objects),
        sif.capacity,
        _TABLE_AT,
        table_size,
        sif.data_at,
        size,
    )
    table = b"".join(map(_descriptor, sif.objects)).ljust(table_size, b"\0")
    data = header.ljust(_TABLE_AT, b"\0") + table
    return data.ljust(sif.objects[0].offset if sif.objects else 0, b"\0")


def write(sif: Sif, contents: Iterable[Iterable[bytes]], sink: _Sink) -> None:
    """Write the file: its head, then each object's pieces at its place. Raises :class:`SifError` for a wrong size."""
    start = head(sif)
    sink.write(start)
    at = len(start)
    for item, pieces in zip(sif.objects, contents, strict=True):
        sink.write(bytes(item.offset - at))
        at = item.offset
        for piece in pieces:
            sink.write(piece)
            at += len(piece)
        if at != item.offset + item.size:
            raise SifError(f"object {item.id} was said to have {item.size} bytes and has {at - item.offset}")


def _descriptor(item: Object) -> bytes:
    times = (item.created, item.modified)
    used, owner = True, (0, 0)
    return _DESCRIPTOR.pack(
        item.type, used, item.id, item.group, item.link, item.offset, item.size, item.padded, *times, *owner,
        item.name.encode(), item.extra,
    )  # fmt: skip


def _code(architecture: str) -> bytes:
    return _ARCHITECTURES.get(architecture, _UNKNOWN).encode() + b"\0"
