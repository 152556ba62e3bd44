"""Taking out of a store what nobody needs, least recently used first.

Never taken: what a living command uses (``reprobox.leases``), what a run holds (its launch record, or its layers in a
shared store, are locked by the very process that runs), and what projects need: the layers of every launch record whose
lock is still where it was. Everything else may be had or made again.

Nothing is taken half-way: under the closed gate a thing is renamed into a staging folder, whole, and deleted there; a
kill leaves it for the next sweep.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reprobox import launch
from reprobox.errors import ReproboxError
from reprobox.leases import closed, excluded, is_held
from reprobox.shared import is_shared
from reprobox.store import Store

#: Kinds of things, in the order in which they are shown, with the words for them.
KINDS = {
    "layers": "built layers",
    "blobs": "input files",
    "realizations": "realized environments",
    "memo": "remembered documents and indices",
    "partial": "unfinished downloads",
    "failed": "states of failed steps",
    "logs": "logs of steps",
    "damaged": "damaged things moved away",
}
DAY = 86400
DEFAULT_AGE = 30 * DAY
_LEFTOVER_AGE = 7 * DAY  # of what only a failure leaves
_LEFTOVERS = frozenset(("partial", "failed", "logs", "damaged"))
_LOCKED = frozenset(("partial", "layers"))  # what may itself be locked: a download, a layer that is read elsewhere
_EVERY = 5.0  # seconds between lines about a long work
_BATCH = 1000  # things that are taken while the gate is closed once


class Item(NamedTuple):
    """A thing of the store: kind, name, where it is, its bytes on the disk, and when it was last used (unix seconds).

    ``inside`` names the file in it whose time says that, where it is not the thing's own. Plain strings, since there
    may be a hundred thousand.
    """

    kind: str
    name: str
    place: str
    size: int
    used: float
    inside: str = ""

    @property
    def path(self) -> Path:
        return Path(self.place)

    @property
    def mark(self) -> Path:
        return Path(self.place, self.inside)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was found; what of it was taken, or would be; what stays because projects need it, or it is in use.

    ``left`` are the bytes that the store holds afterwards.
    """

    found: tuple[Item, ...]
    taken: tuple[Item, ...]
    needed: tuple[Item, ...]
    in_use: tuple[Item, ...]
    left: int
    projects: tuple[str, ...]

    @property
    def freed(self) -> int:
        return sum(item.size for item in self.taken)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to take: what was not used for ``age`` seconds; then, oldest first, until ``size`` bytes are left."""

    age: float | None = DEFAULT_AGE
    size: int | None = None
    dry_run: bool = False
    assume_idle: bool = False


# -- what there is -----------------------------------------------------------------------------------------------------


def census(store: Store) -> list[Item]:
    """Everything in the store that could be taken. Sizes of layers are measured once, and remembered."""
    return [*_layers(store), *_blobs(store), *_plain(store)]


def _layers(store: Store) -> Iterator[Item]:
    for entry in _entries(store.root / "layers"):
        path = Path(entry.path)
        mark = path / "layer.json"
        with contextlib.suppress(FileNotFoundError):
            size, used = _layer_size(store, path), mark.stat().st_mtime
            yield Item("layers", entry.name, entry.path, size, used, mark.name)


def _layer_size(store: Store, path: Path) -> int:
    memo = store.root / "memo" / "sizes" / path.name
    try:
        return int(memo.read_text())
    except (OSError, ValueError):
        size = disk_size(os.fsencode(path))
        with contextlib.suppress(OSError, ReproboxError):
            store.replace(memo, str(size).encode())  # which is no use of the store
        return size


def _blobs(store: Store) -> Iterator[Item]:
    for folder in _entries(store.root / "blobs"):
        for entry in _entries(folder.path):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                yield Item("blobs", entry.name, entry.path, status.st_blocks * 512, status.st_mtime)


def _plain(store: Store) -> Iterator[Item]:
    for folder in _entries(store.root / "memo"):
        if folder.name == "sizes":  # they go with their layers
            continue
        for entry in _entries(Path(folder.path)):
            yield from _item("memo", entry, name=f"{folder.name}/{entry.name}")
    for kind in ("realizations", "partial", "failed", "logs", "damaged"):
        for entry in _entries(store.root / kind):
            yield from _item(kind, entry)


def _item(kind: str, entry: os.DirEntry[str], name: str = "") -> Iterator[Item]:
    try:
        status = entry.stat(follow_symlinks=False)
        folder = entry.is_dir(follow_symlinks=False)
    except OSError:  # gone meanwhile
        return
    size = disk_size(os.fsencode(entry.path)) if folder else status.st_blocks * 512
    # A merged tree's own time is part of what it shows; when it was renamed into place is not.
    used = max(status.st_mtime, status.st_ctime) if folder else status.st_mtime
    yield Item(kind, name or entry.name, entry.path, size, used)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:  # not made yet
        return []


def disk_size(path: bytes) -> int:
    """Bytes that a file, or all files below a folder, take on the disk; what cannot be looked into counts nothing."""
    try:
        status = os.lstat(path)
        size = status.st_blocks * 512
        with os.scandir(path) as entries:
            for entry in entries:
                below = entry.is_dir(follow_symlinks=False)
                size += disk_size(entry.path) if below else entry.stat(follow_symlinks=False).st_blocks * 512
        return size
    except NotADirectoryError:
        return size
    except OSError:
        return 0


# -- what is needed ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Needs:
    """Names of layers, blobs and realizations that must stay: for projects, and for runs; and the projects' locks.

    ``blobs_are_read``: somebody reads blobs of this shared store, and nobody knows which.
    """

    projects: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    locks: set[str] = field(default_factory=set)
    blobs_are_read: bool = False


def _needs(store: Store, stack: contextlib.ExitStack) -> _Needs:
    """What is needed. Until ``stack`` is closed, no run begins to hold a record that no project needs."""
    needs = _Needs()
    for entry in _entries(store.root / "realizations"):
        record = _record(Path(entry.path)) if entry.name.endswith((".json", launch.RETIRED)) else None
        if record is None:
            continue
        lock = _lock_of(record)
        if entry.name.endswith(launch.RETIRED) or not os.path.exists(lock):
            with contextlib.suppress(FileNotFoundError):
                if not stack.enter_context(excluded(Path(entry.path))):
                    needs.runs.update((entry.name, *_named(store, record)))
        else:
            needs.locks.add(lock)
            needs.projects.update((entry.name, *_named(store, record)))
    if is_shared(store.root):
        with contextlib.suppress(FileNotFoundError):
            needs.blobs_are_read = not stack.enter_context(excluded(store.root / "locks" / "readers"))
    return needs


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("trees"), list) else None


def _lock_of(record: dict[str, Any]) -> str:
    """The lock that a record is of; records of earlier versions have it among the files that they watch."""
    files = [str(line[0]) for line in record.get("files", ())]
    return str(
        record.get("lock") or next((name for name in files if name.endswith("/research.lock")), "/dev/null/none")
    )


def _named(store: Store, record: dict[str, Any]) -> Iterator[str]:
    """What a record stands on: layers, what the backend made of them, and the blobs of a base that is kept verbatim."""
    needs = set(map(str, record.get("needs", ())))
    for tree in map(Path, record["trees"]):
        needs.add(tree.parent.name if tree.name == "tree" else tree.name)
    for name in needs:
        yield name
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            layer = json.loads((store.root / "layers" / name / "layer.json").read_bytes())
            if layer.get("verbatim"):
                yield from (str(file[-1]) for file in layer["inputs"]["files"])
                yield from (str(blob["digest"]) for blob in layer["verbatim"])


def _is_needed(item: Item, names: set[str]) -> bool:
    if item.kind == "realizations":
        return item.name in names or item.name.partition(".")[0] in names
    return item.kind in ("layers", "blobs") and item.name in names


# -- taking it away ----------------------------------------------------------------------------------------------------


def collect(store: Store, wanted: Wanted, *, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Take what is ``wanted`` out of the store. Another gc that is at work is waited for.

    Raises :class:`ReproboxError` where the file system has no locks, unless nobody else uses the store by assumption.
    """
    with contextlib.nullcontext() if wanted.dry_run else store.working_on("gc"):
        if not wanted.dry_run:
            _sweep(store)
        items = census(store)
        with _closed(store, wanted) as since, contextlib.ExitStack() as stack:
            needs = _needs(store, stack)
        total = sum(item.size for item in items)
        needed = [item for item in items if _is_needed(item, needs.projects)]
        free = [item for item in items if not _is_needed(item, needs.projects)]
        busy = [item for item in free if _in_use(item, needs, since)]
        in_use = frozenset(busy)
        chosen = list(_chosen([item for item in free if item not in in_use], total, wanted))
        taken = chosen if wanted.dry_run else _take(store, chosen, wanted, say)
        return Outcome(
            found=tuple(items),
            taken=tuple(taken),
            needed=tuple(needed),
            in_use=tuple(busy),
            left=total - sum(item.size for item in taken),
            projects=tuple(sorted(os.path.dirname(lock) for lock in needs.locks)),
        )


@contextlib.contextmanager
def _closed(store: Store, wanted: Wanted) -> Iterator[float]:
    if wanted.dry_run and not os.access(store.root / "locks", os.W_OK):
        yield float("inf")  # of a store that this user may only read, everything is somebody else's
        return
    with closed(store.root) as since:
        if since is None and not (wanted.assume_idle or wanted.dry_run):
            raise ReproboxError(
                "its file system has no locks, so nobody can tell what is in use",
                where=str(store.root),
                hint="run it when no reprobox command uses this store, on any machine, and add --assume-idle",
            )
        yield float("inf") if since is None else since


def _sweep(store: Store) -> None:
    """Staging of dead commands, locks that nobody holds, and replaced records that no run uses any more."""
    store.sweep()
    for entry in _entries(store.root / "memo" / "sizes"):
        if not (store.root / "layers" / entry.name).is_dir():
            Path(entry.path).unlink(missing_ok=True)
    for entry in (*_entries(store.root / "locks"), *_entries(store.root / "realizations")):
        if entry.name.startswith("layer-") or entry.name.endswith(launch.RETIRED):
            with contextlib.suppress(OSError):
                if not is_held(Path(entry.path)):
                    os.unlink(entry.path)


def _in_use(item: Item, needs: _Needs, since: float) -> bool:
    if item.used >= since or _is_needed(item, needs.runs) or (item.kind == "blobs" and needs.blobs_are_read):
        return True
    try:
        return item.kind in _LOCKED and is_held(item.mark)
    except OSError:
        return False


def _chosen(free: Iterable[Item], total: int, wanted: Wanted) -> Iterator[Item]:
    now = time.time()
    ages = {} if wanted.age is None else dict.fromkeys(KINDS, wanted.age)
    ages |= {kind: min(_LEFTOVER_AGE, ages.get(kind, _LEFTOVER_AGE)) for kind in _LEFTOVERS}
    for item in sorted(free, key=lambda item: item.used):
        is_old = item.kind in ages and now - item.used >= ages[item.kind]
        if is_old or (wanted.size is not None and total > wanted.size):
            total -= item.size
            yield item


def _take(store: Store, chosen: Sequence[Item], wanted: Wanted, say: Callable[[str], None]) -> list[Item]:
    """Rename what is chosen out of the way, if it still may be, and then delete it."""
    taken: list[Item] = []
    told = time.monotonic()
    for start in range(0, len(chosen), _BATCH):
        # What was moved away is deleted last, when the gate is open again.
        with store.scratch() as away, _closed(store, wanted) as since, contextlib.ExitStack() as stack:
            needs = _needs(store, stack)
            for number, item in enumerate(chosen[start : start + _BATCH]):
                if _moved(item, away / str(number), needs, since):
                    taken.append(item)
        if time.monotonic() - told > _EVERY:
            told = time.monotonic()
            say(f"  {len(taken)} of {len(chosen)} things taken away")
    return taken


def _moved(item: Item, away: Path, needs: _Needs, since: float) -> bool:
    """Take a thing out of its place, unless somebody began to use it since it was chosen, or holds it."""
    try:
        used = item.mark.lstat().st_mtime
        held = excluded(item.mark) if item.kind in _LOCKED else contextlib.nullcontext(enter_result=True)
        with held as mine:
            if not mine or used >= since or used > item.used or _is_needed(item, needs.projects | needs.runs):
                return False
            if item.kind == "blobs" and needs.blobs_are_read:
                return False
            _move(item, away)
    except (FileNotFoundError, PermissionError):  # somebody was first; or it is somebody else's
        return False
    return True


def _move(item: Item, away: Path) -> None:
    if item.kind == "layers" or item.path.is_dir():
        if item.path.stat().st_mode & 0o700 != 0o700:  # a folder that may not be written does not move to another
            item.path.chmod(0o700)
        item.path.rename(away)
    else:
        item.path.unlink()
    if item.kind == "layers":
        (item.path.parents[1] / "memo" / "sizes" / item.name).unlink(missing_ok=True)


# -- projects ----------------------------------------------------------------------------------------------------------


def forget(store: Store, project: Path) -> int:
    """Need nothing for a project any more; returns how many records of it there were. Running commands keep theirs."""
    count = 0
    lock = os.path.realpath(project / "research.lock")
    with store.using():
        for entry in _entries(store.root / "realizations"):
            record = None if entry.is_dir(follow_symlinks=False) else _record(Path(entry.path))
            if record is None or entry.name.endswith(launch.RETIRED) or os.path.realpath(_lock_of(record)) != lock:
                continue
            count += 1
            # A run may hold it: under this name gc finds out.
            os.rename(entry.path, f"{entry.path}.{os.urandom(4).hex()}{launch.RETIRED}")
    return count
