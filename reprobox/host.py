# ruff: noqa: RUF009 - key() is a field specifier
"""What a machine has, as a frozen value, to and from JSON: so that one machine can be judged on another.

``reprobox doctor --json`` writes it under ``host``, and ``doctor --host FILE`` reads it. Pure: :mod:`reprobox.survey`
looks at this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reprobox import json_tables
from reprobox.digest import Json
from reprobox.json_tables import Form
from reprobox.table_rules import pattern
from reprobox.tables import EMPTY, key

FORMAT = 1
SCHEMA_ID = "https://example.org/reprobox/schemas/host.schema.json"
MAX_BYTES = 1 << 20
#: Families of MPI that reprobox can tell from each other, with how they are called.
MPI_FAMILIES = {"openmpi": "Open MPI", "mpich": "MPICH", "intel-mpi": "Intel MPI", "mvapich": "MVAPICH"}

_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_version = pattern(_VERSION.pattern, "a version", 'digits and dots, such as "6.1.0"')


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


_FORM = Form(
    name="description",
    full="description of a machine",
    format=FORMAT,
    most=MAX_BYTES,
    again="write it anew on that machine: `reprobox doctor --json > FILE`",
    upgrade="upgrade reprobox here, or write it anew with this version on that machine",
)


def document(host: Host) -> dict[str, Json]:
    """The description as JSON; what is not known is left out."""
    return json_tables.document(host)


def schema() -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a description."""
    about = "What a machine has, as `reprobox doctor --json` tells it under `host`."
    return json_tables.schema(Host, name=SCHEMA_ID, title="host", about=about)


def parse(data: bytes, *, file: str) -> Host:
    """The machine that ``data`` describes: what ``doctor --json`` printed, or its ``host`` alone.

    Raises :class:`UsageError` with every mistake, by its key.
    """
    whole = json_tables.load(data, _FORM, file=file)
    path = ("host",) if "host" in whole else ()
    host: Host = json_tables.read(Host, whole.get("host", whole), _FORM, file=file, path=path)
    return host
