"""Whether what came out of a source holds together: the manifest, the lock, and the files that they are about."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox import graph, toml_lines
from reprobox.errors import DamagedLockError, IntegrityError, LockError, ReproboxError, UsageError
from reprobox.git.worktree import NEVER, tree_hash
from reprobox.layers.code import code_sources
from reprobox.layers.copy import Copy
from reprobox.layers.fetch import Fetch
from reprobox.layers.git import Git
from reprobox.layers.kind import Kind
from reprobox.lock import FILE_NAME, Lock, LockedLayer, LockedTarget, changed_keys
from reprobox.manifest import Manifest
from reprobox.manifest_reader import MAX_BYTES, parse
from reprobox.project import MANIFEST_NAME, read_lock
from reprobox.project_files import places_in_project
from reprobox.resolve import stale_keys
from reprobox.session import Session
from reprobox.store import Store
from reprobox.tables import quote

#: Largest lock that is read of a stranger, in bytes; ten thousand packages take three million.
MOST_LOCK = 32 << 20
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
            manifest = parse(file.read(MAX_BYTES + 1), kinds=kinds, file=f"{where}: {name}")
    except OSError as error:
        raise UsageError(f"its {name} cannot be read: {error.strerror}", where=where, hint=_FIX) from None
    path = folder / FILE_NAME
    if not path.is_file() or path.is_symlink():
        raise LockError(
            f"it has no {FILE_NAME}: which bytes its environment is made of is not said",
            where=where,
            hint="ask its authors for it; or unpack it and run `reprobox lock`: an environment of today, not theirs",
        )
    if path.stat().st_size > MOST_LOCK:
        raise LockError(
            f"the lock has more than {MOST_LOCK} bytes", where=where, hint="no lock of reprobox is as large"
        )
    data = path.read_bytes()
    try:
        toml_lines.scan(data.decode().replace("\r\n", "\n"))
    except (toml_lines.LimitError, UnicodeDecodeError) as error:
        raise LockError(f"the lock is no lock: {error}", where=where, hint=_FIX) from None
    try:
        lock = read_lock(data, store, f"{where}: {FILE_NAME}")
    except DamagedLockError as error:
        raise IntegrityError(error.message, where=error.where, hint=_FIX) from None
    _check_match(manifest, lock, where)
    return Documents(manifest=manifest, lock=lock, lock_digest=lock.digest())


def _check_match(manifest: Manifest, lock: Lock, where: str) -> None:
    """The lock is of this manifest, and has the layers that it asks for, and no others."""
    if lock.manifest not in manifest.digests():
        changes = "".join(f"\n  {quote(key)[1:-1]}" for key in changed_keys(lock, manifest.keys())[:20])
        raise IntegrityError(f"the lock is of another manifest than the one with it{changes}", where=where, hint=_FIX)
    for problem in _foreign(manifest, lock):
        raise IntegrityError(problem, where=where, hint=_FIX)


def _foreign(manifest: Manifest, lock: Lock) -> Iterator[str]:
    """What the lock has and the manifest does not say: it would be built all the same."""
    if names := sorted(lock.targets.keys() - manifest.targets.keys()):
        yield f"the lock has the target {quote(names[0])}, and the manifest does not"
    for name, target in lock.targets.items():
        wanted = {node.name: node.kind for node in graph.unordered(manifest.select(name)).nodes}
        yield from _foreign_layers(target, wanted)
        yield from _foreign_base(manifest, target)
    if lock.checkout and (manifest.code.git is None or lock.checkout.kind != Git.name):
        yield "the lock has code from a repository, and the manifest does not"
    for path, layer in lock.downloads.items():
        if layer.kind != Fetch.name or path not in manifest.mounts or not manifest.mounts[path].files:
            yield f"the lock has files to download for {quote(path)}, and the manifest does not"


def _foreign_layers(target: LockedTarget, wanted: Mapping[str, str]) -> Iterator[str]:
    locked = {layer.name: layer.kind for layer in target.layers}
    for name in [*locked, *(name for name in wanted if name not in locked)]:
        if locked.get(name) != wanted.get(name):
            has, says = locked.get(name, "none"), wanted.get(name, "none")
            yield (
                f"layer {quote(name)} of target {quote(target.name)} is of kind {quote(has)} in the lock, and of kind"
                f" {quote(says)} in the manifest"
            )


def _foreign_base(manifest: Manifest, target: LockedTarget) -> Iterator[str]:
    base = manifest.select(target.name).base
    path = target.base.facts.get("path")
    if path is not None and base.kind in ("archive", "oci", "sif", "rootfs") and path != base.reference:
        yield f"the base is {quote(str(path))} in the lock, and {quote(base.reference)} in the manifest"


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
