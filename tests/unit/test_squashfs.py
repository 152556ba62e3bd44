"""SquashFS: what mksquashfs packs is read back whole, and what is broken is refused."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from reprobox.archives.squashfs import SquashFs, SquashFsError
from reprobox.archives.unpack import Limits, Unpacker
from reprobox.digest import tree_digest
from reprobox.errors import BuildError
from reprobox.tree import scan

pytestmark = pytest.mark.tool("mksquashfs")


def packed(source: Path, target: Path, *options: str) -> Path:
    argv = ["mksquashfs", source, target, "-quiet", "-no-progress", "-noappend", *options]
    subprocess.run(argv, check=True, capture_output=True)
    return target


def unpacked(path: Path, tree: Path, limits: Limits | None = None) -> tuple[str, ...]:
    tree.mkdir()
    with path.open("rb") as file, Unpacker(tree) as unpacker:
        unpacker.entries(SquashFs(file).entries(), limits or Limits(), path.stat().st_size)
        return tuple(unpacker.skipped)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "many").mkdir(parents=True)
    for number in range(700):  # more than one header of a listing holds, in an extended inode
        (root / "many" / f"{number:03}-{'n' * 60}").write_bytes(b"%d" % number * (number % 50))
    (root / "large").write_bytes(random.Random(7).randbytes(300_000))
    (root / "zeros").write_bytes(bytes(1 << 20) + b"end")
    with (root / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    (root / "empty").touch()
    os.link(root / "large", root / "many" / "zzz-hard-link")
    (root / "link").symlink_to("many/../large")
    (root / "su").write_bytes(b"s")
    (root / "su").chmod(0o4755)
    (root / "closed").mkdir(mode=0o500)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"no text")
    return root


@pytest.mark.parametrize(
    "options",
    [
        ("-comp", "gzip"),
        ("-comp", "zstd", "-b", "1M"),
        ("-comp", "xz", "-b", "4K", "-Xbcj", "x86"),
        ("-noI", "-noD", "-noF", "-no-duplicates"),
        ("-no-fragments", "-always-use-fragments", "-no-exports"),
    ],
    ids="".join,
)
def test_what_is_packed_is_read_back(source: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    image = packed(source, tmp_path / "image", *options)
    assert unpacked(image, tmp_path / "tree") == ()
    assert tree_digest(scan(tmp_path / "tree")) == tree_digest(scan(source))
    assert (tmp_path / "tree/many/zzz-hard-link").samefile(tmp_path / "tree/large")
    assert (tmp_path / "tree/su").stat().st_mtime_ns == (source / "su").stat().st_mtime_ns // 10**9 * 10**9


def test_it_lies_anywhere_in_a_file(source: Path, tmp_path: Path) -> None:
    image = packed(source, tmp_path / "image").read_bytes()
    system = SquashFs(io.BytesIO(b"before" + image + b"after"), 6, len(image))
    assert system.read(b"su") == b"s"
    assert system.read(b"many/001-" + b"n" * 60) == b"1"
    assert (system.read(b"nothing"), system.read(b"many"), system.read(b"su/x")) == (None, None, None)
    assert len(system.names(b"many")) == 701
    assert (system.names(b"su"), system.names(b"nothing")) == ((), ())
    with pytest.raises(SquashFsError, match="/large has 300000 bytes, more than 100"):
        system.read(b"large", 100)


def test_special_files_and_names_of_images_are_skipped(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "fifo")
    (source / "many" / ".wh.gone").touch()
    found = unpacked(packed(source, tmp_path / "image"), tmp_path / "tree")
    assert found == ("/fifo (FIFO)", "/many/.wh.gone (a name that images keep for what is deleted)")


def test_what_it_unpacks_to_is_bounded(source: Path, tmp_path: Path) -> None:
    image = packed(source, tmp_path / "image")
    with pytest.raises(BuildError, match="it unpacks to more than 1000000 bytes, far more than its size lets expect"):
        unpacked(image, tmp_path / "tree", Limits(size=1_000_000, ratio=1))


def read_through(data: bytes) -> None:
    for _, content in SquashFs(io.BytesIO(data)).entries():
        for _ in content:
            pass


def refused(data: bytes) -> str:
    with pytest.raises(SquashFsError) as caught:
        read_through(data)
    return str(caught.value)


def test_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content" * 100_000)
    data = packed(tmp_path / "source", tmp_path / "image", "-nopad").read_bytes()
    size = len(data)
    outside = " it is cut off, or a wrong offset was written"
    assert refused(b"hsqs") == f"the superblock should be at byte 0, and the file system has 4 bytes:{outside}"
    assert refused(b"sqsh" + data[4:]) == "it is no SquashFS: it does not begin with hsqs"
    assert refused(data[:28] + b"\3\0" + data[30:]) == "it is of version 3.0, and only 4.0 is read here"
    assert refused(data[:-1]) == f"it is cut off: it says that it has {size} bytes, and {size - 1} are there"
    assert refused(data[:12] + b"\7\0\0\0" + data[16:]) == "it says that its blocks have 7 bytes"
    assert refused(data[:20] + b"\5\0" + data[22:]) == (
        "it is compressed with lz4, which is not read here: gzip, xz and zstd are"
    )
    far = struct.pack("<Q", 1 << 62)
    assert refused(data[:64] + far + data[72:]) == (
        f"metadata should be at byte {(1 << 62) + (struct.unpack_from('<Q', data, 32)[0] >> 16)},"
        f" and the file system has {size} bytes:{outside}"
    )
    assert refused(data[:100] + bytes(200) + data[300:]).startswith("its gzip data is broken: ")


def test_nothing_else_is_raised_whatever_is_in_it(tmp_path: Path) -> None:
    """Every byte of the metadata changed once."""
    folder = tmp_path / "source" / "folder"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / str(number)).write_bytes(b"content" * number)
    (folder / "link").symlink_to("1")
    data = packed(tmp_path / "source", tmp_path / "image", "-nopad", "-noI", "-noF", "-noD").read_bytes()
    chance = random.Random(11)
    broken = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= chance.randrange(1, 256)
        try:
            read_through(bytes(changed))
        except SquashFsError:
            broken += 1
    assert broken > len(data) // 10
