"""Packages that came inside a base: what the databases of dpkg and of Python's installers say in its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from reprobox.bom.component import Component, deb_purl, purl_of, ref_of
from reprobox.bom.metadata import of_control, of_core
from reprobox.debian.control import fields, stanzas
from reprobox.licences import Licence, of_copyright, of_metadata
from reprobox.tree import Tree, opened

_STATUS = b"var/lib/dpkg/status"
_DISTROLESS = rb"var/lib/dpkg/status\.d/[^/]+(?<!\.md5sums)"
_PYTHON = re.compile(
    rb"(?:usr/(?:local/)?|opt/[^/]+/)?lib/python3(?:\.[0-9]+)?/(?:site|dist)-packages/[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO)"
)
_LARGEST = 64 << 20
_PROGRAMS = (b"usr/bin/env", b"bin/sh", b"usr/bin/python3", b"sbin/ldconfig")
_LITTLE = {3: "386", 21: "ppc64le", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}
_BIG = {21: "ppc64", 22: "s390x"}
_BIG_ENDIAN = 2


def packages_in(root: Path, tree: Tree, layer: str) -> list[Component]:
    """Every package that is installed in the files at ``root``, whose index ``tree`` is; links stay inside.

    Files of Python packages that came in a .deb are of that .deb, and listed as it alone.
    """
    return [*_debs(root, tree, layer), *_pythons(root, tree, layer)]


def release_of(root: Path, tree: Tree) -> dict[str, str]:
    """What the system at ``root`` says that it is. os-release(5)"""
    data = _read(root, tree, b"etc/os-release") or _read(root, tree, b"usr/lib/os-release")
    lines = (line.split("=", 1) for line in data.decode("utf-8", "replace").splitlines() if "=" in line)
    return {name: value.strip("\"'") for name, value in lines}


def machine_of(root: Path, tree: Tree) -> str:
    """The architecture that the programs at ``root`` are for, as OCI names it; empty if it is not known.

    Source: System V ABI, "ELF Header": ``e_machine``.
    """
    for program in _PROGRAMS:
        start = _read(root, tree, program)[:20]
        if start[:4] == b"\x7fELF" and len(start) == 20:
            big = start[5] == _BIG_ENDIAN
            return (_BIG if big else _LITTLE).get(int.from_bytes(start[18:20], "big" if big else "little"), "")
    return ""


def _read(root: Path, tree: Tree, path: bytes) -> bytes:
    """A file of the tree; empty where there is none, or one of unlikely size."""
    try:
        place = tree.resolve(path, final=True)
        entry = tree.get(place)
        if entry is None or entry.kind != "f":
            return b""
        with opened(os.path.join(os.fsencode(root), place)) as file:
            return file.read(_LARGEST)
    except OSError:  # links in a circle
        return b""


def _debs(root: Path, tree: Tree, layer: str) -> Iterator[Component]:
    release = release_of(root, tree)
    vendor = release.get("ID", "debian")
    distribution = release.get("VERSION_CODENAME", "")
    parts = sorted(path for path in tree.entries if re.fullmatch(_DISTROLESS, path))
    data = b"\n\n".join([_read(root, tree, path) for path in (_STATUS, *parts)])
    for stanza in stanzas(data):
        said = {name: _text(value) for name, value in fields(stanza).items()}
        if not said.get("Package") or not f" {said.get('Status', 'installed')}".rstrip().endswith(" installed"):
            continue
        name, version, architecture = (said.get(key, "") for key in ("Package", "Version", "Architecture"))
        text = _read(root, tree, f"usr/share/doc/{name}/copyright".encode())
        yield Component(
            kind="deb",
            name=name,
            ref=ref_of("deb", name, version, architecture, layer),
            version=version,
            purl=deb_purl(vendor, name, version, architecture, distribution),
            architecture=architecture,
            licence=of_copyright(text) if text else Licence(),
            metadata=of_control(said),
            layers=(layer,),
        )


def _text(value: str) -> str:
    """A field that may hold any bytes, as text that can be written down."""
    return value.encode(errors="surrogateescape").decode(errors="replace")


def _pythons(root: Path, tree: Tree, layer: str) -> Iterator[Component]:
    for path in sorted(path for path in tree.entries if _PYTHON.fullmatch(path)):
        if path.startswith(b"usr/lib/"):
            continue
        data = _read(root, tree, path)
        said = dict(re.findall(r"^(Name|Version): *(\S+)", data.decode("utf-8", "replace"), re.MULTILINE))
        name, version = re.sub(r"[-_.]+", "-", said.get("Name", "")).lower(), said.get("Version", "")
        if not name or not version:
            continue
        yield Component(
            kind="pypi",
            name=name,
            ref=ref_of("pypi", name, version, layer),
            version=version,
            purl=purl_of("pypi", "", name, version),
            licence=of_metadata(data),
            metadata=of_core(data),
            layers=(layer,),
        )
