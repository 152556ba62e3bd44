"""Which Python an environment will have, told from what is locked below, before anything of it is built.

Packages that are locked say it without a look at any file. Else the base is looked into: its dpkg database, its
headers; only as a last resort its interpreter is asked.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprobox.debian.control import fields, stanzas
from reprobox.errors import ResolveError
from reprobox.layers.kind import World
from reprobox.lock import LockedLayer

if TYPE_CHECKING:
    from packaging.tags import Tag

#: Where programs are found in a base that does not say.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OLDEST = (3, 8)
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_NEWEST_MINOR = 40  # interpreters are looked for under python3.8 … python3.40
_UV_GLIBC = (17, 28, *range(31, 41))  # the manylinux_2_N that `uv pip compile --python-platform` knows
_MUSL = (1, 2)  # every musl since 2020; uv's musl platform means the same
_PACKAGED_IN = ("/usr/bin", "/bin")
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """A CPython of the environment.

    ``path`` is where it stands there; ``version`` has two or three numbers; ``libc`` is ``glibc`` or ``musl`` with the
    two numbers of its version; ``machine`` is as in the names of wheels.
    """

    path: str
    version: str
    libc: tuple[str, int, int]
    machine: str

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def uv_platform(self) -> str:
        """Name of the platform for uv: the newest one that it knows which this machine satisfies."""
        name, major, minor = self.libc
        if name == "musl":
            return f"{self.machine}-unknown-linux-musl"
        known = [number for number in _UV_GLIBC if (2, number) <= (major, minor)]
        return f"{self.machine}-manylinux_2_{max(known, default=_UV_GLIBC[0])}"

    def platforms(self) -> list[str]:
        """Platform tags of wheels that run here, best first (PEP 600, PEP 656)."""
        name, major, minor = self.libc
        native = f"linux_{self.machine}"
        if name == "musl":
            return [native, *(f"musllinux_{major}_{number}_{self.machine}" for number in range(minor, -1, -1))]
        oldest = 5 if self.machine == "x86_64" else 17
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        tags = []
        for number in range(minor, oldest - 1, -1):
            tags.append(f"manylinux_2_{number}_{self.machine}")
            if number in legacy:
                tags.append(f"{legacy[number]}_{self.machine}")
        return [native, *tags]

    def tags(self) -> Iterator[Tag]:
        """Wheel tags that this interpreter takes, best first."""
        from packaging.tags import compatible_tags, cpython_tags

        abi = f"cp{self.release[0]}{self.release[1]}"
        platforms = self.platforms()
        yield from cpython_tags(self.release, [abi], platforms)
        yield from compatible_tags(self.release, abi, platforms)

    def markers(self) -> dict[str, str]:
        """What environment markers see (PEP 508); what only a running kernel could say is empty."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.version,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.version,
            "python_version": ".".join(map(str, self.release)),
            "sys_platform": "linux",
        }


def find_python(world: World, below: Sequence[LockedLayer], platform: str) -> Python:
    """The Python that the layers ``below`` (the base first) have, as its PATH finds it.

    Raises :class:`ResolveError` without ``where`` if there is none or none that can be told.
    """
    machine = _MACHINES.get(platform)
    if machine is None:
        raise ResolveError(f"Python packages are not available for {platform}", hint="use linux/amd64 or linux/arm64")
    packages = _locked_packages(below)
    base = _Base(world, below[0], native=platform == world.here)
    if not base.locked:
        packages = {**base.packages(), **packages}
    path, version = _interpreter(base, packages)
    if tuple(map(int, version.split(".")))[:2] < OLDEST:
        raise ResolveError(f"Python {version} of the environment is too old", hint="choose one of 3.8 or newer")
    return Python(path=path, version=version, libc=_libc(base, packages, machine), machine=machine)


def _locked_packages(layers: Sequence[LockedLayer]) -> dict[str, str]:
    """Version by name of the Debian packages that are locked; an upper layer's counts."""
    debs = (item for layer in layers for item in layer.inputs if item.type == "deb")
    return {item.facts["package"]: item.facts["version"] for item in debs}


class _Base:
    """The bottom layer. One that is locked package by package need not exist to be known."""

    def __init__(self, world: World, layer: LockedLayer, *, native: bool) -> None:
        self._world = world
        self._layer = layer
        self._native = native
        self.locked = layer.kind == "bootstrap"

    def read(self, path: str) -> bytes | None:
        return None if self.locked else self._world.read(path.lstrip("/"))

    def ask(self, argv: Sequence[str]) -> bytes | None:
        """What a program of the base prints; None if it cannot run here, or fails."""
        if self.locked or not self._native:
            return None
        result = self._world.tool(argv)
        return None if result.status else result.stdout

    def packages(self) -> dict[str, str]:
        """What its dpkg database says is installed."""
        found = {}
        for stanza in stanzas(self.read("/var/lib/dpkg/status") or b""):
            if b"\nStatus: install ok installed" in stanza:
                said = fields(stanza)
                found[said["Package"]] = said.get("Version", "")
        return found

    def path(self) -> list[str]:
        """Folders in which programs are found: the PATH of the image's configuration, where it is an image."""
        for item in self._layer.inputs:
            if item.facts.get("media_type") in _CONFIG_TYPES:
                self._world.fetch([item])
                config = json.loads(self._world.store.blob(item.sha256).read_bytes())
                declared = (config.get("config") or {}).get("Env") or []
                return _folders(dict(entry.split("=", 1) for entry in declared if "=" in entry).get("PATH", ""))
        return _folders("")


def _folders(path: str) -> list[str]:
    return [folder.rstrip("/") for folder in (path or DEFAULT_PATH).split(":") if folder.startswith("/")]


def _interpreter(base: _Base, packages: Mapping[str, str]) -> tuple[str, str]:
    """Path and version of the first ``python3`` on PATH."""
    for folder in base.path():
        path = f"{folder}/python3"
        if folder in _PACKAGED_IN and "python3" in packages:
            return path, _packaged_version(packages)
        program = base.read(path)
        if program is not None:
            return path, _version_by_headers(base, path, program) or _version_by_asking(base, path)
    raise ResolveError(
        "the environment has no Python to install packages for",
        hint="add python3 to an apt layer above this one, or choose a base that has Python",
    )


def _packaged_version(packages: Mapping[str, str]) -> str:
    """Upstream version of Debian's python3: it says the minor version, pythonX.Y-minimal all three numbers."""
    major, minor = _numbers(packages["python3"])[:2]
    exact = packages.get(f"python{major}.{minor}-minimal", packages["python3"])
    return ".".join(map(str, _numbers(exact)[:3]))


def _numbers(version: str) -> list[int]:
    """``0:3.11.2-1+b1`` -> 3, 11, 2."""
    upstream = version.rpartition(":")[2]
    match = re.match(r"\d+(?:\.\d+)*", upstream)
    return [int(number) for number in match[0].split(".")] if match else [0, 0]


def _version_by_headers(base: _Base, path: str, program: bytes) -> str:
    """The version, where ``python3`` is the same file as ``python3.N`` and CPython's headers stand beside it."""
    folder, prefix = posixpath.dirname(path), posixpath.dirname(posixpath.dirname(path))
    for minor in range(OLDEST[1], _NEWEST_MINOR):
        if base.read(f"{folder}/python3.{minor}") == program:
            header = base.read(f"{prefix}/include/python3.{minor}/patchlevel.h") or b""
            match = re.search(rb'^#define\s+PY_VERSION\s+"(\d+\.\d+\.\d+)', header, re.MULTILINE)
            return match[1].decode() if match else ""
    return ""


_ABOUT = "import sys; print(sys.implementation.name, sys.abiflags or '-', '.'.join(map(str, sys.version_info[:3])))"


def _version_by_asking(base: _Base, path: str) -> str:
    answer = (base.ask((path, "-I", "-S", "-B", "-c", _ABOUT)) or b"").decode("ascii", "replace").split()
    if len(answer) != 3:
        raise ResolveError(
            f"it cannot be told which Python {path} of the base is: it does not run here",
            hint="lock on a machine of the target's architecture, or take python3 from an apt layer",
        )
    name, flags, version = answer
    if name != "cpython" or "t" in flags:
        other = name if name != "cpython" else "a free-threaded build"
        raise ResolveError(
            f"{path} of the base is {other}, and packages are locked for the ordinary CPython only",
            hint="choose a base with CPython, or take python3 from an apt layer",
        )
    return version


def _libc(base: _Base, packages: Mapping[str, str], machine: str) -> tuple[str, int, int]:
    if "libc6" in packages:
        major, minor = _numbers(packages["libc6"])[:2]
        return "glibc", major, minor
    folders = (f"/lib/{machine}-linux-gnu", f"/usr/lib/{machine}-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    for folder in folders:
        match = re.search(rb"GNU C Library [^\n]*release version (\d+)\.(\d+)", base.read(f"{folder}/libc.so.6") or b"")
        if match:
            return "glibc", int(match[1]), int(match[2])
    if base.read(f"/lib/ld-musl-{machine}.so.1") is not None:
        return "musl", *_MUSL
    raise ResolveError(
        "it cannot be told which C library the environment has, and so which wheels it can use",
        hint="bases with glibc or musl in the usual places are understood",
    )
