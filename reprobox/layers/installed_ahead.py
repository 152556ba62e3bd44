"""Wheels installed while the packages that bring the interpreter are still being installed.

What the installation of wheels leaves follows from the wheels, the interpreter, and what is already where they go; and
it takes longer than most of what a build does, for their modules are compiled. The interpreter needs little of its
environment: it runs from its own packages, only unpacked, over the base. What was installed there is taken where what
it follows from turns out to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reprobox.debian import deb
from reprobox.digest import Entry, read_index
from reprobox.errors import BuildError, IntegrityError
from reprobox.layers import install_wheels
from reprobox.layers.kind import AheadRequest, Commands
from reprobox.lock import Input
from reprobox.tree import Tree, remove

_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # may be links into usr
_CACHE = b"__pycache__"
#: Files that change what an interpreter does as soon as it starts (documentation of the module ``site``).
_CUSTOMIZES = re.compile(rb"/(?:site|user)customize[./]|/pyvenv\.cfg$|\.pth$")
#: What setuptools has carried out at every start, by its sha256: it is about ``import distutils`` alone.
_HARMLESS = "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224"
_INFO = re.compile(rb"(?P<site>.*)/(?P<name>[^/-]+)(?:-[^/]*)?\.(?:dist-info|egg-info|egg-link)(?:/.*)?")


def install(request: AheadRequest, step: Commands) -> bool:
    """Carry out ``step`` over the base and the interpreter's packages; False where they do not suffice for it."""
    release = [
        int(number) for number in str(request.step.layer.facts.get("python", "")).split(".")[:2] if number.isdigit()
    ]
    if tuple(release) < install_wheels.ALIKE:
        return False  # whether modules of the standard library have bytecode by then makes a difference
    packages = request.folder / "packages"
    try:
        _unpack(packages, request.base, [request.input(item) for item in _interpreter(request, release)])
        request.build(packages, step)
        remove(packages)
    except (BuildError, IntegrityError, OSError):
        return False  # the step that has the packages, or the one that installs the wheels, says what is wrong
    return True


def _interpreter(request: AheadRequest, release: Sequence[int]) -> Iterator[Input]:
    """The packages without which the interpreter does not start, if it comes in a layer and not with the base."""
    version = re.escape(".".join(map(str, release)))
    wanted = re.compile(rf"(lib)?python{version}(-minimal|-stdlib)?|python3-minimal|libexpat1|zlib1g")
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


# -- whether it would be the same --------------------------------------------------------------------------------------


def holds(folder: Path, root: Tree) -> bool:
    """Whether :func:`install` would leave what it left in ``folder`` had it been done over ``root``."""
    then = Tree.load(folder / "parents")
    made = read_index((folder / "layer" / "index").read_bytes())
    return _same_places(made, then, root) and _same_interpreter(then, root) and _nothing_replaced(made, then, root)


def _same_places(made: Sequence[Entry], then: Tree, now: Tree) -> bool:
    """Whether each path that was made is new where it was new then, in folders with the same modes."""
    return all(
        entry.kind != "w"
        and (now.get(entry.path) == then.get(entry.path) or (entry.kind == "d" and now.get(entry.path) == entry))
        for entry in made
    )


def _same_interpreter(then: Tree, now: Tree) -> bool:
    """Whether all that is the interpreter's is there as it was, and nothing that changes what it does is new."""
    kept = (entry for path, entry in then.entries.items() if _is_python(path))
    customizes = (entry for path, entry in now.entries.items() if _CACHE not in path and _CUSTOMIZES.search(path))
    return all(now.get(entry.path) == entry for entry in kept) and all(
        then.get(entry.path) == entry or entry.detail == _HARMLESS for entry in customizes
    )


def _is_python(path: bytes) -> bool:
    return b"python" in path and _CACHE not in path and not path.startswith((b"usr/share/", b"var/"))


def _nothing_replaced(made: Sequence[Entry], then: Tree, now: Tree) -> bool:
    """Whether no distribution that was installed is there in another version: it would be taken away first."""
    installed = {_distribution(entry.path) for entry in made} - {None}
    new = (path for path in now.entries if path not in then.entries)
    return installed.isdisjoint(map(_distribution, new))


def _distribution(path: bytes) -> tuple[bytes, bytes] | None:
    """The site folder and the normalised name of the distribution whose metadata are at ``path``, or below it.

    Source: Python packaging specifications, "Names and normalization" and "Recording installed projects".
    """
    found = _INFO.fullmatch(path) if b"-info" in path or path.endswith(b".egg-link") else None  # few paths are
    return (found["site"], re.sub(rb"[-_.]+", b"-", found["name"]).lower()) if found else None
