"""``reprobox run`` in a container: the caller's own id, a read-only root, and what else every backend gives a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from reprobox.backend import Bind, Limits, RunRequest
from reprobox.errors import BackendError, UsageError
from reprobox.launch import HOME, account_lines, user_name, with_account
from reprobox.sandbox.allotted import NO_GPU, shows_gpu
from reprobox.staging import staging_folder
from reprobox_docker import terminal
from reprobox_docker.engine import ENV, Engine, translated
from reprobox_docker.mounts import mounts

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
#: What the engine would otherwise put into the environment.
_ENGINES_OWN = ("PATH", "HOME", "HOSTNAME", "TERM", "container")
_SHARED = "/dev/shm"  # noqa: S108 - the machine's, for all ranks of a job
_PRIVATE = "rw,exec,nosuid,nodev"
_MISSING = ("executable file not found", "no such file or directory", "system cannot find")
_UNUSABLE = ("permission denied", "is a directory", "exec format error", "not a directory")
_GPUS_HINT = (
    "install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker` and restart the"
    " engine; or run with --backend sandbox, which shows the machine's devices as they are"
)


def run(engine: Engine, scratch: Path, request: RunRequest) -> int:
    """Run a command with the caller's streams; returns its exit status."""
    image = request.realization.location
    found = engine.inspect_image(image)
    if found is None:
        raise BackendError(
            f"{engine.name} has no image {image} any more", hint="`reprobox realize --backend docker` makes it again"
        )
    _check(engine, request)
    caller = _caller(engine)
    with staging_folder(scratch) as stage:
        accounts = [stage / "passwd", stage / "group"]
        for path in accounts:
            path.touch(0o644)
        config = _config(engine, request, found, accounts, caller)
        if engine.is_podman:
            config |= _cleaned(engine, request)
        with engine.container(config) as name:
            _write_accounts(engine, name, accounts, caller)
            return _connected(engine, name, request)


def _check(engine: Engine, request: RunRequest) -> None:
    """Whether the engine can do what is asked for. Raises :class:`BackendError`: it is never run without."""
    limits = request.limits
    for wanted, can, what in (
        (limits.memory, engine.info.get("MemoryLimit"), "memory"),
        (limits.cpus, engine.info.get("CpuCfsQuota"), "processors"),
    ):
        if wanted and not (can and engine.limits_are_kept):
            raise BackendError(
                f"{engine.name} cannot limit {what} here",
                hint="without root that takes cgroup v2 with its controllers delegated; or run without the limit",
            )
    if request.gpus not in ("", "none") and engine.is_podman:
        raise BackendError(
            "Podman's Docker-compatible socket takes no requests for GPUs",
            hint="run with --backend sandbox, which shows the machine's devices as they are, or with Docker",
        )
    for bind in request.binds:
        if not os.path.exists(bind.source):
            raise UsageError(f"the source of the mount {bind.target} does not exist: {bind.source}")


def _caller(engine: Engine) -> tuple[str, int, int]:
    """Name, uid and gid inside. A rootless Docker shows its user as root, and knows no other way."""
    if engine.rootless and not engine.is_podman:
        return user_name(), 0, 0
    return user_name(), os.getuid(), os.getgid()


def _config(
    engine: Engine, request: RunRequest, image: dict[str, Any], accounts: Sequence[Path], caller: tuple[str, int, int]
) -> dict[str, Any]:
    _, uid, gid = caller
    at_terminal = terminal.at_a_terminal()
    files = [Bind(source=accounts[0], target="/etc/passwd"), Bind(source=accounts[1], target="/etc/group")]
    if not request.isolate and not _shares_ipc(engine):
        files.append(Bind(source=Path(_SHARED), target=_SHARED, writable=True))
    own = "mode=1777" if engine.is_podman else f"mode=0700,uid={uid},gid={gid}"  # Podman's tmpfs has no owner
    host: dict[str, Any] = {
        "ReadonlyRootfs": True,
        "NetworkMode": "host" if request.network else "none",
        "PidMode": "" if request.isolate else "host",
        "IpcMode": "private" if request.isolate or not _shares_ipc(engine) else "host",
        "UTSMode": "host" if request.network else "",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
        "Tmpfs": {
            **dict.fromkeys(("/tmp", "/var/tmp"), f"{_PRIVATE},mode=1777"),  # noqa: S108 - in the container
            **dict.fromkeys((HOME, f"{HOME}/.cache"), f"{_PRIVATE},{own}"),
        },
        "Mounts": mounts(engine, accounts[0].parent, (*files, *request.binds)),
        "Ulimits": engine.limits()[1:],
        "Init": request.isolate and _has_init(engine),
        "LogConfig": {"Type": "none", "Config": {}},
        **_limits(engine, request.limits),
        **_identity(engine),
        **_gpus(request.gpus),
    }
    if at_terminal:
        host["ConsoleSize"] = list(os.get_terminal_size(1))[::-1]  # newer engines have it right from the start
    if request.isolate:
        host["ShmSize"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return {
        "Image": request.realization.location,
        "Entrypoint": [request.argv[0]],
        "Cmd": list(request.argv[1:]),
        "Env": _environment(request, image),
        "User": f"{uid}:{gid}",
        "WorkingDir": request.workdir,
        "Tty": at_terminal,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": host,
    }


def _cleaned(engine: Engine, request: RunRequest) -> dict[str, Any]:
    """The command with exactly its environment, where the engine leaves nothing out: by way of ``env -i``."""
    given = [f"{name}={value}" for name, value in request.environment.items()]
    with engine.container({"Image": request.realization.location, "Entrypoint": ["/none"]}) as name:
        path = next((path for path in ENV if engine.has_path(name, path)), None)
    if path is None:
        return {"Env": given}
    return {"Env": given, "Entrypoint": [path, "-i"], "Cmd": [*given, *request.argv]}


def _shares_ipc(engine: Engine) -> bool:
    """Whether the machine's ipc can be given. A rootless Podman mounts the machine's /dev/mqueue with it."""
    return not (engine.is_podman and engine.rootless) or os.path.isdir("/dev/mqueue")


def _has_init(engine: Engine) -> bool:
    return engine.is_podman or bool(engine.info.get("InitBinary"))


def _limits(engine: Engine, limits: Limits) -> dict[str, Any]:
    """Memory in bytes, swap included. Whole processors are named, so that programs count them; parts are time.

    More than there are is all there are.
    """
    found: dict[str, Any] = {}
    if limits.memory:
        found |= {"Memory": limits.memory, "MemorySwap": limits.memory}
    if limits.cpus and (engine.rootless or limits.cpus != int(limits.cpus)):
        found["NanoCpus"] = int(min(limits.cpus, engine.info.get("NCPU") or limits.cpus) * 1_000_000_000)
    elif limits.cpus:
        there = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(there)  # several runs do not crowd on the same ones
        found["CpusetCpus"] = ",".join(map(str, (there[first:] + there[:first])[: int(limits.cpus)]))
    return found


def _identity(engine: Engine) -> dict[str, Any]:
    if engine.is_podman and engine.rootless:
        return {"UsernsMode": "keep-id"}
    groups = {"GroupAdd": [str(group) for group in os.getgroups() if group != os.getgid()]}
    return {**groups, "UsernsMode": "host"} if engine.remapped else {} if engine.rootless else groups


def _gpus(wanted: str) -> dict[str, Any]:
    if wanted in ("", "none"):
        return {}
    which: dict[str, Any] = {"Count": -1} if wanted == "all" else {"DeviceIDs": wanted.split(",")}
    return {"DeviceRequests": [{"Driver": "", "Capabilities": [["gpu"]], **which}]}


def _environment(request: RunRequest, image: dict[str, Any]) -> list[str]:
    """Exactly what was asked for: a bare name has the engine leave out what it or the image would add."""
    declared = (image.get("Config") or {}).get("Env") or ()
    others = [*_ENGINES_OWN, *(str(item).partition("=")[0] for item in declared)]
    given = [f"{name}={value}" for name, value in request.environment.items()]
    return [*given, *(name for name in dict.fromkeys(others) if name not in request.environment)]


def _write_accounts(engine: Engine, name: str, files: Sequence[Path], caller: tuple[str, int, int]) -> None:
    """The environment's accounts, with the caller's among them."""
    for path, (place, (number, line)) in zip(files, account_lines(*caller).items(), strict=True):
        text = engine.read(name, place).decode(errors="surrogateescape")
        path.write_text(with_account(text, number, line), errors="surrogateescape")


def _connected(engine: Engine, name: str, request: RunRequest) -> int:
    try:
        stream = engine.stream(f"/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1")
    except BackendError as error:  # Podman starts it, all but the command itself, to have its streams
        return _not_started(error, request)
    try:
        return terminal.connect(
            stream,
            terminal=terminal.at_a_terminal(),
            send=lambda word: _quietly(engine.api.kill, name, word),
            resize=lambda lines, columns: _quietly(engine.api.resize, name, lines, columns),
            begin=lambda: engine.api.start(name),
            wait=lambda: int(engine.api.wait(name)["StatusCode"]),
        )
    except APIError as error:
        return _not_started(translated(error, "the command cannot be started"), request)
    except RequestException as error:
        raise translated(error, "the run was cut off") from None
    finally:
        stream.close()


def _quietly(call: Any, *arguments: Any) -> None:
    """Tell the engine something that is of no use any more if the container is gone."""
    try:
        call(*arguments)
    except (APIError, NotFound, RequestException):
        return


def _no_gpus(said: str) -> BackendError:
    if shows_gpu():
        return BackendError(f"the engine cannot give GPUs: {said}", hint=_GPUS_HINT)
    hint = f"`reprobox doctor` says what it has; where there is a GPU, {_GPUS_HINT}"
    return BackendError(f"{NO_GPU}; the engine says: {said}", where="--gpus", hint=hint)


def _not_started(error: BackendError, request: RunRequest) -> int:
    """End as a shell would where the command cannot be run. Raises :class:`BackendError` for anything else."""
    words, command = error.message, request.argv[0]
    if "could not select device driver" in words or "nvidia" in words.lower():
        raise _no_gpus(words.partition(": ")[2]) from None
    if "exec" in words and command in words:
        if any(word in words for word in _UNUSABLE):
            os.write(2, f"reprobox: cannot run {command}: Permission denied\n".encode())
            return _NOT_EXECUTABLE
        if any(word in words for word in _MISSING):
            os.write(2, f"reprobox: cannot run {command}: it is not in the environment\n".encode())
            return _NOT_FOUND
    raise error
