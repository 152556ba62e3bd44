"""Reading tar archives as a stream: strictly, with every size bounded, and faster than ``tarfile``.

What is read: v7, ustar, GNU (long names, base-256 numbers) and pax. What is refused with :class:`TarError` instead of
being read as something else: broken checksums, cut-off archives, sparse files, unknown types. Python 3.11's ``tarfile``
takes a broken header in the middle for the end, and its pax reader can be made to work for hours.

Sources: POSIX.1-2017 pax(1); GNU tar manual, "Basic Tar Format"; where these leave room, Go's archive/tar, which Docker
uses. Standard library only, and isal or zstandard where something is packed with gzip or zstd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import IO, NamedTuple, Protocol

FILE, HARD_LINK, SYMLINK, DEVICE, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_BLOCK = 512
_CHUNK = 1 << 18
#: Most bytes of a long name or of pax records; Go's limit.
_MOST_EXTENDED = 1 << 20
#: Most bytes of memory that unpacking xz may take; ``xz -9`` asks for 65 MiB.
_MOST_XZ_MEMORY = 512 << 20
_FILES = (b"0", b"\0", b"7")
_WITHOUT_DATA = (HARD_LINK, SYMLINK, DEVICE, BLOCK_DEVICE, FOLDER, FIFO)
_ZEROS = bytes(_BLOCK)
_NANO = 1_000_000_000
_GZIP = b"\x1f\x8b"  # ID1 and ID2


class TarError(ValueError):
    """The archive is not one that can be read."""


class Header(NamedTuple):
    """One entry.

    ``kind`` is one of the constants above, ``mode`` the permission bits with set-id and sticky, ``mtime`` in ns,
    ``target`` a link's. Names are bytes as they stand, not cleaned.
    """

    name: bytes
    kind: bytes
    mode: int
    size: int
    mtime: int
    target: bytes


class TarStream:
    """The entries of an archive, one after the other; :meth:`data` is the current one's content."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._received = 0
        self._left = 0  # of the current entry's content
        self._padding = 0

    def __iter__(self) -> Iterator[Header]:
        extended: dict[bytes, bytes] = {}
        while block := self._block():
            size = _number(block[124:136])
            kind = block[156:157]
            if kind in (b"L", b"K"):
                extended[b"path" if kind == b"L" else b"linkpath"] = self._extension(size).partition(b"\0")[0]
            elif kind == b"x":
                extended |= _records(self._extension(size))
            elif kind == b"g":  # defaults for all that follow: comments in practice, and Docker leaves them out too
                self._extension(size)
            else:
                header = _header(block, kind, size, extended)
                extended = {}
                self._left, self._padding = header.size, -header.size % _BLOCK
                yield header
                for _ in self.data():
                    pass
        for _ in self._chunks:  # what follows the end counts for the archive's hash
            pass

    @property
    def position(self) -> int:
        """How many bytes of the archive were read: where the content of an entry begins that was just given out."""
        return self._received - (len(self._buffer) - self._at)

    def data(self) -> Iterator[bytes]:
        """What is left of the current entry's content, in pieces."""
        while self._left:
            if self._at == len(self._buffer) and not self._fill():
                raise TarError("the archive is cut off")
            piece = (
                self._buffer[self._at : self._at + self._left]
                if self._at or self._left < len(self._buffer)
                else self._buffer
            )
            self._at += len(piece)
            self._left -= len(piece)
            yield piece
        if self._padding:
            self._take(self._padding)
            self._padding = 0

    def _block(self) -> bytes:
        """The next header block; empty at the end, which may be marked by zeros or by nothing."""
        block = self._take(_BLOCK, or_nothing=True)
        if not block or block == _ZEROS:
            if block and self._take(_BLOCK, or_nothing=True).strip(b"\0"):
                raise TarError("something follows the first half of the archive's end mark")
            return b""
        said = _number(block[148:156])
        if said != sum(block) - sum(block[148:156]) + 8 * 32:
            raise TarError("a header's checksum is wrong")
        return block

    def _extension(self, size: int) -> bytes:
        if size > _MOST_EXTENDED:
            raise TarError(f"a name or its attributes take {size} bytes")
        data = self._take(size)
        self._take(-size % _BLOCK)
        return data

    def _take(self, count: int, *, or_nothing: bool = False) -> bytes:
        """Exactly ``count`` bytes; with ``or_nothing``, none where the archive ends here."""
        while len(self._buffer) - self._at < count:
            if not self._fill():
                if or_nothing and self._at == len(self._buffer):
                    return b""
                raise TarError("the archive is cut off")
        self._at += count
        return self._buffer[self._at - count : self._at]

    def _fill(self) -> bool:
        """Have more in the buffer; False at the end."""
        chunk = next(self._chunks, None)
        if chunk is not None:
            self._buffer = self._buffer[self._at :] + chunk
            self._received += len(chunk)
            self._at = 0
        return chunk is not None


def _header(block: bytes, kind: bytes, size: int, extended: Mapping[bytes, bytes]) -> Header:
    name = extended.get(b"path") or _ustar_name(block)
    if any(key.startswith(b"GNU.sparse.") for key in extended) or kind == b"S":
        raise TarError(f"{_shown(name)} is stored as a sparse file")
    if kind in _FILES:
        kind = FOLDER if name.endswith(b"/") else FILE
    elif kind not in _WITHOUT_DATA:
        raise TarError(f"{_shown(name)} has the unknown type {_shown(kind)}")
    target = extended.get(b"linkpath") or _text(block[157:257])
    if b"\0" in name or b"\0" in target:
        raise TarError(f"{_shown(name)} has a NUL in its name")
    return Header(
        name=name,
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        size=_decimal(extended[b"size"]) if b"size" in extended and kind == FILE else size if kind == FILE else 0,
        mtime=_time(extended[b"mtime"]) if b"mtime" in extended else _ustar_time(block[136:148]),
        target=target,
    )


def _ustar_name(block: bytes) -> bytes:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """An octal number or, where that is too small for it, a base-256 one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _text(field.strip(b" \0")) or b"0"
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise TarError("a header has something else where a number must be")
    return int(digits, 8)


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise TarError("a pax header has something else where a number must be")
    return int(value)


def _ustar_time(field: bytes) -> int:
    return 0 if field[0] == 0xFF else _number(field) * _NANO  # a time before 1970


def _time(value: bytes) -> int:
    """Nanoseconds of a pax time such as ``1600000000.25``; zero for times before 1970."""
    seconds, _, fraction = value.partition(b".")
    if seconds.startswith(b"-"):
        return 0
    return _decimal(seconds) * _NANO + (_decimal(fraction[:9].ljust(9, b"0")) if fraction else 0)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Records ``length key=value`` of a pax header; an empty value means that the ustar field counts."""
    found = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > at else 0
        record = data[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or at + length > len(data):
            raise TarError("a pax header is broken")
        found[key] = value
        at += length
    return found


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


# -- compression -------------------------------------------------------------------------------------------------------


def decompressed(file: IO[bytes]) -> Iterator[bytes]:
    """The archive's bytes in pieces, unpacked as its first bytes say: gzip, zstd, bzip2, xz or none."""
    start = file.read(6)
    file.seek(-len(start), 1)
    if start[:2] == _GZIP:
        return _gunzipped(file)
    if start[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(file)
    if start[:3] == b"BZh":
        return _bunzipped(file)
    if start == b"\xfd7zXZ\0":
        return _unxzed(file)
    return iter(lambda: file.read(_CHUNK), b"")


def _gunzipped(file: IO[bytes]) -> Iterator[bytes]:
    """RFC 1952: any number of members; zeros may follow the last, as on tapes."""
    from isal import isal_zlib

    member = isal_zlib.decompressobj(wbits=31)
    try:
        while data := file.read(_CHUNK):
            data = data.lstrip(b"\0") if member.eof else data
            while data:
                if member.eof:
                    if not _GZIP.startswith(data[:2]):
                        raise TarError("its gzip data is broken: something else follows it")
                    member = isal_zlib.decompressobj(wbits=31)
                yield member.decompress(data, 4 * _CHUNK)
                data = member.unused_data.lstrip(b"\0") if member.eof else member.unconsumed_tail
        yield member.flush()
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its annotations take the class for an object
        raise TarError(f"its gzip data is broken: {error}") from None
    if not member.eof:
        raise TarError("its gzip data is cut off")


def _bunzipped(file: IO[bytes]) -> Iterator[bytes]:
    """Any number of streams, as parallel compressors write them; zeros may stand between them and follow them."""
    import bz2

    return _streams(file, bz2.BZ2Decompressor, "bzip2", OSError)


def _unxzed(file: IO[bytes]) -> Iterator[bytes]:
    """Any number of streams; zeros may stand between them and follow them."""
    import lzma

    return _streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY), "xz", lzma.LZMAError)


class _Decompressor(Protocol):
    """What ``bz2`` and ``lzma`` agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _streams(file: IO[bytes], new: Callable[[], _Decompressor], name: str, broken: type[Exception]) -> Iterator[bytes]:
    stream = new()
    try:
        while data := file.read(_CHUNK):
            data = data.lstrip(b"\0") if stream.eof else data
            while data or not (stream.eof or stream.needs_input):
                if stream.eof:
                    stream = new()
                yield stream.decompress(data, 4 * _CHUNK)
                data = stream.unused_data.lstrip(b"\0") if stream.eof else b""
    except broken as error:
        raise TarError(f"its {name} data is broken: {error}") from None
    if not stream.eof:
        raise TarError(f"its {name} data is cut off")


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False) as reader:
            while chunk := reader.read(4 * _CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise TarError(f"its zstd data is broken: {error}") from None
