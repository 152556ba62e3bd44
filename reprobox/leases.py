"""Who uses a store, told by file locks that end with their processes.

``locks/gate`` is held, shared, for the moment in which a command finds a thing of the store and notes that it uses it:
the note is the thing's modification time, which says what was used last as well. Every such command also keeps a lease,
a locked file in ``leases/`` that is as old as its work. Who wants to take things away closes the gate for a moment, and
leaves everything that was used since the oldest living lease began. So nobody waits for long, no thing needs a lock
of its own, and a command that is killed leaves nothing that counts.

On file systems without locks there is nothing to tell by: commands work, and :func:`closed` says that it knows nothing.
Source: flock(2); on NFS, locks for writing need a descriptor for writing, and times are the server's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from reprobox.staging import lock

_AT_ONCE = fcntl.LOCK_NB


class Uses:
    """One process's use of the store in ``root``. Threads share it; a forked process begins its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._holders = 0
        self._owner = 0  # the process that opened what follows
        self._gate = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this is held, nothing is taken out of the store."""
        with self._lock:
            if self._owner != os.getpid():
                self._begin()
            elif self._holders == 0 and self._gate >= 0:
                lock(self._gate, fcntl.LOCK_SH)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0 and self._gate >= 0:
                    lock(self._gate, fcntl.LOCK_UN)

    def mark(self, path: str | Path) -> bool:
        """Note that ``path`` is used now, which keeps it here; False if it is not here."""
        with self.held():
            try:
                os.utime(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError:  # a store that this user may only read: nobody can note anything in it
                return os.path.exists(path)
            return True

    def _begin(self) -> None:
        """Open the gate's file, pass it, and leave a lease. In a store that is only read, there is none to leave."""
        self._owner, self._holders, self._gate = os.getpid(), 0, -1
        with contextlib.suppress(OSError):
            self._gate = _open(self._root / "locks" / "gate")
            lock(self._gate, fcntl.LOCK_SH)
            path = self._root / "leases" / secrets.token_hex(8)
            lease = _open(path)
            lock(lease, fcntl.LOCK_EX)
            weakref.finalize(self, _end, self._owner, path, lease, self._gate)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _end(owner: int, path: Path, *descriptors: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink()
        for descriptor in descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def closed(root: Path) -> Iterator[float | None]:
    """Close the gate of the store in ``root``: until this ends, nobody begins to use a thing of it.

    Gives the unix time since when what was used may still be in use: the start of the oldest living command, infinity
    if none lives. None where the file system has no locks: then nobody can tell.
    """
    gate = _open(root / "locks" / "gate")
    try:
        known = lock(gate, fcntl.LOCK_EX)
        yield _oldest(root / "leases") if known else None
    finally:
        os.close(gate)


def _oldest(folder: Path) -> float:
    oldest = float("inf")
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if is_held(path):
                oldest = min(oldest, path.stat().st_mtime)
            else:
                path.unlink()
    return oldest


def has_locks(root: Path) -> bool:
    """Whether the file system of the store in ``root`` has locks."""
    with contextlib.suppress(OSError):
        gate = _open(root / "locks" / "gate")
        try:
            return lock(gate, fcntl.LOCK_SH | _AT_ONCE)
        finally:
            os.close(gate)
    return True


def is_held(path: Path) -> bool:
    """Whether a process has a lock on the file ``path``. Raises :class:`FileNotFoundError`."""
    with excluded(path) as mine:
        return not mine


@contextlib.contextmanager
def excluded(path: Path) -> Iterator[bool]:
    """Keep everybody from a lock on the file ``path``; False if somebody has one. Raises :class:`FileNotFoundError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            lock(descriptor, fcntl.LOCK_EX | _AT_ONCE)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
