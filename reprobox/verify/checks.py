"""What is here against what is said: manifest, lock, store and realizations, each by its hashes. Nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import launch
from reprobox.backend import Realization
from reprobox.digest import canonical, prefixed, tree_digest
from reprobox.environment import Environment, assemble
from reprobox.errors import IntegrityError, LockError, ReproboxError
from reprobox.freshness import stale_keys
from reprobox.layers.code import is_locked_code
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, ancestors
from reprobox.lock_text import read
from reprobox.locked_data import check_data
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.realize import settings_of
from reprobox.session import Session, staged
from reprobox.store import StoredLayer
from reprobox.store_verify import wrong_blob, wrong_layer, wrong_realization
from reprobox.verify.result import MISMATCH, STALE, Check, Finding

_REPAIR = "move it away with `reprobox cache verify --repair`, so that it is fetched or built again"
_GONE = "holds nothing of it any more: `reprobox realize --backend {}`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is verified: a project, its lock, and those targets of it that were asked for and are locked."""

    session: Session
    project: Project
    manifest: Manifest
    lock: Lock
    names: tuple[str, ...]  # of the targets that were asked for
    targets: tuple[LockedTarget, ...]

    @classmethod
    def of(cls, session: Session, project: Project, manifest: Manifest, names: Collection[str]) -> Subject:
        """The targets called ``names`` that are locked; the lock is read from its file, whatever is remembered of it.

        Raises :class:`LockError` where there is none, or none that is sound.
        """
        text = project.lock_text()
        lock = read(text, file=str(project.lock_path))
        targets = tuple(target for name, target in lock.targets.items() if name in names)
        return cls(session=session, project=project, manifest=manifest, lock=lock, names=tuple(names), targets=targets)

    def layers(self) -> list[tuple[LockedLayer, tuple[str, ...]]]:
        """Every layer once, with the ids below it: of the targets, of code and data that are fetched."""
        found = {
            layer.id: (layer, tuple(item.id for item in ancestors(target.layers, layer.name)))
            for target in self.targets
            for layer in target.layers
        }
        alone = [*([self.lock.checkout] if self.lock.checkout else []), *self.lock.downloads.values()]
        return [*found.values(), *((layer, ()) for layer in alone)]

    def inputs(self) -> list[Input]:
        """Every input once, by its hash."""
        return list({item.sha256: item for layer, _ in self.layers() for item in layer.inputs}.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one check says, and what it found."""

    check: Check
    findings: tuple[Finding, ...] = ()


def look(subject: Subject) -> Iterator[Outcome]:
    """Every check in turn, as it is done."""
    manifest = check_manifest(subject)
    fresh = not manifest.findings  # otherwise it says nothing about the image that the lock is of
    yield manifest
    yield check_code(subject)
    if any(mount.digest for mount in subject.manifest.mounts.values()):
        yield check_mounts(subject)
    yield check_lock(subject)
    yield check_inputs(subject)
    yield check_layers(subject)
    for target in subject.targets:
        yield check_seal(subject, target, fresh=fresh)
    yield from check_realizations(subject, fresh=fresh)


# -- manifest, code, data, lock ----------------------------------------------------------------------------------------


def check_manifest(subject: Subject) -> Outcome:
    """Whether the lock is of the manifest, and of the local files that layers are made of."""
    only = next(iter(subject.names)) if len(subject.names) < len(subject.manifest.targets) else None
    changes = stale_keys(subject.session, subject.manifest, subject.lock, only)
    where = str(subject.project.manifest_path)
    findings = tuple(
        Finding(
            check="manifest",
            where=where,
            message=f"changed since the lock was made: {change}",
            hint="run `reprobox lock`, or take back the change",
            status=STALE,
        )
        for change in changes
    )
    return _outcome("manifest", "research.lock is of this manifest and its files", findings)


def check_code(subject: Subject) -> Outcome:
    """Whether the code is the locked one. A change of it stales no lock, but what ran would be another program."""
    if subject.lock.checkout is not None:
        return _outcome("code", f"comes from its repository, tree {subject.lock.code}")
    if is_locked_code(subject.session.project, subject.manifest, subject.lock):
        return _outcome("code", f"as locked, tree {subject.lock.code}")
    finding = Finding(
        check="code",
        where=str(subject.session.project / subject.manifest.code.path),
        message="the code is not what was locked",
        hint="run `reprobox lock` to pin it as it is, or restore it",
        status=STALE,
    )
    return _outcome("code", "", (finding,))


def check_mounts(subject: Subject) -> Outcome:
    """Whether the data that is here is what was locked."""
    told: list[str] = []
    try:
        check_data(subject.session, subject.manifest, subject.lock, {}, needed=False)
    except (IntegrityError, LockError) as error:
        return _outcome("data", "", (_finding("data", error),))
    here = [
        path
        for path, mount in subject.manifest.mounts.items()
        if mount.digest and mount.source and (subject.session.project / mount.source).exists()
    ]
    told.append(f"{_count(here, 'mount')} as locked" if here else "none of it is here")
    return _outcome("data", "; ".join(told), looked=bool(here))


def check_lock(subject: Subject) -> Outcome:
    """What reading it has shown: the checksum is right, and so is every id, for they were computed again."""
    return _outcome("lock", f"{_count(subject.layers(), 'layer id')} computed again, checksum right")


# -- the store ---------------------------------------------------------------------------------------------------------


def check_inputs(subject: Subject) -> Outcome:
    """Every input that is here, byte for byte."""
    store = subject.session.store
    inputs = subject.inputs()
    here = [item for item in inputs if store.has_blob(item.sha256)]

    def wrong(item: Input) -> str:
        return _readable(lambda: wrong_blob(store.blob(item.sha256), item.sha256))

    findings = tuple(
        _damaged("inputs", store.blob(item.sha256), f"{item.name}: {reason}")
        for item, reason in _each(subject.session, here, wrong)
    )
    return _outcome("inputs", f"{len(here)} of {len(inputs)} here, as locked", findings, looked=bool(here))


def check_layers(subject: Subject) -> Outcome:
    """Every layer that is here: it was built from what the lock says, and is still what was built."""
    layers = subject.layers()
    found = [(layer, below, folder) for layer, below in layers if (folder := _folder(subject, layer)) is not None]

    def wrong(item: tuple[LockedLayer, tuple[str, ...], Path]) -> str:
        return _readable(lambda: _wrong_layer(subject, *item))

    findings = tuple(
        Finding(
            check="layers", where=str(folder), message=f"layer {layer.name!r}: {reason}", hint=_REPAIR, status=MISMATCH
        )
        for (layer, _, folder), reason in _each(subject.session, found, wrong)
    )
    return _outcome("layers", f"{len(found)} of {len(layers)} here, as they were built", findings, looked=bool(found))


def stored_here(subject: Subject, layer: LockedLayer) -> StoredLayer | None:
    """The layer, if it is in the store and its record can be read."""
    try:
        return subject.session.store.layer(layer.id)
    except (OSError, ValueError):
        return None


def _folder(subject: Subject, layer: LockedLayer) -> Path | None:
    """Where the layer is, also where its record cannot be read."""
    stored = stored_here(subject, layer)
    own = subject.session.store.root / "layers" / layer.id
    return stored.tree.parent if stored is not None else own if own.is_dir() else None


def _wrong_layer(subject: Subject, layer: LockedLayer, below: Sequence[str], folder: Path) -> str:
    stored = stored_here(subject, layer)
    if stored is None:
        return "its record or its index is not one"
    said = stored.record.get("inputs")
    if said is not None and canonical(said) != canonical(layer.identity(subject.lock.epoch, below).document()):
        return "its record says that it was built from something else"
    return wrong_layer(folder, shared=stored.shared is not None)


def _readable(look: Callable[[], str]) -> str:
    try:
        return look()
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _each(session: Session, items: Sequence[Any], wrong: Callable[[Any], str]) -> Iterator[tuple[Any, str]]:
    """The items with which something is wrong, looked at side by side."""
    with ThreadPoolExecutor(min(session.jobs, os.cpu_count() or 1)) as pool:
        try:
            for item, reason in zip(items, pool.map(wrong, items), strict=True):
                if reason:
                    yield item, reason
        finally:
            pool.shutdown(cancel_futures=True)


# -- the whole ---------------------------------------------------------------------------------------------------------


def environment_here(subject: Subject, target: LockedTarget) -> Environment | None:
    """The environment that the layers in the store make; None where one is missing, or they do not fit together."""
    if any(stored_here(subject, layer) is None for layer in target.layers):
        return None
    selected = subject.manifest.select(target.name)
    try:
        return assemble(subject.session.store, target, subject.lock.epoch, settings_of(selected, target))
    except (ReproboxError, OSError, ValueError, KeyError):  # what is wrong was found in its layers
        return None


def check_seal(subject: Subject, target: LockedTarget, *, fresh: bool = True) -> Outcome:
    """Whether the layers that are here are the sealed ones."""
    name = "seal" if len(subject.manifest.targets) == 1 else f"seal {target.name}"
    if target.seal is None:
        return _outcome(name, "none: `reprobox lock --seal` records what a build gives", looked=False)
    found = _digests_here(subject, target)
    if not fresh:
        found.pop("the image digest", None)
    sealed = {f"layer {layer!r}": digest for layer, digest in target.seal.layers.items()}
    sealed |= {"the tree digest": target.seal.tree_digest, "the image digest": target.seal.image_digest}
    findings = tuple(
        Finding(
            check=name,
            where=f"target {target.name!r}",
            message=f"{what} is {found[what]}, and sealed was {digest}",
            hint="`reprobox verify --rebuild` says what differs; if what is here is right, `reprobox lock --seal`",
            status=MISMATCH,
        )
        for what, digest in sealed.items()
        if found.get(what, digest) != digest
    )
    whole = "the tree digest" in found
    said = f"tree {target.seal.tree_digest}" if whole else f"{len(found)} of {len(target.seal.layers)} layers here"
    return _outcome(name, f"kept: {said}", findings, looked=bool(found))


def _digests_here(subject: Subject, target: LockedTarget) -> dict[str, str]:
    stored = {layer.name: stored_here(subject, layer) for layer in target.layers}
    found = {
        f"layer {name!r}": prefixed(layer.record["diff_id"])
        for name, layer in stored.items()
        if layer is not None and "diff_id" in layer.record
    }
    environment = environment_here(subject, target)
    if environment is not None:
        found["the tree digest"] = prefixed(environment.tree_digest)
        found["the image digest"] = prefixed(environment.image_digest)
    return found


# -- realizations ------------------------------------------------------------------------------------------------------


def check_realizations(subject: Subject, *, fresh: bool = True) -> Iterator[Outcome]:
    """What backends hold of the targets, by the records that ``realize`` left."""
    store = str(subject.session.store.root)
    alone = len(subject.manifest.targets) == 1
    for target in subject.targets:
        for name in subject.session.plugins.backends:
            path = launch.record_path(store, str(subject.project.root), target.name, name)
            record = launch.read(path)
            if record is not None:
                environment = environment_here(subject, target) if fresh else None
                yield _check_held(subject, environment, name if alone else f"{name} {target.name}", name, record)


def _check_held(
    subject: Subject, environment: Environment | None, name: str, backend: str, record: Mapping[str, Any]
) -> Outcome:
    """The tree that the backend holds has the digest that ``realize`` told, and that is the lock's."""
    told = record["result"]
    realization = Realization(location=told["location"], trees=tuple(map(Path, record["trees"])))
    if environment is not None and prefixed(environment.image_digest) != told["image_digest"]:
        return _outcome(name, "holds an earlier state of the project: `reprobox realize` renews it", looked=False)
    if realization.trees:
        return _check_trees(subject, name, backend, realization, told)
    try:
        found = _held_digest(subject, backend, realization)
    except ValueError as error:
        return _outcome(name, "", (_not_held(name, backend, realization, f"it cannot be read: {error}"),))
    except (ReproboxError, OSError) as error:
        said = error.message if isinstance(error, ReproboxError) else error.strerror or str(error)
        return _outcome(name, f"cannot be asked: {said}", looked=False)
    if found is None:
        return _outcome(name, _GONE.format(backend), looked=False)
    if found == told["tree_digest"]:
        return _outcome(name, f"holds {realization.location}, tree {found}")
    message = f"its tree digest is {found}, and {told['tree_digest']} was realized"
    return _outcome(name, "", (_not_held(name, backend, realization, message),))


def _not_held(check: str, backend: str, realization: Realization, message: str) -> Finding:
    hint = f"remove it, and make it anew with `reprobox realize --backend {backend}`"
    return Finding(check=check, where=realization.location, message=message, hint=hint, status=MISMATCH)


def _check_trees(
    subject: Subject, name: str, backend: str, realization: Realization, told: Mapping[str, Any]
) -> Outcome:
    """Folders: those of the layers, which were looked at; or all in one, where they cannot be stacked."""
    if not all(tree.is_dir() for tree in realization.trees):
        return _outcome(name, _GONE.format(backend), looked=False)
    merged = [tree for tree in realization.trees if tree.parent == subject.session.store.root / "realizations"]
    findings = tuple(
        _damaged(name, tree, reason)
        for tree in merged
        if (reason := _readable(lambda tree=tree: wrong_realization(subject.session.store, tree)))  # type: ignore[misc]
    )
    what = "holds them as one folder" if merged else "stands on these layers"
    return _outcome(name, f"{what}, tree {told['tree_digest']}", findings)


def _held_digest(subject: Subject, name: str, realization: Realization) -> str | None:
    """``sha256:`` tree digest of what the backend holds; None where it is gone. Words where it cannot be told."""
    backend = staged(subject.session.plugins.backend(name), subject.session.store)
    if not backend.has(realization):
        return None
    entries: Any = getattr(backend, "entries", None)
    if entries is None:
        raise ReproboxError("it does not say what its environments are made of")
    return prefixed(tree_digest(entries(realization)))


# -- words -------------------------------------------------------------------------------------------------------------


def _outcome(name: str, said: str, findings: Sequence[Finding] = (), *, looked: bool = True) -> Outcome:
    if findings:
        said = f"{_count(findings, 'thing')} wrong"
    check = Check(name=name, ok=None if not (looked or findings) else not findings, said=said)
    return Outcome(check=check, findings=tuple(findings))


def _damaged(check: str, path: Path, message: str) -> Finding:
    return Finding(check=check, where=str(path), message=message, hint=_REPAIR, status=MISMATCH)


def _finding(check: str, error: ReproboxError) -> Finding:
    return Finding(
        check=check, where=error.where or "", message=error.message, hint=error.hint or "", status=error.status
    )


def _count(things: Sequence[Any], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
