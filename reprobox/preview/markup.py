"""HTML as values: text is escaped by being text, and only what was made here is markup.

What is shown may come from strangers: characters that are invisible, that reorder what is read or that HTML has no
place for are shown by their code points, and text of any length stays of a length that can be read.
"""

from __future__ import annotations

import unicodedata
from html import escape

_MOST = 2000
_JOINERS = "\u200c\u200d"  # words of many languages need them
_EMPTY = frozenset(("meta", "br", "input", "link", "hr"))
_BROKEN = "\n"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | int | bool | None) -> Markup:
    """One element. Children that are not :class:`Markup` are escaped; ``None`` and ``False`` are left out.

    Underscores around names of attributes are dropped, and those within become hyphens: ``class_``, ``aria_label``.
    """
    words = "".join(map(_attribute, attributes.items()))
    if name in _EMPTY:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{''.join(map(_child, children))}</{name}>")


def _attribute(item: tuple[str, str | int | bool | None]) -> str:
    name, value = item[0].strip("_").replace("_", "-"), item[1]
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(shown(str(value)))}"'


def _child(child: str | None) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else escape(shown(child))


def join(*parts: str | None, between: str = "") -> Markup:
    """The parts one after the other, each escaped unless it is markup."""
    return Markup(between.join(_child(part) for part in parts if part is not None))


def whole(text: str) -> Markup:
    """Text that is never cut, such as commands."""
    return Markup(escape(_visible(text)))


def shown(text: str) -> str:
    """``text`` as it may be shown: nothing in it is invisible, and what is very long is cut, and says so."""
    if len(text) > _MOST:
        return f"{_visible(text[:_MOST])}… ({len(text) - _MOST:,} characters more)"
    return _visible(text)


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_plain(char) else f"\\u{{{ord(char):x}}}" for char in text)


def _is_plain(char: str) -> bool:
    category = unicodedata.category(char)
    return char in (_BROKEN, *_JOINERS) or category[0] not in "CZ" or category == "Zs"
