"""Work in a user namespace, where the owner of files may read them whatever their modes say.

A step may leave a folder that even its owner may not enter (``chmod 0 /opt``): the layer must keep that mode, so the
folder is never changed; a child process that is user 0 of a namespace of its own reads it. It costs an interpreter's
start, and only trees that hide something from their owner need it.

Source: user_namespaces(7), capabilities(7). Standard library only: the sandbox's launcher and the child import this.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would take as long to load as a run's root takes to mount
    from collections.abc import Iterable
    from typing import Any, Protocol

    from reprobox.digest import Entry, Json

    class Sink(Protocol):
        def write(self, data: bytes, /) -> object: ...


libc = ctypes.CDLL(None, use_errno=True)
NEWUSER = 0x10000000

_PDEATHSIG = 1
_CHUNK = 1 << 20
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from reprobox.namespace import main; main(sys.argv[2:])"


def hides(index: Iterable[Entry]) -> bool:
    """Whether the tree of ``index`` has a folder that this user, owning it, may not look into."""
    return os.geteuid() != 0 and any(entry.kind == "d" and entry.mode & 0o500 != 0o500 for entry in index)


def call(function: str, *arguments: Json, sink: Sink | None = None) -> Any:
    """What ``function`` (``module:name``) returns for ``arguments``, both JSON, in a child that may read everything of
    this user.

    With ``sink``, the function gets a binary stream as its first argument, and what it writes there comes to the sink.
    Raises the :class:`OSError` that the function met, or :class:`BackendError` where no namespace can be made.
    """
    answer = _asked(function, arguments, sink)
    if "problem" in answer:
        from reprobox.errors import BackendError

        raise BackendError(
            f"a layer hides folders from their owner, and they cannot be read: {answer['problem']}",
            hint="reading them takes a user namespace; `reprobox doctor` says what stops it here",
        )
    if "error" in answer:
        raise OSError(*answer["error"])
    return answer["result"]


def _asked(function: str, arguments: tuple[Json, ...], sink: Sink | None) -> dict[str, Any]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            process = _child(function, writer, streams=sink is not None)
        finally:
            os.close(writer)
        with process:
            try:
                try:
                    process.stdin.write(json.dumps(arguments).encode())
                    process.stdin.close()
                except BrokenPipeError:  # it ended already, and its answer says so
                    pass
                while sink is not None and (data := process.stdout.read(_CHUNK)):
                    sink.write(data)
                told = answer.read()
            finally:
                process.kill()
    document: dict[str, Any] = json.loads(told) if told else {"problem": "the process that reads them was ended"}
    return document


def _child(function: str, answer: int, *, streams: bool) -> Any:
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [sys.executable, "-IS", "-c", _PROGRAM, root, function, str(answer), "stream" if streams else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if streams else subprocess.DEVNULL,
        pass_fds=(answer,),
        start_new_session=True,  # Ctrl-C is the parent's to handle
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """``MODULE:NAME DESCRIPTOR [stream]``, with the function's arguments on standard input."""
    import importlib

    function, answer, streams = arguments
    told = os.fdopen(int(answer), "w")
    os.set_inheritable(told.fileno(), False)  # noqa: FBT003 - it takes no keyword
    given = json.load(sys.stdin)
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    with told:
        json.dump(_answer(work, [sys.stdout.buffer, *given] if streams else given), told)
        sys.stdout.flush()


def _answer(work: Any, arguments: list[Any]) -> dict[str, Any]:
    try:
        become_user_0()
    except OSError as error:
        return {"problem": error.strerror or str(error)}
    try:
        return {"result": work(*arguments)}
    except OSError as error:
        return {"error": [error.errno, error.strerror, os.fsdecode(error.filename) if error.filename else None]}


def become_user_0() -> None:
    """Enter a user namespace with one id, shown as 0. Raises :class:`OSError`."""
    outside = (os.getuid(), os.getgid())
    unshare(NEWUSER)
    map_one_id((0, 0), outside)
    die_with_parent()
    os.umask(0o022)


def check(result: int, what: str) -> None:
    """Raise the :class:`OSError` of a libc call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} ({what})")


def unshare(flags: int) -> None:
    check(libc.unshare(flags), f"unshare {flags:#x}")


def map_one_id(inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Map one (uid, gid) of the new user namespace to the caller's."""
    _put("/proc/self/setgroups", "deny")
    _put("/proc/self/uid_map", f"{inside[0]} {outside[0]} 1")
    _put("/proc/self/gid_map", f"{inside[1]} {outside[1]} 1")


def _put(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (write {path})") from None
    finally:
        os.close(descriptor)


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends."""
    check(libc.prctl(_PDEATHSIG, 9, 0, 0, 0), "prctl")
