"""How messages call what they found, quote it, list what may be, and guess what was meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from reprobox.toml_lines import bare_or_quoted, shortened

_FOUND = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", list: "a list", dict: "a table"}


def found(value: object) -> str:
    """What a parsed TOML value is called: ``an integer``, ``a table``."""
    return _FOUND.get(type(value), "a date or time")


def quote(text: str) -> str:
    """``text`` in double quotes on one line, shortened where it is long. A terminal sees only what it prints."""
    said = json.dumps(shortened(text), ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in said)


def listed(names: Sequence[str], conjunction: str = "or") -> str:
    """``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint with the nearest of ``known``; where none is near, all of them if they are few, else ``otherwise``."""
    candidates = list(known)
    few = len(name) <= 64 and len(candidates) <= 1000  # comparing costs the product of both
    if few and (near := get_close_matches(name.lower(), candidates, n=1)):
        return f"did you mean {quote(near[0])}?"
    if 0 < len(candidates) <= 12:
        return f"known here: {', '.join(map(bare_or_quoted, sorted(candidates)))}"
    return otherwise
