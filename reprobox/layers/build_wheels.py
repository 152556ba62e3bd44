"""Builds wheels from locked sources: a program that the environment's own Python runs, without network.

::

    python3 -s -B build_wheels.py FOLDER UV_WHEEL OUTPUT --source SDIST [WHEEL...] [--source SDIST [WHEEL...]]...

Each source of ``FOLDER`` is built in a virtual environment that has the wheels named after it and nothing else, always
at the same path, since compilers write paths down. The wheels are left in ``OUTPUT``. This must run on Python 3.8.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence

if __name__ == "__main__":  # in a step there is nothing of reprobox but this file and that one
    import install_wheels  # type: ignore[import-not-found]
else:
    from reprobox.layers import install_wheels

SOURCE = "--source"
PLACE = "reprobox-build"


def main(arguments: Sequence[str]) -> int:
    folder, uv_wheel, output, *rest = arguments
    os.makedirs(output, exist_ok=True)
    place = os.path.join(tempfile.gettempdir(), PLACE)
    with tempfile.TemporaryDirectory(prefix=".reprobox-") as scratch:
        uv = install_wheels.unpack_uv(os.path.join(folder, uv_wheel), scratch)
        for source, *wheels in sources(rest):
            try:
                status = build(
                    uv, os.path.join(folder, source), [os.path.join(folder, name) for name in wheels], output
                )
            finally:
                shutil.rmtree(place, ignore_errors=True)
            if status:
                known = ", ".join(wheels) or "nothing"
                sys.stderr.write(f"{source} could not be built with what is locked for it: {known}\n")
                return status
    return 0


def sources(words: Sequence[str]) -> Iterator[list[str]]:
    """Each source with its wheels."""
    found: list[str] = []
    for word in [*words[1:], SOURCE]:
        if word == SOURCE:
            yield found
            found = []
        else:
            found.append(word)


def build(uv: str, source: str, wheels: Sequence[str], output: str) -> int:
    """One wheel; returns the exit status of what went wrong, or 0."""
    place = os.path.join(tempfile.gettempdir(), PLACE)
    os.mkdir(place)
    environment = install_wheels.environment()
    cache = ("--no-config", "--offline", "--cache-dir", os.path.join(place, "cache"))
    venv = os.path.join(place, "venv")
    python = os.path.join(venv, "bin", "python3")
    status = subprocess.call(
        (uv, "venv", "--quiet", "--python", sys.executable, "--no-project", *cache, venv), env=environment
    )
    if not status and wheels:
        links = ("--no-index", "--find-links", os.path.dirname(wheels[0]), "--no-deps")
        status = subprocess.call(
            (uv, "pip", "install", "--quiet", "--python", python, *links, *cache, *install_wheels.pins(wheels)),
            env=environment,
        )
    if not status:
        unpacked = unpack(source, os.path.join(place, "source"))
        path = os.pathsep.join([os.path.dirname(python), environment.get("PATH", "")])
        command = (uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", python, "--out-dir", output)
        status = subprocess.call((*command, *cache, unpacked), env={**environment, "PATH": path, "VIRTUAL_ENV": venv})
    return status


def unpack(source: str, folder: str) -> str:
    """The one folder that a source distribution has, unpacked."""
    os.mkdir(folder)
    if source.endswith(".zip"):
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)  # noqa: S202 - in a step, which writes to its own root alone
    else:
        with tarfile.open(source) as archive:
            safe: Mapping[str, str] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(folder, **safe)  # type: ignore[arg-type]  # noqa: S202 - as above
    (name,) = os.listdir(folder)
    return os.path.join(folder, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
