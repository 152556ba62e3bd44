"""The program underneath: Apptainer or SingularityCE, which one, how old, and the words that it understands."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import BackendError

#: The oldest versions that have ``--mount``, ``--no-eval`` and ``--no-mount bind-paths``.
OLDEST = {"Apptainer": (1, 2), "SingularityCE": (4, 0)}
#: Where Apptainer puts what it fetches, and what it unpacks.
PLACES = ("CACHEDIR", "TMPDIR")
_INSTALL = (
    "install Apptainer 1.2 or newer (apptainer.org has packages; on a cluster it is often a module: `module avail"
    " apptainer`)"
)
_PATIENCE = 60  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A program that was found: its path, what it is, and its version."""

    program: str
    name: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


@functools.cache
def find(path: str | None = None) -> Engine:
    """The engine that is first on PATH (``path`` instead of the caller's). Raises :class:`BackendError` with the fix.

    It is looked for under the name that spython calls it by. Apptainer installs itself under that name too.
    """
    program = shutil.which("singularity", path=path)
    if program is None:
        other = shutil.which("apptainer", path=path)
        if other:
            raise BackendError(
                f"{other} is here without its other name, `singularity`, by which spython calls it",
                hint=f"make a link: `ln -s {other} ~/.local/bin/singularity`, in a folder that is on your PATH",
            )
        raise BackendError("neither Apptainer nor SingularityCE is installed", hint=_INSTALL)
    engine = _recognised(program, _version(program))
    oldest = OLDEST[engine.name]
    if engine.version < oldest:
        wanted = ".".join(map(str, oldest))
        raise BackendError(f"{program} is {engine}, and {engine.name} {wanted} or newer is needed", hint=_INSTALL)
    return engine


def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_PATIENCE, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{program} does not start: {error}", hint=_INSTALL) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BackendError(f"{program} --version ends with status {done.returncode}: {said}", hint=_INSTALL)
    return done.stdout.strip()


def _recognised(program: str, said: str) -> Engine:
    """``apptainer version 1.4.5``, ``singularity-ce version 4.1.1-jammy``, ``singularity version 3.8.7``"""
    found = re.match(r"(apptainer|singularity-ce|singularity) version (\d+(?:\.\d+)*)", said)
    if found is None:
        raise BackendError(
            f"{program} says it is {said!r}, which is neither Apptainer nor SingularityCE", hint=_INSTALL
        )
    name = "Apptainer" if found[1] == "apptainer" else "SingularityCE"
    return Engine(program=program, name=name, version=tuple(map(int, found[2].split("."))))


def places(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the caller's environment, where Apptainer may put things; ``APPTAINER_`` beats ``SINGULARITY_``, as it does.

    Nothing else of the caller's may reach it: ``APPTAINER_BIND`` mounts, ``APPTAINERENV_X`` sets variables.
    """
    found: dict[str, str] = {}
    for place in PLACES:
        value = environment.get(f"APPTAINER_{place}") or environment.get(f"SINGULARITY_{place}")
        if value:
            found |= {f"APPTAINER_{place}": value, f"SINGULARITY_{place}": value}
    return found


def scratch(environment: Mapping[str, str]) -> Path | None:
    """The folder that the caller wants big temporary files in; None if none is named, or it is not there."""
    value = places(environment).get("APPTAINER_TMPDIR")
    return Path(value) if value and os.path.isdir(value) else None


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that Apptainer itself is started with."""
    path = environment.get("PATH", os.defpath)
    home = environment.get("HOME", "/")
    runtime = {
        name: environment[name] for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS") if name in environment
    }
    # mksquashfs and FUSE helpers are often in /usr/sbin, which ordinary users do not have on their PATH.
    return {
        "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": home,
        "LANG": "C",
        **runtime,
        **places(environment),
    }


def mount(source: str, target: str, *, writable: bool = False) -> list[str]:
    """An option that binds ``source`` at ``target``, whatever is in their names: it is read as a line of CSV."""
    fields = ["type=bind", f"source={source}", f"destination={target}", *([] if writable else ["ro"])]
    return ["--mount", ",".join(map(_csv, fields))]


def _csv(field: str) -> str:
    quoted = field.replace('"', '""')
    return f'"{quoted}"' if set(field) & set('",\n\r ') else field


def executing(engine: str, options: Sequence[str], image: str, descriptor: int) -> list[str]:
    """The command line that has Apptainer start the program in ``descriptor``, and add nothing that was not asked for.

    No home, no working directory, no /tmp, and none of the paths that the site's configuration binds by itself: one of
    those is /etc/localtime, which ``--containall`` leaves.
    """
    nothing = ["--cleanenv", "--no-home", "--no-eval", "--no-mount", "home,cwd,tmp,hostfs,bind-paths"]
    return [engine, "--silent", "exec", "--userns", *nothing, *options, image, f"/proc/self/fd/{descriptor}"]
