"""Bases in tar files: the same image from every engine's archive, and what is wrong with one."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from reprobox.digest import tree_digest
from reprobox.errors import FetchError, IntegrityError, ManifestError, PlatformError
from reprobox.layers.archive import ArchiveBase, ImageArchiveProvider
from reprobox.layers.image import OciLayout
from reprobox.oci import image_archive
from reprobox.store import Store
from reprobox.tree import scan
from tests import images
from tests.bases import LAYERS, SmallWorld, asked, built, fetched, locked, registries
from tests.images import entry

PLAIN_LAYERS = [f"layer-00{number}.tar" for number in range(3)]


@pytest.fixture
def world(store: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path, registries(tmp_path))


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.Layout(tmp_path / "layout")


def skopeo(*argv: str | Path) -> None:
    subprocess.run(["skopeo", *map(str, argv)], check=True, capture_output=True)


def archive(path: Path, members: Mapping[str, bytes]) -> Path:
    path.write_bytes(images.tar(*(entry(name, data) for name, data in members.items())))
    return path


def saved(*layers: bytes, tags: tuple[str, ...] = ("x:1",), **config: Any) -> dict[str, bytes]:
    """The members of a docker-archive, as `docker save` wrote them before it wrote layouts."""
    document = {
        "os": "linux",
        "architecture": "amd64",
        "created": images.CREATED,
        "config": {"Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [images.digest(layer) for layer in layers]},
        **config,
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "abc.json", "RepoTags": list(tags), "Layers": names}]
    return {
        **dict(zip(names, layers, strict=True)),
        "abc.json": json.dumps(document).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }


def refused(world: SmallWorld, **base: str) -> str:
    with pytest.raises(ManifestError) as caught:
        ArchiveBase().resolve(asked(world, {"archive": "base.tar", **base}))
    said = str(caught.value)
    assert said.startswith("research.toml:4: base.archive: ")
    return said.removeprefix("research.toml:4: base.archive: ")


# -- one image, many archives ----------------------------------------------------------------------------------------------


@pytest.mark.tool("skopeo")
def test_the_same_image_from_every_kind_of_archive(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    layout.tag(layout.image(*LAYERS, media_type=images.PLAIN), "x")
    skopeo("copy", f"oci:{layout.root}:x", f"docker-archive:{tmp_path}/docker.tar:name:tag")
    skopeo("copy", "--preserve-digests", f"oci:{layout.root}:x", f"oci-archive:{tmp_path}/oci.tar:y")
    (tmp_path / "gzip.tar").write_bytes(gzip.compress((tmp_path / "docker.tar").read_bytes()))
    (tmp_path / "zstd.tar").write_bytes(zstandard.compress((tmp_path / "oci.tar").read_bytes()))
    names = ("docker.tar", "oci.tar", "gzip.tar", "zstd.tar")
    found = [ArchiveBase().resolve(asked(world, {"archive": name})) for name in names]
    assert [item.name for item in found[0].inputs] == ["config.json", *PLAIN_LAYERS]
    assert [item.sha256 for item in found[0].inputs[1:]] == [
        images.digest(layer).removeprefix("sha256:") for layer in LAYERS
    ]
    assert len({locked(each, "archive").id for each in (found[0], found[2])}) == 1
    assert len({locked(each, "archive").id for each in (found[1], found[3])}) == 1
    assert (
        len({tuple(item.sha256 for item in each.inputs[1:]) for each in found}) == 1
    )  # configs may differ in spelling
    trees = set()
    for number, each in enumerate(found):
        fetched(world, each)
        step = built(world, locked(each, "archive"), tmp_path / f"tree-{number}")
        assert [kind for _, kind in step.layers] == [images.PLAIN] * 3
        trees.add(tree_digest(scan(tmp_path / f"tree-{number}")))
    layer = OciLayout().resolve(asked(world, {"oci": "layout"}))
    fetched(world, layer)
    built(world, locked(layer), tmp_path / "tree")
    assert trees == {tree_digest(scan(tmp_path / "tree"))}


@pytest.mark.docker
def test_what_docker_saves(docker: Any, layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    layout.tag(layout.image(*LAYERS, media_type=images.PLAIN), "x")
    skopeo("copy", f"oci:{layout.root}:x", f"docker-archive:{tmp_path}/base.tar:reprobox-test/saved:1")
    before = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    docker("load", "-i", tmp_path / "base.tar")
    try:
        docker("save", "-o", tmp_path / "base.tar", "reprobox-test/saved:1")
    finally:
        docker("rmi", "reprobox-test/saved:1")
    after = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    assert locked(after, "archive").id == locked(before, "archive").id
    assert after.facts["path"] == "base.tar"
    assert after.dates == (images.CREATED_SECONDS,)


def test_layers_that_an_archive_has_twice(world: SmallWorld, tmp_path: Path) -> None:
    """`docker save` writes a link for the second."""
    members = saved(LAYERS[0], LAYERS[0])
    del members["1/layer.tar"]
    entries = [entry(name, data) for name, data in members.items()]
    (tmp_path / "base.tar").write_bytes(images.tar(images.link("1/layer.tar", "../0/layer.tar"), *entries))
    found = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    assert found.inputs[1].sha256 == found.inputs[2].sha256
    fetched(world, found)
    assert b"".join(LAYERS[:1]) == world.store.blob(found.inputs[2].sha256).read_bytes()


def test_layers_that_are_compressed_inside(world: SmallWorld, tmp_path: Path) -> None:
    members = saved(LAYERS[0])
    archive(tmp_path / "base.tar", {**members, "0/layer.tar": gzip.compress(LAYERS[0])})
    found = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    assert [item.name for item in found.inputs] == ["config.json", "layer-000.tar.gz"]
    fetched(world, found)
    assert built(world, locked(found, "archive"), tmp_path / "tree").layers[0][1] == images.GZIP
    assert (tmp_path / "tree/usr/lib/a").read_bytes() == b"a"


def test_which_of_several_images(world: SmallWorld, tmp_path: Path) -> None:
    first, second = saved(LAYERS[0]), saved(LAYERS[1])
    manifests = [
        {"Config": "abc.json", "RepoTags": ["debian:12", "debian:bookworm"], "Layers": ["0/layer.tar"]},
        {"Config": "def.json", "RepoTags": ["docker.io/group/tool:2"], "Layers": ["1/layer.tar"]},
    ]
    both = {**first, "1/layer.tar": second["0/layer.tar"], "def.json": second["abc.json"]}
    archive(tmp_path / "base.tar", {**both, "manifest.json": json.dumps(manifests).encode()})
    hint = '\n  hint: say which one with its name and tag: name = "debian:12", in [base] beside its path'
    assert refused(world) == "base.tar: it has 2 images: debian:12, debian:bookworm, docker.io/group/tool:2" + hint
    assert refused(world, name="debian:11") == (
        "base.tar: it has no image 'debian:11'; it has debian:12, debian:bookworm, docker.io/group/tool:2" + hint
    )
    for name, layer in (("debian:12", 0), ("docker.io/library/debian:bookworm", 0), ("group/tool:2", 1)):
        found = ArchiveBase().resolve(asked(world, {"archive": "base.tar", "name": name}))
        assert found.inputs[1].sha256 == images.digest(LAYERS[layer]).removeprefix("sha256:")
        assert found.facts["image"] == name


def test_what_a_docker_of_today_saves(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    """A layout with full names, and with what BuildKit says of how an image was built beside it."""
    image = layout.image(LAYERS[0], media_type=images.PLAIN)
    said = layout.image(LAYERS[1], platform="unknown/unknown")
    index = layout.index(image, said)
    names = {"io.containerd.image.name": "docker.io/library/tool:1", "org.opencontainers.image.ref.name": "1"}
    layout.manifests.append({**index, "annotations": names})
    layout.manifests.append({**layout.image(LAYERS[2]), "annotations": {"io.containerd.image.name": "other:1"}})
    (layout.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": layout.manifests}))
    (layout.root / "manifest.json").write_text("[]")
    with tarfile.open(tmp_path / "base.tar", "w") as packed:
        packed.add(layout.root, ".")
    for name in ("tool:1", "docker.io/library/tool:1", "1"):
        found = ArchiveBase().resolve(asked(world, {"archive": "base.tar", "name": name}))
        assert found.inputs[1].sha256 == images.digest(LAYERS[0]).removeprefix("sha256:")
    assert refused(world).startswith("base.tar: it has 2 images: 1, docker.io/library/tool:1, other:1\n")


def test_what_an_archive_may_unpack_to(world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archive, "_LEAST", 3 << 20)
    path = tmp_path / "base.tar"
    path.write_bytes(zstandard.compress(images.tar(entry("layer.tar", bytes(10 << 20)))))
    assert refused(world) == (
        f"{path}: this archive cannot be read: it unpacks to more than {3 << 20} bytes, far more than its size lets"
        f" expect{AGAIN}"
    )


# -- what is wrong with an archive -----------------------------------------------------------------------------------------

AGAIN = "\n  hint: write it again: `docker save -o base.tar NAME:TAG`, or `skopeo copy … oci-archive:base.tar`"


def test_archives_that_are_none(world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    assert str(caught.value) == (
        "research.toml:4: base.archive: the archive base.tar is not there\n  hint: give a file that"
        " `docker save -o base.tar NAME:TAG` or `skopeo copy … oci-archive:base.tar` writes"
    )
    path = tmp_path / "base.tar"
    path.write_bytes(b"")
    assert refused(world) == f"{path}: it is an empty archive{AGAIN}"
    path.write_bytes(b"no tar at all" * 100)
    assert refused(world).startswith(f"{path}: it is no tar archive: a header")
    for start in (b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0", b"hsqs"):
        path.write_bytes(start.ljust(1024, b"x"))
        assert refused(world).endswith('\n  hint: a SIF or SquashFS file is taken by sif = "…"')
    archive(path, {"a": b"b"})
    assert refused(world).startswith("base.tar: it is no image: it has neither index.json, as oci-archives have, nor")
    archive(path, {"repositories": b"{}"})
    assert refused(world).startswith("base.tar: it was written by a Docker older than 1.10")
    archive(path, {"../../etc/passwd": b"b", **saved(LAYERS[0])})
    assert refused(world) == (
        f"{path}: it has the member '../../etc/passwd', which leads out of it\n"
        "  hint: no engine writes such an archive: do not use it"
    )
    data = archive(path, saved(LAYERS[0])).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert refused(world) == f"{path}: this archive cannot be read: the archive is cut off{AGAIN}"
    path.write_bytes(gzip.compress(data)[:-50])
    assert refused(world) == f"{path}: this archive cannot be read: its gzip data is cut off{AGAIN}"


def test_images_that_are_broken(world: SmallWorld, tmp_path: Path) -> None:
    path, members = tmp_path / "base.tar", saved(LAYERS[0])
    archive(path, {**members, "0/layer.tar": LAYERS[1]})
    with pytest.raises(IntegrityError) as caught:
        ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    wrong, right = (images.digest(LAYERS[number]).removeprefix("sha256:") for number in (1, 0))
    assert str(caught.value) == (
        f"base.tar: its layer '0/layer.tar' has other bytes than its image says: sha256 {wrong}, not {right}{AGAIN}"
    )
    for lacking, what in (("0/layer.tar", "the layer '0/layer.tar'"), ("abc.json", "the image's config 'abc.json'")):
        archive(path, {name: data for name, data in members.items() if name != lacking})
        assert refused(world) == f"base.tar: the archive lacks {what}{AGAIN}"
    for said in (b"[7]", b"{}{}", b'[{"Config": "abc.json"}]'):
        archive(path, {**members, "manifest.json": said})
        assert refused(world) == f"base.tar: its manifest.json is not what engines write{AGAIN}"
    archive(path, {**members, "manifest.json": b"[]"})
    assert refused(world) == f"base.tar: it has no image{AGAIN}"
    archive(path, saved(LAYERS[0], architecture="arm64"))
    with pytest.raises(PlatformError, match="it is an image for linux/arm64, not for linux/amd64"):
        ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))


def test_a_layout_in_a_tar_that_lacks_something(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    image = layout.image(LAYERS[0])
    layout.tag(image)
    manifest = json.loads(layout.path(image).read_bytes())
    for blob, what in (
        (manifest["layers"][0], "layer 0 of the image, "),
        (manifest["config"], "the blob "),
        (image, "the blob "),
    ):
        layout.path(blob).unlink()
        with tarfile.open(tmp_path / "base.tar", "w") as packed:
            packed.add(layout.root, ".")
        assert refused(world) == f"base.tar: the archive lacks {what}{blob['digest']}{AGAIN}"


# -- having it again -------------------------------------------------------------------------------------------------------


def test_an_archive_that_is_another_one_now(world: SmallWorld, tmp_path: Path) -> None:
    path = archive(tmp_path / "base.tar", saved(LAYERS[0]))
    found = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    archive(path, saved(LAYERS[1]))
    with pytest.raises(FetchError) as caught:
        fetched(world, found)
    assert f"{path}: the archive holds another image than the one that was locked" in str(caught.value)
    assert caught.value.hint == "put the old archive back, or run `reprobox lock` to take the image that it holds now"
    path.unlink()
    with pytest.raises(FetchError) as caught:
        fetched(world, found)
    assert f"{path}: the archive is not there" in str(caught.value)
    assert caught.value.hint == "copy the archive there from where the lock was made"
    members = dict(reversed(saved(LAYERS[0]).items()))  # packed otherwise, and compressed
    path.write_bytes(gzip.compress(archive(path, {"more": b"", **members}).read_bytes()))
    fetched(world, found)
    assert world.store.has_blob(found.inputs[1].sha256)


def test_what_is_read_once(world: SmallWorld, tmp_path: Path) -> None:
    archive(tmp_path / "base.tar", saved(LAYERS[0]))
    found = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    memo = next((world.store.root / "memo/image-archives").iterdir())
    assert ArchiveBase().resolve(asked(world, {"archive": "base.tar"})) == found
    memo.write_bytes(b"{}")
    assert ArchiveBase().resolve(asked(world, {"archive": "base.tar"})) == found


def test_the_fixture_is_what_docker_wrote() -> None:
    with tarfile.open(fileobj=io.BytesIO(images.tar(*(entry(name) for name in saved(LAYERS[0]))))) as packed:
        assert packed.getnames() == ["0/layer.tar", "abc.json", "manifest.json"]


def test_an_archive_is_asked_what_it_has_without_taking_it_out(world: SmallWorld) -> None:
    file = archive(world.project / "base.tar", saved(images.tar(entry("a", b"1"))))
    found = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    provider = ImageArchiveProvider(world.store, world.project)
    places = [place for item in found.inputs for place in provider.locate([item])[item.sha256]]
    asked_each = [place.ask for place in places if place.ask]
    assert [ask() for ask in asked_each] == [item.size for item in found.inputs]
    archive(file, saved(images.tar(entry("a", b"2"))))
    with pytest.raises(FetchError, match="the archive holds another image than the one that was locked"):
        asked_each[-1]()
    file.unlink()
    with pytest.raises(FetchError, match="the archive is not there"):
        asked_each[-1]()
