"""The store: content-addressed folders on this machine. Everything is staged beside its place, flushed and renamed.

::

    blobs/ab/<sha256>        input files, exactly as locked; like everything here, last used at its modification time
    layers/<layer id>/       tree/, index, layer.json: a built layer (see ``reprobox.normalise``)
    realizations/<key>/      what a backend needs to run an environment
    failed/<layer id>/       what a failed step left, for a look into it
    memo/<kind>/<key>        what can be had again: decoded locks, indices, places where inputs were seen
    partial/<sha256>         a download to be resumed
    locks/, leases/          who works on what, and who uses the store (see ``reprobox.leases``)
    tmp/<random>/            staging; swept when its owner is gone

A kill at any moment leaves a valid store: nothing under a final name is ever incomplete.

Shared stores are looked into where this one lacks a blob or a layer, and are never written (see ``reprobox.shared``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reprobox.digest import Json, sha256
from reprobox.errors import ReproboxError
from reprobox.layer_copies import copy_layer
from reprobox.leases import Uses
from reprobox.staging import flocked, staging_folder, sweep
from reprobox.tree import file_sha256, strip_inherited

#: What a store is made of; other folders are made when there is something to put into them.
FOLDERS = ("blobs", "layers", "realizations", "memo", "partial", "tmp", "logs", "locks", "leases")
SHARED = "shared"  # in the record of a layer of a shared store: what it hides is readable there

_ELSEWHERE = "set REPROBOX_STORE to a folder that you may write"
_CHECKED = 64  # bytes of the hash before what is derived
_ABANDONED = 3600  # seconds after which nobody is still writing a small file


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLayer:
    """A built layer in the store. ``record`` is its layer.json: diff_id, size, seconds, dropped, inputs, image."""

    id: str
    tree: Path
    index: Path
    record: Mapping[str, Any]
    shared: Path | None = None  # the shared store that it is in, if it is not this one


class Shelf(Protocol):
    """Another place that has blobs and layers: a shared store."""

    root: Path

    def blob(self, digest: str) -> Path | None:
        """The blob with this sha256 hex, if it is there, and kept there while this process lives."""

    def layer(self, identity: str) -> StoredLayer | None:
        """The layer with this id, if it is there and can be used, and kept there while this process lives."""


class Store:
    """The content-addressed cache in ``root``, made on first use. Many processes and threads may share one.

    ``shelves`` are looked into, in order, for what is not here.
    """

    def __init__(self, root: Path, shelves: Sequence[Shelf] = ()) -> None:
        self.root = root.absolute()
        self.shelves = tuple(shelves)
        self._uses = Uses(self.root)
        try:
            self._prepare()
        except OSError as error:
            raise ReproboxError(
                f"the store cannot be used: {error.strerror}",
                where=str(self.root),
                hint=_ELSEWHERE,
            ) from None

    def _prepare(self) -> None:
        if not self.root.is_dir():
            self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            strip_inherited(self.root, 0o700)
        for name in FOLDERS:
            folder = self.root / name
            try:
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    strip_inherited(folder, 0o700)
            except OSError:
                if name != "leases":  # which a store of an earlier version, that is only read, does not have
                    raise

    def using(self) -> contextlib.AbstractContextManager[None]:
        """While this is held, nothing is taken out of the store. For a moment, or for many small looks at once."""
        return self._uses.held()

    # blobs

    def blob(self, digest: str) -> Path:
        """Where the blob with this sha256 hex is, or would be. It exists only when it is complete and was checked."""
        own = self._own_blob(digest)
        return own if not self.shelves or own.is_file() else self._shared_blob(digest) or own

    def has_blob(self, digest: str) -> bool:
        """Whether it is here; then it stays here as long as this process lives."""
        # Asked for every input of a lock: a path that is put together costs a fifth of one that is parsed.
        return self._uses.mark(f"{self.root}/blobs/{digest[:2]}/{digest}") or self._shared_blob(digest) is not None

    def _own_blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest[:2] / digest

    def _shared_blob(self, digest: str) -> Path | None:
        return next((path for shelf in self.shelves if (path := shelf.blob(digest)) is not None), None)

    def partial(self, digest: str) -> Path:
        """The file in which a download of this blob grows."""
        return self.root / "partial" / digest

    def adopt(self, path: Path, digest: str) -> Path:
        """Publish a file of this file system, checked and flushed by the caller, as the blob ``digest``."""
        target = self._own_blob(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            flush_folder(target.parent.parent)
        path.chmod(0o444)
        os.utime(path)
        path.replace(target)
        flush_folder(target.parent)
        return target

    def add_blob(self, data: bytes) -> str:
        """Store ``data``; returns its sha256 hex."""
        digest = sha256(data)
        if not self.has_blob(digest):
            with self.scratch() as folder:
                self.adopt(_written(folder / "blob", data), digest)
        return digest

    # staging

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder, mode 0755, on the store's file system; gone afterwards."""
        with contextlib.ExitStack() as stack:
            with self._writing():
                folder = stack.enter_context(staging_folder(self.root / "tmp"))
            yield folder

    def sweep(self) -> int:
        """Remove staging folders whose owner died; returns how many."""
        for path in (self.root / "tmp").iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if (
                    stat.S_ISREG(status.st_mode)
                    and path.suffix != ".lock"
                    and status.st_mtime < time.time() - _ABANDONED
                ):
                    path.unlink()
        return sweep(self.root / "tmp")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell a store that may not be written from errors of the work itself."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            raise ReproboxError(
                f"the store cannot be written: {error.strerror}", where=str(self.root), hint=_ELSEWHERE
            ) from None

    # layers

    def layer(self, identity: str) -> StoredLayer | None:
        """The built layer with this id, if it is here; then it stays here as long as this process lives."""
        if self._uses.mark(self.root / "layers" / identity / "layer.json"):
            return read_layer(self.root / "layers" / identity)
        return next((layer for shelf in self.shelves if (layer := shelf.layer(identity)) is not None), None)

    def own(self, layer: StoredLayer) -> StoredLayer:
        """The layer as one of this store: what a step stands on must belong to whoever builds. A copy, made once."""
        if layer.shared is None:
            return layer
        with self.working_on(f"layer-{layer.id}"):
            if not self._uses.mark(self.root / "layers" / layer.id / "layer.json"):
                with self.scratch() as stage:
                    staged = stage / "layer"
                    staged.mkdir(mode=0o755)
                    copy_layer(layer.tree, layer.index, staged)
                    record = {name: value for name, value in layer.record.items() if name != SHARED}
                    return self.publish_layer(layer.id, staged, record)
        return read_layer(self.root / "layers" / layer.id)

    def layers(self) -> Iterator[StoredLayer]:
        """Every built layer, in no order, for a look that is no use of it; one that goes away meanwhile is left out."""
        for folder in (self.root / "layers").iterdir():
            with contextlib.suppress(OSError, ValueError):
                yield read_layer(folder)

    def publish_layer(self, identity: str, staged: Path, record: Json) -> StoredLayer:
        """Make the staged folder, with ``tree/`` and ``index``, the layer ``identity``. The first to publish wins."""
        _written(staged / "layer.json", json.dumps(record, indent=1).encode()).chmod(0o644)
        flush_all(staged)
        target = self.root / "layers" / identity
        with self.using():
            try:
                staged.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._uses.mark(target / "layer.json")
        flush_folder(target.parent)
        return read_layer(target)

    def forget_layer(self, identity: str) -> None:
        """Take a layer away, at once for everybody, so that it is built again."""
        with self.scratch() as folder, contextlib.suppress(FileNotFoundError):
            (self.root / "layers" / identity).rename(folder / "layer")

    @contextlib.contextmanager
    def working_on(self, name: str) -> Iterator[None]:
        """Hold the lock ``name``, so that two processes do not do the same work; waits for the other."""
        with contextlib.ExitStack() as stack:
            with self._writing():
                stack.enter_context(flocked(self.root / "locks" / name, fcntl.LOCK_EX))
            yield

    # small things

    def memo(self, kind: str, key: str) -> Path:
        """Where a remembered value of ``kind`` is, or would be; its folder exists. Write it with :meth:`remember`."""
        folder = self.root / "memo" / kind
        with contextlib.suppress(OSError):  # there is nothing to be remembered in a store that may not be written
            folder.mkdir(mode=0o700, exist_ok=True)
        self._uses.mark(folder / key)
        return folder / key

    def remember(self, kind: str, key: str, data: bytes) -> Path:
        """Keep a value that can be had again."""
        target = self.memo(kind, key)
        self.replace(target, data)
        return target

    def derived(self, kind: str, key: str, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gives, which follows from ``key`` alone. It is made once, and again where its memo is torn."""
        with contextlib.suppress(OSError):
            memo = self.memo(kind, key).read_bytes()
            if sha256(memo[_CHECKED:]).encode() == memo[:_CHECKED]:
                return memo[_CHECKED:]
        data = make()
        with contextlib.suppress(ReproboxError):  # a store that may not be written remembers nothing
            self.remember(kind, key, sha256(data).encode() + data)
        return data

    def derived_program(self, kind: str, key: str, make: Callable[[Path], object]) -> Path | None:
        """The program that ``make`` writes, which follows from ``key`` alone: made once, and again where it is torn.

        None where nothing can be written, or started.
        """
        program = self.memo(kind, key)
        check = program.with_name(f"{key}.sha256")
        with contextlib.suppress(OSError):
            if file_sha256(program) == check.read_text() and os.access(program, os.X_OK):
                return program
        try:
            with self.scratch() as folder:
                made = folder / key
                make(made)
                made.chmod(0o700)
                self.replace(check, file_sha256(made).encode())
                os.replace(made, program)
        except (OSError, ReproboxError):
            return None
        return program if os.access(program, os.X_OK) else None

    def replace(self, target: Path, data: bytes) -> None:
        """Write a file of the store at once: readers see the old content or the new."""
        with self._writing():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink()
            raise

    def failed(self, identity: str) -> Path:
        """Where the state of a layer's failed step is left, until it is built."""
        self._uses.mark(self.root / "failed" / identity)
        return self.root / "failed" / identity

    def log(self, name: str) -> Path:
        """The file for a step's full output."""
        return self.root / "logs" / name


def read_layer(folder: Path, shared: Path | None = None) -> StoredLayer:
    """The layer in ``folder``, which is there."""
    record = json.loads((folder / "layer.json").read_bytes())
    return StoredLayer(id=folder.name, tree=folder / "tree", index=folder / "index", record=record, shared=shared)


def _written(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def flush_folder(folder: Path) -> None:
    """Flush which files a folder has; their bytes are flushed one by one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Flush everything written on the folder's file system in one pass: syncfs(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
