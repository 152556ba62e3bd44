"""Whether the disk that the store is on can hold what is about to be downloaded, before any of it is.

Inputs are packed, and what is made of them comes on top: what is refused here could not be done. That something is not
refused promises nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reprobox.errors import ReproboxError
from reprobox.lock import Input, LockedLayer
from reprobox.sizes import human
from reprobox.store import Store


def check_room_for(layers: Sequence[LockedLayer], store: Store) -> None:
    """Raise :class:`ReproboxError` unless there is room for the inputs of the ``layers`` that the store lacks."""
    free = _free(store.root)
    if free is None or sum(item.size for layer in layers for item in layer.inputs) <= free:
        return
    with contextlib.suppress(OSError):
        store.sweep()  # what builds that were killed left
    with store.using():
        missing = [layer for layer in layers if store.layer(layer.id) is None]
    check_room([item for layer in missing for item in layer.inputs], store)


def check_room(inputs: Iterable[Input], store: Store) -> None:
    """Raise :class:`ReproboxError` unless there is room for the ``inputs`` that the store lacks."""
    free = _free(store.root)
    sizes = {item.sha256: item.size for item in inputs}
    if free is None or sum(sizes.values()) <= free:
        return
    needed = sum(size - _begun(store, digest, size) for digest, size in sizes.items() if not store.has_blob(digest))
    if needed > free:
        raise ReproboxError(
            f"{human(needed)} have to be downloaded ({needed} bytes), and {human(free)} are free there ({free} bytes)",
            where=str(store.root),
            hint="make room: `reprobox cache gc` removes what no environment needs; or set REPROBOX_STORE to a folder"
            " on another disk",
        )


def _begun(store: Store, digest: str, size: int) -> int:
    """Bytes of a blob that an earlier download left, and that are continued."""
    try:
        return min(store.partial(digest).stat().st_size, size)
    except OSError:
        return 0


def _free(place: Path) -> int | None:
    """Bytes that may still be written; None where the file system says nothing of it, as one in memory without a limit.

    What is kept for root is free for root.
    """
    try:
        status = os.statvfs(place)
    except OSError:  # it is made by whoever writes there first, who says what is wrong
        return None
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return blocks * status.f_frsize if status.f_blocks else None
