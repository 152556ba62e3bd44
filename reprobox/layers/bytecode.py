"""Bytecode of wheels, made while the packages that bring the interpreter are still being installed.

Bytecode follows from the interpreter and the source, and compiling takes longer than all else that a ``pip`` layer
does. The interpreter needs little of its environment: it runs from its own packages, only unpacked, over the base.
``install_wheels`` takes what was made this way where interpreter and source turn out to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reprobox.backend import Bind
from reprobox.debian import deb
from reprobox.errors import IntegrityError
from reprobox.layers import install_wheels
from reprobox.layers.kind import INPUTS, TOOLS, AheadRequest
from reprobox.lock import Input

#: From this version on, the bytecode of a module does not depend on what else the process has in memory.
_OLDEST = (3, 11)
_PROGRAM = f"{TOOLS}/install_wheels.py"
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # may be links into usr


def compile_ahead(request: AheadRequest, wheels: Sequence[Input]) -> bool:
    """Compile the modules of ``wheels`` into the request's folder; False where the interpreter cannot be had."""
    release = [int(number) for number in str(request.layer.facts.get("python", "")).split(".")[:2] if number.isdigit()]
    if tuple(release) < _OLDEST:
        return False
    version = ".".join(map(str, release))
    packages = [request.input(item) for item in _interpreter(request, version)]
    program = f"/usr/bin/python{version}" if packages else str(request.layer.options["python"])
    try:
        _unpack(request.folder / "packages", request.base, packages)
    except (IntegrityError, OSError):
        return False  # the step of the layer that has them says what is wrong
    output = request.folder / "bytecode"
    output.mkdir()
    binds = [
        Bind(source=Path(install_wheels.__file__).absolute(), target=_PROGRAM),
        Bind(source=output, target=install_wheels.AHEAD, writable=True),
        *(Bind(source=request.input(item), target=f"{INPUTS}/{item.name}") for item in wheels),
    ]
    names = [f"{INPUTS}/{item.name}" for item in sorted(wheels, key=lambda item: item.name)]
    argv = (program, "-s", "-B", _PROGRAM, "--ahead", install_wheels.AHEAD, *names)
    return request.tool(request.folder / "packages", argv, binds) == 0


def bind(ahead: Path) -> Bind:
    """What shows a step the bytecode that :func:`compile_ahead` left in the folder ``ahead``."""
    return Bind(source=ahead / "bytecode", target=install_wheels.AHEAD)


def _interpreter(request: AheadRequest, version: str) -> Iterator[Input]:
    """The packages without which the interpreter does not start, if it comes in a layer and not with the base."""
    wanted = re.compile(rf"(lib)?python{re.escape(version)}(-minimal|-stdlib)?|libexpat1|zlib1g")
    for layer in request.below:
        for item in layer.inputs:
            if item.type == "deb" and wanted.fullmatch(str(item.facts["package"])):
                yield item


def _unpack(root: Path, base: Path, packages: Sequence[Path]) -> None:
    """The trees of packages, to be laid over the base; folders that are links there are links here."""
    root.mkdir(mode=0o755)
    for name in _MERGED:
        if (base / name).is_symlink():
            (root / "usr" / name).mkdir(mode=0o755, parents=True)
            (root / name).symlink_to(f"usr/{name}")
    unpacker = deb.Unpacker(root)
    for package in packages:
        for member in deb.tar_members(deb.data_tar(package.read_bytes())):
            unpacker.write(member)
