"""Small parts that many sections are made of: tables, links, facts, text as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reprobox.preview.markup import Markup, tag, whole

NONE = "—"
_WEB = re.compile(r"https?://[^\s<>\"]+\Z")


def fact(name: str, value: Markup) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def block(text: str, label: str) -> Markup:
    """Text as it is; whoever has no mouse can scroll it."""
    return tag("pre", tag("code", whole(text)), tabindex=0, role="group", aria_label=label)


def table(caption: str, heads: Sequence[str], rows: object, id_: str = "") -> Markup:
    """A table that scrolls by itself where it is too wide. ``#`` before a heading: its column has numbers."""
    head = tag(
        "tr",
        *(
            tag("th", name.removeprefix("#"), scope="col", class_="number" if name[0] == "#" else None)
            for name in heads
        ),
    )
    body = [tag("tr", *cells) for cells in rows]  # type: ignore[attr-defined]
    filled = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), id=id_ or None)
    return tag("div", filled, class_="scroll", tabindex=0, role="group", aria_label=caption)


def digest_code(hexadecimal: str) -> Markup:
    return tag("code", hexadecimal, class_="digest")


def link(url: str, text: str) -> Markup:
    """A link, if it leads to the web; else the text alone."""
    return tag("a", text, href=url) if _WEB.match(url) else tag("span", text)


def listed(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
