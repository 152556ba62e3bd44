"""The plugin: what it offers to reprobox, found by its entry point."""

from __future__ import annotations

from collections.abc import Iterable

from reprobox.backend import Backend
from reprobox.plugins import hookimpl


@hookimpl
def reprobox_backends() -> Iterable[Backend]:
    """The ``singularity`` backend."""
    from reprobox_singularity.backend import Singularity

    return [Singularity()]
