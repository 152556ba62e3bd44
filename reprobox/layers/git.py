"""``git``: the files of a commit, locked by commit and tree hash.

Its keys are read and checked; resolving and building come in a later release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reprobox.errors import ManifestError
from reprobox.layers.kind import Resolution, ResolveRequest, Step, StepRequest
from reprobox.manifest import Layer, absolute_path, key, not_yet, word


@dataclass(frozen=True, kw_only=True, slots=True)
class GitOptions:
    """The keys of a ``git`` layer."""

    repository: str = key("Where to clone it from.", check=word, hint='add repository = "https://…"')
    rev: str = key("Commit, tag or branch; the lock has the commit.", check=word, hint='add rev = "…"')
    to: str = key("Folder that its files are put into.", check=absolute_path, hint='add to = "/opt/…"')


class Git:
    """The kind."""

    name = "git"
    recipe = 1
    pinned = True
    options = GitOptions
    available = False

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Nothing: its files go where no unordered layer may write."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Not in this version."""
        place = ("layers", request.layer.index, "kind")
        raise ManifestError([request.manifest.problem(place, *not_yet('the kind "git"'))])

    def step(self, request: StepRequest) -> Step:
        """Not in this version: no lock has such a layer."""
        raise NotImplementedError(request.layer.kind)
