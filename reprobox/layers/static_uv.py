"""The static uv that installs packages in the environment: locked like what it installs."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from reprobox.errors import ResolveError
from reprobox.layers import install_wheels
from reprobox.layers.interpreter import Python
from reprobox.layers.kind import ResolveRequest, World
from reprobox.layers.wheel_files import file_input, ranked
from reprobox.lock import Input, LockedLayer
from reprobox.pypi import NoSolutionError, Question, Uv, indented, uv_version

_LENGTHS = 26  # bytes of a member's local header before the lengths of its name and its extra field (APPNOTE 4.3.7)


def uv_input(uv: Uv, request: ResolveRequest, python: Python) -> Input:
    """The static uv for the environment's machine: as locked below or before, else of the version that is used here."""
    locked = _locked_uv(request.previous if not request.upgrade else None, request.below)
    if locked is not None:
        return locked
    version = uv_version()
    memo = request.world.store.memo("uv", f"wheel-{version}-{python.machine}.json")
    try:
        return Input(**json.loads(memo.read_bytes()))
    except (OSError, ValueError, TypeError):
        found = _find_uv(uv, version, python.machine, request.world)
    fields = {name: getattr(found, name) for name in ("type", "name", "sha256", "size")}
    request.world.store.replace(memo, json.dumps({**fields, "facts": dict(found.facts)}).encode())
    return found


def _locked_uv(previous: LockedLayer | None, below: Sequence[LockedLayer]) -> Input | None:
    layers = (*reversed(below), *([previous] if previous else ()))
    return next((item for layer in layers for item in layer.inputs if item.type == "uv"), None)


def _find_uv(uv: Uv, version: str, machine: str, world: World) -> Input:
    static = Python(path="", version="3.11", libc=("musl", 1, 2), machine=machine)
    question = Question(
        requirements=[f"uv=={version}"], python=static.version, platform=static.uv_platform, dependencies=False
    )
    try:
        (package,) = uv.resolve(question)
        wheel = next(item for item in ranked(package.wheels, static) if "musllinux" in item.name)
    except (NoSolutionError, StopIteration) as error:
        raise ResolveError(
            f"the index has no static uv {version} for {machine}, which installs packages in the environment"
            + (f"; uv says:\n{indented(error.message)}" if isinstance(error, NoSolutionError) else ""),
            hint="upgrade uv beside reprobox, or add the index that has it with [index] extra in reprobox's settings",
        ) from None
    return file_input("uv", wheel, {"version": version}, world)


def write_program(wheel: Path, place: Path) -> None:
    """Write the program in uv's wheel to ``place``, as :func:`install_wheels.write_uv` does, in half the time.

    Raises :class:`zipfile.BadZipFile` for what is no such wheel.
    """
    from isal import isal_zlib

    with zipfile.ZipFile(wheel) as archive:
        member = archive.getinfo(install_wheels.uv_in(archive))
    if member.compress_type != zipfile.ZIP_DEFLATED:
        install_wheels.write_uv(str(wheel), place)
        return
    with wheel.open("rb") as file:
        file.seek(member.header_offset + _LENGTHS)
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        packed = file.read(member.compress_size)
    try:
        program = isal_zlib.decompress(packed, wbits=-15, bufsize=member.file_size)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its annotations take the class for an object
        raise zipfile.BadZipFile(f"its uv cannot be unpacked: {error}") from None
    if isal_zlib.crc32(program) != member.CRC:
        raise zipfile.BadZipFile("its uv is damaged")
    place.write_bytes(program)
