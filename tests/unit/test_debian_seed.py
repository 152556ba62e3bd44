"""What is written in place of ``dpkg --unpack`` is what dpkg itself would have written."""

from __future__ import annotations

import os
import subprocess

import pytest

from reprobox.debian import seed
from reprobox.errors import IntegrityError
from reprobox.tree import scan
from tests.debs import TIME, make_deb
from tests.images import entry, link, tar

pytestmark = pytest.mark.tool("dpkg")

DPKG = ("dpkg", "--force-not-root", "--force-depends", "--force-unsafe-io", "--no-triggers", "--log=/dev/null")


@pytest.fixture
def packages(tmp_path):
    """Plain packages of every sort: without and with configuration files, architecture-independent, of several architectures."""
    folder = tmp_path / "debs"
    folder.mkdir()
    native = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    return [
        make_deb(
            folder,
            "alpha",
            version="2:1.0-1",
            architecture=native,
            control={"Multi-Arch": "same", "Depends": "beta", "Section": "libs", "Priority": "required"},
            files={"usr/lib/libalpha.so": b"1", "usr/lib/libalpha.so.1": ("symlink", "libalpha.so")},
            scripts={
                "triggers": "activate-noawait ldconfig\n",
                "shlibs": "libalpha 1 alpha\n",
                "md5sums": "0  usr/lib/libalpha.so\n",
            },
        ),
        make_deb(
            folder,
            "beta",
            architecture="all",
            control={"Essential": "yes", "Multi-Arch": "foreign", "X-Unknown": "kept"},
            files={"etc/beta/beta.conf": b"a=1\n", "etc/beta/other": b"", "usr/share/beta/x": b"x", "bin/beta": b"b"},
            scripts={"conffiles": "/etc/beta/beta.conf\n/etc/beta/other\n", "md5sums": "0  usr/share/beta/x\n"},
        ),
    ]


def planted(root, debs, **options):
    root.mkdir()
    seed.plant(root, seed.Planting(debs=debs, epoch=TIME, **({"by_dpkg": (), "links": ()} | options)))
    return root


def unpacked_by_dpkg(root, debs):
    for name in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "var/lib/dpkg/available").touch()
    subprocess.run([*DPKG, f"--root={root}", "--unpack", *debs], check=True, capture_output=True)
    return root


def configured(root):
    """The tree after dpkg has configured everything; without dpkg's own traces."""
    subprocess.run([*DPKG, f"--root={root}", "--configure", "--pending"], check=True, capture_output=True)
    left_out = (b"var/lib/dpkg/lock", b"var/lib/dpkg/status-old", b"var/lib/dpkg/triggers/")
    return {entry.path: entry for entry in scan(root) if not entry.path.startswith(left_out)}


def test_dpkg_goes_on_from_it_to_the_same_end(tmp_path, packages):
    ours = planted(tmp_path / "ours", packages)
    theirs = unpacked_by_dpkg(tmp_path / "theirs", packages)
    left_out = (b"var/lib/dpkg/lock", b"var/lib/dpkg/status", b"var/lib/dpkg/triggers/")
    both = [{e.path: e for e in scan(root) if not e.path.startswith(left_out)} for root in (ours, theirs)]
    assert both[0] == both[1]
    assert configured(ours) == configured(theirs)
    info = "var/lib/dpkg/info"
    assert sorted(os.listdir(ours / info)) == sorted(os.listdir(theirs / info))
    for name in os.listdir(ours / info):
        if not name.endswith((".list", "format")):
            assert (ours / info / name).stat().st_mtime == (theirs / info / name).stat().st_mtime, name


def test_configuration_files_wait_for_dpkg(tmp_path, packages):
    ours = planted(tmp_path / "ours", packages)
    assert (ours / "etc/beta/beta.conf.dpkg-new").read_bytes() == b"a=1\n"
    assert not (ours / "etc/beta/beta.conf").exists()
    status = (ours / "var/lib/dpkg/status").read_text()
    assert "Status: install ok unpacked" in status
    assert "Conffiles:\n /etc/beta/beta.conf newconffile\n /etc/beta/other newconffile\n" in status


def test_what_dpkg_unpacks_itself_is_there_but_not_registered(tmp_path, packages):
    ours = planted(tmp_path / "ours", packages, by_dpkg=packages[1:], links=("bin", "lib"))
    assert (ours / "usr/bin/beta").read_bytes() == b"b"
    assert not (ours / "etc/beta/beta.conf.dpkg-new").exists()
    assert "Package: beta" not in (ours / "var/lib/dpkg/status").read_text()
    assert os.readlink(ours / "bin") == "usr/bin"
    subprocess.run([*DPKG, f"--root={ours}", "--unpack", packages[1]], check=True, capture_output=True)
    assert b"etc/beta/beta.conf" in configured(ours)


def test_which_packages_dpkg_unpacks_itself():
    assert seed.needs_dpkg(["control", "md5sums", "preinst"], b"")
    assert seed.needs_dpkg(["control", "md5sums"], b"# x\ninterest-noawait /usr/share/x\n")
    assert seed.needs_dpkg(["control", "md5sums"], b"interest x\n")
    assert seed.needs_dpkg(["control"], b"")  # dpkg makes the checksums that it lacks
    assert not seed.needs_dpkg(["control", "md5sums", "postinst"], b"activate-noawait ldconfig\n")


def test_links_of_merged_usr(tmp_path):
    without = make_deb(tmp_path, "base-files", files={"etc/debian_version": b"12"}).read_bytes()
    brought = make_deb(tmp_path, "base-files", version="13", files={"usr/bin/x": b"", "bin": ("symlink", "usr/bin")})
    assert seed.merged_usr_links(without, "amd64") == ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
    assert seed.merged_usr_links(without, "arm64") == ("bin", "lib", "sbin")
    assert seed.merged_usr_links(brought.read_bytes(), "amd64") == ()


def archive(path, control, tree):
    """A .deb of exactly these tars, which dpkg-deb would not make."""
    data = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", tree)):
        data += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def hostile(folder, package="own", architecture="all", more=(), tree=()):
    control = f"Package: {package}\nVersion: 1\nArchitecture: {architecture}\n".encode()
    return archive(folder / "x.deb", tar(entry("./control", control), *more), tar(*tree))


@pytest.mark.parametrize(
    "odd",
    [
        {"package": "../../../../victim/own"},
        {"package": "Own"},
        {"package": ""},
        {"architecture": "../all"},
        {"more": [entry("./a/b", b"x")]},
        {"more": [entry("./.hidden", b"x")]},
    ],
    ids=["path", "capital", "none", "architecture", "control file below", "hidden control file"],
)
def test_names_that_are_paths_are_refused(tmp_path, odd):
    (tmp_path / "victim").mkdir()
    with pytest.raises(IntegrityError, match="not a Debian package"):
        planted(tmp_path / "root", [hostile(tmp_path, **odd)])
    assert list((tmp_path / "victim").iterdir()) == []


@pytest.mark.parametrize("place", ["var/lib/dpkg/info", "var/lib/dpkg", "var/lib/dpkg/status", "var"])
def test_the_database_is_written_inside_the_root_whatever_a_package_put_there(tmp_path, place):
    victim = tmp_path / "victim"
    victim.mkdir()
    target = victim / "kept" if place.endswith("status") else victim
    path = hostile(tmp_path, more=[entry("./postinst", b"x")], tree=[link(f"./{place}", str(target))])
    root = planted(tmp_path / "root", [path])
    assert list(victim.iterdir()) == []
    assert b"Package: own" in b"".join(file.read_bytes() for file in root.rglob("status") if not file.is_symlink())
