"""Which MPI this machine has: what the first ``mpirun`` on PATH says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from reprobox.host import Mpi

_PATIENCE = 20  # seconds
_PROGRAMS = ("mpirun", "mpiexec")
_SAID = (
    ("openmpi", re.compile(r"\((?:Open MPI|OpenRTE)\) v?(?P<version>\d[\d.]*)")),
    ("intel-mpi", re.compile(r"Intel\(R\) MPI Library.*Version (?P<version>\d[\d.]*)(?: Update (?P<update>\d+))?")),
    ("mvapich", re.compile(r"MVAPICH2?(?: Version:|-)?\s+(?P<version>\d[\d.]*)", re.IGNORECASE)),
    ("mpich", re.compile(r"(?:MPICH Version:|HYDRA build details:\s+Version:)\s+(?P<version>\d[\d.]*)")),
)


def look() -> Mpi | None:
    """The MPI whose ``mpirun`` or ``mpiexec`` is found first; None without one, or one that says nothing known."""
    for name in _PROGRAMS:
        program = shutil.which(name)
        if program and (found := _ask(program)):
            return found
    return None


def _ask(program: str) -> Mpi | None:
    found = read(_output([program, "--version"]), program)
    if found is None or found.family != "mpich":
        return found
    # MVAPICH starts its ranks with MPICH's Hydra, which says MPICH's version; a program beside it knows better.
    own = Path(program).resolve().with_name("mpichversion")
    beside = own if own.exists() else Path(program).with_name("mpichversion")
    return (read(_output([str(beside)]), program) if beside.exists() else None) or found


def read(text: str, program: str) -> Mpi | None:
    """The MPI that a ``--version`` text is of."""
    for family, said in _SAID:
        if match := said.search(text):
            update = match.groupdict().get("update")
            version = match["version"].strip(".") + (f".{int(update)}" if update else "")
            return Mpi(family=family, version=version, program=program)
    return None


def _output(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
