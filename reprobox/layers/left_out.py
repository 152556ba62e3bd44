"""What of a project enters no layer, wherever it lies: data that is mounted, secrets, and files that bases are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reprobox.digest import Json
from reprobox.manifest import Manifest


def left_out(manifest: Manifest) -> dict[str, Json]:
    """Sources of mounts, and files that hold secrets or bases where there are any, as facts of a locked layer."""
    mounts = sorted({mount.source for mount in manifest.mounts.values() if mount.source})
    secrets = sorted({secret.path for secret in manifest.secrets.values() if secret.path})
    named = [manifest.base, *(target.base for target in manifest.targets.values() if target.base)]
    bases = sorted({base.reference for base in named if base.kind in ("archive", "sif")})
    return {"mounts": mounts, **({"secrets": secrets} if secrets else {}), **({"bases": bases} if bases else {})}


def skipped_paths(facts: Mapping[str, Json]) -> list[str]:
    """The paths that :func:`left_out` wrote."""
    found: list[str] = []
    for name in ("mounts", "secrets", "bases"):
        paths = facts.get(name, ())
        assert isinstance(paths, Sequence)
        found += map(str, paths)
    return found
