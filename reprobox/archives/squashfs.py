"""Reading SquashFS file systems: strictly, with every offset and size checked, and without privilege.

``unsquashfs`` is not on every machine, and for an ordinary user it drops set-id bits without a word; the readers for
Python check little of what a hostile file may say. Compressions that are read: gzip, xz and zstd, which is what
Apptainer and SingularityCE write. Extended attributes are left out, as in every layer.

Sources: Documentation/filesystems/squashfs.rst of Linux, and squashfs_fs.h of squashfs-tools, version 4.0.
"""

from __future__ import annotations

import collections
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from reprobox.archives.tar_stream import BLOCK_DEVICE, DEVICE, FIFO, FILE, FOLDER, HARD_LINK, SYMLINK, Header

MAGIC = b"hsqs"

_SUPER = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_INODE = struct.Struct("<HHHHII")
_FOLDER, _FOLDER_X = struct.Struct("<IIHHI"), struct.Struct("<IIIIHHI")
_FILE, _FILE_X = struct.Struct("<IIII"), struct.Struct("<QQQIIII")
_LINK = struct.Struct("<II")
_LIST, _NAME = struct.Struct("<III"), struct.Struct("<HhHH")
_FRAGMENT = struct.Struct("<QII")
_NO_FRAGMENT = 0xFFFFFFFF
_META = 8192
_STORED_META, _STORED_DATA = 0x8000, 1 << 24
_COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_KINDS = {1: FOLDER, 2: FILE, 3: SYMLINK, 4: BLOCK_DEVICE, 5: DEVICE, 6: FIFO, 7: FIFO}

_BLOCK_SIZES = range(4096, (1 << 20) + 1)
_MOST_ENTRIES = 2_000_000
_MOST_METADATA = 1 << 29
_MOST_TARGET = 4096
_DEEPEST = 256
_KEPT_FRAGMENTS = 16
_MOST_XZ_MEMORY = 64 << 20


class SquashFsError(ValueError):
    """It is no SquashFS that can be read; the message says why."""


class CompressionError(SquashFsError):
    """It is sound, as far as one can see, and packed in a way that is not read here."""


class _Inode(NamedTuple):
    number: int
    kind: bytes
    mode: int
    mtime: int
    size: int = 0  # of a file's content, or of a folder's listing
    start: int = 0  # of a file's first block, or of the metadata block with a folder's listing
    offset: int = 0  # in the fragment, or in that metadata block
    fragment: int = _NO_FRAGMENT
    blocks: tuple[int, ...] = ()
    target: bytes = b""


class SquashFs:
    """The file system that is ``size`` bytes of ``file`` from ``offset``; to the file's end if not given.

    ``created`` is in unix seconds, ``compression`` one of gzip, xz and zstd. Raises :class:`SquashFsError`.
    """

    def __init__(self, file: IO[bytes], offset: int = 0, size: int | None = None) -> None:
        self._file = file
        self._offset = offset
        self._size = file.seek(0, 2) - offset if size is None else size
        fields = _SUPER.unpack(self._at(0, _SUPER.size, "the superblock"))
        magic, _, self.created, self._block, self._fragments, compressor, _, _, _, major, minor = fields[:11]
        self._root, used, _, _, self._inodes, self._folders, self._fragment_table, _ = fields[11:]
        if magic != MAGIC:
            raise SquashFsError("it is no SquashFS: it does not begin with hsqs")
        if (major, minor) != (4, 0):
            raise SquashFsError(f"it is of version {major}.{minor}, and only 4.0 is read here")
        if self._block not in _BLOCK_SIZES or self._block & (self._block - 1):
            raise SquashFsError(f"it says that its blocks have {self._block} bytes")
        if used > self._size:
            raise SquashFsError(f"it is cut off: it says that it has {used} bytes, and {self._size} are there")
        self.compression = _COMPRESSORS.get(compressor, f"method {compressor}")
        self._unpack = _unpacker(self.compression)
        self._metadata: dict[int, tuple[bytes, int]] = {}
        self._metadata_size = 0
        self._recent: collections.OrderedDict[int, bytes] = collections.OrderedDict()

    def entries(self, skip: Callable[[bytes], bool] = lambda _: False) -> Iterator[tuple[Header, Iterator[bytes]]]:
        """Every path below the root with its content, folders before what is in them; but for those to ``skip``.

        Names are relative. The second and later names of one file are hard links to the first.
        """
        first: dict[int, bytes] = {}
        for count, (path, inode) in enumerate(self._walk(b"", self._inode(self._root), set(), 0)):
            if count >= _MOST_ENTRIES:
                raise SquashFsError(f"it has more than {_MOST_ENTRIES} entries")
            if skip(path):
                continue
            linked = b"" if inode.kind == FOLDER else first.setdefault(inode.number, path)
            kind = HARD_LINK if linked and linked != path else inode.kind
            size = inode.size if kind == FILE else 0
            target = linked if kind == HARD_LINK else inode.target
            header = Header(name=path, kind=kind, mode=inode.mode, size=size, mtime=inode.mtime * 10**9, target=target)
            yield header, self._content(inode, path) if kind == FILE else iter(())

    def read(self, path: bytes, limit: int = 1 << 20) -> bytes | None:
        """The content of the file at ``path``; None where there is none. No link is followed."""
        inode = self._found(path)
        if inode is None or inode.kind != FILE:
            return None
        if inode.size > limit:
            raise SquashFsError(f"{_shown(path)} has {inode.size} bytes, more than {limit}")
        return b"".join(self._content(inode, path))

    def names(self, path: bytes) -> tuple[bytes, ...]:
        """What is in the folder at ``path``, sorted; nothing where there is none."""
        inode = self._found(path)
        return tuple(sorted(name for name, _ in self._listed(inode))) if inode and inode.kind == FOLDER else ()

    def _found(self, path: bytes) -> _Inode | None:
        inode = self._inode(self._root)
        for part in path.split(b"/"):
            reference = dict(self._listed(inode)).get(part) if inode.kind == FOLDER else None
            if reference is None:
                return None
            inode = self._inode(reference)
        return inode

    # -- the tree ------------------------------------------------------------------------------------------------------

    def _walk(self, path: bytes, folder: _Inode, seen: set[int], depth: int) -> Iterator[tuple[bytes, _Inode]]:
        if folder.kind != FOLDER:
            raise SquashFsError("its root is no folder")
        if folder.number in seen or depth > _DEEPEST:
            raise SquashFsError(f"the folder {_shown(path)} is inside of itself, or too deep")
        seen.add(folder.number)
        for name, reference in self._listed(folder):
            inode = self._inode(reference)
            below = path + b"/" + name if path else name
            yield below, inode
            if inode.kind == FOLDER:
                yield from self._walk(below, inode, seen, depth + 1)

    def _listed(self, folder: _Inode) -> Iterator[tuple[bytes, int]]:
        """Names in a folder, each with the reference of its inode."""
        left = folder.size - 3  # the format counts . and .. as three bytes
        if left <= 0:
            return
        data = self._meta(self._folders + folder.start, folder.offset, left)
        at, names = 0, set()
        while at < left:
            count, block, _ = self._fields(_LIST, data, at)
            at += _LIST.size
            if count > 255:
                raise SquashFsError("a folder's listing is broken")
            for _ in range(count + 1):
                offset, _, _, length = self._fields(_NAME, data, at)
                name = data[at + _NAME.size : at + _NAME.size + length + 1]
                at += _NAME.size + length + 1
                if at > left or name in (b".", b"..") or b"/" in name or b"\0" in name or name in names:
                    raise SquashFsError(f"a folder has the entry {_shown(name)}, which no folder can have")
                names.add(name)
                yield name, block << 16 | offset

    def _inode(self, reference: int) -> _Inode:
        start, offset = self._inodes + (reference >> 16), reference & 0xFFFF
        kind, mode, _, _, mtime, number = _INODE.unpack(self._meta(start, offset, _INODE.size))
        plain = kind if kind < 8 else kind - 7
        if plain not in _KINDS:
            raise SquashFsError(f"it has an inode of the unknown type {kind}")
        base = _Inode(number=number, kind=_KINDS[plain], mode=mode & 0o7777, mtime=mtime)
        offset += _INODE.size
        if plain == 1:
            return self._folder(base, start, offset, extended=kind != plain)
        if plain == 2:
            return self._regular(base, start, offset, extended=kind != plain)
        if plain == 3:
            _, length = _LINK.unpack(self._meta(start, offset, _LINK.size))
            if not 0 < length <= _MOST_TARGET:
                raise SquashFsError(f"it has a link of {length} bytes")
            return base._replace(target=self._meta(start, offset + _LINK.size, length))
        return base

    def _folder(self, base: _Inode, start: int, offset: int, *, extended: bool) -> _Inode:
        if extended:
            _, size, block, _, _, inside, _ = _FOLDER_X.unpack(self._meta(start, offset, _FOLDER_X.size))
        else:
            block, _, size, inside, _ = _FOLDER.unpack(self._meta(start, offset, _FOLDER.size))
        return base._replace(size=size, start=block, offset=inside)

    def _regular(self, base: _Inode, start: int, offset: int, *, extended: bool) -> _Inode:
        form = _FILE_X if extended else _FILE
        fields = form.unpack(self._meta(start, offset, form.size))
        if extended:
            first, size, _, _, fragment, inside, _ = fields
        else:
            first, fragment, inside, size = fields
        count = size // self._block if fragment != _NO_FRAGMENT else -(-size // self._block)
        if count * 4 > _MOST_METADATA:
            raise SquashFsError(f"it has a file of {size} bytes")
        sizes = self._meta(start, offset + form.size, 4 * count)
        blocks = struct.unpack(f"<{count}I", sizes)
        return base._replace(size=size, start=first, offset=inside, fragment=fragment, blocks=blocks)

    # -- content -------------------------------------------------------------------------------------------------------

    def _content(self, inode: _Inode, path: bytes) -> Iterator[bytes]:
        left, at = inode.size, inode.start
        for word in inode.blocks:
            wanted = min(left, self._block)
            packed = word & (_STORED_DATA - 1)
            block = self._block_at(at, word, path) if packed else bytes(wanted)
            if len(block) != wanted:
                raise SquashFsError(f"{_shown(path)} has a block of {len(block)} bytes where {wanted} belong")
            yield block
            left -= wanted
            at += packed
        if left:
            block = self._fragment(inode.fragment, path)[inode.offset : inode.offset + left]
            if len(block) != left:
                raise SquashFsError(f"the end of {_shown(path)} is not where it says")
            yield block

    def _fragment(self, number: int, path: bytes) -> bytes:
        if number not in self._recent:
            if number >= self._fragments:
                raise SquashFsError(f"{_shown(path)} ends in fragment {number}, and there are {self._fragments}")
            pointer = struct.unpack("<Q", self._at(self._fragment_table + number // 512 * 8, 8, "a fragment's place"))
            entry = self._meta(pointer[0], number % 512 * _FRAGMENT.size, _FRAGMENT.size)
            start, word, _ = _FRAGMENT.unpack(entry)
            self._recent[number] = self._block_at(start, word, path)
            if len(self._recent) > _KEPT_FRAGMENTS:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number]

    def _block_at(self, at: int, word: int, path: bytes) -> bytes:
        packed = word & (_STORED_DATA - 1)
        data = self._at(at, packed, f"a block of {_shown(path)}")
        return data if word & _STORED_DATA else self._unpack(data, self._block)

    def _meta(self, start: int, offset: int, size: int) -> bytes:
        """``size`` bytes of metadata from ``offset`` of what the blocks from ``start`` on unpack to."""
        found = bytearray()
        while offset >= _META:
            _, start = self._meta_block(start)
            offset -= _META
        while len(found) < size:
            block, start = self._meta_block(start)
            if offset > len(block) or not block:
                raise SquashFsError("its metadata is broken: something is said to be where nothing is")
            found += block[offset : offset + size - len(found)]
            offset = 0
        return bytes(found)

    def _meta_block(self, start: int) -> tuple[bytes, int]:
        """One metadata block, and where the next begins."""
        if start not in self._metadata:
            word = int.from_bytes(self._at(start, 2, "metadata"), "little")
            packed = word & (_STORED_META - 1)
            data = self._at(start + 2, packed, "metadata")
            block = data if word & _STORED_META else self._unpack(data, _META)
            self._metadata_size += len(block)
            if self._metadata_size > _MOST_METADATA:
                raise SquashFsError(f"it has more than {_MOST_METADATA} bytes of metadata")
            self._metadata[start] = block, start + 2 + packed
        return self._metadata[start]

    @staticmethod
    def _fields(form: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
        try:
            return form.unpack_from(data, at)
        except struct.error:
            raise SquashFsError("a folder's listing is broken") from None

    def _at(self, offset: int, size: int, what: str) -> bytes:
        if offset < 0 or offset + size > self._size:
            raise SquashFsError(
                f"{what} should be at byte {offset}, and the file system has {self._size} bytes:"
                " it is cut off, or a wrong offset was written"
            )
        self._file.seek(self._offset + offset)
        data = self._file.read(size)
        if len(data) != size:
            raise SquashFsError(f"it is cut off: {what} is not all there")
        return data


def _unpacker(compression: str) -> Callable[[bytes, int], bytes]:
    """From packed bytes and the most that they may unpack to, to what they unpack to."""
    if compression == "gzip":
        return _gzip
    if compression == "xz":
        return _xz
    if compression == "zstd":
        return _zstd()
    raise CompressionError(f"it is compressed with {compression}, which is not read here: gzip, xz and zstd are")


def _gzip(data: bytes, most: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(data, most)
    except zlib.error as error:
        raise SquashFsError(f"its gzip data is broken: {error}") from None
    if not unpacking.eof and unpacking.decompress(unpacking.unconsumed_tail, 1):
        raise SquashFsError(f"a block unpacks to more than {most} bytes")
    return found


def _xz(data: bytes, most: int) -> bytes:
    unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)
    try:
        found = unpacking.decompress(data, most)
        more = b"" if unpacking.eof else unpacking.decompress(b"", 1)
    except (lzma.LZMAError, EOFError) as error:
        raise SquashFsError(f"its xz data is broken: {error}") from None
    if more:
        raise SquashFsError(f"a block unpacks to more than {most} bytes")
    return found


def _zstd() -> Callable[[bytes, int], bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()  # making one takes as long as a small block

    def unpack(data: bytes, most: int) -> bytes:
        try:
            said = zstandard.get_frame_parameters(data).content_size
            if said not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) and said > most:
                raise SquashFsError(f"a block unpacks to more than {most} bytes")
            return decompressor.decompress(data, max_output_size=most)
        except zstandard.ZstdError as error:
            raise SquashFsError(f"its zstd data is broken: {error}") from None

    return unpack


def _shown(path: bytes) -> str:
    return "/" + path[:200].decode("utf-8", "backslashreplace")
