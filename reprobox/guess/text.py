"""A guess as the text of a manifest, with the reason above each table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reprobox.digest import Json

_WIDTH = 110


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table of the manifest: how it is headed, its keys in order, and why it is so."""

    head: str
    keys: Mapping[str, Json]
    why: str

    @property
    def name(self) -> str:
        """``base``, ``layers.system``."""
        head = self.head.strip("[]")
        return f"{head}.{self.keys['name']}" if head == "layers" else head


def manifest_text(tables: Iterable[Table]) -> str:
    """The manifest."""
    return "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    lines = [f"{_key(name)} = {_value(value)}" for name, value in table.keys.items()]
    return "\n".join([f"{table.head}  # {_comment(table.why)}", *lines, ""])


def _comment(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Json) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, Sequence):
        items = [_value(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return json.dumps(value)
