"""A step or a tool in the sandbox: its root is entered, and a command in it is under the filter."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from reprobox.sandbox import kernel, process_one, seccomp
from reprobox.sandbox.process_one import Entered
from reprobox.sandbox.root import HOST, Root, mount_folder, mount_stacked


def carry_out(request: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`reprobox.sandbox.process_one.carry_out`."""
    return process_one.carry_out(request, _enter)


def _enter(request: Mapping[str, Any]) -> Entered:
    secrets = process_one.secret_values(request)
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
    _fix_files(root, request)
    if secrets:
        process_one.show_secrets(process_one.SECRETS, secrets)
    root.leave_host()
    kernel.host_name(process_one.HOST_NAME)
    return Entered(root.made, partial(_start, request))


def _mount_devices() -> None:
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.NOSUID, "mode=0755")
    process_one.make_devices("/dev", HOST)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")
    kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.bind(f"{HOST}/sys", "/sys", recursive=True, mounts=f"{HOST}/proc/self/mountinfo")


def _fix_files(root: Root, request: Mapping[str, Any]) -> None:
    """What a step finds on whatever machine it runs: names, no resolver, and a policy by which no service starts.

    The files in /etc never enter a layer, and packages may replace them; the policy is mounted over a layer's path.
    """
    for path, text in process_one.etc_files(request).items():
        root.write(path, text)
    if os.path.isdir(os.path.dirname(process_one.POLICY_AT)):
        root.show(process_one.POLICY_AT, process_one.POLICY, 0o755)


def _start(request: Mapping[str, Any], command: Sequence[str]) -> NoReturn:
    status, what = 126, f"enter {request['workdir']}"
    try:
        if request["mode"] not in process_one.AT_A_TERMINAL:
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
