"""A step, a tool or an edit under Apptainer, which process 1 starts on a writable copy for one command after another.

Apptainer makes the root that a command sees, from a plain copy of the parents (``--overlay`` and ``--writable-tmpfs``
are mounted without ``userxattr``: dpkg fails on them) and from folders that are prepared here. Its configuration is our
own, so that no site's adds anything.

What runs is the program of :mod:`reprobox_singularity.program`, which puts the filter on after Apptainer is done: under
it, Apptainer would fail.

Standard library only: it runs in a bare interpreter.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from reprobox.sandbox import kernel, process_one
from reprobox.sandbox.process_one import Entered
from reprobox_singularity.apptainer import executing, mount
from reprobox_singularity.program import Command, program

_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp")
_OWN = ("dev", "run", "tmp")  # folders that are of this step alone, and never in the copy
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
    """As :func:`reprobox.sandbox.process_one.carry_out`; the copy at ``root`` is what is changed."""
    return process_one.carry_out({**request, "changes": request["root"], "whole": True}, _enter)


def pack(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed in the whole tree at ``root``, as a layer; it is copied, and stays as it is."""
    return process_one.pack({**request, "changes": request["root"], "whole": True, "installing": True})


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`reprobox.sandbox.process_one.merge`."""
    return process_one.merge(request)


def _enter(request: Mapping[str, Any]) -> Entered:
    step = Step(request)
    return Entered(step.made, step.start)


class Step:
    """Everything that Apptainer is given for the commands of one request. ``made`` are paths added to the copy."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        self.made: list[str] = []
        self.options = ["--writable"]
        self._root = request["root"]
        self._stage = request["stage"]
        secrets = process_one.secret_values(request)
        self._enter()
        self._folders()
        self._files()
        for bind in request["binds"]:
            self._bind(bind["source"], bind["target"], writable=bind["writable"])
        if secrets:
            process_one.show_secrets(self._stage + process_one.SECRETS, secrets)
        for name in _OWN:
            self.options += mount(f"{self._stage}/{name}", f"/{name}", writable=True)

    def start(self, command: Sequence[str]) -> NoReturn:
        """Become Apptainer, which becomes the command."""
        request = self.request
        try:
            descriptor = os.memfd_create("command", 0)
            wanted = Command(
                argv=tuple(command),
                environment=request["environment"],
                workdir=request["workdir"],
                descriptor=descriptor,
                umask=0o022,
                step=True,
                session=request["mode"] not in process_one.AT_A_TERMINAL,
            )
            os.write(descriptor, program(wanted))
            kernel.restore_signals()
            kernel.execute(self._argv(descriptor), request["own_environment"])
        except OSError as error:
            os.write(2, f"reprobox: cannot start {request['engine']}: {error.strerror}\n".encode())
        os._exit(126)

    def _argv(self, descriptor: int) -> list[str]:
        """Apptainer's command line, for the program in ``descriptor``."""
        start = executing(self.request["engine"], self.options, self._root, descriptor)
        return [start[0], "--config", f"{self._stage}/apptainer.conf", *start[1:]]

    def _enter(self) -> None:
        kernel.unshare(kernel.NEWNS)
        kernel.private_mounts()
        kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
        if self.request["network"] is None:
            kernel.loopback_up()
        kernel.host_name(process_one.HOST_NAME)

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
        process_one.make_devices(f"{self._stage}/dev", "")

    def _files(self) -> None:
        """What a step finds on whatever machine it runs: names, no resolver, a policy by which no service starts.

        The files in /etc never enter a layer, and packages may replace them; the policy is mounted over a layer's path.
        """
        for name, text in process_one.etc_files(self.request).items():
            path = self._root + name
            if os.path.lexists(path):
                os.unlink(path)
            _write(path, text, 0o644)
            self.made.append(name)
        _write(f"{self._stage}/apptainer.conf", _CONFIGURATION, 0o644)
        if os.path.isdir(self._place(os.path.dirname(process_one.POLICY_AT))):
            _write(f"{self._stage}/policy-rc.d", process_one.POLICY, 0o755)
            self._bind(f"{self._stage}/policy-rc.d", process_one.POLICY_AT)

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
