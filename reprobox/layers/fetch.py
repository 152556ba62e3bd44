"""``fetch``: files from a URL, locked by their hash.

Its keys are read and checked; resolving and building come in a later release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True, slots=True)
class Fetch:
    """The kind."""

    name: str = "fetch"
    recipe: int = 1
    options: type[FetchOptions] = FetchOptions
    available: ClassVar[bool] = False

    def needs(self, _layer: Layer, _above: Sequence[Layer]) -> tuple[str, ...]:
        """Nothing: files are put where no other unordered layer writes."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Not in this version."""
        finding = not_yet(f"the kind {self.name!r}")
        raise ManifestError([request.manifest.problem(("layers", request.layer.index, "kind"), *finding)])

    def step(self, request: StepRequest) -> Step:
        """Not in this version: no lock has such a layer."""
        raise NotImplementedError(request.layer.kind)
