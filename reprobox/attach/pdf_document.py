"""PDF files as strangers made them: what is embedded in one, who signed it, and where its newest revision is.

Structure is read by pypdf; what is embedded is unpacked here, under limits. Nothing of the pages is looked at.

Source: ISO 32000-2, 7.5 (file structure), 7.11.4 (embedded file streams), 7.9.6 (name trees), 12.8 (signatures).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from reprobox.errors import IntegrityError, ReproboxError, UsageError

_CHUNK = 1 << 16
_TAIL = 2048  # bytes at the end in which `startxref` must be
_MOST_NODES, _DEEPEST = 100_000, 64
_PACKED = ("/FlateDecode", "/Fl")
_MEND = "write it anew with `qpdf broken.pdf mended.pdf`, or print it to a new PDF"
_PATH = "give the path of a PDF"
_ASK = "ask its authors for the file as it was, or take it from another place"
#: What a parser of Python raises when it meets nonsense. Everything that is no PDF is told in one way.
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
             struct.error, zlib.error)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One embedded file: its name, the key that it has in the name tree, and pypdf's objects for it.

    ``reference`` is the file specification as it stands in the tree (a reference, or the dictionary itself).
    """

    name: str
    key: Any
    reference: Any
    stream: Any

    def pieces(self, where: str) -> Iterator[bytes]:
        """The bytes, unpacked as they are asked for; checked against size and checksum where the PDF says them.

        Raises :class:`IntegrityError`.
        """
        md5, size = hashlib.md5(usedforsecurity=False), 0
        for piece in _unpacked(self.stream, self.name, where):
            md5.update(piece)
            size += len(piece)
            yield piece
        facts = resolved(self.stream.get("/Params"), {})
        checksum, attached = _value(facts.get("/CheckSum")), _value(facts.get("/Size"))
        if attached is not None and attached != size:
            raise IntegrityError(
                f"{self.name} in it is damaged: it has {size} bytes, and {attached} were attached",
                where=where,
                hint=_ASK,
            )
        if checksum is not None and bytes(getattr(checksum, "original_bytes", b"")) != md5.digest():
            raise IntegrityError(f"{self.name} in it is damaged: its checksum is another one", where=where, hint=_ASK)


def _unpacked(stream: Any, name: str, where: str) -> Iterator[bytes]:
    """Never more than a piece beyond what is taken: a stream may unpack to a thousand times its size."""
    said = _value(stream.get("/Filter"))
    filters = [str(_value(item)) for item in (said if isinstance(said, list) else [said] if said is not None else [])]
    data: bytes = stream._data  # noqa: SLF001 - pypdf has no public door to the packed bytes
    if not filters:
        yield data
        return
    if len(filters) > 1 or filters[0] not in _PACKED:
        raise ReproboxError(
            f"{name} in it is packed with {' and '.join(filters)[:80]}, which is not read",
            where=where,
            hint="write the PDF anew with `qpdf --stream-data=compress paper.pdf plain.pdf`",
        )
    unpacker = zlib.decompressobj()
    try:
        while data and not unpacker.eof:
            if piece := unpacker.decompress(data, _CHUNK):
                yield piece
            data = unpacker.unconsumed_tail
    except zlib.error as error:
        raise IntegrityError(f"{name} in it is damaged: {error}", where=where, hint=_ASK) from None
    if not unpacker.eof:
        raise IntegrityError(f"{name} in it is damaged: it ends too early", where=where, hint=_ASK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signatures:
    """Who signed: how many did, and whether the first of them forbade every change (a certified document)."""

    count: int
    certified: bool


class Document:
    """An opened PDF. ``file`` is the file, ``reader`` pypdf's view of it; a context manager, which closes it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`ReproboxError` for what is no PDF, a broken or an encrypted one."""
        self.where = str(path)
        self.file = _opened(path)
        try:
            with self.guarded():
                self.reader = self._read()
                self.root: Any = self.reader.trailer["/Root"].get_object()
                tree = resolved(resolved(self.root.get("/Names"), {}).get("/EmbeddedFiles"), {})
                #: Keys and values of the tree of embedded files, as they stand in it.
                self.leaves = tuple(_leaves(tree))
                self.associated = tuple(resolved(self.root.get("/AF"), []))
                self.embedded = tuple(self._embedded())
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _read(self) -> Any:
        import pypdf
        from pypdf.errors import DependencyError

        try:
            reader = pypdf.PdfReader(self.file)
        except DependencyError:  # it tries to decrypt at once, and lacks a library to do it with
            reader = None
        if reader is None or reader.is_encrypted:
            raise ReproboxError(
                "the PDF is encrypted: nothing in it can be read or added to",
                where=self.where,
                hint="take the encryption off, where you may: `qpdf --decrypt paper.pdf plain.pdf`",
            )
        return reader

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Whatever pypdf raises at nonsense, as one error; what it would print, unsaid. Objects are read when they are
        looked at, so that all looking is done in here."""
        from pypdf.errors import PyPdfError

        logger = logging.getLogger("pypdf")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        except (PyPdfError, *_NONSENSE, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is what a seek to nowhere says
                raise
            if isinstance(error, RecursionError):
                error = ValueError("it is nested without end")
            said = "".join(sign for sign in str(error) if sign.isprintable())[:200] or type(error).__name__
            raise ReproboxError(f"the PDF is broken: {said}", where=self.where, hint=_MEND) from None
        finally:
            logger.setLevel(level)

    @property
    def pages(self) -> int:
        with self.guarded():
            return len(self.reader.pages)

    # -- embedded files ------------------------------------------------------------------------------------------------

    def _embedded(self) -> Iterator[Embedded]:
        for key, reference in self.leaves:
            yield from _file(key, reference)
        seen = {identity(reference) for _, reference in self.leaves}
        for reference in self.associated:
            if identity(reference) not in seen:
                yield from _file(None, reference)

    def named(self, name: str) -> Embedded | None:
        """The one embedded file of this name. Raises :class:`IntegrityError` where there are two."""
        fitting = [item for item in self.embedded if item.name == name]
        if len(fitting) > 1:
            raise IntegrityError(
                f"{len(fitting)} files named {name} are attached to it, and only one can be meant",
                where=self.where,
                hint="ask its authors; they attach it again with `reprobox attach`, which leaves one",
            )
        return fitting[0] if fitting else None

    # -- signatures ----------------------------------------------------------------------------------------------------

    def signatures(self) -> Signatures:
        """Those that are in its form fields."""
        with self.guarded():
            form = resolved(self.root.get("/AcroForm"), {})
            count = sum(1 for _ in _signed(resolved(form.get("/Fields"), [])))
            certified = "/DocMDP" in resolved(self.root.get("/Perms"), {})
        return Signatures(count=max(count, int(certified)), certified=certified)

    # -- the file ------------------------------------------------------------------------------------------------------

    def newest(self) -> tuple[int, bool]:
        """Offset of the newest cross-reference section, and whether it is a stream.

        Raises :class:`ReproboxError` where the file does not say: then nothing can be added behind it.
        """
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, size - _TAIL))
        found = re.findall(rb"startxref\s+(\d{1,15})\s+%%EOF", self.file.read())
        if found:
            offset = int(found[-1])
            self.file.seek(min(offset, size))
            start = self.file.read(64)
            if start.startswith(b"xref") or re.match(rb"\d+\s+\d+\s+obj", start):
                return offset, not start.startswith(b"xref")
        raise ReproboxError(
            "the PDF is broken: its end does not say where its table of objects is", where=self.where, hint=_MEND
        )


def _opened(path: Path) -> IO[bytes]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(
            f"it cannot be read: {error.strerror}", where=str(path), hint="give the path of a PDF"
        ) from None
    try:
        start = file.read(1024)
    except OSError as error:
        start, reason = b"", f": {error.strerror}"
    else:
        reason = ""
    if b"%PDF-" not in start:
        file.close()
        raise UsageError(f"it is no PDF{reason}", where=str(path), hint="give the path of a PDF")
    return file


def resolved(value: Any, otherwise: Any) -> Any:
    """What a value or a reference to it is; ``otherwise`` where it is nothing, or of another type."""
    found = _value(value)
    return found if isinstance(found, type(otherwise)) else otherwise


def _value(value: Any) -> Any:
    """What a value or a reference to it is."""
    return value.get_object() if value is not None else None


def _leaves(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of a name tree. A hostile one may be endless."""
    todo, nodes = [(tree, 0)], 0
    while todo:
        node, depth = todo.pop()
        nodes += 1
        if nodes > _MOST_NODES or depth > _DEEPEST:
            raise ValueError("its tree of attachments has no end")
        pairs = list(resolved(node.get("/Names"), []))
        nodes += len(pairs)
        yield from zip(pairs[::2], pairs[1::2], strict=False)
        todo += [(resolved(kid, {}), depth + 1) for kid in reversed(resolved(node.get("/Kids"), []))]


def _file(key: Any, reference: Any) -> Iterator[Embedded]:
    specification = resolved(reference, {})
    streams = resolved(specification.get("/EF"), {})
    stream = _value(streams.get("/F", streams.get("/UF")))
    if stream is not None and hasattr(stream, "_data"):
        name = _value(specification.get("/UF", specification.get("/F", key)))
        yield Embedded(name="" if name is None else str(name), key=key, reference=reference, stream=stream)


def identity(reference: Any) -> object:
    """Equal for two references to one object."""
    number = getattr(reference, "idnum", None)
    return id(reference) if number is None else (number, reference.generation)


def _signed(fields: Any, depth: int = 0) -> Iterator[Any]:
    if depth > _DEEPEST:
        raise ValueError("its form has no end")
    for item in fields:
        field = resolved(item, {})
        if _value(field.get("/FT")) == "/Sig" and resolved(field.get("/V"), {}):
            yield field
        yield from _signed(resolved(field.get("/Kids"), []), depth + 1)
