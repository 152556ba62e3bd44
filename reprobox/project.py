"""A project folder: its manifest, its lock, and how both are read without parsing anything twice."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.digest import sha256
from reprobox.errors import LockError, ReproboxError, UsageError
from reprobox.lock import FILE_NAME, Lock
from reprobox.lock_text import decode, parse, write
from reprobox.manifest import Manifest
from reprobox.manifest_reader import Kind, load
from reprobox.store import Store

MANIFEST_NAME = "research.toml"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a ``research.toml``; ``opened`` is the unix time before which nothing of it was read."""

    root: Path
    manifest_path: Path
    opened: float = field(default_factory=time.time)

    @classmethod
    def find(cls, source: Path) -> Project:
        """The project that ``source`` (a folder or a manifest) belongs to; folders above are searched too."""
        source = source.absolute()
        if source.is_file():
            return cls(source.parent, source)
        if not source.is_dir():
            raise UsageError("there is no such folder or manifest", where=str(source), hint="give a project's folder")
        for folder in (source, *source.parents):
            if (folder / MANIFEST_NAME).is_file():
                return cls(folder, folder / MANIFEST_NAME)
        raise UsageError(
            f"there is no {MANIFEST_NAME} here or in a folder above",
            where=str(source),
            hint="go to the project's folder, give it with -C, or begin one with `reprobox init`",
        )

    @property
    def lock_path(self) -> Path:
        return self.root / FILE_NAME

    def manifest(self, kinds: Mapping[str, Kind]) -> Manifest:
        """The manifest. Raises :class:`reprobox.errors.ManifestError`."""
        return load(self.manifest_path, kinds)

    def lock(self, store: Store) -> Lock:
        """The lock; what TOML it is, is remembered in the store by its content.

        Raises :class:`LockError` where there is none, or none that can be read.
        """
        lock = self.lock_or_none(store)
        if lock is None:
            raise _no_lock(self.lock_path)
        return lock

    def lock_or_none(self, store: Store) -> Lock | None:
        try:
            data = self.lock_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LockError(f"it cannot be read: {error.strerror}", where=str(self.lock_path)) from None
        return read_lock(data, store, str(self.lock_path))

    def lock_text(self) -> str:
        """What the lock's file says, whatever is remembered of it. Raises :class:`LockError` as :meth:`lock` does."""
        try:
            return _text(self.lock_path.read_bytes(), str(self.lock_path))
        except FileNotFoundError:
            raise _no_lock(self.lock_path) from None
        except OSError as error:
            raise LockError(f"it cannot be read: {error.strerror}", where=str(self.lock_path)) from None

    def write_lock(self, lock: Lock) -> bool:
        """Write the lock if it says something else than the one that is there; returns whether it did."""
        data = write(lock).encode()
        with contextlib.suppress(OSError):
            if self.lock_path.read_bytes() == data:
                return False
        try:
            self._replace_lock(data)
        except OSError as error:
            hint = "the lock is written beside the manifest: that folder must be writable"
            raise ReproboxError(
                f"it cannot be written: {error.strerror}", where=str(self.lock_path), hint=hint
            ) from None
        return True

    def _replace_lock(self, data: bytes) -> None:
        """Readers, and whoever comes after a power cut, see the old lock or the new one."""
        staged = self.root / f".{FILE_NAME}.{secrets.token_hex(4)}"
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self.lock_path)
        finally:
            staged.unlink(missing_ok=True)


def read_lock(data: bytes, store: Store, where: str) -> Lock:
    """The lock that ``data`` is; what TOML it is, is remembered in the store. Raises :class:`LockError`."""
    remembered = store.memo("locks", sha256(data))
    try:
        return decode(json.loads(remembered.read_bytes()), file=where)
    except (OSError, ValueError, LockError):  # not there, torn, or written by another reprobox: the file decides
        pass
    document = parse(_text(data, where), file=where)
    lock = decode(document, file=where)
    store.remember("locks", sha256(data), json.dumps(document).encode())
    return lock


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise LockError("it is not UTF-8 text", where=where, hint="restore it, or run `reprobox lock`") from None


def _no_lock(path: Path) -> LockError:
    return LockError("there is no lock", where=str(path), hint="make one with `reprobox lock`")
