"""Adding packages to a manifest's text, and removing them, without touching anything else of it. Pure.

tomlkit keeps comments, quotes, indentation and the order of keys: what is added and removed again was never there. A
document that tomlkit would write otherwise than it read it, such as one with other tables among its ``[[layers]]``, is
refused. In a list whose lines begin with their commas, new items may go on its last line.

Only the verbs that edit import this module. tomlkit is slow on hostile documents: :mod:`reprobox.manifest_reader`
reads and limits the text first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, Comment, Item, Key, Null, SingleKey, String, Table, Whitespace

from reprobox.errors import UsageError

#: What the layer is called that is made for the first package of a kind.
NAMES = {"apt": "system", "pip": "python"}
#: Tables that a manifest has below its layers.
_AFTER_LAYERS = ("env", "mounts", "run", "secrets", "targets")

_VERSIONS = re.compile(r"[\s=<>~!;@(\[]")

NameOf: TypeAlias = Callable[[str], str]
"""The name of a package as its kind spells it, from what the manifest or the command line says."""

_Body: TypeAlias = list[tuple[Key | None, Item]]
"""What a table holds, in the text's order: values, blank lines, comments. Those above a table end the one before it."""


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
    if not text.endswith("\n"):
        text, what_was_done = add(f"{text}\n", kind, packages, layer, name_of)
        return text.removesuffix("\n"), what_was_done
    done = []
    for package in dict.fromkeys(packages):
        with_package, what = _with(_Document.read(text), kind, package, layer, name_of)
        text = with_package
        done.append(what)
    return text, tuple(done)


def add_layer(text: str, kind: str, name: str, packages: Sequence[str]) -> str:
    """``text`` with a layer of its own for ``packages``, called ``name`` or, where that is taken, ``name-2`` and on."""
    if not text.endswith("\n"):
        return add_layer(f"{text}\n", kind, name, packages).removesuffix("\n")
    document = _Document.read(text)
    return _with_layer(document, kind, _free(document, name), {"packages": [string(package) for package in packages]})


def add_files(text: str, name: str, source: str, to: str) -> tuple[str, str]:
    """``text`` with a last layer that copies ``source`` to ``to``, above all others; and that layer's name.

    The new layer says that it comes after every other: it may write what they wrote.
    """
    if not text.endswith("\n"):
        edited, name = add_files(f"{text}\n", name, source, to)
        return edited.removesuffix("\n"), name
    document = _Document.read(text)
    name = _free(document, name)
    files = tomlkit.inline_table()
    files.update({"from": source, "to": to})
    others = [string(document.name(index)) for index in range(len(document.layers))]
    listed = tomlkit.array()
    listed.append(files)
    values = {"files": listed, **({"after": others} if others else {})}
    return _with_layer(document, "copy", name, values), name


def remove(
    text: str, kind: str, packages: Sequence[str], layer: str | None, name_of: NameOf
) -> tuple[str, tuple[Done, ...]]:
    """``text`` without ``packages`` in layers of ``kind``; a layer that has no others goes with its last one.

    Raises :class:`UsageError` for a package that is not there, with near names, or that several layers have.
    """
    if not text.endswith("\n"):
        text, what_was_done = remove(f"{text}\n", kind, packages, layer, name_of)
        return text.removesuffix("\n"), what_was_done
    done = []
    for name in dict.fromkeys(map(name_of, packages)):
        document = _Document.read(text)
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
            document = _Document.read(text)
    return text, tuple(done)


def set_project_key(text: str, key: str, value: str) -> str:
    """``text`` with this ``key`` of its ``[project]``: in place where it has one, else on a line below the name."""
    document = _Document.read(text)
    project: Any = document.toml["project"]
    if key in project and str(project[key]) == value:
        return text
    if key not in project and (name := _NAME.search(text, text.find("[project]"))):
        line = f"{name['indent']}{key} = {string(value).as_string()}\n"
        return _checked(text, f"{text[: name.end()]}{line}{text[name.end() :]}", key, value)
    project[key] = string(value, like=project[key].as_string()[0] if key in project else '"')
    return _checked(text, tomlkit.dumps(document.toml), key, value)


_NAME = re.compile(r"""^(?P<indent>[ \t]*)name[ \t]*=[ \t]*(?:"[^"\n]*"|'[^'\n]*')[ \t]*(?:#[^\n]*)?\n""", re.MULTILINE)


def _checked(old: str, new: str, key: str, value: str) -> str:
    """``new``, if it says what ``old`` says but for one key of the project."""
    wanted = tomlkit.parse(old).unwrap()
    wanted["project"][key] = value
    if tomlkit.parse(new).unwrap() != wanted:
        raise _not_editable()
    return new


# -- the document ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    """A manifest as it is written, and what its layers say. Lines end in a bare newline."""

    toml: tomlkit.TOMLDocument
    text: str
    layers: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, text: str) -> _Document:
        try:
            toml = tomlkit.parse(text)
        except TOMLKitError:
            raise _not_editable() from None
        if tomlkit.dumps(toml) != text:
            raise _not_editable()
        return cls(toml=toml, text=text, layers=toml.unwrap().get("layers", []))

    def name(self, index: int) -> str:
        return str(self.layers[index].get("name", ""))

    def packages(self, index: int) -> list[str]:
        return [str(item) for item in self.layers[index].get("packages", ())]

    def of_kind(self, kind: str) -> list[int]:
        return [number for number, table in enumerate(self.layers) if table.get("kind") == kind]

    @property
    def written(self) -> Any:
        """The layers as they are written: ``[[layers]]`` tables, or a list of inline tables."""
        return self.toml["layers"] if "layers" in self.toml else AoT([])


def _not_editable() -> UsageError:
    return UsageError(
        "it cannot be edited without moving something else of it",
        where="research.toml",
        hint="put no other tables between the [[layers]], or edit it yourself and run `reprobox lock`",
    )


def _held(document: _Document, kind: str, name: str, layer: str | None, name_of: NameOf) -> list[tuple[int, int]]:
    """Where packages of that name are: (layer, place in its list)."""
    return [
        (index, at)
        for index in document.of_kind(kind)
        if layer in (None, document.name(index))
        for at, item in enumerate(document.packages(index))
        if name_of(item) == name
    ]


def _with(document: _Document, kind: str, package: str, layer: str | None, name_of: NameOf) -> tuple[str, Done]:
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
    array = document.written[index]["packages"]
    array[at] = string(package, like=array[at].as_string()[0])
    return tomlkit.dumps(document.toml), Done(what="changed", package=package, layer=document.name(index))


def _added(document: _Document, kind: str, package: str, layer: str | None) -> tuple[str, Done]:
    index = _chosen(document, kind, layer)
    if index is None:
        name = layer or _free(document, NAMES.get(kind, kind))
        return _with_layer(document, kind, name, {"packages": [string(package)]}), Done(
            what="added", package=package, layer=name
        )
    array = document.written[index]["packages"]
    append(array, string(package, like=array[-1].as_string()[0] if array else '"'))
    return tomlkit.dumps(document.toml), Done(what="added", package=package, layer=document.name(index))


def _chosen(document: _Document, kind: str, layer: str | None) -> int | None:
    """The layer that new packages of ``kind`` go to; None where it is to be made."""
    indexes = document.of_kind(kind)
    names = [document.name(index) for index in indexes]
    if layer is not None:
        return _named(document, kind, layer, names)
    if not indexes:
        return None
    if len(indexes) == 1:
        return _with_list(document, indexes[0])
    raise UsageError(
        f"there is more than one layer of kind {kind}: {', '.join(names)}",
        where="research.toml",
        hint=f"say which with --layer, such as --layer {names[0]}",
    )


def _named(document: _Document, kind: str, layer: str, names: Sequence[str]) -> int | None:
    for index, table in enumerate(document.layers):
        if document.name(index) == layer and table.get("kind") != kind:
            other = table.get("kind")
            hint = f"layers of kind {kind}: {', '.join(names)}" if names else "leave --layer out, and one is made"
            raise UsageError(f"layer {layer!r} is of kind {other}, not {kind}", where="--layer", hint=hint)
        if document.name(index) == layer:
            return _with_list(document, index)
    if not names:
        return None
    near = get_close_matches(layer, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"layers of kind {kind}: {', '.join(names)}"
    raise UsageError(f"there is no layer {layer!r}", where="--layer", hint=hint)


def _with_list(document: _Document, index: int) -> int:
    """``index``. Raises :class:`UsageError` for a layer whose packages another file names."""
    table = document.layers[index]
    if "packages" in table:
        return index
    key = next((key for key in ("requirements", "pylock", "project") if key in table), "")
    origin = f"from {table[key]!r}" if key else "from elsewhere"
    raise UsageError(
        f"layer {document.name(index)!r} takes its packages {origin}",
        where="research.toml",
        hint="edit that file, or write a layer with `packages` and give its name with --layer",
    )


def _free(document: _Document, name: str) -> str:
    taken = {document.name(index) for index in range(len(document.layers))}
    numbers = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbers if other not in taken)


def _not_there(document: _Document, kind: str, name: str, layer: str | None, name_of: NameOf) -> UsageError:
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


def _with_layer(document: _Document, kind: str, name: str, own: Mapping[str, Any]) -> str:
    """A new layer: below the others, but packages of the system above those of Python, which may need them."""
    values = {"name": name, "kind": kind, **own}
    if isinstance(layers := document.written, Array):
        inline = tomlkit.inline_table()
        inline.update(values)
        append(layers, inline)
        return tomlkit.dumps(document.toml)
    table = tomlkit.item(values)
    top = document.toml.body
    index = next(iter(document.of_kind("pip")), len(layers)) if kind == "apt" else len(layers)
    if index == len(layers) and _place(document) == len(top) - bool(layers):  # the end of the file
        table.trivia.indent = "\n"
    else:
        comments = _comments(*_above(document, index))
        table.value.body.extend([(None, Whitespace("\n")), *comments])
    if not layers:
        top.insert(_place(document), (SingleKey("layers"), layers))
    layers.insert(index, table)
    return tomlkit.dumps(document.toml)


def _without(document: _Document, index: int, at: int) -> str:
    if len(document.packages(index)) > 1:
        _delete(document.written[index]["packages"], at)
    elif isinstance(document.written, Array):
        _delete(document.written, index)
    else:
        return _without_layer(document, index)
    return tomlkit.dumps(document.toml)


def _without_layer(document: _Document, index: int) -> str:
    """Its tables go; comments above it stay, and those above the next table."""
    top, layers = document.toml.body, document.written
    at_end = index == len(layers) - 1 and _place(document) == len(top) - 1
    body, stop = _above(document, index)
    if not at_end:
        body[stop:stop] = _comments(*_end(layers.body[index].value.body))
    del layers[index]
    if not layers:
        del top[_place(document)]
    text = tomlkit.dumps(document.toml)
    return text.removesuffix("\n") if at_end and text.endswith("\n\n") else text


def _place(document: _Document) -> int:
    """Where ``[[layers]]`` are among what the document holds, or where they would go."""
    top = document.toml.body
    keys = [key.key if key and _is_table(key, item) else "" for key, item in top]
    if "layers" in keys:
        return keys.index("layers")
    return next((at for at, key in enumerate(keys) if key in _AFTER_LAYERS), len(top))


def _above(document: _Document, index: int) -> tuple[_Body, int]:
    """What stands right above layer ``index``: the table it is in, and how many of that table's items are above."""
    if index:
        return _end(document.written.body[index - 1].value.body)
    return _end(document.toml.body, _place(document))


def _end(body: _Body, stop: int | None = None) -> tuple[_Body, int]:
    """The innermost table that ends where item ``stop`` of ``body`` begins (its end by default), and how far in it."""
    stop = len(body) if stop is None else stop
    while stop and _is_table(*body[stop - 1]):
        last: Any = body[stop - 1][1]
        body = (last.body[-1] if isinstance(last, AoT) else last).value.body
        stop = len(body)
    return body, stop


def _is_table(key: Key | None, item: Item) -> bool:
    """Whether it has a header; dotted keys make tables without one."""
    return isinstance(item, AoT) or (isinstance(item, Table) and key is not None and not key.is_dotted())


def _comments(body: _Body, stop: int) -> _Body:
    """Take out the comment lines that end at ``stop``."""
    start = stop
    while start and isinstance(body[start - 1][1], Comment):
        start -= 1
    taken = body[start:stop]
    del body[start:stop]
    return taken


# -- lists -------------------------------------------------------------------------------------------------------------


def string(text: str, like: str = '"') -> String:
    """A TOML string, in quotes ``like`` those beside it where the text allows."""
    literal = "'" not in text and (like == "'" or '"' in text) and text.isprintable()
    return tomlkit.string(text, literal=literal)


def append(array: Array, item: Item) -> None:
    """Add an item: the last one's line, indentation and comma are the new one's too, but no blank line above it."""
    with _ending_kept(array):
        array.append(item)
    *others, added = _written(array)
    indent = added.indent.s if added.indent else ""
    if others and not others[-1].comma and "," not in indent:  # tomlkit forgets it where a comment stands between
        others[-1].comma = Whitespace(",")
    if "\n" in indent:
        added.indent = Whitespace("\n" + indent.rpartition("\n")[2])


def _delete(array: Array, at: int) -> None:
    with _ending_kept(array):
        del array[at]


@contextmanager
def _ending_kept(array: Array) -> Iterator[None]:
    """After the last item a comma stays, or none, whichever tomlkit would write."""
    comma = _written(array)[-1].comma if array else None
    yield
    if array:
        _written(array)[-1].comma = comma


def _written(array: Array) -> list[Any]:
    """The items with the space and the comma around them, for which tomlkit has no public name."""
    groups = array._value  # noqa: SLF001 - there is no other way to them
    return [group for group in groups if isinstance(group.value, Item) and not isinstance(group.value, Null)]
