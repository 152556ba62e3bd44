"""A run that is waited for: the backend has a process of its own, and this one sees how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from reprobox import errors
from reprobox.backend import Backend, RunRequest
from reprobox.errors import ReproboxError

#: The terminal sends these to everybody in front; the command decides what they mean.
_ITS_OWN = (signal.SIGINT, signal.SIGQUIT)
#: Sent to this process, they are meant for the command.
_HANDED_ON = (signal.SIGTERM, signal.SIGHUP)
_STANDARD_ERROR = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended: ``status`` as a shell has it, the ``signal`` that ended it if one did, processor time in
    milliseconds, and the most memory of one process in bytes where it is known."""

    status: int
    signal: str | None
    cpu: int
    memory: int | None


def run_child(backend: Backend, request: RunRequest, *, quiet: bool = False) -> Ended:
    """Run, and wait. ``quiet`` sends what the command prints to standard error.

    Raises what the backend raises before the command starts.
    """
    sys.stdout.flush()
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ITS_OWN, *_HANDED_ON))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():  # other threads are idle, and the child becomes another program
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _be(backend, request, writer, quiet=quiet)
    os.close(writer)
    with _signals_of(child):
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with os.fdopen(reader, "rb") as told:
            problem = told.read()
        _, status, usage = os.wait4(child, 0)
    if problem:
        raise _error(json.loads(problem))
    code = os.waitstatus_to_exitcode(status)
    return Ended(
        status=code if code >= 0 else 128 - code,
        signal=signal.Signals(-code).name if code < 0 else None,
        cpu=round((usage.ru_utime + usage.ru_stime) * 1000),
        # A process begins with what its parent had; less than that cannot be told apart from it.
        memory=usage.ru_maxrss * 1024 if usage.ru_maxrss > own else None,
    )


def _be(backend: Backend, request: RunRequest, writer: int, *, quiet: bool) -> NoReturn:
    """The child: never returns into the code of the parent."""
    status = 1
    try:
        if quiet:
            os.dup2(_STANDARD_ERROR, 1)
        status = backend.run(request)
    except ReproboxError as error:
        said = {"class": type(error).__name__, "message": error.message, "where": error.where, "hint": error.hint}
        os.write(writer, json.dumps(said).encode())
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - a bug: it is shown, and this process ends all the same
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _error(said: dict[str, str]) -> ReproboxError:
    known = getattr(errors, said["class"], ReproboxError)
    kind = known if issubclass(known, ReproboxError) else ReproboxError
    return kind(said["message"], where=said["where"], hint=said["hint"])


@contextmanager
def _signals_of(child: int) -> Iterator[None]:
    """While the command runs, signals are its own."""

    def hand_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    def leave(*_: object) -> None:
        pass

    old = {number: signal.signal(number, leave) for number in _ITS_OWN}
    old |= {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
