"""What apt on a system is set up to use: sources, and keys that it trusts. The host is one, the base another."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.debian import deb
from reprobox.debian.release import KEY_PATTERNS, Keyring, read_key_file, trusted_keys
from reprobox.debian.sources import Read, Source, host_sources, read_host, read_sources
from reprobox.digest import Json
from reprobox.errors import ResolveError
from reprobox.manifest import Base
from reprobox.tar_stream import FILE

if TYPE_CHECKING:
    from reprobox.layers.kind import World

STATUS = "/var/lib/dpkg/status"
ARCHITECTURES = "/var/lib/dpkg/arch"
APT = "/usr/bin/apt-get"
_APT_FILES = ("etc/apt", "usr/share/keyrings")
_END = bytes(1024)  # closes a tar that is whole


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """``read`` gives the system's files by absolute path."""

    sources: tuple[Source, ...]
    trusted: Keyring
    read: Read


def host_system() -> System:
    """The machine we are on; without sources and keys where it has no apt."""
    return System(sources=host_sources(), trusted=trusted_keys(), read=read_host)


def base_system(world: World, identity: str) -> System:
    """The base of the environment, whose layer id is ``identity``.

    A tool run in the base gives its files as one tar, links followed; it is remembered by the id. Raises
    :class:`ResolveError` where the run was cut short.
    """
    try:
        tar = world.store.memo("systems", identity).read_bytes()
    except FileNotFoundError:
        tar = b""
    if not tar.endswith(_END):
        there = 'cd / && for path; do test -e "$path" && printf "%s\\0" "$path"; done'
        result = world.tool(("sh", "-c", f"{there} | tar -chf - --null -T -", "sh", *_APT_FILES))
        tar = result.stdout
        if not tar.endswith(_END):
            said = result.stderr.decode(errors="replace").strip() or f"tar ended with status {result.status}"
            raise ResolveError(f"the base's apt configuration could not be read: {said}", hint="run it again")
        if result.status == 0:  # else something there could not be read: a link to nowhere is nothing to apt either
            world.store.remember("systems", identity, tar)
    files = _files(tar)
    named = [path for path in files if path.startswith("/etc/apt/sources.list")]
    keys = [path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in KEY_PATTERNS)]
    return System(
        sources=read_sources(files.get, [path for path in named if path.endswith((".list", ".sources"))]),
        trusted=trusted_keys(files.get, keys),
        read=files.get,
    )


def _files(tar: bytes) -> Mapping[str, bytes]:
    return {
        "/" + member.path.decode("utf-8", "surrogateescape"): bytes(member.data)
        for member in deb.tar_members(tar)
        if member.kind == FILE
    }


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


def installed(world: World) -> Installed:
    """The base's. Raises :class:`ResolveError` where the base has no dpkg database or no apt."""
    status = world.read(STATUS)
    if not status or world.read(APT) is None:
        raise ResolveError(
            "the base has no apt, and an apt layer is resolved by the base's own",
            hint="use a base of Debian or Ubuntu, or an image that holds the packages already",
        )
    listed = (world.read(ARCHITECTURES) or b"").decode("ascii", "replace").split()
    return Installed(status=status, foreign=tuple(listed[1:]))  # the first is its own
