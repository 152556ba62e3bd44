"""``fetch``: files from a URL, locked by their hash.

Its keys are read and checked; resolving and building come in a later release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reprobox.errors import ManifestError
from reprobox.layers.kind import Resolution, ResolveRequest, Step, StepRequest
from reprobox.manifest import Layer, absolute_path, key, not_yet, sha256_hex, url


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFile:
    """One file to download."""

    url: str = key("Where to download it from.", check=url, hint='add url = "https://…"')
    sha256: str | None = key("Hash that the file must have; always in the lock.", default=None, check=sha256_hex)
    to: str = key("Where it is put.", check=absolute_path, hint='add to = "/opt/…"')
    unpack: bool = key("Unpack the archive into the folder `to`.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOptions:
    """The keys of a ``fetch`` layer."""

    files: tuple[FetchFile, ...] = key(
        "Files to download.", nonempty=True, hint='add files = [{ url = "https://…", to = "/opt/…" }]'
    )


class Fetch:
    """The kind."""

    name = "fetch"
    recipe = 1
    pinned = True
    options = FetchOptions
    available = False

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Nothing: its files go where no unordered layer may write."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Not in this version."""
        place = ("layers", request.layer.index, "kind")
        raise ManifestError([request.manifest.problem(place, *not_yet('the kind "fetch"'))])

    def step(self, request: StepRequest) -> Step:
        """Not in this version: no lock has such a layer."""
        raise NotImplementedError(request.layer.kind)
