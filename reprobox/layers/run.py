"""``run``: a shell script over everything above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reprobox.graph import EVERYTHING
from reprobox.layers.kind import Commands, Resolution, ResolveRequest, StepRequest
from reprobox.manifest import Layer, key


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The keys of a ``run`` layer."""

    script: str = key("Shell script; it stops at the first command that fails.", hint='add script = "…"')
    secrets: tuple[str, ...] = key(
        "Secrets that the script reads below /run/secrets.", default=(), refers="secrets", available=False
    )
    network: bool = key("Let the script use the network; then it is not pinned.", default=False, available=False)


class RunKind:
    """The kind. The script is run by ``/bin/sh -eu`` in ``/``, without network; start it with ``bash -c`` for bash."""

    name = "run"
    recipe = 1
    pinned = False
    options = RunOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Everything above: a script may read anything."""
        return EVERYTHING

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The script is all there is to pin."""
        return Resolution(options={"script": request.layer.options.script})

    def step(self, request: StepRequest) -> Commands:
        """Run it."""
        return Commands(commands=(("/bin/sh", "-eu", "-c", str(request.layer.options["script"])),))
