"""Rules for one string of a table, and rules about which of its keys go together: what to say, and as JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from reprobox.digest import Json
from reprobox.wording import listed, quote


class Finding(NamedTuple):
    """What is wrong with a value, and what to do about it."""

    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A rule for one string. ``find`` says what is wrong with it; ``schema`` says as much of it as JSON Schema can."""

    find: Callable[[str], Finding | None]
    schema: Mapping[str, Json] = field(default_factory=dict)


def pattern(regex: str, expected: str, hint: str = "") -> Check:
    """The whole string must match ``regex``; the message is ``expected <expected>, found <the string>``."""
    compiled = re.compile(regex)

    def find(text: str) -> Finding | None:
        return None if compiled.fullmatch(text) else Finding(f"expected {expected}, found {quote(text)}", hint)

    return Check(find=find, schema={"pattern": f"^(?:{regex})$"})


class Rule(NamedTuple):
    """A rule about which keys of one table go together. ``find`` is given the keys that the table has."""

    find: Callable[[AbstractSet[str]], Finding | None]
    schema: Mapping[str, Json]


def exactly_one(*names: str) -> Rule:
    """One of these keys must be there, and no other of them."""

    def find(given: AbstractSet[str]) -> Finding | None:
        present = [name for name in names if name in given]
        if not present:
            return Finding(f"expected one of {listed(names)}", "add one of these keys")
        return (
            None if len(present) == 1 else Finding(f"{listed(present, 'and')} cannot go together", "keep one of them")
        )

    return Rule(find, {"oneOf": [{"required": [name]} for name in names]})


def at_least_one(*names: str) -> Rule:
    """One or more of these keys must be there."""

    def find(given: AbstractSet[str]) -> Finding | None:
        return (
            None
            if given & set(names)
            else Finding(f"expected at least one of {listed(names)}", "add one of these keys")
        )

    return Rule(find, {"anyOf": [{"required": [name]} for name in names]})


def at_most_one(*names: str) -> Rule:
    """No two of these keys may be there."""

    def find(given: AbstractSet[str]) -> Finding | None:
        present = [name for name in names if name in given]
        return None if len(present) < 2 else Finding(f"{listed(present, 'and')} cannot go together", "keep one of them")

    return Rule(find, {"not": {"required": list(names)}} if len(names) == 2 else {})


def needs(name: str, other: str) -> Rule:
    """Where ``name`` is there, ``other`` must be too."""

    def find(given: AbstractSet[str]) -> Finding | None:
        missing = name in given and other not in given
        return Finding(f"`{name}` needs `{other}`", f"add `{other}`") if missing else None

    return Rule(find, {"dependentRequired": {name: [other]}})


def needs_any(name: str, *others: str) -> Rule:
    """Where ``name`` is there, one of the others must be too."""

    def find(given: AbstractSet[str]) -> Finding | None:
        wanted = listed([f"`{other}`" for other in others])
        missing = name in given and given.isdisjoint(others)
        return Finding(f"`{name}` needs {wanted}", f"add {wanted}, or leave it out") if missing else None

    return Rule(find, {"dependentSchemas": {name: {"anyOf": [{"required": [other]} for other in others]}}})
