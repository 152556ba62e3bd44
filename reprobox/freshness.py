"""Whether a lock is of a manifest and its local files as they are now; if not, what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reprobox import graph
from reprobox.draft import Draft, content_of, draft_of, files_read, key_of, resolve_layer, target_requests
from reprobox.errors import ManifestError, StaleLockError
from reprobox.lock import Lock, LockedLayer, LockedTarget, changed_keys
from reprobox.manifest import Manifest
from reprobox.session import Session


def stale_keys(session: Session, manifest: Manifest, lock: Lock, target: str | None = None) -> tuple[str, ...]:
    """Manifest keys, and local files that layers are made of, that changed since the lock was made.

    With ``target``, only what is about that one of several targets.
    """
    names = list(manifest.targets) if target is None else [target]
    changes = tuple(_changed_keys(manifest, lock, names, whole=target is None))
    return (*changes, *_changed_local_layers(session, manifest, lock, names, changes))


def ensure_fresh(session: Session, manifest: Manifest, lock: Lock, where: str, target: str | None = None) -> None:
    """Raise :class:`StaleLockError`, naming every key that changed, unless the lock is of this manifest.

    With ``target``, as far as the manifest is about that one of several targets.
    """
    changes = stale_keys(session, manifest, lock, target)
    if changes:
        raise StaleLockError(changes, where=where, hint="run `reprobox lock`")


def _changed_keys(manifest: Manifest, lock: Lock, names: Sequence[str], *, whole: bool) -> Iterator[str]:
    """What the manifest says otherwise than the lock; then the targets that were locked before it said so."""
    # The digest is of all keys, in this spelling or an older one; what counts no more may have changed beside it.
    changed = () if lock.manifest in manifest.digests() else tuple(changed_keys(lock, manifest.keys()))
    if len(manifest.targets) == 1:
        yield from changed
        return
    outdated = [name for name in names if _outdated(manifest, lock, name)]
    about = [item for item in changed if whole or any(_is_about(item, manifest, lock, name) for name in outdated)]
    yield from about
    for name in outdated:
        if not about or (name not in lock.targets and f"targets.{name} (new)" not in about):
            yield f"targets.{name} ({_outdated(manifest, lock, name)})"


def _outdated(manifest: Manifest, lock: Lock, name: str) -> str:
    """Why a target of several is not as the manifest says; empty if it is."""
    if name not in lock.targets:
        return "not locked"
    same = lock.targets[name].request in target_requests(manifest, name)
    return "" if same else "locked before the manifest changed"


def _is_about(change: str, manifest: Manifest, lock: Lock, name: str) -> bool:
    """Whether a changed key such as ``layers.gym.rev (changed)`` has to do with the target."""
    key = change.rpartition(" (")[0]
    if key.startswith("targets."):
        return key == f"targets.{name}" or key.startswith(f"targets.{name}.")
    if not key.startswith("layers."):
        return True
    layers = {layer.name for layer in manifest.select(name).layers}
    layers |= {layer.name for layer in lock.targets[name].layers} if name in lock.targets else set()
    return any(key == f"layers.{layer}" or key.startswith(f"layers.{layer}.") for layer in layers)


def _changed_local_layers(
    session: Session, manifest: Manifest, lock: Lock, names: Sequence[str], changes: Collection[str]
) -> Collection[str]:
    """Local files that are not what they were, of layers that are asked for as before."""
    changed: list[str] = []
    for name in (name for name in names if name in lock.targets):
        target = lock.targets[name]
        layers = None if changes else graph.unordered(manifest.select(name))  # as it was locked, so it is in order
        draft = draft_of(session, manifest, name, layers=layers)
        locked = {layer.name: layer for layer in target.layers}
        for node in draft.graph.nodes:
            if node.layer.options is None:  # made of manifest keys alone
                continue
            key = key_of(draft, node) if node.name == graph.BASE else f"layers.{node.name}"
            if node.name not in locked or any(change.startswith((f"{key}.", f"{key} ")) for change in changes):
                continue
            if session.kind(node.kind).pinned:
                states = _changed_files(draft, node, locked[node.name])
            else:
                states = [_local_state(draft, node, locked[node.name], target)]
            changed += [f"{key} ({state})" for state in states if state and f"{key} ({state})" not in changed]
    return changed


def _changed_files(draft: Draft, node: graph.Node, locked: LockedLayer) -> list[str]:
    """What became of the local files that a pinned layer was resolved from: ``requirements.txt changed``."""
    session = draft.world.session
    before: Any = locked.facts.get("files", {})
    try:
        now: Any = files_read(session, session.kind(node.kind), draft.manifest, node).get("files", {})
    except ManifestError as error:
        return [error.problems[0].message if error.problems[0].key else f"{error.problems[0].file} is not sound"]
    return [f"{path} changed" for path in sorted(before.keys() | now.keys()) if before.get(path) != now.get(path)]


def _local_state(draft: Draft, node: graph.Node, locked: LockedLayer, target: LockedTarget) -> str:
    """What became of the local files of one layer since they were locked; empty if nothing did."""
    node = replace(node, parents=locked.parents)
    try:
        layer, _ = resolve_layer(draft, node, target.layers)
    except ManifestError:
        return _unusable(draft, node)
    return "its files changed" if content_of(replace(layer, recipe=locked.recipe)) != content_of(locked) else ""


def _unusable(draft: Draft, node: graph.Node) -> str:
    """What to say of a layer whose local files cannot be read: nothing where they are not here, and not needed."""
    kind: Any = draft.world.session.kind(node.kind)
    if not getattr(kind, "complete", False):
        return "its files are missing"
    there = any((draft.world.session.project / path).exists() for path in kind.sources(node.layer))
    return "its files changed" if there else ""
