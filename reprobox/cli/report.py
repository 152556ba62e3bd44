"""What people see on standard error: bars on a terminal, plain lines otherwise, nothing with ``-q``."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from reprobox.sizes import human as human  # noqa: PLC0414 - verbs take it from here

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_EVERY = 5.0  # seconds between plain lines of one download


class Quiet:
    """No progress at all; also a display of a transfer that shows nothing."""

    def say(self, text: str) -> None: ...
    def fetching(self) -> Quiet:
        return self

    def moving(self, label: str) -> Quiet:  # noqa: ARG002 - the protocol's names
        return self

    def building(self, name: str, number: int, total: int) -> None: ...
    def built(self, name: str, seconds: float, size: int) -> None: ...
    def start(self, size: int, files: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def done(self, name: str) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class Lines:
    """One line for each thing that happens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            print(plain(text), file=sys.stderr, flush=True)

    def fetching(self) -> Any:
        return _FetchLines(self)

    def moving(self, label: str) -> Any:
        return _FetchLines(self, label)

    def building(self, name: str, number: int, total: int) -> None:
        self.say(f"[{number}/{total}] building {name}")

    def built(self, name: str, seconds: float, size: int) -> None:
        self.say(f"built {name} in {seconds:.1f} s ({human(size)})")


class _FetchLines:
    """Progress of one transfer as an occasional line; ``label`` says what it is, if it is not the fetching of files."""

    def __init__(self, lines: Lines, label: str = "") -> None:
        self._lines = lines
        self._label = label
        self._size = self._count = self._files = self._ready = 0
        self._started = self._told = time.monotonic()

    def start(self, size: int, files: int) -> None:
        self._size, self._files = size, files
        known = f" ({human(size)})" if size else ""
        self._lines.say(f"{self._label or _files(files)}{known}")

    def advance(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            whole = f" of {human(self._size)}" if self._size else ""
            self._lines.say(f"  {human(self._count)}{whole}, {self._ready} of {self._files} files")

    def done(self, name: str) -> None:  # noqa: ARG002 - the protocol's names
        self._ready += 1

    def note(self, text: str) -> None:
        self._lines.say(f"  {text}")

    def stop(self) -> None:
        if self._ready == self._files and not self._label:
            self._lines.say(f"fetched {human(self._size or self._count)} in {time.monotonic() - self._started:.1f} s")


class Bars(Lines):
    """Bars for downloads and a spinner for steps, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: RichProgress | None = None
        self._users = 0
        self._steps: dict[str, Any] = {}

    def say(self, text: str) -> None:
        bars = self._bars
        if bars is not None:
            bars.console.print(plain(text), markup=False, highlight=False)
        else:
            super().say(text)

    def fetching(self) -> Any:
        return _FetchBar(self)

    def moving(self, label: str) -> Any:
        return _FetchBar(self, label)

    def building(self, name: str, number: int, total: int) -> None:
        self._steps[name] = self.enter().add_task(f"[{number}/{total}] building {name}", total=None)

    def built(self, name: str, seconds: float, size: int) -> None:
        task = self._steps.pop(name, None)
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)
            self.leave()
        super().built(name, seconds, size)

    def enter(self) -> RichProgress:
        """The live display; :meth:`leave` ends this use of it."""
        from rich import progress
        from rich.console import Console

        with self._lock:
            self._users += 1
            if self._bars is None:
                self._bars = progress.Progress(
                    progress.TextColumn("{task.description}", markup=False),
                    progress.BarColumn(),
                    progress.DownloadColumn(binary_units=True),
                    progress.TimeElapsedColumn(),
                    console=Console(stderr=True),
                    transient=True,
                )
                self._bars.start()
            return self._bars

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users <= 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None

    def close(self) -> None:
        """Give the terminal back, however the command ends."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _FetchBar:
    def __init__(self, bars: Bars, label: str = "") -> None:
        self._bars = bars
        self._label = label
        self._live: RichProgress | None = None
        self._task: Any = None

    def start(self, size: int, files: int) -> None:
        self._live = self._bars.enter()
        self._task = self._live.add_task(self._label or _files(files), total=size or None)

    def advance(self, count: int) -> None:
        if self._live is not None:
            self._live.advance(self._task, count)

    def done(self, name: str) -> None: ...

    def note(self, text: str) -> None:
        self._bars.say(f"  {text}")

    def stop(self) -> None:
        if self._live is not None:
            self._live.remove_task(self._task)
            self._live = None
            self._bars.leave()


def _files(count: int) -> str:
    return f"fetching {count} file{'s' if count != 1 else ''}"


def reporter(*, quiet: bool) -> Quiet | Lines:
    """The reporter that fits where standard error goes."""
    if quiet:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()


def plain(text: str) -> str:
    """``text`` with everything that would steer a terminal, or turn a line around, written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(ord(char)) for char in text)


def on_one_line(text: str) -> str:
    """A line end in a name would make it pass for a line of its own."""
    return plain(text.replace("\n", "\\n").replace("\t", "\\t"))


def _escaped(number: int) -> str:
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
