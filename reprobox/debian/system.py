"""What apt on a system is set up to use: sources, and keys that it trusts. The host is one, the base another."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.debian.release import KEY_PATTERNS, Keyring, read_key_file, trusted_keys
from reprobox.debian.solver import extended_status
from reprobox.debian.sources import Read, Source, host_sources, read_host, read_sources
from reprobox.digest import Json, canonical, sha256
from reprobox.errors import ResolveError
from reprobox.lock import LockedLayer
from reprobox.manifest import Base

if TYPE_CHECKING:
    from reprobox.layers.kind import World

STATUS = "/var/lib/dpkg/status"
ARCHITECTURES = "/var/lib/dpkg/arch"
APT = "/usr/bin/apt-get"
_APT_FOLDERS = (
    "/etc/apt",
    *(f"/etc/apt/{name}" for name in ("keyrings", "sources.list.d", "trusted.gpg.d")),  # which may be links
    "/usr/share/keyrings",
)
_PREFERENCES = ("/etc/apt/preferences", "/etc/apt/preferences.d/")


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """``read`` gives the system's files by absolute path."""

    sources: tuple[Source, ...]
    trusted: Keyring
    read: Read


def host_system() -> System:
    """The machine we are on; without sources and keys where it has no apt."""
    return System(sources=host_sources(), trusted=trusted_keys(), read=read_host)


def base_system(world: World) -> System:
    """The base of the environment; its files are read, and nothing of it runs."""
    files = sorted({path for folder in _APT_FOLDERS for path in world.find(folder)})
    named = [path for path in files if path.startswith("/etc/apt/sources.list")]
    keys = [path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in KEY_PATTERNS)]
    return System(
        sources=read_sources(world.read, [path for path in named if path.endswith((".list", ".sources"))]),
        trusted=trusted_keys(world.read, keys),
        read=world.read,
    )


def debian_suite(world: World) -> str:
    """Codename of the Debian release that the base is; empty for another distribution. os-release(5)"""
    text = (world.read("/etc/os-release") or b"").decode("utf-8", "replace")
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    codename = said.get("VERSION_CODENAME", "").strip("\"'")
    return codename if said.get("ID", "").strip("\"'") == "debian" and codename.isalpha() else ""


def preferences(world: World) -> str:
    """What the base's own apt prefers, as one file. apt_preferences(5)"""
    names = [path for path in world.find("/etc/apt") if path.startswith(_PREFERENCES)]
    plain = [path for path in names if "." not in path.rpartition("/")[2] or path.endswith(".pref")]
    return "\n\n".join((world.read(path) or b"").decode("utf-8", "surrogateescape") for path in plain)


def trusted_by(project: Path, base: Base, remembered: Json) -> Keyring:
    """The keys that may sign a bootstrap base's archives: those its manifest names; else the host's and the lock's.

    ``remembered`` are the keys that an older lock holds: whoever has the project folder trusts them already.
    """
    if base.key is not None:
        return read_key_file(project / base.key)
    keyring = trusted_keys()
    if isinstance(remembered, str) and remembered:
        keyring.add(remembered.encode(), "the lock")
    return keyring


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A system's dpkg database: the status file, and the architectures it takes packages of besides its own."""

    status: bytes
    foreign: tuple[str, ...]


def installed(world: World, base: LockedLayer, platform: str) -> Installed:
    """What the base has installed. Raises :class:`ResolveError` where it has no dpkg database or no apt.

    A base that is locked package by package and cannot be built here is known from its packages.
    """
    if base.kind == "bootstrap" and platform != world.here:
        return Installed(status=_locked_status(world, base), foreign=())
    status = world.read(STATUS)
    if not status or world.read(APT) is None:
        raise ResolveError(
            "the base has no apt, and an apt layer is resolved by the base's own",
            hint="use a base of Debian or Ubuntu, or an image that holds the packages already",
        )
    listed = (world.read(ARCHITECTURES) or b"").decode("ascii", "replace").split()
    return Installed(status=status, foreign=tuple(listed[1:]))  # the first is its own


def _locked_status(world: World, base: LockedLayer) -> bytes:
    """The dpkg status that installing exactly the locked packages leaves."""
    key = sha256(canonical([item.sha256 for item in base.inputs]))
    try:
        return world.store.memo("status", key).read_bytes()
    except FileNotFoundError:
        world.fetch(base.inputs)
    status = extended_status(b"", (), [world.store.blob(item.sha256) for item in base.inputs])
    world.store.remember("status", key, status)
    return status
