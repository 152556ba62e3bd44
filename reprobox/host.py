# ruff: noqa: RUF009 - key() is a field specifier
"""What a machine has, as a frozen value, to and from JSON: so that one machine can be judged on another.

``reprobox doctor --json`` writes it under ``host``, and ``doctor --host FILE`` reads it. Pure: :mod:`reprobox.survey`
looks at this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from reprobox import tables
from reprobox.digest import Json
from reprobox.errors import Problem, UsageError
from reprobox.tables import EMPTY, Reader, key
from reprobox.toml_lines import Positions

FORMAT = 1
SCHEMA_ID = "https://example.org/reprobox/schemas/host.schema.json"
MAX_BYTES = 1 << 20
#: Families of MPI that reprobox can tell from each other, with how they are called.
MPI_FAMILIES = {"openmpi": "Open MPI", "mpich": "MPICH", "intel-mpi": "Intel MPI", "mvapich": "MVAPICH"}

_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_version = tables.pattern(_VERSION.pattern, "a version", 'digits and dots, such as "6.1.0"')
_WHOSE = "write it anew on that machine: `reprobox doctor --json > FILE`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The processor, by the names of archspec."""

    name: str = key("Microarchitecture, as archspec names it.")
    also: tuple[str, ...] = key("All that it is a descendant of, and so can do, nearest first.", default=())
    model: str | None = key("What the processor calls itself.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Main memory, in bytes."""

    total: int = key("Memory of the machine, in bytes.")
    limit: int | None = key("What this user or job may have of it, in bytes.", default=None)
    limited_by: str | None = key("What sets the limit.", default=None)

    @property
    def usable(self) -> int:
        """What a job may have, in bytes."""
        return self.total if self.limit is None else min(self.total, self.limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """Free space at a place that is written to, in bytes."""

    use: Literal["store", "output"] = key("What is written there.")
    path: str = key("Where it is.")
    free: int = key("Free space for this user, in bytes.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU that a job can see."""

    name: str = key("What the GPU calls itself.")
    memory: int | None = key("Its memory, in bytes.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Nvidia:
    """The NVIDIA driver, and the GPUs that it shows."""

    driver: str | None = key("Version of the driver.", default=None, check=_version)
    cuda: str | None = key("Newest CUDA version that the driver supports.", default=None, check=_version)
    gpus: tuple[Gpu, ...] | None = key("The GPUs that a job can see.", default=None)
    problem: str | None = key("Why the driver does not answer.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mpi:
    """The MPI whose ``mpirun`` is found first."""

    family: str = key("Family of the MPI.")
    version: str = key("Its version.", check=_version)
    program: str = key("The program that said so.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A machine. What could not be found out, or was not asked for, is None."""

    format: int = key("Version of this format.", default=FORMAT)
    name: str = key("What the machine is called.")
    architecture: str = key("Architecture, as OCI platforms name it.")
    cpu: Cpu | None = key("The processor.", default=None)
    memory: Memory | None = key("Main memory.", default=None)
    disks: tuple[Disk, ...] = key("Free space where reprobox and its runs write.", default=())
    kernel: str | None = key("Linux version.", default=None, check=_version)
    glibc: str | None = key("Version of glibc; none with another C library.", default=None, check=_version)
    nvidia: Nvidia | None = key("The NVIDIA driver; none where there is none.", default=None)
    mpi: Mpi | None = key("The MPI; none where no mpirun is found.", default=None)
    backends: Mapping[str, str] = key("Backends, each with why it does not work; empty where it does.", default=EMPTY)


def version(text: str) -> str | None:
    """The version that ``text`` begins with: ``6.1.0`` of ``6.1.0-18-amd64``."""
    found = _VERSION.match(text)
    return found[0] if found else None


def document(host: Host) -> dict[str, Json]:
    """The description as JSON; what is not known is left out."""
    return {"format": host.format, **tables.document(host)}


def schema() -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a description."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "host",
        "description": "What a machine has, as `reprobox doctor --json` tells it under `host`.",
        **tables.schema(Host),
    }


def parse(data: bytes, *, file: str) -> Host:
    """The machine that ``data`` describes: what ``doctor --json`` printed, or its ``host`` alone.

    Raises :class:`UsageError` with every mistake, by its key.
    """
    whole = _object(data, file)
    found: Any = whole.get("host", whole)
    path = ("host",) if "host" in whole else ()
    if not isinstance(found, dict) or "format" not in found:
        raise UsageError("it does not describe a machine", where=file, hint=_WHOSE)
    written = found["format"]
    if type(written) is not int or written < 1:
        raise UsageError("the description has no format version", where=file, hint=_WHOSE)
    if written > FORMAT:
        raise UsageError(
            f"the description has format {written}, and this reprobox knows up to {FORMAT}",
            where=file,
            hint="upgrade reprobox here, or write it anew with this version on that machine",
        )
    return _host(found, path, file)


def _object(data: bytes, file: str) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise UsageError("it is larger than 1 MiB, and so no description of a machine", where=file, hint=_WHOSE)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"it is not JSON: {reason}", where=file, hint=_WHOSE) from None
    if not isinstance(found, dict):
        raise UsageError("it does not describe a machine", where=file, hint=_WHOSE)
    return found


def _host(found: Mapping[str, Any], path: tuple[str, ...], file: str) -> Host:
    reader = Reader(file, Positions(lines={}))
    host: Host = reader.table(Host, found, path)
    if reader.problems:
        raise UsageError("\n".join(str(_without_line(problem)) for problem in reader.problems))
    return host


def _without_line(problem: Problem) -> Problem:
    return replace(problem, line=0)
