"""A new revision behind the last byte of a PDF: what was there stays as it is, to the byte.

Objects that are new or changed come first, then a table of them of the kind that the file already uses, then a comment
that says where our revision began. By that, the newest revision can be taken off again, and the old file is back.

Source: ISO 32000-2, 7.5.4 (cross-reference table), 7.5.6 (incremental updates), 7.5.8 (cross-reference streams), 14.4
(file identifiers).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from reprobox.attach.pdf_document import Document

_CHUNK = 1 << 20
_MARK = "%reprobox-revision"
_END = re.compile(rb"%reprobox-revision (\d{1,15}) ([0-9a-f]{64})\nstartxref\n(\d{1,15})\n%%EOF\n\Z")


@dataclass(kw_only=True)
class Revision:
    """Objects to be written, by number and generation; new ones get the numbers after the file's own."""

    document: Document
    objects: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reader = self.document.reader
        known = [int(reader.trailer.get("/Size", 0)) - 1, *reader.xref_objStm]
        self._last = max(known + [number for table in reader.xref.values() for number in table])

    def add(self, content: bytes) -> str:
        """A new object; returns the reference to it, ``12 0 R``."""
        self._last += 1
        self.objects[self._last, 0] = content
        return f"{self._last} 0 R"

    def change(self, reference: Any, content: bytes) -> None:
        """Another content for the object that pypdf's ``reference`` names."""
        self.objects[reference.idnum, reference.generation] = content

    def write(self, file: IO[bytes], size: int) -> None:
        """Write the first ``size`` bytes of the document, and the revision behind them."""
        before = _copy(self.document.file, file, size)
        written = before.copy()
        offset = size
        if not _ends_line(self.document.file, size):
            offset += _put(file, b"\n", written)
        places = {}
        for (number, generation), content in sorted(self.objects.items()):
            places[number] = (offset, generation)
            offset += _put(file, b"%d %d obj\n%b\nendobj\n" % (number, generation, content), written)
        newest, streams = self.document.newest()
        facts = self._trailer(newest, written.digest()[:16])
        table = _stream(self._last + 1, offset, places, facts) if streams else _table(self._last + 1, places, facts)
        file.write(table)
        file.write(f"{_MARK} {size} {before.hexdigest()}\nstartxref\n{offset}\n%%EOF\n".encode())

    def _trailer(self, newest: int, identity: bytes) -> bytes:
        """What the old trailer says, with a new second identifier, which follows from the file's content."""
        trailer = self.document.reader.trailer
        kept = [
            f"{name} ".encode() + serialized(trailer.raw_get(name)) for name in ("/Root", "/Info") if name in trailer
        ]
        old = trailer.get("/ID")
        first = getattr(old.get_object()[0], "original_bytes", b"") if old is not None else b""
        first = bytes(first) or identity
        return b"%b /ID [<%b> <%b>] /Prev %d" % (
            b" ".join(kept),
            first.hex().encode(),
            identity.hex().encode(),
            newest,
        )


def _table(size: int, places: Mapping[int, tuple[int, int]], facts: bytes) -> bytes:
    """The classic form: runs of numbers, an entry of 20 bytes for each. Some readers want the head of the free list."""
    lines = [b"xref\n0 1\n0000000000 65535 f \n"]
    for run in _runs(sorted(places)):
        lines.append(b"%d %d\n" % (run[0], len(run)))
        lines += [b"%010d %05d n \n" % places[number] for number in run]
    return b"".join([*lines, b"trailer\n<< /Size %d %b >>\n" % (size, facts)])


def _stream(number: int, offset: int, places: Mapping[int, tuple[int, int]], facts: bytes) -> bytes:
    """The form since PDF 1.5: the table is an object itself, the last one, and lists itself too."""
    places = {**places, number: (offset, 0)}
    data = b"".join(
        b"\x01" + places[name][0].to_bytes(6, "big") + places[name][1].to_bytes(2, "big") for name in sorted(places)
    )
    index = b" ".join(b"%d %d" % (run[0], len(run)) for run in _runs(sorted(places)))
    head = b"<< /Type /XRef /Size %d /W [1 6 2] /Index [%b] %b /Length %d >>" % (number + 1, index, facts, len(data))
    return b"%d 0 obj\n%b\nstream\n%b\nendstream\nendobj\n" % (number, head, data)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def own_revision(file: IO[bytes]) -> int | None:
    """Bytes before the newest revision, if that one is ours and those bytes are still what they were; else None."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 256))
    said = _END.search(file.read())
    if said is None or not int(said[1]) < int(said[3]) < size:
        return None
    with open(os.devnull, "wb") as nowhere:
        before = _copy(file, nowhere, int(said[1]))
    return int(said[1]) if before.hexdigest().encode() == said[2] else None


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> Any:
    """The first ``size`` bytes; returns their hash, still growing."""
    source.seek(0)
    hashed = hashlib.sha256()
    while size and (data := source.read(min(size, _CHUNK))):
        hashed.update(data)
        target.write(data)
        size -= len(data)
    return hashed


def copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """The first ``size`` bytes of a file."""
    _copy(source, target, size)


def _put(file: IO[bytes], data: bytes, hashed: Any) -> int:
    hashed.update(data)
    return file.write(data)


def _ends_line(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - 1))
    return file.read(1) in (b"\n", b"\r")


# -- objects as text ---------------------------------------------------------------------------------------------------


def serialized(value: Any) -> bytes:
    """One of pypdf's objects as it stands in a file; references stay references."""
    stream = io.BytesIO()
    value.write_to_stream(stream)
    return stream.getvalue()


def dictionary(entries: Mapping[str, bytes]) -> bytes:
    """A dictionary of names, each with its slash, and serialized values."""
    return b"<< %b >>" % b" ".join(name.encode() + b" " + value for name, value in entries.items())


def array(items: Sequence[bytes]) -> bytes:
    return b"[%b]" % b" ".join(items)


def stream_object(entries: Mapping[str, bytes], data: bytes) -> bytes:
    """A stream of exactly these (packed) bytes."""
    return b"%b\nstream\n%b\nendstream" % (dictionary({**entries, "/Length": b"%d" % len(data)}), data)


def text(value: str) -> bytes:
    """A text string: plain where it is ASCII, else UTF-16 (7.9.2.2)."""
    if value.isascii() and value.isprintable():
        return b"(%b)" % re.sub(rb"([\\()])", rb"\\\1", value.encode())
    return b"<feff%b>" % value.encode("utf-16-be").hex().encode()
