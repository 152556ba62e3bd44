"""Keeping the values of secrets out of what stays: logs, the state of failed steps, layers.

Only bytes that stand there as they are, or as base64, hex or in a URL, can be found: a script that encrypts or
compresses a secret hides it from this. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes

from reprobox.tree import opened, walk

#: What stands in a log for a secret.
MASK = b"***"
#: Shorter values, in bytes, are found in logs alone: in files they would be found by chance.
SHORTEST = 8
_BASE64_LINE = 76
_CHUNK = 1 << 20


class Redactor:
    """Replaces the values of secrets, and their common spellings, in a stream of bytes that comes in pieces."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        forms = {form for value in values.values() for form in spellings(value)}
        # Of alternatives that begin at one place, the first is taken: the longest one.
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)) or b"(?!)")
        self._longest = max(map(len, forms), default=1)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown by now; the end is held back while it may be the beginning of a secret."""
        self._held += data
        return self._shown(len(self._held) - self._longest + 1)

    def finish(self) -> bytes:
        """The rest."""
        return self._shown(len(self._held))

    def _shown(self, decided: int) -> bytes:
        """The masked bytes before ``decided``: what begins there or later may still turn out to be longer."""
        shown, done = [], 0
        for found in self._pattern.finditer(self._held):
            if found.start() >= decided:
                break
            shown += [self._held[done : found.start()], MASK]
            done = found.end()
        end = max(done, decided, 0)
        shown.append(self._held[done:end])
        self._held = self._held[end:]
        return b"".join(shown)

    def text(self, text: str) -> str:
        """A whole text."""
        return os.fsdecode(self._pattern.sub(MASK, os.fsencode(text)))


def spellings(value: bytes) -> set[bytes]:
    """The ways in which a log may show ``value``: it, its lines, base64 (also in lines), hex, and percent-encoded."""
    bare = value.strip()
    found = {bare} - {b""}
    for form in {value, bare} if len(bare) >= SHORTEST else set():
        coded = base64.b64encode(form)
        pieces = [coded[at : at + _BASE64_LINE] for at in range(0, len(coded), _BASE64_LINE)]
        lines = [line.strip() for line in form.splitlines()]
        found |= {coded.rstrip(b"="), base64.urlsafe_b64encode(form).rstrip(b"=")}
        found |= {piece for piece in (*pieces, *lines) if len(piece) >= SHORTEST}
        found |= {form.hex().encode(), form.hex().upper().encode(), quote_from_bytes(form, safe="").encode()}
    return found


@contextlib.contextmanager
def redacted(log: BinaryIO, values: Mapping[str, bytes]) -> Iterator[int]:
    """A descriptor whose bytes go to ``log``, without the values; ``log``'s own where there is nothing to hide."""
    if not values:
        yield log.fileno()
        return
    reader, writer = os.pipe()
    pump = threading.Thread(target=_pump, args=(reader, log, Redactor(values)), name="reprobox-log", daemon=True)
    pump.start()
    try:
        yield writer
    finally:
        os.close(writer)
        pump.join()
        log.flush()


def _pump(reader: int, log: BinaryIO, redactor: Redactor) -> None:
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while data := pipe.read(1 << 16):
            log.write(redactor.feed(data))
            log.flush()
    log.write(redactor.finish())


def holders(root: Path, values: Mapping[str, bytes]) -> Iterator[tuple[bytes, str]]:
    """Paths below ``root`` that hold a secret, in their content, name or link target, each with the secret's name."""
    wanted = {name: _kept(value) for name, value in values.items() if len(value.strip()) >= SHORTEST}
    for path, status in walk(os.fsencode(root)) if wanted else ():
        content = _content(os.path.join(os.fsencode(root), path), status)
        name = _found(iter((path,)), wanted) or _found(content, wanted)
        if name:
            yield path, name


def _kept(value: bytes) -> tuple[bytes, ...]:
    bare = value.strip()
    return (bare, *(base64.b64encode(form).rstrip(b"=") for form in dict.fromkeys((value, bare))))


def _found(pieces: Iterator[bytes], wanted: Mapping[str, Sequence[bytes]]) -> str:
    """The name of a secret that the pieces hold, if they hold one."""
    longest = max(len(form) for forms in wanted.values() for form in forms)
    held = b""
    for piece in pieces:
        held += piece
        for name, forms in wanted.items():
            if any(form in held for form in forms):
                return name
        held = held[-longest:]
    return ""


def _content(path: bytes, status: os.stat_result) -> Iterator[bytes]:
    if stat.S_ISLNK(status.st_mode):
        yield os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with opened(path) as file:
            while data := file.read(_CHUNK):
                yield data
