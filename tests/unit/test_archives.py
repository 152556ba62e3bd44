"""Archives from strangers: what comes out of them, and that nothing leads out of their folder."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from reprobox.archives.fetched import Archive, ArchiveError, Limits
from reprobox.archives.tar_stream import decompressed
from tests.images import entry, folder, hard, link, tar

SOUND = (
    folder("tool-1.0"),
    entry("tool-1.0/bin/run", b"#!/bin/sh\n", mode=0o755),
    entry("./tool-1.0//readme", b"read me"),
    link("tool-1.0/latest", "bin/run"),
    hard("tool-1.0/bin/again", "tool-1.0/bin/run"),
)
FOUND = {
    "tool-1.0": ("d", b""),
    "tool-1.0/bin/run": ("x", b"#!/bin/sh\n"),
    "tool-1.0/readme": ("f", b"read me"),
    "tool-1.0/latest": ("l", b"bin/run"),
    "tool-1.0/bin/again": ("h", b"tool-1.0/bin/run"),
}


def read(path: Path, data: bytes, **options: Any) -> dict[str, tuple[str, bytes]]:
    archive = path / "archive"
    archive.write_bytes(data)
    found = {}
    for member, content in Archive(archive, **options).members():
        found[member.path.decode("utf-8", "backslashreplace")] = (member.kind, b"".join(content) or member.target)
    return found


def refused(path: Path, data: bytes, **options: Any) -> str:
    with pytest.raises(ArchiveError) as caught:
        read(path, data, **options)
    return str(caught.value)


def packed(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def info(name: str, mode: int = 0o100644, system: int = 3) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system = system
    made.external_attr = mode << 16
    return made


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_a_tar_however_it_is_packed(pack, tmp_path):
    assert read(tmp_path, pack(tar(*SOUND))) == FOUND


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_several_streams_one_after_the_other(pack, tmp_path):
    data = tar(*SOUND)
    assert read(tmp_path, pack(data[:700]) + pack(data[700:])) == FOUND


class Piecemeal(io.BytesIO):
    """A file of which no read gives more than ``most`` bytes, once its kind is known."""

    most = 6

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, self.most))


PADDED = pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])


@PADDED
def test_zeros_between_streams_and_after_them_count_for_nothing_wherever_a_read_ends(pack):
    half, padding = b"content" * 9, bytes(16)
    data = pack(half) + padding + pack(half) + padding
    for most in range(6, len(data) + 1):
        file = Piecemeal(data)
        file.most = most
        assert b"".join(decompressed(file)) == half + half


@PADDED
def test_padding_that_is_longer_than_what_is_read_at_once(pack, tmp_path):
    assert read(tmp_path, pack(tar(*SOUND)) + bytes(600_000)) == FOUND


@pytest.mark.parametrize(("pack", "said"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (gzip.compress, "gzip")])
def test_packed_data_that_is_cut_off_or_broken(pack, said, tmp_path):
    data = pack(tar(entry("a", bytes(range(256)) * 4000)))
    assert said in refused(tmp_path, data[:-20])
    assert said in refused(tmp_path, data[:60] + bytes(60) + data[120:])


@pytest.mark.tool("zip")
def test_a_zip_of_the_real_program(tmp_path):
    there = tmp_path / "there"
    (there / "bin").mkdir(parents=True)
    (there / "bin" / "run").write_bytes(b"#!/bin/sh\n")
    (there / "bin" / "run").chmod(0o755)
    (there / "größe").write_bytes(b"1")
    (there / "latest").symlink_to("bin/run")
    subprocess.run(["zip", "-qry", tmp_path / "made.zip", "."], cwd=there, check=True)
    assert read(tmp_path, (tmp_path / "made.zip").read_bytes()) == {
        "bin": ("d", b""),
        "bin/run": ("x", b"#!/bin/sh\n"),
        "größe": ("f", b"1"),
        "latest": ("l", b"bin/run"),
    }


def test_programs_links_and_folders_of_a_zip(tmp_path):
    data = packed(
        (info("bin/", 0o40755), b""),
        (info("bin/run", 0o100755), b"run"),
        (info("latest", stat.S_IFLNK | 0o777), b"bin/run"),
        (info("dos", 0o100755, system=0), b"no modes there"),
    )
    assert read(tmp_path, data) == {
        "bin": ("d", b""),
        "bin/run": ("x", b"run"),
        "latest": ("l", b"bin/run"),
        "dos": ("f", b"no modes there"),
    }


def test_names_in_other_encodings(tmp_path):
    raw = "gr\udcf6\udcdfe"  # latin-1 in a tar: bytes as they are
    assert read(tmp_path, tar(entry(raw, b"1"), format=tarfile.GNU_FORMAT)) == {"gr\\xf6\\xdfe": ("f", b"1")}
    data = packed((info("gr__e", system=0), b"1")).replace(b"gr__e", b"gr\x94\xe1e")
    assert read(tmp_path, data) == {"größe": ("f", b"1")}
    data = packed((info("gr____e", system=3), b"1")).replace(b"gr____e", "größe".encode())
    assert read(tmp_path, data) == {"größe": ("f", b"1")}
    data = packed((info("größe"), b"1")).replace("größe".encode(), b"gr\xf6\xdf\xff\xffe")
    assert refused(tmp_path, data) == "a name in it is not UTF-8, though it says so"


def test_the_slashes_of_windows(tmp_path):
    assert read(tmp_path, packed((info("a\\b", system=0), b"1"))) == {"a/b": ("f", b"1")}
    assert read(tmp_path, packed((info("a\\b", system=3), b"1"))) == {"a\\b": ("f", b"1")}
    assert "'../../evil' leads out" in refused(tmp_path, packed((info("..\\..\\evil", system=0), b"1")))


def test_folders_at_the_start_of_names_left_out(tmp_path):
    assert read(tmp_path, tar(*SOUND), strip=1) == {
        "bin/run": ("x", b"#!/bin/sh\n"),
        "readme": ("f", b"read me"),
        "latest": ("l", b"bin/run"),
        "bin/again": ("h", b"bin/run"),
    }
    assert refused(tmp_path, tar(*SOUND), strip=4) == "strip = 4 leaves nothing of it"
    assert read(tmp_path, packed(("a/b", b"1"), ("c", b"2")), strip=1) == {"b": ("f", b"1")}


def test_the_later_of_two_in_a_tar_counts(tmp_path):
    assert read(tmp_path, tar(entry("a", b"1"), entry("a", b"2"), folder("b"), folder("b"))) == {
        "a": ("f", b"2"),
        "b": ("d", b""),
    }


def test_links_that_stay_inside(tmp_path):
    sound = (
        link("a/up", "../b"),
        link("b", "c/.."),
        link("loop", "loop"),
        link("abs", "/opt/x/b"),
        link("later", "z/y"),
    )
    assert len(read(tmp_path, tar(*sound, entry("z/y", b"")), home=b"opt/x")) == 6


def test_everything_is_inside_of_the_root(tmp_path):
    assert read(tmp_path, tar(link("lib", "/usr/lib")), home=b"") == {"lib": ("l", b"/usr/lib")}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("../evil", b"1")], "'../evil' leads out of the folder that it is unpacked into"),
        ([entry("a/../../evil", b"1")], "'a/../../evil' leads out of the folder that it is unpacked into"),
        ([entry("/etc/passwd", b"1")], "'/etc/passwd' is an absolute name"),
        ([link("a", "/etc")], "'a' is a link to '/etc', out of the folder that it is unpacked into"),
        ([link("a/b", "../../etc")], "'a/b' is a link to '../../etc', out of the folder that it is unpacked into"),
        ([link("b", "."), link("a", "b/../x")], "'a' is a link to 'b/../x', out of the folder"),
        ([link("a", "/opt/xy")], "'a' is a link to '/opt/xy', out of the folder"),
        ([link("a", "x"), entry("a/evil", b"1")], "'a/evil' goes through 'a', which is a link of the archive"),
        ([entry("a", b"1"), entry("a/b/evil", b"1")], "'a/b/evil' goes through 'a', which is a file of the archive"),
        ([link("a", "x"), folder("a")], "'a' is a folder and something else too"),
        ([entry("a/b", b""), entry("a", b"1")], "'a' is a folder and something else too"),
        ([hard("a", "/etc/shadow")], "'/etc/shadow' is an absolute name"),
        ([hard("a", "../shadow")], "'../shadow' leads out of the folder"),
        ([hard("a", "b"), entry("b", b"")], "'a' is a hard link to 'b', which is no file of it"),
        ([link("b", "x"), hard("a", "b")], "'a' is a hard link to 'b', which is no file of it"),
        ([entry("dev/sda", kind=tarfile.BLKTYPE)], "'dev/sda' is a device"),
        ([entry("dev/null", kind=tarfile.CHRTYPE)], "'dev/null' is a device"),
        ([entry("pipe", kind=tarfile.FIFOTYPE)], "'pipe' is a FIFO"),
        ([entry("n" * 256, b"")], "is too deep or too long a name"),
        ([entry("d/" * 300 + "x", b"")], "is too deep or too long a name"),
        ([], "there is nothing in it"),
        ([folder(".")], "there is nothing in it"),
    ],
)
def test_a_tar_that_is_refused(entries, said, tmp_path):
    assert said in refused(tmp_path, tar(*entries), home=b"opt/x")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(info("../evil"), b"1")], "'../evil' leads out of the folder that it is unpacked into"),
        ([(info("/etc/passwd"), b"1")], "'/etc/passwd' is an absolute name"),
        ([(info("a", stat.S_IFLNK | 0o777), b"../../etc")], "'a' is a link to '../../etc', out of the folder"),
        ([(info("a", stat.S_IFLNK | 0o777), b"x"), (info("a/b"), b"")], "'a/b' goes through 'a', which is a link"),
        ([(info("a", stat.S_IFLNK | 0o777), b"")], "'a' is a link to nothing"),
        ([(info("a", stat.S_IFLNK | 0o777), b"x" * 5000)], "'a' is a link of 5000 bytes"),
        ([(info("a", stat.S_IFCHR | 0o666), b"")], "'a' is neither a file, a folder nor a link"),
        ([], "there is nothing in it"),
    ],
)
def test_a_zip_that_is_refused(entries, said, tmp_path):
    assert said in refused(tmp_path, packed(*entries), home=b"opt/x")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_of_one_name(tmp_path):
    said = refused(tmp_path, packed(("a", b"1"), ("a", b"2")))
    assert said == "'a' is in it twice, and programs differ in which one they take"


def test_a_zip_that_says_two_things(tmp_path):
    data = packed(("one", b"1"))
    assert "'one' is broken: File name in directory 'one'" in refused(tmp_path, data.replace(b"one", b"two", 1))
    assert "'one' is broken: Bad CRC-32" in refused(tmp_path, data.replace(b"one1", b"one2"))
    assert "this zip archive is broken" in refused(tmp_path, data[:-10])
    encrypted = bytearray(packed(("one", b"1")))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert refused(tmp_path, bytes(encrypted)) == "'one' is encrypted"


def test_a_zip_whose_directory_alone_would_fill_the_memory(tmp_path):
    path = tmp_path / "x.zip"
    data = packed(*((f"{number:0100}", b"") for number in range(3)))
    end = data.rindex(b"PK\x05\x06")
    size, at = data[end + 12 : end + 16], data[end + 16 : end + 20]
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQ", 44, 45, 45, 0, 0, 3, 3) + size + bytes(4) + at + bytes(4)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1)
    large = data[:end] + record + locator + data[end : end + 12] + b"\xff" * 4 + data[end + 16 :]
    for content in (data, large):
        path.write_bytes(content)
        assert len(list(Archive(path, limits=Limits(entries=10)).members())) == 3
        with pytest.raises(ArchiveError, match=r"the list of what is in it takes 438 bytes"):
            Archive(path, limits=Limits(entries=2)).check()


def test_only_what_is_below_a_folder(tmp_path):
    (tmp_path / "x.zip").write_bytes(packed(("a/b", b"1"), ("a/c/d", b"2"), ("ab/e", b"3"), ("f", b"4")))
    found = [member.path for member, _ in Archive(tmp_path / "x.zip", below=b"a").members()]
    assert found == [b"b", b"c/d"]


@pytest.mark.parametrize("data", [b"", b"no archive", bytes(100), b"7z\xbc\xaf\x27\x1c" + bytes(600)])
def test_what_is_no_archive(data, tmp_path):
    assert refused(tmp_path, data) in (
        "there is nothing in it",
        "it is neither a tar nor a zip archive (the archive is cut off)",
        "it is neither a tar nor a zip archive (a header's checksum is wrong)",
    )


def test_a_packed_file_is_no_packed_archive(tmp_path):
    assert "neither a tar nor a zip" in refused(tmp_path, gzip.compress(b"just a file" * 100))


# -- bombs -------------------------------------------------------------------------------------------------------------

SMALL = Limits(entries=3, size=1 << 20, ratio=200)


@pytest.mark.parametrize(
    "bomb",
    [
        gzip.compress(tar(entry("zeros", bytes(4 << 20)))),
        lzma.compress(tar(entry("zeros", bytes(4 << 20)))),
        bz2.compress(tar(entry("zeros", bytes(4 << 20)))),
    ],
    ids=["gzip", "xz", "bzip2"],
)
def test_more_bytes_than_its_size_lets_expect(bomb, tmp_path):
    assert len(bomb) < 10_000
    said = refused(tmp_path, bomb, limits=SMALL)
    allowed = max(1 << 20, 200 * len(bomb))
    assert said == (f"it unpacks to more than {allowed} bytes, far more than its {len(bomb)} bytes let expect")


def test_a_zip_bomb(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(str(number), bytes(600_000))
    assert "far more than its" in refused(tmp_path, buffer.getvalue(), limits=SMALL)


def test_more_entries_than_are_allowed(tmp_path):
    said = "it has more than 3 entries"
    assert refused(tmp_path, tar(*(entry(str(number)) for number in range(4))), limits=SMALL) == said
    assert refused(tmp_path, packed(*((str(number), b"") for number in range(4))), limits=SMALL) == said
    assert len(read(tmp_path, tar(*(entry(str(number)) for number in range(3))), limits=SMALL)) == 3


def test_xz_that_asks_for_too_much_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(tar(*SOUND), filters=filters))
    data[16] = 40  # the largest dictionary, 4 GiB
    import zlib

    data[20:24] = zlib.crc32(bytes(data[12:20])).to_bytes(4, "little")
    assert "Memory usage limit exceeded" in refused(tmp_path, bytes(data))
