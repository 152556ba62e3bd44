"""Where two builds stop being the same: the kind of each difference, who owns the path, and what is in it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reprobox.digest import write_index
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.store import StoredLayer
from reprobox.tree import scan
from reprobox.verify import content
from reprobox.verify.content import Shown
from reprobox.verify.divergence import Party, first
from reprobox.verify.owner import Owners

TIME = 1_700_000_000


class Maker:
    """Layers from files: ``{"path": b"content"}``, a str is a link's target, None a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, files, modes=(), times=()) -> StoredLayer:
        self.count += 1
        place = self.folder / f"layer{self.count}"
        tree = place / "tree"
        tree.mkdir(parents=True)
        for name, data in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                path.mkdir()
            elif isinstance(data, bytes):
                path.write_bytes(data)
            else:
                path.symlink_to(data)
        for name, mode in dict(modes).items():
            (tree / name).chmod(mode)
        for path in tree.rglob("*"):
            os.utime(path, (TIME, dict(times).get(path.name, TIME)), follow_symlinks=False)
        (place / "index").write_bytes(write_index(scan(tree)))
        return StoredLayer(id=place.name, tree=tree, index=place / "index", record={})


@pytest.fixture
def make(tmp_path) -> Maker:
    return Maker(tmp_path)


LAYER = LockedLayer(name="step", kind="run", recipe=1, request="")
TARGET = LockedTarget(name="default", platform="linux/amd64", layers=(LAYER,))


def diverged(tmp_path, one, other, target=TARGET):
    name = target.layers[-1].name
    parties = [
        Party(name="the store", digests={name: "sha256:1"}, stored={name: one}),
        Party(name="sandbox", digests={name: "sha256:2"}, stored={name: other}),
    ]
    (found,) = first(target, parties, Shown(tmp_path))
    return found


def test_every_kind_of_difference(make, tmp_path):
    one = make({"a": b"x", "b": b"x", "c": "here", "d": b"x", "e": b"x", "g": b"1"}, {"b": 0o644, "g": 0o600})
    other = make({"a": b"y", "b": b"x", "c": "there", "d": None, "f": "x y", "g": b"2"}, {"b": 0o755, "g": 0o640})
    found = diverged(tmp_path, one, other)
    assert [(item.path, item.kind) for item in found.differences] == [
        ("/a", "content"),
        ("/b", "mode"),
        ("/c", "target"),
        ("/d", "type"),
        ("/e", "only in one"),
        ("/f", "only in one"),
        ("/g", "content and mode"),
    ]
    said = {item.path: (item.one, item.other) for item in found.differences}
    assert said["/b"] == ("0644", "0755")
    assert said["/c"] == ("here", "there")
    assert said["/d"] == ("file 0644", "folder 0755")
    assert said["/e"] == ("file 0644", "")
    assert said["/f"] == ("", "link to x y")
    assert found.count == 7
    assert found.differences[0].text == ("-x", "+y")


def test_times_and_hard_links_where_all_else_is_the_same(make, tmp_path):
    one, other = make({"a": b"x"}), make({"a": b"x"}, times={"a": TIME + 5})
    (difference,) = diverged(tmp_path, one, other).differences
    assert (difference.kind, difference.one, difference.other) == ("time", str(TIME), str(TIME + 5))
    one, other = make({"a": b"x", "b": b"x"}), make({"a": b"x", "b": b"x"})
    (other.tree / "b").unlink()
    os.link(other.tree / "a", other.tree / "b")
    (difference,) = diverged(tmp_path, one, other).differences
    assert (difference.path, difference.kind, difference.one, difference.other) == ("/b", "hard link", "/b", "/a")


def test_only_the_first_layer_that_differs_is_told(make, tmp_path):
    layers = (LAYER, LockedLayer(name="above", kind="run", recipe=1, request="", parents=("step",)))
    target = LockedTarget(name="default", platform="linux/amd64", layers=layers)
    stored = {"step": make({"a": b"1"}), "above": make({"b": b"1"})}
    others = {"step": make({"a": b"2"}), "above": make({"b": b"2"})}
    parties = [
        Party(name="the seal", digests={"step": "1", "above": "1"}),
        Party(name="the store", digests={"step": "1", "above": "1"}, stored=stored),
        Party(name="docker", digests={"step": "2", "above": "2"}, stored=others),
    ]
    (found,) = first(target, parties, Shown(tmp_path))
    assert (found.layer, found.one, found.other) == ("step", "the seal and the store", "docker")
    assert first(target, parties[:2], Shown(tmp_path)) == ()


def test_many_paths_are_counted(make, tmp_path):
    one, other = (make({f"f{n:03}": data for n in range(50)}) for data in (b"1", b"2"))
    found = diverged(tmp_path, one, other)
    assert (len(found.differences), found.count) == (20, 50)


# -- packages ----------------------------------------------------------------------------------------------------------


def test_the_package_that_owns_a_path(make):
    deb = Input(type="deb", name="libx.deb", sha256="0" * 64, size=1, facts={"package": "libx", "version": "1.2-3"})
    base = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=(deb,))
    python = LockedLayer(name="python", kind="pip", recipe=1, request="", parents=("base",))
    target = LockedTarget(name="default", platform="linux/amd64", layers=(base, python))
    site = "usr/local/lib/python3.11/dist-packages"
    stored = {
        "base": make(
            {
                "var/lib/dpkg/info/libx:amd64.list": b"/.\n/lib\n/lib/x.so\n/usr/share/py/x.py\n",
                "var/lib/dpkg/info/other.list": b"/etc/other\n",
            }
        ),
        "python": make(
            {
                f"{site}/numpy-2.1.0.dist-info/RECORD": b"numpy/core.py,sha256=x,1\n../../../bin/f2py,,\n",
                f"{site}/numpy/core.py": b"",
            }
        ),
    }
    owners = Owners(target, python, stored)
    assert {
        path: owners.of(path.encode())
        for path in (
            "usr/lib/x.so",
            "usr/share/py/__pycache__/x.cpython-311.pyc",
            "etc/other",
            f"{site}/numpy/core.py",
            f"{site}/numpy/__pycache__/core.cpython-311.opt-1.pyc",
            "usr/local/bin/f2py",
            "srv/mine",
        )
    } == {
        "usr/lib/x.so": "libx 1.2-3 (deb)",
        "usr/share/py/__pycache__/x.cpython-311.pyc": "libx 1.2-3 (deb)",
        "etc/other": "other (deb)",
        f"{site}/numpy/core.py": "numpy 2.1.0 (wheel)",
        f"{site}/numpy/__pycache__/core.cpython-311.opt-1.pyc": "numpy 2.1.0 (wheel)",
        "usr/local/bin/f2py": "numpy 2.1.0 (wheel)",
        "srv/mine": "",
    }


def test_lists_that_a_link_leads_to_are_not_read(make, tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret.list").write_text("/srv/mine\n")
    layer = make({"var/lib/dpkg/info": str(tmp_path / "host")})
    assert Owners(TARGET, LAYER, {"step": layer}).of(b"srv/mine") == ""


# -- contents ----------------------------------------------------------------------------------------------------------


def shown(make, tmp_path, one, other, **options):
    return Shown(tmp_path, **options).of(b"a", make({"a": one}), make({"a": other}))


def test_text_is_shown_as_a_short_diff(make, tmp_path):
    one = "".join(f"line {n}\n" for n in range(100)).encode()
    text = shown(make, tmp_path, one, one.replace(b"line 50\n", b"other\n"))
    assert text == (" line 49", "-line 50", "+other", " line 51")
    assert len(shown(make, tmp_path, one, one.replace(b"line", b"x"))) == 13
    assert shown(make, tmp_path, b"x\n", b"x") == ("the lines are the same; how they end differs",)


def test_what_a_terminal_would_obey_is_not_printed(make, tmp_path):
    assert shown(make, tmp_path, b"\x1b[31mred", b"x" * 500)[0] == r"-\x1b[31mred"
    assert len(shown(make, tmp_path, b"1", b"x" * 500)[1]) == 201


def test_bytes_are_shown_from_where_they_differ(make, tmp_path):
    text = shown(make, tmp_path, b"\0same\x01", b"\0same\x02more", diffoscope=False)
    assert text == ("6 and 10 bytes; they differ from byte 5 on", "-01", "+02 6d 6f 72 65")


def test_a_link_is_not_followed(make, tmp_path):
    assert Shown(tmp_path).of(b"a", make({"a": "/etc/passwd"}), make({"a": "/etc/group"})) == ()


@pytest.mark.tool("diffoscope")
def test_diffoscope_looks_into_the_first_that_is_no_text(make, tmp_path):
    looks = Shown(tmp_path)
    one, other = make({"a": b"\0one"}), make({"a": b"\0two"})
    text = looks.of(b"a", one, other)
    assert "diffoscope:" in text
    assert any(line.startswith("-") and "one" in line for line in text[text.index("diffoscope:") :])
    assert "diffoscope:" not in looks.of(b"a", one, other)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("diffoscope-")]


def test_diffoscope_is_stopped_when_it_takes_long(make, tmp_path, monkeypatch):
    program = tmp_path / "diffoscope"
    program.write_text("#!/bin/sh\nsleep 47 &\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(content, "_SECONDS", 0.3)
    started = time.monotonic()
    assert shown(make, tmp_path, b"\0one", b"\0two")[-1] == "it was stopped after 0.3 seconds"
    assert time.monotonic() - started < 10


def test_diffoscope_that_says_much_is_cut(make, tmp_path, monkeypatch):
    program = tmp_path / "diffoscope"
    program.write_text("#!/bin/sh\nyes no | head -n 100000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    text = shown(make, tmp_path, b"\0one", b"\0two")
    assert (len(text), text[-1]) == (3 + 1 + 41, "…")
