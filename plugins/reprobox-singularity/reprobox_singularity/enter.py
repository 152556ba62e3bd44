"""``run``: this process prepares what is private to the run, and becomes Apptainer, which becomes the command.

The caller's own id, the host's network, pids, ipc and /dev (MPI needs /dev/shm), and a read-only root. What is private,
/tmp, /var/tmp and /run with HOME in it, is in memory, in a mount namespace of this run: nobody has to clean it up, and
it is not bounded by ``sessiondir max size`` (64 MB), as what Apptainer would make for ``--contain`` is.

Standard library only: it runs in a bare interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn

from reprobox.launch import HOME, account_lines, host_files, user_name, with_account
from reprobox.sandbox import kernel
from reprobox_singularity.apptainer import executing, mount
from reprobox_singularity.program import Command, program

_OWN = {"/run": "mode=0755", "/tmp": "mode=1777", "/var/tmp": "mode=1777"}  # noqa: S108 - inside, not the host's
_UNAVAILABLE = 4
_HINT = "`reprobox doctor` says what works here"


def become(record: Mapping[str, Any]) -> NoReturn:
    """Turn this process into ``record["argv"]`` inside the image, or say why not and end with status 4.

    ``record`` is what :func:`reprobox_singularity.run.document` gathered, with ``binds`` and ``stage``, an existing
    empty folder. This process must have one thread.
    """
    try:
        if record["processors"]:
            os.sched_setaffinity(0, record["processors"])
        argv = _prepared(record)
        kernel.restore_signals()
        kernel.execute(argv, record["own_environment"])
    except OSError as error:
        text = f"error: Apptainer cannot be started: {error.strerror or error}\n  hint: {_HINT}\n"
        os.write(2, text.encode())
    os._exit(_UNAVAILABLE)


def _prepared(record: Mapping[str, Any]) -> list[str]:
    caller, name = (os.getuid(), os.getgid()), user_name()
    files = host_files(network=record["network"])
    files |= _with_caller(record["accounts"], name, *caller)
    binds = [{**bind, "source": os.path.realpath(bind["source"])} for bind in record["binds"]]
    kernel.unshare(kernel.NEWUSER | kernel.NEWNS | (0 if record["network"] else kernel.NEWNET))
    kernel.map_one_id(caller, caller)
    kernel.private_mounts()
    if not record["network"]:
        kernel.loopback_up()
    umask = os.umask(0o022)
    options = _Root(record["stage"]).options(files, binds, record["hidden"])
    os.umask(umask)
    if record["isolate"]:
        options += ["--pid", "--ipc"]
    descriptor = os.memfd_create("command", 0)
    wanted = Command(
        argv=tuple(record["argv"]),
        environment=record["environment"],
        workdir=record["workdir"],
        descriptor=descriptor,
    )
    os.write(descriptor, program(wanted))
    return executing(record["engine"], [*record["options"], *options], record["image"], descriptor)


class _Root:
    """What is put into the image's root. ``stage`` is an empty folder that becomes a file system in memory."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        kernel.mount("tmpfs", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755")
        for path, options in _OWN.items():
            os.makedirs(stage + path, 0o755)
            kernel.mount("tmpfs", stage + path, "tmpfs", kernel.NOSUID | kernel.NODEV, options)
        for path in (HOME, f"{HOME}/.cache"):
            os.mkdir(stage + path, 0o700)

    def options(self, files: Mapping[str, str], binds: list[dict[str, Any]], hidden: list[str]) -> list[str]:
        """Apptainer's options for all of it, in the order in which it is mounted."""
        for path in hidden:
            self._hide(path)
        # The host's /dev comes by itself; its own shared memory too, where the site's configuration wants a small /dev.
        found = mount("/dev/shm", "/dev/shm", writable=True)  # noqa: S108 - what MPI shares
        for number, (path, text) in enumerate(files.items()):
            found += mount(self._file(f"{self._stage}/{number}", text), path, writable=True)
        own = [bind for bind in binds if any(bind["target"].startswith(f"{path}/") for path in _OWN)]
        for bind in own:
            self._bind(bind["source"], self._stage + bind["target"], writable=bind["writable"])
        for path in _OWN:
            found += mount(self._stage + path, path, writable=True)
        for bind in binds:
            if bind not in own:
                found += mount(bind["source"], bind["target"], writable=bind["writable"])
        return found

    def _file(self, place: str, text: str) -> str:
        with open(place, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return place

    def _bind(self, source: str, place: str, *, writable: bool) -> None:
        if os.path.isdir(source):
            os.makedirs(place, 0o755, exist_ok=True)
        elif not os.path.lexists(place):
            os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
            self._file(place, "")
        kernel.bind(source, place, writable=writable, recursive=True)

    def _hide(self, path: str) -> None:
        place = f"{self._stage}/hidden"
        if not os.path.exists(place):
            self._file(place, "")
            os.chmod(place, 0)
        kernel.bind(place, path)


def _with_caller(accounts: Mapping[str, str], name: str, uid: int, gid: int) -> dict[str, str]:
    """The image's accounts, with the caller's among them."""
    return {
        path: with_account(accounts.get(os.path.basename(path), ""), number, line)
        for path, (number, line) in account_lines(name, uid, gid).items()
    }
