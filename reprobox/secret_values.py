"""Where the values of a manifest's secrets come from: files and environment variables of whoever builds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reprobox.errors import ManifestError
from reprobox.manifest import Manifest

_LARGEST = 64 << 10


def secret_values(manifest: Manifest, project: Path, wanted: Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """The values by name, of pairs of a secret and the layer that needs it; never kept.

    Raises :class:`ManifestError` with every secret that cannot be had.
    """
    found: dict[str, bytes] = {}
    problems = []
    for name, layer in dict(wanted).items():
        secret = manifest.secrets.get(name)
        needed = f"layer {layer!r} needs it to be built"
        if secret is None:
            value: bytes | _Missing = _Missing("", f"it is not declared, and {needed}", "run `reprobox lock`")
        else:
            value = (
                _from_environment(secret.env, needed) if secret.env else _from_file(project, str(secret.path), needed)
            )
        if isinstance(value, _Missing):
            place = ("secrets", name, value.key) if value.key else ("secrets", name)
            problems.append(manifest.problem(place, value.message, value.hint))
        else:
            found[name] = value
    if problems:
        raise ManifestError(problems)
    return found


class _Missing(NamedTuple):
    """Why a secret cannot be had, by which of its keys, and what to do."""

    key: str
    message: str
    hint: str


def _from_environment(name: str, needed: str) -> bytes | _Missing:
    value = os.environb.get(os.fsencode(name), b"")
    if not value.strip():
        hint = f"set it for this command: {name}=… reprobox …"
        return _Missing("env", f"the variable {name} is not set, and {needed}", hint)
    return value


def _from_file(project: Path, name: str, needed: str) -> bytes | _Missing:
    path = project / name
    try:
        with path.open("rb") as file:
            value = file.read(_LARGEST + 1)
    except OSError as error:
        hint = f"put the secret into {path}, or name another place with `path` or `env`"
        return _Missing("path", f"{name}: {error.strerror}, and {needed}", hint)
    if not value.strip():
        return _Missing("path", f"{name} is empty, and {needed}", f"put the secret into {path}")
    if len(value) > _LARGEST:
        return _Missing(
            "path", f"{name} is larger than 64 KiB", "a secret is a key or a word; larger things are inputs"
        )
    return value
