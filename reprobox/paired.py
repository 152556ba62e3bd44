"""A manifest and a lock from a stranger: whether they are ones, and belong together. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reprobox import graph, lock_text, toml_lines
from reprobox.errors import DamagedLockError, IntegrityError
from reprobox.layers.fetch import Fetch
from reprobox.layers.git import Git
from reprobox.lock import FILE_NAME, Lock, LockedTarget, changed_keys
from reprobox.manifest import Manifest
from reprobox.manifest_reader import Kind, parse
from reprobox.project import MANIFEST_NAME, read_lock
from reprobox.store import Store
from reprobox.wording import quote

#: Largest lock that is read of a stranger, in bytes; ten thousand packages take three million.
MOST_LOCK = 64 << 20
_FIX = "it is damaged, or was changed after it was locked: get it again from where it was published, or ask its authors"


def pair(
    manifest: bytes,
    lock: bytes,
    kinds: Mapping[str, Kind],
    where: str,
    *,
    name: str = MANIFEST_NAME,
    store: Store | None = None,
) -> tuple[Manifest, Lock]:
    """Both, of which ``manifest`` is called ``name`` in messages; what TOML the lock is, is remembered in ``store``.

    Raises :class:`ManifestError`; :class:`LockError` for a lock that takes another reprobox; :class:`IntegrityError`
    for a damaged one, and where they do not belong together.
    """
    asked = parse(manifest, kinds=kinds, file=f"{where}: {name}")
    locked = foreign_lock(lock, f"{where}: {FILE_NAME}", store=store)
    _check_match(asked, locked, where)
    return asked, locked


def foreign_lock(data: bytes, where: str, *, store: Store | None = None) -> Lock:
    """The lock that ``data`` is, read within limits. Raises :class:`IntegrityError`, or :class:`LockError` for one that
    takes another reprobox.
    """
    if len(data) > MOST_LOCK:
        hint = "no lock of reprobox is as large"
        raise IntegrityError(f"the lock has more than {MOST_LOCK} bytes", where=where, hint=hint)
    try:
        text = data.decode()
        toml_lines.scan(text.replace("\r\n", "\n"))
        return lock_text.read(text, file=where) if store is None else read_lock(data, store, where)
    except (toml_lines.LimitError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the lock is no lock: {error}", where=where, hint=_FIX) from None
    except DamagedLockError as error:
        raise IntegrityError(error.message, where=error.where, hint=_FIX) from None


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
