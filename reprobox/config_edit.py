"""Adding places to the text of the settings without touching anything else of it. Pure.

tomlkit keeps comments, quotes, indentation and the order of keys; what it would write otherwise than it read it is left
to the person whose file it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from reprobox.errors import UsageError
from reprobox.manifest_edit import append, string


def with_places(text: str, *, vaults: Sequence[str] = (), archives: Mapping[str, Sequence[str]]) -> str:
    """``text`` with more ``vaults`` and more base URIs of ``archives``, each after those that are there already.

    Raises :class:`UsageError` for settings that cannot be edited without moving something else.
    """
    wanted = _wanted(text, vaults, archives)
    if wanted == tomllib.loads(text):
        return text
    edited = text if text.endswith("\n") or not text else f"{text}\n"
    try:
        edited = _with_archives(_with_vaults(edited, vaults), archives)
        good = tomllib.loads(edited) == wanted
    except (TOMLKitError, AttributeError, TypeError, ValueError):
        good = False
    if not good:
        lines = [f"vaults = {list(vaults)}", *(f"archives.{name} = {list(uris)}" for name, uris in archives.items())]
        raise UsageError(
            "the settings cannot be edited without moving something else of them",
            hint=f"write this into them yourself: {'; '.join(lines)}",
        )
    return edited


def _wanted(text: str, vaults: Sequence[str], archives: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the settings shall say."""
    document: dict[str, Any] = tomllib.loads(text)
    if vaults:
        document["vaults"] = _more(document.get("vaults", []), vaults)
    if archives:
        said = dict(document.get("archives", {}))
        said |= {name: _more(said.get(name, []), uris) for name, uris in archives.items()}
        document["archives"] = said
    return document


def _more(there: Any, items: Sequence[str]) -> list[Any]:
    return [*there, *(item for item in dict.fromkeys(items) if item not in there)]


def _with_vaults(text: str, vaults: Sequence[str]) -> str:
    document = tomlkit.parse(text)
    if not vaults:
        return text
    if "vaults" in document:
        _extend(document["vaults"], vaults)
        return tomlkit.dumps(document)
    # A key of its own goes above all tables, and below the comment that a file begins with.
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join([*lines[:start], f"vaults = {_array(vaults).as_string()}\n", *lines[start:]])


def _with_archives(text: str, archives: Mapping[str, Sequence[str]]) -> str:
    document = tomlkit.parse(text)
    if archives and "archives" not in document:
        table = tomlkit.table()
        if document.body:
            table.trivia.indent = "\n"
        document.append("archives", table)
    for name, uris in archives.items():
        table_: Any = document["archives"]
        if name in table_:
            _extend(table_[name], uris)
        else:
            table_[name] = _array(uris)
    return tomlkit.dumps(document)


def _array(items: Sequence[str]) -> Any:
    array = tomlkit.array()
    for item in items:
        array.append(string(item))
    return array


def _extend(array: Any, items: Sequence[str]) -> None:
    for item in items:
        if item not in array:
            append(array, string(item, like=array[-1].as_string()[0] if array else '"'))
