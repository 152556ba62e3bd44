"""SIF files as bases: the tree and the config of the image that Apptainer made them of, and which are refused."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.archives import sif
from reprobox.archives.squashfs import SquashFs
from reprobox.digest import hidden, tree_digest
from reprobox.errors import FetchError, ManifestError, PlatformError
from reprobox.image import Settings
from reprobox.layers.archive import ArchiveBase
from reprobox.layers.kind import StepRequest, Unpacked
from reprobox.layers.sif import OrasSif, Sif
from reprobox.layers.sif_config import config_of
from reprobox.lock import LockedLayer
from reprobox.store import Store
from reprobox.tree import scan
from tests import images
from tests.bases import LAYERS, SmallWorld, asked, built, fetched, locked, registries
from tests.engines.registry import Registry

CREATED = 1_700_000_000
ROOT = sif.Partition(filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture="amd64")


@pytest.fixture
def world(store: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path, registries(tmp_path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system as Apptainer leaves it."""
    folder = tmp_path / "root"
    (folder / ".singularity.d" / "env").mkdir(parents=True)
    (folder / ".singularity.d" / "runscript").write_text("#!/bin/sh\nOCI_ENTRYPOINT='\"/bin/a\"'\nOCI_CMD=''\n")
    (folder / "environment").symlink_to(".singularity.d/env/90-environment.sh")
    (folder / "usr").mkdir()
    (folder / "usr" / "su").write_bytes(b"su")
    (folder / "usr" / "su").chmod(0o4755)
    (folder / "dev").mkdir()
    (folder / "dev" / "console").touch()
    return folder


def squashfs(root: Path) -> bytes:
    target = root.with_name("root.sqfs")
    argv = ["mksquashfs", root, target, "-quiet", "-no-progress", "-noappend", "-all-root"]
    subprocess.run(argv, check=True, capture_output=True)
    return target.read_bytes()


def written(path: Path, *objects: tuple[sif.Content, bytes]) -> Path:
    with path.open("wb") as file:
        contents = [content for content, _ in objects]
        found = sif.laid_out(contents, identity=sif.identity(b"x"), created=CREATED)
        sif.write(found, ([data] for _, data in objects), file)
    return path


def partition(data: bytes, about: sif.Partition = ROOT) -> tuple[sif.Content, bytes]:
    return sif.Content(type=sif.PARTITION, size=len(data), name="root", extra=about.extra()), data


def step(world: SmallWorld, layer: LockedLayer) -> Unpacked:
    files = {item.name: world.store.blob(item.sha256) for item in layer.inputs}
    return Sif().step(
        StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=CREATED, project=world.project)
    )


def refused(world: SmallWorld) -> str:
    with pytest.raises(ManifestError) as caught:
        Sif().resolve(asked(world, {"sif": "base.sif"}))
    said = str(caught.value)
    assert said.startswith("research.toml:4: base.sif: ")
    return said.removeprefix("research.toml:4: base.sif: ")


# -- what a SIF gives ------------------------------------------------------------------------------------------------------


@pytest.mark.tool("mksquashfs")
def test_a_sif_and_its_bare_file_system(root: Path, world: SmallWorld, tmp_path: Path) -> None:
    data = squashfs(root)
    definition = (sif.Content(type=sif.DEFINITION, size=4, name="def"), b"text")
    written(tmp_path / "base.sif", definition, partition(data))
    for number, path in enumerate(("base.sif", "root.sqfs")):
        found = Sif().resolve(asked(world, {"sif": path}))
        assert [item.name for item in found.inputs] == [("base.sif", "base.sqfs")[number]]
        assert found.facts["config"] == {"Entrypoint": ["/bin/a"]}
        assert found.facts["path"] == path
        fetched(world, found)
        made = step(world, locked(found, "sif"))
        tree = tmp_path / f"tree-{number}"
        tree.mkdir()
        assert made.unpack(tree) == ()
        assert made.config == found.facts["config"]
        assert {os.fsdecode(entry.path): entry.mode for entry in scan(tree)} == {
            "dev": 0o755,
            "usr": 0o755,
            "usr/su": 0o4755,
        }
        assert tree_digest(scan(tree)) == tree_digest(scan(root))
        assert max(path.stat().st_mtime for path in (tree / "usr").iterdir()) == CREATED
    assert Sif().resolve(asked(world, {"sif": "base.sif"})).dates == (CREATED,)


@pytest.mark.apptainer
@pytest.mark.tool("skopeo")
def test_the_sif_of_an_image_is_the_image(world: SmallWorld, tmp_path: Path) -> None:
    layout = images.Layout(tmp_path / "layout")
    config = {"Entrypoint": ["/usr/lib/a", "it's"], "Cmd": ["-c", 'a "b"'], "Env": ["PATH=/usr/bin", "A=b=c d"]}
    layout.tag(layout.image(*LAYERS, media_type=images.PLAIN, **config, Labels={"who": "me"}), "x")
    copied = ["skopeo", "copy", f"oci:{layout.root}:x", f"docker-archive:{tmp_path}/base.tar:name:tag"]
    subprocess.run(copied, check=True, capture_output=True)
    environment = {**os.environ, "APPTAINER_CACHEDIR": str(tmp_path / "cache"), "APPTAINER_TMPDIR": str(tmp_path)}
    argv = ["apptainer", "-q", "build", tmp_path / "base.sif", f"docker-archive:{tmp_path}/base.tar"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr

    image = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    fetched(world, image)
    built(world, locked(image, "archive"), tmp_path / "image")
    found = Sif().resolve(asked(world, {"sif": "base.sif"}))
    fetched(world, found)
    (tmp_path / "sif").mkdir()
    step(world, locked(found, "sif")).unpack(tmp_path / "sif")
    theirs = {entry.path: entry for entry in scan(tmp_path / "sif") if not hidden(entry.path)}
    ours = {entry.path: entry for entry in scan(tmp_path / "image") if not hidden(entry.path)}
    del ours[b"dev"]  # which has no entry of its own in the image's tar: everyone gives it another mode
    # Apptainer adds folders that it mounts over to every root; a whole distribution has them
    assert {path for path in theirs if path not in ours} <= {
        b"dev",
        b"home",
        b"proc",
        b"root",
        b"sys",
        b"var",
        b"var/tmp",
    }
    assert {path: theirs.get(path) for path in ours} == ours
    assert found.facts["config"] == {**config, "Labels": {"who": "me"}}
    assert "left" not in found.facts


@pytest.mark.registry
@pytest.mark.apptainer
@pytest.mark.tool("mksquashfs")
def test_a_sif_from_a_registry(registry: Registry, root: Path, world: SmallWorld, tmp_path: Path) -> None:
    path = written(tmp_path / "base.sif", partition(squashfs(root)))
    name = registry.reference("sifs/base", "1.0")
    argv = ["apptainer", "push", "--no-https", "-U", path, f"oras://{name}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = OrasSif().resolve(asked(world, {"sif": f"oras://{name}"}))
    local = Sif().resolve(asked(world, {"sif": "base.sif"}))
    assert found.inputs[0].sha256 == local.inputs[0].sha256
    assert found.inputs[0].facts["repository"] == name.rpartition(":")[0]
    assert found.facts["reference"] == f"oras://{name}"
    assert found.dates == local.dates
    world.store.blob(found.inputs[0].sha256).unlink()
    fetched(world, found)  # by its digest, whatever the tag stands for by then
    assert world.store.has_blob(found.inputs[0].sha256)
    with pytest.raises(FetchError, match=r"127.0.0.1:[0-9]+ has no such image") as caught:
        OrasSif().resolve(asked(world, {"sif": f"oras://{name}1"}))
    assert caught.value.hint == f"did you mean {name}?"


@pytest.mark.registry
def test_what_is_no_sif_in_a_registry(registry: Registry, world: SmallWorld, tmp_path: Path) -> None:
    layout = images.Layout(tmp_path / "layout")
    layout.tag(layout.image(LAYERS[0]), "x")
    name = registry.push(f"oci:{layout.root}:x", "no-sif")
    with pytest.raises(FetchError) as caught:
        OrasSif().resolve(asked(world, {"sif": f"oras://{name}"}))
    assert str(caught.value) == f'{name}: it is a container image, not a SIF\n  hint: write image = "{name}"'


# -- which are refused -----------------------------------------------------------------------------------------------------


def test_what_is_no_sif(world: SmallWorld, tmp_path: Path) -> None:
    path = tmp_path / "base.sif"
    with pytest.raises(ManifestError) as caught:
        Sif().resolve(asked(world, {"sif": "base.sif"}))
    give = "\n  hint: give a file that `apptainer build` or `apptainer pull` writes"
    assert str(caught.value) == f"research.toml:4: base.sif: the file base.sif is not there{give}"
    path.write_bytes(b"#!/bin/sh\n")
    assert refused(world) == f"base.sif: it is neither a SIF nor a SquashFS file{give}; it may not have arrived whole"
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    assert "images of Singularity 1 cannot be read by anything now" in refused(world)
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    assert "\n  hint: a tar of an image is taken by archive = " in refused(world)
    with pytest.raises(ManifestError, match=r"targets\.gpu\.base\.sif: base\.sif: it is neither"):
        Sif().resolve(replace(asked(world, {"sif": "base.sif"}), key="targets.gpu.base"))
    path.unlink()
    path.mkdir()
    assert "base.sif is a folder: for a sandbox that Apptainer made, write rootfs" in refused(world)


def test_which_sifs_cannot_be_used(world: SmallWorld, tmp_path: Path) -> None:
    path = tmp_path / "base.sif"
    written(path)
    assert refused(world) == "base.sif: it has no root file system\n  hint: build it again: `apptainer build`"
    written(path, (sif.Content(type=sif.OCI_INDEX, size=2), b"{}"))
    assert refused(world).startswith("base.sif: it is an OCI-SIF, as `singularity build --oci` makes it")
    encrypted = sif.Partition(filesystem=sif.ENCRYPTED_SQUASHFS, role=sif.PRIMARY, architecture="amd64")
    written(path, partition(b"secret", encrypted))
    assert refused(world) == (
        "base.sif: it is encrypted: what nobody may read, nobody can check or rebuild\n"
        "  hint: build it without --encrypt, or unpack it where the key is (`apptainer build --sandbox dir base.sif`)"
        ' and write rootfs = "dir"'
    )
    overlay = sif.Partition(filesystem=sif.EXT3, role=sif.OVERLAY, architecture="amd64")
    written(path, partition(b"hsqs"), partition(b"ext3", overlay))
    assert refused(world) == (
        "base.sif: it has a writable overlay (object 2), in which files may be other ones than in the SIF\n"
        "  hint: join them into a new one (`apptainer build --sandbox dir base.sif && apptainer build new.sif dir`),"
        " or take the overlay out: `apptainer sif del 2 base.sif`"
    )
    written(path, partition(b"ext3", sif.Partition(filesystem=sif.EXT3, role=sif.PRIMARY, architecture="amd64")))
    assert refused(world).startswith("base.sif: its root file system is not a SquashFS\n  hint: build it again")
    written(path, partition(b"hsqs", sif.Partition(filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture="arm64")))
    with pytest.raises(PlatformError, match="it is for linux/arm64, not for linux/amd64"):
        Sif().resolve(asked(world, {"sif": "base.sif"}))


@pytest.mark.tool("mksquashfs")
def test_broken_sifs(root: Path, world: SmallWorld, tmp_path: Path) -> None:
    path = written(tmp_path / "base.sif", partition(squashfs(root)))
    data = path.read_bytes()
    again = "\n  hint: copy or build the file again: it is broken"
    path.write_bytes(data[:-1])
    size = len(data) - 32768
    assert refused(world) == (
        f"base.sif: its object 1 ({size} bytes at byte 32768) reaches beyond its {len(data) - 1} bytes:"
        f" it is cut off, or a wrong offset was written{again}"
    )
    path.write_bytes(data[:4113] + struct.pack("<q", 1 << 50) + data[4121:])
    assert f"its object 1 ({size} bytes at byte {1 << 50}) reaches beyond" in refused(world)
    path.write_bytes(data[: 32768 + 20] + b"\3\0" + data[32768 + 22 :])
    assert refused(world) == (
        "base.sif: it is compressed with lzo, which is not read here: gzip, xz and zstd are\n"
        "  hint: pack it again: `apptainer build --sandbox dir base.sif`, then `apptainer build new.sif dir`"
    )
    path.write_bytes(data[:4113] + struct.pack("<q", 32767) + data[4121:])
    assert refused(world) == f"base.sif: it is no SquashFS: it does not begin with hsqs{again}"


# -- what it says about containers -----------------------------------------------------------------------------------------


@pytest.mark.tool("mksquashfs")
def test_what_containers_inherit(root: Path) -> None:
    own = root / ".singularity.d"
    (own / "env" / "10-docker2singularity.sh").write_text(
        '#!/bin/sh\nexport PATH="/opt/bin:/usr/bin"\nexport LANG="${LANG:-"C.UTF-8"}"\nexport E=""\n'
    )
    (own / "env" / "90-environment.sh").write_text(
        "#!/bin/sh\n# a comment\nexport HERE=/opt; \nexport PATH=$HERE/bin:${PATH}\nPLAIN='a $b'\nLOCAL=1\n"
        'export PLAIN\nexport NOW=$(date)\nif true; then export X=1; fi\nexport LIST="a\\"b"\'c\'d\n'
        "export UP=${HERE^^}\n"
    )
    (own / "env" / "99-base.sh").write_text("export OWN=$(machinery)\n")
    labels = {"who": "me", "org.label-schema.build-date": "today", "number": 7}
    (own / "labels.json").write_text(json.dumps(labels))
    (own / "runscript").write_text('#!/bin/bash\nexec python3 /main.py "$@"\n')
    config, left = config_of(SquashFs(io.BytesIO(squashfs(root))))
    assert config == {
        "Env": [
            "PATH=/opt/bin:/opt/bin:/usr/bin",
            "LANG=C.UTF-8",
            "E=",
            "HERE=/opt",
            "PLAIN=a $b",
            'LIST=a"bcd',
        ],
        "Entrypoint": ["/bin/bash", "-c", '#!/bin/bash\nexec python3 /main.py "$@"\n', "runscript"],
        "Labels": {"who": "me"},
    }
    assert left == (
        "the environment is computed by 90-environment.sh: export NOW=$(date)",
        "the environment is computed by 90-environment.sh: if true; then export X=1; fi",
        "the environment is computed by 90-environment.sh: export UP=${HERE^^}",
    )
    assert Settings(architecture="amd64", entrypoint=tuple(config["Entrypoint"])).document()  # type: ignore[arg-type]


@pytest.mark.tool("mksquashfs")
@pytest.mark.parametrize(
    ("script", "config", "left"),
    [
        ("", {}, ()),
        ("OCI_ENTRYPOINT=''\nOCI_CMD='\"sh\" \"-c\"'\n", {"Cmd": ["sh", "-c"]}, ()),
        ("OCI_ENTRYPOINT='\"a'\n", {}, ("its ENTRYPOINT cannot be read from its run script",)),
        ("#!/usr/bin/python3\nprint()\n", {}, ("its run script is not for a shell: #!/usr/bin/python3",)),
        ("exec a", {"Entrypoint": ["/bin/sh", "-c", "exec a", "runscript"]}, ()),
    ],
    ids=["none", "command", "broken", "python", "plain"],
)
def test_how_containers_start(root: Path, script: str, config: dict[str, Any], left: tuple[str, ...]) -> None:
    (root / ".singularity.d" / "runscript").write_text(script)
    assert config_of(SquashFs(io.BytesIO(squashfs(root)))) == (config, left)
