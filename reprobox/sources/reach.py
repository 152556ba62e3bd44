"""What a manifest names outside its own folder. Of a stranger's, each such thing needs the reader's word, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.git.repository import Remote
from reprobox.lock import Lock
from reprobox.manifest import Base, Layer, Manifest, Mount
from reprobox.wording import quote

_FOLDERS = ("archive", "oci", "sif", "rootfs")
_FILE_URL = re.compile(r"file:\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """One of them. ``name`` is what a reader allows it by, ``key`` where the manifest says it."""

    name: str
    key: str
    message: str


def reaches(manifest: Manifest, lock: Lock, folder: Path) -> tuple[Reach, ...]:
    """Everything of the reader's machine that the project in ``folder`` would read or write, besides that folder."""
    home = Path(os.path.realpath(folder))
    found = [
        *_mounts(manifest, home),
        *_secrets(manifest, lock, home),
        *_bases(manifest, home),
        *_code(manifest, home),
        *(reach for layer in manifest.layers for reach in _layer(layer, home)),
    ]
    return tuple(found)


def is_outside(home: Path, text: str) -> bool:
    """Whether a path that the manifest has leads out of the project, itself or through a link."""
    return not Path(os.path.realpath(home / text)).is_relative_to(home)


def _mounts(manifest: Manifest, home: Path) -> Iterator[Reach]:
    for target, mount in manifest.mounts.items():
        if mount.source and is_outside(home, mount.source):
            yield Reach(name=target, key=f'mounts."{target}".source', message=_shown_folder(mount, home))
        for file in mount.files:
            if file.url.startswith("file:"):
                message = f"it reads {quote(file.url)} of this machine"
                yield Reach(name=target, key=f'mounts."{target}".files', message=message)


def _shown_folder(mount: Mount, home: Path) -> str:
    source = str(mount.source)
    lexical = os.path.normpath(home / source)
    is_link = Path(lexical).is_relative_to(home)
    place = quote(source) + (f", which is {quote(os.path.realpath(lexical))}" if is_link else "")
    can = "what runs may read it" if mount.mode == "ro" else "what runs may read, change and delete what is in it"
    return f"it is {place}, outside the project: {can}"


def _secrets(manifest: Manifest, lock: Lock, home: Path) -> Iterator[Reach]:
    users = secret_users(lock)
    for name, secret in manifest.secrets.items():
        shown = ", ".join(users.get(name, ())) or "no layer"
        if secret.env:
            message = f"it is your environment variable {secret.env}, and {shown} sees it"
            yield Reach(name=f"secrets.{name}", key=f"secrets.{name}.env", message=message)
        elif is_outside(home, str(secret.path)):
            message = f"it is the file {quote(str(secret.path))}, outside the project, and {shown} sees it"
            yield Reach(name=f"secrets.{name}", key=f"secrets.{name}.path", message=message)


def secret_users(lock: Lock) -> dict[str, list[str]]:
    """Layers that see a secret while they are built, by its name; said of those that may use the network meanwhile."""
    users: dict[str, list[str]] = {}
    for target in lock.targets.values():
        for layer in target.layers:
            names = layer.options.get("secrets", ())
            shown = f"layer {layer.name}" + (
                ", which uses the network," if layer.options.get("network") is True else ""
            )
            for name in names if isinstance(names, list | tuple) else ():
                if shown not in users.setdefault(str(name), []):
                    users[str(name)].append(shown)
    return users


def _bases(manifest: Manifest, home: Path) -> Iterator[Reach]:
    named: list[tuple[str, Base]] = [("base", manifest.base)]
    named += [(f"targets.{name}.base", target.base) for name, target in manifest.targets.items() if target.base]
    for name, base in named:
        if base.kind in _FOLDERS and is_outside(home, base.reference):
            message = f"it is {quote(base.reference)} of this machine, outside the project"
            yield Reach(name=name, key=f"{name}.{base.given}", message=message)


def _code(manifest: Manifest, home: Path) -> Iterator[Reach]:
    if manifest.code.git and _is_local(manifest.code.git, home):
        message = f"it is the repository {quote(manifest.code.git)} of this machine"
        yield Reach(name="code", key="code.git", message=message)
    if is_outside(home, manifest.code.path):
        message = f"it is {quote(manifest.code.path)}, a link out of the project"
        yield Reach(name="code", key="code.path", message=message)


def _layer(layer: Layer, home: Path) -> Iterator[Reach]:
    """Repositories, files and package archives of this machine that a layer is made of."""
    name = f"layers.{layer.name}"
    options = layer.options
    for key in ("requirements", "pylock", "project", "constraints"):
        path = getattr(options, key, None)
        if isinstance(path, str) and is_outside(home, path):
            yield Reach(
                name=name, key=f"{name}.{key}", message=f"{quote(path)} leads out of the project through a link"
            )
    repository = getattr(options, "repository", None)
    if isinstance(repository, str) and _is_local(repository, home):
        message = f"it is the repository {quote(repository)} of this machine"
        yield Reach(name=name, key=f"{name}.repository", message=message)
    for key, text in _addresses(layer):
        yield Reach(name=name, key=f"{name}.{key}", message=f"it reads {quote(text)} of this machine")


def _addresses(layer: Layer) -> Iterator[tuple[str, str]]:
    options = layer.options
    if layer.kind == "fetch":
        yield from (("files", file.url) for file in options.files if file.url.startswith("file:"))
    for source in getattr(options, "sources", ()):
        yield from (("sources", uri) for uri in source.uris if uri.startswith("file:"))
    if layer.kind == "pip":
        for package in options.packages:
            yield from (("packages", found) for found in _FILE_URL.findall(package))


def _is_local(repository: str, home: Path) -> bool:
    remote = Remote.of(repository, home)
    return remote.local and is_outside(home, remote.shown)
