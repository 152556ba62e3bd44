"""Attaching to a PDF, and reading and removing what is attached.

The files are standard embedded files (ISO 32000-2, 7.11.4), named in the document's tree of embedded files and among
its associated files (14.13, as PDF/A-3 asks). They come as a new revision behind the last byte of the file: pages,
outlines, links, metadata, other attachments and what was signed stay as they were, to the byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reprobox.attach.files import ABOUT, LOCK, MANIFEST, NAMES, PROJECT, Attached, found, save
from reprobox.attach.pdf_document import Document, identity, resolved
from reprobox.attach.pdf_notice import Notice, add_line, add_page
from reprobox.attach.pdf_update import (
    Revision,
    array,
    copy,
    dictionary,
    own_revision,
    serialized,
    stream_object,
    text,
)
from reprobox.errors import ReproboxError, UsageError

_SUBTYPES = {MANIFEST: b"/application#2Ftoml", LOCK: b"/application#2Ftoml", PROJECT: b"/application#2Fx-tar"}
_RELATIONS = {MANIFEST: b"/Supplement", LOCK: b"/Supplement", PROJECT: b"/Source"}
_MOST_METADATA = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is wanted besides the files: words on a page of their own, or in a line; and that signatures may break."""

    page: bool = False
    line: bool = False
    break_signature: bool = False

    @property
    def visible(self) -> bool:
        return self.page or self.line


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A PDF that was written: bytes before and after, names that it had already, and what a person should know."""

    before: int
    after: int
    replaced: tuple[str, ...]
    notes: tuple[str, ...]


def is_pdf(path: Path) -> bool:
    """Whether the file begins as a PDF does."""
    try:
        with path.open("rb") as file:
            return b"%PDF-" in file.read(1024)
    except OSError:
        return False


def read(path: Path, folder: Path) -> Attached:
    """Write what is attached to the PDF at ``path`` into the empty ``folder``. Names other than ours are left alone.

    Raises :class:`ReproboxError` for what is no PDF, or one without a lock; :class:`IntegrityError` for damage, or
    more than one lock.
    """
    with Document(path) as document, document.guarded():
        for name in NAMES:
            if item := document.named(name):
                save(item.pieces(document.where), folder, name, document.where)
        return found(folder, document.where, [item.name for item in document.embedded])


# -- writing -----------------------------------------------------------------------------------------------------------


def attach(source: Path, target: Path, attached: Attached, epoch: int, said: Notice, wish: Wish) -> Done:
    """Write the PDF at ``source`` with the files, dated ``epoch``, to ``target``, which may be the same path.

    What was attached by us before is replaced. Raises :class:`ReproboxError` for a PDF that cannot be added to, and
    :class:`UsageError` for a signature that would break.
    """
    with _without_ours(source, target) as (document, replaced, staged):
        notes = [*_signature_notes(document, wish), *_archive_notes(document, wish)]
        revision = Revision(document=document)
        with document.guarded():
            _embed(revision, attached, epoch)
            if wish.line:
                add_line(revision, said.line)
            if wish.page:
                add_page(revision, said)
        _write(revision, staged)
        _look_again(document, staged, attached, wish)
        staged.replace(target)
        size = document.file.seek(0, os.SEEK_END)
    return Done(before=size, after=target.stat().st_size, replaced=replaced, notes=tuple(notes))


def remove(source: Path, target: Path, *, break_signature: bool = False) -> Done:
    """Write the PDF at ``source`` without our files to ``target``, which may be the same path.

    Where our revision is the newest, that gives the bytes that it was added to. Raises :class:`ReproboxError` where
    none is attached.
    """
    before = source.stat().st_size
    with _without_ours(source, target) as (document, replaced, staged):
        left = [item.name for item in document.embedded if item.name in NAMES]
        notes: list[str] = []
        if not (replaced or left):
            raise ReproboxError("none of reprobox's files is attached to it", where=str(source))
        if left:
            notes = _signature_notes(document, Wish(break_signature=break_signature))
            notes.append(
                "the PDF was changed after they were attached: they are named no more, but their bytes are still in it;"
                " `qpdf in.pdf out.pdf` writes it without them"
            )
            revision = Revision(document=document)
            with document.guarded():
                _embed(revision, None, 0)
            _write(revision, staged)
        else:
            with staged.open("xb") as file:
                copy(document.file, file, document.file.seek(0, os.SEEK_END))
                _flush(file)
        _take_mode(source, staged)
        staged.replace(target)
    return Done(before=before, after=target.stat().st_size, replaced=replaced, notes=tuple(notes))


@contextlib.contextmanager
def _without_ours(source: Path, target: Path) -> Iterator[tuple[Document, tuple[str, ...], Path]]:
    """The document as it was before our revision, if that is its newest; which of our names it had; and a place beside
    ``target``, which is gone afterwards. Nothing is written into a file that is there."""
    beside = target.absolute()
    if not os.access(beside.parent, os.W_OK | os.X_OK):
        raise UsageError("its folder cannot be written", where=str(target), hint="give -o a place in another folder")
    stem = f".{beside.name}.{secrets.token_hex(4)}"
    older, staged = beside.with_name(f"{stem}.old"), beside.with_name(f"{stem}.new")
    with contextlib.ExitStack() as stack:
        stack.callback(staged.unlink, missing_ok=True)
        stack.callback(older.unlink, missing_ok=True)
        document = stack.enter_context(Document(source))
        replaced = tuple(name for name in NAMES if name in {item.name for item in document.embedded})
        if (size := own_revision(document.file)) is not None:
            with older.open("xb") as file:
                copy(document.file, file, size)
            document = stack.enter_context(Document(older))
            document.where = str(source)
        yield document, replaced, staged


def _embed(revision: Revision, attached: Attached | None, epoch: int) -> None:
    """Have the catalog name the files, and what it named already but for files of the same names."""
    document = revision.document
    ours = {identity(item.reference) for item in document.embedded if item.name in NAMES}
    pairs = [(_raw(key), serialized(key), serialized(ref)) for key, ref in document.leaves if identity(ref) not in ours]
    associated = [serialized(reference) for reference in document.associated if identity(reference) not in ours]
    for name in attached.names if attached else ():
        reference = _file(revision, name, (attached.folder / name).read_bytes(), epoch).encode() if attached else b""
        pairs.append((name.encode(), text(name), reference))
        associated.append(reference)
    names = resolved(document.root.get("/Names"), {})
    named = {name: serialized(names.raw_get(name)) for name in names if name != "/EmbeddedFiles"}
    if pairs:
        listed = array([part for _, key, value in sorted(pairs) for part in (key, value)])
        named["/EmbeddedFiles"] = revision.add(dictionary({"/Names": listed})).encode()
    root = document.root
    entries = {name: serialized(root.raw_get(name)) for name in root if name not in ("/Names", "/AF")}
    entries |= {"/Names": dictionary(named)} if named else {}
    entries |= {"/AF": array(associated)} if associated else {}
    revision.change(document.reader.trailer.raw_get("/Root"), dictionary(entries))


def _raw(key: object) -> bytes:
    return bytes(getattr(key, "original_bytes", b""))


def _file(revision: Revision, name: str, data: bytes, epoch: int) -> str:
    """The file specification for the file, and its stream; returns the reference."""
    date = time.strftime("D:%Y%m%d%H%M%SZ", time.gmtime(epoch))
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    facts = {"/Size": b"%d" % len(data), "/CheckSum": b"<%b>" % md5.encode(), "/ModDate": text(date)}
    entries = {
        "/Type": b"/EmbeddedFile",
        "/Subtype": _SUBTYPES[name],
        "/Params": dictionary(facts),
        "/Filter": b"/FlateDecode",
    }
    stream = revision.add(stream_object(entries, zlib.compress(data, 9))).encode()
    return revision.add(
        dictionary(
            {
                "/Type": b"/Filespec",
                "/F": text(name),
                "/UF": text(name),
                "/Desc": text(ABOUT[name]),
                "/AFRelationship": _RELATIONS[name],
                "/EF": dictionary({"/F": stream, "/UF": stream}),
            }
        )
    )


def _write(revision: Revision, staged: Path) -> None:
    document = revision.document
    with staged.open("xb") as file:
        revision.write(file, document.file.seek(0, os.SEEK_END))
        _flush(file)
    _take_mode(Path(document.where), staged)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _take_mode(source: Path, staged: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.copymode(source, staged)


def _look_again(document: Document, staged: Path, attached: Attached, wish: Wish) -> None:
    """Nobody gets a PDF that came out otherwise than it should."""
    with Document(staged) as written, written.guarded():
        others = sorted(item.name for item in document.embedded if item.name not in NAMES)
        good = written.pages == document.pages + wish.page and others == sorted(
            item.name for item in written.embedded if item.name not in NAMES
        )
        for name in attached.names:
            item = written.named(name)
            data = b"".join(item.pieces(document.where)) if item else b""
            good = good and data == (attached.folder / name).read_bytes()
    if not good:
        raise ReproboxError(
            "what would be written cannot be read as it should: the PDF is built in a way that is not understood",
            where=document.where,
            hint="write it anew with `qpdf in.pdf out.pdf`, and attach to that",
        )


# -- what to know ------------------------------------------------------------------------------------------------------


def _signature_notes(document: Document, wish: Wish) -> list[str]:
    found = document.signatures()
    if not found.count:
        return []
    if (found.certified or wish.visible) and not wish.break_signature:
        why = "its author certified that nothing is added to it" if found.certified else "its pages are signed"
        raise UsageError(
            f"the PDF is signed, and this would break the signature: {why}",
            where=document.where,
            hint="attach before signing; or give --break-signature, and sign it again",
        )
    if found.certified or wish.visible:
        return ["the PDF was signed, and its signature is broken now: sign it again"]
    return ["the PDF is signed: the signature stays valid for what was signed, and viewers tell that files came later"]


def _archive_notes(document: Document, wish: Wish) -> list[str]:
    """What a PDF/A claims of itself, and is no more."""
    with document.guarded():
        stream = resolved(document.root.get("/Metadata"), {})
        data = stream.get_data()[:_MOST_METADATA] if hasattr(stream, "get_data") else b""
    part = re.search(rb"pdfaid:part\s*(?:>|=\s*[\"'])\s*(\d)", bytes(data))
    if not part:
        return []
    notes = []
    if part[1] in b"12":
        notes.append(f"the PDF says that it is PDF/A-{part[1].decode()}, which allows no such attachment; PDF/A-3 does")
    if wish.visible:
        notes.append("the PDF says that it is PDF/A, which wants fonts embedded; those of the words are not")
    return notes
