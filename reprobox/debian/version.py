"""The order of Debian package versions, as deb-version(7) defines it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

Key: TypeAlias = "tuple[int, _Part, _Part]"
_Part: TypeAlias = "tuple[tuple[tuple[int, ...], int], ...]"

_RUNS = re.compile(r"(\D*)(\d*)", re.ASCII)
_END = 1


@lru_cache(maxsize=65536)
def sort_key(version: str) -> Key:
    """A value that sorts as dpkg sorts ``version``; equal keys are equal versions (``1.0`` and ``0:1.0-0``)."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _part(upstream), _part(revision or "0")


def _part(text: str) -> _Part:
    return tuple((_letters(run), int(number or 0)) for run, number in _RUNS.findall(text))


def _letters(run: str) -> tuple[int, ...]:
    """Weights of a run without digits: tilde before the end, the end before letters, letters before the rest."""
    return (*(0 if char == "~" else ord(char) + (2 if char.isalpha() else 1024) for char in run), _END)


_OPERATORS = {
    "<<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    "=": lambda order: order == 0,
    ">=": lambda order: order >= 0,
    ">>": lambda order: order > 0,
    "<": lambda order: order <= 0,  # deprecated spellings that old indices still hold
    ">": lambda order: order >= 0,
}


def satisfies(version: str, operator: str, wanted: str) -> bool:
    """Whether ``version`` stands in the relation ``operator`` (``<<``, ``<=``, ``=``, ``>=``, ``>>``) to ``wanted``."""
    left, right = sort_key(version), sort_key(wanted)
    return bool(_OPERATORS[operator]((left > right) - (left < right)))
