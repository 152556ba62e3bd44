"""``run`` and ``shell`` on a current realization: from the launch record straight into the sandbox or a plugin's hands.

No argparse, no pluggy, no TOML. Whatever is not plain (options that it does not know, no record, a stale one) is left
to the full command line, which explains; so this module reports nothing.
"""

from __future__ import annotations

import os

from reprobox import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VALUES = {
    "-C": "project",
    "--project": "project",
    "--target": "target",
    "--backend": "backend",
    "--network": "network",
}


def run(arguments: list[str]) -> int | None:
    """Become the command, or return its exit status; None if this takes the full command line."""
    wanted = _read(arguments[1:])
    if wanted is None or wanted["network"] not in ("host", "none"):
        return None
    if arguments[0] == "shell" and wanted["command"]:
        return None
    manifest = _manifest(wanted["project"] or ".")
    if manifest is None:
        return None
    store = launch.store_root()
    backend = wanted["backend"] or launch.default_backend()
    held = launch.hold(launch.record_path(store, os.path.dirname(manifest), wanted["target"], backend))
    if held < 0:
        return None
    status = _start(arguments[0], wanted, store, manifest, held)
    os.close(held)
    return status


def _start(verb: str, wanted: dict[str, Any], store: str, manifest: str, held: int) -> int | None:  # noqa: RET503 - becoming never returns
    """Start the command if the record, which is open as ``held``, is current."""
    record = launch.read(held)
    if record is None or wanted["mounts"].keys() - record["mounts"].keys() or not launch.is_current(record, manifest):
        return None
    command = launch.command_line(record, None if verb == "shell" else wanted["command"])
    binds = launch.binds(record, wanted["mounts"])
    layers = launch.hold_layers(record, store)
    if not command or layers is None or not launch.ready(binds):
        return None
    if not launch.suits(record, store, launch.outputs(binds, record)):
        return None
    if "holder" in record:
        return _ask(wanted, record, command, binds, store)
    launch.hand_on([held, *layers])
    from reprobox.sandbox.command import become, stage_folder

    become(
        {
            "trees": record["trees"],
            "stage": stage_folder(os.path.join(store, "tmp")),
            "argv": command,
            "environment": launch.environment(record["environment"], os.environ),
            "binds": binds,
            "workdir": record["workdir"],
            "network": wanted["network"] == "host",
            "isolate": wanted["isolate"],
        }
    )


def _ask(
    wanted: dict[str, Any], record: dict[str, Any], command: list[str], binds: list[dict[str, Any]], store: str
) -> int | None:
    """Have the backend of a plugin run it, if it still has the environment."""
    from pathlib import Path

    from reprobox.backend import Bind, RunRequest
    from reprobox.cli.held import holder, realization_of

    backend, realization = holder(record, store), realization_of(record)
    if backend is None or not backend.has(realization):
        return None
    return backend.run(
        RunRequest(
            realization=realization,
            argv=tuple(command),
            environment=launch.environment(record["environment"], os.environ),
            binds=tuple(
                Bind(source=Path(bind["source"]), target=bind["target"], writable=bind["writable"]) for bind in binds
            ),
            workdir=record["workdir"],
            network=wanted["network"] == "host",
            isolate=wanted["isolate"],
        )
    )


def _read(arguments: list[str]) -> dict[str, Any] | None:
    """Options and command, or None if there is anything that only the full command line knows."""
    wanted: dict[str, Any] = {"project": "", "target": "", "backend": "", "mounts": {}, "command": []}
    wanted |= {"network": "host", "isolate": False}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if not word.startswith("-") or word == "--":
            wanted["command"] = arguments[position + (word == "--") :]
            break
        if word == "--isolate":
            wanted["isolate"] = True
            position += 1
            continue
        name, equals, value = word.partition("=")
        if name != "--mount" and name not in _VALUES:
            return None
        if not equals:
            position += 1
            if position == len(arguments):
                return None
            value = arguments[position]
        if name == "--mount":
            target, equals, source = value.partition("=")
            if not equals or not source or not target.startswith("/") or target in wanted["mounts"]:
                return None
            wanted["mounts"][target] = source
        else:
            wanted[_VALUES[name]] = value
        position += 1
    return wanted


def _manifest(start: str) -> str | None:
    folder = os.path.abspath(start)
    if not os.path.isdir(folder):  # a manifest of any name, or a mistake
        return None
    while True:
        manifest = os.path.join(folder, "research.toml")
        if os.path.isfile(manifest):
            return manifest
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
