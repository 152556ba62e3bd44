"""Declared tables that are kept as JSON: with a format version, a JSON Schema, and limits for those that are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reprobox import tables
from reprobox.digest import Json
from reprobox.errors import UsageError
from reprobox.tables import EMPTY, Reader, Special
from reprobox.toml_lines import Positions

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a document is to be: what messages call it, in short and in full; the newest format; most bytes of a file.

    ``again`` says how to have one that is whole, ``upgrade`` what helps where the format is newer.
    """

    name: str
    full: str
    format: int
    most: int
    again: str
    upgrade: str = "upgrade reprobox"


def document(table: Any) -> dict[str, Json]:
    """A table that has a ``format``, as JSON; that is always said, and other keys only where they are not at their
    default.
    """
    return {"format": table.format, **tables.document(table)}


def schema(cls: type, *, name: str, title: str, about: str, special: Special = EMPTY) -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a whole document, ``name`` being its ``$id``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": name,
        "title": title,
        "description": about,
        **tables.schema(cls, special),
    }


def load(data: bytes, form: Form, *, file: str) -> Mapping[str, Any]:
    """The object that ``data`` is. Raises :class:`UsageError`."""
    if len(data) > form.most:
        raise UsageError(
            f"it is larger than {form.most // _MIB} MiB, and so no {form.full}", where=file, hint=form.again
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"it is not JSON: {reason}", where=file, hint=form.again) from None
    if not isinstance(found, dict):
        raise UsageError(f"it is no {form.full}", where=file, hint=form.again)
    return found


def read(cls: type, found: Any, form: Form, *, file: str, path: tuple[str, ...] = ()) -> Any:
    """The ``cls`` that ``found`` says, the object at ``path``. Raises :class:`UsageError` with every mistake, by its
    key.
    """
    if not isinstance(found, dict) or type(found.get("format")) is not int or found["format"] < 1:
        raise UsageError(f"it is no {form.full}", where=file, hint=form.again)
    if found["format"] > form.format:
        raise UsageError(
            f"the {form.name} has format {found['format']}, and this reprobox knows up to {form.format}",
            where=file,
            hint=form.upgrade,
        )
    reader = Reader(file, Positions(lines={}))
    table = reader.table(cls, found, path)
    if reader.problems:
        raise UsageError("\n".join(str(replace(problem, line=0)) for problem in reader.problems))
    return table
