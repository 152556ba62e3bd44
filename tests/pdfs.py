"""Small PDF files, made by hand and by pypdf: papers, and what a stranger may send instead of one."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence

import pypdf
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, NumberObject, TextStringObject


def paper(pages: int = 2, *, free: int = 0) -> bytes:
    """A classic PDF 1.4 with a title, a bookmark, a link and a line of text on each page, as LaTeX would write it."""
    kids = " ".join(f"{10 + 2 * number} 0 R" for number in range(pages))
    objects = {
        1: "<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R /Lang (en) >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {pages} /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman >>",
        4: "<< /Type /Outlines /First 5 0 R /Last 5 0 R /Count 1 >>",
        5: "<< /Title (Start) /Parent 4 0 R /Dest [10 0 R /Fit] >>",
        6: "<< /Title (A paper) /Author (A. Nobody) >>",
        7: "<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /A << /S /URI /URI (https://example.org/) >> >>",
    }
    for number in range(pages):
        text = f"BT /F1 12 Tf 72 700 Td (Page {number + 1} of it) Tj ET"
        objects[10 + 2 * number] = (
            f"<< /Type /Page /Parent 2 0 R /Contents {11 + 2 * number} 0 R /Annots [7 0 R] /Rotate {90 * number} >>"
        )
        objects[11 + 2 * number] = f"<< /Length {len(text)} >>\nstream\n{text}\nendstream"
    return assembled({number: content.encode() for number, content in objects.items()}, "/Info 6 0 R" + " " * free)


def assembled(objects: dict[int, bytes], trailer: str = "") -> bytes:
    """A file of these objects; 1 is the catalog."""
    data = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    for number, content in objects.items():
        places[number] = len(data)
        data += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    start = len(data)
    size = max(objects) + 1
    entries = [b"%010d 00000 n \n" % places[n] if n in places else b"0000000000 65535 f \n" for n in range(size)]
    data += b"xref\n0 %d\n%b" % (size, b"".join(entries))
    data += b"trailer\n<< /Size %d /Root 1 0 R %b >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer.encode(), start)
    return bytes(data)


def signed(sign: Callable[[bytes], bytes] = lambda _: b"", *, certified: bool = False) -> bytes:
    """A PDF with a signature field; ``sign`` gives the detached CMS signature (DER) of the bytes that are signed."""
    room = 8192
    perms = b"/Perms << /DocMDP 5 0 R >>" if certified else b""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [4 0 R] /SigFlags 3 >> %b >>" % perms,
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Annots [4 0 R] >>",
        4: b"<< /FT /Sig /T (Sig) /V 5 0 R /Type /Annot /Subtype /Widget /Rect [0 0 0 0] /P 3 0 R /F 132 >>",
        5: b"<< /Type /Sig /Filter /Adobe.PPKLite /SubFilter /adbe.pkcs7.detached /ByteRange [0 %010d %010d %010d] /Contents <%b> >>"
        % (0, 0, 0, b"0" * room),
    }
    data = assembled(objects)
    start = data.index(b"/Contents <") + len(b"/Contents ")
    end = start + room + 2
    spans = b"[0 %010d %010d %010d]" % (start, end, len(data) - end)
    data = data.replace(b"[0 %010d %010d %010d]" % (0, 0, 0), spans)
    signature = sign(data[:start] + data[end:]).hex().encode()
    return data[: start + 1] + signature.ljust(room, b"0") + data[end - 1 :]


def carrying(files: Sequence[tuple[str, bytes]], **facts: object) -> bytes:
    """A PDF with embedded files as another program writes them; ``facts`` goes into each stream's parameters."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(paper()))
    for name, data in files:
        found = writer.add_attachment(name, data)
        stream = found.pdf_object["/EF"]["/F"].get_object()
        params = stream.setdefault(NameObject("/Params"), DictionaryObject()).get_object()
        params.update({NameObject(f"/{key}"): value for key, value in facts.items()})
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def bomb(name: str, size: int) -> bytes:
    """A PDF of a few kilobytes whose embedded file unpacks to ``size`` zeros."""
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    packed = b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(carrying([(name, b"x")])))
    stream = _stream(writer)
    stream._data = packed
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def _stream(writer: pypdf.PdfWriter) -> DecodedStreamObject:
    names = writer.root_object["/Names"]["/EmbeddedFiles"]["/Names"]
    return names[1].get_object()["/EF"]["/F"].get_object()


def number(value: int) -> NumberObject:
    return NumberObject(value)


def string(value: str) -> TextStringObject:
    return TextStringObject(value)
