"""Whether an engine works here, found out by having it run a program under the filter of steps.

The program is made here, a hundred bytes or two of machine code: an environment's own may not be there yet, and a name
in a registry is no thing to depend on. It comes through a mount, as inputs of steps do, asks for a change of ownership
that cannot succeed, and ends with whether it did: only with the filter it does.
"""

from __future__ import annotations

import platform
import struct
from pathlib import Path

from docker.errors import APIError

from reprobox.backend import Availability, Bind
from reprobox.errors import BackendError
from reprobox.staging import staging_folder
from reprobox_docker.engine import Engine, translated
from reprobox_docker.step import empty, step_config

_PRETENDED, _REAL = 42, 43
_PROGRAM = "/reprobox-probe"
_BASE = 0x400000
#: ELF's number of a machine, and code that does ``exit(42 + (fchown(-1, 0, 0) != 0))``.
_CODE = {
    "x86_64": (62, "b85d000000bfffffffff31f631d20f0585c0400f95c7400fb6ff83c72ab83c0000000f05"),
    "aarch64": (183, "e8068052000080120100805202008052010000d41f000071e0079f1a00a80011a80b8052010000d4"),
}


def program(machine: str) -> bytes:
    """A static executable. Raises :class:`KeyError` for a machine that nobody wrote code for.

    Source: System V ABI, "ELF Header", "Program Header".
    """
    number, code = _CODE[machine]
    content = bytes.fromhex(code)
    size = 64 + 56 + len(content)
    entry = _BASE + 64 + 56
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + content


def tried(engine: Engine, scratch: Path) -> Availability:
    """What the engine can do, with its facts."""
    details = engine.facts()
    if not engine.endpoint.socket:
        return Availability(
            ok=False,
            reason=f"the engine at {engine.endpoint.address} is on another machine, and sees no file of this one",
            hint="run reprobox on that machine; what it should only hold is loaded by `reprobox export --format"
            " docker-archive -o x.tar` and `docker load -i x.tar`",
            details=details,
        )
    machine = platform.machine()
    if machine not in _CODE or engine.info.get("Architecture") not in (machine, _ALIASES.get(machine)):
        return Availability(
            ok=False,
            reason=f"the engine is for {engine.info.get('Architecture')}, and this is {machine}",
            hint="use an engine of this machine",
            details=details,
        )
    try:
        problem, hint = _carried_out(engine, scratch, machine)
    except BackendError as error:
        problem, hint = error.message, error.hint or ""
    details |= {"runs containers": "yes" if not problem else f"no: {problem}"}
    return Availability(ok=not problem, reason=problem, hint=hint, details=details)


_ALIASES = {"x86_64": "amd64", "aarch64": "arm64"}


def _carried_out(engine: Engine, scratch: Path, machine: str) -> tuple[str, str]:
    """What went wrong and what to do about it; empty if nothing did."""
    with staging_folder(scratch) as stage:
        path = stage / "program"
        path.write_bytes(program(machine))
        path.chmod(0o755)
        binds = [Bind(source=path, target=_PROGRAM)]
        config = step_config(engine, empty(engine, scratch), stage, binds, network=False)
        config |= {"Entrypoint": [_PROGRAM], "Cmd": [], "Tty": False, "OpenStdin": False}
        try:
            with engine.container(config) as name:
                engine.api.start(name)
                status = int(engine.api.wait(name)["StatusCode"])
        except (APIError, BackendError) as error:
            return _why(error, scratch)
    if status == _PRETENDED:
        return "", ""
    if status == _REAL:
        return "its containers do not apply the filter of system calls", (
            "the engine needs a kernel and a runtime (runc, crun) with seccomp; `docker info` names it under Security"
        )
    return f"a container ended with status {status}", "`docker run` may say more; the engine's log does"


def _why(error: Exception, scratch: Path) -> tuple[str, str]:
    words = str(getattr(error, "explanation", None) or error)
    if "source path does not exist" in words or ("no such file or directory" in words and str(scratch) in words):
        return f"the engine does not see this machine's files: it finds nothing at {scratch}", (
            "it runs in a virtual machine or container: share that folder with it, or set REPROBOX_STORE to such one"
        )
    if "permission denied" in words.lower() and _PROGRAM in words:
        return f"programs at {scratch} may not be executed", (
            "its file system is mounted noexec: set REPROBOX_STORE to a folder on another"
        )
    if isinstance(error, BackendError):
        return error.message, error.hint or ""
    found = translated(error, "a container cannot be run")
    return found.message, found.hint or ""
