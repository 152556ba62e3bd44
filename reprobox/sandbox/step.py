"""A step or a tool, in a child of reprobox: own namespaces, the commands one after another, and the packed changes.

The process that reads the request enters a user namespace with one id, shown as 0. Its child is process 1 of the rest;
when that ends, whatever the commands left running is gone. The changes are packed outside the root, inside the user
namespace, where files that their owner may not read can be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reprobox.sandbox import kernel, seccomp
from reprobox.sandbox.root import HOST, Root, mount_folder, mount_stacked

HOST_NAME = "reprobox"
SECRETS = "/run/secrets"
HOSTS = "127.0.0.1 localhost reprobox\n::1 localhost ip6-localhost ip6-loopback\n"
_POLICY = "#!/bin/sh\nexit 101\n"
_AT_A_TERMINAL = ("look", "edit")  # ways in which the caller's terminal is the command's
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def carry_out(request: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a request: ``{"status"}``, with ``diff_id``, ``size`` and ``dropped`` of a build that went well.

    A status above 128 is a signal's, as shells have it. ``{"problem"}`` if the sandbox itself could not be entered.
    """
    started = time.time()
    flags = kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS
    problem = _become_user_0(request, flags if request["network"] is not None else flags | kernel.NEWNET)
    if problem:
        return {"problem": problem}
    if request["layers"]:
        _merge(request)
    if request["mode"] in _AT_A_TERMINAL:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = _in_process_one(request)
    if request["mode"] == "edit" and "made" in answer:
        _unmake(request["changes"], answer["made"])
    if request["mode"] == "build" and answer.get("status") == 0:
        _unmake(request["changes"], answer.pop("made"))
        answer |= _pack(request, started)
    return answer


def pack(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed at ``changes``, as a layer; it is copied, and stays as it is."""
    from reprobox.tree import copy_changes

    problem = _become_user_0(request, 0)
    if problem:
        return {"problem": problem}
    copy_changes(request["changes"], request["copy"])
    return _pack({**request, "changes": request["copy"]}, float(request["epoch"]))


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ``layers`` into the empty folder ``root``, as the user who can read what its modes hide."""
    problem = _become_user_0(request, 0)
    if problem:
        return {"problem": problem}
    _merge(request)
    return {}


def _become_user_0(request: Mapping[str, Any], flags: int) -> str:
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
    """Makes the root, tells what it made in it, runs the commands, and takes stragglers with it."""
    status = 1
    try:
        kernel.die_with_parent()
        _end_if_orphaned(alive)
        made = _enter(request)
        os.write(reporter, json.dumps({"made": made}).encode())
        os.close(reporter)
        status = 0
        for command in request["commands"]:
            status = _run(command, request)
            if status:
                break
    except OSError as error:
        reason = error.strerror or str(error)
        os.write(2, f"reprobox: {reason}\n".encode())
        with contextlib.suppress(OSError):  # closed, if it was entered
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


def _enter(request: Mapping[str, Any]) -> list[str]:
    secrets = _secrets(request)
    kernel.unshare(kernel.NEWNS)
    kernel.private_mounts()
    if request["network"] is None:
        kernel.loopback_up()
    if "root" in request:
        mounted = mount_folder(request["root"], request["stage"], writable=True)
    else:
        mounted = mount_stacked(request["parents"], request["stage"], request["upper"], request["work"])
    root = Root(mounted)
    _mount_devices()
    for bind in request["binds"]:
        root.bind(bind["source"], bind["target"], writable=bind["writable"])
    _fix_files(root, request["network"] or "")
    if secrets:
        _show_secrets(secrets)
    root.leave_host()
    kernel.host_name(HOST_NAME)
    return root.made


def _secrets(request: Mapping[str, Any]) -> dict[str, bytes]:
    """The values that were handed over in memory; nothing can be imported once the root is entered."""
    descriptor = request.get("secrets")
    if descriptor is None:
        return {}
    from base64 import b64decode

    with os.fdopen(descriptor, "rb") as file:
        return {name: b64decode(value) for name, value in json.load(file).items()}


def _show_secrets(secrets: Mapping[str, bytes]) -> None:
    """Each as a file in memory that the step's user may read."""
    os.mkdir(SECRETS, 0o755)
    kernel.mount("tmpfs", SECRETS, "tmpfs", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC, "mode=0755")
    for name, value in secrets.items():
        descriptor = os.open(f"{SECRETS}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
    kernel.make_read_only(SECRETS)


def _mount_devices() -> None:
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.NOSUID, "mode=0755")
    for name in _DEVICES:
        Path("/dev", name).touch()
        kernel.mount(f"{HOST}/dev/{name}", f"/dev/{name}", flags=kernel.BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"/dev/{name}", 0o755)
    kernel.mount("devpts", "/dev/pts", "devpts", kernel.NOSUID | kernel.NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for path in ("/dev/shm", "/tmp"):
        kernel.mount("tmpfs", path, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")
    kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.bind(f"{HOST}/sys", "/sys", recursive=True, mounts=f"{HOST}/proc/self/mountinfo")


def _fix_files(root: Root, resolver: str) -> None:
    """What a step finds on whatever machine it runs: names, no resolver, and a policy by which no service starts.

    The files in /etc never enter a layer, and packages may replace them; the policy is mounted over a layer's path.
    """
    for name, text in (("hosts", HOSTS), ("hostname", f"{HOST_NAME}\n"), ("resolv.conf", resolver)):
        root.write(f"/etc/{name}", text)
    if os.path.isdir("/usr/sbin"):
        root.show("/usr/sbin/policy-rc.d", _POLICY, 0o755)


def _run(command: Sequence[str], request: Mapping[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _exec(command, request)
    while True:
        process, status = os.wait()
        if process == child:
            return _shell_status(status)


def _exec(command: Sequence[str], request: Mapping[str, Any]) -> NoReturn:
    status, what = 126, f"enter {request['workdir']}"
    try:
        if request["mode"] in _AT_A_TERMINAL:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        else:
            os.setsid()
        os.chdir(request["workdir"])
        what = f"start {command[0]}"
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves nothing in the layer
        seccomp.install(kernel.libc)
        kernel.restore_signals()
        kernel.execute(list(command), request["environment"])
    except FileNotFoundError as error:
        status = 127
        os.write(2, f"reprobox: cannot {what}: {error.strerror}\n".encode())
    except OSError as error:
        os.write(2, f"reprobox: cannot {what}: {error.strerror}\n".encode())
    os._exit(status)


def _unmake(changes: str, made: Sequence[str]) -> None:
    """Take away again what was made for mounts alone: empty files and folders that nobody put anything into."""
    for path in reversed(made):
        place = changes + path
        with contextlib.suppress(OSError):
            if os.path.isdir(place) and not os.path.islink(place):
                os.rmdir(place)
            elif path.startswith("/etc/") or os.lstat(place).st_size == 0:
                os.unlink(place)


def _pack(request: Mapping[str, Any], started: float) -> dict[str, Any]:
    from reprobox.digest import read_index
    from reprobox.image import layer_digest
    from reprobox.tree import Changes, Tree, normalise

    parents = Tree.merged([read_index(Path(request["parent_index"]).read_bytes())])
    changes = Changes(
        root=Path(request["changes"]),
        whole=request["whole"],
        epoch=request["epoch"],
        started=started,
        installing=request["installing"],
    )
    output = Path(request["output"])
    dropped = normalise(changes, parents, output)
    diff_id, size = layer_digest(output / "tree", output / "index", request["epoch"])
    return {"diff_id": diff_id, "size": size, "dropped": list(dropped)}
