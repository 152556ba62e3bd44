"""The binary package format, deb(5): an ``ar`` archive of control files and the file system tree, both as tar.

Read with own code and not by ``dpkg-deb``: the machine that locks and builds need not be a Debian one.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reprobox.archives.tar_stream import FILE, FOLDER, HARD_LINK, SYMLINK, TarError, TarStream, decompressed
from reprobox.errors import IntegrityError

_MAGIC = b"!<arch>\n"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as the kernel's MAXSYMLINKS


class Member(NamedTuple):
    """One entry of a tree: ``kind`` is tar's type flag, ``mtime`` in unix seconds; ``target`` is a link's."""

    path: bytes
    kind: bytes
    mode: int
    mtime: int
    target: bytes
    data: bytes


def control_files(deb: bytes) -> dict[str, bytes]:
    """The control files of a package by name: ``control``, ``md5sums``, ``postinst``, …"""
    return {
        member.path.decode("ascii", "surrogateescape"): bytes(member.data)
        for member in tar_members(control_tar(deb))
        if member.kind == FILE
    }


def control_tar(deb: bytes) -> bytes:
    """The package's control files, as an uncompressed tar."""
    return _part(deb, b"control.tar")


def data_tar(deb: bytes) -> bytes:
    """The package's file system tree, as an uncompressed tar."""
    return _part(deb, b"data.tar")


def with_tree(deb: bytes, tar: bytes) -> bytes:
    """The same package with ``tar``, as it is, for its file system tree: dpkg need not decompress what was already."""
    parts = [_MAGIC]
    for name, start, size in _parts(deb):
        tree = name.startswith(b"data.tar")
        content = tar if tree else deb[start : start + size]
        head = b"%-16b%b%-10d`\n" % (b"data.tar" if tree else name, deb[start - 44 : start - 12], len(content))
        parts += (head, content, b"\n" * (len(content) % 2))
    return b"".join(parts)


def write_decompressed(deb: Path, place: Path) -> None:
    """Write the same package with its tree not compressed; nothing is at ``place`` unless it is whole.

    Raises :class:`IntegrityError` for what cannot be unpacked.
    """
    content = deb.read_bytes()
    staged = place.with_name(f".{place.name}")
    try:
        staged.write_bytes(with_tree(content, data_tar(content)))
        staged.chmod(0o444)  # as the package itself is in the store: a builder may have another id
        staged.rename(place)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _part(deb: bytes, wanted: bytes) -> bytes:
    for name, start, size in _parts(deb):
        if name.startswith(wanted):
            return _decompress(name[len(wanted) :], deb[start : start + size])
    raise IntegrityError(f"not a Debian package: it has no {wanted.decode()}")


def _parts(deb: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name of each member of the archive, and where its content begins and how long it is."""
    if not deb.startswith(_MAGIC):
        raise IntegrityError("not a Debian package: it is no ar archive")
    offset = len(_MAGIC)
    while offset + 60 <= len(deb):
        name, size = deb[offset : offset + 16].rstrip(b" /"), int(deb[offset + 48 : offset + 58])
        yield name, offset + 60, size
        offset += 60 + size + size % 2


def _decompress(suffix: bytes, data: bytes) -> bytes:
    try:
        if suffix == b".xz":
            return lzma.decompress(data)
        if suffix == b".gz":
            return zlib.decompress(data, wbits=31)
        if suffix == b".zst":
            return b"".join(decompressed(io.BytesIO(data)))
        if suffix == b"":
            return data
    except (lzma.LZMAError, zlib.error, TarError) as error:
        raise IntegrityError(f"a Debian package whose content cannot be unpacked: {error}") from None
    shown = suffix.decode(errors="replace")
    raise IntegrityError(f"a Debian package packed as {shown!r}, which reprobox cannot unpack")


def tar_members(tar: bytes) -> Iterator[Member]:
    """The entries of an uncompressed tar, without its root; paths have no ``./`` and no slash at their end."""
    stream = TarStream(iter((tar,)))
    try:
        for header in stream:
            path = _clean(header.name)
            if path:
                data = b"".join(stream.data()) if header.size else b""
                yield Member(path, header.kind, header.mode, header.mtime // 10**9, header.target, data)
    except TarError as error:
        raise IntegrityError(f"a package's tree cannot be read: {error}") from None


def _clean(path: bytes) -> bytes:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise IntegrityError(f"a package's path leads out of its tree: {os.fsdecode(path)!r}")
    return b"/".join(parts)


def make_folder(path: bytes) -> None:
    """A folder of mode 0755, whatever the umask."""
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 - the folders of a distribution are for everyone to read


class Unpacker:
    """Writes the trees of packages into one root, as dpkg would lay them over each other.

    Folders on the way that are symlinks in the root are followed inside the root, never out of it; a folder never
    replaces a symlink to a folder (merged /usr). Owners are the caller's; set-id bits are kept.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._folders: dict[bytes, bytes] = {b"": self._root}

    def write(self, member: Member) -> None:
        """Write one entry; its folder is made if no entry made it before."""
        path = self._inside(member.path)
        if member.kind == FOLDER:
            self._write_folder(path, member)
        elif member.kind == FILE:
            self._write_file(path, member)
        elif member.kind == SYMLINK:
            self._write_link(path, member)
        elif member.kind == HARD_LINK:
            self._clear(path)
            os.link(self._inside(_clean(member.target)), path, follow_symlinks=False)
        else:
            raise IntegrityError(f"a package holds a special file: /{os.fsdecode(member.path)}")

    def _inside(self, path: bytes) -> bytes:
        folder, _, name = path.rpartition(b"/")
        return self._folder(folder) + b"/" + name

    def _folder(self, path: bytes) -> bytes:
        """The real folder, on the host, that ``path`` is inside the root."""
        if path not in self._folders:
            parent, _, name = path.rpartition(b"/")
            self._folders[path] = self._enter(self._folder(parent), name)
        return self._folders[path]

    def _enter(self, folder: bytes, name: bytes) -> bytes:
        """The real folder that ``name`` is in the real ``folder``, links followed; it is made if nothing is there."""
        where, todo, followed = folder, [name], 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                where = os.path.dirname(where) if where != self._root else where
                continue
            path = where + b"/" + part
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                make_folder(path)
                mode = stat.S_IFDIR
            if stat.S_ISDIR(mode):
                where = path
                continue
            followed += 1  # all of them count: few links that name one another twice would be followed for ever
            if not stat.S_ISLNK(mode) or followed > _LINKS:
                raise IntegrityError(f"a package's folder is a file in the tree: {os.fsdecode(path)}")
            target = os.readlink(path)
            where = self._root if target.startswith(b"/") else where
            todo += reversed(target.split(b"/"))
        return where

    def _write_folder(self, path: bytes, member: Member) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if os.path.islink(path):  # /bin and its like: dpkg keeps a link to a folder where a package has the folder
                return
        os.chmod(path, member.mode)

    def _write_link(self, path: bytes, member: Member) -> None:
        try:
            os.symlink(member.target, path)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(path).st_mode):  # dpkg keeps a folder where a package has a link
                return
            self._clear(path)
            os.symlink(member.target, path)
        os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)

    def _write_file(self, path: bytes, member: Member) -> None:
        try:
            descriptor = os.open(path, _CREATE, 0o600)
        except FileExistsError:
            self._clear(path)
            descriptor = os.open(path, _CREATE, 0o600)
        try:
            rest = memoryview(member.data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fchmod(descriptor, member.mode)
            os.utime(descriptor, (member.mtime, member.mtime))
        finally:
            os.close(descriptor)

    def _clear(self, path: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
