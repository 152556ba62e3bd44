"""The scanner: the line of every key, on documents written to be hard."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from reprobox.toml_lines import MAX_DEPTH, MAX_PARTS, LimitError, Path, scan, show

HARD = '''\
# a comment with [brackets] and = signs
title = "a # no comment"   # a comment
"quoted key" = 'C:\\no\\escape'
'lit.eral' = """
first # no comment
]] "two quotes"" \\""" still
"""
"esc\\u0061ped" = 1
a.b . "c d" = 1979-05-27 07:32:00   # dotted
a.b.e = \'\'\'
it's
\'\'\'\'
numbers = [ # comment ]
  1, [2,
  3], # [
  { x = 1, y.z = [
    4 ] },

  """
  text
  """, "end"
]
empty = []
none = {}

[ table . "sub table" ]   # header
key = true

[[list]]
name = "one"
  [[list.inner]]
  name = "deep"
  [[list.inner]]
  [list.inner.table]
  x = 1
[[list]]
[list.sub]
x = inf
[table]
y = 07:32:00'''

LINES: dict[Path, int] = {
    ("title",): 2,
    ("quoted key",): 3,
    ("lit.eral",): 4,
    ("escaped",): 8,
    ("a",): 9,
    ("a", "b"): 9,
    ("a", "b", "c d"): 9,
    ("a", "b", "e"): 10,
    ("numbers",): 13,
    ("numbers", 0): 14,
    ("numbers", 1): 14,
    ("numbers", 1, 0): 14,
    ("numbers", 1, 1): 15,
    ("numbers", 2): 16,
    ("numbers", 2, "x"): 16,
    ("numbers", 2, "y"): 16,
    ("numbers", 2, "y", "z"): 16,
    ("numbers", 2, "y", "z", 0): 17,
    ("numbers", 3): 19,
    ("numbers", 4): 21,
    ("empty",): 23,
    ("none",): 24,
    ("table",): 39,
    ("table", "sub table"): 26,
    ("table", "sub table", "key"): 27,
    ("list",): 29,
    ("list", 0): 29,
    ("list", 0, "name"): 30,
    ("list", 0, "inner"): 31,
    ("list", 0, "inner", 0): 31,
    ("list", 0, "inner", 0, "name"): 32,
    ("list", 0, "inner", 1): 33,
    ("list", 0, "inner", 1, "table"): 34,
    ("list", 0, "inner", 1, "table", "x"): 35,
    ("list", 1): 36,
    ("list", 1, "sub"): 37,
    ("list", 1, "sub", "x"): 38,
    ("table", "y"): 40,
}


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path below a parsed document."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in below:
        yield (*path, part)
        yield from paths(inner, (*path, part))


def test_every_key_of_a_hard_document_has_its_line():
    assert dict(scan(HARD).lines) == LINES
    assert set(paths(tomllib.loads(HARD))) == set(LINES)


def test_a_path_that_is_not_there_has_the_line_of_the_table_around_it():
    positions = scan(HARD)
    assert positions.line(("list", 0, "inner", 1, "missing", 3)) == 33
    assert positions.line(("nothing",)) == 1
    assert scan("").line(()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a =",
        "a = ]",
        "= 1",
        "[a",
        "[[a]",
        'a = "',
        "a = '''",
        "a = [1 2]",
        "a = {b}",
        "a = 1 b = 2",
        "\0",
        "a = {,}",
        '"\\q" = 1',
    ],
)
def test_what_is_not_toml_ends_the_walk_quietly(text: str):
    positions = scan(f"first = 1\n{text}\nlast = 2\n")
    assert positions.lines["first",] == 1
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(f"first = 1\n{text}\nlast = 2\n")


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("a = 1\nb = 2\na = 3", (("a",), 1, 3)),
        ("[a]\n[b]\n[a]", (("a",), 1, 3)),
        ("x = {\ta = 1, a = 2 }", (("x", "a"), 1, 1)),
        ("[a.b]\n[a]\n[[c]]\n[[c]]", None),
    ],
)
def test_a_key_that_is_defined_twice_is_found(text: str, repeated: tuple[Path, int, int] | None):
    assert scan(text).repeated == repeated


def test_the_bracket_that_stays_open_is_found():
    assert scan("a = 1\nb = [\n[1],\n{ c = 2\nd = 3\n").unclosed == 2
    assert scan("a = [[]]\n").unclosed == 0


def nested(depth: int) -> str:
    return "\na = " + "[" * depth + "]" * depth


def dotted(parts: int) -> str:
    return "\n" + ".".join("a" * parts) + " = 1"


def test_limits_are_exact_and_say_where():
    scan(nested(MAX_DEPTH))
    scan(dotted(MAX_PARTS))
    with pytest.raises(LimitError, match="nested more than 64 deep") as deep:
        scan(nested(MAX_DEPTH + 1))
    with pytest.raises(LimitError, match="more than 16 parts") as long:
        scan(dotted(MAX_PARTS + 1))
    assert (deep.value.line, long.value.line) == (2, 2)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("layers", 1, "packages", 0), "layers[1].packages[0]"),
        (("mounts", "/dataset", "mode"), 'mounts."/dataset".mode'),
        (("a.b", 'q"\\', "\x1b"), '"a.b"."q\\"\\\\"."\\u001b"'),
        (("", "x" * 100), '"".' + "x" * 77 + "…"),
    ],
)
def test_paths_are_shown_as_people_write_them(path: Path, text: str):
    assert show(path) == text
