"""A backend that holds each environment as one plain folder.

What is its own is how an environment is held: other programs can look into it or back it up, and nothing of it is
stacked when it runs. For steps and for entering a root it uses the sandbox, which every reprobox has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from reprobox.backend import (
    Availability,
    Backend,
    BuildRequest,
    BuildResult,
    ChangesRequest,
    EditRequest,
    Realization,
    RealizeRequest,
    RunRequest,
    ToolRequest,
    ToolResult,
)
from reprobox.plugins import hookimpl
from reprobox.sandbox.backend import Sandbox


class Folder:
    """The backend. ``at`` lets it stage on the file system of the store; a backend without that need has none."""

    name = "folder"
    needs_image = False  # the unpacked layers are enough

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        # overlay=False: where the sandbox cannot stack layers, it knows how to run one folder.
        self._sandbox = sandbox or Sandbox(overlay=False)

    def at(self, scratch: Path) -> Folder:
        return Folder(self._sandbox.at(scratch))

    def probe(self) -> Availability:
        return self._sandbox.probe()

    # -- how an environment is held

    def realize(self, request: RealizeRequest) -> Realization:
        if request.output is not None:
            return self._sandbox.realize(request)
        held = self._sandbox.realize(request)  # below request.keep, by the image digest, made once
        return Realization(location=str(held.trees[0]))

    def has(self, realization: Realization) -> bool:
        return os.path.isdir(realization.location)

    def inspect(self, realization: Realization) -> Mapping[str, str]:  # noqa: ARG002 - a folder has no labels
        return {}

    # -- what is done with it

    def run(self, request: RunRequest) -> NoReturn:
        self._sandbox.run(replace(request, realization=_as_one_tree(request.realization)))

    def build(self, request: BuildRequest) -> BuildResult:
        return self._sandbox.build(request)

    def tool(self, request: ToolRequest) -> ToolResult:
        return self._sandbox.tool(request)

    def edit(self, request: EditRequest) -> int:
        return self._sandbox.edit(request)

    def changes(self, request: ChangesRequest) -> BuildResult:
        return self._sandbox.changes(request)


def _as_one_tree(realization: Realization) -> Realization:
    """A realization is found again by its location alone, also in another process."""
    return replace(realization, trees=(Path(realization.location),))


class Plugin:
    """Hooks register nouns; what they do is in the class behind the noun."""

    @hookimpl
    def reprobox_backends(self) -> Iterable[Backend]:
        return [Folder()]


plugin = Plugin()
