"""What of the machine a run is given: processors and GPUs. What the sandbox cannot hold a run to, it refuses.

Processors are an affinity mask, which a process and all that it starts keep. Memory would take a control group, which
an ordinary user has none of on most machines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from reprobox.backend import Bind, Limits
from reprobox.errors import BackendError

_CONTROL = ("/dev/nvidiactl", "/dev/kfd")  # the devices by which NVIDIA's and AMD's drivers are asked
NO_GPU = "this machine shows no GPU: there is neither /dev/nvidiactl nor /dev/kfd"
_GPUS = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri/*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Allotted:
    """The processors' numbers (none for all), what hides devices, and variables that choose among them."""

    processors: tuple[int, ...] = ()
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str]


def allotted(limits: Limits, gpus: str, root: Path = Path("/")) -> Allotted:
    """What the wishes of a run come to here. Raises :class:`BackendError` for what cannot be kept, with the fix."""
    if limits.memory:
        raise BackendError(
            f"the sandbox cannot hold a run to {limits.memory / 2**30:.3g} GiB of memory: that takes a control group",
            where="--memory",
            hint="use `--backend docker`, a batch job with that limit, or `systemd-run --user --scope -p MemoryMax=…"
            " reprobox run …`",
        )
    hidden = _found(_GPUS, root) if gpus == "none" else []
    return Allotted(
        processors=_processors(limits.cpus),
        binds=tuple(Bind(source=Path("/dev/null"), target=f"/{path}", writable=True) for path in hidden),
        environment=_chosen(gpus, root) if gpus not in ("", "none") else {},
    )


def _processors(wanted: float) -> tuple[int, ...]:
    if not wanted:
        return ()
    if wanted != int(wanted):
        raise BackendError(
            f"the sandbox gives whole processors, and {wanted:g} is asked for",
            where="--cpus",
            hint=f"give --cpus {max(1, int(wanted))}, or use `--backend docker`, which shares them by time",
        )
    there = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(there)  # several runs do not crowd on the same ones
    return tuple((there[first:] + there[:first])[: int(wanted)])


def _chosen(gpus: str, root: Path) -> dict[str, str]:
    """All devices are there already, with the host's /dev; a variable says which of them count."""
    if not shows_gpu(root):
        raise BackendError(
            NO_GPU,
            where="--gpus",
            hint="`reprobox doctor` says what it has; on a cluster, ask for a GPU in the job (`--gres=gpu:1`)",
        )
    if gpus == "all":
        return {}
    lacking = [number for number in gpus.split(",") if number.isdecimal() and not _is_there(number, root)]
    if lacking:
        raise BackendError(
            f"this machine has no GPU {', '.join(lacking)}", where="--gpus", hint="`reprobox doctor` lists what it has"
        )
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpus, "ROCR_VISIBLE_DEVICES": gpus}


def shows_gpu(root: Path = Path("/")) -> bool:
    """Whether the devices are there by which a driver is asked."""
    return bool(_found(_CONTROL, root))


def _is_there(number: str, root: Path) -> bool:
    return bool(_found((f"/dev/nvidia{number}", f"/dev/dri/renderD{128 + int(number)}"), root))


def _found(patterns: tuple[str, ...], root: Path) -> list[str]:
    """Paths below ``root`` that match, relative to it."""
    return sorted(os.path.relpath(path, root) for pattern in patterns for path in glob(f"{root}/{pattern.lstrip('/')}"))
