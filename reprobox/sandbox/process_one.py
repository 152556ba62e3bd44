"""A step or a tool in a child of reprobox, however its root is made: namespaces, process 1, and the packed changes.

The process that reads the request enters a user namespace with one id, shown as 0. Its child is process 1 of the rest;
when that ends, whatever the commands left running is gone. The changes are packed outside the root, inside the user
namespace, where files that their owner may not read can be read.

Standard library, trees, digests and images only: it runs in a bare interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

from reprobox.sandbox import kernel

HOST_NAME = "reprobox"
SECRETS = "/run/secrets"
HOSTS = "127.0.0.1 localhost reprobox\n::1 localhost ip6-localhost ip6-loopback\n"
#: A policy by which no service starts.
POLICY = "#!/bin/sh\nexit 101\n"
POLICY_AT = "/usr/sbin/policy-rc.d"
AT_A_TERMINAL = ("look", "edit")  # ways in which the caller's terminal is the command's
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


class Entered(NamedTuple):
    """A root that is ready: the paths that were ``made`` in it for mounts alone, and what becomes a command there.

    ``start`` is called in a child, and never returns.
    """

    made: Sequence[str]
    start: Callable[[Sequence[str]], NoReturn]


#: Makes what the root of a request is made of, in process 1. Raises :class:`OSError`.
Enter: TypeAlias = Callable[[Mapping[str, Any]], Entered]


def carry_out(request: Mapping[str, Any], enter: Enter) -> dict[str, Any]:
    """What became of a request: ``{"status"}``, with ``diff_id``, ``size`` and ``dropped`` of a build that went well.

    A status above 128 is a signal's, as shells have it. ``{"problem"}`` if the root could not be entered.
    """
    started = time.time()
    flags = kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS
    if problem := become_user_0(request, flags if request["network"] is not None else flags | kernel.NEWNET):
        return {"problem": problem}
    if request["layers"]:
        _merge(request)
    if request["mode"] in AT_A_TERMINAL:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = _in_process_one(request, enter)
    made = answer.pop("made", ())
    if request["mode"] in ("build", "edit"):
        _unmake(request["changes"], made)
    if request["mode"] == "build" and answer.get("status") == 0:
        answer |= _packed(request, started)
    return answer


def pack(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed at ``changes``, as a layer; it is copied, and stays as it is."""
    from reprobox.layer_copies import copy_changes

    if problem := become_user_0(request, 0):
        return {"problem": problem}
    copy_changes(request["changes"], request["copy"])
    return _packed({**request, "changes": request["copy"]}, float(request["epoch"]))


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
    from reprobox.layer_copies import merge_into

    merge_into(Path(request["root"]), [(Path(tree), Path(index)) for tree, index in request["layers"]])


def _in_process_one(request: Mapping[str, Any], enter: Enter) -> dict[str, Any]:
    report, reporter = os.pipe()
    alive, living = os.pipe()  # the second end closes when this process ends, however it ends
    child = os.fork()
    if child == 0:
        os.close(living)
        _process_one(request, enter, reporter, alive)
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


def _process_one(request: Mapping[str, Any], enter: Enter, reporter: int, alive: int) -> NoReturn:
    """Makes the root, tells what it made in it, runs the commands, and takes stragglers with it."""
    status = 1
    try:
        kernel.die_with_parent()
        _end_if_orphaned(alive)
        entered = enter(request)
        os.write(reporter, json.dumps({"made": entered.made}).encode())
        os.close(reporter)
        status = 0
        for command in request["commands"]:
            status = _run(entered, request, command)
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


def _run(entered: Entered, request: Mapping[str, Any], command: Sequence[str]) -> int:
    child = os.fork()
    if child == 0:
        if request["mode"] in AT_A_TERMINAL:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        entered.start(command)
    while True:
        process, status = os.wait()
        if process == child:
            return _shell_status(status)


# -- what is in every root ---------------------------------------------------------------------------------------------


def secret_values(request: Mapping[str, Any]) -> dict[str, bytes]:
    """The values that were handed over in memory; nothing can be imported once a root is entered."""
    descriptor = request.get("secrets")
    if descriptor is None:
        return {}
    from base64 import b64decode

    with os.fdopen(descriptor, "rb") as file:
        return {name: b64decode(value) for name, value in json.load(file).items()}


def show_secrets(folder: str, secrets: Mapping[str, bytes]) -> None:
    """Each as a file in memory, below ``folder``, that the step's user may read."""
    os.mkdir(folder, 0o755)
    kernel.mount("tmpfs", folder, "tmpfs", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC, "mode=0755")
    for name, value in secrets.items():
        descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
    kernel.make_read_only(folder)


def etc_files(request: Mapping[str, Any]) -> dict[str, str]:
    """Files that a step finds on whatever machine it runs, and their text. They never enter a layer."""
    resolver = request["network"] or ""
    return {"/etc/hosts": HOSTS, "/etc/hostname": f"{HOST_NAME}\n", "/etc/resolv.conf": resolver}


def make_devices(place: str, host: str) -> None:
    """The devices of a step in the folder ``place``, the machine's own being below ``host``."""
    for name in _DEVICES:
        Path(place, name).touch()
        kernel.mount(f"{host}/dev/{name}", f"{place}/{name}", flags=kernel.BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{place}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{place}/{name}", 0o755)
    options = "newinstance,ptmxmode=0666,mode=620"
    kernel.mount("devpts", f"{place}/pts", "devpts", kernel.NOSUID | kernel.NOEXEC, options)
    kernel.mount("tmpfs", f"{place}/shm", "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")


# -- the changes -------------------------------------------------------------------------------------------------------


def _unmake(changes: str, made: Sequence[str]) -> None:
    """Take away again what was made for mounts alone: empty files and folders that nobody put anything into."""
    for path in reversed(made):
        place = changes + path
        with contextlib.suppress(OSError):
            if os.path.isdir(place) and not os.path.islink(place):
                os.rmdir(place)
            elif path.startswith("/etc/") or os.lstat(place).st_size == 0:
                os.unlink(place)


def _packed(request: Mapping[str, Any], started: float) -> dict[str, Any]:
    from reprobox.digest import read_index
    from reprobox.image import layer_digest
    from reprobox.normalise import Changes, normalise
    from reprobox.tree import Tree

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
