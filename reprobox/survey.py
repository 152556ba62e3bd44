"""What this machine has: /proc, cgroups, the scheduler's variables, the C library, GPU and MPI.

Only what is asked for is looked at, since some of it starts programs.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from reprobox import cpu, launch, mpi, nvidia
from reprobox.host import Cpu, Disk, Host, Memory, version

ROOT = Path("/")
#: What can be asked for.
FACTS = ("cpu", "memory", "kernel", "glibc", "nvidia", "mpi")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_MIB = 1 << 20


def look(facts: Collection[str] = FACTS, places: Sequence[tuple[str, Path]] = ()) -> Host:
    """What this machine has: its architecture, those of ``facts`` that are asked for, and the free space at ``places``.

    ``places`` are (use, path), as :class:`Disk` has them; of a path that is not there yet, the folder above counts.
    """
    system = os.uname()
    looks: Mapping[str, Callable[[], object]] = {
        "cpu": _cpu,
        "memory": memory,
        "kernel": lambda: version(system.release),
        "glibc": _glibc,
        "nvidia": lambda: nvidia.look(os.environ.get("CUDA_VISIBLE_DEVICES")),
        "mpi": mpi.look,
    }
    found = {name: looks[name]() for name in FACTS if name in facts}
    return Host(
        name=system.nodename,
        architecture=_ARCHITECTURES.get(system.machine, system.machine),
        disks=tuple(_disk(use, path) for use, path in places),
        **found,  # type: ignore[arg-type]
    )


def _glibc() -> str | None:
    try:
        name, _, number = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):  # another C library
        return None
    return version(number) if name == "glibc" else None


# -- processor ---------------------------------------------------------------------------------------------------------


def _cpu() -> Cpu:
    name, also = cpu.detect()
    return Cpu(name=name, also=also, model=_model(_read(ROOT / "proc/cpuinfo")))


def _model(text: str) -> str | None:
    found = re.search(r"^model name\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else None


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Memory | None:
    """Main memory, and the smallest limit on it: of cgroups, of the scheduler's job, of ``ulimit -v``."""
    found = re.search(r"^MemTotal:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if not found:
        return None
    total = int(found[1]) * 1024
    limits = [*_cgroup_limits(root), *_slurm_limits(environment), *_ulimit()]
    limit, source = min(limits, default=(total, ""))
    return Memory(total=total) if limit >= total else Memory(total=total, limit=limit, limited_by=source)


def _cgroup_limits(root: Path) -> Iterator[tuple[int, str]]:
    """Of the cgroup that this process is in and of all above it; where its path is of another namespace, of the root.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max), cgroup-v1/memory.html (memory.limit_in_bytes)
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            yield from _limits_above(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
        elif number == "0" and not controllers:
            mount = root / "sys/fs/cgroup"
            unified = mount / "unified"
            yield from _limits_above(unified if unified.is_dir() else mount, path, "memory.max")


def _limits_above(mount: Path, path: str, name: str) -> Iterator[tuple[int, str]]:
    place = mount / path.lstrip("/")
    for folder in (place, *place.parents):
        if (text := _read(folder / name).strip()).isdecimal():
            yield int(text), f"the cgroup {folder}"
        if folder == mount:
            return


def _slurm_limits(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """What the job was given, in MiB (sbatch's manual, "Output environment variables"); 0 is all of the node."""
    for name, counts in (
        ("SLURM_MEM_PER_NODE", ()),
        ("SLURM_MEM_PER_CPU", ("SLURM_CPUS_ON_NODE",)),
        ("SLURM_MEM_PER_GPU", ("SLURM_GPUS_ON_NODE",)),
    ):
        size = environment.get(name, "")
        times = [environment.get(count, "") for count in counts]
        if size.isdecimal() and int(size) and all(text.isdecimal() for text in times):
            yield int(size) * (int(times[0]) if times else 1) * _MIB, f"the Slurm job ({name})"


def _ulimit() -> Iterator[tuple[int, str]]:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft, "ulimit -v"


# -- disks -------------------------------------------------------------------------------------------------------------


def _disk(use: str, path: Path) -> Disk:
    return Disk(use=use, path=str(path), free=launch.free(str(path)))  # type: ignore[arg-type]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
