"""Stores that several people read: a group's store on a cluster under everybody's own.

``reprobox cache share`` publishes into one, its owner alone; everybody else finds blobs and layers there and uses them
in place. It is a store like any other with a ``shared.json`` in it, except that everything may be read by everybody who
reaches the folder. Files and folders of a layer that only root may read are readable there as well: their modes in the
tree are wider than those in the index, which stay what they are. So a layer is used in place to run and to export, and
copied, with its true modes, by whoever builds upon it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

from reprobox.errors import ReproboxError
from reprobox.layer_copies import copy_layer
from reprobox.staging import lock
from reprobox.store import FOLDERS, SHARED, Store, StoredLayer, read_layer

MARK = "shared.json"
_FORMAT = 1
_OPEN, _PRIVATE = 0o755, 0o700
_READ_BY_ALL = ("blobs", "layers", "locks")


def is_shared(root: Path) -> bool:
    """Whether the store in ``root`` is one that others read."""
    return (root / MARK).is_file()


def problem(root: Path) -> str:
    """Why the store in ``root`` cannot be read as a shared one; empty if it can."""
    try:
        names = os.listdir(root)
        os.listdir(root / "layers")
    except OSError as error:
        return error.strerror or str(error)
    return "" if {"blobs", "layers"} <= set(names) else "it is not a store"


class SharedStore:
    """A store that is only read, in ``root``. What is given stays there while this process lives, if its owner's `gc`
    can see locks of this machine.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layers: dict[str, StoredLayer] = {}
        self._held: list[int] = []
        self._reads_blobs = False

    def blob(self, digest: str) -> Path | None:
        if not self._reads_blobs:
            self._reads_blobs = True
            with contextlib.suppress(OSError):
                self._hold(self.root / "locks" / "readers")
        path = self.root / "blobs" / digest[:2] / digest
        return path if os.access(path, os.R_OK) else None

    def layer(self, identity: str) -> StoredLayer | None:
        """A layer is used if it was shared to be read by others, or is this user's own."""
        if identity not in self._layers:
            folder = self.root / "layers" / identity
            try:
                self._hold(folder / "layer.json")
                layer = read_layer(folder, self.root)
                if not layer.record.get(SHARED) and layer.tree.stat().st_uid != os.geteuid():
                    return None
            except (OSError, ValueError):
                return None
            self._layers[identity] = layer
        return self._layers[identity]

    def _hold(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._held.append(descriptor)
        lock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.stat(path), os.fstat(descriptor)):
            raise FileNotFoundError(path)


def prepare(root: Path) -> Store:
    """The shared store in ``root``, made if there is nothing yet. Raises :class:`ReproboxError`."""
    if root.exists() and any(root.iterdir()) and not is_shared(root):
        raise ReproboxError(
            "it is not a shared store, and it is not empty",
            where=str(root),
            hint="give a new folder: a store of your own stays private",
        )
    store = Store(root)
    for folder in (root, *(root / name for name in FOLDERS)):
        folder.chmod(_OPEN if folder == root or folder.name in _READ_BY_ALL else _PRIVATE)
    readers = root / "locks" / "readers"
    readers.touch()
    readers.chmod(0o644)
    mark = root / MARK
    if not mark.exists():
        store.replace(mark, json.dumps({"format": _FORMAT}).encode())
    mark.chmod(0o644)
    return store


def share_blob(shared: Store, path: Path, digest: str) -> bool:
    """Copy one blob, which is at ``path``, to a shared store; False if it was there."""
    if shared.has_blob(digest):
        return False
    with shared.scratch() as folder:
        shutil.copyfile(path, folder / "blob")
        with (folder / "blob").open("rb") as file:
            os.fsync(file.fileno())
        shared.adopt(folder / "blob", digest).parent.chmod(_OPEN)
    return True


def share_layer(shared: Store, layer: StoredLayer) -> bool:
    """Copy one layer to a shared store, readable by everybody; False if it was there.

    Raises :class:`ReproboxError` where the file system cannot hold the layer's deletions.
    """
    if shared.layer(layer.id) is not None:
        return False
    with shared.scratch() as stage:
        staged = stage / "layer"
        staged.mkdir(mode=_OPEN)
        try:
            copy_layer(layer.tree, layer.index, staged, readable=True)
        except PermissionError as error:
            raise ReproboxError(
                f"layer {layer.record['name']!r} cannot be kept there: {error.strerror}",
                where=str(shared.root),
                hint="its file system must allow device numbers 0:0, by which overlay mounts know deletions",
            ) from None
        staged.chmod(_OPEN)
        (staged / "index").chmod(0o644)
        shared.publish_layer(layer.id, staged, {**layer.record, SHARED: True})
    return True
