"""The docker backend: environments as images of a Docker engine, or of Podman; steps and runs as its containers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reprobox.plugins import hookimpl

if TYPE_CHECKING:
    from reprobox.backend import Backend

__version__ = "0.1.0"


class Plugin:
    """What this distribution registers."""

    @hookimpl
    def reprobox_backends(self) -> Iterable[Backend]:
        from reprobox_docker.backend import Docker

        return [Docker()]


plugin = Plugin()
