"""Compiles the modules of installed wheels: a program that the environment's own Python runs, beside
``install_wheels``, with nothing but the standard library.

::

    python3 -S -s -B compile_wheels.py SITES WHEEL...

Bytecode must follow from the wheel alone. Before Python 3.11 that of a module depends on which names its process has
seen, in modules that it compiled before and in programs: those of this file too. So there every batch has a process
that has compiled nothing, forked from one that imported nothing but this. **What is written here stays as it is**: with
other names in it, layers of such Pythons would be others. A test knows its sha256.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence

#: Folders whose modules stay source: a third of the time to compile numpy and matplotlib would go into their tests.
UNCOMPILED = frozenset(("test", "tests"))
#: Modules of one wheel, in the order of their names, that one process compiles.
BATCH = 64


def main(arguments: Sequence[str]) -> int:
    return compile_modules(arguments[0].split(os.pathsep), arguments[1:])


def compile_modules(sites: Sequence[str], wheels: Iterable[str]) -> int:
    """Write hash-based bytecode for the modules of ``wheels``, which are installed in the folders ``sites``, as many
    processes at a time as there are processors; returns an exit status.
    """
    warnings.simplefilter("ignore")
    running = 0
    for batch in [*sorted(_batches(wheels, sites), key=len, reverse=True), []]:
        while running and not (batch and running < len(os.sched_getaffinity(0))):
            if os.wait()[1]:
                return 1
            running -= 1
        if batch:
            _start(batch)
            running += 1
    return 0


def _batches(wheels: Iterable[str], sites: Sequence[str]) -> Iterator[Sequence[str]]:
    """Paths of modules to be compiled by one process each; one that several wheels have is in a single batch."""
    seen: set[str] = set()
    for wheel in wheels:
        found = [path for path in _modules(wheel, sites) if path not in seen]
        seen.update(found)
        for start in range(0, len(found), BATCH):
            yield found[start : start + BATCH]


def _modules(wheel: str, sites: Sequence[str]) -> Iterator[str]:
    """Paths of the modules of a wheel, in the order of their names in it; those of tests are left out."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".py"))
    for name in names:
        if not UNCOMPILED.isdisjoint(name.split("/")[:-1]):
            continue
        place = name
        head, _, rest = name.partition("/")
        if head.endswith(".data"):
            scheme, _, place = rest.partition("/")
            if scheme not in ("purelib", "platlib"):
                continue
        for site in sites:
            path = os.path.join(site, place)
            if os.path.isfile(path):
                yield path


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
    """Compile a module; templates, and tests of other Pythons, are left as they are: nobody imports them."""
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError):
        py_compile.compile(path, doraise=True, invalidation_mode=mode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
