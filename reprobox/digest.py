"""Canonical bytes and the digests made of them: layer ids and the tree digest.

Standard library only: the sandbox's launcher imports this module in a bare interpreter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple, TypeAlias

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"

#: Format tag of layer ids. Changing what goes into an id means changing this.
LAYER_FORMAT = "reprobox-layer-1"
#: Version of the rules by which every layer is built: the fixed environment of steps (``reprobox.building``) and how a
#: result is normalised (``reprobox.normalise``).
NORMALISER = 2

_ESCAPES = {ord("\\"): "\\x5C", ord("\n"): "\\x0A", ord(" "): "\\x20"}
_ESCAPED = [_ESCAPES.get(byte, chr(byte)) for byte in range(256)]


def canonical(value: Json) -> bytes:
    """Encode ``value`` as RFC 8785 (JSON Canonicalization Scheme) bytes.

    Floating-point numbers are refused: nothing that reprobox hashes needs one, and they are where encoders differ.
    Integers must lie within ±(2**53 - 1), as RFC 8785 section 3.2.2.3 asks.
    """
    pieces: list[str] = []
    _add(value, pieces)
    return "".join(pieces).encode("utf-8")


def _add(value: Any, pieces: list[str]) -> None:
    kind = type(value)  # locks have tens of thousands of values: what is not of a subclass is told apart at once
    if kind is str:
        pieces.append(encode_basestring(value))
    elif kind is dict or isinstance(value, Mapping):
        _add_table(value, pieces)
    elif kind is list or kind is tuple:
        _add_list(value, pieces)
    elif value is None or kind is bool:
        pieces.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, int):
        if abs(value) >= 2**53:
            raise ValueError(f"integer out of the canonical range: {value}")
        pieces.append(str(value))
    elif isinstance(value, str):
        pieces.append(encode_basestring(value))
    elif isinstance(value, list | tuple):
        _add_list(value, pieces)
    else:
        raise TypeError(f"not canonical JSON: {type(value).__name__}")


def _add_table(table: Mapping[str, Json], pieces: list[str]) -> None:
    if not table:
        pieces.append("{}")
        return
    separator = "{"
    for key in _sorted(table):
        value = table[key]
        pieces.append(f"{separator}{encode_basestring(key)}:")
        if type(value) is str:
            pieces.append(encode_basestring(value))
        else:
            _add(value, pieces)
        separator = ","
    pieces.append("}")


def _add_list(items: Sequence[Json], pieces: list[str]) -> None:
    separator = "["
    for item in items:
        pieces.append(separator)
        _add(item, pieces)
        separator = ","
    pieces.append("]" if items else "[]")


def _sorted(table: Mapping[str, Json]) -> list[str]:
    """Keys by UTF-16 code units (RFC 8785 section 3.2.3); for ASCII, that is the order of code points."""
    keys = sorted(table)
    return keys if "".join(keys).isascii() else sorted(table, key=lambda key: key.encode("utf-16-be"))


def sha256(data: bytes) -> str:
    """Lower-case hex sha256 of ``data``, without a prefix."""
    return hashlib.sha256(data).hexdigest()


def prefixed(hexdigest: str) -> str:
    """``sha256:<hex>``, the form in which digests are printed and written into OCI documents."""
    return f"sha256:{hexdigest}"


def bare(digest: str) -> str:
    """The hex part of ``sha256:<hex>``; a bare hex digest is returned as it is."""
    return digest.removeprefix("sha256:")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerInputs:
    """Everything that decides a layer's bytes, and nothing else.

    ``files`` are ``(type, file name, sha256)`` of the locked inputs; ``environment`` is the build environment a layer
    declares; ``ancestors`` are the ids of all layers below it, in stacking order.
    """

    kind: str
    recipe: int
    files: tuple[tuple[str, str, str], ...]
    options: Mapping[str, Json]
    environment: Mapping[str, str]
    epoch: int
    ancestors: tuple[str, ...]

    def document(self) -> dict[str, Json]:
        """The fields as they are hashed; kept beside the id so that a changed id can be explained."""
        return {
            "format": LAYER_FORMAT,
            "kind": self.kind,
            "recipe": self.recipe,
            "normaliser": NORMALISER,
            "files": [list(item) for item in sorted(self.files)],
            "options": self.options,
            "environment": self.environment,
            "epoch": self.epoch,
            "ancestors": list(self.ancestors),
        }


def layer_id(inputs: LayerInputs) -> str:
    """Merkle hash of a layer's inputs and its ancestors' ids; known before anything is built."""
    return Ancestry(inputs.ancestors).layer_id(inputs)


class Ancestry:
    """The ids below a layer, hashed already: layers of a long chain share that work.

    In the canonical form of :class:`LayerInputs`, ``ancestors`` is the first key.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._state = hashlib.sha256(b'{"ancestors":[')
        self._separator = ""
        for identity in ids:
            self._add(identity)

    def _add(self, identity: str) -> None:
        self._state.update(f"{self._separator}{encode_basestring(identity)}".encode())
        self._separator = ","

    def then(self, identity: str) -> Ancestry:
        """These ids and one more above them."""
        new = Ancestry()
        new._state, new._separator = self._state.copy(), self._separator
        new._add(identity)
        return new

    def layer_id(self, inputs: LayerInputs) -> str:
        """The id of a layer over these ancestors, whatever ``inputs`` says of its own."""
        rest = {name: value for name, value in inputs.document().items() if name != "ancestors"}
        state = self._state.copy()
        state.update(b"]," + canonical(rest)[1:])
        return state.hexdigest()


class Entry(NamedTuple):
    """One path of a tree. ``kind`` is ``d``, ``f``, ``l`` or, in a layer's index only, ``w`` for a whiteout.

    ``mode`` has the permission bits with setuid, setgid and sticky; ``detail`` is ``-`` for a directory, the sha256 hex
    of a file's content, or an escaped link target.
    """

    kind: str
    mode: int
    detail: str
    path: bytes

    def line(self) -> str:
        return f"{self.kind} {self.mode:04o} {self.detail} {escape(self.path)}\n"


def escape(raw: bytes) -> str:
    r"""``raw`` with backslash, space and newline written as ``\xHH``; other bytes stand for themselves (latin-1)."""
    text = raw.decode("latin-1")
    if "\\" in text or " " in text or "\n" in text:
        return "".join(_ESCAPED[byte] for byte in raw)
    return text


def unescape(text: str) -> bytes:
    """The bytes that :func:`escape` wrote as ``text``."""
    if "\\" not in text:
        return text.encode("latin-1")
    for byte, escaped in _ESCAPES.items():
        if byte != ord("\\"):
            text = text.replace(escaped, chr(byte))
    return text.replace("\\x5C", "\\").encode("latin-1")


def read_index(data: bytes) -> list[Entry]:
    """Entries of an index as :func:`write_index` wrote them."""
    entries = []
    for line in data.decode("latin-1").split("\n"):
        if line:
            kind, mode, detail, path = line.split(" ")
            entries.append(Entry(kind, int(mode, 8), detail, unescape(path)))
    return entries


def write_index(entries: Iterable[Entry]) -> bytes:
    """One line per entry in the given order, as the tree digest has them."""
    return "".join(entry.line() for entry in entries).encode("latin-1")


_HIDDEN_BELOW = (b"dev", b"proc", b"sys", b"run", b"tmp")
_HIDDEN = frozenset(
    (
        b"etc/resolv.conf",
        b"etc/hosts",
        b"etc/hostname",
        b"etc/mtab",
        b".dockerenv",
        b".singularity.d",
        b".exec",
        b".run",
        b".shell",
        b".test",
        b"singularity",
        b"environment",
    )
)


def hidden(path: bytes) -> bool:
    """Whether the tree digest leaves ``path`` out: run-time folders' content, and what engines put into every root."""
    head, slash, _ = path.partition(b"/")
    return (bool(slash) and head in _HIDDEN_BELOW) or path in _HIDDEN or head == b".singularity.d"


def tree_digest(entries: Iterable[Entry]) -> str:
    """sha256 hex over one line per visible path of a merged tree, sorted by path bytes."""
    state = hashlib.sha256()
    for entry in sorted(entries, key=lambda item: item.path):
        if entry.kind in "dfl" and not hidden(entry.path):
            state.update(entry.line().encode("latin-1"))
    return state.hexdigest()


def git_blob(data: bytes) -> str:
    """Hex object id that git gives a blob of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def host_path(path: bytes) -> str:
    """A tree path as the ``str`` that ``os`` functions take (surrogate-escaped where it is not UTF-8)."""
    return os.fsdecode(path)
