"""The terminal passes through: its name, its size, its keys, and job control."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from reprobox.testing import until

pytestmark = pytest.mark.userns


class Terminal:
    """A command with a terminal of its own, as a person has it."""

    def __init__(self, project, *argv: str, rows: int = 33, columns: int = 77) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(project.root)
                os.environ["TERM"] = "dumb"
                self._resize(0, rows, columns)
                signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup hands on that it is ignored
                os.execv(sys.executable, [sys.executable, "-m", "reprobox.cli", *argv])
            finally:
                os._exit(70)
        self.shown = ""
        self._status: int | None = None

    @staticmethod
    def _resize(descriptor: int, rows: int, columns: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._resize(self._master, rows, columns)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait until the terminal shows a pattern; what it showed up to there is taken away."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            if time.monotonic() > end or not self._read():
                raise AssertionError(f"{pattern!r} never came; the terminal shows {self.shown!r}")
        self.shown = self.shown[found.end() :]
        return found

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # everybody has closed it
            return False
        self.shown += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def status(self) -> int:
        """Wait for the end."""
        if self._status is None:
            end = time.monotonic() + 30
            while self._read():
                assert time.monotonic() < end, f"it never ends; the terminal shows {self.shown!r}"
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def hang_up(self) -> None:
        os.close(self._master)
        assert until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 30)
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)


@pytest.fixture
def terminal(realized) -> Iterator[type]:
    opened = []

    def open_terminal(*argv: str) -> Terminal:
        opened.append(Terminal(realized, *argv))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


WAYS = pytest.mark.parametrize("way", [(), ("--offline",), ("--isolate",)], ids=["quick", "long", "isolated"])


@WAYS
def test_the_command_has_the_callers_terminal(terminal, way):
    script = "for n in 0 1 2; do test -t $n || echo no $n; done; ls /proc/self/fd/; pwd; echo x >/dev/tty"
    one = terminal("run", *way, "--", "bash", "-c", script)
    one.until("/work\nx\n")
    assert "no " not in one.shown
    assert one.status() == 0


@WAYS
def test_the_size_of_the_window_is_seen_and_followed(terminal, way):
    script = "size() { read -r r c < <(bash -O checkwinsize -c '(:); echo $LINES $COLUMNS' </dev/tty 2>/dev/tty); echo $r x $c; }"
    script += "; trap 'size; exit' WINCH; size; while true; do sleep 0.05; done"
    one = terminal("run", *way, "--", "bash", "-c", script)
    one.until("33 x 77\n")
    one.resize(20, 50)
    one.until("20 x 50\n")
    assert one.status() == 0


@WAYS
def test_ctrl_c_reaches_the_command_once(terminal, way):
    script = "trap 'count=x$count' INT; echo ready; SECONDS=0; while [ $SECONDS -lt 2 ]; do :; done; echo times: $count"
    one = terminal("run", *way, "--", "bash", "-c", script)
    one.until("ready\n")
    time.sleep(0.3)
    one.type("\x03")
    one.until("times: x\n")
    assert one.status() == 0


@WAYS
def test_ctrl_c_ends_a_command_that_does_not_mind(terminal, way):
    one = terminal("run", *way, "--", "bash", "-c", "echo ready; exec sleep 1000")
    one.until("ready\n")
    time.sleep(0.2)
    one.type("\x03")
    assert one.status() == -signal.SIGINT


@WAYS
def test_a_shell_has_job_control(terminal, way):
    one = terminal("shell", *way)
    one.type("PS1=ask:\n")
    one.until("\nask:$")
    one.type("sleep 1000\n")
    time.sleep(0.5)
    one.type("\x1a")
    one.until(r"Stopped.*sleep 1000")
    one.type("jobs\n")
    one.until(r"\[1\]\+ +Stopped")
    one.type("kill %1; fg; echo it was $?\n")
    one.until(r"it was 143")
    one.type("cat /greeting; pwd\n")
    one.until("small\n/work\n")
    one.type("exit 9\n")
    assert one.status() == 9
    assert "no job control" not in one.shown


def test_a_run_can_be_stopped_and_goes_on(terminal):
    """As a shell does with a job in the foreground."""
    one = terminal("run", "--", "bash", "-c", "echo ready; read -r word; echo got $word")
    one.until("ready\n")
    os.killpg(one.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(one.pid, os.WUNTRACED)[1])
    os.killpg(one.pid, signal.SIGCONT)
    one.type("hello\n")
    one.until("got hello\n")
    assert one.status() == 0


def test_progress_on_a_terminal_leaves_it_clean(fresh, monkeypatch):
    one = Terminal(fresh, "run")
    try:
        one.until("small\n1 2 3\n")
        assert one.status() == 0
    finally:
        one.close()


@WAYS
def test_a_terminal_that_goes_away_ends_the_command(realized, way):
    one = Terminal(realized, "run", *way, "--", "bash", "-c", "echo ready; exec sleep 1000")
    one.until("ready\n")
    time.sleep(0.2)
    one.hang_up()
    assert one.status() == -signal.SIGHUP


def test_a_failed_step_is_looked_into_with_a_shell_as_any_other(project):
    project.edit("mkdir -p /opt/deep", "echo half >/made; nosuchcommand")
    assert project("lock").status == 0
    assert project("realize").status == 1
    one = Terminal(project, "shell", "--failed", "greeting")
    try:
        one.type("PS1=ask:\n")
        one.until("\nask:$")
        one.type("sleep 1000; echo it was $?\n")
        time.sleep(0.5)
        one.type("\x03")
        one.until("ask:")
        one.type("sleep 1000\n")
        time.sleep(0.5)
        one.type("\x1a")
        one.until(r"Stopped.*sleep 1000")
        one.type("kill %1; cat /made; echo $SOURCE_DATE_EPOCH; exit 9\n")
        one.until("\nhalf\n")
        one.until("\n315532800\n")
        assert one.status() == 9
        assert "no job control" not in one.shown
    finally:
        one.close()
