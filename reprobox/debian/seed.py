"""The tree that a base starts from: packages unpacked, and dpkg's database saying so.

``dpkg --unpack`` of every package costs more than all the rest of a bootstrap, and most of it is unpacking once more
what was unpacked to have a dpkg at all. So what it leaves behind is written directly for *plain* packages, those
whose unpacking runs no script and declares no trigger: their files (configuration files under ``.dpkg-new``),
``info/*``, and an ``unpacked`` stanza, in the form of dpkg's own ``lib/dpkg/{archives,dump,infodb-format}.c``. The
others are left to real dpkg, which also configures everything; those without which it would not run are unpacked for
their files only before it unpacks them again. dpkg works on one processor, so that what it unpacks can be decompressed
for it here, beside other packages. A test holds the result against one made by dpkg alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from reprobox.archives.tar_stream import FILE, FOLDER, SYMLINK
from reprobox.debian import deb
from reprobox.debian.control import fields, write
from reprobox.errors import IntegrityError, cannot_write

_DATABASE = "var/lib/dpkg"
_AHEAD = 12  # packages that are decompressed before it is their turn: a large one must not leave a processor idle
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")  # of packages and architectures: Debian Policy 5.6.1 and 5.6.8
_CONTROL_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
#: Links that debootstrap makes for merged /usr, besides bin, sbin and lib, where base-files does not bring them.
_LIBRARY_FOLDERS = {
    "amd64": ("lib32", "lib64", "libx32"),
    "i386": ("lib64", "libx32"),
    "mips64el": ("lib32", "lib64", "libo32"),
    "mipsel": ("lib32", "lib64"),
    "ppc64el": ("lib64",),
    "s390x": ("lib32",),
    "loong64": ("lib32", "lib64"),
}


def needs_dpkg(control: Collection[str], triggers: bytes) -> bool:
    """Whether a package with these control files must be unpacked by dpkg itself.

    That is where unpacking runs a script or declares a trigger, and where dpkg makes up for missing checksums.
    """
    declares = any(line.split()[:1] and line.split()[0].startswith(b"interest") for line in triggers.splitlines())
    return "preinst" in control or "md5sums" not in control or declares


def merged_usr_links(base_files: bytes, architecture: str) -> tuple[str, ...]:
    """The top-level links to make before unpacking; none where base-files (``.deb`` bytes) brings its own."""
    for member in deb.tar_members(deb.data_tar(base_files)):
        if member.path == b"bin" and member.kind == SYMLINK:
            return ()
    return ("bin", *sorted(("lib", *_LIBRARY_FOLDERS.get(architecture, ()))), "sbin")


class _Opened(NamedTuple):
    path: Path
    data: bytes
    control: dict[str, deb.Member]
    tar: bytes  # of the tree: few are read ahead, so that memory holds few packages at a time


class _InfoFile(NamedTuple):
    name: str
    data: bytes
    mode: int
    mtime: int


def _open(path: Path) -> _Opened:
    data = path.read_bytes()
    control = {os.fsdecode(member.path): member for member in deb.tar_members(deb.control_tar(data))}
    return _Opened(path, data, control, deb.data_tar(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class Planting:
    """What to plant: ``debs`` in order, those of them that dpkg will unpack itself, top-level links to make first
    (``bin`` -> ``usr/bin``), and the time in unix seconds that new files get. ``handed`` to dpkg are packages of which
    a decompressed copy is written to these places.
    """

    debs: Sequence[Path]
    by_dpkg: Collection[Path]
    links: Sequence[str]
    epoch: int
    handed: Mapping[Path, Path] = field(default_factory=dict)


def plant(root: Path, planting: Planting, *, workers: int = 2) -> None:
    """Unpack everything into the empty folder ``root``, and register as unpacked what dpkg is not going to unpack.

    Decompression runs ahead in threads: it lets go of the interpreter's lock.
    """
    try:
        _plant(root, planting, workers)
    except OSError as error:
        raise cannot_write(root, error) from None


def _plant(root: Path, planting: Planting, workers: int) -> None:
    if planting.links:
        deb.make_folder(os.fsencode(root / "usr"))
    for name in planting.links:
        deb.make_folder(os.fsencode(root / "usr" / name))
        (root / name).symlink_to(f"usr/{name}")
    unpacker, planted = deb.Unpacker(root), frozenset(planting.debs)
    status: list[bytes] = []
    info: list[_InfoFile] = []
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(dict.fromkeys((*planting.debs, *planting.handed)))
        running = [pool.submit(_open, path) for path in islice(waiting, _AHEAD)]
        while running:
            opened = running.pop(0).result()
            if copy := planting.handed.get(opened.path):
                copy.write_bytes(deb.with_tree(opened.data, opened.tar))
            plain = opened.path not in planting.by_dpkg
            paths = _unpack(unpacker, opened, plain=plain) if opened.path in planted else ()
            if plain:
                values = _control(opened)
                status.append(_stanza(opened, values))
                info += _info(opened, values, paths, planting.epoch)
            running += [pool.submit(_open, path) for path in islice(waiting, 1)]
    for folder in ("info", "updates", "triggers"):  # dpkg's own package has them too
        unpacker.write(deb.Member(f"{_DATABASE}/{folder}".encode(), FOLDER, 0o755, planting.epoch, b"", b""))
    for name, data in (("available", b""), ("status", b"".join(status)), ("info/format", b"1\n")):
        _write_file(unpacker, name, _InfoFile(name, data, 0o644, planting.epoch))
    for file in info:
        _write_file(unpacker, f"info/{file.name}", file)


def _conffiles(opened: _Opened) -> list[str]:
    member = opened.control.get("conffiles")
    lines = bytes(member.data).decode("utf-8", "surrogateescape").splitlines() if member else []
    return [line for line in lines if line.startswith("/")]


def _unpack(unpacker: deb.Unpacker, opened: _Opened, *, plain: bool) -> list[bytes]:
    """Write the package's tree; returns its paths in order. dpkg itself puts configuration files into their places."""
    configuration = {path[1:].encode("utf-8", "surrogateescape") for path in _conffiles(opened)}
    paths = []
    for member in deb.tar_members(opened.tar):
        paths.append(member.path)
        if member.path not in configuration:
            unpacker.write(member)
        elif plain:
            unpacker.write(member._replace(path=member.path + b".dpkg-new"))
    return paths


def _control(opened: _Opened) -> dict[str, str]:
    """The control fields, once it is clear that no name in them could be a path."""
    control = opened.control.get("control")
    values = fields(bytes(control.data)) if control else {}
    for name in ("Package", "Architecture"):
        if not _NAME.fullmatch(values.get(name, "")):
            raise IntegrityError(f"not a Debian package: {name} is {values.get(name, '')!r}", where=opened.path.name)
    for name in opened.control:
        if not _CONTROL_FILE.fullmatch(name):
            raise IntegrityError(f"not a Debian package: it has a control file {name!r}", where=opened.path.name)
    return values


def _stanza(opened: _Opened, values: Mapping[str, str]) -> bytes:
    name = values["Package"]
    entry = {"Package": name, "Status": "install ok unpacked", **values}
    conffiles = _conffiles(opened)
    if conffiles:
        entry["Conffiles"] = "".join(f"\n{path} newconffile" for path in conffiles)
    return write(entry)


def _info(opened: _Opened, values: Mapping[str, str], paths: Sequence[bytes], epoch: int) -> Iterator[_InfoFile]:
    """The package's files in ``info/``."""
    prefix = values["Package"]
    if values.get("Multi-Arch") == "same":
        prefix += f":{values['Architecture']}"
    listed = b"/.\n" + b"".join(b"/" + path + b"\n" for path in paths)
    yield _InfoFile(f"{prefix}.list", listed, 0o644, epoch)
    for name, member in opened.control.items():
        if name != "control" and member.kind == FILE:
            yield _InfoFile(f"{prefix}.{name}", bytes(member.data), member.mode, member.mtime)


def _write_file(unpacker: deb.Unpacker, path: str, file: _InfoFile) -> None:
    """Write one of the database's files as a package's are: links that a package left there never lead out."""
    name = f"{_DATABASE}/{path}".encode()
    unpacker.write(deb.Member(name, FILE, file.mode, file.mtime, b"", file.data))
