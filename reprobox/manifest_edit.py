"""Adding packages to a manifest's text, and removing them, without touching anything else of it. Pure.

The places of values come from the walk that reads every manifest (:mod:`reprobox.toml_lines`), and the text is cut
and joined there: comments, quotes, indentation, line ends and trailing commas stay byte for byte, and adding a
package and removing it again gives the text that was there.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

from reprobox import toml_lines
from reprobox.errors import UsageError
from reprobox.toml_lines import Path, Positions

#: What the layer is called that is made for the first package of a kind.
NAMES = {"apt": "system", "pip": "python"}
#: Tables that a manifest has below its layers.
_AFTER_LAYERS = ("env", "mounts", "run", "secrets", "targets")

_REST_OF_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|\Z)")
_VERSIONS = re.compile(r"[\s=<>~!;@(\[]")
_COMMA = re.compile(r"(?:[ \t\n]|#[^\n]*(?=\n))*,")

NameOf: TypeAlias = Callable[[str], str]
"""The name of a package as its kind spells it, from what the manifest or the command line says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of one package; ``package`` is as the manifest has it, or had it."""

    what: Literal["added", "changed", "removed", "there"]
    package: str
    layer: str


def add(
    text: str, kind: str, packages: Sequence[str], layer: str | None, name_of: NameOf
) -> tuple[str, tuple[Done, ...]]:
    """``text`` with ``packages`` in a layer of ``kind``, and what was done.

    A package that is there takes the versions that are given, where it is; another goes to the end of the layer's list.
    Raises :class:`UsageError` where it is not clear which layer is meant.
    """
    done = []
    for package in dict.fromkeys(packages):
        with_package, what = _with(_Text.read(text), kind, package, layer, name_of)
        text = with_package
        done.append(what)
    return text, tuple(done)


def remove(
    text: str, kind: str, packages: Sequence[str], layer: str | None, name_of: NameOf
) -> tuple[str, tuple[Done, ...]]:
    """``text`` without ``packages`` in layers of ``kind``; a layer that has no others goes with its last one.

    Raises :class:`UsageError` for a package that is not there, with near names, or that several layers have.
    """
    done = []
    for name in dict.fromkeys(map(name_of, packages)):
        document = _Text.read(text)
        held = _held(document, kind, name, layer, name_of)
        if not held:
            raise _not_there(document, kind, name, layer, name_of)
        if len(layers := list(dict.fromkeys(document.name(index) for index, _ in held))) > 1:
            raise UsageError(
                f"{name} is in more than one layer: {', '.join(layers)}",
                where="research.toml",
                hint=f"say which with --layer, such as --layer {layers[0]}",
            )
        for index, at in reversed(held):
            done.append(Done(what="removed", package=document.packages(index)[at], layer=document.name(index)))
            text = _without(document, index, at)
            document = _Text.read(text)
    return text, tuple(done)


# -- the document ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """A manifest's text with what it says and where. Lines end in a bare newline."""

    text: str
    layers: Sequence[Any]
    positions: Positions

    @classmethod
    def read(cls, text: str) -> _Text:
        positions = toml_lines.scan(text)
        return cls(text=text, layers=tomllib.loads(text).get("layers", []), positions=positions)

    def name(self, index: int) -> str:
        return str(self.layers[index].get("name", ""))

    def packages(self, index: int) -> list[str]:
        return [str(item) for item in self.layers[index].get("packages", ())]

    def of_kind(self, kind: str) -> list[int]:
        return [number for number, table in enumerate(self.layers) if table.get("kind") == kind]

    def cut(self, start: int, end: int, new: str = "") -> str:
        return self.text[:start] + new + self.text[end:]


def _held(document: _Text, kind: str, name: str, layer: str | None, name_of: NameOf) -> list[tuple[int, int]]:
    """Where packages of that name are: (layer, place in its list)."""
    return [
        (index, at)
        for index in document.of_kind(kind)
        if layer in (None, document.name(index))
        for at, item in enumerate(document.packages(index))
        if name_of(item) == name
    ]


def _with(document: _Text, kind: str, package: str, layer: str | None, name_of: NameOf) -> tuple[str, Done]:
    name = name_of(package)
    held = _held(document, kind, name, layer, name_of)
    if not held:
        return _added(document, kind, package, layer)
    for index, at in held:
        there = document.packages(index)[at]
        if package == there or not _VERSIONS.search(package):  # a bare name asks for no other versions
            return document.text, Done(what="there", package=there, layer=document.name(index))
    if len(held) > 1:  # the same package twice, as for two Python versions: which is meant cannot be known
        return _added(document, kind, package, document.name(held[0][0]))
    ((index, at),) = held
    start, end = document.positions.spans["layers", index, "packages", at]
    text = document.cut(start, end, _quoted(package, document.text[start]))
    return text, Done(what="changed", package=package, layer=document.name(index))


def _added(document: _Text, kind: str, package: str, layer: str | None) -> tuple[str, Done]:
    index = _chosen(document, kind, layer)
    if index is None:
        name = layer or _free(document, NAMES.get(kind, kind))
        return _with_layer(document, kind, name, package), Done(what="added", package=package, layer=name)
    done = Done(what="added", package=package, layer=document.name(index))
    return _appended(document, ("layers", index, "packages"), package), done


def _chosen(document: _Text, kind: str, layer: str | None) -> int | None:
    """The layer that new packages of ``kind`` go to; None where it is to be made."""
    indexes = document.of_kind(kind)
    names = [document.name(index) for index in indexes]
    if layer is not None:
        return _named(document, kind, layer, names)
    lists = [index for index in indexes if ("layers", index, "packages") in document.positions.spans]
    if len(lists) == 1 and len(indexes) == 1:
        return lists[0]
    if not indexes:
        return None
    if len(indexes) == 1:
        raise _no_list(document, indexes[0])
    raise UsageError(
        f"there is more than one layer of kind {kind}: {', '.join(names)}",
        where="research.toml",
        hint=f"say which with --layer, such as --layer {names[0]}",
    )


def _named(document: _Text, kind: str, layer: str, names: Sequence[str]) -> int | None:
    for index, table in enumerate(document.layers):
        if document.name(index) == layer and table.get("kind") != kind:
            other = table.get("kind")
            hint = f"layers of kind {kind}: {', '.join(names)}" if names else "leave --layer out, and one is made"
            raise UsageError(f"layer {layer!r} is of kind {other}, not {kind}", where="--layer", hint=hint)
        if document.name(index) == layer:
            if ("layers", index, "packages") not in document.positions.spans:
                raise _no_list(document, index)
            return index
    if not names:
        return None
    near = get_close_matches(layer, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"layers of kind {kind}: {', '.join(names)}"
    raise UsageError(f"there is no layer {layer!r}", where="--layer", hint=hint)


def _no_list(document: _Text, index: int) -> UsageError:
    """A layer whose packages another file names."""
    table = document.layers[index]
    key = next((key for key in ("requirements", "pylock", "project") if key in table), "")
    origin = f"from {table[key]!r}" if key else "from elsewhere"
    return UsageError(
        f"layer {document.name(index)!r} takes its packages {origin}",
        where="research.toml",
        hint="edit that file, or write a layer with `packages` and give its name with --layer",
    )


def _free(document: _Text, name: str) -> str:
    taken = {document.name(index) for index in range(len(document.layers))}
    numbers = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbers if other not in taken)


def _not_there(document: _Text, kind: str, name: str, layer: str | None, name_of: NameOf) -> UsageError:
    names = [name_of(item) for index in document.of_kind(kind) for item in document.packages(index)]
    others = [index for index in range(len(document.layers)) if name in document.packages(index)]
    where = f"layer {layer!r}" if layer else f"a layer of kind {kind}"
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "only what the manifest names can be removed"
    if name in names:
        hint = "leave --layer out, or name the layer that has it"
    elif others and (other := document.layers[others[0]].get("kind")) != kind:
        hint = f"layer {document.name(others[0])!r} has it: `reprobox remove {other} {name}`"
    return UsageError(f"no package {name!r} is in {where}", where="research.toml", hint=hint)


# -- layers ------------------------------------------------------------------------------------------------------------


def _with_layer(document: _Text, kind: str, name: str, package: str) -> str:
    """A new layer: below the others, but packages of the system above those of Python, which may need them."""
    if ("layers",) in document.positions.spans:
        table = f'{{ name = "{name}", kind = "{kind}", packages = [{_quoted(package)}] }}'
        return _appended(document, ("layers",), table, literal=True)
    block = f'[[layers]]\nname = "{name}"\nkind = "{kind}"\npackages = [{_quoted(package)}]'
    place = _place(document, kind)
    if place is not None:
        return document.cut(place, place, f"{block}\n\n")
    if document.text.endswith("\n"):
        return f"{document.text}\n{block}\n"
    return f"{document.text}\n\n{block}"


def _place(document: _Text, kind: str) -> int | None:
    """Where a new ``[[layers]]`` goes; None for the end of the file."""
    tables = document.positions.tables
    first_pip = next(iter(document.of_kind("pip")), None) if kind == "apt" else None
    if first_pip is not None:
        return next(_with_comments(document.text, start) for path, start in tables if path == ("layers", first_pip))
    numbers = [number for number, (path, _) in enumerate(tables) if path[:1] == ("layers",)]
    below = [item for item in tables if item[0][0] in _AFTER_LAYERS]
    after = tables[numbers[-1] + 1 :] if numbers else below
    return _with_comments(document.text, after[0][1]) if after else None


def _with_comments(text: str, start: int) -> int:
    """Where the comment lines begin that stand right above the line at ``start``."""
    while start and (line := text[text.rfind("\n", 0, start - 1) + 1 : start]).lstrip(" \t").startswith("#"):
        start -= len(line)
    return start


def _without(document: _Text, index: int, at: int) -> str:
    if len(document.packages(index)) > 1:
        return _deleted(document, ("layers", index, "packages"), at)
    if ("layers",) in document.positions.spans:
        return _deleted(document, ("layers",), index)
    return _without_layer(document, index)


def _without_layer(document: _Text, index: int) -> str:
    """Its tables go; comments above it stay, and those above the next table."""
    text, tables = document.text, document.positions.tables
    own = [number for number, (path, _) in enumerate(tables) if path[:2] == ("layers", index)]
    start = tables[own[0]][1]
    if own[-1] + 1 < len(tables):
        return document.cut(start, max(_with_comments(text, tables[own[-1] + 1][1]), start))
    blank = 1 if text.endswith("\n") else 2
    while blank and start and text[start - 1] == "\n" and text[: start - 1].strip():
        start -= 1
        blank -= 1
    return text[:start]


# -- lists -------------------------------------------------------------------------------------------------------------


def _quoted(text: str, like: str = '"') -> str:
    """A TOML string, in quotes ``like`` those beside it where the text allows."""
    if "'" not in text and (like == "'" or '"' in text) and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def _appended(document: _Text, path: Path, item: str, *, literal: bool = False) -> str:
    """The text with one more item in the list at ``path``, written as the last one is."""
    text, spans = document.text, document.positions.spans
    start, _ = spans[path]
    count = _count(document, path)
    if not count:
        return document.cut(start + 1, start + 1, item if literal else _quoted(item))
    first, end = spans[*path, count - 1]
    written = item if literal else _quoted(item, text[first])
    comma = _comma(text, end)
    tail = "," if comma else ""
    after = comma or end
    if not _on_its_own_line(text, first):
        return document.cut(after, after, f" {written}," if comma else f", {written}")
    indent = text[text.rfind("\n", 0, first) + 1 : first]
    rest = _REST_OF_LINE.match(text, after)
    place = rest.end() if rest else after
    added = f"\n{indent}{written}{tail}"
    if comma:
        return document.cut(place, place, added)
    return text[:end] + "," + text[end:place] + added + text[place:]


def _deleted(document: _Text, path: Path, at: int) -> str:
    """The text without item ``at`` of the list at ``path``, and without the comment on its line."""
    text, spans = document.text, document.positions.spans
    first, end = spans[*path, at]
    comma = _comma(text, end)
    after = comma or end
    last = at == _count(document, path) - 1
    if _on_its_own_line(text, first) and (rest := _REST_OF_LINE.match(text, after)):
        shorter = document.cut(text.rfind("\n", 0, first), rest.end())
        return shorter if comma or not last or not at else _without_comma(replace(document, text=shorter), path, at - 1)
    if not last:
        following, _ = spans[*path, at + 1]
        between = text[after:following]
        return document.cut(first, after if "\n" in between or "#" in between else following)
    if not at:
        return document.cut(first, after)
    _, before = spans[*path, at - 1]
    if comma:
        return document.cut(_comma(text, before) or before, comma)
    between = text[before:first]
    if "#" in between:
        return _without_comma(replace(document, text=document.cut(first, end)), path, at - 1)
    return document.cut(before, end)


def _without_comma(document: _Text, path: Path, at: int) -> str:
    """Item ``at``, which is the last one now, ends as the one after it did: without a comma."""
    _, end = document.positions.spans[*path, at]
    comma = _comma(document.text, end)
    return document.cut(comma - 1, comma) if comma else document.text


def _count(document: _Text, path: Path) -> int:
    count = 0
    while (*path, count) in document.positions.spans:
        count += 1
    return count


def _comma(text: str, end: int) -> int:
    """Where the comma after a value ends; 0 if there is none."""
    found = _COMMA.match(text, end)
    return found.end() if found else 0


def _on_its_own_line(text: str, first: int) -> bool:
    return not text[text.rfind("\n", 0, first) + 1 : first].strip()
