"""One image from every place where engines keep images: the same environment, and what becomes of a file that changes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli import main
from tests import images
from tests.engines import availability
from tests.engines.registry import Registry
from tests.images import entry, folder, hard, link

pytestmark = [pytest.mark.tool("skopeo"), pytest.mark.userns]

#: A root with the folders that Apptainer would add, and with what is easily lost on the way: set-id bits, hard links.
FOLDERS = ("dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var", "var/tmp")
LAYERS = images.layers(
    [*(folder(name + "/", 0o1777 if name.endswith("tmp") else 0o755) for name in FOLDERS), link("bin", "usr/bin"),
     entry("usr/bin/su", b"su", mode=0o4755), hard("usr/bin/sg", "usr/bin/su", mode=0o4755), entry("etc/gone", b"1")],
    [entry("etc/.wh.gone"), entry("etc/name", b"small\n", mode=0o640), folder("usr/closed/", 0o500)],
)  # fmt: skip
CONFIG = {"Entrypoint": ["/bin/su"], "Cmd": ["-c", "a b"], "Env": ["PATH=/usr/bin", "A=b=c"], "WorkingDir": "/"}
NAME = "reprobox-test/bases:1"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image as a layout and as both kinds of archive, its layers not compressed."""
    place = tmp_path_factory.mktemp("bases")
    layout = images.Layout(place / "layout")
    layout.tag(layout.image(*LAYERS, media_type=images.PLAIN, **CONFIG), "x")
    skopeo("copy", f"oci:{layout.root}:x", f"docker-archive:{place}/docker.tar:{NAME}")
    skopeo("copy", "--preserve-digests", f"oci:{layout.root}:x", f"oci-archive:{place}/oci.tar:x")
    return place


def skopeo(*argv: str) -> None:
    subprocess.run(["skopeo", *argv], check=True, capture_output=True)


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project, and commands called in this process: starting Python takes longer than what they do here."""

    path: Path
    store: Path
    capsys: pytest.CaptureFixture[str]

    def call(self, verb: str, *argv: str | Path) -> Told:
        self.capsys.readouterr()
        status = main([verb, "-C", str(self.path), *map(str, argv)])
        out, err = self.capsys.readouterr()
        return Told(status=status, out=out, err=err)

    def __call__(self, verb: str, *argv: str | Path) -> str:
        told = self.call(verb, *argv)
        assert told.status == 0, told
        return told.out

    def realize(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self("realize", "--json"))
        return told


@pytest.fixture
def project(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Project]:
    """Make a project on this base; all share one store."""

    def make(base: str) -> Project:
        path = tmp_path / f"project-{len(list(tmp_path.glob('project-*')))}"
        path.mkdir()
        (path / "research.toml").write_text(f'[project]\nname = "bases"\n[base]\n{base}\n')
        return Project(path=path, store=store, capsys=capsys)

    return make


@pytest.fixture
def in_docker(archive: Path) -> Iterator[str]:
    availability.require("docker")
    subprocess.run(["docker", "load", "-i", archive / "docker.tar"], check=True, capture_output=True)
    yield NAME
    subprocess.run(["docker", "rmi", "--force", NAME], check=False, capture_output=True)


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.apptainer
def test_one_image_from_everywhere(
    archive: Path, in_docker: str, registry: Registry, project: Callable[[str], Project], tmp_path: Path
) -> None:
    pushed = registry.push(f"oci:{archive}/layout:x", "bases", "1", "--preserve-digests")
    environment = {**os.environ, "APPTAINER_CACHEDIR": str(tmp_path / "cache"), "APPTAINER_TMPDIR": str(tmp_path)}
    argv = ["apptainer", "-q", "build", tmp_path / "base.sif", f"docker-archive:{archive}/docker.tar"]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    bases = {
        "registry": f'image = "docker://{pushed}"',
        "engine": f'image = "docker-daemon:{in_docker}"',
        "docker-archive": f'archive = "{archive}/docker.tar"',
        "oci-archive": f'archive = "{archive}/oci.tar"\nname = "x"',
        "layout": f'oci = "{archive}/layout"',
        "sif": f'sif = "{tmp_path}/base.sif"',
    }
    told: dict[str, dict[str, Any]] = {}
    for name, base in bases.items():
        made = project(base)
        made("lock")
        told[name] = made.realize()
    assert len({each["tree_digest"] for each in told.values()}) == 1, told
    assert len({told[name]["image_digest"] for name in bases if name != "sif"}) == 1, told
    assert [told[name]["layers"][0]["kind"] for name in bases] == [
        "image", "docker-daemon", "archive", "archive", "oci", "sif"
    ]  # fmt: skip
    exported = project(bases["sif"])
    exported("lock")
    exported("export", "--format", "oci", "-o", tmp_path / "out")
    index = json.loads((tmp_path / "out/index.json").read_bytes())
    manifest = json.loads(blob(tmp_path / "out", index["manifests"][0]["digest"]))
    config = json.loads(blob(tmp_path / "out", manifest["config"]["digest"]))["config"]
    assert {key: config[key] for key in ("Entrypoint", "Cmd", "Env")} == {
        key: CONFIG[key] for key in ("Entrypoint", "Cmd", "Env")
    }


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_an_archive_in_the_project(archive: Path, project: Callable[[str], Project]) -> None:
    made = project('archive = "base.tar"')
    file, lock = made.path / "base.tar", made.path / "research.lock"
    file.write_bytes((archive / "docker.tar").read_bytes())
    made("lock")
    first, locked = made.realize(), lock.read_bytes()
    assert made.call("lock", "--check").status == 0

    made("export", "--format", "docker-archive", "-o", made.path / "export.tar")
    again = project(f'archive = "{made.path}/export.tar"')
    again("lock")
    assert again.realize()["tree_digest"] == first["tree_digest"]
    (made.path / "export.tar").unlink()

    file.write_bytes(gzip.compress(file.read_bytes()))  # packed otherwise, it is the same base
    assert made.call("lock", "--check").status == 0
    made("lock")
    assert lock.read_bytes() == locked

    layout = images.Layout(made.path / "other")
    layout.tag(layout.image(LAYERS[0], media_type=images.PLAIN), "x")
    skopeo("copy", f"oci:{layout.root}:x", f"docker-archive:{made.path}/new.tar:{NAME}")
    file.unlink()
    (made.path / "new.tar").rename(file)
    stale = made.call("realize")
    assert stale.status == 3
    assert stale.err.endswith("base (its files changed)\n  hint: run `reprobox lock`\n")
    (made.path / "old.lock").write_bytes(locked)
    made("lock")
    assert "base (archive)\n  ~ image" in made("diff", made.path / "old.lock", lock)

    lock.write_bytes(locked)
    file.unlink()  # what is locked is in the store
    assert made.realize()["tree_digest"] == first["tree_digest"]
    subprocess.run(["rm", "-rf", made.store], check=True)
    for options, status, hint in (
        ((), 1, "copy the archive there from where the lock was made"),
        (("--offline",), 6, "run it once without --offline"),
    ):
        gone = made.call("realize", *options)
        assert gone.status == status
        assert f"    {file}: the archive is not there\n" in gone.err
        assert f"  hint: {hint}" in gone.err


@pytest.mark.tool("mksquashfs")
def test_a_squashfs_in_the_project(project: Callable[[str], Project], tmp_path: Path) -> None:
    made = project('sif = "base.sqfs"')
    for name in ("etc", "dev", "tmp", "proc", "sys", "run"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/etc/name").write_text("small\n")
    (tmp_path / "root/.singularity.d/env").mkdir(parents=True)
    (tmp_path / "root/.singularity.d/env/90-environment.sh").write_text("export NOW=$(date)\n")
    file = made.path / "base.sqfs"
    pack(tmp_path / "root", file)
    computed = "not taken from the base: the environment is computed by 90-environment.sh: export NOW=$(date)"
    assert made("lock").splitlines()[1:] == [computed]
    assert "computed" not in made.call("lock", "--check").err
    first = made.realize()
    (tmp_path / "root/etc/name").write_text("other\n")
    pack(tmp_path / "root", file)
    told = made.call("lock", "--check")
    assert (told.status, "base (its files changed)" in told.err) == (3, True)
    made("lock")
    assert made.realize()["tree_digest"] != first["tree_digest"]
    tree = json.loads(made("graph", "--format", "json"))
    assert (tree["layers"][0]["kind"], tree["layers"][0]["state"]) == ("sif", "stored")
    whole = file.read_bytes()
    file.write_bytes(whole[:300])  # what follows the first hundreds of bytes is padding
    told = made.call("lock", "--check")
    assert (told.status, "base (its files changed)" in told.err) == (3, True)
    told = made.call("lock")
    assert (told.status, "research.toml:4: base.sif: base.sqfs: it is cut off" in told.err) == (2, True)
    file.unlink()
    subprocess.run(["rm", "-rf", made.store], check=True)
    gone = made.call("realize")
    assert gone.status == 1
    assert gone.err.endswith(
        f"    {file}: the file of the base is not there\n  hint: copy the file there from where the lock was made\n"
    )


def pack(root: Path, file: Path) -> None:
    argv = ["mksquashfs", root, file, "-quiet", "-no-progress", "-noappend", "-all-root"]
    subprocess.run(argv, check=True, capture_output=True)


def test_an_engine_that_is_not_there(project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nothing/engine.sock")
    told = project(f'image = "docker-daemon:{NAME}"').call("lock")
    assert told.status == 4
    assert "the container engine does not answer: No such file or directory" in told.err
    assert 'write archive = "base.tar"' in told.err
