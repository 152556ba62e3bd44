"""An image in a file or a folder, as ``inspect`` shows it: an OCI layout, an oci-archive or a docker-archive."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reprobox.cli.report import human, on_one_line
from reprobox.digest import prefixed
from reprobox.errors import PlatformError, ReproboxError, UsageError
from reprobox.image import rfc3339
from reprobox.layers.image import in_layout
from reprobox.oci import documents as oci
from reprobox.oci.image_archive import Contents, choose, contents
from reprobox.project import MANIFEST_NAME
from reprobox.session import PLATFORMS, this_platform
from reprobox.vault.shelf import open_shelf
from reprobox.vault.write import locks_of, read_vault_index

_TARS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def holds_image(path: Path) -> bool:
    """Whether it is a layout, or an archive that may be an image's; a project's folder is the project."""
    if path.is_dir():
        return (path / "oci-layout").is_file() and not (path / MANIFEST_NAME).exists()
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return start[257:262] == b"ustar" or start.startswith(_TARS)


def describe(path: Path) -> dict[str, Any]:
    """The image for this machine, or else for another one.

    Raises :class:`UsageError` for a vault, and :class:`FetchError` for what is no image, or several.
    """
    _refuse_vault(path)
    image = _image(path)
    said: Mapping[str, Any] = image.config.settings
    return {
        "location": str(path),
        "platform": str(image.config.platform),
        "manifest": None if image.descriptor == image.manifest.config else prefixed(image.descriptor.digest),
        "config": prefixed(image.manifest.config.digest),
        "created": rfc3339(image.config.created) if image.config.created else None,
        "entrypoint": list(said.get("Entrypoint", ())),
        "command": list(said.get("Cmd", ())),
        "workdir": said.get("WorkingDir", ""),
        "user": said.get("User", ""),
        "environment": dict(line.split("=", 1) for line in said.get("Env", ()) if "=" in line),
        "labels": _labels(image),
        "layers": [
            {"digest": prefixed(layer.digest), "diff_id": prefixed(diff_id), "size": layer.size}
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        ],
    }


def _refuse_vault(path: Path) -> None:
    kept: list[Any] = []
    with suppress(ReproboxError, OSError):
        shelf = open_shelf(path)
        kept = locks_of(shelf, read_vault_index(shelf))
    if kept:
        raise UsageError(
            "this is a vault, and no image", where=str(path), hint=f"`reprobox vault {path} --check` says what it keeps"
        )


def _image(path: Path) -> oci.Image:
    """The image for this machine; where there is none, for the first platform of which there is one."""
    found = None if path.is_dir() else contents(path)
    first = this_platform()
    platforms = [first, *(name for name in PLATFORMS if name != first)] if first else list(PLATFORMS)
    for platform in platforms[:-1]:
        with suppress(PlatformError):
            return _for(path, found, platform)
    return _for(path, found, platforms[-1])


def _for(path: Path, found: Contents | None, platform: str) -> oci.Image:
    if found is None:
        return in_layout(path, None, platform)
    return choose(found, None, platform, str(path))


def _labels(image: oci.Image) -> dict[str, str]:
    """The config was read already, and is an object."""
    said = json.loads(image.documents[image.manifest.config.digest]).get("config") or {}
    labels = said.get("Labels") or {}
    return {str(name): str(value) for name, value in labels.items()} if isinstance(labels, dict) else {}


def show(document: Mapping[str, Any]) -> None:
    """Print what :func:`describe` found."""
    for line in _lines(document):
        print(on_one_line(line))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"{document['location']}, an image for {document['platform']}"
    for name in ("manifest", "config", "created", "user", "workdir"):
        if document[name]:
            yield f"{name:13} {document[name]}"
    for name in ("entrypoint", "command"):
        if document[name]:
            yield f"{name:13} {shlex.join(document[name])}"
    for name in ("environment", "labels"):
        for number, (key, value) in enumerate(sorted(document[name].items())):
            yield f"{'' if number else name:13} {key}={value}"
    for layer in document["layers"]:
        yield f"layer         {layer['digest']}  {human(layer['size']):>9}"
