"""The launch record: what ``realize`` leaves so that ``run`` needs no manifest, no lock, no plugin and no TOML.

Only modules that start quickly are imported here: with a current record, this module and the sandbox's launcher are all of
reprobox that ``reprobox run`` loads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from reprobox.errors import ReproboxError, UsageError

FORMAT = 1
HOME = "/run/home"
#: What jobs need of the caller's environment: schedulers, MPI, accelerators, threads, and the terminal.
KEPT_PREFIXES = (
    "OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "MPI_LOCAL", "SLURM_", "UCX_", "FI_", "I_MPI_", "MV2_", "SGE_", "PBS_",
    "LSB_", "OMP_",
)  # fmt: skip
KEPT_NAMES = frozenset(
    ("JOB_ID", "NSLOTS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TERM", "COLORTERM")
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def store_root() -> str:
    """The store that this user has unless the configuration says otherwise."""
    given = os.environ.get("REPROBOX_STORE")
    if given:
        return os.path.abspath(given)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "reprobox")


def record_path(store: str, project: str, target: str, backend: str) -> str:
    """Where the record of a project's target is; ``target`` is empty for the only one."""
    key = hashlib.sha256("\0".join((os.path.realpath(project), target, backend)).encode()).hexdigest()
    return os.path.join(store, "realizations", f"{key}.json")


def fingerprint(project: str, manifest: str) -> str:
    """sha256 over the manifest's and the lock's bytes; empty where one is missing."""
    state = hashlib.sha256()
    try:
        for path in (manifest, os.path.join(project, "research.lock")):
            with open(path, "rb") as file:
                state.update(hashlib.sha256(file.read()).digest())
    except OSError:
        return ""
    return state.hexdigest()


def signature(paths: Sequence[str]) -> list[list[Any]]:
    """Size, time and inode of every file below ``paths``: changes when local files that layers are made of change."""
    found: list[list[Any]] = []
    for path in paths:
        names = [path]
        if os.path.isdir(path) and not os.path.islink(path):
            for folder, folders, files in os.walk(path):
                folders.sort()
                names += [os.path.join(folder, name) for name in sorted(files)]
        for name in names:
            try:
                status = os.lstat(name)
            except OSError:
                continue
            found.append([name, status.st_size, status.st_mtime_ns, status.st_mode, status.st_ino])
    return found


def read(path: str) -> dict[str, Any] | None:
    """The record, or None where there is none that this version can use."""
    try:
        with open(path, "rb") as file:
            record: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return None
    return record if record.get("format") == FORMAT else None


def is_current(record: Mapping[str, Any], project: str, manifest: str) -> bool:
    """Whether the record is of the manifest and the lock as they are now, and its layers are still here."""
    return (
        record["fingerprint"] == fingerprint(project, manifest)
        and record["watched"] == signature(record["watched_paths"])
        and all(os.path.isdir(tree) for tree in record["trees"])
    )


# -- a run -------------------------------------------------------------------------------------------------------------


def environment(declared: Mapping[str, str], host: Mapping[str, str]) -> dict[str, str]:
    """What a command sees: what the image and the manifest declare, and the short list that jobs need of the host."""
    kept = {
        name: value for name, value in host.items() if name in KEPT_NAMES or name.startswith(KEPT_PREFIXES)
    }
    user = user_name()
    return {"PATH": DEFAULT_PATH, "HOME": HOME, "USER": user, "LOGNAME": user, **kept, **declared}


def user_name() -> str:
    """The caller's login name; a name made of the uid where the machine knows none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user{os.getuid()}"


def binds(record: Mapping[str, Any], given: Mapping[str, str]) -> list[dict[str, Any]]:
    """The mounts of a run as ``{"source", "target", "writable"}``: the code and the declared, with other sources ``given``.

    Raises :class:`ReproboxError` for a source that is missing, :class:`UsageError` for a mount that has none.
    """
    found = []
    if record["code"]:
        found.append({"source": record["code"]["source"], "target": record["code"]["target"], "writable": True})
    for target, mount in record["mounts"].items():
        source = os.path.abspath(given[target]) if target in given else mount["source"]
        if source is None:
            raise UsageError(
                f"nothing is given for the mount {target}",
                where=f'mounts."{target}"',
                hint=f"add --mount {target}=PATH, or a `source` in the manifest",
            )
        writable = mount["mode"] == "rw"
        _check_source(source, target, writable=writable)
        found.append({"source": source, "target": target, "writable": writable})
    for target in given.keys() - record["mounts"].keys():
        if not target.startswith("/"):
            raise UsageError(f"a mount needs an absolute path inside, not {target!r}", hint="--mount /dataset=PATH")
        source = os.path.abspath(given[target])
        _check_source(source, target, writable=False)
        found.append({"source": source, "target": target, "writable": True})
    return sorted(found, key=lambda bind: bind["target"].count("/"))


def _check_source(source: str, target: str, *, writable: bool) -> None:
    if os.path.exists(source):
        return
    if writable and os.path.isdir(os.path.dirname(source)):
        os.mkdir(source)  # an output folder that version control did not keep
        return
    raise ReproboxError(
        f"the source of the mount {target} does not exist: {source}",
        where=f'mounts."{target}"',
        hint=f"put the data there, or give another folder: --mount {target}=PATH",
    )
