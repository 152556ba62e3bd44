"""``git``: the files of a commit, locked by commit and tree hash.

Its keys are read and checked; resolving and building come in a later release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reprobox.errors import ManifestError
from reprobox.layers.kind import Resolution, ResolveRequest, Step, StepRequest
from reprobox.manifest import Layer, absolute_path, key, not_yet, word


@dataclass(frozen=True, kw_only=True, slots=True)
class GitOptions:
    """The keys of a ``git`` layer."""

    repository: str = key("Where to clone it from.", check=word, hint='add repository = "https://…"')
    rev: str = key("Commit, tag or branch; the lock has the commit.", check=word, hint='add rev = "…"')
    to: str = key("Folder that its files are put into.", check=absolute_path, hint='add to = "/opt/…"')


@dataclass(frozen=True, slots=True)
class Git:
    """The kind."""

    name: str = "git"
    recipe: int = 1
    options: type[GitOptions] = GitOptions
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
