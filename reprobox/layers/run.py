"""``run``: a shell script over everything above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reprobox.digest import Json
from reprobox.graph import EVERYTHING
from reprobox.layers.kind import NETWORK, SECRETS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.manifest import Layer
from reprobox.table_rules import Check, Finding
from reprobox.tables import key

_LARGEST = 128 << 10  # bytes that Linux takes in one argument, with its final zero


def _script(text: str) -> Finding | None:
    if not text.strip():
        return Finding("the script is empty", "write commands, or remove the layer")
    if text.lstrip().startswith("#!"):
        return Finding(
            "the script is run by /bin/sh, and its first line asks for another program",
            "remove that line; for bash write \"bash -euc '…'\", and for longer programs copy a file and call it",
        )
    if len(text.encode()) >= _LARGEST:
        return Finding("the script is longer than 128 KiB", "copy it as a file in a layer above, and call it")
    return None


shell_script = Check(find=_script, schema={"minLength": 1})
"""Commands for /bin/sh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The keys of a ``run`` layer."""

    script: str = key(
        "Shell script; it stops at the first command that fails.", check=shell_script, hint='add script = "…"'
    )
    secrets: tuple[str, ...] = key("Secrets that the script reads below /run/secrets.", default=(), refers="secrets")
    network: bool = key("Let the script use the network: pinned only once it is sealed.", default=False)


class RunKind:
    """The kind. The script is run by ``/bin/sh -eu`` in ``/``; for bash let it call ``bash -euc``."""

    name = "run"
    recipe = 1
    pinned = False
    options = RunOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Everything above: a script may read anything."""
        return EVERYTHING

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The script is all there is to pin: the names of secrets count, their values do not."""
        asked = request.layer.options
        options: dict[str, Json] = {"script": asked.script}
        if asked.secrets:
            options[SECRETS] = sorted(set(asked.secrets))
        if asked.network:
            options[NETWORK] = True
        return Resolution(options=options, facts={"unpinned": True} if asked.network else {})

    def step(self, request: StepRequest) -> Commands:
        """Run it."""
        return Commands(commands=(("/bin/sh", "-eu", "-c", str(request.layer.options["script"])),))
