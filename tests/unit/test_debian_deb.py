"""Packages as dpkg-deb makes them, and trees that lead astray."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile

import pytest

from reprobox.debian import deb
from reprobox.errors import IntegrityError
from tests.debs import TIME, make_deb
from tests.images import entry, folder, hard, link, tar

pytestmark = pytest.mark.tool("dpkg-deb")

LONG = "usr/share/" + "a-long-name/" * 12 + "file"
FILES = {
    "usr/bin/tool": b"#!/bin/sh\n",
    "usr/share/doc/x": b"x" * 100_000,
    "usr/share/empty": b"",
    "usr/bin/link": ("symlink", "tool"),
    "usr/bin/twin": ("hardlink", "usr/bin/tool"),
    "etc/x.conf": b"a=1\n",
    LONG: b"deep",
    "usr/share/j\udcfcrgen \\ x": b"not UTF-8",
}


def tree(root):
    found = {}
    for place, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(place, name)
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            time = None if stat.S_ISDIR(status.st_mode) else status.st_mtime
            found[os.path.relpath(path, root)] = (stat.filemode(status.st_mode), content, time)
    return found


def unpack(root, *trees: bytes):
    root.mkdir(exist_ok=True)
    unpacker = deb.Unpacker(root)
    for data in trees:
        for member in deb.tar_members(data):
            unpacker.write(member)
    return root


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_unpacks_as_dpkg_deb_does(tmp_path, compression):
    if compression == "zstd" and b"zstd" not in subprocess.check_output(["dpkg-deb", "--help"]):
        pytest.skip("this dpkg-deb does not pack with zstd")
    path = make_deb(tmp_path, "x", files=FILES, compression=compression)
    subprocess.run(["dpkg-deb", "-x", path, tmp_path / "theirs"], check=True)
    ours = unpack(tmp_path / "ours", deb.data_tar(path.read_bytes()))
    assert tree(ours) == tree(tmp_path / "theirs")
    assert (ours / "usr/bin/twin").samefile(ours / "usr/bin/tool")
    assert (ours / LONG).stat().st_mtime == TIME


@pytest.mark.parametrize("files", [FILES, {"odd": b"1"}, {}])
def test_a_package_is_the_same_with_a_tree_that_is_not_packed(tmp_path, files):
    path = make_deb(tmp_path, "x", files=files, scripts={"postinst": "#!/bin/sh\n"})
    data = path.read_bytes()
    plain = tmp_path / "plain.deb"
    plain.write_bytes(deb.with_tree(data, deb.data_tar(data)))
    for what in ("--info", "--contents", "--fsys-tarfile", "--ctrl-tarfile"):
        told = [subprocess.run(["dpkg-deb", what, name], capture_output=True, check=True) for name in (path, plain)]
        shown = [done.stdout.partition(b"control archive=")[2] if what == "--info" else done.stdout for done in told]
        assert shown[0] == shown[1], what
    assert b"data.tar  " in plain.read_bytes()
    assert deb.data_tar(plain.read_bytes()) == deb.data_tar(data)


def test_control_files(tmp_path):
    path = make_deb(tmp_path, "x", scripts={"postinst": "#!/bin/sh\n", "conffiles": "/etc/x.conf\n"}, files=FILES)
    found = deb.control_files(path.read_bytes())
    assert found["postinst"] == b"#!/bin/sh\n"
    assert found["conffiles"] == b"/etc/x.conf\n"
    assert found["control"].startswith(b"Package: x\n")


def test_modes_do_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        root = unpack(tmp_path / "root", tar(entry("a/b/c", b"1", mode=0o4755)))
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b/c").stat().st_mode) == 0o4755


def test_merged_usr_is_kept(tmp_path):
    first = tar(folder("usr"), folder("usr/bin"), link("bin", "usr/bin"), link("lib", "/usr/lib"))
    second = tar(folder("bin"), entry("bin/sh", b"shell"), entry("lib/x/y", b"library"))
    root = unpack(tmp_path / "root", first, second)
    assert (root / "bin").is_symlink()
    assert (root / "usr/bin/sh").read_bytes() == b"shell"
    assert (root / "usr/lib/x/y").read_bytes() == b"library"


def test_later_packages_replace_files_and_links_but_no_folders(tmp_path):
    first = tar(entry("a", b"1"), link("b", "a"), folder("c"), entry("c/d", b"1"))
    second = tar(entry("a", b"2"), entry("b", b"2"), link("c", "elsewhere"))
    root = unpack(tmp_path / "root", first, second)
    assert (root / "a").read_bytes() == b"2"
    assert (root / "b").read_bytes() == b"2"
    assert not (root / "b").is_symlink()
    assert (root / "c/d").read_bytes() == b"1"


def test_links_that_double_at_each_step_are_followed_no_longer_than_others(tmp_path):
    links = [link(f"l{number}", f"l{number - 1}/../l{number - 1}") for number in range(1, 26)]
    with pytest.raises(IntegrityError, match="a package's folder is a file in the tree"):
        unpack(tmp_path / "root", tar(folder("d"), link("l0", "d"), *links, entry("l25/x", b"1")))


def test_links_of_links_are_followed(tmp_path):
    links = [link("a", "b"), link("b", "./c/../c"), link("c", "/d")]
    unpack(tmp_path / "root", tar(folder("d"), *links, entry("a/new/x", b"1")))
    assert (tmp_path / "root/d/new/x").read_bytes() == b"1"


@pytest.mark.parametrize(
    "entries",
    [
        [link("out", "{outside}"), entry("out/x", b"evil")],
        [link("out", "../../../../../../../../../..{outside}"), entry("out/x", b"evil")],
        [link("a", "b"), link("b", "a"), entry("a/x", b"evil")],
        [link("x", "{outside}/x"), entry("x", b"evil")],
        [hard("x", "../outside/old")],
        [entry("../outside/x", b"evil")],
    ],
    ids=["absolute link", "link with dots", "loop", "link at the name", "hard link", "dots"],
)
def test_nothing_leads_out_of_the_tree(tmp_path, entries):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "old").write_bytes(b"old")
    for info, _ in entries:
        info.linkname = info.linkname.format(outside=outside)
    try:
        unpack(tmp_path / "root", tar(*entries))
    except IntegrityError:
        pass
    assert os.listdir(outside) == ["old"]
    assert not (tmp_path / "root/x").exists() or not (tmp_path / "root/x").samefile(outside / "old")


def test_special_files_are_refused(tmp_path):
    with pytest.raises(IntegrityError, match="a special file: /dev/null"):
        unpack(tmp_path / "root", tar(entry("dev/null", kind=tarfile.CHRTYPE)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>", "it is no ar archive"),
        (b"!<arch>\n", "it has no data.tar"),
        (b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"4".ljust(10) + b"`\n" + b"junk", "cannot be unpacked"),
        (b"!<arch>\n" + b"data.tar.lzo".ljust(48) + b"4".ljust(10) + b"`\n" + b"junk", r"packed as '\.lzo'"),
    ],
)
def test_what_is_no_package(data, message):
    with pytest.raises(IntegrityError, match=message):
        deb.data_tar(data)


def test_a_broken_tree(tmp_path):
    data = bytearray(tar(entry("a", b"1")))
    data[5] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        list(deb.tar_members(bytes(data)))
