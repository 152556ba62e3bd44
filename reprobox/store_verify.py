"""Whether a store holds what its names say: blobs against their hashes, trees against indices and diff ids."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import namespace
from reprobox.digest import Entry, read_index
from reprobox.image import layer_digest
from reprobox.shared import is_shared
from reprobox.store import SHARED, Store
from reprobox.store_gc import Item, census
from reprobox.tree import Tree, file_sha256, scan

CHECKED = ("blobs", "layers", "realizations")
_EVERY = 5.0  # seconds between lines about a long work


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A thing that is not what it should be: its kind, its name, where it is, and what is wrong with it."""

    kind: str
    name: str
    path: Path
    reason: str


def verify(
    store: Store, *, jobs: int = 4, say: Callable[[str], None] = lambda _: None
) -> tuple[Mapping[str, int], Sequence[Damage]]:
    """How many things of each kind were checked, and those that are damaged. Every byte is read, ``jobs`` at a time."""
    items = [item for item in census(store) if item.kind in CHECKED]
    total, done, told = sum(item.size for item in items), 0, time.monotonic()
    damaged = []
    with ThreadPoolExecutor(jobs) as pool:
        for item, reason in zip(items, pool.map(lambda item: _wrong(store, item), items), strict=True):
            done += item.size
            if reason and item.path.exists():  # gc may have been quicker
                damaged.append(Damage(kind=item.kind, name=item.name, path=item.path, reason=reason))
            if time.monotonic() - told > _EVERY:
                told = time.monotonic()
                say(f"  checked {done / 1e9:.1f} of {total / 1e9:.1f} GB")
    return {kind: sum(item.kind == kind for item in items) for kind in CHECKED}, damaged


def move_away(store: Store, damage: Damage) -> Path:
    """Put a damaged thing where nothing looks for it, so that it is fetched or built again; returns where."""
    folder = store.root / "damaged"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{damage.name[:200]}-{secrets.token_hex(4)}"
    damage.path.rename(target)
    os.utime(target)
    return target


def _wrong(store: Store, item: Item) -> str:
    """What is wrong with it; empty if it is right."""
    try:
        if item.kind == "blobs":
            return wrong_blob(item.path, item.name)
        if item.kind == "layers":
            return wrong_layer(item.path, shared=is_shared(store.root))
        return wrong_realization(store, item.path)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def wrong_blob(path: Path, digest: str) -> str:
    """What is wrong with the file that has this sha256 for a name; empty if nothing is."""
    return "" if file_sha256(path) == digest else "its bytes are not those of its name"


# -- layers ------------------------------------------------------------------------------------------------------------


def wrong_layer(folder: Path, *, shared: bool) -> str:
    """What is wrong with a stored layer: its tree against its index, both against its diff id; empty if nothing is.

    ``shared`` says that the store is a shared one, where all may read what a layer hides.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "layer.json").read_bytes())
        entries = read_index((folder / "index").read_bytes())
    except ValueError:
        return "its record or its index is not one"
    found = _difference(folder / "tree", entries, shared=shared and bool(record.get(SHARED)))
    if found or record.get("verbatim") is not None:  # of a verbatim layer, the blobs have the hashes
        return found
    try:
        digest, _ = layer_digest(folder / "tree", folder / "index", int(record["inputs"]["epoch"]))
    except (KeyError, TypeError, ValueError):
        return "its record is not one"
    return "" if digest == record.get("diff_id") else "times or links of its files are not those of its diff id"


def _difference(tree: Path, entries: Sequence[Entry], *, shared: bool) -> str:
    wanted = {entry.path: _shown(entry) if shared else entry for entry in entries if entry.kind != "w"}
    return _compare({entry.path: entry for entry in _scanned(tree, entries)}, wanted)


def _shown(entry: Entry) -> Entry:
    """An entry as a shared store has it in its tree."""
    return entry._replace(mode=entry.mode | {"f": 0o444, "d": 0o555}.get(entry.kind, 0))


def _compare(found: Mapping[bytes, Entry], wanted: Mapping[bytes, Entry]) -> str:
    for path in sorted(wanted.keys() | found.keys()):
        if found.get(path) != wanted.get(path):
            how = "is missing" if path not in found else "is too much" if path not in wanted else "has changed"
            return f"/{path.decode(errors='replace')} {how}"
    return ""


def _scanned(tree: Path, entries: Sequence[Entry]) -> list[Entry]:
    if not namespace.hides(entries):
        return scan(tree)
    lines = namespace.call("reprobox.store_verify:scan_by_name", str(tree))
    return [Entry(kind, mode, detail, os.fsencode(path)) for kind, mode, detail, path in lines]


def scan_by_name(tree: str) -> list[list[str | int]]:
    """:func:`reprobox.tree.scan` by one who may read the whole tree, as JSON."""
    return [[entry.kind, entry.mode, entry.detail, os.fsdecode(entry.path)] for entry in scan(Path(tree))]


# -- realizations ------------------------------------------------------------------------------------------------------


def wrong_realization(store: Store, path: Path) -> str:
    """A launch record must be one; a merged tree must be what its layers say, where a record names it."""
    if path.is_file():
        if path.suffix not in (".json", ".old"):
            return ""
        try:
            return "" if isinstance(json.loads(path.read_bytes()), dict) else "it is no record"
        except ValueError:
            return "it is no record"
    layers = _layers_of(store, path)
    if layers is None:
        return ""
    wanted = Tree.load(*layers).entries
    found = {entry.path: entry for entry in _scanned(path, list(wanted.values()))}
    added = found.keys() - wanted.keys()
    for mount_point in added & _MOUNT_POINTS:
        del found[mount_point]
    return _compare(found, wanted)


#: What a run mounts on, and a merged tree has although its layers may not.
_MOUNT_POINTS = frozenset(
    (
        *(b"dev", b"etc", b"proc", b"run", b"sys", b"tmp"),
        *(b"etc/group", b"etc/hostname", b"etc/hosts", b"etc/passwd", b"etc/resolv.conf"),
    )
)


def _layers_of(store: Store, merged: Path) -> list[Path] | None:
    """The indices of the layers that a merged tree was made of."""
    for path in merged.parent.glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            needs = [str(name) for name in record["needs"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if needs and needs[-1] == merged.name:
            indexes = [store.root / "layers" / name / "index" for name in needs[:-1]]
            return indexes if all(index.is_file() for index in indexes) else None
    return None
