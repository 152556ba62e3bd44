"""What of a project enters no layer, wherever it lies: data that is mounted, and secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reprobox.digest import Json
from reprobox.manifest import Manifest


def left_out(manifest: Manifest) -> dict[str, Json]:
    """Sources of mounts, and files that hold secrets where there are any, as facts of a locked layer."""
    mounts = sorted({mount.source for mount in manifest.mounts.values() if mount.source})
    secrets = sorted({secret.path for secret in manifest.secrets.values() if secret.path})
    return {"mounts": mounts, **({"secrets": secrets} if secrets else {})}


def skipped_paths(facts: Mapping[str, Json]) -> list[str]:
    """The paths that :func:`left_out` wrote."""
    found: list[str] = []
    for name in ("mounts", "secrets"):
        paths = facts.get(name, ())
        assert isinstance(paths, Sequence)
        found += map(str, paths)
    return found
