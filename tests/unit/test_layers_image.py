"""Bases from a registry and from a layout: what is locked, and that the tree is the one that real engines make of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reprobox.digest import tree_digest
from reprobox.errors import FetchError, IntegrityError, ManifestError, OfflineError
from reprobox.layers.image import Image, OciLayout
from reprobox.lock import Lock, LockedTarget
from reprobox.lock_text import read, write
from reprobox.oci.registry import BlobProvider
from reprobox.providers import fetch
from reprobox.store import Store
from reprobox.tree import scan
from tests import images
from tests.bases import LAYERS, SmallWorld, asked, built, fetched, locked, registries
from tests.engines.registry import Registry


@pytest.fixture
def world(store: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path, registries(tmp_path))


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.Layout(tmp_path / "layout")


# -- from a registry -------------------------------------------------------------------------------------------------------


@pytest.mark.registry
def test_what_is_locked(registry: Registry, layout: images.Layout, world: SmallWorld) -> None:
    other = layout.image(LAYERS[0], platform="linux/arm64")
    layout.tag(layout.index(layout.image(*LAYERS), other), "x")
    name = registry.push(f"oci:{layout.root}:x", "locked", "1.0", "--all")
    found = Image().resolve(asked(world, {"image": name}))
    assert [item.name for item in found.inputs] == [
        "manifest.json",
        "config.json",
        *(f"layer-00{number}.tar.gz" for number in range(3)),
    ]
    assert {item.type for item in found.inputs} == {"blob"}
    assert {item.facts["repository"] for item in found.inputs} == {f"{registry.host}/locked"}
    assert [item.facts["media_type"] for item in found.inputs] == [images.MANIFEST, images.CONFIG, *[images.GZIP] * 3]
    index = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], capture_output=True, check=True
    )
    assert found.facts == {
        "reference": name,
        "index": images.digest(index.stdout),
        "created": images.CREATED_SECONDS,
        "config": {"Env": ["PATH=/usr/bin", "A=b=c"], "Cmd": ["sh"], "WorkingDir": "/srv"},
    }
    assert found.options == {}
    assert found.dates == (images.CREATED_SECONDS,)

    lock = Lock(
        epoch=0,
        manifest="m",
        keys={},
        targets={"d": LockedTarget(name="d", platform="linux/amd64", layers=(locked(found),))},
    )
    assert read(write(lock)) == lock
    assert (
        Image().resolve(asked(world, {"image": f"{name.rpartition(':')[0]}@{found.facts['index']}"})).inputs
        == found.inputs
    )
    assert {item.sha256 for item in Image().resolve(asked(world, {"image": name}, "linux/arm64")).inputs}.isdisjoint(
        item.sha256 for item in found.inputs[:2]
    )


@pytest.mark.registry
def test_an_index_that_changes_for_others_changes_nothing_here(
    registry: Registry, layout: images.Layout, world: SmallWorld
) -> None:
    mine = layout.image(*LAYERS)
    ids = []
    for number in (0, 1):
        layout.tag(layout.index(mine, layout.image(LAYERS[number], platform="linux/arm64")), f"n{number}")
        name = registry.push(f"oci:{layout.root}:n{number}", "moving", "1.0", "--all")
        found = Image().resolve(asked(world, {"image": name}))
        ids.append((found.facts["index"], locked(found).id))
    assert ids[0][0] != ids[1][0]
    assert ids[0][1] == ids[1][1]


@pytest.mark.registry
@pytest.mark.parametrize("media_type", [images.GZIP, images.ZSTD])
def test_the_tree_is_umocis(
    registry: Registry, layout: images.Layout, world: SmallWorld, tmp_path: Path, media_type: str
) -> None:
    layout.tag(layout.image(*LAYERS, media_type=media_type), "x")
    name = registry.push(f"oci:{layout.root}:x", "umoci", media_type[-4:])
    found = Image().resolve(asked(world, {"image": name}))
    fetched(world, found)
    step = built(world, locked(found), tmp_path / "tree")
    assert [(path.name, kind) for path, kind in step.layers] == [(item.sha256, media_type) for item in found.inputs[2:]]
    assert json.loads(step.config.read_bytes())["architecture"] == "amd64"
    paths = {os.fsdecode(item.path): (item.kind, oct(item.mode)) for item in scan(tmp_path / "tree")}
    assert paths == {
        "dev": ("d", "0o755"),
        "etc": ("d", "0o750"),
        "etc/alias": ("l", "0o777"),
        "etc/changed": ("f", "0o600"),
        "lib": ("l", "0o777"),
        "srv": ("d", "0o755"),
        "srv/three": ("f", "0o644"),
        "tmp": ("d", "0o1777"),
        "usr": ("d", "0o755"),
        "usr/lib": ("d", "0o755"),
        "usr/lib/a": ("f", "0o755"),
        "usr/lib/a2": ("f", "0o755"),
        "usr/lib/b": ("f", "0o644"),
        "usr/su": ("f", "0o4755"),
    }


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.tool("umoci")
def test_a_real_base_unpacks_as_umoci_unpacks_it(
    base_image: str, base_layout: Path, world: SmallWorld, tmp_path: Path
) -> None:
    found = Image().resolve(asked(world, {"image": base_image}))
    fetched(world, found)
    built(world, locked(found), tmp_path / "tree")
    argv = ["umoci", "unpack", "--rootless", "--image", f"{base_layout}:bookworm", tmp_path / "bundle"]
    subprocess.run(argv, check=True, capture_output=True)
    assert tree_digest(scan(tmp_path / "tree")) == tree_digest(scan(tmp_path / "bundle" / "rootfs"))


@pytest.mark.registry
@pytest.mark.docker
def test_a_layered_image_has_the_tree_that_docker_has(
    registry: Registry, layout: images.Layout, world: SmallWorld, docker: Any, tmp_path: Path
) -> None:
    layout.tag(layout.image(*LAYERS), "x")
    name = registry.push(f"oci:{layout.root}:x", "docker", "1", "--format", "v2s2")
    found = Image().resolve(asked(world, {"image": name}))
    fetched(world, found)
    built(world, locked(found), tmp_path / "ours")
    docker("pull", name)
    docker.export(name, tmp_path / "export.tar")
    (tmp_path / "theirs").mkdir()
    subprocess.run(["tar", "--same-permissions", "-C", tmp_path / "theirs", "-xf", tmp_path / "export.tar"], check=True)
    docker("rmi", name)
    theirs = [item for item in scan(tmp_path / "theirs") if item.path not in (b"dev", b"etc", b"proc", b"sys")]
    ours = [item for item in scan(tmp_path / "ours") if item.path not in (b"dev", b"etc", b"proc", b"sys")]
    assert tree_digest(ours) == tree_digest(theirs)


@pytest.mark.registry
def test_a_layer_that_is_not_what_the_config_says(
    registry: Registry, layout: images.Layout, world: SmallWorld, tmp_path: Path
) -> None:
    good = layout.image(LAYERS[0])
    manifest = json.loads(layout.path(good).read_bytes())
    config = json.loads(layout.path(manifest["config"]).read_bytes())
    config["rootfs"]["diff_ids"] = [images.digest(b"another")]
    manifest["config"] = layout.blob(json.dumps(config).encode(), images.CONFIG)
    layout.tag(layout.blob(json.dumps(manifest).encode(), images.MANIFEST), "x")
    found = OciLayout().resolve(asked(world, {"oci": "layout"}))
    fetched(world, found)
    with pytest.raises(IntegrityError, match="the layer unpacks to other bytes than its image says"):
        built(world, locked(found), tmp_path / "tree")


@pytest.mark.registry
def test_the_store_is_enough_once_it_is_fetched(
    registry: Registry, layout: images.Layout, world: SmallWorld, tmp_path: Path
) -> None:
    layout.tag(layout.image(*LAYERS), "x")
    name = registry.push(f"oci:{layout.root}:x", "offline")
    found = Image().resolve(asked(world, {"image": name}))
    fetched(world, found)
    world.registries = registries(tmp_path, offline=True)
    fetch(found.inputs, [BlobProvider(world.registries)], world.store, offline=True)
    built(world, locked(found), tmp_path / "tree")
    with pytest.raises(OfflineError, match="the network may not be used to ask"):
        Image().resolve(asked(world, {"image": name}))


# -- from a layout ---------------------------------------------------------------------------------------------------------


def test_a_layout_gives_the_same_layer_as_a_registry(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    layout.tag(layout.image(*LAYERS), "x")
    found = OciLayout().resolve(asked(world, {"oci": "layout"}))
    assert [item.name for item in found.inputs] == [
        "manifest.json",
        "config.json",
        *(f"layer-00{number}.tar.gz" for number in range(3)),
    ]
    assert "repository" not in found.inputs[0].facts
    assert found.facts["path"] == "layout"
    assert "index" not in found.facts
    assert found.dates == (images.CREATED_SECONDS,)
    assert not any(world.store.has_blob(item.sha256) for item in found.inputs)
    fetched(world, found)
    built(world, locked(found), tmp_path / "tree")
    assert (tmp_path / "tree/etc/changed").read_bytes() == b"new"


def test_a_layout_of_many_platforms(layout: images.Layout, world: SmallWorld) -> None:
    amd64, arm64 = layout.image(LAYERS[0]), layout.image(LAYERS[1], platform="linux/arm64")
    layout.tag(layout.index(amd64, arm64), "x")
    found = OciLayout().resolve(asked(world, {"oci": "layout"}, "linux/arm64"))
    assert found.inputs[0].sha256 == arm64["digest"].removeprefix("sha256:")
    with pytest.raises(FetchError, match="it has no image for linux/s390x; it has linux/amd64, linux/arm64"):
        OciLayout().resolve(asked(world, {"oci": "layout"}, "linux/s390x"))


def test_a_layout_of_many_images_is_no_choice_to_guess(layout: images.Layout, world: SmallWorld) -> None:
    one, two = (layout.image(layer) for layer in LAYERS[:2])
    for number, image in enumerate((one, one, two)):
        layout.tag({key: value for key, value in image.items() if key != "platform"}, f"n{number}")
        if number < 2:
            assert OciLayout().resolve(asked(world, {"oci": "layout"})).inputs
    with pytest.raises(FetchError, match="the layout holds 2 images for linux/amd64: n0, n1, n2"):
        OciLayout().resolve(asked(world, {"oci": "layout"}))
    for number, image in enumerate((one, one, two)):
        found = OciLayout().resolve(asked(world, {"oci": "layout", "name": f"n{number}"}))
        assert found.inputs[0].sha256 == image["digest"].removeprefix("sha256:")
    with pytest.raises(FetchError, match="the layout has no image 'n3' for linux/amd64; it has n0, n1, n2"):
        OciLayout().resolve(asked(world, {"oci": "layout", "name": "n3"}))


def test_what_is_wrong_with_a_layout(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        OciLayout().resolve(asked(world, {"oci": "elsewhere"}))
    assert "research.toml:4: base.oci: there is no OCI image layout at elsewhere" in str(caught.value)
    image = layout.image(LAYERS[0])
    layout.tag(image, "x")
    manifest = json.loads(layout.path(image).read_bytes())
    blob, config = layout.path(manifest["layers"][0]), layout.path(manifest["config"])
    data = blob.read_bytes()
    blob.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="the blob has another size"):
        OciLayout().resolve(asked(world, {"oci": "layout"}))
    blob.unlink()
    with pytest.raises(FetchError, match=f"the layout lacks the blob {manifest['layers'][0]['digest']}"):
        OciLayout().resolve(asked(world, {"oci": "layout"}))
    blob.write_bytes(data[::-1])
    with pytest.raises(IntegrityError, match="it has other bytes"):
        fetched(world, OciLayout().resolve(asked(world, {"oci": "layout"})))
    text = config.read_bytes()
    config.write_bytes(text.replace(b"sh", b"hs"))
    with pytest.raises(IntegrityError, match="the blob has other bytes"):
        OciLayout().resolve(asked(world, {"oci": "layout"}))
    (layout.root / "index.json").write_text("{}")
    with pytest.raises(FetchError, match="it is not an OCI manifest"):
        OciLayout().resolve(asked(world, {"oci": "layout"}))


@pytest.mark.tool("skopeo")
def test_layouts_that_skopeo_writes(layout: images.Layout, world: SmallWorld, tmp_path: Path) -> None:
    layout.tag(layout.image(*LAYERS), "x")
    argv = ["skopeo", "copy", f"oci:{layout.root}:x", f"oci:{tmp_path}/copied:y"]
    subprocess.run(argv, check=True, capture_output=True)
    ours = OciLayout().resolve(asked(world, {"oci": "layout"}))
    theirs = OciLayout().resolve(asked(world, {"oci": "copied"}))
    assert [item.sha256 for item in theirs.inputs[2:]] == [item.sha256 for item in ours.inputs[2:]]


def test_a_created_date_that_says_nothing(layout: images.Layout, world: SmallWorld) -> None:
    for said in ("0001-01-01T00:00:00Z", None, "yesterday", "1970-01-01T00:00:00Z"):
        image = layout.image(LAYERS[0])
        manifest = json.loads(layout.path(image).read_bytes())
        config = json.loads(layout.path(manifest["config"]).read_bytes()) | {"created": said}
        manifest["config"] = layout.blob(json.dumps(config).encode(), images.CONFIG)
        layout.manifests.clear()
        layout.tag(layout.blob(json.dumps(manifest).encode(), images.MANIFEST))
        assert OciLayout().resolve(asked(world, {"oci": "layout"})).dates == ()


def test_the_fixture_is_what_it_says() -> None:
    with tarfile.open(fileobj=io.BytesIO(LAYERS[1])) as archive:
        assert [info.name for info in archive][:2] == ["etc", "etc/.wh.gone"]
