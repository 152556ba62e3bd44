"""Merged trees, and folders that are read and removed whatever their modes."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from reprobox.tree import Tree, make_plain_folder, remove, scan
from tests.layers import d, f, l, merged, w, write


def test_layers_are_merged_as_they_are_stacked():
    found = Tree.merged(
        [
            [d("a"), f("a/x", b"1"), d("b"), f("b/y"), l("c", "a"), d("ab"), f("ab/x")],
            [d("a", 0o700), f("a/x", b"2"), w("b"), d("c"), f("c/z")],
            [f("a", b"file"), d("b")],
        ]
    )
    assert found.sorted() == [f("a", b"file"), d("ab"), f("ab/x"), d("b"), d("c"), f("c/z")]


RESOLVING = merged(
    d("usr"),
    d("usr/lib"),
    l("lib", "usr/lib"),
    l("absolute", "/usr/lib"),
    l("up", "../../.."),
    l("usr/lib/back", "../../lib"),
    l("loop", "loop"),
    l("dangling", "new/place"),
    f("file"),
    l("usr/x", "../file"),
    l("usr/y", "/usr/lib"),
    l("spaced", "a b"),
)


@pytest.mark.parametrize(
    ("path", "final", "wanted"),
    [
        ("lib/x", False, "usr/lib/x"),
        ("lib", False, "lib"),
        ("lib", True, "usr/lib"),
        ("lib/", True, "usr/lib"),
        ("lib/.", False, "usr/lib"),
        ("absolute/x/y", False, "usr/lib/x/y"),
        ("usr/y/z", False, "usr/lib/z"),
        ("up/etc/passwd", False, "etc/passwd"),
        ("../../x", False, "x"),
        ("lib/../x", False, "usr/x"),
        ("lib/../x", True, "file"),
        ("lib/back/back/x", False, "usr/lib/x"),
        ("dangling/z", False, "new/place/z"),
        ("not/there", True, "not/there"),
        ("//usr//./lib", True, "usr/lib"),
        ("spaced/x", False, "a b/x"),
        ("", True, ""),
    ],
)
def test_links_are_followed_inside_the_root(path, final, wanted):
    assert RESOLVING.resolve(path.encode(), final=final) == wanted.encode()


def test_links_in_a_circle_are_an_error():
    with pytest.raises(OSError, match="too many"):
        RESOLVING.resolve(b"loop/x")


def test_an_index_has_folders_files_and_links_alone(tmp_path):
    write({"a/x": b"x", "gone": None})(tmp_path)
    (tmp_path / "l").symlink_to("a b")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a").chmod(0o711)
    assert scan(tmp_path) == [d("a", 0o711), f("a/x", b"x"), l("l", "a b")]


def test_files_whose_content_is_known_are_not_read(tmp_path):
    write({"x": b"", "y": b""})(tmp_path)
    known = "0" * 64
    assert [entry.detail for entry in scan(tmp_path, {b"x": known})] == [known, f("y").detail]


@pytest.mark.tool("setfacl")
def test_a_plain_folder_has_nothing_of_its_parent_folder(tmp_path):
    tmp_path.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", tmp_path], check=True)
    for _ in range(2):
        make_plain_folder(tmp_path / "plain")
        assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o755
        assert os.listxattr(tmp_path / "plain") == []


def test_removing_is_not_stopped_by_modes_or_led_away_by_links(tmp_path):
    target = tmp_path / "target"
    write({"keep/x": b""})(tmp_path)
    write({"a/b/x": b""})(target)
    (target / "away").symlink_to(tmp_path / "keep")
    (target / "a/b").chmod(0)
    (target / "a").chmod(0o500)
    remove(target)
    remove(target)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    remove(tmp_path / "link")
    assert (tmp_path / "keep/x").exists()
