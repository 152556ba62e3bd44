"""A step, a tool or an edit, in a child of reprobox: own namespaces, Apptainer on a writable copy, the packed changes.

The child enters a user namespace with one id, shown as 0; its own child is process 1 of the rest, starts Apptainer for
one command after another, and takes with it whatever the commands left running. Apptainer makes the root that a command
sees, from a plain copy of the parents (``--overlay`` and ``--writable-tmpfs`` are mounted without ``userxattr``: dpkg
fails on them) and from folders that are prepared here. Its configuration is our own, so that no site's adds anything.

What runs is the program of :mod:`reprobox_singularity.program`, which puts the filter on after Apptainer is done: under
it, Apptainer would fail.

Standard library only: it runs in a bare interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reprobox.sandbox import kernel
from reprobox_singularity.apptainer import executing, mount
from reprobox_singularity.program import Command, program

HOST_NAME = "reprobox"
HOSTS = "127.0.0.1 localhost reprobox\n::1 localhost ip6-localhost ip6-loopback\n"
_POLICY = "#!/bin/sh\nexit 101\n"
_POLICY_AT = "/usr/sbin/policy-rc.d"
_SECRETS = "/run/secrets"
_AT_A_TERMINAL = ("look", "edit")  # ways in which the caller's terminal is the command's
_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp")
_OWN = ("dev", "run", "tmp")  # folders that are of this step alone, and never in the copy
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
#: Apptainer adds nothing by itself: steps see the same on every machine.
_CONFIGURATION = """\
config passwd = no
config group = no
config resolv_conf = no
mount proc = yes
mount sys = yes
mount dev = no
mount devpts = no
mount home = no
mount tmp = no
mount hostfs = no
enable overlay = no
enable underlay = no
user bind control = yes
"""


def carry_out(request: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a request: ``{"status"}``, with ``diff_id``, ``size`` and ``dropped`` of a build that went well.

    A status above 128 is a signal's, as shells have it. ``{"problem"}`` if Apptainer could not be got to.
    """
    started = time.time()
    flags = kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS
    if problem := become_user_0(request, flags if request["network"] is not None else flags | kernel.NEWNET):
        return {"problem": problem}
    _merge(request)
    if request["mode"] in _AT_A_TERMINAL:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = _in_process_one(request)
    made = answer.pop("made", [])
    if request["mode"] in ("build", "edit"):
        _unmake(request["root"], made)
    if request["mode"] == "build" and answer.get("status") == 0:
        answer |= _packed(request, request["root"], started)
    return answer


def pack(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed in the whole tree at ``root``, as a layer; it is copied, and stays as it is."""
    from reprobox.tree import copy_changes

    if problem := become_user_0(request, 0):
        return {"problem": problem}
    copy_changes(request["root"], request["copy"])
    return _packed({**request, "installing": True}, request["copy"], float(request["epoch"]))


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ``layers`` into the empty folder ``root``, as the user who can read what its modes hide."""
    if problem := become_user_0(request, 0):
        return {"problem": problem}
    _merge(request)
    return {}


def become_user_0(request: Mapping[str, Any], flags: int) -> str:
    """Enter a user namespace, and others; returns what stopped it, if something did."""
    outside = (os.getuid(), os.getgid())
    try:
        kernel.unshare(kernel.NEWUSER | flags)
        kernel.map_one_id((0, 0), outside)
        kernel.die_with_parent()
    except OSError as error:
        return error.strerror or str(error)
    os.umask(0o022)
    return "" if os.getppid() == request["parent"] else "the process that asked for it is gone"


def _merge(request: Mapping[str, Any]) -> None:
    from reprobox.tree import merge_into

    if request["layers"]:
        merge_into(Path(request["root"]), [(Path(tree), Path(index)) for tree, index in request["layers"]])


def _in_process_one(request: Mapping[str, Any]) -> dict[str, Any]:
    report, reporter = os.pipe()
    alive, living = os.pipe()  # the second end closes when this process ends, however it ends
    child = os.fork()
    if child == 0:
        os.close(living)
        _process_one(request, reporter, alive)
    os.close(reporter)
    os.close(alive)
    with os.fdopen(report, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    answer: dict[str, Any] = json.loads(told) if told else {"problem": "its first process ended; the log may say why"}
    os.close(living)
    return answer if "problem" in answer else answer | {"status": _shell_status(status)}


def _shell_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _process_one(request: Mapping[str, Any], reporter: int, alive: int) -> NoReturn:
    """Makes what the root is made of, tells what it made in it, runs the commands, and takes stragglers with it."""
    status = 1
    try:
        kernel.die_with_parent()
        _end_if_orphaned(alive)
        step = Step(request)
        os.write(reporter, json.dumps({"made": step.made}).encode())
        os.close(reporter)
        status = 0
        for command in request["commands"]:
            status = _run(step, command)
            if status:
                break
    except OSError as error:
        reason = error.strerror or str(error)
        os.write(2, f"reprobox: {reason}\n".encode())
        with contextlib.suppress(OSError):  # closed, if it was prepared
            os.write(reporter, json.dumps({"problem": reason}).encode())
    except BaseException:  # noqa: BLE001 - a bug in here: the process must not return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        os._exit(status)


def _end_if_orphaned(alive: int) -> None:
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
    except BlockingIOError:
        return
    os._exit(1)


class Step:
    """Everything that Apptainer is given for the commands of one request. ``made`` are paths added to the copy."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        self.made: list[str] = []
        self.options = ["--writable"]
        self._root = request["root"]
        self._stage = request["stage"]
        secrets = _secrets(request)
        self._enter()
        self._folders()
        self._files()
        for bind in request["binds"]:
            self._bind(bind["source"], bind["target"], writable=bind["writable"])
        if secrets:
            _show_secrets(self._stage + _SECRETS, secrets)
        for name in _OWN:
            self.options += mount(f"{self._stage}/{name}", f"/{name}", writable=True)

    def argv(self, descriptor: int) -> list[str]:
        """Apptainer's command line, for the program in ``descriptor``."""
        start = executing(self.request["engine"], self.options, self._root, descriptor)
        return [start[0], "--config", f"{self._stage}/apptainer.conf", *start[1:]]

    def _enter(self) -> None:
        kernel.unshare(kernel.NEWNS)
        kernel.private_mounts()
        kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
        if self.request["network"] is None:
            kernel.loopback_up()
        kernel.host_name(HOST_NAME)

    def _folders(self) -> None:
        for name in _FOLDERS:
            path = f"{self._root}/{name}"
            if not os.path.lexists(path):
                os.mkdir(path, 0o755)
                self.made.append(f"/{name}")
            elif os.path.islink(path) or not os.path.isdir(path):
                raise OSError(errno.ENOTDIR, f"/{name} of the environment is not a folder")
        kernel.mount("tmpfs", self._stage, "tmpfs", kernel.NOSUID, "mode=0755")
        for name in _OWN:
            os.mkdir(f"{self._stage}/{name}", 0o755)
            options = "mode=1777" if name == "tmp" else "mode=0755"
            kernel.mount("tmpfs", f"{self._stage}/{name}", "tmpfs", kernel.NOSUID, options)
        self._devices(f"{self._stage}/dev")

    def _devices(self, place: str) -> None:
        for name in _DEVICES:
            Path(place, name).touch()
            kernel.mount(f"/dev/{name}", f"{place}/{name}", flags=kernel.BIND)
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, f"{place}/{name}")
        for name in ("pts", "shm"):
            os.mkdir(f"{place}/{name}", 0o755)
        options = "newinstance,ptmxmode=0666,mode=620"
        kernel.mount("devpts", f"{place}/pts", "devpts", kernel.NOSUID | kernel.NOEXEC, options)
        kernel.mount("tmpfs", f"{place}/shm", "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")

    def _files(self) -> None:
        """What a step finds on whatever machine it runs: names, no resolver, a policy by which no service starts.

        The files in /etc never enter a layer, and packages may replace them; the policy is mounted over a layer's path.
        """
        resolver = self.request["network"] or ""
        for name, text in (("hosts", HOSTS), ("hostname", f"{HOST_NAME}\n"), ("resolv.conf", resolver)):
            path = f"{self._root}/etc/{name}"
            if os.path.lexists(path):
                os.unlink(path)
            _write(path, text, 0o644)
            self.made.append(f"/etc/{name}")
        _write(f"{self._stage}/apptainer.conf", _CONFIGURATION, 0o644)
        if os.path.isdir(self._place(os.path.dirname(_POLICY_AT))):
            _write(f"{self._stage}/policy-rc.d", _POLICY, 0o755)
            self._bind(f"{self._stage}/policy-rc.d", _POLICY_AT)

    def _bind(self, source: str, target: str, *, writable: bool = False) -> None:
        """Show ``source`` at ``target``; in a folder of this step's own it is mounted here, elsewhere by Apptainer."""
        path = self._resolved(target)
        place = self._place(path)
        if os.path.isdir(source):
            self._make_folders(path)
        elif not os.path.lexists(place):
            self._make_folders(os.path.dirname(path))
            _write(place, "", 0o644)
            self._note(path)
        if self._is_own(path):
            kernel.bind(source, place, writable=writable, recursive=True)
        else:
            self.options += mount(source, path, writable=writable)

    def _make_folders(self, path: str) -> None:
        place = self._place(path)
        if not os.path.isdir(place):
            self._make_folders(os.path.dirname(path))
            os.mkdir(place, 0o755)
            self._note(path)

    def _note(self, path: str) -> None:
        if not self._is_own(path):
            self.made.append(path)

    def _is_own(self, path: str) -> bool:
        return path.split("/")[1] in _OWN

    def _place(self, path: str) -> str:
        """Where a resolved path of the step is outside of it."""
        return (self._stage if self._is_own(path) else str(self._root)) + path

    def _resolved(self, target: str) -> str:
        """The path that ``target`` leads to, with links followed inside the root."""
        done: list[str] = []
        todo = [part for part in reversed(target.split("/")) if part not in ("", ".")]
        for _ in range(1000):
            if not todo:
                break
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/" + "/".join([*done, part])
            place = self._place(here)
            if os.path.islink(place):
                link = os.readlink(place)
                if link.startswith("/"):
                    done.clear()
                todo += [piece for piece in reversed(link.split("/")) if piece not in ("", ".")]
            else:
                done.append(part)
        else:
            raise OSError(errno.ELOOP, f"too many symbolic links: {target}")
        return "/" + "/".join(done)


def _write(path: str, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.write(descriptor, os.fsencode(text))
    finally:
        os.close(descriptor)


def _secrets(request: Mapping[str, Any]) -> dict[str, bytes]:
    """The values that were handed over in memory."""
    descriptor = request.get("secrets")
    if descriptor is None:
        return {}
    from base64 import b64decode

    with os.fdopen(descriptor, "rb") as file:
        return {name: b64decode(value) for name, value in json.load(file).items()}


def _show_secrets(folder: str, secrets: Mapping[str, bytes]) -> None:
    """Each as a file in memory that the step's user may read."""
    os.mkdir(folder, 0o755)
    kernel.mount("tmpfs", folder, "tmpfs", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC, "mode=0755")
    for name, value in secrets.items():
        descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
    kernel.make_read_only(folder)


def _run(step: Step, command: Sequence[str]) -> int:
    child = os.fork()
    if child == 0:
        _start(step, command)
    while True:
        process, status = os.wait()
        if process == child:
            return _shell_status(status)


def _start(step: Step, command: Sequence[str]) -> NoReturn:
    request = step.request
    interactive = request["mode"] in _AT_A_TERMINAL
    try:
        if interactive:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        descriptor = os.memfd_create("command", 0)
        wanted = Command(
            argv=tuple(command),
            environment=request["environment"],
            workdir=request["workdir"],
            descriptor=descriptor,
            umask=0o022,
            step=True,
            session=not interactive,
        )
        os.write(descriptor, program(wanted))
        kernel.restore_signals()
        kernel.execute(step.argv(descriptor), request["own_environment"])
    except OSError as error:
        os.write(2, f"reprobox: cannot start {request['engine']}: {error.strerror}\n".encode())
    os._exit(126)


def _unmake(root: str, made: Sequence[str]) -> None:
    """Take away again what was made for mounts alone: empty files and folders that nobody put anything into."""
    for path in reversed(made):
        place = root + path
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(place).st_mode):
                os.rmdir(place)
            elif path.startswith("/etc/") or os.lstat(place).st_size == 0:
                os.unlink(place)


def _packed(request: Mapping[str, Any], root: str, started: float) -> dict[str, Any]:
    from reprobox.digest import read_index
    from reprobox.image import layer_digest
    from reprobox.tree import Changes, Tree, normalise

    parents = Tree.merged([read_index(Path(request["parent_index"]).read_bytes())])
    epoch, installing = request["epoch"], request["installing"]
    changes = Changes(root=Path(root), whole=True, epoch=epoch, started=started, installing=installing)
    output = Path(request["output"])
    dropped = normalise(changes, parents, output)
    diff_id, size = layer_digest(output / "tree", output / "index", epoch)
    return {"diff_id": diff_id, "size": size, "dropped": list(dropped)}
