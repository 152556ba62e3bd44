"""Layers unpacked from their tars: the same layer comes back, and nothing else gets in."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from reprobox.digest import read_index
from reprobox.errors import IntegrityError
from reprobox.image import Hashed, write_layer
from reprobox.normalise import Changes, normalise
from reprobox.oci.layer_tar import unpack_layer
from reprobox.tree import Tree
from tests.images import entry, folder, hard, link, tar

EPOCH = 1_700_000_000


def layer(tmp_path: Path) -> tuple[Path, bytes]:
    """A layer as a step leaves it, with all that there can be, and its tar."""
    root, output = tmp_path / "root", tmp_path / "built"
    (root / "opt/closed").mkdir(parents=True)
    (root / "opt/closed/file").write_text("hidden")
    (root / "opt/first").write_text("one")
    (root / "opt/second").hardlink_to(root / "opt/first")
    (root / "opt/third").symlink_to("first")
    (root / "opt" / ("n" * 120)).write_text("long")
    (root / "opt/nämé").write_text("")
    (root / "opt/closed").chmod(0o2700)
    output.mkdir()
    parents = Tree({item.path: item for item in read_index(b"d 0755 - etc\nf 0644 " + b"0" * 64 + b" etc/gone\n")})
    (root / "etc").mkdir()
    normalise(Changes(root=root, epoch=EPOCH, started=EPOCH, whole=True), parents, output)
    chunks: list[bytes] = []

    class Sink:
        def write(self, data: bytes, /) -> None:
            chunks.append(data)

    write_layer(output / "tree", output / "index", EPOCH, Sink())
    return output, b"".join(chunks)


def unpacked(tmp_path: Path, data: bytes, *, size: int | None = None, diff_id: str = "") -> Path:
    packed, output = tmp_path / "packed", tmp_path / "unpacked"
    packed.write_bytes(zstandard.compress(data))
    output.mkdir()
    found = diff_id or hashlib.sha256(data).hexdigest()
    unpack_layer(packed, output, diff_id=found, size=len(data) if size is None else size, epoch=EPOCH)
    return output


def test_the_same_layer_comes_back(tmp_path: Path) -> None:
    built, data = layer(tmp_path)
    output = unpacked(tmp_path, data)
    assert (output / "index").read_bytes() == (built / "index").read_bytes()
    assert b"w 0000 - etc/gone\n" in (output / "index").read_bytes()
    sink = Hashed()
    write_layer(output / "tree", output / "index", EPOCH, sink)
    assert sink.hexdigest() == hashlib.sha256(data).hexdigest()
    assert (output / "tree/opt/first").stat().st_ino == (output / "tree/opt/second").stat().st_ino
    assert (output / "tree").stat().st_mtime == EPOCH


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    _, data = layer(tmp_path)
    with pytest.raises(
        IntegrityError, match=r"^it unpacks to sha256:[0-9a-f]{64}, and not to its diff id sha256:0{64}$"
    ):
        unpacked(tmp_path, data, diff_id=64 * "0")


def test_more_bytes_than_said_are_refused(tmp_path: Path) -> None:
    _, data = layer(tmp_path)
    with pytest.raises(IntegrityError, match="it unpacks to more than the 512 bytes that it says"):
        unpacked(tmp_path, data, size=512)


@pytest.mark.parametrize("length", [700, 5000])
def test_a_cut_off_tar_is_refused(tmp_path: Path, length: int) -> None:
    _, data = layer(tmp_path)
    with pytest.raises(IntegrityError):
        unpacked(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("../out")], "/../out is not where an entry of a layer may be"),
        ([entry("/etc")], "//etc is not where"),
        ([entry("a/b")], "/a/b is not where"),
        ([entry("./a")], "/./a is not where"),
        ([folder("a"), entry("a/..")], "/a/.. is not where"),
        ([folder("a"), entry("a//b")], "/a//b is not where"),
        ([link("a", "/etc"), entry("a/passwd", b"me")], "/a/passwd is not where"),
        ([folder("a"), link("a", "/etc"), entry("a/passwd", b"me")], "/a is not where"),
        ([entry("a"), entry("a", b"2")], "/a is not where"),
        ([entry(".wh.a", b"x")], "/a is not where"),
        ([entry(".wh.")], "/ is not where"),
        ([entry(".wh..")], "/. is not where"),
        ([entry(".wh..wh..opq")], "/.wh..opq is not where"),
        ([hard("a", "/etc/passwd")], "/a is a link to no file of the layer"),
        ([hard("a", "../../etc/passwd")], "/a is a link to no file of the layer"),
        ([folder("a"), hard("b", "a")], "/b is a link to no file of the layer"),
        ([entry("a", kind=tarfile.CHRTYPE)], "/a is a device, or has a set-id bit"),
        ([entry("a", kind=tarfile.FIFOTYPE)], "/a is a device, or has a set-id bit"),
        ([entry("a", b"#!", mode=0o4755)], "/a is a device, or has a set-id bit"),
    ],
)
def test_what_no_layer_has_is_refused(tmp_path: Path, entries: list[Any], words: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        unpacked(tmp_path, tar(*entries))
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", b"x")],  # as tarfile pads it, with an owner's name field of its own
        [entry("b", uid=1000), entry("a")],
        [entry("a", uname="root")],
    ],
)
def test_a_tar_that_no_layer_is_made_of_is_refused(tmp_path: Path, entries: list[Any]) -> None:
    with pytest.raises(IntegrityError, match="it is a tar that no layer is made of"):
        unpacked(tmp_path, tar(*entries, format=tarfile.GNU_FORMAT))
