"""A step or a tool in a container: its parents as an image, no network, the filter, one command after another.

The container's own process only waits; commands are started beside it, so that none of them is process 1, and nothing
of the engine's gets into their environment. What they changed is read from the container's export once all of them are
dead.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from reprobox.backend import Bind, BuildRequest, BuildResult, ToolRequest, ToolResult
from reprobox.digest import read_index, write_index
from reprobox.errors import BackendError
from reprobox.image import LAYER_TYPE, Descriptor, Image, Layer, layer_digest, write_layer
from reprobox.normalise import Changes, normalise
from reprobox.pieces import written
from reprobox.redact import redacted
from reprobox.sandbox.children import failure, resolver
from reprobox.sandbox.process_one import HOST_NAME, HOSTS, POLICY, POLICY_AT, SECRETS
from reprobox.staging import staging_folder
from reprobox.tree import Tree, remove, scan
from reprobox_docker import seccomp
from reprobox_docker.difference import Difference, made_for
from reprobox_docker.engine import ENV, Engine
from reprobox_docker.images import ParentStacks, empty_image, load
from reprobox_docker.mounts import mounts

_STDIN = "/run/.reprobox-stdin"
_EMPTY = "reprobox/empty:1"
_MEMORY = "/dev/shm"  # noqa: S108 - a file system that is never on a disk
#: What the waiting process does: nothing, until its terminal is gone.
WAIT = ("-c", "read -r _")
_JOINED = 'exec 2>&1; umask 022; cd "$1" || exit 126; shift; exec "$@"'
_APART = f'exec <{_STDIN}; umask 022; cd "$1" || exit 126; shift; exec "$@"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a step starts from: an image of the engine, what that shows, and perhaps a tree to be put into it."""

    image: str
    tree: Tree
    seed: Path | None = None


# -- asking ------------------------------------------------------------------------------------------------------------


def build(engine: Engine, stacks: ParentStacks, scratch: Path, request: BuildRequest) -> BuildResult:
    """Carry out a step. Raises :class:`BuildError` with its last lines."""
    started = time.time()
    start = _start(engine, stacks, scratch, request)
    with staging_folder(scratch) as stage, _secret_files(request.secrets) as secrets:
        files = machine_files(stage, start.tree, network=request.network, podman=engine.is_podman)
        binds = (*request.binds, *files, *secrets)
        with container(engine, start, stage, binds, network=request.network) as name:
            for bind in secrets:  # mounted: the container has them now, and nobody else
                bind.source.unlink()
            status = _commands(engine, name, start.tree, request)
            if status:
                raise failure(request, status)
            return _taken(engine, name, start, binds, request, stage, started)


def tool(engine: Engine, stacks: ParentStacks, scratch: Path, request: ToolRequest) -> ToolResult:
    """Run a program for its output."""
    tree = Tree.load(*(parent.parent / "index" for parent in request.parents))
    epoch = int(request.parents[-1].stat().st_mtime)
    start = Start(image=stacks.image(engine, request.parents, epoch), tree=tree)
    with staging_folder(scratch) as stage:
        (stage / "stdin").write_bytes(request.stdin)
        binds = (*request.binds, *machine_files(stage, tree, network=False, podman=engine.is_podman))
        binds = (*binds, Bind(source=stage / "stdin", target=_STDIN))
        with container(engine, start, stage, binds, network=False) as name:
            argv = wrapped(tree, _APART, "/", request.environment, request.argv)
            out: dict[int, list[bytes]] = {1: [], 2: []}
            status = execute(engine, name, argv, lambda stream, data: out[stream].append(data))
    return ToolResult(status=status, stdout=b"".join(out[1]), stderr=b"".join(out[2]))


def _start(engine: Engine, stacks: ParentStacks, scratch: Path, request: BuildRequest) -> Start:
    if request.seed is None:
        tree = Tree.merged([read_index(request.parent_index.read_bytes())])
        return Start(image=stacks.image(engine, request.parents, request.epoch), tree=tree)
    return Start(image=empty(engine, scratch), tree=Tree.merged([scan(request.seed)]), seed=request.seed)


def empty(engine: Engine, scratch: Path) -> str:
    """An image with nothing in it, for a step that starts from a seed."""
    if not engine.has_image(_EMPTY):
        with staging_folder(scratch) as stage:
            (stage / "tree").mkdir()
            (stage / "index").write_bytes(b"")
            diff_id, size = layer_digest(stage / "tree", stage / "index", 0)
            descriptor = Descriptor(media_type=LAYER_TYPE, digest=diff_id, size=size)
            layer = Layer(descriptor=descriptor, diff_id=diff_id, tree=stage / "tree", index=stage / "index")
            image: Image = empty_image(engine)
            load(engine, Image(settings=image.settings, layers=(layer,), epoch=0), _EMPTY)
    return _EMPTY


# -- the container -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def container(engine: Engine, start: Start, stage: Path, binds: Sequence[Bind], *, network: bool) -> Iterator[str]:
    """A container that waits for commands, with everything in its place."""
    if "sh" not in _programs(start.tree):
        raise BackendError(
            f"{engine.name} runs steps with the environment's /bin/sh, and this environment has none",
            hint="build with --builder sandbox, and run it with any backend",
        )
    config = step_config(engine, start.image, stage, binds, network=network)
    with engine.container(config) as name:
        with engine.errors("a step cannot be set up"):
            if start.seed is not None:
                _plant(engine, name, start.seed, stage)
            if not network and not engine.is_podman:
                _put_files(engine, name, start.tree, stage)
            engine.api.start(name)
        yield name


def step_config(engine: Engine, image: str, stage: Path, binds: Sequence[Bind], *, network: bool) -> dict[str, Any]:
    """A container of a step, in the words of the engine's API."""
    host: dict[str, Any] = {
        "NetworkMode": "host" if network else "none",
        "SecurityOpt": ["no-new-privileges", f"seccomp={_profile(engine, stage)}"],
        "Tmpfs": {"/run": "rw,exec,nosuid,nodev,mode=755", "/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # noqa: S108
        "Ulimits": engine.limits(),
        "ShmSize": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2,
        "Mounts": mounts(engine, stage, binds),
        "LogConfig": {"Type": "none", "Config": {}},
    }
    if engine.remapped:
        host["UsernsMode"] = "host"
    return {
        "Image": image,
        "Entrypoint": ["/bin/sh"],
        "Cmd": list(WAIT),
        "User": "0:0",
        "Tty": True,
        "OpenStdin": True,
        "WorkingDir": "/",
        "Hostname": HOST_NAME,
        "NetworkDisabled": not network,
        "HostConfig": host,
    }


def _profile(engine: Engine, stage: Path) -> str:
    """The filter as the engine takes it: Docker's API its text, Podman's the path of a file."""
    if not engine.is_podman:
        return seccomp.profile()
    path = stage / "seccomp.json"
    path.write_text(seccomp.profile())
    return str(path)


def machine_files(stage: Path, tree: Tree, *, network: bool, podman: bool) -> tuple[Bind, ...]:
    """What a step finds in place of the machine's own files, mounted where the engine would mount others.

    Docker mounts no hosts and resolv.conf where networking is disabled: there they are plain files that packages may
    replace, as in the sandbox.
    """
    texts = {"/etc/hostname": f"{HOST_NAME}\n"}
    if network or podman:
        texts |= {"/etc/hosts": HOSTS, "/etc/resolv.conf": resolver() if network else ""}
    if (found := tree.get(tree.resolve(b"usr/sbin", final=True))) is not None and found.kind == "d":
        texts[POLICY_AT] = POLICY
    binds = []
    for path, text in texts.items():
        source = stage / path.rpartition("/")[2]
        source.write_text(text, errors="surrogateescape")
        source.chmod(0o755 if path == POLICY_AT else 0o644)
        binds.append(Bind(source=source, target=path, writable=path != POLICY_AT))
    return tuple(binds)


def _put_files(engine: Engine, name: str, tree: Tree, stage: Path) -> None:
    place = stage / "files"
    (place / "etc").mkdir(parents=True)
    place.chmod(0o755)
    known = tree.get(b"etc")
    (place / "etc").chmod(known.mode if known is not None and known.kind == "d" else 0o755)
    (place / "etc/hosts").write_text(HOSTS)
    (place / "etc/resolv.conf").write_text("")
    _plant(engine, name, place, stage)


def _plant(engine: Engine, name: str, folder: Path, stage: Path) -> None:
    """Have the container, which has not started, hold everything of a folder."""
    index = stage / "planted"
    index.write_bytes(write_index(scan(folder)))
    with written(lambda sink: write_layer(folder, index, 0, sink)) as archive:
        engine.api.put_archive(name, "/", archive)


@contextlib.contextmanager
def _secret_files(secrets: Mapping[str, bytes]) -> Iterator[tuple[Bind, ...]]:
    """Each secret as a file in memory, to be mounted; they are unlinked as soon as the container has them."""
    if not secrets:
        yield ()
        return
    if not os.path.ismount(_MEMORY):
        raise BackendError(
            f"secrets are handed over in memory, and {_MEMORY} is not a file system in memory here",
            hint="build with --builder sandbox",
        )
    with staging_folder(Path(_MEMORY)) as place:
        place.chmod(0o700)
        binds = []
        for name, value in secrets.items():
            descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(value)
            binds.append(Bind(source=place / name, target=f"{SECRETS}/{name}"))
        yield tuple(binds)


# -- commands ----------------------------------------------------------------------------------------------------------


def wrapped(
    tree: Tree, script: str, workdir: str, environment: Mapping[str, str], argv: Sequence[str]
) -> tuple[str, ...]:
    """A command with exactly this environment: engines add HOME and others, which `env -i` takes away again."""
    found = _programs(tree)
    if "env" in found:
        clean = (found["env"], "-i", *(f"{name}={value}" for name, value in environment.items()))
        return ("/bin/sh", "-c", script, "sh", workdir, *clean, *argv)
    given = "".join(f"export {name}; " for name in environment)
    forget = f"for n in HOME HOSTNAME PATH TERM container; do unset $n; done; {given}"
    assigned = "".join(f"{name}={_quoted(value)}; " for name, value in environment.items())
    return ("/bin/sh", "-c", forget + assigned + script, "sh", workdir, *argv)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _programs(tree: Tree) -> dict[str, str]:
    """Where the environment has a shell and ``env``."""
    found: dict[str, str] = {}
    for name, paths in {"sh": ("/bin/sh",), "env": ENV}.items():
        for path in paths:
            entry = tree.get(tree.resolve(path.strip("/").encode(), final=True))
            if entry is not None and entry.kind == "f":
                found.setdefault(name, path)
    return found


def execute(engine: Engine, name: str, argv: Sequence[str], take: Callable[[int, bytes], object]) -> int:
    """Run a command beside the waiting process; ``take`` gets its output. Returns its exit status."""
    with engine.errors("a command cannot be started"):
        made = engine.api.exec_create(name, list(argv), user="0:0", workdir="/")
        stream = engine.stream(f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
        try:
            for number, data in stream.frames():
                take(number, data)
        finally:
            stream.close()
        return status_of(engine, str(made["Id"]))


def status_of(engine: Engine, command: str, *, patient: bool = False) -> int:
    """A command's exit status; engines know it a moment after its streams have ended."""
    end = time.monotonic() + 10
    while True:
        try:
            found = engine.api.exec_inspect(command)
        except (NotFound, APIError, RequestException):
            return 137  # the container went, and took it along
        if not found.get("Running") and found.get("ExitCode") is not None:
            return int(found["ExitCode"])
        if not patient and time.monotonic() > end:
            return 137
        time.sleep(0.01 if not patient else 0.05)


def _commands(engine: Engine, name: str, tree: Tree, request: BuildRequest) -> int:
    request.log.write_bytes(b"")
    with request.log.open("ab") as log, redacted(log, request.secrets) as out:
        for command in request.commands:
            argv = wrapped(tree, _JOINED, request.workdir, request.environment, command)
            status = execute(engine, name, argv, lambda _, data: _write(out, data))
            if status:
                return status
    return 0


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# -- the layer ---------------------------------------------------------------------------------------------------------


def _taken(
    engine: Engine,
    name: str,
    start: Start,
    binds: Sequence[Bind],
    request: BuildRequest,
    stage: Path,
    started: float,
) -> BuildResult:
    with engine.errors("a step cannot be ended"):
        engine.api.kill(name)  # and with it whatever the commands left running
    parents = start.tree if start.seed is None else Tree()
    changes = stage / "changes"
    changes.mkdir(mode=0o755)
    made = made_for([bind.target for bind in binds], start.tree)
    difference = Difference(changes, parents, made, lambda path: engine.read(name, "/" + os.fsdecode(path)))
    try:
        with engine.errors("what the step changed cannot be read"):
            difference.fill(engine.api.export(name))
        what = Changes(
            root=changes,
            epoch=request.epoch,
            started=started,
            deleted=difference.deleted,
            installing=request.installing,
        )
        dropped = normalise(what, parents, request.output)
    finally:
        remove(changes)
    diff_id, size = layer_digest(request.output / "tree", request.output / "index", request.epoch)
    return BuildResult(diff_id=diff_id, size=size, dropped=dropped)
