"""How the contents of two files differ: a short diff of text, a place in bytes, and what diffoscope says."""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from reprobox.store import StoredLayer
from reprobox.tree import opened

_TEXT = 1 << 20  # bytes of a text that is compared by lines
_LINES, _WIDTH = 12, 200
_OPENED = 64 << 20  # bytes of a file that diffoscope is given
_SECONDS, _MORE_LINES = 60.0, 40


class Shown:
    """Shows contents of a layer's files. Of those that are no text, diffoscope, where installed, is given the first.

    ``scratch`` is a folder for copies that diffoscope reads.
    """

    def __init__(self, scratch: Path, *, diffoscope: bool = True) -> None:
        self._scratch = scratch
        self._program = shutil.which("diffoscope") if diffoscope else None

    def of(self, path: bytes, one: StoredLayer | None, other: StoredLayer | None) -> tuple[str, ...]:
        """Lines that show how a file of both layers differs; none where that cannot be seen."""
        if one is None or other is None:
            return ()
        places = [_inside(layer, path) for layer in (one, other)]
        if None in places:
            return ()
        first, second = (place for place in places if place is not None)
        try:
            starts = [_start(place) for place in (first, second)]
            texts = [_as_text(data) for data in starts]
            if texts[0] is not None and texts[1] is not None:
                return tuple(_bounded(_diff(texts[0], texts[1]), _LINES))
            return (*_bytes(first, second, *starts), *self._looked_into(first, second))
        except OSError:
            return ()

    def _looked_into(self, one: str, other: str) -> tuple[str, ...]:
        program, self._program = self._program, None
        if program is None or max(os.path.getsize(one), os.path.getsize(other)) > _OPENED:
            return ()
        said = tuple(_bounded(diffoscope(program, one, other, self._scratch), _MORE_LINES))
        return ("diffoscope:", *said) if said else ()


def _inside(layer: StoredLayer, path: bytes) -> str | None:
    """Where a plain file of the layer is; nothing else is opened, and no link followed out of the layer."""
    full = os.path.join(str(layer.tree), os.fsdecode(path))
    try:
        return full if stat.S_ISREG(os.lstat(full).st_mode) else None
    except OSError:
        return None


def _bytes(one: str, other: str, first: bytes, second: bytes) -> Iterator[str]:
    """Where two files that begin so start to differ, and with what."""
    at = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    sizes = [os.path.getsize(path) for path in (one, other)]
    size = f"{sizes[0]} bytes" if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]} bytes"
    if at > _TEXT:
        yield f"{size}; the first {_TEXT} are the same"
        return
    yield f"{size}; they differ from byte {at} on"
    yield from (f"{sign}{data[at : at + 24].hex(' ')}" for sign, data in (("-", first), ("+", second)))


def _start(path: str) -> bytes:
    with opened(path) as file:
        return file.read(_TEXT + 1)


def _as_text(data: bytes) -> str | None:
    if len(data) > _TEXT or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _diff(one: str, other: str) -> Iterator[str]:
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=1, lineterm="")
    for number, line in enumerate(lines):
        if number > 1 and not line.startswith("@@"):  # names of files, and places that say little
            yield line
    if one.splitlines() == other.splitlines():
        yield "the lines are the same; how they end differs"


def diffoscope(program: str, one: str, other: str, scratch: Path) -> Sequence[str]:
    """What diffoscope says of two files, bounded in time and size. It is given copies."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="diffoscope-") as folder:
        copies = [Path(folder, side, os.path.basename(one)) for side in ("one", "other")]
        for source, copy in zip((one, other), copies, strict=True):
            copy.parent.mkdir()
            with opened(source) as data, copy.open("wb") as file:
                shutil.copyfileobj(data, file)
        argv = [program, "--no-progress", "--text", "-", "--max-report-size", "65536", "one", "other"]
        return _ran([*argv[:-2], *(str(copy.relative_to(folder)) for copy in copies)], folder)


def _ran(argv: Sequence[str], folder: str) -> Sequence[str]:
    environment = {**os.environ, "TMPDIR": folder, "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"it was stopped after {_SECONDS:g} seconds"]
    finally:
        if process.poll() is None:  # it starts other programs, which are of its session
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    # The first lines only name the two files.
    return [line for line in said.splitlines() if not line.startswith(("--- ", "+++ "))]


def _bounded(lines: Sequence[str] | Iterator[str], most: int) -> Iterator[str]:
    """At most so many lines, none of them long, and nothing that a terminal would obey."""
    for number, line in enumerate(lines):
        if number == most:
            yield "…"
            return
        text = "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in line)
        yield text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
