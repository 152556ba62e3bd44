"""The caller's streams, terminal and signals, handed to a container and back."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from reprobox_docker.stream import Frames, Stream

#: Signals that are the command's to handle, as if it were the caller's own child.
_HANDED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
)  # fmt: skip
_CHUNK = 1 << 16
_IN, _OUT, _ERR = 0, 1, 2


def at_a_terminal() -> bool:
    """Whether all of the caller's streams are a terminal; where one is not, they are kept apart."""
    return all(os.isatty(number) for number in (_IN, _OUT, _ERR))


def connect(
    stream: Stream,
    *,
    terminal: bool,
    send: Callable[[str], object],
    resize: Callable[[int, int], object],
    begin: Callable[[], object],
    wait: Callable[[], int],
) -> int:
    """Pass everything on until ``wait``, called in a thread once ``begin`` has been, returns the exit status.

    ``send`` gets names of signals, ``resize`` the terminal's lines and columns. Must be called in the main thread.
    """
    with _signals() as received, _raw(wanted=terminal):
        begin()
        ended, ending = os.pipe()
        status: list[int] = []
        watcher = threading.Thread(target=_watch, args=(wait, status, ending), name="reprobox-wait", daemon=True)
        watcher.start()
        try:
            if terminal:
                _resize(resize)
            _Pump(stream, terminal=terminal, send=send, resize=resize).run(received, ended)
        finally:
            os.close(ended)
        watcher.join()
    return status[0] if status else 137


def _watch(wait: Callable[[], int], status: list[int], ending: int) -> None:
    try:
        with contextlib.suppress(Exception):  # told as a status: the main thread has the streams to see to
            status.append(wait())
    finally:
        os.close(ending)


class _Pump:
    def __init__(
        self, stream: Stream, *, terminal: bool, send: Callable[[str], object], resize: Callable[[int, int], object]
    ) -> None:
        self._socket = stream.socket
        self._early = stream.early
        self._frames = None if terminal else Frames()
        self._send = send
        self._resize = resize
        self._pending = b""
        self._open = {_OUT, _ERR}
        self._input = True
        self._output = True

    def run(self, received: int, ended: int) -> None:
        """Until the output has ended and so has the container."""
        running = True
        self._take(self._early)
        while running or self._output:
            poll = select.poll()
            poll.register(received, select.POLLIN)
            if running:
                poll.register(ended, select.POLLIN)
            if self._input and not self._pending:
                poll.register(_IN, select.POLLIN)
            if self._output or self._pending:
                wanted = (select.POLLIN if self._output else 0) | (select.POLLOUT if self._pending else 0)
                poll.register(self._socket, wanted)
            for descriptor, events in poll.poll():
                if descriptor == received:
                    self._signal(os.read(received, 64))
                elif descriptor == ended:
                    running = self._input = False
                elif descriptor == _IN:
                    self._read_input()
                else:
                    self._exchange(events)

    def _signal(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                _resize(self._resize)
            elif number in _HANDED_ON:
                self._send(signal.Signals(number).name)

    def _read_input(self) -> None:
        try:
            self._pending = os.read(_IN, _CHUNK)
        except OSError:
            self._pending = b""
        if not self._pending:
            self._input = False
            self._end_input()

    def _end_input(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(1)

    def _exchange(self, events: int) -> None:
        try:
            if events & select.POLLOUT and self._pending:
                self._pending = self._pending[self._socket.send(self._pending) :]
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = self._socket.recv(_CHUNK)
                self._output = bool(data)
                self._take(data)
        except OSError:
            self._output = False
        if not self._output:
            self._pending, self._input = b"", False

    def _take(self, data: bytes) -> None:
        if self._frames is None:
            self._show(_OUT, data)
            return
        for number, piece in self._frames.feed(data):
            self._show(number, piece)

    def _show(self, number: int, data: bytes) -> None:
        """Write to one of the caller's streams; if nobody reads it any more, the command is told as it would be."""
        try:
            while data and number in self._open:
                data = data[os.write(number, data) :]
        except OSError:
            self._open.discard(number)
            self._send("SIGPIPE")


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of received signals are read, one byte each."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {number: signal.signal(number, _note) for number in (*_HANDED_ON, signal.SIGWINCH)}
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.close(reader)
        os.close(writer)


def _note(number: int, frame: FrameType | None) -> None:
    """Nothing: the number is read from the descriptor."""


@contextlib.contextmanager
def _raw(*, wanted: bool) -> Iterator[None]:
    """The terminal passes every key on, until it is given back."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(_IN)
    tty.setraw(_IN, termios.TCSADRAIN)  # what was typed ahead is not lost
    try:
        yield
    finally:
        termios.tcsetattr(_IN, termios.TCSADRAIN, before)


def _resize(resize: Callable[[int, int], object]) -> None:
    with contextlib.suppress(OSError):
        size = os.get_terminal_size(_OUT)
        resize(size.lines, size.columns)
