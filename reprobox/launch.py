"""The launch record: what ``realize`` leaves so that ``run`` needs no manifest, no lock, no plugin and no TOML.

Only modules that start quickly are imported here, and others where they are needed: with a current record, this module
and the sandbox are all of reprobox that ``reprobox run`` loads.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would take as long to load as the record
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

FORMAT = 4
HOME = "/run/home"
#: What jobs need of the caller's environment: schedulers, MPI, accelerators, threads, and the terminal.
KEPT_PREFIXES = (
    "OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "MPI_LOCAL", "SLURM_", "UCX_", "FI_", "I_MPI_", "MV2_", "SGE_", "PBS_",
    "LSB_", "OMP_",
)  # fmt: skip
KEPT_NAMES = frozenset(
    ("JOB_ID", "NSLOTS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TERM", "COLORTERM")
)
_HOST_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
_LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_LONGEST = 200  # bytes of a file name, with room for an ending
RETIRED = ".old"  # the ending of a record that was replaced, and may be in use
_OUT_OF_THE_WAY = 100
_CLOCK = 0.02  # seconds: file systems keep time in ticks
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def store_root() -> str:
    """The store that this user has unless the configuration says otherwise; none for a path that is refused."""
    given = os.environ.get("REPROBOX_STORE")
    if given:
        return os.path.expanduser(given) if given.startswith(("/", "~/")) else os.devnull
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "reprobox")


SANDBOX = "sandbox"  # the backend of those who chose no other


def default_backend() -> str:
    """The backend of commands that are given none: what ``$REPROBOX_BACKEND``, else this user's settings say."""
    return os.environ.get("REPROBOX_BACKEND") or _said("backend") or SANDBOX


def default_builder() -> str:
    """The backend that runs build steps, in the same way."""
    return os.environ.get("REPROBOX_BUILDER") or _said("builder") or SANDBOX


def _said(name: str) -> str:
    """A word of the settings, if they are settings; mistakes are told where all of them are read."""
    place = os.environ.get("REPROBOX_CONFIG")
    if not place:
        folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
        place = os.path.join(folder, "reprobox", "config.toml")
    try:
        with open(place, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return ""
    if name.encode() not in data:  # nearly always; reading TOML takes its time
        return ""
    import tomllib

    try:
        said = tomllib.loads(data.decode()).get(name)
    except (ValueError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def record_path(store: str, project: str, target: str, backend: str) -> str:
    """Where the record of a project's target is; ``target`` is empty for the only one."""
    parts = (os.path.realpath(project), target, backend)
    name = "@".join(part.replace("%", "%25").replace("/", "%2F").replace("@", "%40") for part in parts)
    if len(os.fsencode(name)) > _LONGEST:
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(store, "realizations", f"{name}.json")


def lock_path(manifest: str) -> str:
    return os.path.join(os.path.dirname(manifest), "research.lock")


def signature(paths: Iterable[str]) -> list[list[Any]]:
    """What changes when one of ``paths``, or a file below them, does: name, size, times (ns), mode and inode of each.

    Nothing is read: a lock may be megabytes.
    """
    found: list[list[Any]] = []
    for path in paths:
        names = [path]
        if os.path.isdir(path) and not os.path.islink(path):
            for folder, folders, files in os.walk(path):
                folders.sort()
                names += [os.path.join(folder, name) for name in (*folders, *sorted(files))]
        for name in names:
            try:
                status = os.lstat(name)
            except OSError:
                continue
            times = (status.st_mtime_ns, status.st_ctime_ns)
            found.append([name, status.st_size, *times, status.st_mode, status.st_ino])
    return found


def changed_since(found: Sequence[Sequence[Any]], seconds: float) -> bool:
    """Whether a file of a signature changed after a time (unix seconds): who read it then may have read the old one."""
    return any(max(mtime, ctime) >= (seconds - _CLOCK) * 1e9 for _, _, mtime, ctime, _, _ in found)


def hold(path: str) -> int:
    """Open a record, or a layer's, so that gc sees what it stands for in use while the descriptor, or a copy, is open.

    -1 if it is not there, or is being taken away.
    """
    import fcntl

    try:
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        gone = not os.path.samestat(os.stat(path), os.fstat(held))
    except (BlockingIOError, FileNotFoundError):
        gone = True
    except OSError:  # a file system without locks
        gone = False
    if gone:
        os.close(held)
        return -1
    return held


def hold_layers(record: Mapping[str, Any], store: str) -> list[int] | None:
    """Hold the layers of a record that are in shared stores; None if one is gone."""
    own = os.path.join(store, "")
    held = []
    for tree in record["trees"]:
        if not tree.startswith(own):
            held.append(hold(os.path.join(os.path.dirname(tree), "layer.json")))
            if held[-1] < 0:
                return None
    return held


def hand_on(held: Iterable[int]) -> None:
    """Let the command that this process becomes hold them too, out of the way of its own descriptors."""
    import fcntl

    for descriptor in held:
        try:
            fcntl.fcntl(descriptor, fcntl.F_DUPFD, _OUT_OF_THE_WAY)
        except OSError:  # fewer are allowed
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keyword


def read(path: str | int) -> dict[str, Any] | None:
    """The record, or None where there is none that this version can use; a descriptor is left open."""
    try:
        with open(path, "rb", closefd=isinstance(path, str)) as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def is_current(record: Mapping[str, Any], manifest: str) -> bool:
    """Whether the record is of the manifest, the lock and the local files as they are now, and its layers are here."""
    files = [manifest, lock_path(manifest), *record["watched"]]
    return bool(record["files"] == signature(files) and record["built"] == built(record["trees"]))


def built(trees: Iterable[str]) -> list[list[int]]:
    """What tells a layer's tree from another one that was built in its place: the seal may not hold for that one."""
    found = []
    for tree in trees:
        try:
            status = os.stat(tree)
        except OSError:
            found.append([0, 0])  # as no tree is
        else:
            found.append([status.st_ino, status.st_ctime_ns])
    return found


# -- the machine -------------------------------------------------------------------------------------------------------

#: How long a machine that was found to do is taken at its word, in seconds.
HOLDS = 600
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TOLD_BY = ("/proc/sys/kernel/random/boot_id", "/proc/self/cgroup", "/proc/driver/nvidia/version")
_NAMES = ("PATH", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "SLURM_JOB_ID")


def suits(record: Mapping[str, Any], store: str, places: Iterable[str]) -> bool:
    """Whether this machine has what the record's target requires, as far as that is known without looking at it.

    Free space at ``places`` is looked at each time; the rest was checked at most :data:`HOLDS` seconds ago, in the same
    boot, job and PATH, under the same limits. False says that somebody must look.
    """
    machine = os.uname().machine
    if record.get("platform", "") not in ("", f"linux/{_ARCHITECTURES.get(machine, machine)}"):
        return False
    requires = record.get("requires")
    if not requires:
        return True
    if record["disk"] and any(free(place) < record["disk"] for place in places):
        return False
    if not requires.keys() - {"disk"}:
        return True
    return known(store).get(json.dumps(requires)) is not None


def known(store: str) -> dict[str, Any]:
    """What this machine, as it is now, was found to do: requirements as JSON -> when that was (unix seconds)."""
    import time

    try:
        state = machine_state()
        with open(verdicts_path(store, state), "rb") as file:
            found = json.load(file)
        if found["machine"] != state:
            return {}
        now = time.time()
        return {asked: when for asked, when in found["does"].items() if 0 <= now - when < HOLDS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def verdicts_path(store: str, state: Sequence[str]) -> str:
    """A file for each state of each machine: ranks of a job that see a GPU each do not take turns in one."""
    import zlib

    return os.path.join(store, "memo", "hosts", f"{zlib.crc32(chr(0).join(state).encode(errors='replace')):08x}.json")


def machine_state() -> list[str]:
    """What is another after a boot, in another job, under another limit or driver, and with other programs on PATH."""
    state = [os.uname().nodename, *(f"{name}={os.environ.get(name, '')}" for name in _NAMES)]
    for path in _TOLD_BY:
        try:
            with open(path) as file:
                # Slurm gives each rank a cgroup of its own, below the one that has the limits.
                state.append("".join(line.partition("/task_")[0] for line in file))
        except OSError:
            state.append("")
    return state


def free(path: str) -> int:
    """Bytes that this user may still write at ``path``, or at the folder above where it is not there yet."""
    place = os.path.abspath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def outputs(mounts: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> list[str]:
    """Where a run writes: the sources of its writable mounts, or of the code where there is no other."""
    writable = [mount["source"] for mount in mounts if mount["writable"] and mount["source"]]
    code = record["code"]["source"] if record["code"] else None
    return [source for source in writable if source != code] or writable


# -- a run -------------------------------------------------------------------------------------------------------------


def command_line(record: Mapping[str, Any], given: Sequence[str] | None) -> list[str]:
    """The program and arguments of a run: the entry point, then what is given or else the command; None is a shell."""
    if given is None:
        return list(record["shell"])
    return [*record["entrypoint"], *(given or record["command"])]


def environment(declared: Mapping[str, str], host: Mapping[str, str]) -> dict[str, str]:
    """What a command sees: what the image and the manifest declare, and the short list that jobs need of the host."""
    kept = {name: value for name, value in host.items() if name in KEPT_NAMES or name.startswith(KEPT_PREFIXES)}
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
    """The mounts of a run, outer ones first: ``{"source", "target", "writable"}``, ``source`` None where none is known.

    The code, then what the manifest declares; ``given`` (target -> host path) names other sources, and targets that the
    manifest does not know: those are read-only.
    """
    given = {os.path.normpath(target): os.path.abspath(source) for target, source in given.items()}
    found = {}
    if record["code"]:
        found[record["code"]["target"]] = (record["code"]["source"], record["code"].get("writable", True))
    for target, mount in record["mounts"].items():
        found[target] = (mount["source"], mount["mode"] == "rw")
    for target, source in given.items():
        found[target] = (source, found[target][1] if target in found else False)
    return [
        {"source": source, "target": target, "writable": writable}
        for target, (source, writable) in sorted(found.items(), key=lambda item: item[0].count("/"))
    ]


def ready(mounts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every source is there."""
    return all(mount["source"] is not None and os.path.exists(mount["source"]) for mount in mounts)


def prepare(mounts: Sequence[Mapping[str, Any]], declared: Mapping[str, Any]) -> None:
    """Make the output folders that version control did not keep; ``declared`` are the record's mounts.

    Raises :class:`ReproboxError` for a source that is missing, :class:`UsageError` for a mount that has none.
    """
    from reprobox.errors import ReproboxError, UsageError

    for mount in mounts:
        source, target = mount["source"], mount["target"]
        if source is None:
            raise UsageError(
                f"nothing is given for the mount {target}",
                where=f'mounts."{target}"',
                hint=f"add --mount {target}=PATH, or a `source` in the manifest",
            )
        if os.path.exists(source):
            continue
        if mount["writable"] and source == declared.get(target, {}).get("source") and not os.path.lexists(source):
            try:
                os.mkdir(source)
                continue
            except OSError:
                pass
        raise ReproboxError(
            f"the source of the mount {target} does not exist: {source}",
            where=f'mounts."{target}"',
            hint=f"put the data there, or give another folder: --mount {target}=PATH",
        )


def with_account(text: str, number: int, line: str) -> str:
    """The text of a passwd or group file with one account's line in place of those of its number or name."""
    name = line.partition(":")[0]
    old = [entry for entry in text.splitlines() if entry.split(":")[2:3] != [str(number)]]
    return "\n".join([*(entry for entry in old if entry.partition(":")[0] != name), line, ""])


def account_lines(name: str, uid: int, gid: int) -> dict[str, tuple[int, str]]:
    """What the caller's account adds to the environment's: path -> (number, line)."""
    return {
        "/etc/passwd": (uid, f"{name}:x:{uid}:{gid}:{name}:{HOME}:/bin/sh"),
        "/etc/group": (gid, f"{name}:x:{gid}:"),
    }


def host_files(*, network: bool) -> dict[str, str]:
    """Files of the machine that say how its network is used: path -> text; with ``network`` off, this machine alone."""
    if not network:
        return {"/etc/hosts": _LOCAL}
    files = {}
    for path in _HOST_FILES:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                files[path] = file.read()
        except OSError:
            continue
    return files
