"""Process 1 of an isolated run, and the process outside that stands for the command.

The kernel hides signals without a handler from process 1, so the command is its child. The terminal's keys reach the
whole foreground group by themselves; signals that somebody sent to one process are handed on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import NoReturn

from reprobox.sandbox import kernel

_HANDED_ON = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
}
_WAITED_FOR = _HANDED_ON | {signal.SIGCHLD}


def stand_by() -> None:
    """Return in the process that will be the command, below process 1 of the new pid namespace.

    The caller's process stays outside and ends as the command ended, by the same signal if that was its end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    reader, writer = os.pipe()
    first = os.fork()
    if first:
        os.close(writer)
        _end_as(_told(reader, _watch(first)))
    kernel.die_with_parent()
    command = os.fork()
    if command:
        os.write(writer, str(_watch(command)).encode())
        os._exit(0)
    os.close(reader)
    os.close(writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(child: int) -> int:
    """Hand signals on until ``child`` ends; returns its exit code, negative for a signal."""
    while True:
        received = signal.sigwaitinfo(_WAITED_FOR)
        if received.si_signo != signal.SIGCHLD:
            # Sent by a process, not by the terminal (SI_KERNEL); but of a hang-up it tells the session's leader alone.
            if received.si_code <= 0 or received.si_signo == signal.SIGHUP:
                os.kill(child, received.si_signo)
            continue
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if process == child:
                return os.waitstatus_to_exitcode(status)
            if process == 0:
                break


def _told(reader: int, code: int) -> int:
    with os.fdopen(reader) as report:
        text = report.read()
    return int(text) if text else code


def _end_as(code: int) -> NoReturn:
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # nobody can catch SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)
