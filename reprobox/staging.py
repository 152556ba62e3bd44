"""Folders for unfinished work. A lock beside each dies with its owner, so that leftovers can be told from work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from reprobox.tree import remove, strip_inherited

#: What flock(2) says where it cannot be had: no lock manager, a file system (Lustre, FUSE) without locks.
NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL))
_ABANDONED = 7 * 86400  # seconds after which nobody is still working in a folder that nobody could lock


def lock(descriptor: int, how: int) -> bool:
    """flock(2); False where the file system has no locks. Raises :class:`BlockingIOError` as flock does."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def staging_folder(place: Path) -> Iterator[Path]:
    """An empty folder in ``place``, mode 0755 whatever its surroundings want; gone afterwards."""
    name = place / secrets.token_hex(8)
    with flocked(name.with_suffix(".lock"), fcntl.LOCK_EX):
        name.mkdir(mode=0o755)
        strip_inherited(name, 0o755)
        try:
            yield name
        finally:
            remove(name)
            name.with_suffix(".lock").unlink(missing_ok=True)


def sweep(place: Path) -> int:
    """Remove staging folders in ``place`` whose owner died; returns how many."""
    swept = 0
    for beside in place.glob("*.lock"):
        with contextlib.suppress(OSError), flocked(beside, fcntl.LOCK_EX | fcntl.LOCK_NB) as mine:
            if mine or beside.stat().st_mtime < time.time() - _ABANDONED:
                remove(beside.with_suffix(""))
                beside.unlink(missing_ok=True)
                swept += 1
    return swept


@contextlib.contextmanager
def flocked(path: Path, how: int) -> Iterator[bool]:
    """Hold flock(2) on ``path``, also when the file is replaced while waiting; False where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            locked = lock(descriptor, how)
            try:
                current = os.stat(path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield locked
                return
        finally:
            os.close(descriptor)
