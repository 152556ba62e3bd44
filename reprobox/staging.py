"""Folders for unfinished work. A lock beside each dies with its owner, so that leftovers can be told from work."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from reprobox.tree import remove, strip_inherited


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
    for lock in place.glob("*.lock"):
        with contextlib.suppress(OSError), flocked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
            swept += 1
    return swept


@contextlib.contextmanager
def flocked(path: Path, how: int) -> Iterator[None]:
    """Hold flock(2) on ``path``, also when the file is replaced while waiting."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            try:
                current = os.stat(path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield
                return
        finally:
            os.close(descriptor)
