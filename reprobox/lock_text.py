"""research.lock as text: how a lock is written and read.

The lock is TOML, sorted, one item a line, without host names or clocks: the same inputs give the same bytes. A layer
that several targets have is written out once, in the first of them by name; the others say ``shared_with``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from reprobox.digest import NORMALISER, Json, canonical, sha256
from reprobox.errors import DamagedLockError, LockError
from reprobox.lock import (
    FILE_NAME,
    FORMAT,
    OWN_KEYS,
    Input,
    Lock,
    LockedLayer,
    LockedMount,
    LockedTarget,
    Seal,
    with_ids,
)
from reprobox.manifest import IN_IMAGE

_HEADER = "# Written by reprobox: edit research.toml and run `reprobox lock`.\n"


# -- writing -----------------------------------------------------------------------------------------------------------


def write(lock: Lock) -> str:
    """The lock as text."""
    return _HEADER + "\n".join(_lines(lock)) + "\n"


def lock_digest(lock: Lock) -> str:
    """sha256 hex of the written form."""
    return sha256(write(lock).encode())


def _lines(lock: Lock) -> Iterator[str]:
    yield f"version = {lock.version}"
    yield f"normaliser = {NORMALISER}"
    yield f"checksum = {_value(_checksum(_document(lock)))}"
    yield f"epoch = {lock.epoch}"
    if lock.code:
        yield f"code = {_value(lock.code)}"
    yield from ("", "[manifest]", f"digest = {_value(lock.manifest)}", "", "[manifest.keys]")
    yield from (f"{_key(name)} = {_value(lock.keys[name])}" for name in sorted(lock.keys))
    if lock.checkout:
        yield from ("", "[checkout]", *_layer_lines(lock.checkout))
    if lock.mounts:
        yield from ("", "[mounts]")
        yield from (f"{_key(path)} = {_inline(_mount_table(lock.mounts[path]))}" for path in sorted(lock.mounts))
    for path in sorted(lock.downloads):
        yield from ("", f"[downloads.{_key(path)}]", *_layer_lines(lock.downloads[path]))
    shared = _shared(lock)
    for name in sorted(lock.targets):
        yield from _target_lines(lock.targets[name], shared)


def _shared(lock: Lock) -> dict[tuple[str, str], str]:
    """By target and layer name, for layers that a target before it has just the same: the first such target."""
    first: dict[str, list[tuple[str, LockedLayer]]] = {}
    shared = {}
    for name in sorted(lock.targets):
        for layer in lock.targets[name].layers:
            known = first.setdefault(layer.id, [])
            owner = next((other for other, written in known if written == layer), None)
            if owner is None:
                known.append((name, layer))
            else:
                shared[name, layer.name] = owner
    return shared


def _target_lines(target: LockedTarget, shared: Mapping[tuple[str, str], str]) -> Iterator[str]:
    prefix = f"targets.{_key(target.name)}"
    yield from ("", f"[{prefix}]", f"platform = {_value(target.platform)}")
    if target.request:
        yield f"request = {_value(target.request)}"
    for layer in target.layers:
        yield from ("", f"[[{prefix}.layers]]")
        owner = shared.get((target.name, layer.name))
        yield from _layer_lines(layer) if owner is None else _reference(layer.name, owner)
    if target.seal:
        yield from ("", f"[{prefix}.seal]")
        yield f"image_digest = {_value(target.seal.image_digest)}"
        yield f"tree_digest = {_value(target.seal.tree_digest)}"
        yield from ("", f"[{prefix}.seal.layers]")
        yield from (f"{_key(name)} = {_value(digest)}" for name, digest in sorted(target.seal.layers.items()))


def _reference(name: str, owner: str) -> tuple[str, ...]:
    return f"name = {_value(name)}", f"shared_with = {_value(owner)}"


def _layer_lines(layer: LockedLayer) -> Iterator[str]:
    for name in ("name", "kind", "recipe", "id", "request"):
        yield f"{name} = {_value(getattr(layer, name))}"
    if layer.placement != IN_IMAGE:
        yield f"placement = {_value(layer.placement)}"
    yield f"parents = {_value(list(layer.parents))}"
    for name in ("options", "facts", "environment"):
        table = getattr(layer, name)
        yield from (f"{name}.{_key(key)} = {_block(table[key])}" for key in sorted(table))
    if layer.inputs:
        yield "inputs = [\n" + "".join(f"    {_inline(_input_table(item))},\n" for item in layer.inputs) + "]"


def _document(lock: Lock) -> dict[str, Json]:
    """What :func:`parse` makes of the written lock, without seals."""
    shared = _shared(lock)
    document: dict[str, Json] = {
        "version": lock.version,
        "normaliser": NORMALISER,
        "epoch": lock.epoch,
        "manifest": {"digest": lock.manifest, "keys": lock.keys},
        "targets": {name: _target_document(target, shared) for name, target in lock.targets.items()},
    }
    mounts = {path: _mount_table(mount) for path, mount in lock.mounts.items()}
    downloads = {path: _layer_document(layer) for path, layer in lock.downloads.items()}
    said: dict[str, Json] = {"code": lock.code, "mounts": mounts, "downloads": downloads}
    document |= {name: value for name, value in said.items() if value}
    return document | ({"checkout": _layer_document(lock.checkout)} if lock.checkout else {})


def _mount_table(mount: LockedMount) -> dict[str, Json]:
    return {"files": mount.files, "size": mount.size, "tree": f"sha256:{mount.tree}"}


def _target_document(target: LockedTarget, shared: Mapping[tuple[str, str], str]) -> dict[str, Json]:
    layers: list[Json] = []
    for layer in target.layers:
        owner = shared.get((target.name, layer.name))
        layers.append(_layer_document(layer) if owner is None else {"name": layer.name, "shared_with": owner})
    document: dict[str, Json] = {"platform": target.platform, "layers": layers}
    return document | {"request": target.request} if target.request else document


def _layer_document(layer: LockedLayer) -> dict[str, Json]:
    tables = {name: getattr(layer, name) for name in ("options", "facts", "environment")}
    inputs = [_input_table(item) for item in layer.inputs]
    placement: dict[str, Json] = {} if layer.placement == IN_IMAGE else {"placement": layer.placement}
    return {
        **placement,
        **{name: getattr(layer, name) for name in ("name", "kind", "recipe", "id", "request", "parents")},
        **{name: table for name, table in {**tables, "inputs": inputs}.items() if table},
    }


def _checksum(document: Mapping[str, Any]) -> str:
    """sha256 hex of all that the lock says but seals, which are checked by what is built."""
    said = {name: value for name, value in document.items() if name != "checksum"}
    targets = {
        name: {key: value for key, value in target.items() if key != "seal"}
        for name, target in document["targets"].items()
    }
    return sha256(canonical({**said, "targets": targets}))


def pins(lock: Lock) -> str:
    """sha256 hex of all that the lock says but its seals: the checksum in its file."""
    return _checksum(_document(lock))


def _input_table(item: Input) -> dict[str, Json]:
    return {
        "name": item.name,
        "type": item.type,
        "size": item.size,
        **{key: item.facts[key] for key in sorted(item.facts)},
        "sha256": item.sha256,
    }


def _block(value: Json) -> str:
    """A value with one line for each item of a list, so that a review shows what moved."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return "[\n" + "".join(f"    {_value(item)},\n" for item in value) + "]"
    if isinstance(value, str) and "\n" in value and '"""' not in value and value.isprintable() is False:
        return _multiline(value)
    return _value(value)


def _multiline(value: str) -> str:
    if any(not (char.isprintable() or char == "\n") or char == "\\" for char in value):
        return _value(value)
    return f'"""\n{value}"""'


def _value(value: Json) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
        return '"' + "".join(_ESCAPES.get(char) or _printable(char) for char in value) + '"'
    if isinstance(value, Mapping):
        return _inline({key: value[key] for key in sorted(value)})
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"no TOML form: {type(value).__name__}")


def _inline(table: Mapping[str, Json]) -> str:
    items = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in table.items())
    return f"{{ {items} }}" if items else "{}"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _printable(char: str) -> str:
    return char if char.isprintable() else f"\\U{ord(char):08X}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


# -- reading -----------------------------------------------------------------------------------------------------------


def parse(text: str, *, file: str = FILE_NAME) -> dict[str, Any]:
    """The lock's TOML as plain values; the slow half of :func:`read`, which callers may remember by content."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DamagedLockError(f"not TOML: {error}", where=file, hint=_EDITED) from None
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedLockError("it has no format version", where=file, hint=_EDITED)
    if version > FORMAT:
        raise LockError(
            f"the lock has format {version}, and this reprobox knows up to {FORMAT}",
            where=file,
            hint=_NEWER,
        )
    try:
        sound = document.get("checksum") == _checksum(document)
    except (KeyError, TypeError, ValueError, AttributeError):  # not even values that a lock has
        sound = False
    if not sound:
        raise DamagedLockError("its content does not match its checksum", where=file, hint=_EDITED)
    rules = document.get("normaliser")
    if rules != NORMALISER:
        newer = isinstance(rules, int) and rules > NORMALISER
        raise LockError(
            f"its layers are built by rules of version {rules}, and this reprobox has version {NORMALISER}",
            where=file,
            hint=_NEWER
            if newer
            else "install the version of reprobox that made it, or make a new lock with `reprobox lock --upgrade`",
        )
    return document


_NEWER = (
    "it was made by a newer reprobox: install that (`pip install --upgrade reprobox`, or the one in a vault that keeps"
    " this lock); `reprobox lock --upgrade` would make another lock, of other versions"
)
_EDITED = "the lock is written by reprobox and was changed by hand or cut short: restore it, or run `reprobox lock`"


def decode(document: Mapping[str, Any], *, file: str = FILE_NAME) -> Lock:
    """The Lock of a parsed document. Every layer id is recomputed: a lock edited by hand is refused.

    Raises :class:`LockError` naming what does not fit, or a key that only a newer reprobox understands: what such a
    key asks for would be left out.
    """
    try:
        unknown = next(_unknown_keys(document), "")
        if unknown:
            raise LockError(f"it has a key that this reprobox does not know: {unknown}", where=file, hint=_NEWER)
        lock = _lock(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedLockError(f"it is not a lock: {_reason(error)}", where=file, hint=_EDITED) from None
    for target in lock.targets.values():
        _check_ids(f"of target {target.name!r} ", target.layers, lock.epoch, file)
    for layer in (*([lock.checkout] if lock.checkout else []), *lock.downloads.values()):
        _check_ids("", (layer,), lock.epoch, file)
    return lock


def read(text: str, *, file: str = FILE_NAME) -> Lock:
    """The Lock that ``text`` is."""
    return decode(parse(text, file=file), file=file)


_KEYS = frozenset(
    ("version", "normaliser", "checksum", "epoch", "code", "manifest", "checkout", "mounts", "downloads", "targets")
)
_MANIFEST_KEYS = frozenset(("digest", "keys"))
_MOUNT_KEYS = frozenset(("files", "size", "tree"))
_TARGET_KEYS = frozenset(("platform", "request", "layers", "seal"))
_SEAL_KEYS = frozenset(("image_digest", "tree_digest", "layers"))
_LAYER_KEYS = frozenset(
    (
        *("name", "kind", "recipe", "id", "request", "placement", "parents"),
        *("options", "facts", "environment", "inputs", "shared_with"),
    )
)


def _unknown_keys(document: Mapping[str, Any]) -> Iterator[str]:
    """Paths of keys that this version does not write. What inputs say besides their own keys are hints."""
    tables = [("", document, _KEYS), ("manifest.", document["manifest"], _MANIFEST_KEYS)]
    tables += [(f"mounts.{path}.", table, _MOUNT_KEYS) for path, table in document.get("mounts", {}).items()]
    tables += [(f"downloads.{path}.", table, _LAYER_KEYS) for path, table in document.get("downloads", {}).items()]
    tables += [("checkout.", document["checkout"], _LAYER_KEYS)] if "checkout" in document else []
    for name, target in document["targets"].items():
        tables.append((f"targets.{name}.", target, _TARGET_KEYS))
        tables += [(f"targets.{name}.seal.", target["seal"], _SEAL_KEYS)] if "seal" in target else []
        for number, layer in enumerate(target["layers"]):
            tables.append((f"targets.{name}.layers[{number}].", layer, _LAYER_KEYS))
    for place, table, known in tables:
        yield from (f"{place}{key}" for key in table if key not in known)


def _reason(error: Exception) -> str:
    return f"missing key {error}" if isinstance(error, KeyError) else str(error)


def _check_ids(whose: str, layers: Sequence[LockedLayer], epoch: int, file: str) -> None:
    for written, computed in zip(layers, with_ids(layers, epoch), strict=True):
        if written.id != computed.id:
            raise DamagedLockError(f"layer {written.name!r} {whose}does not match its id", where=file, hint=_EDITED)


def _lock(document: Mapping[str, Any]) -> Lock:
    written = {
        (name, item["name"]): _layer(item)
        for name, table in document["targets"].items()
        for item in table["layers"]
        if "shared_with" not in item
    }
    return Lock(
        version=document["version"],
        epoch=_typed(document["epoch"], int),
        code=_typed(document.get("code", ""), str),
        checkout=_layer(document["checkout"]) if "checkout" in document else None,
        manifest=_typed(document["manifest"]["digest"], str),
        keys=dict(document["manifest"]["keys"]),
        mounts={path: _mount(table) for path, table in document.get("mounts", {}).items()},
        downloads={path: _layer(table) for path, table in document.get("downloads", {}).items()},
        targets={name: _target(name, table, written) for name, table in document["targets"].items()},
    )


def _mount(table: Mapping[str, Any]) -> LockedMount:
    tree = _typed(table["tree"], str).removeprefix("sha256:")
    return LockedMount(tree=tree, files=_typed(table["files"], int), size=_typed(table["size"], int))


def _target(name: str, table: Mapping[str, Any], written: Mapping[tuple[str, str], LockedLayer]) -> LockedTarget:
    layers = tuple(_written_layer(name, item, written) for item in table["layers"])
    if not layers:
        raise ValueError(f"target {name!r} has no base")
    _check_order(layers)
    return LockedTarget(
        name=name,
        platform=_typed(table["platform"], str),
        layers=layers,
        seal=_seal(table.get("seal")),
        request=_typed(table.get("request", ""), str),
    )


def _written_layer(target: str, item: Mapping[str, Any], written: Mapping[tuple[str, str], LockedLayer]) -> LockedLayer:
    """The layer itself, where it is written out; else the one of the target that it is shared with."""
    place = item.get("shared_with", target), item["name"]
    if place not in written:
        raise ValueError(f"target {place[0]!r} has no layer {place[1]!r} to share")
    return written[place]


def _check_order(layers: Iterable[LockedLayer]) -> None:
    seen: set[str] = set()
    for layer in layers:
        unknown = [name for name in layer.parents if name not in seen]
        if unknown or layer.name in seen:
            raise ValueError(f"layer {layer.name!r} stands twice or before its parents {unknown}")
        seen.add(layer.name)


def _layer(table: Mapping[str, Any]) -> LockedLayer:
    return LockedLayer(
        name=_typed(table["name"], str),
        kind=_typed(table["kind"], str),
        recipe=_typed(table["recipe"], int),
        id=_typed(table["id"], str),
        request=_typed(table["request"], str),
        placement=_typed(table.get("placement", IN_IMAGE), str),
        parents=tuple(table["parents"]),
        inputs=tuple(_input(item) for item in table.get("inputs", ())),
        options=_typed(table.get("options", {}), dict),
        facts=_typed(table.get("facts", {}), dict),
        environment=_typed(table.get("environment", {}), dict),
    )


def _input(table: Mapping[str, Any]) -> Input:
    facts = {key: _typed(value, str) for key, value in table.items() if key not in OWN_KEYS}
    return Input(
        type=_typed(table["type"], str),
        name=_typed(table["name"], str),
        sha256=_typed(table["sha256"], str),
        size=_typed(table["size"], int),
        facts=facts,
    )


def _seal(table: Mapping[str, Any] | None) -> Seal | None:
    if table is None:
        return None
    return Seal(image_digest=table["image_digest"], tree_digest=table["tree_digest"], layers=dict(table["layers"]))


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
