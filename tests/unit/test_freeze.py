"""What was changed by hand: packages by their databases, files by what the packages do not give, and what is never kept."""

from __future__ import annotations

import os

import pytest

from reprobox.digest import Entry
from reprobox.freeze import AptChanges, apt_changes, dpkg_files, pip_changes, rest_of, secrets_in, write_files
from reprobox.manifest_edit import add_files, add_layer
from reprobox.tree import Tree, scan

BEFORE = b"""\
Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1.21

Package: git
Status: install ok installed
Architecture: amd64
Version: 1:2.39

Package: nano
Status: install ok installed
Architecture: amd64
Version: 7.2

"""
AFTER = (
    BEFORE.replace(b"1:2.39", b"1:2.40").replace(
        b"Package: nano\nStatus: install ok", b"Package: nano\nStatus: deinstall ok config-files\nOld: install ok"
    )
    + b"""\
Package: jq
Status: install ok installed
Architecture: amd64
Version: 1.6-2

Package: libjq1
Status: install ok installed
Architecture: amd64
Version: 1.6-2

Package: libc6
Status: install ok installed
Architecture: arm64
Version: 2.36

Package: half
Status: install ok half-configured
Architecture: amd64
Version: 1

"""
)
MARKS = b"Package: libjq1\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: jq\nAuto-Installed: 0\n\n"


def test_packages_of_apt_by_dpkgs_status_and_apts_marks():
    assert apt_changes(BEFORE, AFTER, MARKS) == AptChanges(
        asked=("jq=1.6-2", "libc6:arm64=2.36"), along=("libjq1=1.6-2",), moved=("git=1:2.40",), removed=("nano",)
    )
    assert apt_changes(BEFORE, BEFORE, b"") == AptChanges()
    assert apt_changes(b"", b"", b"") == AptChanges()


SITE = "usr/local/lib/python3.11/dist-packages"
DEBIAN = "usr/lib/python3/dist-packages"


def f(path: str, detail: str = "a" * 64, mode: int = 0o644, kind: str = "f") -> Entry:
    return Entry(kind, mode, detail if kind in "fl" else "-", path.encode())


def dist(name: str, *files: str, site: str = SITE) -> list[Entry]:
    return [f(f"{site}/{name}.dist-info/{file}") for file in ("METADATA", "RECORD", *files)]


def test_packages_of_python_by_what_their_installer_noted():
    record = b"tabulate.py,sha256=x,1\n../../../bin/tabulate,,\ntabulate-0.9.dist-info/RECORD,,\n"
    before = Tree(
        {entry.path: entry for entry in (*dist("old_thing-1.0"), *dist("six-1.0"), *dist("pip-23", site=DEBIAN))}
    )
    changed = [
        *dist("tabulate-0.9", "REQUESTED", "INSTALLER"),
        *dist("wcwidth-0.2", "INSTALLER"),
        *dist("Local_Tool-2", "REQUESTED", "direct_url.json"),
        *dist("numpy-1.24", site=DEBIAN),
        *dist("inside-1", "REQUESTED", site="opt/venv/lib/python3.11/site-packages"),
        f(f"{SITE}/old_thing-1.0.dist-info", kind="w"),
        f(f"{SITE}/six-1.0.dist-info", kind="w"),
        f(f"{DEBIAN}/pip-23.dist-info", kind="w"),
        *dist("six-1.1", "REQUESTED"),
    ]
    owned = frozenset(f"{DEBIAN}/{name}.dist-info/METADATA" for name in ("numpy-1.24", "pip-23"))
    records = {"tabulate": record, "old_thing": b"old_thing.py,,\nold_thing-1.0.dist-info/RECORD,,\n"}
    found = pip_changes(before, changed, lambda path: records.get(path.split("/")[-2].split("-")[0], b""), owned)
    assert found.asked == ("six==1.1", "tabulate==0.9")
    assert found.along == ("wcwidth==0.2",)
    assert found.removed == ("old-thing",)
    assert f"{SITE}/old_thing.py" in found.gone
    assert not [path for path in found.gone if "six" in path]
    assert found.as_files == ("local-tool==2",)
    assert {f"{SITE}/tabulate.py", "usr/local/bin/tabulate", f"{SITE}/six-1.1.dist-info/RECORD"} <= set(found.records)
    assert not [path for path in found.records if "Local" in path or "numpy" in path]


def test_files_are_what_the_packages_do_not_give():
    before = Tree({entry.path: entry for entry in (f("etc/passwd"), f("etc/issue"), f("d", kind="d", mode=0o755))})
    built = Tree({**before.entries, **{entry.path: entry for entry in (f("usr/bin/jq"), f("usr/share/doc/jq/x"))}})
    changed = [
        f("d", kind="d", mode=0o700),
        f("etc/issue", kind="w"),
        f("etc/passwd", "b" * 64),
        f("etc/passwd-"),
        f("etc/shadow", mode=0o640),
        f("etc/shadow-", mode=0o640),
        f("empty", kind="d", mode=0o755),
        f("full", kind="d", mode=0o755),
        f("full/key", mode=0o600),
        f("opt/link", "key", kind="l", mode=0o777),
        f("root/.aws/credentials"),
        f("root/.bash_history"),
        f("root/token"),
        f("usr/bin/jq"),
        f("usr/bin/tabulate"),
        f("usr/lib/x/__pycache__/x.cpython-311.pyc"),
        f("var/lib/dpkg/status", "c" * 64),
    ]
    found = rest_of(before, built, changed, ["usr/bin/tabulate"], {"root/token": "github"})
    assert found.paths == ("etc/passwd", "full/key", "opt/link")
    assert found.told == (
        "/d: the folder's mode 0700 is not kept",
        "/etc/issue: was removed, which no layer says; leave it out of what brings it",
        "/etc/shadow: credentials, never frozen",
        "/empty: an empty folder, which no layer has",
        "/full/key: its mode 0600 becomes 0644",
        "/root/.aws/credentials: credentials, never frozen",
        "/root/token: it holds the secret 'github', never frozen",
        "/usr/share/doc/jq/x: was removed after it was installed, which no layer says",
    )


def test_files_of_a_removed_package_are_told_by_its_name():
    there = [
        "usr/bin/jq",
        "usr/lib/libjq.so",
        "usr/share/jq/a",
        "usr/share/jq/a.pyc",
        "usr/share/x/jq",
        "usr/share/x/own",
    ]
    before = Tree({entry.path: entry for entry in (f("lib", "usr/lib", kind="l"), *map(f, there))})
    changed = [f(path, kind="w") for path in ("usr/bin/jq", "usr/lib/libjq.so", "usr/share/jq", "usr/share/x")]
    gone = {"usr/bin/jq", "lib/libjq.so", "usr/share/jq", "usr/share/jq/a", "usr/share/x", "usr/share/x/jq"}
    before.entries.update({path: f(path.decode(), kind="d") for path in (b"usr/share/jq", b"usr/share/x")})
    why = "was removed, which no layer says; leave it out of what brings it"
    assert rest_of(before, before, changed, [], {}, gone).told == (f"/usr/share/x: {why}",)  # it had a file of its own
    assert len(rest_of(before, before, changed, [], {}).told) == 4


def test_files_are_written_as_a_copy_layer_takes_them(tmp_path):
    tree = tmp_path / "tree"
    (tree / "opt").mkdir(parents=True)
    (tree / "opt/run").write_text("x")
    (tree / "opt/run").chmod(0o4711)
    (tree / "opt/key").write_text("my secret value")
    (tree / "opt/key").chmod(0o600)
    (tree / "opt/link").symlink_to("a b\\c")
    index = scan(tree)
    assert secrets_in(tree, {"token": b"secret value"}) == {"opt/key": "token"}
    assert write_files(tree, index, ["opt/key", "opt/link", "opt/run"], tmp_path / "to") == 16
    assert [f"{item.kind} {item.mode:o} {item.path.decode()}" for item in scan(tmp_path / "to/opt")] == [
        "f 644 key",
        "l 777 link",
        "f 755 run",
    ]
    assert os.readlink(tmp_path / "to/opt/link") == "a b\\c"
    lists = Tree({b"var/lib/dpkg/info/jq.list": f("var/lib/dpkg/info/jq.list")})
    assert dpkg_files(lists, lambda _: b"/.\n/usr/bin/jq\n") == {".", "usr/bin/jq"}


TEXT = """\
[project]
name = "x"

[base]  # kept
bootstrap = "debian:bookworm"

[[layers]]
name = "python"  # kept too
kind = "pip"
packages = ["numpy"]

[env]
A = "b"
"""


@pytest.mark.parametrize("end", ["\n", ""])
def test_the_manifest_gets_layers_of_their_own_and_keeps_its_comments(end):
    text = add_layer(TEXT.rstrip("\n") + end, "apt", "by-hand-apt", ["jq=1.6", "git=1"])
    text = add_layer(text, "pip", "python", ["six==1.1"])
    text, name = add_files(text, "by-hand", "frozen/", "/")
    assert name == "by-hand"
    assert text == TEXT.replace(
        '[[layers]]\nname = "python"',
        '[[layers]]\nname = "by-hand-apt"\nkind = "apt"\npackages = ["jq=1.6", "git=1"]\n\n[[layers]]\nname = "python"',
    ).replace(
        "\n[env]",
        '\n[[layers]]\nname = "python-2"\nkind = "pip"\npackages = ["six==1.1"]\n'
        '\n[[layers]]\nname = "by-hand"\nkind = "copy"\nfiles = [{from = "frozen/", to = "/"}]\n'
        'after = ["by-hand-apt", "python", "python-2"]\n\n[env]',
    ).rstrip("\n") + end  # fmt: skip
    assert add_files(text, "by-hand", "frozen-2/", "/")[1] == "by-hand-2"
