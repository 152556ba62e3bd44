"""``reprobox run``: this process becomes a command inside an environment.

The caller's own id, the host's network, pids and ipc, and a read-only root. Nothing stands between the caller and the
command, so that status, signals, streams and terminal need no passing on; only with ``isolate`` a process 1 stands by.

Standard library only, and little of it: this is on the way of every ``reprobox run``.
"""

from __future__ import annotations

import errno
import os

from reprobox.launch import HOME, account_lines, host_files, user_name, with_account
from reprobox.sandbox import kernel
from reprobox.sandbox.root import HOST, Root, UnmountableError, mount_folder, mount_stacked

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would take as long to load as the root takes to mount
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

_UNAVAILABLE, _NOT_EXECUTABLE, _NOT_FOUND = 4, 126, 127


def stage_folder(scratch: str) -> str:
    """A folder in ``scratch`` to mount a run's root over, in the run's own namespace; never anything else."""
    path = os.path.join(scratch, f"stage-{os.getuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return scratch  # of a store that is only read: nothing in it is needed
    return path


def become(record: Mapping[str, Any]) -> NoReturn:
    """Turn this process into ``record["argv"]`` inside the environment, or say why not and end with status 4.

    ``record``: ``trees`` (lowest first; a single one is a complete root), ``binds``, ``environment``, ``workdir``,
    ``argv``, ``network`` and ``isolate`` (booleans), and ``stage``, an existing empty folder; ``processors`` are the
    numbers of those that it is held to, if there are any. This process must have one thread.
    """
    try:
        if record.get("processors"):
            os.sched_setaffinity(0, record["processors"])
        _change_places(record)
    except UnmountableError as error:
        os.write(2, f"error: {error.strerror}\n".encode())
        os._exit(1)
    except OSError as error:  # neither here nor there: nobody can go on from this
        reason = error.strerror or error
        os.write(2, f"error: cannot enter the sandbox: {reason}\n  hint: `reprobox doctor` says what works\n".encode())
        os._exit(_UNAVAILABLE)
    _execute(record)


def _change_places(record: Mapping[str, Any]) -> None:
    caller = (os.getuid(), os.getgid())
    entry = (user_name(), *caller)
    files = host_files(network=record["network"])
    binds = [{**bind, "source": os.path.realpath(bind["source"])} for bind in record["binds"]]
    flags = kernel.NEWUSER | kernel.NEWNS
    if record["isolate"]:
        flags |= kernel.NEWPID | kernel.NEWIPC
    if not record["network"]:
        flags |= kernel.NEWNET
    kernel.unshare(flags)
    kernel.map_one_id(caller, caller)
    kernel.private_mounts()
    if not record["network"]:
        kernel.loopback_up()
    if record["isolate"]:
        from reprobox.sandbox.first import stand_by

        stand_by()
    umask = os.umask(0o022)
    _enter(record, binds, entry, files)
    os.umask(umask)
    kernel.no_new_privileges()
    kernel.restore_signals()


def _enter(
    record: Mapping[str, Any],
    binds: Sequence[Mapping[str, Any]],
    entry: tuple[str, int, int],
    files: Mapping[str, str],
) -> None:
    trees, stage = record["trees"], record["stage"]
    whole = len(trees) == 1
    root = Root(mount_folder(trees[0], stage, writable=False) if whole else mount_stacked(trees, stage))
    # What is written comes before the host's devices: no link of the environment can lead it there.
    for path in ("/tmp", "/var/tmp"):
        if os.path.isdir(path) and not os.path.islink(path):
            kernel.mount("tmpfs", path, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")
    for path in (HOME, f"{HOME}/.cache"):
        os.mkdir(path, 0o700)
    for path, text in {**files, **_accounts(*entry)}.items():
        try:
            root.show(path, text)
        except OSError as error:
            if error.errno != errno.EROFS:  # there is none, and none can be added
                raise
    late = [bind for bind in binds if bind["target"].startswith(("/dev/", "/proc/", "/sys/"))]
    for bind in binds:
        if bind not in late:
            root.bind(bind["source"], bind["target"], writable=bind["writable"])
    _mount_host(isolate=record["isolate"])
    for bind in late:
        root.bind(bind["source"], bind["target"], writable=bind["writable"])
    root.leave_host()
    if not whole:
        kernel.make_read_only("/")


def _mount_host(*, isolate: bool) -> None:
    for name in ("dev", "sys"):
        kernel.bind(f"{HOST}/{name}", f"/{name}", writable=True, recursive=True)
    if isolate:
        kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    else:
        kernel.bind(f"{HOST}/proc", "/proc", writable=True, recursive=True)


def _accounts(name: str, uid: int, gid: int) -> dict[str, str]:
    """The environment's accounts, with the caller's among them."""
    lines = account_lines(name, uid, gid)
    return {path: with_account(_text(path), number, line) for path, (number, line) in lines.items()}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _execute(record: Mapping[str, Any]) -> NoReturn:
    """exec, or end as a shell would: 127 for a command that is not there, 126 for one that cannot run."""
    command, status = record["argv"][0], _NOT_EXECUTABLE
    try:
        os.chdir(record["workdir"])
    except OSError as error:
        os.write(2, f"reprobox: cannot enter the working directory {record['workdir']}: {error.strerror}\n".encode())
        os._exit(status)
    try:
        kernel.execute(list(record["argv"]), dict(record["environment"]))
    except FileNotFoundError:
        status = _NOT_FOUND
        os.write(2, f"reprobox: cannot run {command}: it is not in the environment\n".encode())
    except OSError as error:
        os.write(2, f"reprobox: cannot run {command}: {error.strerror}\n".encode())
    os._exit(status)
