"""Layers from strangers: what they may do to a tree, and that nothing leads out of it."""

from __future__ import annotations

import gzip
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reprobox.archives.tar_stream import TarError, TarStream, decompressed
from reprobox.archives.unpack import Archive, Limits, unpack
from reprobox.digest import Entry
from reprobox.errors import BuildError, IntegrityError, ReproboxError
from reprobox.tree import scan
from tests.engines.ordinary import ROOT, OrdinaryUser
from tests.images import digest, entry, folder, hard, link, packed, tar

Unpacked = Callable[..., Path]
SECRET = b"the host's own"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder beside the tree, which nothing may touch."""
    path = tmp_path / "host"
    path.mkdir()
    (path / "file").write_bytes(SECRET)
    (path / "file").chmod(0o600)
    return path


@pytest.fixture
def unpacked(tmp_path: Path, host: Path) -> Unpacked:
    """Unpack layers, given as bytes or lists of entries, into a new tree; afterwards the host is as it was."""

    def unpacked(*layers: bytes | Sequence[Any], limits: Limits | None = None) -> Path:
        root = tmp_path / "tree"
        root.mkdir()
        root.chmod(0o755)
        archives = []
        for number, layer in enumerate(layers):
            path = tmp_path / f"layer{number}"
            path.write_bytes(layer if isinstance(layer, bytes) else tar(*layer))
            archives.append(Archive(path=path))
        try:
            contents = unpack(root, archives, limits).contents
            assert contents == {item.path: item.detail for item in scan(root) if item.kind == "f"}
        finally:
            assert os.listdir(host) == ["file"]
            assert (host / "file").read_bytes() == SECRET
            assert (host / "file").stat().st_nlink == 1
            assert stat.S_IMODE((host / "file").stat().st_mode) == 0o600
            assert {item.name for item in tmp_path.iterdir()} <= {"tree", "host", *(f"layer{n}" for n in range(9))}
        return root

    return unpacked


def paths(root: Path) -> list[str]:
    return [os.fsdecode(item.path) for item in scan(root)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- what is kept ----------------------------------------------------------------------------------------------------------


def test_types_modes_times_and_content(unpacked: Unpacked) -> None:
    umask = os.umask(0o077)
    try:
        root = unpacked(
            [
                folder("./"),
                folder("./etc", 0o2750),
                entry("./etc/file", b"text\n", mode=0o640),
                entry("./etc/empty", mode=0o000),
                entry("./sbin/su", b"x", mode=0o4755, mtime=1_600_000_000.25, uid=0, gid=42),
                folder("./tmp", 0o1777),
                link("./link", "/etc/file"),
                link("./dangling", "no/where"),
                hard("./etc/same", "etc/file", mode=0o640),
                hard("./second", "/link"),
            ]
        )
    finally:
        os.umask(umask)
    assert (root / "etc/file").read_bytes() == b"text\n"
    modes = {name: oct(mode(root / name)) for name in ("etc", "etc/file", "etc/empty", "sbin", "sbin/su", "tmp")}
    assert list(modes.values()) == ["0o2750", "0o640", "0o0", "0o755", "0o4755", "0o1777"]
    assert (root / "sbin/su").stat().st_mtime_ns == 1_600_000_000_250_000_000
    assert (root / "etc").stat().st_mtime == 1_600_000_000
    assert (root / "link").lstat().st_mtime == 1_600_000_000
    assert os.readlink(root / "link") == "/etc/file"
    assert os.readlink(root / "second") == "/etc/file"
    assert (root / "etc/same").samefile(root / "etc/file")
    assert mode(root) == 0o755


@pytest.mark.parametrize("how", ["gzip", "zstd", "", "members", "padded"])
def test_compressions(unpacked: Unpacked, how: str) -> None:
    data = tar(entry("big", random.Random(3).randbytes(3_000_000) + bytes(5_000_000)), entry("last", b"z"))
    packings = {
        "members": b"".join(gzip.compress(data[start : start + 999_999]) for start in range(0, len(data), 999_999)),
        "padded": gzip.compress(data) + bytes(600_000),
    }
    root = unpacked(packings.get(how) or packed(data, how))
    assert (root / "last").read_bytes() == b"z"
    assert (root / "big").stat().st_size == 8_000_000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(unpacked: Unpacked, form: int) -> None:
    names = ["ä" * 20, "weiß/\udcff\udcfe", "a b\nc", "x" * 99, "d" * 60 + "/" + "e" * 90]
    if form != tarfile.USTAR_FORMAT:
        names += ["f" * 255, "/".join(["g" * 200] * 4)]
    root = unpacked(tar(*(entry(name, b"1") for name in names), format=form))
    found = {item.path for item in scan(root) if item.kind == "f"}
    assert found == {name.encode("utf-8", "surrogateescape") for name in names}


def test_what_gnu_tar_and_bsd_tar_write(unpacked: Unpacked, tmp_path: Path) -> None:
    source = tmp_path / "layer7"
    source.mkdir()
    (source / ("n" * 180)).write_bytes(b"n")
    (source / "folder").mkdir(mode=0o700)
    (source / "folder" / "link").symlink_to("t" * 180)
    argv = ["tar", "--format=gnu", "-C", source, "-czf", tmp_path / "layer8", "."]
    subprocess.run(argv, check=True)
    root = unpacked((tmp_path / "layer8").read_bytes())
    assert scan(root) == scan(source)


def test_what_has_no_owner_here_is_still_ours(unpacked: Unpacked) -> None:
    root = unpacked([entry("file", b"1", uid=1234, gid=5678)])
    assert (root / "file").stat().st_uid == os.geteuid()


# -- layers over each other ------------------------------------------------------------------------------------------------


def test_later_layers_replace(unpacked: Unpacked) -> None:
    root = unpacked(
        [
            entry("a", b"old", mode=0o600),
            folder("b", 0o700),
            entry("b/kept", b"k"),
            link("c", "b"),
            folder("d"),
            entry("d/e"),
        ],
        [
            entry("a", b"new", mode=0o644),
            folder("b", 0o755),
            entry("b/more", b"m"),
            folder("c"),
            entry("d", b"a file now"),
        ],
    )
    assert [(item.kind, oct(item.mode), os.fsdecode(item.path)) for item in scan(root)] == [
        ("f", "0o644", "a"),
        ("d", "0o755", "b"),
        ("f", "0o644", "b/kept"),
        ("f", "0o644", "b/more"),
        ("d", "0o755", "c"),
        ("f", "0o644", "d"),
    ]


def test_replacing_one_name_of_a_file_leaves_the_other(unpacked: Unpacked) -> None:
    root = unpacked([entry("a", b"old"), hard("b", "a")], [entry("a", b"new")])
    assert (root / "b").read_bytes() == b"old"


def test_a_hard_link_to_a_lower_layer(unpacked: Unpacked) -> None:
    root = unpacked([entry("usr/a", b"1"), link("alias", "usr")], [hard("b", "/alias/a")])
    assert (root / "b").samefile(root / "usr/a")


def test_whiteouts(unpacked: Unpacked) -> None:
    root = unpacked(
        [entry("a"), folder("b"), entry("b/c/d"), entry("b/e"), link("l", "b"), entry("x/y")],
        [
            entry(".wh.a"),
            entry("b/.wh.c"),
            entry(".wh.l"),
            entry("no/such/.wh.thing"),
            entry(".wh.nothing"),
            entry("x/y/.wh.z"),
        ],
    )
    assert paths(root) == ["b", "b/e", "x", "x/y"]


def test_whiteouts_hide_only_what_is_below_whatever_the_order(unpacked: Unpacked) -> None:
    lower = [entry("a/old"), entry("b/old"), entry("c")]
    before = [
        entry("a/.wh..wh..opq"),
        entry("a/new"),
        entry(".wh.b"),
        entry("b/new"),
        entry(".wh.c"),
        entry("c", b"new"),
    ]
    after = [
        entry("a/new"),
        entry("a/.wh..wh..opq"),
        entry("b/new"),
        entry(".wh.b"),
        entry("c", b"new"),
        entry(".wh.c"),
    ]
    root = unpacked(lower, before)
    assert paths(root) == ["a", "a/new", "b", "b/new", "c"]
    first = scan(root)
    root.rename(root.with_name("layer5"))
    assert scan(unpacked(lower, after)) == first


def test_an_opaque_folder_without_anything(unpacked: Unpacked) -> None:
    root = unpacked([entry("a/b/c"), entry("a/d"), link("s", "a")], [folder("a", 0o711), entry("s/.wh..wh..opq")])
    assert paths(root) == ["a", "s"]
    assert mode(root / "a") == 0o711


def test_bookkeeping_of_old_file_systems_is_skipped(unpacked: Unpacked) -> None:
    root = unpacked([folder(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x"), entry(".wh..wh.aufs"), entry("a")])
    assert paths(root) == ["a"]


def test_merged_usr(unpacked: Unpacked) -> None:
    root = unpacked(
        [link("lib", "usr/lib"), link("bin", "/usr/bin"), entry("lib/one", b"1"), entry("bin/sh", b"sh")],
        [entry("usr/lib/two"), entry("lib/sub/three"), entry("bin/.wh.sh"), hard("lib/four", "lib/one")],
    )
    assert os.readlink(root / "lib") == "usr/lib"
    assert paths(root) == [
        "bin", "lib", "usr", "usr/bin", "usr/lib", "usr/lib/four", "usr/lib/one", "usr/lib/sub", "usr/lib/sub/three", "usr/lib/two",
    ]  # fmt: skip


def test_a_link_that_moves_between_two_entries(unpacked: Unpacked) -> None:
    root = unpacked(
        [folder("one"), folder("two"), link("l", "one"), entry("l/a"), entry("m/deep/file")],
        [link("l", "two"), entry("l/a"), link("m", "two"), entry("m/deep/file")],
    )
    assert paths(root) == ["l", "m", "one", "one/a", "two", "two/a", "two/deep", "two/deep/file"]


def test_devices_and_fifos_are_skipped_and_told(tmp_path: Path) -> None:
    (tmp_path / "lower").write_bytes(tar(entry("dev/null", b"a file"), entry("keep")))
    special = [
        entry(f"dev/{name}", kind=kind)
        for name, kind in (("null", tarfile.CHRTYPE), ("sda", tarfile.BLKTYPE), ("p", tarfile.FIFOTYPE))
    ]
    (tmp_path / "upper").write_bytes(tar(*special))
    (tmp_path / "tree").mkdir()
    made = unpack(tmp_path / "tree", [Archive(path=tmp_path / "lower"), Archive(path=tmp_path / "upper")])
    assert made.skipped == ["/dev/null (device)", "/dev/sda (device)", "/dev/p (FIFO)"]
    assert paths(tmp_path / "tree") == ["dev", "keep"]


def test_the_real_thing(base_tar: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    made = unpack(ours, [Archive(path=base_tar, diff_id=digest(base_tar.read_bytes()).removeprefix("sha256:"))])
    assert scan(ours, made.contents) == scan(ours)
    argv = ["tar", "--numeric-owner", "--same-permissions", "-C", theirs, "-xf", base_tar, "--exclude=./dev/*"]
    subprocess.run(argv, check=True)
    assert [item for item in scan(ours) if not item.path.startswith(b"dev/")] == scan(theirs)


# -- ways out --------------------------------------------------------------------------------------------------------------


def test_absolute_names_start_at_the_root(unpacked: Unpacked, host: Path) -> None:
    root = unpacked([entry(f"{host}/file", b"inside"), entry("///etc//passwd", b"p")])
    assert (root / str(host).lstrip("/") / "file").read_bytes() == b"inside"
    assert (root / "etc/passwd").read_bytes() == b"p"


@pytest.mark.parametrize("name", ["../host/file", "a/../../host/file", "/../host/file", "..", "a/.."])
@pytest.mark.parametrize(
    "make", [entry, folder, lambda name: link(name, "x"), lambda name: hard(name, "a"), lambda name: hard("b", name)]
)
def test_names_with_dots_are_refused(unpacked: Unpacked, name: str, make: Callable[[str], Any]) -> None:
    with pytest.raises(BuildError, match="leads out of its folder"):
        unpacked([entry("a"), make(name)])


def test_writing_through_a_link_stays_inside(unpacked: Unpacked, host: Path) -> None:
    up = "../" * 20
    root = unpacked(
        [
            link("absolute", str(host)),
            entry("absolute/file", b"1"),
            link("relative", up + str(host).lstrip("/")),
            entry("relative/file", b"2"),
            link("chain", "absolute/.."),
            entry("chain/host/other", b"3"),
            link("here", "/proc/self/cwd"),
            entry("here/x", b"4"),
        ]
    )
    inside = root / str(host).lstrip("/")
    assert (inside / "file").read_bytes() == b"2"
    assert (inside / "other").read_bytes() == b"3"
    assert (root / "proc/self/cwd/x").read_bytes() == b"4"


def test_a_link_is_never_written_through(unpacked: Unpacked, host: Path) -> None:
    root = unpacked([link("f", str(host / "file"))], [entry("f", b"replaced", mode=0o777)])
    assert (root / "f").read_bytes() == b"replaced"
    assert not (root / "f").is_symlink()


def test_folders_and_whiteouts_do_not_follow_the_last_link(unpacked: Unpacked, host: Path) -> None:
    root = unpacked(
        [link("d", str(host)), link("w", str(host)), link("o", str(host))],
        [folder("d", 0o777), entry(".wh.w"), entry("o/.wh..wh..opq"), entry("o/.wh.file")],
    )
    assert [item.kind for item in scan(root)] == ["d", "l"]


def test_hard_links_stay_inside(unpacked: Unpacked, host: Path) -> None:
    for target in (f"{host}/file", "/etc/passwd", "../host/file"):
        with pytest.raises(BuildError, match=r"hard link to .*, which is not there|leads out of its folder"):
            unpacked([hard("stolen", target)])
        (host.parent / "tree").rmdir()
    with pytest.raises(BuildError, match="which is not there"):
        unpacked([link("way", str(host)), hard("stolen", "way/file")])


def test_a_hard_link_to_a_link_does_not_reach_through_it(unpacked: Unpacked, host: Path) -> None:
    root = unpacked([link("l", str(host / "file")), hard("h", "l"), entry("h2"), hard("l2", "l")])
    assert os.readlink(root / "h") == str(host / "file")
    assert mode(host / "file") == 0o600


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a"), hard("a", "a")], "hard link to a folder or to itself"),
        ([entry("d/a"), link("l", "d"), hard("l/a", "d/a")], "hard link to a folder or to itself"),
        ([folder("d"), hard("a", "d")], "hard link to a folder or to itself"),
        ([hard("a", "/")], "which is not there"),
        ([entry("a"), entry("a/b")], "/a is a file where a folder must be"),
        ([link("a", "b"), link("b", "a"), entry("a/c")], "too many links or folders"),
        ([entry("/".join("d" * 300))], "more than 256 folders deep"),
        (
            [entry("/".join("d" * 200) + "/x"), link("l", "/".join("d" * 200)), entry("l/" + "/".join("e" * 200))],
            "too many links or folders",
        ),
        ([entry(".wh...")], "the whiteout .wh... names nothing"),
        ([entry(".wh.")], "the whiteout .wh. names nothing"),
        ([entry("a/.wh..")], "the whiteout .wh.. names nothing"),
        ([entry("n" * 300)], "File name too long"),
        ([entry("a", kind=b"V")], "has the unknown type 'V'"),
        ([entry("a", kind=tarfile.GNUTYPE_SPARSE)], "is stored as a sparse file"),
        ([entry("a", pax_headers={"GNU.sparse.major": "1"})], "is stored as a sparse file"),
    ],
)
def test_what_is_refused(unpacked: Unpacked, entries: Sequence[Any], message: str) -> None:
    with pytest.raises(ReproboxError) as caught:
        unpacked(entries)
    assert message in caught.value.message


# -- broken archives -------------------------------------------------------------------------------------------------------


def test_an_archive_with_another_diff_id(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(packed(tar(entry("a", b"1")), "gzip"))
    (tmp_path / "tree").mkdir()
    with pytest.raises(IntegrityError, match="the layer unpacks to other bytes than its image says") as caught:
        unpack(tmp_path / "tree", [Archive(path=path, diff_id="0" * 64)])
    assert caught.value.where == str(path)


GOOD = tar(entry("a", b"1" * 2000), entry("b", b"2"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:700], "the archive is cut off"),
        (GOOD[:1000], "the archive is cut off"),
        (GOOD[:512], "the archive is cut off"),
        (gzip.compress(GOOD, mtime=0)[:-20], "cut off"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"12345678", "its gzip data is broken"),
        (b"\x1f\x8b" + b"x" * 100, "its gzip data is broken"),
        (gzip.compress(GOOD, mtime=0) + b"rubbish", "its gzip data is broken"),
        (packed(GOOD, "zstd")[:40] + b"x" * 100, "zstd data is broken"),
        (GOOD[:2560] + b"x" * 512 + GOOD[3072:], "something else where a number must be"),
        (GOOD[:2560] + GOOD[2560:2570] + b"x" + GOOD[2571:], "a header's checksum is wrong"),
        (bytes(512) + GOOD, "something follows the first half of the archive's end mark"),
        (b"no tar at all" * 100, "something else where a number must be"),
        (b"", None),
        (bytes(1024), None),
        (GOOD[:3584], None),
        (GOOD + b"what follows is no part of it", None),
    ],
)
def test_broken_archives(unpacked: Unpacked, data: bytes, message: str | None) -> None:
    if message is None:
        unpacked(data)
        return
    with pytest.raises(BuildError, match="this layer cannot be unpacked") as caught:
        unpacked(data)
    assert message in caught.value.message


def raw(name: bytes = b"a", size: bytes = b"00000000000\0", kind: bytes = b"0", data: bytes = b"") -> bytes:
    """A header of one's own making, with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136], block[156:157] = b"0000644\0", size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def big(number: int) -> bytes:
    return b"\x80" + struct.pack(">3xQ", number)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw(kind=b"x", size=big(1 << 40)), "a name or its attributes take 1099511627776 bytes"),
        (raw(kind=b"L", size=big(1 << 62)), "a name or its attributes take"),
        (raw(size=big(1 << 62)), "the archive is cut off"),
        (raw(size=b"\xff" * 12), "something else where a number must be"),
        (raw(size=b"-0000000001\0"), "something else where a number must be"),
        (raw(kind=b"x", size=b"00000000012\0", data=b"99 path=b\n"), "a pax header is broken"),
        (raw(kind=b"x", size=b"00000000012\0", data=b"0 path=bb\n"), "a pax header is broken"),
        (raw(kind=b"x", size=b"00000000012\0", data=b"10 path=b\n") + raw(), None),
        (raw(kind=b"x", size=b"00000000013\0", data=b"11 size=-1\n") + raw(), "something else where a number must be"),
        (raw(kind=b"x", size=b"00000000014\0", data=b"12 path=\0bc\n") + raw(), "has a NUL in its name"),
        (raw(kind=b"x", size=b"00004000000\0", data=b"1" * (1 << 20)), "a pax header is broken"),
    ],
)
def test_headers_made_to_harm(unpacked: Unpacked, data: bytes, message: str | None) -> None:
    before = time.monotonic()
    if message is None:
        unpacked(data)
    else:
        with pytest.raises(BuildError) as caught:
            unpacked(data)
        assert message in caught.value.message
    assert time.monotonic() - before < 1


def test_bombs(unpacked: Unpacked, tmp_path: Path) -> None:
    small = Limits(size=1 << 20, ratio=10, entries=100)
    with pytest.raises(BuildError, match="it unpacks to more than 1048576 bytes"):
        unpacked(gzip.compress(tar(entry("zeros", bytes(20 << 20)))), limits=small)
    assert (tmp_path / "tree/zeros").stat().st_size < 2 << 20
    (tmp_path / "tree").rename(tmp_path / "layer3")
    with pytest.raises(BuildError, match="it has more than 100 entries"):
        unpacked([entry(str(number)) for number in range(101)], limits=small)


def test_random_damage_never_escapes_and_never_raises_anything_else(unpacked: Unpacked, tmp_path: Path) -> None:
    chance = random.Random(11)
    whole = bytearray(
        tar(
            folder("d"), entry("d/f", b"x" * 600), link("l", "../host"), entry("l/g"), hard("h", "d/f"), entry("ä" * 80)
        )
    )
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(4096)] = chance.randrange(256)
        try:
            unpacked(bytes(data))
        except ReproboxError:
            pass
        subprocess.run(["rm", "-rf", tmp_path / "tree"], check=True)


def test_the_stream_alone() -> None:
    data = tar(entry("a", b"1" * 3000), entry("b", b"2"))
    stream = TarStream(iter([data[:100], data[100:1111], b"", data[1111:]]))
    found = [(header.name, b"".join(stream.data())) for header in stream]
    assert found == [(b"a", b"1" * 3000), (b"b", b"2")]
    assert [header.name for header in TarStream(iter([data]))] == [b"a", b"b"]
    with pytest.raises(TarError):
        list(TarStream(iter([data[:600]])))


def test_decompressed_reads_from_where_the_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before" + gzip.compress(b"inside"))
    with path.open("rb") as file:
        file.seek(6)
        assert b"".join(decompressed(file)) == b"inside"


# -- an ordinary user, a full disk -----------------------------------------------------------------------------------------

_SCRIPT = "import sys; from pathlib import Path; from reprobox.archives.unpack import *; print(unpack(Path(sys.argv[1]), [Archive(path=Path(name)) for name in sys.argv[2:]]).skipped)"


@pytest.mark.ordinary
def test_an_ordinary_user_gets_the_same_tree(user: OrdinaryUser, tmp_path: Path, unpacked: Unpacked) -> None:
    layers = (
        [
            folder("ro", 0o555),
            entry("ro/a", b"1", mode=0o400),
            folder("none", 0o000),
            folder("none/sub", 0o700),
            entry("none/b", mode=0o000),
            entry("su", mode=0o6755),
        ],
        [entry("ro/c"), entry("none/.wh.b"), entry("none/d"), folder("ro/deep/er", 0o111), folder("none", 0o000)],
    )
    assert [Entry("d", 0o000, "-", b"none"), Entry("d", 0o555, "-", b"ro")] == [
        item for item in scan(unpacked(*layers)) if item.path in (b"none", b"ro")
    ]
    expected = scan(tmp_path / "tree")
    home = user.home / "unpack"
    (home / "tree").mkdir(parents=True)
    for number, layer in enumerate(layers):
        (home / str(number)).write_bytes(tar(*layer))
    user.give(home)
    code = user.copy(ROOT / "reprobox", "reprobox").parent
    argv = ["python3", "-c", _SCRIPT, home / "tree", home / "0", home / "1"]
    done = user.run(argv, env={"PYTHONPATH": str(code)})
    assert done.returncode == 0, done.stderr
    assert scan(home / "tree") == expected


@pytest.mark.userns
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(tar(entry("big", bytes(3 << 20))))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    unpacking = [sys.executable, "-c", _SCRIPT, str(disk), str(tmp_path / "layer")]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(disk), *unpacking],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"reprobox.errors.ReproboxError: {tmp_path}/disk: no space is left on the disk" in done.stderr
