"""Building a target again from an empty store: inputs by their hashes, and no layer that was there before."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.digest import prefixed
from reprobox.engine import build
from reprobox.environment import Environment, assemble
from reprobox.errors import BuildError, UsageError
from reprobox.lock import LockedTarget, ancestors
from reprobox.manifest import Manifest
from reprobox.providers import Documents, HintProvider
from reprobox.realize import settings_of
from reprobox.session import Session, available
from reprobox.store import Store, StoredLayer
from reprobox.verify.result import Rebuilt

_PATIENCE = 20.0  # seconds that threads have to end after their steps were ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a builder made, as long as its store is there; ``environment`` is None where only some layers were built."""

    told: Rebuilt
    stored: Mapping[str, StoredLayer]
    environment: Environment | None


class _InputsOnly:
    """The inputs of another store, and none of its layers."""

    def __init__(self, store: Store) -> None:
        self.root = store.root
        self._store = store

    def blob(self, digest: str) -> Path | None:
        return self._store.blob(digest) if self._store.has_blob(digest) else None

    def layer(self, identity: str) -> StoredLayer | None:  # noqa: ARG002 - the protocol's names
        return None


def narrowed(target: LockedTarget, names: Collection[str]) -> LockedTarget:
    """The target with these layers alone, and what they stand on; all of it for no names.

    Raises :class:`UsageError` for a layer that it has not.
    """
    if not names:
        return target
    known = {layer.name for layer in target.layers}
    if unknown := sorted(set(names) - known):
        raise UsageError(
            f"target {target.name!r} has no layer {unknown[0]!r}",
            where="--layer",
            hint=f"it has {', '.join(layer.name for layer in target.layers)}",
        )
    wanted = {item.name for name in names for item in ancestors(target.layers, name)} | set(names)
    return replace(target, layers=tuple(layer for layer in target.layers if layer.name in wanted))


def fetch_inputs(session: Session, target: LockedTarget) -> None:
    """Have every input of the target in the store, so that no builder waits for the network."""
    session.target = target
    session.fetch(list({item.sha256: item for layer in target.layers for item in layer.inputs}.values()))


@contextlib.contextmanager
def rebuilt(
    session: Session, manifest: Manifest, target: LockedTarget, epoch: int, *, builder: str, name: str
) -> Iterator[Build]:
    """What ``builder`` makes of the target; it is there while the context is."""
    with _empty(session, builder) as own:
        session.reporter.say(f"{name} builds {target.name} again, from an empty store")
        started = time.monotonic()
        try:
            build(own, target, epoch, shared=False)
        except BuildError as error:
            raise _kept_log(session, own, name, error) from None
        seconds = round(time.monotonic() - started, 3)
        stored = {layer.name: found for layer in target.layers if (found := own.store.layer(layer.id)) is not None}
        whole = {layer.name for layer in target.layers} == stored.keys() and _is_whole(target)
        environment = assemble(own.store, target, epoch, settings_of(manifest, target)) if whole else None
        told = Rebuilt(
            name=name,
            builder=builder,
            layers={key: prefixed(layer.record["diff_id"]) for key, layer in stored.items()},
            tree_digest=prefixed(environment.tree_digest) if environment else "",
            image_digest=prefixed(environment.image_digest) if environment else "",
            seconds=seconds,
        )
        yield Build(told=told, stored=stored, environment=environment)


def _is_whole(target: LockedTarget) -> bool:
    """Whether it is all of a target: the skeleton stands on everything, so only then it is there."""
    return target.image_layers[-1].kind == "skeleton"


@contextlib.contextmanager
def _empty(session: Session, builder: str) -> Iterator[Session]:
    """The same session with an empty store of its own, below the real one's unfinished work, and this builder."""
    with session.store.scratch() as folder:
        store = Store(folder / "store", [_InputsOnly(session.store)])
        before = _children()
        backend = available(session.plugins.backend(builder), store)
        own = replace(
            session,
            store=store,
            builder=backend,
            documents=Documents(store, session.downloader),
            hints=HintProvider(store),
            remote=None,
            target=None,
        )
        try:
            yield own
        except BaseException as error:
            _end_steps(before if isinstance(error, KeyboardInterrupt) else None, backend)
            raise
        finally:
            _close(backend)


def _kept_log(session: Session, own: Session, name: str, error: BuildError) -> BuildError:
    """The same error; the full log is kept where logs are, for the store that it is in goes away."""
    hint = f"{name} cannot build it again from its inputs, so nobody can: mend the step, then `reprobox lock`"
    for log in sorted((own.store.root / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]:
        kept = session.store.log(f"verify-{log.name}")
        with contextlib.suppress(OSError):
            shutil.copyfile(log, kept)
            hint = f"the full log is {kept}; {hint}"
    return BuildError(error.message, where=error.where, hint=hint)


# -- ending ------------------------------------------------------------------------------------------------------------


def _children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            found.update(map(int, path.read_text().split()))
    return found


def _end_steps(before: set[int] | None, backend: object) -> None:
    """Wait for the threads that build; with ``before``, the children of then, end their steps first.

    Otherwise they would go on writing into a store that is being removed.
    """
    if before is not None:
        _close(backend)  # containers go with the connection
        for child in _children() - before:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
    until = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread.name in ("reprobox-build", "reprobox-arrivals"):
            thread.join(max(0.0, until - time.monotonic()))


def _close(backend: object) -> None:
    """Let go of what the builder holds, such as a connection to an engine, where it has such a thing."""
    close = getattr(backend, "close", None)
    if close is not None:
        close()
