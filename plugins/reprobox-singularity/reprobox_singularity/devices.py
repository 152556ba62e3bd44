"""Graphics processors: which of them a run sees, and the options by which their libraries come along.

The host's /dev is seen as it is, so a device that is not wanted is hidden: a file that nobody may open stands over it.

Source: NVIDIA's driver, /proc/driver/nvidia/gpus/*/information; AMD's, /dev/kfd and /dev/dri/renderD*.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import BackendError

_DEVICES = Path("/dev")
_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Options for Apptainer, and the devices that a run must not see."""

    options: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


def wanted(gpus: str, devices: Path = _DEVICES, driver: Path = _DRIVER) -> Wanted:
    """What ``RunRequest.gpus`` asks for. Raises :class:`BackendError` for a device that is not here."""
    nvidia = {path.name.removeprefix("nvidia"): str(path) for path in devices.glob("nvidia[0-9]*")}
    amd = [str(path) for path in (*devices.glob("kfd"), *devices.glob("dri/renderD*"))]
    has_amd = (devices / "kfd").exists()
    if gpus == "":
        return Wanted()
    if gpus == "none":
        return Wanted(hidden=tuple(sorted((*nvidia.values(), *amd))))
    if gpus == "all":
        options = [*(["--nv"] if nvidia else []), *(["--rocm"] if has_amd else [])]
        if not options:
            raise BackendError(
                "GPUs were asked for, and this machine shows none: there is no /dev/nvidia0 and no /dev/kfd",
                hint="load the driver, or ask the scheduler for a GPU (sbatch --gres=gpu:1)",
            )
        return Wanted(options=tuple(options))
    numbers = _numbers(gpus.split(","), nvidia, driver)
    return Wanted(options=("--nv",), hidden=tuple(path for name, path in sorted(nvidia.items()) if name not in numbers))


def _numbers(asked: Sequence[str], nvidia: dict[str, str], driver: Path) -> set[str]:
    """The minor numbers of the devices that were named by number or UUID."""
    known = {}
    for path in sorted(driver.glob("*/information")):
        facts = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", path.read_text(errors="replace"), re.MULTILINE))
        known[facts.get("GPU UUID", "")] = facts.get("Device Minor", "")
    found = set()
    for name in (word.strip() for word in asked):
        number = known.get(name, name)
        if number not in nvidia:
            here = ", ".join(sorted(nvidia)) or "none"
            raise BackendError(
                f"there is no GPU {name} here; NVIDIA's that this machine shows: {here}",
                hint="`nvidia-smi -L` lists numbers and UUIDs; single AMD GPUs are chosen with ROCR_VISIBLE_DEVICES",
            )
        found.add(number)
    return found
