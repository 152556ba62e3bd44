"""Whether what came out of a source holds together: the manifest, the lock, and the files that they are about."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import IntegrityError, LockError, ReproboxError, UsageError
from reprobox.freshness import stale_keys
from reprobox.git.worktree import NEVER, tree_hash
from reprobox.layers.code import code_sources
from reprobox.layers.copy import Copy
from reprobox.layers.kind import Kind
from reprobox.lock import FILE_NAME, Lock, LockedLayer
from reprobox.lock_text import lock_digest
from reprobox.manifest import Manifest
from reprobox.manifest_reader import MAX_BYTES
from reprobox.paired import MOST_LOCK, pair
from reprobox.project import MANIFEST_NAME
from reprobox.project_files import places_in_project
from reprobox.session import Session
from reprobox.store import Store

_FIX = "it is damaged, or was changed after it was locked: get it again from where it was published, or ask its authors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The manifest and the lock of a project, which belong to each other."""

    manifest: Manifest
    lock: Lock
    lock_digest: str


def read_documents(
    folder: Path, kinds: Mapping[str, Kind], store: Store, where: str, name: str = MANIFEST_NAME
) -> Documents:
    """Read both, within limits; ``name`` is the manifest's.

    Raises :class:`ManifestError`, :class:`LockError`, :class:`IntegrityError`.
    """
    try:
        with (folder / name).open("rb") as file:
            manifest = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"its {name} cannot be read: {error.strerror}", where=where, hint=_FIX) from None
    path = folder / FILE_NAME
    if not path.is_file() or path.is_symlink():
        raise LockError(
            f"it has no {FILE_NAME}: which bytes its environment is made of is not said",
            where=where,
            hint="ask its authors for it; or unpack it and run `reprobox lock`: an environment of today, not theirs",
        )
    with path.open("rb") as file:
        data = file.read(MOST_LOCK + 1)
    asked, lock = pair(manifest, data, kinds, where, name=name, store=store)
    return Documents(manifest=asked, lock=lock, lock_digest=lock_digest(lock))


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeState:
    """The code that is here: its tree hash, whether that is the locked one, and its files by name.

    ``others`` are files of the project that the lock says nothing of.
    """

    tree: str
    locked: bool
    files: tuple[str, ...]
    others: tuple[str, ...] = ()


def check_files(session: Session, documents: Documents, where: str) -> None:
    """Raise :class:`IntegrityError` unless the files that layers are made of are those that were locked."""
    try:
        changes = stale_keys(session, documents.manifest, documents.lock)
    except IntegrityError:
        raise
    except ReproboxError as error:
        raise IntegrityError(f"its files cannot be checked: {error.message}", where=where, hint=_FIX) from None
    if changes:
        listed = "".join(f"\n  {key}" for key in changes[:20])
        raise IntegrityError(f"its files are not what was locked:{listed}", where=where, hint=_FIX)


def code_state(folder: Path, documents: Documents) -> CodeState:
    """The code in ``folder``, and what else is there. Raises :class:`IntegrityError` where it cannot be read."""
    manifest, lock = documents.manifest, documents.lock
    if lock.checkout is not None:
        return CodeState(tree=lock.code, locked=True, files=(), others=tuple(_others(folder, documents, frozenset())))
    try:
        sources = code_sources(folder, manifest)
    except ReproboxError as error:
        raise IntegrityError(f"its code cannot be read: {error.message}", where=manifest.code.path, hint=_FIX) from None
    tree = tree_hash(sources)
    files = tuple(os.fsdecode(item.path) for item in sources)
    code = frozenset(os.path.normpath(os.path.join(manifest.code.path, name)) for name in files)
    return CodeState(tree=tree, locked=tree == lock.code, files=files, others=tuple(_others(folder, documents, code)))


def _others(folder: Path, documents: Documents, code: Collection[str]) -> Iterator[str]:
    """Files of the project that are neither code nor locked otherwise, nor data that is mounted."""
    manifest, lock = documents.manifest, documents.lock
    known = {MANIFEST_NAME, FILE_NAME, *(place for _, place in places_in_project(lock))}
    known |= {name for target in lock.targets.values() for layer in target.layers for name in _read(layer)}
    roots = [mount.source for mount in manifest.mounts.values() if mount.source]
    roots += [str(target.base.facts["path"]) for target in lock.targets.values() if "path" in target.base.facts]
    roots += [item.source for layer in manifest.layers if layer.kind == Copy.name for item in layer.options.files]
    below = tuple(os.path.normpath(root) for root in roots)
    for name in files_below(folder):
        if (
            name not in known
            and name not in code
            and not any(name == root or name.startswith(f"{root}/") for root in below)
        ):
            yield name


def _read(layer: LockedLayer) -> Collection[str]:
    files = layer.facts.get("files")
    return files.keys() if isinstance(files, Mapping) else ()


def files_below(folder: Path) -> Iterator[str]:
    """Every file and link of a folder, by relative path, but for those of version control, of runs and of reprobox."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if os.fsencode(name) not in NEVER)
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from sorted(os.path.relpath(os.path.join(place, name), folder) for name in (*names, *links))
