"""Where each key of a TOML document stands, and the limits that make parsing an unknown document safe.

``tomllib`` gives values without positions, and a hostile document (one key of 20,000 parts) costs it seconds and
gigabytes. So one quick pass over the text runs first: it records the line of every key path and refuses what no
manifest needs. It follows TOML 1.0 (https://toml.io/en/v1.0.0) as far as positions go and leaves judging the rest to
``tomllib``: every document that ``tomllib`` accepts is walked to its end, and on anything else the walk stops where it
no longer understands.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import NoReturn, TypeAlias

from reprobox.errors import Problem

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the document's root: ``("layers", 1, "packages", 0)``."""

MAX_DEPTH = 64
MAX_PARTS = 16

_BLANK = re.compile(r"[ \t]*+")
_GAP = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_COMMENT = re.compile(r"[ \t]*+(?:#[^\n]*+)?(?:\n|\Z)")
_BASIC, _LITERAL = r'"(?:[^"\\\n]|\\.)*+"', r"'[^'\n]*+'"
_PART = re.compile(rf"[A-Za-z0-9_-]++|{_BASIC}|{_LITERAL}")
# Strings of several lines: no possessive group, which Python 3.11.2 (Debian 12) gets wrong around a lookahead. Each
# letter can be matched in one way alone, so that trying costs no more than the length.
_SCALAR = re.compile(
    r'"""[^"\\]*(?:(?:\\[\s\S]|""?(?!"))[^"\\]*)*"{3,5}'
    r"|'''[^']*(?:''?(?!')[^']*)*'{3,5}"
    rf"|{_BASIC}|{_LITERAL}"
    r"""|[^,\]}#\n"'\[{][^,\]}#\n]*+"""
)
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


class LimitError(ValueError):
    """The document is nested deeper, or a key has more parts, than is safe to parse. ``line`` is 1-based."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, kw_only=True, slots=True)
class Positions:
    """What a walk over a document found; lines are 1-based.

    ``repeated`` is a key that is defined twice, as (path, first line, second line). ``unclosed`` is the line of the
    outermost bracket that was still open where the walk stopped, else 0.
    """

    lines: Mapping[Path, int]
    repeated: tuple[Path, int, int] | None = None
    unclosed: int = 0

    def line(self, path: Path) -> int:
        """The line of ``path``, or of the nearest table around it that the document mentions."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def scan(text: str) -> Positions:
    """Positions of all keys of ``text``, whose lines end in a bare newline. Raises :class:`LimitError`."""
    walk = _Walk(text)
    try:
        walk.document()
    except _NotUnderstoodError:
        return Positions(lines=walk.lines, repeated=walk.repeated, unclosed=next(iter(walk.open), 0))
    return Positions(lines=walk.lines, repeated=walk.repeated)


def show(path: Path) -> str:
    """``path`` as a person would write it: ``layers[1].packages[0]``, ``mounts."/dataset".mode``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{bare_or_quoted(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def bare_or_quoted(name: str) -> str:
    """``name`` as a TOML key on one line, shortened where it is long."""
    return shortened(name) if _PLAIN.fullmatch(name) else json.dumps(shortened(name), ensure_ascii=False)


def shortened(text: str) -> str:
    """``text``, or its beginning where it is too long for a message."""
    return text if len(text) <= 80 else f"{text[:77]}…"


class _NotUnderstoodError(Exception):
    """The text from here on is not TOML."""


class _Walk:
    """One pass over a document; ``at`` only moves forward."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.repeated: tuple[Path, int, int] | None = None
        self.open: list[int] = []
        self._defined: set[Path] = set()
        self._elements: dict[Path, int] = {}
        self._line, self._counted = 1, 0

    def document(self) -> None:
        table: Path = ()
        while self._skip(_GAP):
            if self._take("[["):
                table = self._array_header()
            elif self._take("["):
                table = self._define(self._key(()))
                self._expect("]")
            else:
                self._pair(table)
            self._must(_COMMENT)

    def _array_header(self) -> Path:
        *parents, last = self._parts()
        array = (*self._descend((), parents), last)
        self.lines.setdefault(array, self._here())
        index = self._elements.get(array, 0)
        self._elements[array] = index + 1
        self._expect("]]")
        return self._define((*array, index))

    def _pair(self, table: Path) -> None:
        path = self._define(self._key(table))
        self._expect("=")
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        else:
            self._must(_SCALAR)

    def _array(self, path: Path) -> None:
        self._enter()
        for index in count():
            if self._skip(_GAP) and self._take("]"):
                break
            self.lines[(*path, index)] = self._here()
            self._value((*path, index))
            self._skip(_GAP)
            if not self._take(","):
                self._expect("]")
                break
        self.open.pop()

    def _inline_table(self, path: Path) -> None:
        self._enter()
        while not (self._skip(_GAP) and self._take("}")):
            self._pair(path)
            self._skip(_GAP)
            if not self._take(","):
                self._expect("}")
                break
        self.open.pop()

    def _enter(self) -> None:
        self.open.append(self._here())
        if len(self.open) > MAX_DEPTH:
            raise LimitError(self._here(), f"lists and tables are nested more than {MAX_DEPTH} deep")

    def _key(self, table: Path) -> Path:
        """The path of the dotted key that starts here, below ``table``; the tables on its way get this line too."""
        *parents, last = self._parts()
        return (*self._descend(table, parents), last)

    def _parts(self) -> list[str]:
        parts = []
        while True:
            self._skip(_BLANK)
            parts.append(self._part())
            if len(parts) > MAX_PARTS:
                raise LimitError(self._here(), f"a key has more than {MAX_PARTS} parts")
            self._skip(_BLANK)
            if not self._take("."):
                return parts

    def _part(self) -> str:
        part = self._must(_PART)
        if part[0] not in "\"'":
            return part
        if "\\" not in part:
            return part[1:-1]
        try:
            return str(tomllib.loads(f"key = {part}")["key"])
        except ValueError:
            self._stop()

    def _descend(self, path: Path, parts: list[str]) -> Path:
        """``path`` and ``parts``; a part that is an array of tables means its last element."""
        for part in parts:
            path = (*path, part)
            self.lines.setdefault(path, self._here())
            if elements := self._elements.get(path):
                path = (*path, elements - 1)
        return path

    def _define(self, path: Path) -> Path:
        if path in self._defined and not self.repeated:
            self.repeated = (path, self.lines[path], self._here())
        self._defined.add(path)
        self.lines[path] = self._here()
        return path

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Move past ``pattern``; whether any text is left."""
        self._must(pattern)
        return self.at < len(self.text)

    def _must(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if not found:
            self._stop()
        self.at = found.end()
        return found[0]

    def _take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            self._stop()

    def _stop(self) -> NoReturn:
        raise _NotUnderstoodError


# Syntax errors in plain words.

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_DROP = "remove it, or write it as \\uXXXX in double quotes"
_ESCAPE = "write \\\\ for a backslash, or use single quotes"
_END = "end it with the quote that it begins with"
_SENTENCES = {
    "Invalid value": ("this is not a TOML value", "put text in quotes, lists in [ ]; true and false are in lower case"),
    "Invalid statement": ("expected a key or a [table]", "write key = value"),
    "Expected '=' after": ("expected = after the key", "write key = value, and table names in [ ]"),
    "Expected newline": ("there is something after the value", "put text in quotes, and every key on its own line"),
    "Invalid initial": ("expected a key", "quote unusual keys; { } stays on one line, without a comma before }"),
    "Unterminated string": ("the string is not closed", _END),
    "Illegal character '\\n'": ("the string is not closed on its line", f'{_END}; several lines are put in """'),
    "Expected \"'": ("the string is not closed", _END),
    "Illegal character": ("there is a control character here", _DROP),
    "Found invalid character": ("there is a control character here", _DROP),
    "Unescaped": ("this backslash begins no TOML escape", _ESCAPE),
    "Invalid hex value": ("this backslash begins no TOML escape", _ESCAPE),
    "Escaped character": ("this is not a Unicode character", "check the digits after \\u"),
    "Unclosed array": ("the list is not closed", "put commas between its items and ] at its end"),
    "Unclosed inline": ("the inline table is not closed", "put commas between its keys and } at its end"),
    "Expected ']": ("the table name is not closed", "write [name], or [[name]] for one table of a list"),
    "Invalid date": ("there is no such date or time", "put it in quotes if it is text"),
    "Exceeds the limit": ("the number is too long", "put it in quotes if it is text"),
    "Cannot": ("this is defined twice", "keep one of the two"),
    "Duplicate": ("this is defined twice", "keep one of the two"),
}


def explain(error: ValueError, text: str, positions: Positions, file: str) -> Problem:
    """What ``tomllib`` said about ``text``, as a sentence with a line and a way out."""
    said = str(error)
    place = _PLACE.search(said)
    line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
    plain = next((words for start, words in _SENTENCES.items() if said.startswith(start)), None)
    message, hint = plain or (_PLACE.sub("", said), "")
    if message == "this is defined twice" and positions.repeated:
        path, first, line = positions.repeated
        return Problem(file=file, line=line, key=show(path), message=f"this is on line {first} already", hint=hint)
    if 0 < positions.unclosed < line:
        hint = f"{hint}; the bracket on line {positions.unclosed} is still open"
    return Problem(file=file, line=line, key="", message=message, hint=hint)
