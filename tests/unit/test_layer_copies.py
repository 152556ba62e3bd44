"""Copies of layers: one layer, several stacked, and what a step changed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from reprobox.digest import read_index, tree_digest
from reprobox.layer_copies import copy_changes, copy_layer, keep, merge_into, move_into
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree, scan
from reprobox.whiteouts import is_whiteout
from tests.layers import EPOCH, both, d, f, merged, opaque, run_bare, w, write

pytestmark = pytest.mark.usefixtures("umask")

OLD = 1_500_000_000


# -- several, stacked --------------------------------------------------------------------------------------------------


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


# -- one layer ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def layer(make):
    """A layer with a deletion, two names of one file, and modes that let nobody but their owner read."""
    return make(
        both(
            write({"gone": None, "d/x": b"x", "d/y": b"y"}),
            lambda root: (
                os.link(root / "d/x", root / "d/z"),
                os.utime(root / "d/x", (OLD, OLD)),
                (root / "d/y").chmod(0o600),
                (root / "d").chmod(0o700),
            ),
        ),
        merged(f("gone")),
    )


def test_a_copied_layer_is_the_same_layer(layer, tmp_path):
    output = tmp_path / "copy"
    output.mkdir()
    copy_layer(layer.tree, layer.index_file, output)
    assert read_index((output / "index").read_bytes()) == layer.index
    assert scan(output / "tree") == [entry for entry in layer.index if entry.kind != "w"]
    assert is_whiteout(os.lstat(output / "tree/gone"))
    first, second = ((output / "tree/d" / name).stat() for name in "xz")
    assert (first.st_ino, first.st_mtime) == (second.st_ino, OLD)
    assert first.st_ino != layer.stat("d/x").st_ino


def test_a_readable_copy_has_the_same_index(layer, tmp_path):
    output = tmp_path / "copy"
    output.mkdir()
    copy_layer(layer.tree, layer.index_file, output, readable=True)
    assert read_index((output / "index").read_bytes()) == layer.index
    assert [stat.S_IMODE((output / "tree" / name).stat().st_mode) for name in ("d", "d/x", "d/y")] == [
        0o755,
        0o644,
        0o644,
    ]


# -- what is kept of another layer -------------------------------------------------------------------------------------


def test_kept_entries_are_links_and_the_layers_own_folders_keep_their_modes(make, tmp_path):
    earlier = make(both(write({"a/kept": b"k", "a/not": b"n", "b/kept": b"k"}), lambda root: (root / "b").chmod(0o711)))
    own = both(
        write({"a/own": b"o", "c/own": b"o", "gone": None}),
        lambda root: ((root / "a").chmod(0o1777), (root / "c").chmod(0o555)),
    )
    layer = make(own, merged(f("gone")))
    kept = [entry for entry in earlier.index if not entry.path.endswith(b"not")]
    (output := tmp_path / "output").mkdir()
    keep(output, earlier.tree, kept, EPOCH)
    assert read_index((output / "index").read_bytes()) == scan(output / "tree") == kept
    move_into(output, layer.output, EPOCH)
    index = [
        d("a", 0o1777),
        f("a/kept", b"k"),
        f("a/own", b"o"),
        d("b", 0o711),
        f("b/kept", b"k"),
        d("c", 0o555),
        f("c/own", b"o"),
        w("gone"),
    ]
    assert read_index((output / "index").read_bytes()) == index
    assert scan(output / "tree") == index[:-1]
    assert is_whiteout(os.lstat(output / "tree/gone"))
    assert (output / "tree/a/kept").stat().st_ino == earlier.stat("a/kept").st_ino
    assert {(output / "tree" / name).stat().st_mtime for name in (".", "a", "b", "c")} == {EPOCH}


def test_an_output_without_a_layer_gets_what_is_kept(make, tmp_path):
    earlier = make(write({"a/x": b"", "gone": None}), merged(f("gone")))
    output = tmp_path / "output"
    output.mkdir()
    keep(output, earlier.tree, earlier.index, EPOCH)
    assert read_index((output / "index").read_bytes()) == earlier.index == [d("a"), f("a/x"), w("gone")]
    assert is_whiteout(os.lstat(output / "tree/gone"))


# -- what a step changed -----------------------------------------------------------------------------------------------


def test_copied_changes_are_the_same_layer_and_stay_as_they_were(tmp_path):
    """With what only overlayfs knows: whiteouts, opaque folders, and two names of one file."""
    source, target = tmp_path / "changes", tmp_path / "copy"
    write({"gone": None, "a/x": b"x", "anew/y": b"", "shut/z": b"z"})(source)
    opaque(source / "anew")
    os.link(source / "a/x", source / "a/z")
    (source / "a/l").symlink_to("x")
    os.utime(source / "a/x", (OLD, OLD))
    (source / "shut").chmod(0o500)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(source / "socket"))
    before = scan(source)
    copy_changes(str(source), str(target))
    assert scan(target) == before == scan(source)
    assert not (target / "socket").exists()
    parents = merged(f("gone"), d("anew"), f("anew/old"))
    layers = [_layer_of(root, parents, tmp_path / f"layer-{root.name}") for root in (target, source)]
    assert layers[0] == layers[1]
    assert {w("gone"), w("anew/old")} <= set(layers[0])
    copied = tmp_path / "layer-copy/tree"
    assert ((copied / "a/x").stat().st_mtime, (copied / "a/x").stat().st_nlink) == (OLD, 2)


def _layer_of(root: Path, parents: Tree, output: Path):
    output.mkdir()
    normalise(Changes(root=root, epoch=EPOCH, started=EPOCH), parents, output)
    return read_index((output / "index").read_bytes())


# -- what hides from its owner -----------------------------------------------------------------------------------------

HIDING = """
import os
from pathlib import Path
from reprobox.layer_copies import copy_layer, merge_into
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree, remove, scan
here = Path(sys.argv[1])
changes, layer, copied, target = (here / name for name in ("changes", "layer", "copied", "target"))
for folder in (changes, layer, copied, target):
    folder.mkdir()
(changes / "shut/below").mkdir(parents=True)
(changes / "shut/below/x").write_text("x")
(changes / "shut").chmod(0)
normalise(Changes(root=changes, epoch=1, started=0.0), Tree(), layer)
before = scan(layer / "tree")
copy_layer(layer / "tree", layer / "index", copied)
merge_into(target, [(layer / "tree", layer / "index")])
print(before == scan(copied / "tree") == scan(target), len(before), oct(os.lstat(target / "shut").st_mode))
remove(here)
"""


@pytest.mark.ordinary
@pytest.mark.userns
def test_an_ordinary_user_copies_layers_that_hide_folders_from_their_owner(user):
    folder = user.home / f"hiding-{os.urandom(4).hex()}"
    folder.mkdir()
    assert run_bare(user, HIDING, user.give(folder)) == "True 3 0o40000\n"
