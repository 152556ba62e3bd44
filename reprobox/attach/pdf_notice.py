"""Words that tell readers of a PDF what is attached: a line on the first page, or a page of its own at the end.

The page that gets a line keeps its own content as it is: the line is another content stream behind it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reprobox.attach.pdf_document import resolved
from reprobox.attach.pdf_update import Revision, array, dictionary, serialized, stream_object

_FONTS = {"/RpbxText": "/Helvetica", "/RpbxBold": "/Helvetica-Bold", "/RpbxCode": "/Courier"}
_MARGIN, _LEADING = 72.0, 1.5
_LINE_SIZE, _LINE_X, _LINE_Y = 6.5, 24.0, 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What is said: ``line`` in one line; ``paragraphs`` as (font, size, text), a font being text, bold or code."""

    line: str
    paragraphs: tuple[tuple[str, float, str], ...]


def notice(project: str, version: str, lock: str, names: Sequence[str], file: str) -> Notice:
    """The words for a project whose lock has this sha256 (hex), attached to a PDF of the name ``file``."""
    called = f"{project} {version}".strip()
    return Notice(
        line=f"The environment of this work is attached to this PDF: {', '.join(names)} (lock sha256:{lock[:12]})."
        f"  Recreate it: reprobox realize {file}",
        paragraphs=(
            ("bold", 16, "The environment of this work is attached"),
            ("text", 10, f"This PDF carries the computational environment of {called} as embedded files:"),
            ("code", 10, "  ".join(names)),
            ("text", 10, "The lock names every byte of the environment by its hash. Its own sha256 is"),
            ("code", 8.5, lock),
            ("text", 10, "With reprobox on a Linux machine, this makes the environment again:"),
            ("code", 10, "pip install reprobox"),
            ("code", 10, f"reprobox realize {file}"),
            ("text", 10, "Any PDF reader shows the files under its attachments; pdfdetach -saveall takes them out."),
        ),
    )


def add_line(revision: Revision, words: str) -> None:
    """Put a line at the bottom of the first page."""
    page = revision.document.reader.pages[0]
    entries = {name: serialized(page.raw_get(name)) for name in page}
    resources = resolved(page.get("/Resources"), {})
    fonts = resolved(resources.get("/Font"), {})
    own = {name: serialized(fonts.raw_get(name)) for name in fonts} | {"/RpbxText": _font(revision, "/Helvetica")}
    given = {name: serialized(resources.raw_get(name)) for name in resources}
    entries["/Resources"] = dictionary({**given, "/Font": dictionary(own)})
    kept = _contents(page)
    matrix, width = _placed(page)
    text = b"/Artifact BMC q 0.35 g BT /RpbxText %.2f Tf %b Tm (%b) Tj ET Q EMC" % (
        min(_LINE_SIZE, (width - 2 * _LINE_X) / len(words) / 0.5),
        matrix,
        _escaped(words),
    )
    first, last = (_content(revision, data).encode() for data in (b"q", b"Q " + text))
    entries["/Contents"] = array([first, *kept, last])
    revision.change(page.indirect_reference, dictionary(entries))


def _contents(page: Any) -> list[bytes]:
    """References to the page's content streams."""
    if "/Contents" not in page:
        return []
    raw = page.raw_get("/Contents")
    several = raw.get_object()
    return [serialized(item) for item in several] if isinstance(several, list) else [serialized(raw)]


def _placed(page: Any) -> tuple[bytes, float]:
    """The text matrix at the lower left corner as readers see it, however the page is turned; and the page's width."""
    box = page.cropbox
    left, bottom, right, top = (float(side) for side in (box.left, box.bottom, box.right, box.top))
    turns = {
        0: (1, 0, 0, 1, left + _LINE_X, bottom + _LINE_Y),
        90: (0, 1, -1, 0, right - _LINE_Y, bottom + _LINE_X),
        180: (-1, 0, 0, -1, right - _LINE_X, top - _LINE_Y),
        270: (0, -1, 1, 0, left + _LINE_Y, top - _LINE_X),
    }
    turn = int(resolved(page.get("/Rotate"), 0)) % 360
    width = top - bottom if turn in (90, 270) else right - left
    return b"%d %d %d %d %.2f %.2f" % turns.get(turn, turns[0]), width


def add_page(revision: Revision, said: Notice) -> None:
    """Put a page behind the last one, of the same size."""
    reader = revision.document.reader
    box = reader.pages[len(reader.pages) - 1].mediabox
    left, bottom, right, top = (float(side) for side in (box.left, box.bottom, box.right, box.top))
    lines, height = [], top - _MARGIN
    for font, size, words in said.paragraphs:
        height -= size * _LEADING * (1 if font == "code" else 1.4)
        name = {"text": b"/RpbxText", "bold": b"/RpbxBold", "code": b"/RpbxCode"}[font]
        fitted = min(size, (right - left - 2 * _MARGIN) / len(words) / (0.6 if font == "code" else 0.5))
        place = left + _MARGIN + (12 if font == "code" else 0)
        lines.append(b"%b %.1f Tf 1 0 0 1 %.2f %.2f Tm (%b) Tj" % (name, fitted, place, height, _escaped(words)))
    content = _content(revision, b"BT\n" + b"\n".join(lines) + b"\nET")
    fonts = dictionary({name: _font(revision, font) for name, font in _FONTS.items()})
    root = revision.document.root.raw_get("/Pages")
    page = revision.add(
        dictionary(
            {
                "/Type": b"/Page",
                "/Parent": serialized(root),
                "/MediaBox": array([b"%.2f" % side for side in (left, bottom, right, top)]),
                "/Resources": dictionary({"/Font": fonts}),
                "/Contents": content.encode(),
            }
        )
    )
    tree = root.get_object()
    entries = {name: serialized(tree.raw_get(name)) for name in tree}
    entries["/Kids"] = array([*map(serialized, resolved(tree.get("/Kids"), [])), page.encode()])
    entries["/Count"] = b"%d" % (int(resolved(tree.get("/Count"), 0)) + 1)
    revision.change(root, dictionary(entries))


def _font(revision: Revision, name: str) -> bytes:
    entries = {"/Type": b"/Font", "/Subtype": b"/Type1", "/BaseFont": name.encode(), "/Encoding": b"/WinAnsiEncoding"}
    return revision.add(dictionary(entries)).encode()


def _content(revision: Revision, data: bytes) -> str:
    return revision.add(stream_object({"/Filter": b"/FlateDecode"}, zlib.compress(data, 9)))


def _escaped(words: str) -> bytes:
    """In the encoding of the fonts; what they have not is a question mark."""
    encoded = words.encode("cp1252", "replace")
    return encoded.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
