"""Installs locked wheels: a program that the environment's own Python runs, with nothing but the standard library.

::

    python3 -s -B install_wheels.py FOLDER UV_WHEEL PACKAGE==VERSION...

``FOLDER`` has the wheels and nothing else but uv's. uv, unpacked from its own wheel, installs exactly these; then their
modules are compiled here, since what uv compiles depends on how many workers it has: on some Pythons the bytecode of a
module differs with the modules that the same process compiled before it. This must run on Python 3.8.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence

#: Folders whose modules stay source: a third of the time to compile numpy and matplotlib would go into their tests.
UNCOMPILED = frozenset(("test", "tests"))
#: Modules of one wheel, in the order of their names, that one process compiles: bytecode follows from the wheel alone.
BATCH = 64

_COMPILE = "--compile"


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == _COMPILE:
        return compile_modules(arguments[1], arguments[2:])
    folder, uv_wheel, *pins = arguments
    with tempfile.TemporaryDirectory(prefix="reprobox-") as scratch:
        uv = unpack_uv(os.path.join(folder, uv_wheel), scratch)
        status = install(uv, folder, pins, scratch)
    if status:
        return status
    wheels = sorted(name for name in os.listdir(folder) if name.endswith(".whl") and name != uv_wheel)
    paths = sysconfig.get_paths()
    sites = os.pathsep.join(sorted({paths["purelib"], paths["platlib"]}))
    # Without the site module: what is installed must not have been imported by the process that compiles.
    again = (sys.executable, "-S", "-s", "-B", os.path.abspath(__file__), _COMPILE, sites)
    return subprocess.call([*again, *(os.path.join(folder, name) for name in wheels)])


def unpack_uv(wheel: str, folder: str) -> str:
    """The program in uv's wheel, unpacked into ``folder``."""
    path = os.path.join(folder, "uv")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        with archive.open(member) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    os.chmod(path, 0o700)
    return path


def install(uv: str, folder: str, pins: Sequence[str], scratch: str) -> int:
    """Install ``pins`` from ``folder`` into the environment of this interpreter; returns uv's exit status."""
    command = (
        *(uv, "pip", "install", "--python", sys.executable, "--break-system-packages", "--no-config"),
        *("--no-index", "--find-links", folder, "--no-deps", "--offline", "--reinstall"),
        *("--link-mode", "copy", "--no-compile-bytecode", "--cache-dir", os.path.join(scratch, "cache")),
    )
    fixed = {
        # RECORD, INSTALLER and times of download say nothing about the environment
        "UV_NO_INSTALLER_METADATA": "1",
        # where two wheels have the same file, the last one installed wins: one at a time, so that it is always the same
        "UV_CONCURRENT_INSTALLS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    return subprocess.call([*command, *pins], env={**inherited, **fixed})


# -- bytecode ----------------------------------------------------------------------------------------------------------


def compile_modules(sites: str, wheels: Iterable[str]) -> int:
    """Write hash-based bytecode for the modules of ``wheels``, as many processes at a time as there are processors."""
    warnings.simplefilter("ignore")
    batches = [batch for wheel in wheels for batch in _batches(modules(wheel, sites.split(os.pathsep)))]
    failed = 0
    running = 0
    for batch in sorted(batches, key=len, reverse=True):
        if running >= len(os.sched_getaffinity(0)):
            failed |= os.wait()[1]
            running -= 1
        _start(batch)
        running += 1
    for _ in range(running):
        failed |= os.wait()[1]
    return 1 if failed else 0


def modules(wheel: str, sites: Sequence[str]) -> Iterator[str]:
    """Where the modules of a wheel are now, in the order of their names in it; those of tests are left out."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".py"))
    for name in names:
        if not UNCOMPILED.isdisjoint(name.split("/")[:-1]):
            continue
        head, _, rest = name.partition("/")
        if head.endswith(".data"):
            scheme, _, name = rest.partition("/")  # noqa: PLW2901 - the name without its scheme
            if scheme not in ("purelib", "platlib"):
                continue
        for site in sites:
            path = os.path.join(site, name)
            if os.path.isfile(path):
                yield path


def _batches(paths: Iterable[str]) -> Iterator[Sequence[str]]:
    listed = list(paths)
    for start in range(0, len(listed), BATCH):
        yield listed[start : start + BATCH]


def _start(batch: Sequence[str]) -> None:
    """Compile a batch in a process of its own, forked from one that has compiled nothing."""
    if os.fork():
        return
    status = 1
    try:
        for path in batch:
            _compile(path)
        status = 0
    finally:
        os._exit(status)


def _compile(path: str) -> None:
    try:
        py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    except (py_compile.PyCompileError, ValueError, RecursionError):
        pass  # templates, and tests of other Pythons: nobody imports them


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
