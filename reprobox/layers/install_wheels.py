"""Installs locked wheels: a program that the environment's own Python runs, with nothing but the standard library.

::

    python3 -s -B install_wheels.py [--venv PLACE] FOLDER UV_WHEEL WHEEL... [OTHER_FOLDER/]

With ``--venv`` they go into a new virtual environment there, which also sees what the environment has already.

uv, unpacked from its own wheel, installs the wheels of ``FOLDER`` that are named. Two things are not left to it, for
they depend on how many workers it has. Wheels that bring different files of one name are installed one after another,
so that the last one always wins. And modules are compiled by ``compile_wheels``: on some Pythons the bytecode of a
module differs with those that the same process compiled before it. This must run on Python 3.8.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

if not __package__:  # in a step there is nothing of reprobox but the programs
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # which images may keep Python from doing
    import compile_wheels  # type: ignore[import-not-found]
else:
    from reprobox.layers import compile_wheels

#: Wheels of more bytes than this are not unpacked in memory.
IN_MEMORY = 1 << 30
#: From this Python on, the bytecode of a module does not depend on what else the process has in memory.
ALIKE = (3, 11)

_VENV = "--venv"


def main(arguments: Sequence[str]) -> int:
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
    return compiled(wheels)


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
    with zipfile.ZipFile(wheel) as archive, archive.open(uv_in(archive)) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def uv_in(archive: zipfile.ZipFile) -> str:
    """The name of the program in uv's wheel. Raises :class:`zipfile.BadZipFile` where there is none."""
    for name in archive.namelist():
        if name.endswith(".data/scripts/uv"):
            return name
    raise zipfile.BadZipFile("it has no uv")


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


def compiled(wheels: Sequence[str]) -> int:
    """Compile the modules of installed wheels; returns an exit status.

    Where bytecode depends on what else its process has in memory, an interpreter of its own does that, without the site
    module: what is installed must not have been imported by the process that compiles.
    """
    if sys.version_info >= ALIKE:
        status: int = compile_wheels.compile_modules(_sites(), wheels)
        return status
    again = (sys.executable, "-S", "-s", "-B", compile_wheels.__file__)
    return subprocess.call([*again, os.pathsep.join(_sites()), *wheels])


def _sites() -> list[str]:
    paths = sysconfig.get_paths()
    return sorted({paths["purelib"], paths["platlib"]})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
