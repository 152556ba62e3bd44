"""Mounts of a container, for steps and for runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprobox.backend import Bind
from reprobox_docker.engine import Engine


def mounts(engine: Engine, stage: Path, binds: Sequence[Bind]) -> list[dict[str, Any]]:
    """Mounts in the words of the engine's API, of sources without links."""
    found = []
    for number, bind in enumerate(binds):
        source = os.path.realpath(bind.source)
        if engine.is_podman and set(source) & set(",:"):  # which it takes for the end of the name
            alias = stage / f"source-{number}"
            alias.symlink_to(source)
            source = str(alias)
        found.append(
            {
                "Type": "bind",
                "Source": source,
                "Target": bind.target,
                "ReadOnly": not bind.writable,
                "BindOptions": {"Propagation": "rprivate"},
            }
        )
    return found
