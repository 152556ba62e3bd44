"""A badge: which lock it is and how it stands, as an SVG picture of its own.

Nothing measures text here. Widths are those of DejaVu Sans, which are Verdana's nearly; and the picture tells browsers
how wide each text is, so that it fits in any font.
"""

from __future__ import annotations

from html import escape

from reprobox.cite.citation import SHORT, Citation, standing

_LABEL = "environment"
#: Widths in thousandths of the font's size, read from the tables `cmap` and `hmtx` of DejaVu Sans 2.37.
_WIDTHS = {
    char: width
    for width, chars in {
        278: "ijl", 318: " ·", 352: "f", 392: "t", 411: "r", 521: "s", 525: "z", 550: "c", 579: "k", 592: "vxy",
        612: "o", 613: "a", 615: "e", 634: "hnu", 635: "bdgpq", 636: "0123456789", 818: "w", 974: "m",
    }.items()
    for char in chars
}  # fmt: skip
_SIZE, _PAD, _HEIGHT = 11, 7, 20
_DARK = "#3d4248"
#: Colours on which white text has a contrast of 4.5 or more. They are never the only sign.
_VOUCHED, _SEALED, _LOCKED = "#1c6b34", "#0a5561", "#4a5568"


def badge(citation: Citation) -> str:
    """The picture; the same citation gives the same bytes."""
    words = standing(citation.sealed, citation.targets, citation.keys, pinned=citation.pinned)
    sealed = citation.sealed == citation.targets and citation.pinned
    said = " · ".join((citation.lock[:SHORT], *(words[1:] if sealed else words)))  # what is sealed is locked
    left, right = (round(width_of(text)) for text in (_LABEL, said))
    split, width = left + 2 * _PAD, left + right + 4 * _PAD
    title = escape(f"{_LABEL}: lock sha256:{citation.lock[:SHORT]}, {', '.join(words)}")
    colour = _VOUCHED if citation.keys else _SEALED if sealed else _LOCKED
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}"',
            f' viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>',
            f'<clipPath id="r"><rect width="{width}" height="{_HEIGHT}" rx="3"/></clipPath><g clip-path="url(#r)">',
            f'<rect width="{split}" height="{_HEIGHT}" fill="{_DARK}"/>',
            f'<rect x="{split}" width="{width - split}" height="{_HEIGHT}" fill="{colour}"/></g>',
            f'<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="{_SIZE}">',
            _text(_LABEL, _PAD, left),
            _text(said, split + _PAD, right),
            "</g></svg>\n",
        )
    )


def _text(words: str, x: int, width: int) -> str:
    return f'<text x="{x}" y="14" textLength="{width}" lengthAdjust="spacingAndGlyphs">{words}</text>'


def width_of(text: str) -> float:
    """Pixels that a text of the badge takes; its words are of lower-case letters, digits, spaces and dots."""
    return sum(_WIDTHS[char] for char in text) * _SIZE / 1000
