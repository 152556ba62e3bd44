"""Installs locked wheels: a program that the environment's own Python runs, with nothing but the standard library.

::

    python3 -s -B install_wheels.py [--venv PLACE] FOLDER UV_WHEEL WHEEL... [OTHER_FOLDER/]
    python3 -s -B install_wheels.py --ahead OUTPUT WHEEL...

With ``--venv`` they go into a new virtual environment there, which also sees what the environment has already. With
``--ahead`` nothing is installed: the modules of the wheels are compiled for where they will be, into a folder that the
installation finds at ``/run/reprobox/ahead`` later. What it finds there it takes if it is of the same interpreter and
of the same source.

uv, unpacked from its own wheel, installs the wheels of ``FOLDER`` that are named. Two things are not left to it, for
they depend on how many workers it has. Wheels that bring different files of one name are installed one after another,
so that the last one always wins. And modules are compiled here: on some Pythons the bytecode of a module differs with
those that the same process compiled before it. This must run on Python 3.8.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: Folders whose modules stay source: a third of the time to compile numpy and matplotlib would go into their tests.
UNCOMPILED = frozenset(("test", "tests"))
#: Wheels of more bytes than this are not unpacked in memory.
IN_MEMORY = 1 << 30
#: Modules of one wheel, in the order of their names, that one process compiles: bytecode follows from the wheel alone.
BATCH = 64

#: Where a step finds what was compiled ahead, if it was.
AHEAD = "/run/reprobox/ahead"

_AHEAD = "--ahead"
_COMPILE = "--compile"
_VENV = "--venv"
_TAKEN = 2  # exit status of a process that had nothing to compile
_INTERPRETER = "interpreter"  # a file in the folder: which one compiled


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == _COMPILE:
        output, ahead, sites = arguments[1:4]
        return compile_modules(sites.split(os.pathsep), arguments[4:], output=output, ahead=ahead)
    if arguments[0] == _AHEAD:
        return compile_ahead(arguments[1], arguments[2:])
    if arguments[0] == _VENV:
        return install_beside(arguments[1], arguments[2:])
    folder, uv_wheel, *names = arguments
    wheels = list(_paths(folder, sorted(names)))
    clashing = find_clashing(wheels)
    with tempfile.TemporaryDirectory(prefix=".reprobox-", dir=scratch_place(wheels)) as scratch:
        uv = unpack_uv(os.path.join(folder, uv_wheel), scratch)
        others = [wheel for wheel in wheels if wheel not in clashing]
        for together in ([others] if others else []) + [[wheel] for wheel in clashing]:
            status = install(uv, together, scratch)
            if status:
                return status
    return compile_anew(wheels, ahead=AHEAD if _is_of_this_interpreter(AHEAD) else "")


def install_beside(place: str, arguments: Sequence[str]) -> int:
    """Make a virtual environment at ``place``, and let its own interpreter do the rest."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".reprobox-") as scratch:
        uv = unpack_uv(os.path.join(arguments[0], arguments[1]), scratch)
        command = (
            *(uv, "venv", "--quiet", "--system-site-packages", "--python", sys.executable),
            *("--no-project", "--no-config", "--offline", "--cache-dir", os.path.join(scratch, "cache"), place),
        )
        status = subprocess.call(command, env=environment())
        if status == 0:
            own = (os.path.join(place, "bin", "python3"), "-s", "-B", os.path.abspath(__file__))
            status = subprocess.call([*own, arguments[0], uv, *arguments[2:]])
    if os.path.exists(os.path.join(place, ".lock")):  # of uv, for everyone to write
        os.remove(os.path.join(place, ".lock"))
    return status


def scratch_place(wheels: Sequence[str]) -> str:
    """Where wheels are unpacked first: in /tmp, which is memory as a rule, or, when they are many or large, on disk."""
    size = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            size += sum(info.file_size for info in archive.infolist())
    temporary = tempfile.gettempdir()
    return temporary if size < min(IN_MEMORY, shutil.disk_usage(temporary).free // 2) else sys.prefix


def unpack_uv(wheel: str, folder: str) -> str:
    """The program in uv's wheel, unpacked into ``folder``; it may be the program itself, whatever its name."""
    if not wheel.endswith(".whl") or _is_program(wheel):
        return wheel
    path = os.path.join(folder, "uv")
    write_uv(wheel, path)
    os.chmod(path, 0o700)
    return path


def _is_program(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def write_uv(wheel: str, path: str | os.PathLike[str]) -> None:
    """Write the program in uv's wheel to ``path``. Raises :class:`zipfile.BadZipFile` for what is no such wheel."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(".data/scripts/uv")), "")
        if not member:
            raise zipfile.BadZipFile("it has no uv")
        with archive.open(member) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def install(uv: str, wheels: Sequence[str], scratch: str) -> int:
    """Install ``wheels`` into the environment of this interpreter; returns uv's exit status."""
    command = (
        *(uv, "pip", "install", "--python", sys.executable, "--break-system-packages", "--no-config"),
        *("--no-index", *_links(wheels), "--no-deps", "--offline", "--reinstall"),
        *("--link-mode", "copy", "--no-compile-bytecode", "--cache-dir", os.path.join(scratch, "cache")),
    )
    return subprocess.call([*command, *pins(wheels)], env=environment())


def pins(wheels: Iterable[str]) -> list[str]:
    """By name and version, not by path: uv writes down the path of what it was given by path."""
    return ["==".join(os.path.basename(wheel).split("-")[:2]) for wheel in wheels]


def _paths(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Where the wheels are; a name that ends with a slash is another folder, all of whose wheels are meant."""
    for name in names:
        if name.endswith("/"):
            yield from (os.path.join(name, wheel) for wheel in sorted(os.listdir(name)) if wheel.endswith(".whl"))
        else:
            yield os.path.join(folder, name)


def _links(wheels: Iterable[str]) -> Iterator[str]:
    for folder in sorted({os.path.dirname(wheel) for wheel in wheels}):
        yield from ("--find-links", folder)


def environment() -> Mapping[str, str]:
    """What uv sees: nothing of anybody's settings."""
    # Without the first every wheel leaves where it came from, and when.
    fixed = {"UV_NO_INSTALLER_METADATA": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    return {**inherited, **fixed}


# -- wheels with one file in common ------------------------------------------------------------------------------------


def find_clashing(wheels: Sequence[str]) -> list[str]:
    """The wheels that have a file which another one has with other content, in the given order."""
    first: dict[str, tuple[object, str]] = {}
    found: set[str] = set()
    for wheel in wheels:
        for place, content in installed(wheel):
            known, owner = first.setdefault(place, (content, wheel))
            if known != content:
                found.update((owner, wheel))
    return [wheel for wheel in wheels if wheel in found]


def installed(wheel: str) -> Iterator[tuple[str, object]]:
    """Where the files of a wheel go, by scheme, and something that differs where their content does."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            head, _, rest = info.filename.partition("/")
            place = rest if head.endswith(".data") else f"purelib/{info.filename}"
            if place.startswith("platlib/"):
                place = f"purelib/{place[len('platlib/') :]}"
            if not place.endswith("/"):
                yield place, (info.CRC, info.file_size)
            if head.endswith(".dist-info") and rest == "entry_points.txt":
                yield from _scripts(archive.read(info).decode("utf-8", "replace"))


def _scripts(entry_points: str) -> Iterator[tuple[str, object]]:
    """The programs that installing makes."""
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of programs keep their case
    try:
        parser.read_string(entry_points)
    except configparser.Error:
        return  # uv will say what is wrong with it
    for section in ("console_scripts", "gui_scripts"):
        if parser.has_section(section):
            yield from ((f"scripts/{name}", value) for name, value in parser.items(section))


# -- bytecode ----------------------------------------------------------------------------------------------------------


#: A module of a wheel: its name there, and where it is, or will be, when it is installed.
Module = namedtuple("Module", ("wheel", "name", "path"))  # noqa: PYI024 - typing takes longer to load than all the rest


def compile_anew(wheels: Sequence[str], *, output: str = "", ahead: str = "") -> int:
    """:func:`compile_modules` in an interpreter of its own; returns its exit status.

    It runs without the site module: what is installed must not have been imported by the process that compiles.
    """
    again = (sys.executable, "-S", "-s", "-B", os.path.abspath(__file__), _COMPILE)
    return subprocess.call([*again, output, ahead, os.pathsep.join(_sites()), *wheels])


def _sites() -> list[str]:
    paths = sysconfig.get_paths()
    return sorted({paths["purelib"], paths["platlib"]})


def compile_ahead(output: str, wheels: Sequence[str]) -> int:
    """Compile the modules of wheels that nobody installed yet, into ``output``; 1 where it is not known what will be
    where.
    """
    if len(_sites()) != 1 or find_clashing(wheels):
        return 1
    status = compile_anew(wheels, output=output)
    if status == 0:
        with open(os.path.join(output, _INTERPRETER), "w") as file:
            file.write(interpreter())
    return status


def interpreter() -> str:
    """A digest of all that decides what bytecode follows from a source."""
    import hashlib

    with open("/proc/self/maps", errors="surrogateescape") as maps:
        libraries = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/libpython" in line}
    state = hashlib.sha256()
    for path in sorted({os.path.realpath(sys.executable), py_compile.__file__, *libraries}):
        with open(path, "rb") as file:
            state.update(hashlib.sha256(file.read()).digest())
    return state.hexdigest()


def _is_of_this_interpreter(ahead: str) -> bool:
    try:
        with open(os.path.join(ahead, _INTERPRETER)) as file:
            return file.read() == interpreter()
    except OSError:
        return False


def compile_modules(sites: Sequence[str], wheels: Iterable[str], *, output: str = "", ahead: str = "") -> int:
    """Write hash-based bytecode for the modules of ``wheels``, as many processes at a time as there are processors.

    The wheels are installed at ``sites``. With ``output`` they are not: the bytecode goes below that folder. What is
    below the folder ``ahead``, where there is one, need not be compiled again.
    """
    warnings.simplefilter("ignore")
    is_there = _anything if output else os.path.isfile
    running: dict[int, int] = {}  # modules, by process
    taken = 0
    for batch in [*sorted(_batches(wheels, sites, is_there), key=len, reverse=True), []]:
        while running and not (batch and len(running) < len(os.sched_getaffinity(0))):
            process, status = os.wait()
            count = running.pop(process)
            if status and os.WEXITSTATUS(status) != _TAKEN:
                return 1
            taken += count if status else 0
        if batch:
            running[_start(batch, output, ahead)] = len(batch)
    if taken:
        sys.stdout.write(f"reprobox: {taken} modules were compiled ahead\n")
    return 0


def _anything(_: str) -> bool:
    return True


def _batches(
    wheels: Iterable[str], sites: Sequence[str], is_there: Callable[[str], bool]
) -> Iterator[Sequence[Module]]:
    """Modules to be compiled by one process each; one that several wheels have is in a single batch."""
    seen: set[str] = set()
    for wheel in wheels:
        found = [module for module in modules(wheel, sites, is_there) if module.path not in seen]
        seen.update(module.path for module in found)
        for start in range(0, len(found), BATCH):
            yield found[start : start + BATCH]


def modules(wheel: str, sites: Sequence[str], is_there: Callable[[str], bool] = os.path.isfile) -> Iterator[Module]:
    """The modules of a wheel that are at one of ``sites``, in the order of their names in it; those of tests are left
    out.
    """
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
            if is_there(path):
                yield Module(wheel, name, path)


def _start(batch: Sequence[Module], output: str, ahead: str) -> int:
    """Compile a batch in a process of its own, forked from one that has compiled nothing; returns the process's id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if output:
            _compile_below(output, batch)
            status = 0
        elif ahead and all(_take(module.path, ahead) for module in batch):
            status = _TAKEN
        else:
            for module in batch:
                _compile(module.path)
            status = 0
    finally:
        os._exit(status)


def _compile(path: str, place: str | None = None, *, known_as: str | None = None) -> bool:
    """Compile the file at ``path`` to ``place``; False for templates, and tests of other Pythons: nobody imports them.

    ``known_as`` is the path that the bytecode has its source at.
    """
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    try:
        py_compile.compile(path, place, known_as, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, ValueError, RecursionError):
        return False
    return True


def _compile_below(output: str, batch: Sequence[Module]) -> None:
    """Compile modules that are in their wheel only; an empty file stands for bytecode that there cannot be."""
    with zipfile.ZipFile(batch[0].wheel) as archive, tempfile.NamedTemporaryFile(suffix=".py") as source:
        for module in batch:
            source.seek(0)
            source.truncate()
            source.write(archive.read(module.name))
            source.flush()
            place = output + importlib.util.cache_from_source(module.path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if not _compile(source.name, place, known_as=module.path):
                open(place, "wb").close()


def _take(path: str, ahead: str) -> bool:
    """Put the bytecode of the module at ``path`` where ``py_compile`` would; False if none was made of this source."""
    place = importlib.util.cache_from_source(path)
    try:
        with open(ahead + place, "rb") as file:
            bytecode = file.read()
    except OSError:
        return False
    if not bytecode:
        return True
    with open(path, "rb") as file:
        if importlib.util.source_hash(file.read()) != bytecode[8:16]:  # PEP 552: the hash of the source
            return False
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.lexists(place):
        os.unlink(place)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, (os.stat(path).st_mode | 0o200) & 0o666)
    with open(descriptor, "wb") as file:
        file.write(bytecode)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
