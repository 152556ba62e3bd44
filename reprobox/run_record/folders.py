"""What a run does to folders that it may write to: looked at before and after, and hashed afterwards."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.data import State, hashes_of, walk
from reprobox.digest import Entry, escape, sha256, write_index
from reprobox.errors import ReproboxError
from reprobox.run_record.record import File, Written
from reprobox.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The files of a folder with what changes when they are written, and the targets of its links, by path bytes."""

    files: Mapping[bytes, State] = field(default_factory=dict)
    links: Mapping[bytes, bytes] = field(default_factory=dict)


def look(root: Path, skipped: Callable[[bytes], bool]) -> Look:
    """What is below ``root``; ``skipped(path)`` are paths that do not count, with all below them.

    Raises :class:`ReproboxError` for what cannot be read.
    """
    files: dict[bytes, State] = {}
    links: dict[bytes, bytes] = {}
    top = os.fsencode(os.path.realpath(root))
    for path, status in walk(top, skipped):
        if stat.S_ISREG(status.st_mode):
            files[path] = State.of(status)
        elif stat.S_ISLNK(status.st_mode):
            links[path] = os.readlink(os.path.join(top, path))
    return Look(files=files, links=links)


def written(root: Path, before: Look, after: Look, store: Store) -> Written:
    """What happened between two looks; everything is hashed, in threads. Raises what hashing raises."""
    top = os.fsencode(os.path.realpath(root))
    hashes = hashes_of(top, list(after.files.items()), store)
    changed = [path for path, state in after.files.items() if before.files.get(path) != state]
    left = {path: target for path, target in after.links.items() if before.links.get(path) == target}
    kept = [Entry("f", 0o644, hashes[path], path) for path in after.files.keys() - set(changed)]
    kept += [Entry("l", 0o777, escape(target), path) for path, target in left.items()]
    gone = (before.files.keys() | before.links.keys()) - (after.files.keys() | after.links.keys())
    return Written(
        files={
            os.fsdecode(path): File(sha256=f"sha256:{hashes[path]}", size=after.files[path].size)
            for path in sorted(changed)
        },
        links={
            os.fsdecode(path): os.fsdecode(target) for path, target in sorted(after.links.items()) if path not in left
        },
        removed=tuple(os.fsdecode(path) for path in sorted(gone)),
        overwritten=tuple(os.fsdecode(path) for path in sorted(changed) if path in before.files),
        kept=f"sha256:{sha256(write_index(sorted(kept, key=lambda entry: entry.path)))}" if kept else None,
    )


def unknown(error: ReproboxError, source: Path, place: str) -> Written:
    """What is recorded of a folder that could not be read afterwards: the run is over, and worth its record.

    Paths are told as the run saw them, at ``place``: records are published, and where ``source`` lies on the machine
    names its user.
    """
    where, told = error.where or "", error.message
    for root in (os.path.realpath(source), str(source)):
        where, told = where.replace(root, place), told.replace(root, place)
    return Written(problem=f"{where}: {told}" if where else told)


def skipping(root: Path, below: Collection[str], names: Collection[bytes]) -> Callable[[bytes], bool]:
    """What does not count of ``root``: absolute paths, with all below them, and names wherever they are."""
    top = os.path.realpath(root)
    inside = {os.fsencode(os.path.relpath(os.path.realpath(path), top)) for path in below}
    return lambda path: path in inside or path.rpartition(b"/")[2] in names
