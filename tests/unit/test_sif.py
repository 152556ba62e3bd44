"""SIF's header and descriptors: bytes as the specification has them, and what a broken file is refused for."""

from __future__ import annotations

import io
import struct

import pytest

from reprobox.archives import sif

PRIMARY = sif.Partition(filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture="amd64")
CONTENTS = (
    sif.Content(type=sif.DEFINITION, size=5, name="def"),
    sif.Content(type=sif.PARTITION, size=6, name="root", extra=PRIMARY.extra()),
)


def made(contents: tuple[sif.Content, ...] = CONTENTS, pieces: tuple[bytes, ...] = (b"first", b"second")) -> bytes:
    sink = io.BytesIO()
    found = sif.laid_out(contents, identity=sif.identity(b"tree"), created=1_700_000_000)
    sif.write(found, [[piece] for piece in pieces], sink)
    return sink.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(sif.SifError) as caught:
        sif.read(io.BytesIO(data))
    return str(caught.value)


def test_the_bytes_are_those_of_the_specification() -> None:
    data = made()
    assert data[:32] == b"#!/usr/bin/env run-singularity\n\0"
    assert data[32:48] == b"SIF_MAGIC\0" + b"01\0" + b"02\0"
    free, total, table, length, start, size = struct.unpack_from("<6q", data, 80)
    assert (free, total, table, length, start) == (46, 48, 4096, 48 * 585, 4096 + 48 * 585)
    assert data[32768:32773] == b"first"
    assert data[36864:] == b"second"
    assert size == len(data) - start
    kind, used, number, group, link, offset = struct.unpack_from("<i?IIIq", data, 4096 + 585)
    assert (kind, used, number, group, link, offset) == (0x4004, True, 2, 0xF0000001, 0, 36864)
    assert data[4096 + 2 * 585 - 384 :][:11] == struct.pack("<ii3s", 1, 2, b"02\0")


def test_what_is_written_is_read() -> None:
    found = sif.read(io.BytesIO(made()))
    assert found == sif.laid_out(CONTENTS, identity=sif.identity(b"tree"), created=1_700_000_000)
    assert found.primary is not None
    assert (found.primary.partition, found.primary.name, found.architecture) == (PRIMARY, "root", "amd64")
    assert sif.head(found) == made()[:32768]
    assert [item.name for item in found.of_type(sif.DEFINITION)] == ["def"]


def test_the_same_values_give_the_same_bytes() -> None:
    assert made() == made()
    assert sif.identity(b"a") == sif.identity(b"a") != sif.identity(b"b")
    assert sif.identity(b"a")[6] >> 4 == 8


def test_broken_files() -> None:
    data = made()
    assert refused(b"#!/bin/sh\n" * 20) == "it is no SIF: SIF_MAGIC is not at byte 32"
    assert refused(data[:100]) == "it is cut off: a SIF's header has 128 bytes, and the file 100"
    assert refused(data[:9000]) == (
        "its table of 48 descriptors at byte 4096 reaches beyond its 9000 bytes: it is cut off"
    )
    assert refused(data[:36866]) == (
        "its object 2 (6 bytes at byte 36864) reaches beyond its 36866 bytes:"
        " it is cut off, or a wrong offset was written"
    )
    assert refused(data[:42] + b"09\0" + data[45:]) == (
        "it is of version '09' of the format, and 01 is the one that is known here"
    )
    many = data[:88] + struct.pack("<q", 1 << 40) + data[96:]
    assert refused(many) == f"its header speaks of {1 << 40} descriptors, 46 of them free"
    outside = data[:4113] + struct.pack("<q", -5) + data[4121:]
    assert refused(outside).startswith("its object 1 (5 bytes at byte -5) reaches beyond")
    twice = made((CONTENTS[1], CONTENTS[1]), (b"second", b"second"))
    assert refused(twice) == "it has two primary partitions, and only one can be the root file system"


def test_what_cannot_be_written() -> None:
    with pytest.raises(sif.SifError, match="room for 48 objects, not for 49"):
        sif.laid_out(CONTENTS[:1] * 49, identity=bytes(16), created=0)
    with pytest.raises(sif.SifError, match="object 1 was said to have 5 bytes and has 3"):
        made(pieces=(b"new", b"second"))
    with pytest.raises(sif.SifError, match="no code for the architecture 'loong64'"):
        sif.Partition(filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture="loong64").extra()
