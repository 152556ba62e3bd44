r"""What ``.gitignore`` files leave out: a reader of gitignore(5), path by path as git itself decides.

Names are bytes, as in git: ``?`` is one byte. Only files that travel with a project are read. What git is told in other
places (``core.excludesFile``, ``.git/info/exclude``, what is tracked) stays on one machine, and a hash must be the same
on all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

#: ``ignored(path, is_folder)``: whether a path is left out, given that the folders above it are not.
Ignored: TypeAlias = Callable[[bytes, bool], bool]


class Rule(NamedTuple):
    """One line: what it matches, the path from its file's folder or only the name, and what that means."""

    match: Callable[[bytes], object]
    whole: bool
    folders_only: bool
    ignores: bool


def ignore_rules(root: Path, patterns: Sequence[str], top: Path | None = None) -> Ignored:
    """What is left out below ``root``, which is ``top`` or a folder below it.

    ``patterns`` (of the manifest; their place is ``root``) count most, then the ``.gitignore`` nearest to a path, up to
    the one of ``top``.
    """
    own = read_rules(pattern.encode() for pattern in patterns)
    prefix = os.fsencode(os.path.relpath(root, top or root)).removeprefix(b".")
    start = os.fsencode(top or root)
    files: dict[bytes, list[Rule]] = {}

    def rules(folder: bytes) -> list[Rule]:
        if folder not in files:
            files[folder] = read_rules(_lines(os.path.join(start, folder, b".gitignore")))
        return files[folder]

    def ignored(path: bytes, folder: bool) -> bool:  # noqa: FBT001 - the shape of a predicate
        verdict = _verdict(own, path, folder=folder)
        place = b"/".join(part for part in (prefix, path) if part)
        above = place
        while verdict is None and above:
            above = above.rpartition(b"/")[0]
            verdict = _verdict(rules(above), place[len(above) + 1 :] if above else place, folder=folder)
        return bool(verdict)

    return ignored


def _verdict(rules: Sequence[Rule], path: bytes, *, folder: bool) -> bool | None:
    """What the last rule that matches says."""
    name = path.rpartition(b"/")[2]
    for rule in reversed(rules):
        if (folder or not rule.folders_only) and rule.match(path if rule.whole else name):
            return rule.ignores
    return None


def _lines(path: bytes) -> list[bytes]:
    """The lines of a ``.gitignore``; git does not read one through a link either."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError:
        return []


def read_rules(lines: Iterable[bytes]) -> list[Rule]:
    """The rules of a file's lines, in their order; lines that can match nothing are left out."""
    found = (_rule(line.removesuffix(b"\r")) for line in lines)
    return [rule for rule in found if rule is not None]


_TRAILING = re.compile(rb"((?:[^\\ ]|\\.| +(?=[^ ]))*) *\Z", re.DOTALL)


def _rule(line: bytes) -> Rule | None:
    if line.startswith(b"#"):
        return None
    trimmed = _TRAILING.match(line)
    pattern = trimmed[1] if trimmed else line
    ignores = not pattern.startswith(b"!")
    pattern = pattern if ignores else pattern[1:]
    folders_only = pattern.endswith(b"/")
    pattern = pattern[:-1] if folders_only else pattern
    whole = b"/" in pattern
    expression = _expression(pattern.removeprefix(b"/"))
    if not pattern or expression is None:
        return None
    return Rule(re.compile(expression, re.DOTALL).fullmatch, whole, folders_only, ignores)


# -- patterns: wildmatch.c with WM_PATHNAME ----------------------------------------------------------------------------


def _expression(pattern: bytes) -> bytes | None:
    """The pattern as a regular expression; None if it is broken, and so matches nothing."""
    out = b""
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            piece, at = _stars(pattern, at)
        elif char == b"[":
            found = _bracket(pattern, at)
            if found is None:
                return None
            piece, at = found
        elif char == b"?":
            piece, at = b"[^/]", at + 1
        elif char == b"\\":
            if at + 1 == len(pattern):
                return None
            piece, at = re.escape(pattern[at + 1 : at + 2]), at + 2
        else:
            piece, at = re.escape(char), at + 1
        out += piece
    return out


def _stars(pattern: bytes, at: int) -> tuple[bytes, int]:
    """``*`` stays within a folder; ``**`` that fills the space between slashes goes over them."""
    end = at
    while pattern[end : end + 1] == b"*":
        end += 1
    opens = at == 0 or pattern[at - 1 : at] == b"/"
    if end - at < 2 or not opens or pattern[end : end + 1] not in (b"", b"/"):
        return b"[^/]*", end
    if pattern[end : end + 1] == b"/":
        return b"(?:.*/)?", end + 1
    return b".*", end


_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": b"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": b"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb" \t-\r",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
_ITEM = re.compile(rb"\[:(?P<name>[^]]*):\]|(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^]\\]))?", re.DOTALL)


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int] | None:
    """A set of bytes, which never has the slash; None if it has no end or an unknown class."""
    start = at + 1
    negated = pattern[start : start + 1] in (b"!", b"^")
    here = start = start + negated
    items = b""
    while here == start or pattern[here : here + 1] != b"]":
        item = _ITEM.match(pattern, here)
        if item is None:
            return None
        if item["name"] is not None:
            if item["name"] not in _CLASSES:
                return None
            items += _CLASSES[item["name"]]
        else:
            low, high = item["low"][-1], (item["high"] or item["low"])[-1]
            items += b"\\x%02x-\\x%02x" % (low, max(low, high))  # of a range the wrong way round, its start alone
        here = item.end()
    return b"(?!/)[%s%s]" % (b"^" if negated else b"", items), here + 1
