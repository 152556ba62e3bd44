"""Tables declared once: a frozen dataclass whose fields are made by :func:`key` is what a TOML table may say.

From that one declaration come the reader, which collects every mistake with its place and what to do about it, the JSON
Schema, and the canonical form that is hashed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, Union, get_args, get_origin, get_type_hints

from reprobox.digest import Json
from reprobox.errors import ManifestError, Problem
from reprobox.table_rules import Check, Finding
from reprobox.toml_lines import Path, Positions, show
from reprobox.wording import did_you_mean, found, listed, quote

MAX_PROBLEMS = 1000

BAD: Any = object()
"""Stands for a value that could not be read; the problem is recorded already."""

REQUIRED: Any = object()
"""The default of a key that has none."""


LATER = "a later release"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What :func:`key` declares about one key of a table."""

    doc: str
    default: Any
    toml_name: str
    check: Check | None
    check_names: Check | None
    refers: str
    nonempty: bool
    available: bool
    since: str
    hint: str
    said: bool


def key(  # noqa: PLR0913 - one keyword for each thing that can be declared
    doc: str,
    *,
    default: Any = REQUIRED,
    toml_name: str = "",
    check: Check | None = None,
    check_names: Check | None = None,
    refers: str = "",
    nonempty: bool = False,
    available: bool = True,
    since: str = LATER,
    hint: str = "",
    said: bool = True,
) -> Any:
    """Declare a field as a key of the table; its type says what values it takes.

    Types: ``str``, ``int``, ``bool``, ``Literal`` of strings, another declared dataclass, ``tuple[T, ...]``,
    ``Mapping[str, T]``, and any of them ``| None``. ``doc`` is one sentence for schema and editors. Without a
    ``default`` the key is required, and ``hint`` says what to add when it is missing. ``toml_name`` is for names that
    Python cannot spell (``from``). ``check`` is applied to every string of the value, ``check_names`` to the keys of a
    mapping. ``refers`` names the top-level table whose entries the strings must name. ``nonempty`` refuses an empty
    list or mapping. ``available=False`` marks a key that is read and checked but has no behaviour before ``since``.
    ``said=False`` marks one that changes nothing of what is built, and so is no part of the canonical form.
    """
    declared = Key(
        doc=doc,
        default=default,
        toml_name=toml_name,
        check=check,
        check_names=check_names,
        refers=refers,
        nonempty=nonempty,
        available=available,
        since=since,
        hint=hint,
        said=said,
    )
    if default is REQUIRED:
        return field(metadata={"key": declared})
    return field(default_factory=lambda: default, metadata={"key": declared})


EMPTY: Mapping[Any, Any] = MappingProxyType({})
"""The default of a mapping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """A key of a table: its TOML name, the attribute that holds it, the shape of its value, what was declared of it."""

    name: str
    attribute: str
    shape: Shape
    key: Key


@cache
def declared(cls: type) -> Mapping[str, Declared]:
    """The keys of the table ``cls`` by their TOML names, in the order of declaration."""
    hints = get_type_hints(cls)
    found = {}
    for item in fields(cls):
        if about := item.metadata.get("key"):
            name = about.toml_name or item.name
            found[name] = Declared(name=name, attribute=item.name, shape=_shape(hints[item.name]), key=about)
    return MappingProxyType(found)


# Shapes: what a value may be.


class Shape(Protocol):
    """A type of TOML value: how it is called, written, read and described."""

    @property
    def noun(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def form(self) -> str: ...
    def read(self, reader: Reader, value: object, path: Path, about: Key, /) -> Any: ...
    def schema(self, about: Key, special: Special, /) -> dict[str, Json]: ...


Special: TypeAlias = Mapping[type, Callable[[], dict[str, Json]]]
"""Schemas of tables that are not made from their declaration alone."""


@dataclass(frozen=True, slots=True)
class _Scalar:
    python: type
    noun: str
    plural: str
    json: str
    form: str

    def read(self, reader: Reader, value: object, path: Path, about: Key, /) -> Any:
        if type(value) is not self.python:
            return reader.mismatch(self, value, path)
        return reader.text(value, path, about) if isinstance(value, str) else value

    def schema(self, about: Key, _special: Special, /) -> dict[str, Json]:
        return {"type": self.json, **(about.check.schema if about.check and self.json == "string" else {})}


@dataclass(frozen=True, slots=True)
class _Choice:
    values: tuple[str, ...]
    plural: ClassVar[str] = "choices"
    form: ClassVar[str] = "write one of them, in quotes"

    @property
    def noun(self) -> str:
        return listed([quote(value) for value in self.values])

    def read(self, reader: Reader, value: object, path: Path, _about: Key, /) -> Any:
        if not isinstance(value, str):
            return reader.mismatch(self, value, path)
        if value not in self.values:
            return reader.problem(path, f"expected {self.noun}, found {quote(value)}", did_you_mean(value, self.values))
        return value

    def schema(self, _about: Key, _special: Special, /) -> dict[str, Json]:
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class _ListOf:
    item: Shape

    @property
    def noun(self) -> str:
        return f"a list of {self.item.plural}"

    @property
    def plural(self) -> str:
        return f"lists of {self.item.plural}"

    @property
    def form(self) -> str:
        if isinstance(self.item, _TableOf):
            return "write it as [[ … ]] tables, or as a list: [{ … }, { … }]"
        return 'write it as a list: ["…", "…"]'

    def read(self, reader: Reader, value: object, path: Path, about: Key, /) -> Any:
        if not isinstance(value, list):
            return reader.mismatch(self, value, path)
        if about.nonempty and not value:
            return reader.problem(path, "the list is empty", about.hint or "add an item, or leave the key out")
        items = tuple(self.item.read(reader, item, (*path, index), about) for index, item in enumerate(value))
        return BAD if BAD in items else items

    def schema(self, about: Key, special: Special, /) -> dict[str, Json]:
        least: dict[str, Json] = {"minItems": 1} if about.nonempty else {}
        return {"type": "array", "items": self.item.schema(about, special), **least}


@dataclass(frozen=True, slots=True)
class _MapOf:
    item: Shape

    @property
    def noun(self) -> str:
        return f"a table of {self.item.plural}"

    @property
    def plural(self) -> str:
        return f"tables of {self.item.plural}"

    @property
    def form(self) -> str:
        return _TableOf.form

    def read(self, reader: Reader, value: object, path: Path, about: Key, /) -> Any:
        if not isinstance(value, dict):
            return reader.mismatch(self, value, path)
        if about.nonempty and not value:
            return reader.problem(path, "the table is empty", "add an entry, or leave the table out")
        good = [reader.name(name, (*path, name), about) for name in value]
        items = {name: self.item.read(reader, item, (*path, name), about) for name, item in value.items()}
        return MappingProxyType(items) if all(good) and BAD not in items.values() else BAD

    def schema(self, about: Key, special: Special, /) -> dict[str, Json]:
        names: dict[str, Json] = {"propertyNames": dict(about.check_names.schema)} if about.check_names else {}
        return {"type": "object", "additionalProperties": self.item.schema(about, special), **names}


@dataclass(frozen=True, slots=True)
class _TableOf:
    cls: type
    noun: ClassVar[str] = "a table"
    plural: ClassVar[str] = "tables"
    form: ClassVar[str] = "write it as a [table], or inline as { name = value }"

    def read(self, reader: Reader, value: object, path: Path, _about: Key, /) -> Any:
        if not isinstance(value, dict):
            return reader.mismatch(self, value, path)
        read: Callable[..., Any] = reader.special.get(self.cls, Reader.table)
        return read(reader, self.cls, value, path)

    def schema(self, _about: Key, special: Special, /) -> dict[str, Json]:
        return special[self.cls]() if self.cls in special else schema(self.cls, special)


_SCALARS = {
    str: _Scalar(str, "a string", "strings", "string", "write text in quotes"),
    int: _Scalar(int, "an integer", "integers", "integer", "write a whole number, without quotes"),
    bool: _Scalar(bool, "true or false", "booleans", "boolean", "write true or false, without quotes"),
}


def _shape(hint: Any) -> Shape:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin in (Union, UnionType):
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _shape(hint)
    if origin is Literal:
        return _Choice(arguments)
    if origin is tuple:
        return _ListOf(_shape(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _MapOf(_shape(arguments[1]))
    return _TableOf(hint)


# Reading.


class Reader:
    """Walks declared tables against parsed TOML; problems are collected, never raised.

    ``special`` has the tables that are read in a way of their own. What is read and sound but has no behaviour yet goes
    to ``unavailable``; what names an entry of another table goes to ``references`` as (path, that table, the name).
    """

    def __init__(self, file: str, positions: Positions, special: Mapping[type, Callable[..., Any]] = EMPTY) -> None:
        self.file = file
        self.positions = positions
        self.special = special
        self.problems: list[Problem] = []
        self.unavailable: list[Problem] = []
        self.references: list[tuple[Path, str, str]] = []

    def at(self, path: Path, message: str, hint: str = "") -> Problem:
        """A problem at ``path``."""
        return Problem(file=self.file, line=self.positions.line(path), key=show(path), message=message, hint=hint)

    def problem(self, path: Path, message: str, hint: str = "") -> Any:
        """Record a problem at ``path``; returns :data:`BAD`, to be returned in place of the value."""
        if len(self.problems) == MAX_PROBLEMS:
            more = self.at((), f"more than {MAX_PROBLEMS} problems", "mend these first")
            raise ManifestError([*by_line(self.problems), more])
        self.problems.append(self.at(path, message, hint))
        return BAD

    def mismatch(self, shape: Shape, value: object, path: Path) -> Any:
        """Record that ``value`` is of another type than ``shape``."""
        return self.problem(path, f"expected {shape.noun}, found {found(value)}", _mend(shape, value))

    def not_yet(self, path: Path, what: str, since: str) -> None:
        """Record that ``what`` is understood but has no behaviour in this version."""
        self.unavailable.append(self.at(path, *not_yet(what, since)))

    def table(
        self, cls: type, value: Mapping[str, object], path: Path, *, beside: Collection[str] = (), **more: Any
    ) -> Any:
        """An instance of ``cls``, or :data:`BAD`.

        ``beside`` are keys that someone else reads; ``more`` are fields that are no keys. ``MISPLACED`` of a class has
        hints for keys that people write there and that belong elsewhere.
        """
        known = declared(cls)
        for name in value:
            if name not in known and name not in beside:
                elsewhere = getattr(cls, "MISPLACED", EMPTY).get(name)
                hint = elsewhere or did_you_mean(name, [*known, *beside], otherwise="remove it")
                self.problem((*path, name), "unknown key", hint)
        for rule in getattr(cls, "RULES", ()):
            if finding := rule.find(value.keys()):
                self.problem(path, *finding)
        values = {item.attribute: self._value(item, value, (*path, item.name)) for item in known.values()}
        return BAD if BAD in values.values() else cls(**values, **more)

    def _value(self, item: Declared, table: Mapping[str, object], path: Path) -> Any:
        if item.name not in table:
            if item.key.default is REQUIRED:
                return self.problem(path, "required, and missing", item.key.hint or f"add it: {item.key.doc}")
            return item.key.default
        value = item.shape.read(self, table[item.name], path, item.key)
        if not item.key.available and value is not BAD and value != item.key.default:
            self.not_yet(path, f"`{item.name}`", item.key.since)
        return value

    def text(self, value: str, path: Path, about: Key) -> Any:
        """A string, checked as ``about`` says."""
        if "\0" in value:
            return self.problem(path, "a NUL character is not allowed", "remove \\u0000")
        if about.check and (finding := about.check.find(value)):
            return self.problem(path, *finding)
        if about.refers:
            self.references.append((path, about.refers, value))
        return value

    def name(self, name: str, path: Path, about: Key) -> bool:
        """Whether ``name`` may be a key of the mapping that ``about`` declares."""
        finding = about.check_names.find(name) if about.check_names else None
        if "\0" in name:
            finding = Finding("a NUL character is not allowed", "remove \\u0000")
        if finding:
            self.problem(path, *finding)
        return finding is None


def by_line(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """``problems`` in the order of their lines."""
    return tuple(sorted(problems, key=lambda problem: problem.line))


def _mend(shape: Shape, value: object) -> str:
    if isinstance(shape, _Scalar) and shape.python is str and isinstance(value, int | float):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return f"put it in quotes: {quote(text)}"
    if isinstance(shape, _ListOf) and isinstance(value, str) and isinstance(shape.item, _Scalar):
        return f"write {json.dumps(_words(value), ensure_ascii=False)}"
    return shape.form


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def not_yet(what: str, since: str = LATER) -> Finding:
    """What is said of something that is understood but has no behaviour in this version."""
    return Finding(f"{what} is not available yet in this version; it comes in {since}", "leave it out for now")


# JSON Schema and canonical form.


def schema(cls: type, special: Special = EMPTY) -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of the table ``cls``."""
    known = declared(cls).values()
    document: dict[str, Json] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {item.name: property_schema(item, special) for item in known},
    }
    if required := [item.name for item in known if item.key.default is REQUIRED]:
        document["required"] = required
    for rule in getattr(cls, "RULES", ()):
        document.update(rule.schema)
    return document


def property_schema(item: Declared, special: Special = EMPTY) -> dict[str, Json]:
    """JSON Schema of one key, with its description and default."""
    later = "" if item.key.available else f" Not available yet; it comes in {item.key.since}."
    described = {"description": item.key.doc + later, **item.shape.schema(item.key, special)}
    if isinstance(item.key.default, str | bool | int) and item.key.default != "":
        described["default"] = item.key.default
    return described


def document(table: Any) -> dict[str, Json]:
    """Canonical form of a declared table: TOML names to values, without what is at its default.

    A key that a later version adds changes nothing here for manifests that do not use it.
    """
    return dict(_said(table))


def _said(table: Any) -> Iterator[tuple[str, Json]]:
    for item in declared(table.__class__).values():
        value = getattr(table, item.attribute)
        if item.key.said and (item.key.default is REQUIRED or value != item.key.default):
            yield item.name, canonical_value(value)


def canonical_value(value: Any) -> Json:
    """``value`` of a declared field as JSON; nested tables by :func:`document`."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return [canonical_value(item) for item in value]
    if isinstance(value, Mapping):
        return {name: canonical_value(item) for name, item in value.items()}
    return document(value)
