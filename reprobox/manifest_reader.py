"""``research.toml`` -> :class:`reprobox.manifest.Manifest`: all problems of a file at once, and its JSON Schema.

Pure, but for :func:`load`, which reads the one file. Tables and values have rules of their own; here are those that
need the whole file. Which layer kinds there are is told by the caller.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from reprobox import cpu, json_tables, tables, toml_lines
from reprobox.digest import Json
from reprobox.errors import ManifestError, Problem
from reprobox.manifest import DEFAULT_TARGETS, RESERVED_LAYERS, Base, Code, Layer, Manifest, Target
from reprobox.tables import BAD, LATER, Reader, Special, by_line
from reprobox.toml_lines import LimitError, Positions
from reprobox.wording import did_you_mean, listed, quote

SCHEMA_ID = "https://example.org/reprobox/schemas/research.schema.json"
MAX_BYTES = 1 << 20


class Kind(Protocol):
    """What the manifest needs to know of a layer kind: its name and the declared dataclass of its keys.

    A kind with ``available = False`` is read and checked, and has no behaviour yet.
    """

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> type: ...


def load(path: Path, kinds: Mapping[str, Kind]) -> Manifest:
    """Read and parse the manifest at ``path``. Raises :class:`reprobox.errors.ManifestError` with every problem."""
    file = os.fspath(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _fault(file, 0, "there is no such file", "write one: the tutorial shows how") from None
    except OSError as error:
        raise _fault(file, 0, f"cannot be read: {error.strerror}") from None
    return parse(data, kinds=kinds, file=file)


def parse(source: str | bytes, *, kinds: Mapping[str, Kind], file: str = "research.toml") -> Manifest:
    """The manifest that ``source`` says; ``file`` is its name in messages.

    Raises :class:`reprobox.errors.ManifestError` with every problem found, in the order of their lines.
    """
    text = _text(source, file)
    positions = _positions(text, file)
    data = _toml(text, positions, file)
    reader = Reader(file, positions, {Layer: partial(_read_layer, kinds=_layer_kinds(kinds))})
    manifest: Manifest = reader.table(Manifest, data, (), file=file, positions=positions)
    _check_layer_names(reader, data)
    _check_references(reader, data)
    _check_code_is_no_mount(reader, data)
    _check_cpus(reader, data)
    if reader.problems:
        raise ManifestError(by_line(reader.problems))
    _check_targets(reader, manifest)
    if reader.problems:
        raise ManifestError(by_line(reader.problems))
    return replace(manifest, unavailable=by_line(reader.unavailable))


def _layer_kinds(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """``kinds`` without the bases and the layers that reprobox adds by itself, which register as kinds too."""
    return {name: kinds[name] for name in sorted(kinds) if name not in (*Base.BUILT_AS, *RESERVED_LAYERS)}


def _read_layer(
    reader: Reader, cls: type, table: dict[str, Any], path: toml_lines.Path, kinds: Mapping[str, Kind]
) -> Any:
    common = tables.declared(cls)
    shared = {name: value for name, value in table.items() if name in common}
    own = {name: value for name, value in table.items() if name not in common}
    index = path[-1]
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        if isinstance(kind, str):
            reader.problem((*path, "kind"), f"unknown kind {quote(kind)}", did_you_mean(kind, kinds))
        reader.table(cls, shared, path)
        return BAD
    if not getattr(kinds[kind], "available", True):
        reader.not_yet((*path, "kind"), f"the kind {quote(kind)}", LATER)
    options = reader.table(kinds[kind].options, own, path, beside=common)
    layer = reader.table(cls, shared, path, options=options, index=index)
    return BAD if options is BAD else layer


def _check_layer_names(reader: Reader, data: Mapping[str, Any]) -> None:
    first: dict[str, int] = {}
    for index, name in _names(data):
        path = ("layers", index, "name")
        if name in RESERVED_LAYERS:
            reader.problem(path, f"the name {quote(name)} is taken by reprobox itself", "choose another name")
        elif name in first:
            line = reader.positions.line(("layers", first[name], "name"))
            reader.problem(path, f"the layer on line {line} is named {quote(name)} too", "choose another name")
        first.setdefault(name, index)


def _names(data: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Position and name of the layers that have a name, sound or not."""
    layers = data.get("layers")
    listing = enumerate(layers if isinstance(layers, list) else [])
    return [
        (index, item["name"]) for index, item in listing if isinstance(item, dict) and isinstance(item.get("name"), str)
    ]


def _check_references(reader: Reader, data: Mapping[str, Any]) -> None:
    known: dict[str, Iterable[str]] = {
        "layers": dict.fromkeys(name for _, name in _names(data)),
        "targets": _table(data, "targets") or DEFAULT_TARGETS,
        "secrets": _table(data, "secrets"),
    }
    for path, where, name in reader.references:
        if name not in known[where]:
            hint = did_you_mean(name, known[where], otherwise=f"there are no {where} here: leave it out")
            reader.problem(path, f"there is no {where[:-1]} {quote(name)}", hint)


def _check_targets(reader: Reader, manifest: Manifest) -> None:
    """Every target has a layer where there are any, and what a layer comes after is somewhere with it."""
    layers = {layer.name: layer for layer in manifest.layers}
    for name in manifest.targets if manifest.layers else ():
        if not any(layer.serves(name) for layer in manifest.layers):
            hint = f"add {quote(name)} to the `targets` of the layers that it shall have, or leave the target out"
            reader.problem(("targets", name), f"no layer serves the target {quote(name)}", hint)
    for layer in manifest.layers:
        for number, other in enumerate(layer.after):
            if not any(layer.serves(name) and layers[other].serves(name) for name in manifest.targets):
                its, own = listed(layers[other].targets, "and"), listed(layer.targets, "and")
                message = f"layer {quote(other)} is for {its}, and {quote(layer.name)} for {own}: no target has both"
                hint = "leave it out of `after`, or let the layers share a target"
                reader.problem(("layers", layer.index, "after", number), message, hint)


def _check_code_is_no_mount(reader: Reader, data: Mapping[str, Any]) -> None:
    target = _table(data, "code").get("target", Code().target)
    if isinstance(target, str) and target in _table(data, "mounts"):
        reader.problem(("mounts", target), "the code is mounted there", "choose another path, or change code.target")


def _check_cpus(reader: Reader, data: Mapping[str, Any]) -> None:
    """A CPU that no machine of the target's platform can have."""
    for name in _table(data, "targets"):
        target = _table(_table(data, "targets"), name)
        wanted = _table(target, "requires").get("cpu")
        platform = target.get("platform", Target().platform)
        family = cpu.FAMILIES.get(str(platform).removeprefix("linux/"))
        if isinstance(wanted, str) and family and cpu.family(wanted) not in (None, family):
            near = [item for item in ("x86-64-v3", "neoverse_n1") if cpu.family(item) == family]
            reader.problem(
                ("targets", name, "requires", "cpu"),
                f"no {platform} machine is a {quote(wanted)}",
                f"write one of that platform, such as {quote(near[0])}, or change the platform",
            )


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = data.get(name)
    return table if isinstance(table, dict) else {}


def _text(source: str | bytes, file: str) -> str:
    data = source.encode() if isinstance(source, str) else source
    if len(data) > MAX_BYTES:
        raise _fault(
            file, 0, "the file is larger than 1 MiB", "a manifest lists names; data and code have files of their own"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(file, line, f"not UTF-8: byte 0x{data[error.start]:02x}", "save the file as UTF-8") from None
    return text.replace("\r\n", "\n")


def _positions(text: str, file: str) -> Positions:
    try:
        return toml_lines.scan(text)
    except LimitError as error:
        raise _fault(file, error.line, str(error), "write it more simply") from None


def _toml(text: str, positions: Positions, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also what int() says to 5,000 digits
        raise ManifestError([toml_lines.explain(error, text, positions, file)]) from None


def _fault(file: str, line: int, message: str, hint: str = "") -> ManifestError:
    return ManifestError([Problem(file=file, line=line, key="", message=message, hint=hint)])


# JSON Schema.


def schema(kinds: Mapping[str, Kind]) -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a manifest whose layers are of ``kinds``."""
    of_kinds: dict[str, Json] = {"oneOf": [_layer_schema(kind) for kind in _layer_kinds(kinds).values()]}
    about = "What a research environment is made of. reprobox reads it."
    special: Special = {Layer: lambda: of_kinds}
    return json_tables.schema(Manifest, name=SCHEMA_ID, title="research.toml", about=about, special=special)


def _layer_schema(kind: Kind) -> dict[str, Any]:
    common: dict[str, Any] = tables.schema(Layer)
    own: dict[str, Any] = tables.schema(kind.options)
    named = {"description": "What the layer does.", "const": kind.name}
    return {
        "title": kind.name,
        **common,
        **own,
        "properties": {**common["properties"], "kind": named, **own["properties"]},
        "required": [*common["required"], *own.get("required", [])],
    }
