"""Which wheels of a layer need not be installed again, since an earlier layer over the same parents has them.

What a wheel leaves follows from the wheel, the interpreter and the folders that it goes to; those are the same where
the ancestors are. It is in the wheel's RECORD, and bytecode is beside its modules. Wheels that have a path in common
with another are not kept: for these it counts what else is installed.

Source: Python packaging specifications, "Recording installed projects" and "Binary distribution format".
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.digest import Entry
from reprobox.layers.install_wheels import installed
from reprobox.layers.kind import Earlier
from reprobox.lock import Input
from reprobox.tree import opened

_RECORD = b".dist-info/RECORD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """``entries`` of the earlier layer, with the folders they are in, and the wheels that are still to be installed."""

    entries: tuple[Entry, ...]
    fresh: tuple[Input, ...]


def keep(earlier: Earlier, wheels: Sequence[Input], files: Mapping[str, Path]) -> Kept:
    """Keep what can be kept of ``wheels``, whose files in the store are ``files`` by name."""
    entries = {entry.path: entry for entry in earlier.index}
    recorded = _recorded(earlier, entries)
    owners = Counter(path for paths in recorded.values() for path in paths)
    alone = {record: paths for record, paths in recorded.items() if all(owners[path] == 1 for path in paths)}
    kept: dict[str, Collection[bytes]] = {}
    for wheel in wheels:
        if earlier.files.get(wheel.name) == wheel.sha256:
            ending = _record_of(files[wheel.name])
            records = [record for record in alone if record.endswith(ending)]
            if len(records) == 1 and entries.keys() >= alone[records[0]]:
                kept[wheel.name] = alone[records[0]]
    together = frozenset(path for paths in kept.values() for path in paths)
    fresh = tuple(wheel for wheel in wheels if wheel.name not in kept)
    sites = {os.path.dirname(os.path.dirname(record)) for record in recorded}
    if any(_meets(files[wheel.name], together, sites) for wheel in fresh):
        return Kept(entries=(), fresh=tuple(wheels))
    return Kept(entries=tuple(_with_folders(_with_bytecode(together, entries), entries)), fresh=fresh)


def _recorded(earlier: Earlier, entries: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
    """What each installed distribution recorded: paths of the tree, by the path of its RECORD."""
    found = {}
    for path in entries:
        if path.endswith(_RECORD):
            site = os.path.dirname(os.path.dirname(path))
            with opened(os.fsencode(earlier.tree) + b"/" + path) as file:
                rows = list(csv.reader(io.StringIO(os.fsdecode(file.read()), newline="")))
            names = (os.fsencode(row[0]) for row in rows if row)
            found[path] = frozenset(posixpath.normpath(posixpath.join(b"/" + site, name))[1:] for name in names)
    return found


def _record_of(wheel: Path) -> bytes:
    """How the path of a wheel's RECORD ends once it is installed."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if os.fsencode(name).endswith(_RECORD)), "")
    return b"/" + os.fsencode(name)


def _meets(wheel: Path, kept: Collection[bytes], sites: Iterable[bytes]) -> bool:
    """Whether a wheel brings a path that is kept already. Outside of the site folders, an equal ending is enough."""
    names: dict[bytes, list[bytes]] = {}
    for path in kept:
        names.setdefault(os.path.basename(path), []).append(path)
    for place, _ in installed(str(wheel)):
        scheme, _, rest = os.fsencode(place).partition(b"/")
        near = names.get(os.path.basename(rest), ())
        if scheme == b"purelib":
            if any(site + b"/" + rest in near for site in sites):
                return True
        elif any(path.endswith(b"/" + rest) for path in near):
            return True
    return False


def _with_bytecode(paths: Iterable[bytes], entries: Mapping[bytes, Entry]) -> Iterator[bytes]:
    """The paths, and for modules among them what is compiled of them: ``__pycache__/module.cpython-311.pyc``."""
    compiled: dict[bytes, list[bytes]] = {}
    for path in entries:
        folder, slash, name = path.rpartition(b"/__pycache__/")
        if slash and name.endswith(b".pyc"):
            compiled.setdefault(folder + b"/" + name.rsplit(b".", 2)[0] + b".py", []).append(path)
    for path in paths:
        yield path
        yield from compiled.get(path, ())


def _with_folders(paths: Iterable[bytes], entries: Mapping[bytes, Entry]) -> Iterator[Entry]:
    wanted = set(paths)
    for path in list(wanted):
        while (path := os.path.dirname(path)) and path not in wanted:
            wanted.add(path)
    yield from (entries[path] for path in sorted(wanted))
