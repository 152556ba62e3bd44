"""Laws of the scanner, checked against ``tomllib``."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from reprobox.toml_lines import LimitError, Path, _NotUnderstoodError, _Walk, scan
from tests.unit.test_toml_lines import HARD, paths

SCALARS = st.sampled_from(
    [
        *("1", "-0.5", "true", "inf", "0xFF", "1979-05-27", "1979-05-27 07:32:00Z"),
        *('""', "''", '"a # ] } , = b"', "'[\"'", '"\\" \\\\"'),
        *('"""\n"x" ]\n\\"""#"""', "'''a\n'b' }\n'''", '""""q""""', "'''''q'''''", '"""\\\n   x"""'),
    ]
)
BLANK = st.sampled_from(["", " ", "\t "])
GAP = st.sampled_from(["", " ", "\n", "  # ] a comment\n", "\n\n\t"])
END = st.sampled_from(["\n", "  # [x] = 1\n", "\n\n", "\n# comment\n"])


class Writer:
    """Writes TOML in random style and notes where it puts each path."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def put(self, text: str) -> None:
        self.text += text

    def mark(self, path: Path, *, again: bool = True) -> None:
        if again or path not in self.lines:
            self.lines[path] = self.text.count("\n") + 1

    def key(self, name: str) -> None:
        styles = [json.dumps(name), '"' + "".join(f"\\U{ord(letter):08x}" for letter in name) + '"']
        if "'" not in name and name.isprintable():
            styles.append(f"'{name}'")
        if name and name.isascii() and name.replace("-", "a").replace("_", "a").isalnum():
            styles.append(name)
        self.put(self.draw(BLANK) + self.draw(st.sampled_from(styles)) + self.draw(BLANK))

    def value(self, path: Path, value: Any) -> None:
        if isinstance(value, list):
            self.put("[")
            for index, item in enumerate(value):
                self.put(self.draw(GAP))
                self.mark((*path, index))
                self.value((*path, index), item)
                last = index == len(value) - 1
                self.put(self.draw(GAP) + ("" if last and self.draw(st.booleans()) else ","))
            self.put(self.draw(GAP) + "]")
        elif isinstance(value, dict):
            self.put("{")
            for index, (name, item) in enumerate(value.items()):
                self.put("," if index else "")
                self.pair(path, name, item)
                self.put(self.draw(BLANK))
            self.put("}")
        else:
            self.put(value)

    def pair(self, table: Path, name: str, value: Any) -> None:
        """``name = value``, or ``name.inner.… = value`` where the value is a table of one key."""
        path = (*table, name)
        self.mark(path)
        self.key(name)
        while isinstance(value, dict) and len(value) == 1 and self.draw(st.booleans()):
            ((inner, value),) = value.items()
            path = (*path, inner)
            self.mark(path)
            self.put(".")
            self.key(inner)
        self.put("=" + self.draw(BLANK))
        self.value(path, value)

    def table(self, path: Path, table: dict[str, Any]) -> None:
        tables = {name for name, item in table.items() if isinstance(item, dict) and self.draw(st.booleans())}
        lists = {name for name, item in table.items() if is_tables(item) and self.draw(st.booleans())}
        for name, item in table.items():
            if name not in tables | lists:
                self.put(self.draw(BLANK))
                self.pair(path, name, item)
                self.put(self.draw(END))
        for name in sorted(tables):
            self.header((*path, name), "[", "]")
            self.table((*path, name), table[name])
        for name in sorted(lists):
            for index, item in enumerate(table[name]):
                self.mark((*path, name), again=False)
                self.header((*path, name), "[[", "]]", index)
                self.table((*path, name, index), item)

    def header(self, path: Path, start: str, end: str, *index: int) -> None:
        self.put(self.draw(BLANK))
        self.mark((*path, *index))
        self.put(start)
        names = [part for part in path if isinstance(part, str)]
        for position, name in enumerate(names):
            self.put("." if position else "")
            self.key(name)
        self.put(end + self.draw(END))


def is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


NAMES = st.sampled_from(["a", "b", "a-b", "1", "a.b", "", "é", "[x]", "/data", "#", '"', "=", "\n"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    writer = Writer(draw)
    writer.put(draw(GAP))
    writer.table((), draw(st.dictionaries(NAMES, VALUES, max_size=5)))
    return writer


@given(documents())
def test_every_path_has_exactly_the_line_it_was_written_on(written: Writer):
    found = _Walk(written.text)
    found.document()
    assert found.lines == written.lines
    assert set(paths(tomllib.loads(written.text))) == set(found.lines)
    assert found.repeated is None


PIECES = [
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    " ",
    "#",
    '"',
    "'",
    '"""',
    "'''",
    "\\",
    "a",
    "b",
    "1",
    "\\u0061",
    "a = ",
    "[[a]]\n",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=20))
@example(HARD)
@example("[[a.b]]\n[a]\nc = 1\n[a.d]\n")
@example('a = """\\\r\n"""\n')
def test_whatever_tomllib_accepts_is_walked_to_its_end(text: str):
    text = text.replace("\r\n", "\n")
    walk = _Walk(text)
    try:
        walk.document()
        understood = True
    except (_NotUnderstoodError, LimitError):
        understood = False
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert understood
    assert set(walk.lines) == set(paths(parsed))


@given(documents(), st.integers(min_value=0))
def test_a_torn_document_still_has_positions(written: Writer, cut: int):
    text = written.text[: cut % (len(written.text) + 1)]
    positions = scan(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in positions.lines.values())
