"""Layer tars, image documents, layouts and archives: frozen bytes, read back by the tools of others."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785

from reprobox import image
from reprobox.digest import sha256, tree_digest
from reprobox.image import (
    Descriptor,
    Hashed,
    Image,
    Settings,
    layer_digest,
    write_archive,
    write_docker_archive,
    write_layer,
    write_layout,
)
from reprobox.tree import Tree, scan
from tests.layers import EPOCH, Layer, both, d, f, l, merged, write

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((TESTS / "golden/image.json").read_text())
pytestmark = pytest.mark.usefixtures("umask")

OLD = 1_500_000_000


def tar_of(layer: Layer) -> bytes:
    sink = io.BytesIO()
    write_layer(layer.tree, layer.index_file, EPOCH, sink)
    return sink.getvalue()


def read(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape", encoding="utf-8") as archive:
        return archive.getmembers()


def small(root: Path) -> None:
    """A little of everything; the golden bytes are made of it."""
    write({"bin/tool": b"#!/bin/sh\n", "empty": b"", "folder/": None, "a/b/c": b"x" * 513})(root)
    os.link(root / "bin/tool", root / "bin/other")
    (root / "bin/tool").chmod(0o755)
    (root / "folder").chmod(0o1777)
    (root / "lib").symlink_to("usr/lib")
    (root / "ü").symlink_to("é")
    (root / ("long" * 40)).touch()
    os.utime(root / "empty", (OLD, OLD))
    os.mknod(root / "a/gone", stat.S_IFCHR, 0)


PARENTS = merged(d("a"), f("a/gone"))


# -- layer tars --------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_layer_are_frozen(make):
    layer = make(small, PARENTS)
    data = tar_of(layer)
    assert {"sha256": sha256(data), "size": len(data)} == GOLDEN["layer"]
    assert layer_digest(layer.tree, layer.index_file, EPOCH) == (GOLDEN["layer"]["sha256"], GOLDEN["layer"]["size"])


def test_the_same_layer_elsewhere_has_the_same_bytes(make, tmp_path):
    first, second = make(small, PARENTS), make(small, PARENTS)
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-a", first.output, copied], check=True)
    assert tar_of(first) == tar_of(second) == tar_of(Layer(copied, ()))


def test_what_a_layer_tar_says(make):
    told = [(item.name, item.type, item.mode, item.mtime, item.linkname) for item in read(tar_of(make(small, PARENTS)))]
    file, folder = tarfile.REGTYPE, tarfile.DIRTYPE
    assert told == [
        ("a", folder, 0o755, EPOCH, ""),
        ("a/.wh.gone", file, 0, EPOCH, ""),
        ("a/b", folder, 0o755, EPOCH, ""),
        ("a/b/c", file, 0o644, EPOCH, ""),
        ("bin", folder, 0o755, EPOCH, ""),
        ("bin/other", file, 0o755, EPOCH, ""),
        ("bin/tool", tarfile.LNKTYPE, 0o755, EPOCH, "bin/other"),
        ("empty", file, 0o644, OLD, ""),
        ("folder", folder, 0o1777, EPOCH, ""),
        ("lib", tarfile.SYMTYPE, 0o777, EPOCH, "usr/lib"),
        ("long" * 40, file, 0o644, EPOCH, ""),
        ("ü", tarfile.SYMTYPE, 0o777, EPOCH, "é"),
    ]


def test_nothing_else_is_said(make):
    data = tar_of(make(small, PARENTS))
    for item in read(data):
        assert (item.uid, item.gid, item.uname, item.gname) == (0, 0, "", "")
        assert (item.devmajor, item.devminor) == (0, 0)
        assert set(item.pax_headers) <= {"path", "linkpath"}
    assert len(data) % 10240 == 0
    assert data.endswith(bytes(1024))


def test_pax_is_written_only_where_it_is_needed(make):
    data = tar_of(
        make(
            write(
                {"x" * 100: b"", "a/" + "n" * 98: b"", "p" * 77 + "/" + "p" * 77 + "/" + "n" * 100: b"", "x y\n": b""}
            )
        )
    )
    assert not any(item.pax_headers for item in read(data))
    assert b"PaxHeaders" not in data


def test_names_that_are_not_utf_8_are_said_to_be_bytes(make):
    def put(root: Path) -> None:
        with open(os.path.join(os.fsencode(root), b"caf\xe9"), "wb"):
            pass

    assert b" hdrcharset=BINARY\n" in tar_of(make(put))
    assert b"hdrcharset" not in tar_of(make(write({"caf\xe9": b""})))


def test_entries_are_sorted_by_their_bytes(make):
    layer = make(write({"b/x": b"", "b.txt": b"", "b-": b"", "B": b"", "é": b"", "a": b"", "b/.x": b"", "b0": b""}))
    names = [item.name.encode() for item in read(tar_of(layer))]
    assert names == sorted(names)
    assert not any(name.startswith((b"./", b"/")) for name in names)


def test_whiteouts_stand_where_their_names_sort(make):
    parents = merged(f("b"), d("a"), f("a/x"))
    names = [item.name for item in read(tar_of(make(write({"b": None, "a/x": None, "a/.a": b"", ".z": b""}), parents)))]
    assert names == [".wh.b", ".z", "a", "a/.a", "a/.wh.x"]


AWKWARD = [
    b"n" * 100,
    b"n" * 101,
    b"f" * 154 + b"/" + b"n" * 99,
    b"f" * 155 + b"/" + b"n" * 100,
    b"f" * 156 + b"/" + b"n" * 100,
    b"f" * 155 + b"/" + b"n" * 101,
    b"/".join([b"e" * 60] * 6),
    b"/".join([b"g" * 250] * 8),
    "ü".encode() * 60,
    "folder ü/€".encode(),
    b"caf\xe9",
    b"caf\xe9 folder/" + b"\xff" * 120,
    b"new\nline/tab\t",
    b"back\\slash",
    b"x=y 12 path=z",
]


def awkward(root: Path) -> None:
    for number, name in enumerate(AWKWARD):
        full = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(name)
        links = os.fsencode(root / f"links{number}")
        os.mkdir(links)
        os.symlink(name + b"/target", os.path.join(links, b"symbolic"))
        os.link(full, os.path.join(links, b"zz hard"))


def test_python_reads_awkward_names(make):
    layer = make(awkward)
    wanted = {entry.path: entry for entry in layer.index}
    items = read(tar_of(layer))
    assert [os.fsencode(item.name) for item in items] == sorted(wanted)
    linked = [item for item in items if item.islnk()]
    assert len(linked) == len(AWKWARD)
    for item in items:
        entry = wanted[os.fsencode(item.name)]
        if item.issym():
            assert entry == l(entry.path, os.fsencode(item.linkname))
        elif item.islnk():
            assert os.fsencode(item.linkname) in wanted
            assert wanted[os.fsencode(item.linkname)].detail == entry.detail
        else:
            assert (entry.kind, entry.mode) == ("d" if item.isdir() else "f", item.mode)


def test_gnu_tar_unpacks_awkward_names(make, tmp_path):
    layer = make(both(awkward, small), PARENTS)
    target = tmp_path / "unpacked"
    target.mkdir()
    argv = ["tar", "--extract", "--same-permissions", "--no-same-owner", "--file=-", "--directory", target]
    subprocess.run(argv, input=tar_of(layer), check=True, capture_output=True)
    (target / "a/.wh.gone").unlink()
    assert scan(target) == [entry for entry in layer.index if entry.kind != "w"]
    assert (target / "bin/tool").stat().st_ino == (target / "bin/other").stat().st_ino
    assert (target / "empty").stat().st_mtime == OLD


def test_our_own_reader_agrees(make):
    from reprobox.archives.tar_stream import TarStream

    layer = make(awkward)
    told = {header.name.rstrip(b"/") for header in TarStream(iter([tar_of(layer)]))}
    assert told == {entry.path for entry in layer.index}


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 2**40 + 1])
@pytest.mark.parametrize("seconds", [0, EPOCH, 8**11 - 1, 8**11])
def test_sizes_and_times_beyond_the_fields(size, seconds):
    sink = io.BytesIO()
    image._header(sink, b"huge", b"0", 0o644, size, seconds)
    sink.write(bytes(1024))
    (item,) = _first(sink.getvalue())
    assert (item.name, item.size, item.mtime) == ("huge", size, seconds)
    listed = subprocess.run(
        ["tar", "-tvf", "-", "--full-time", "--utc"], input=sink.getvalue(), capture_output=True, check=False
    )
    assert str(size).encode() in listed.stdout


def _first(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        item = archive.next()
        return [item] if item else []


def test_the_length_of_a_pax_record_counts_itself():
    for length in range(1, 1200):
        record = image._pax_record(b"path", b"x" * length)
        said, _, rest = record.partition(b" ")
        assert int(said) == len(record)
        assert rest == b"path=" + b"x" * length + b"\n"


def test_a_file_that_shrinks_while_it_is_read_stops_the_tar(make):
    layer = make(write({"x": b"12345"}))
    with (layer.tree / "x").open("rb+"), pytest.raises(OSError, match="shorter"):
        image._content(Hashed(), os.fsencode(layer.tree / "x"), 600)


@pytest.mark.userns  # only for this: CI runs these as an ordinary user
@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_nobody_may_read_are_read(make):
    layer = make(both(write({"x": b"secret"}), lambda root: (root / "x").chmod(0)))
    assert b"secret" in tar_of(layer)


# -- documents ---------------------------------------------------------------------------------------------------------

SETTINGS = Settings(
    architecture="arm64",
    variant="v8",
    environment={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
    user="1000",
    entrypoint=("python3",),
    command=("/work/train.py", "--all"),
    workdir="/work",
    volumes=("/data",),
    labels={"org.opencontainers.image.title": "xor"},
)


def image_of(*layers: Layer, settings: Settings = SETTINGS) -> Image:
    return Image(settings=settings, layers=tuple(map(image_layer, layers)), epoch=EPOCH)


def image_layer(layer: Layer) -> image.Layer:
    diff_id, size = layer_digest(layer.tree, layer.index_file, EPOCH)
    descriptor = Descriptor(media_type=image.LAYER_TYPE, digest=diff_id, size=size)
    return image.Layer(descriptor=descriptor, diff_id=diff_id, tree=layer.tree, index=layer.index_file)


def test_config_and_manifest_are_frozen(make):
    made = image_of(make(small, PARENTS))
    assert json.loads(made.config()) == GOLDEN["config"]
    assert json.loads(made.manifest()) == GOLDEN["manifest"]
    assert made.digest() == GOLDEN["image_digest"]


def test_documents_are_canonical_json(make):
    made = image_of(make(small, PARENTS))
    for data in (made.config(), made.manifest()):
        assert rfc8785.dumps(json.loads(data)) == data


def test_what_is_not_set_is_not_said(make):
    config = json.loads(image_of(make(small, PARENTS), settings=Settings(architecture="amd64")).config())
    assert config["config"] == {}
    assert config.keys() == {"architecture", "os", "created", "config", "rootfs"}


@pytest.mark.parametrize(
    "change",
    [{"user": "0"}, {"environment": {}}, {"labels": {}}, {"command": ()}, {"architecture": "amd64"}, {"variant": ""}],
)
def test_settings_count_for_the_image_digest(make, change):
    layer = make(small, PARENTS)
    assert image_of(layer, settings=replace(SETTINGS, **change)).digest() != image_of(layer).digest()


def test_the_order_of_layers_counts(make):
    one, two = make(write({"a": b"1"})), make(write({"a": b"2"}))
    assert image_of(one, two).digest() != image_of(two, one).digest()


def test_docker_layer_types_have_oci_names():
    docker = "application/vnd.docker.image.rootfs"
    assert image.oci_media_type(f"{docker}.diff.tar.gzip") == image.LAYER_TYPE + "+gzip"
    assert image.oci_media_type(f"{docker}.foreign.diff.tar.gzip") == image.LAYER_TYPE + "+gzip"
    assert image.oci_media_type(f"{docker}.diff.tar") == image.LAYER_TYPE
    assert image.oci_media_type(image.LAYER_TYPE + "+zstd") == image.LAYER_TYPE + "+zstd"


# -- layouts and archives ----------------------------------------------------------------------------------------------


@pytest.fixture
def stack(make, tmp_path) -> tuple[Image, str]:
    """An image whose upper layers replace, delete and hide what is below, and the tree digest of what they show."""

    def base(root: Path) -> None:
        write(
            {
                "etc/passwd": b"root:x:0:0::/:/bin/sh\n",
                "usr/lib/deep/er/x": b"",
                "usr/share/doc/x": b"x",
                "gone/x": b"",
                "file-then-folder": b"",
                "folder-then-file/x": b"",
                "opaque/old": b"",
                "opaque/deep/old": b"",
                "bin/true": b"#!/nothing\n",
                **{f"{name}/": None for name in ("dev", "proc", "sys", "run", "tmp")},
            }
        )(root)
        (root / "usr/share").chmod(0o711)
        (root / "tmp").chmod(0o1777)
        (root / "lib").symlink_to("usr/lib")
        (root / "bin/true").chmod(0o755)

    def upper(root: Path) -> None:
        write(
            {
                "gone": None,
                "usr/lib/deep/er": None,
                "usr/share/doc/y": b"y",
                "file-then-folder/x": b"x",
                "folder-then-file": b"x",
                "opaque/new": b"",
                "usr/lib/first": b"linked",
            }
        )(root)
        (root / "usr/share").chmod(0o711)
        os.setxattr(root / "opaque", "user.overlay.opaque", b"y")
        os.link(root / "usr/lib/first", root / "usr/lib/second")
        os.mkdir(os.path.join(os.fsencode(root), b"caf\xe9 ue"))
        (root / "ä long name" / ("x" * 120)).mkdir(parents=True)

    tree = Tree()
    first = make(base, tree)
    tree.apply(first.index)
    second = make(upper, tree)
    tree.apply(second.index)
    empty = make(lambda _: None, tree)
    blob = tmp_path / "base.tar.gz"
    blob.write_bytes(gzip.compress(tar_of(first), mtime=0))
    verbatim = image.Layer(
        descriptor=Descriptor(
            media_type=image.LAYER_TYPE + "+gzip", digest=sha256(blob.read_bytes()), size=blob.stat().st_size
        ),
        diff_id=layer_digest(first.tree, first.index_file, EPOCH)[0],
        blob=blob,
    )
    layers = (verbatim, image_layer(second), image_layer(empty))
    settings = Settings(architecture="amd64", command=("/bin/true",), environment={"A": "b=c d"})
    return Image(settings=settings, layers=layers, epoch=EPOCH), "sha256:" + tree_digest(tree.entries.values())


def digest_by_script(folder: Path) -> str:
    argv = [sys.executable, "-I", str(TESTS / "independent/tree_digest.py"), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def layout(stack, tmp_path) -> Path:
    folder = tmp_path / "layout"
    folder.mkdir()
    write_layout(stack[0], folder, name="latest")
    return folder


def test_every_blob_of_a_layout_has_its_digest_for_a_name(stack, layout):
    blobs = list((layout / "blobs/sha256").iterdir())
    assert len(blobs) == 3 + 2
    for blob in blobs:
        assert sha256(blob.read_bytes()) == blob.name
    index = json.loads((layout / "index.json").read_text())
    assert index["manifests"][0]["digest"] == "sha256:" + stack[0].digest()


def test_a_layout_is_the_same_twice(stack, layout, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    write_layout(stack[0], again, name="latest")
    assert scan(again) == scan(layout)


@pytest.mark.tool("skopeo")
def test_skopeo_accepts_a_layout(stack, layout):
    argv = ["skopeo", "inspect", f"oci:{layout}:latest"]
    told = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert told["Digest"] == "sha256:" + stack[0].digest()
    assert told["Layers"] == [f"sha256:{layer.descriptor.digest}" for layer in stack[0].layers]
    assert told["Env"] == ["A=b=c d"]
    assert told["Created"] == "2023-11-14T22:13:20Z"


@pytest.mark.tool("skopeo")
def test_skopeo_copies_it_without_changing_a_byte(stack, layout, tmp_path):
    copied = tmp_path / "copied"
    argv = ["skopeo", "copy", "--preserve-digests", f"oci:{layout}:latest", f"oci:{copied}:latest"]
    subprocess.run(argv, check=True, capture_output=True)
    for blob in (layout / "blobs/sha256").iterdir():
        assert (copied / "blobs/sha256" / blob.name).read_bytes() == blob.read_bytes()


@pytest.mark.tool("umoci")
def test_umoci_unpacks_the_same_tree(stack, layout, tmp_path):
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    argv = ["umoci", "unpack", *rootless, "--image", f"{layout}:latest", tmp_path / "bundle"]
    subprocess.run(argv, check=True, capture_output=True)
    assert digest_by_script(tmp_path / "bundle/rootfs") == stack[1]


def archive_of(made: Image, tag: str, writer=write_docker_archive) -> bytes:
    sink = io.BytesIO()
    writer(made, tag, sink)
    return sink.getvalue()


def test_a_docker_archive_is_the_same_twice_and_well_formed(stack):
    data = archive_of(stack[0], "reprobox-test/stack:1")
    assert archive_of(stack[0], "reprobox-test/stack:1") == data
    assert len(data) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (told,) = json.load(archive.extractfile("manifest.json"))
        assert told["RepoTags"] == ["reprobox-test/stack:1"]
        assert archive.extractfile(told["Config"]).read() == stack[0].config()
        diff_ids = [name.removesuffix(".tar") for name in told["Layers"]]
        assert diff_ids == [layer.diff_id for layer in stack[0].layers]
        for name, diff_id in list(zip(told["Layers"], diff_ids, strict=True))[1:]:
            assert hashlib.sha256(archive.extractfile(name).read()).hexdigest() == diff_id
        assert len(archive.getnames()) == len(set(archive.getnames())) == 2 + len(set(diff_ids))
        assert {item.mtime for item in archive} == {EPOCH}


def test_a_layer_that_comes_twice_is_written_once(make):
    layer = make(write({"a": b""}))
    with tarfile.open(fileobj=io.BytesIO(archive_of(image_of(layer, layer), ""))) as archive:
        (told,) = json.load(archive.extractfile("manifest.json"))
        assert len(told["Layers"]) == 2
        assert len(archive.getnames()) == 3
        assert told["RepoTags"] == []


def test_one_tar_is_a_layout_and_a_docker_archive(stack, layout):
    data = archive_of(stack[0], "reprobox-test/stack:latest", write_archive)
    assert archive_of(stack[0], "reprobox-test/stack:latest", write_archive) == data
    assert len(data) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        assert names[:2] == ["blobs", "blobs/sha256"]  # Apptainer makes no folder that is not named
        told = {item.name: archive.extractfile(item).read() for item in archive if item.isfile()}
    (entry,) = json.loads(told.pop("manifest.json"))
    assert entry["RepoTags"] == ["reprobox-test/stack:latest"]
    assert {entry["Config"], *entry["Layers"]} < told.keys()
    assert told == {str(file.relative_to(layout)): file.read_bytes() for file in layout.rglob("*") if file.is_file()}


@pytest.mark.tool("skopeo")
def test_skopeo_reads_that_tar_as_both(stack, tmp_path):
    (tmp_path / "both.tar").write_bytes(archive_of(stack[0], "reprobox-test/stack:1", write_archive))
    for form in ("oci-archive", "docker-archive"):
        argv = ["skopeo", "inspect", "--config", "--raw", f"{form}:{tmp_path / 'both.tar'}"]
        assert subprocess.run(argv, check=True, capture_output=True).stdout == stack[0].config()


@pytest.mark.docker
@pytest.mark.parametrize("writer", [write_docker_archive, write_archive])
def test_docker_shows_the_same_tree(stack, docker, tmp_path, writer):
    (tmp_path / "stack.tar").write_bytes(archive_of(stack[0], "reprobox-test/stack:1", writer))
    docker("load", "--input", tmp_path / "stack.tar")
    try:
        told = json.loads(docker("image", "inspect", "reprobox-test/stack:1"))[0]
        exported = docker.export("reprobox-test/stack:1", tmp_path / "container.tar")
    finally:
        docker("image", "rm", "--force", "reprobox-test/stack:1")
    assert told["RootFS"]["Layers"] == [f"sha256:{layer.diff_id}" for layer in stack[0].layers]
    assert told["Created"] == "2023-11-14T22:13:20Z"
    container = tmp_path / "container"
    container.mkdir()
    argv = ["tar", "--extract", "--same-permissions", "--no-same-owner", "-f", exported, "-C", container]
    subprocess.run(argv, check=True, capture_output=True)
    assert digest_by_script(container) == stack[1]


@pytest.mark.docker
def test_what_docker_exports_can_be_compared_with_an_index(stack, docker, tmp_path):
    """The rule that the raw upper directory would break: modes on the way to what a layer changed."""
    (tmp_path / "stack.tar").write_bytes(archive_of(stack[0], "reprobox-test/modes:1"))
    docker("load", "--input", tmp_path / "stack.tar")
    try:
        exported = docker.export("reprobox-test/modes:1", tmp_path / "container.tar")
    finally:
        docker("image", "rm", "--force", "reprobox-test/modes:1")
    with tarfile.open(exported) as archive:
        modes = {item.name.rstrip("/"): item.mode for item in archive}
        assert archive.getmember("lib").issym()
    assert (modes["usr/share"] & 0o7777, modes["tmp"] & 0o7777) == (0o711, 0o1777)


def test_the_golden_file_says_what_to_do_when_it_must_change():
    assert "NORMALISER" in GOLDEN["note"]
