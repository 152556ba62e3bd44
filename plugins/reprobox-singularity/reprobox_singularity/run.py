"""What a run needs, gathered before the process becomes Apptainer: accounts, devices, limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobox.archives import sif
from reprobox.backend import Limits, RunRequest
from reprobox.errors import BackendError, IntegrityError
from reprobox.sandbox.allotted import allotted
from reprobox_singularity import apptainer, client, metadata

_LIBRARIES = "/.singularity.d/libs"  # where Apptainer binds a driver's
#: A device that a driver is there by, and the option by which Apptainer brings the driver's libraries along.
_DRIVERS = {"/dev/nvidiactl": "--nv", "/dev/kfd": "--rocm"}


def document(request: RunRequest) -> dict[str, Any]:
    """All that the child needs besides the binds, as JSON. Raises :class:`BackendError` for what cannot be given."""
    engine = apptainer.find()
    drivers = _drivers(request.gpus)
    whole = request.limits.cpus == int(request.limits.cpus)
    given = allotted(Limits(cpus=request.limits.cpus if whole else 0), request.gpus)
    environment = {**request.environment, **given.environment}
    if drivers:  # Apptainer names them in a variable of its own environment, which no command sees
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (environment.get("LD_LIBRARY_PATH", ""), _LIBRARIES)))
    location = request.realization.location
    return {
        "engine": engine.program,
        "own_environment": apptainer.own_environment(os.environ),
        "image": location,
        "accounts": accounts(location),
        "argv": list(request.argv),
        "environment": environment,
        "workdir": request.workdir,
        "network": request.network,
        "isolate": request.isolate,
        "hidden": [bind.target for bind in given.binds],
        "processors": list(given.processors),
        "options": [
            *drivers,
            *limits(Limits(memory=request.limits.memory, cpus=0 if whole else request.limits.cpus), location),
        ],
    }


def _drivers(gpus: str) -> list[str]:
    wanted = gpus not in ("", "none")
    return [option for device, option in _DRIVERS.items() if wanted and os.path.exists(device)]


def accounts(location: str) -> dict[str, str]:
    """The image's ``passwd`` and ``group``. Raises :class:`IntegrityError` if it is broken."""
    path = Path(location)
    try:
        if path.is_dir():
            return {name: (path / "etc" / name).read_text("utf-8", "replace") for name in ("passwd", "group")}
        with path.open("rb") as file:
            found = sif.read(file)
            own = next((item for item in found.of_type(sif.JSON) if item.name == metadata.OWN), None)
            if own is None:
                return {}
            file.seek(own.offset)
            told: Mapping[str, Mapping[str, str]] = json.loads(file.read(own.size))
    except FileNotFoundError:
        if path.is_dir():
            return {}
        raise _broken(location, "it is not there any more") from None
    except (sif.SifError, ValueError) as error:
        raise _broken(location, str(error)) from None
    return dict(told["accounts"])


def _broken(location: str, why: str) -> IntegrityError:
    hint = "`reprobox realize --backend singularity` makes it anew"
    return IntegrityError(f"the image cannot be run: {why}", where=location, hint=hint)


def limits(wanted: Limits, image: str) -> list[str]:
    """Apptainer's options for limits, once it was tried that it can keep them. Raises :class:`BackendError`."""
    options = []
    if wanted.memory:
        # Swap would lift the limit: the sum of both is what is limited.
        options += ["--memory", str(wanted.memory), "--memory-swap", str(wanted.memory)]
    if wanted.cpus:
        options += ["--cpus", f"{wanted.cpus:g}"]
    if options:
        status, said = client.execute(image, ["true"], ["--userns", "--cleanenv", "--no-home", *options])
        if status and "cgroup" in said.lower():
            reason = next(line for line in reversed(said.splitlines()) if "cgroup" in line.lower())
            raise BackendError(
                f"Apptainer cannot keep limits here: {reason.partition('FATAL:')[2].strip() or reason}",
                where="--memory" if wanted.memory else "--cpus",
                hint="it takes cgroups v2 and systemd, which delegates them to you (`systemctl --user status` works);"
                " a batch job with that limit (`sbatch --mem`), or whole processors, need neither",
            )
    return options
