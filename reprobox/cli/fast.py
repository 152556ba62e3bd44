"""``run`` and ``shell`` on a current realization: from the launch record straight into the sandbox.

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


def run(arguments: list[str]) -> None:
    """Become the command, or return if this takes the full command line."""
    wanted = _read(arguments[1:])
    if wanted is None or wanted["backend"] not in ("", "sandbox") or wanted["network"] not in ("host", "none"):
        return
    if arguments[0] == "shell" and wanted["command"]:
        return
    manifest = _manifest(wanted["project"] or ".")
    if manifest is None:
        return
    store = launch.store_root()
    held = launch.hold(launch.record_path(store, os.path.dirname(manifest), wanted["target"], "sandbox"))
    if held >= 0:
        _become(arguments[0], wanted, store, manifest, held)
        os.close(held)


def _become(verb: str, wanted: dict[str, Any], store: str, manifest: str, held: int) -> None:
    """Become the command if the record, which is open as ``held``, is current."""
    record = launch.read(held)
    if record is None or wanted["mounts"].keys() - record["mounts"].keys() or not launch.is_current(record, manifest):
        return
    command = record["shell"] if verb == "shell" else wanted["command"] or record["command"]
    binds = launch.binds(record, wanted["mounts"])
    layers = launch.hold_layers(record, store)
    if not command or layers is None or not launch.ready(binds):
        return
    if not launch.suits(record, store, launch.outputs(binds, record)):
        return
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
