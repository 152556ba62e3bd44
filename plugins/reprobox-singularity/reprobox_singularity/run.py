"""What a run needs, gathered before the process becomes Apptainer: accounts, devices, limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobox import sif
from reprobox.backend import Limits, RunRequest
from reprobox.errors import BackendError, ReproboxError
from reprobox_singularity import apptainer, client, devices, metadata

#: A folder, not a link, that every image has; nothing is run in it, only tried.
_TRIED = "true"


def document(request: RunRequest) -> dict[str, Any]:
    """All that the child needs besides the binds, as JSON. Raises :class:`BackendError` for what cannot be given."""
    engine = apptainer.find()
    wanted = devices.wanted(request.gpus)
    environment = dict(request.environment)
    if wanted.options:
        # Apptainer binds the driver's libraries there, and says so in a variable that only its own environment has.
        paths = [environment.get("LD_LIBRARY_PATH", ""), "/.singularity.d/libs"]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    return {
        "engine": engine.program,
        "own_environment": apptainer.own_environment(os.environ),
        "image": request.realization.location,
        "accounts": accounts(request.realization.location),
        "argv": list(request.argv),
        "environment": environment,
        "workdir": request.workdir,
        "network": request.network,
        "isolate": request.isolate,
        "hidden": list(wanted.hidden),
        "options": [*wanted.options, *limits(request.limits, request.realization.location)],
    }


def accounts(location: str) -> dict[str, str]:
    """The image's ``passwd`` and ``group``. Raises :class:`ReproboxError` if it is broken."""
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


def _broken(location: str, why: str) -> ReproboxError:
    return ReproboxError(
        f"the image cannot be run: {why}", where=location, hint="remove it; `reprobox realize` makes it anew"
    )


def limits(wanted: Limits, image: str) -> list[str]:
    """Apptainer's options for limits, once it was tried that it can keep them. Raises :class:`BackendError`."""
    options = []
    if wanted.memory:
        # Swap would lift the limit: the sum of both is what is limited.
        options += ["--memory", str(wanted.memory), "--memory-swap", str(wanted.memory)]
    if wanted.cpus:
        options += ["--cpus", f"{wanted.cpus:g}"]
    if options:
        status, said = client.execute(image, [_TRIED], ["--userns", "--cleanenv", "--no-home", *options])
        if status and "cgroup" in said.lower():
            raise BackendError(
                f"Apptainer cannot keep limits here: {said.splitlines()[-1]}",
                hint="limits take cgroups v2 that are delegated to you, by systemd (`systemctl --user` works, and"
                " /sys/fs/cgroup/cgroup.controllers is there); a scheduler's own limits (sbatch --mem) hold without it",
            )
    return options
