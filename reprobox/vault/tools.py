"""reprobox itself and all that it needs, as wheels, made of what is installed here: no index is asked.

A wheel is packed again from the files that its RECORD lists, without what installing added. The same installation gives
the same bytes.

Sources: PyPA's specifications of binary distributions and of recorded installed projects.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reprobox.digest import sha256
from reprobox.errors import ReproboxError
from reprobox.plugins import GROUP
from reprobox.store import Store

_ADDED = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD", "uv_cache.json", "RECORD.jws", "RECORD.p7s")
_TIME = (1980, 1, 1, 0, 0, 0)
_DISTRIBUTION = "reprobox"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolWheel:
    """A wheel in the store: its file name, and sha256 hex and bytes of its content."""

    name: str
    version: str
    digest: str
    size: int


def tool_wheels(store: Store) -> list[ToolWheel]:
    """Wheels of reprobox, its plugins and every distribution that they need here, by name.

    Raises :class:`ReproboxError` where one of them is not installed from files that can be found.
    """
    return [_stored(found, store) for _, found in sorted(_needed().items())]


def _stored(found: metadata.Distribution, store: Store) -> ToolWheel:
    """The distribution's wheel; what is installed from one is packed once."""
    key = sha256(f"{_FORMAT} {found.name} {found.version}\n{found.read_text('RECORD')}".encode())
    if not _is_editable(found):
        with contextlib.suppress(OSError, ValueError):
            name, digest = json.loads(store.memo("tools", key).read_bytes())
            if store.has_blob(digest):
                size = store.blob(digest).stat().st_size
                return ToolWheel(name=name, version=found.version, digest=digest, size=size)
    name, data = _wheel(found)
    digest = store.add_blob(data)
    store.remember("tools", key, json.dumps([name, digest]).encode())
    return ToolWheel(name=name, version=found.version, digest=digest, size=len(data))


def _needed() -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    plugins = {point.dist.name for point in metadata.entry_points(group=GROUP) if point.dist}
    wanted = [(name, frozenset[str]()) for name in (_DISTRIBUTION, *sorted(plugins))]
    while wanted:
        name, extras = wanted.pop()
        key = canonicalize_name(name)
        if key in found and not extras:
            continue
        try:
            found[key] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise ReproboxError(
                f"{name} is not installed here as a distribution, so no wheel can be made of it", hint=_WITHOUT
            ) from None
        for text in found[key].requires or ():
            requirement = Requirement(text)
            if _applies(requirement, extras) and (canonicalize_name(requirement.name) not in found):
                wanted.append((requirement.name, frozenset(requirement.extras)))
    return found


_WITHOUT = "install reprobox with pip or uv, or leave it out of the vault with --without-reprobox"


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _wheel(found: metadata.Distribution) -> tuple[str, bytes]:
    """File name and bytes."""
    files = dict(sorted(_files(found)))
    info = next(name.partition("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    record = f"{info}/RECORD"
    files[record] = b"".join(_line(name, data) for name, data in files.items()) + f"{record},,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if _is_program(name) else 0o644) << 16 | 0o100000 << 16
            entry.create_system = 3
            archive.writestr(entry, data)
    return f"{info.removesuffix('.dist-info')}-{_tag(files[f'{info}/WHEEL'])}.whl", buffer.getvalue()


def _is_program(name: str) -> bool:
    return ".data/scripts/" in name


def _line(name: str, data: bytes) -> bytes:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    quoted = f'"{name}"' if "," in name else name
    return f"{quoted},sha256={digest},{len(data)}\n".encode()


def _tag(wheel: bytes) -> str:
    """The compressed tag set of a file name: ``py3-none-any``, ``cp311-abi3-manylinux_2_17_x86_64.manylinux2014_…``."""
    tags = [
        line.partition(":")[2].strip().split("-") for line in wheel.decode().splitlines() if line.startswith("Tag:")
    ]
    return "-".join(".".join(dict.fromkeys(tag[part] for tag in tags)) for part in range(3))


def _files(found: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """Path in the wheel and content of every file, but RECORD."""
    listed = found.files or ()
    info = next((str(path).partition("/")[0] for path in listed if str(path).endswith(".dist-info/METADATA")), "")
    if not info:
        raise ReproboxError(f"{found.name} was not installed from a wheel", hint=_WITHOUT)
    scripts = _scripts(found)
    for path in listed:
        name = str(path)
        inside = name.startswith(f"{info}/")
        if (inside and name.removeprefix(f"{info}/") in _ADDED) or name.endswith(".pyc") or "__pycache__/" in name:
            continue
        where = Path(str(path.locate()))
        if name.startswith(".."):  # a program, or what else lies outside the packages
            kind = _outside(name)
            if kind and where.name not in scripts and where.is_file():
                yield f"{info.removesuffix('.dist-info')}.data/{kind}", _program(where)
        elif "/" not in name and _is_editable(found):  # what leads to the source
            continue
        else:
            yield name, where.read_bytes()
    if _is_editable(found):
        yield from _source(found)


def _outside(name: str) -> str:
    """``../../../bin/uv`` is ``scripts/uv``, ``../../../share/x`` is ``data/share/x``."""
    plain = re.sub(r"^(?:\.\./)+", "", name)
    return f"scripts/{plain.removeprefix('bin/')}" if plain.startswith("bin/") else f"data/{plain}"


def _program(path: Path) -> bytes:
    """A script without the interpreter's path that installing wrote into its first line."""
    data = path.read_bytes()
    return re.sub(rb"\A#![^\n]*python[^\n]*\n", b"#!python\n", data)


def _scripts(found: metadata.Distribution) -> set[str]:
    """Programs that installing makes out of entry points."""
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(found.read_text("entry_points.txt") or "")
    return {name for section in ("console_scripts", "gui_scripts") if section in parser for name in parser[section]}


def _is_editable(found: metadata.Distribution) -> bool:
    return '"editable": true' in re.sub(r":\s*true", ": true", found.read_text("direct_url.json") or "")


def _source(found: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """The package of a distribution that runs from its source folder, which a .pth file names."""
    package = canonicalize_name(found.name).replace("-", "_")
    places = [Path(str(path.locate())) for path in found.files or () if path.suffix == ".pth"]
    roots = [Path(line) for path in places for line in path.read_text().splitlines()]
    root = next((root / package for root in roots if (root / package).is_dir()), None)
    if root is None:
        raise ReproboxError(f"{found.name} is installed as an editable folder, which cannot be found", hint=_WITHOUT)
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"{package}/{path.relative_to(root).as_posix()}", path.read_bytes()
