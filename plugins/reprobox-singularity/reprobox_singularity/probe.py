"""Whether Apptainer works here, found out by trying what builds and runs do, with an image of one program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from reprobox.backend import (
    Availability,
    ImageLayer,
    Realization,
    RealizeRequest,
)
from reprobox.digest import sha256, write_index
from reprobox.errors import BackendError, ReproboxError
from reprobox.image import Image, Settings
from reprobox.staging import staging_folder
from reprobox.tree import scan
from reprobox_singularity import apptainer, client
from reprobox_singularity.program import MACHINES, Command, program
from reprobox_singularity.realize import realize, squasher, squasher_version

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FUSE = Path("/dev/fuse")
_SIGN = "reprobox-probe"
_HINTS = {
    "namespaces": (
        "user namespaces are needed, also where Apptainer is installed setuid; an administrator can allow them with"
        " `sysctl -w user.max_user_namespaces=15000` (Debian's old kernels: `kernel.unprivileged_userns_clone=1`;"
        " Ubuntu 23.10 and later: `kernel.apparmor_restrict_unprivileged_userns=0`). Inside Docker:"
        " `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    ),
    "folder": (
        "the store's file system is mounted noexec or nodev, or does not allow it: set REPROBOX_STORE to a folder on"
        " another one"
    ),
    "image": (
        "images are mounted by FUSE: /dev/fuse must be there for you to write (`chmod 666 /dev/fuse` as administrator;"
        " in Docker: `--device /dev/fuse`), and squashfuse must be installed (package `squashfuse`)"
    ),
}


def probe(scratch: Path) -> Availability:
    """Try every link of the chain in turn; ``scratch`` is where steps would be staged."""
    details: dict[str, str] = {}
    try:
        return _tried(scratch, details)
    except BackendError as error:
        return Availability(ok=False, reason=error.message, hint=error.hint or "", details=details)
    except (OSError, ReproboxError) as error:
        return Availability(ok=False, reason=f"it cannot be tried: {error}", hint=_HINTS["folder"], details=details)


def _tried(scratch: Path, details: dict[str, str]) -> Availability:
    machine = os.uname().machine
    if machine not in MACHINES:
        raise BackendError(f"it needs x86_64 or aarch64, and this is {machine}", hint="use another machine")
    engine = apptainer.find()
    details["program"] = f"{engine} ({engine.program})"
    details["mksquashfs"] = squasher_version(squasher())
    with staging_folder(scratch) as stage:
        layer = _layer(stage)
        image, folder = (_realized(layer, stage / name, machine) for name in ("image.sif", "folder"))
        _try(folder.location, "a folder", "folder", details)
        _try(image.location, "an image", "image", details)
    details |= _facts()
    slow = details["mounts"].startswith("no")
    return Availability(ok=True, hint=_HINTS["image"] if slow else "", details=details)


def _try(location: str, what: str, remedy: str, details: dict[str, str]) -> None:
    problem = _problem(location)
    details[what.partition(" ")[2]] = f"no: {problem}" if problem else "yes"
    if problem:
        denied = "namespace" in problem or "permitted" in problem
        raise BackendError(f"{what} cannot be run: {problem}", hint=_HINTS["namespaces" if denied else remedy])


def _layer(stage: Path) -> ImageLayer:
    """A root with one program in it, which says a word."""
    tree = stage / "layer/tree"
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var/tmp"):
        (tree / name).mkdir(parents=True)
    command = Command(argv=(f"/{_SIGN}",), environment={}, workdir="/", descriptor=-1)
    (tree / "bin/try").write_bytes(program(command))
    (tree / "bin/try").chmod(0o755)
    index = write_index(scan(tree))
    (stage / "layer/index").write_bytes(index)
    return ImageLayer(id=sha256(index), name="probe", tree=tree, index=stage / "layer/index")


def _realized(layer: ImageLayer, output: Path, machine: str) -> Realization:
    settings = Settings(architecture=_ARCHITECTURES[machine])
    return realize(
        RealizeRequest(
            name="probe",
            layers=(layer,),
            image=Image(settings=settings, layers=(), epoch=0),
            image_digest=layer.id,
            tree_digest=layer.id,
            keep=output.parent,
            output=output,
        ),
        output.parent,
    )


def _problem(image: str) -> str:
    """Why the program of the image does not run; empty if it does: it says that it has nothing to become."""
    options = ["--userns", "--cleanenv", "--no-home", "--no-mount", "home,cwd,tmp,hostfs,bind-paths"]
    _, said = client.execute(image, ["/bin/try"], options)
    if _SIGN in said:
        return ""
    return said.splitlines()[-1] if said else "nothing was started, and nothing said why"


def _facts() -> Mapping[str, str]:
    """How images are mounted, and what else a helper may ask for."""
    fuse = os.access(_FUSE, os.R_OK | os.W_OK)
    path = apptainer.own_environment(os.environ)["PATH"]
    squashfuse = any(shutil.which(name, path=path) for name in ("squashfuse_ll", "squashfuse"))
    lacking = [*([] if fuse else ["/dev/fuse"]), *([] if squashfuse else ["squashfuse"])]
    mounts = f"no: {' and '.join(lacking)} missing, so every run unpacks its image first" if lacking else "by FUSE"
    return {"mounts": mounts, "subuids": _own_subuids() or "none, and none are needed"}


def _own_subuids() -> str:
    from reprobox.launch import user_name

    with open("/etc/subuid", encoding="utf-8") if os.path.exists("/etc/subuid") else open(os.devnull) as file:
        lines = [line.strip().split(":") for line in file]
    own = [fields for fields in lines if len(fields) == 3 and fields[0] in (user_name(), str(os.getuid()))]
    return ", ".join(f"{fields[2]} from {fields[1]}" for fields in own)
