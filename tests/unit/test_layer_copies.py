"""Copies of layers: one layer, several stacked, and what a step changed."""

from __future__ import annotations

import os

import pytest

from reprobox.digest import tree_digest
from reprobox.layer_copies import merge_into
from reprobox.tree import Tree, scan
from tests.layers import EPOCH, LayerMaker, both, write

OLD = 1_500_000_000


@pytest.fixture(autouse=True)
def umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def make(tmp_path) -> LayerMaker:
    return LayerMaker(tmp_path)


def test_merging_copies_breaks_links_between_files(make, tmp_path):
    base = make(both(write({"a": b"x", "gone/y": b"", "kept/z": b""}), lambda root: os.link(root / "a", root / "b")))
    upper = make(write({"gone": None, "kept/new": b""}), Tree.load(base.output / "index"))
    target = tmp_path / "target"
    target.mkdir()
    merge_into(target, [(layer.tree, layer.output / "index") for layer in (base, upper)])
    assert scan(target) == Tree.load(base.output / "index", upper.output / "index").sorted()
    assert (target / "a").stat().st_nlink == 1
    assert {(target / name).stat().st_mtime for name in ("a", "kept", "kept/new")} == {EPOCH}


def test_a_copy_keeps_modes_and_times(make, tmp_path):
    layer = make(
        both(
            write({"d/x": b"x", "d/secret": b"s"}),
            lambda root: (
                os.utime(root / "d/x", (OLD, OLD)),
                (root / "d/secret").chmod(0o000),
                (root / "d").chmod(0o2750),
                (root / "l").symlink_to("d"),
            ),
        )
    )
    target = tmp_path / "target"
    target.mkdir()
    merge_into(target, [(layer.tree, layer.output / "index")])
    assert scan(target) == layer.index
    assert tree_digest(scan(target)) == tree_digest(layer.index)
    assert (target / "d/x").stat().st_mtime == OLD
