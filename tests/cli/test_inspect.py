"""`inspect`: the same facts of an environment on every backend, before and after it is built."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from reprobox.digest import tree_digest
from reprobox.tree import scan
from tests.cli.test_entry_points import BACKENDS, backend  # noqa: F401 - a fixture

pytestmark = pytest.mark.userns


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_the_facts_are_the_same_on_every_backend(project, backend):  # noqa: F811
    project.edit('version = "1.0"', 'version = "1.0"\nlicense = "MIT"')
    assert project("lock", "-q").status == 0
    done = project.process("realize", "--backend", backend, "--json").json
    told = project.process("inspect", "--backend", backend, "--json").json
    assert told["image"]["image_digest"] == done["image_digest"]
    assert told["image"]["tree_digest"] == done["tree_digest"]
    assert told["image"]["command"] == ["/bin/sh", "/work/main.sh"]
    labels = {"title": "small", "version": "1.0", "licenses": "MIT"}
    assert told["image"]["labels"] == {f"org.opencontainers.image.{name}": value for name, value in labels.items()}
    assert [(item["name"], item["id"], item["diff_id"]) for item in told["layers"]] == [
        (item["name"], item["id"], item["diff_id"]) for item in done["layers"]
    ]
    held = told["held"]
    assert (held["location"], held["there"]) == (done["location"], True)
    assert backend == "sandbox" or told["image"]["labels"].items() <= held["labels"].items()
    if backend == "sandbox":
        shown = project("inspect").out
        assert f"small, target default, linux/{told['platform'][6:]}\nimage digest  {done['image_digest']}\n" in shown
        assert "command       /bin/sh /work/main.sh\n" in shown
        assert f"sandbox       holds it at {done['location']}" in shown


def test_what_is_not_built_has_no_digests(fresh):
    told = fresh("inspect", "--json").json
    assert told["image"] is None
    assert {layer["diff_id"] for layer in told["layers"]} == {None}
    assert told["lock"]["seal"] is None
    assert told["held"] == {"backend": "sandbox", "location": None, "there": False, "current": False, "labels": {}}
    assert "image         not built here: `reprobox realize` does\n" in fresh("inspect").out


def test_a_folder_in_a_project_is_told_to_be_no_project(project):
    told = project("inspect", project.root / "src")
    assert told.err == f"{project.root}/src is in the project {project.root}, which is shown\n"
    assert project("inspect", project.root) == project("inspect", ".")
    assert project("inspect", project.root).err == ""


def test_a_lock_is_shown_with_its_manifest(project, tmp_path):
    assert project("inspect", project.lock, "--json").json == project("inspect", "--json").json
    alone = shutil.copy(project.lock, tmp_path)
    told = project("inspect", alone)
    assert told.status == 2
    assert told.err.startswith(f"error: {alone}: a lock says what the layers are made of, and its manifest what runs")
    project.lock.unlink()
    assert project("inspect").status == 3
    assert project("inspect", project.lock).err.startswith(f"error: {project.lock}: there is no such file or folder\n")


GIVE = (
    "  hint: give a project's folder, its research.toml or research.lock; a PDF; an image's layout or archive, or its"
    " name in a registry (host.name/name:tag); the folder of an unpacked system; or what an engine holds, with --backend"
    " docker (the name of an image) or --backend singularity (a SIF)\n"
)
UNKNOWN = "it is neither a project nor an image, a SIF, an archive, a crate or a PDF"
SIF_START = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0"


@pytest.mark.parametrize(
    ("name", "data", "said", "hint"),
    [
        ("passwd", b"root:x:0:0\n", UNKNOWN, GIVE),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", UNKNOWN, GIVE),
        ("empty", b"", "the file is empty", GIVE),
        ("some.sif", None, "there is no such file or folder", GIVE),
        ("debian:bookworm", None, "there is no such file or folder", GIVE),
        (
            "some.sif",
            SIF_START,
            "this is a SIF, and the sandbox holds none",
            "  hint: `reprobox inspect --backend singularity {path}` shows its labels\n",
        ),
        (
            "crate.zip",
            b"PK\3\4",
            "this is an archive, and inspect shows projects and images",
            "  hint: `reprobox show {path}` says what it holds\n",
        ),
        (
            "paper.lock",
            b"# Written by reprobox\n",
            "a lock says what the layers are made of, and its manifest what runs in them: the manifest is not here",
            "  hint: put both into one folder, as research.toml and research.lock\n",
        ),
        ("below/a", None, "there is no such file or folder", GIVE),
        (
            "long" * 70,
            None,
            "it cannot be read: File name too long",
            "  hint: make it readable, or give its full path\n",
        ),
    ],
    ids=["text", "picture", "empty", "missing", "image", "SIF", "crate", "lock", "below-a-file", "long"],
)
def test_what_nobody_knows_is_told_with_what_can_be_given(project, tmp_path, name, data, said, hint):
    path = tmp_path / name
    (tmp_path / "below").touch()
    if data is not None:
        path.write_bytes(data)
    told = project("inspect", path)
    assert (told.status, told.err) == (2, f"error: {path}: {said}\n{hint.format(path=path)}")


def test_the_folder_of_a_crate_is_told_to_be_one(project, tmp_path):
    (tmp_path / "ro-crate-metadata.json").write_text("{}")
    told = project("inspect", tmp_path)
    assert told.status == 2
    assert told.err == (
        f"error: {tmp_path}: this is a crate, and inspect shows projects and images\n"
        f"  hint: `reprobox show {tmp_path}` says what it holds\n"
    )


STATUS = """\
Package: tool
Status: install ok installed
Architecture: all
Version: 1.0-2

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 3
"""


@pytest.fixture
def system(tmp_path):
    """A system as it lies in a folder: its links are absolute, and its shell is this machine's."""
    root = tmp_path / "rootfs"
    for name in (
        "etc",
        "usr/lib",
        "usr/bin",
        "var/lib/dpkg",
        "usr/local/lib/python3.11/dist-packages/six-1.16.dist-info",
    ):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    (root / "usr/lib/os-release").write_text('PRETTY_NAME="Tiny \x1b[2J 1"\nID=tiny\n')
    (root / "bin").symlink_to("/usr/bin")
    shutil.copy("/bin/sh", root / "usr/bin/sh")
    (root / "usr/bin/dash").hardlink_to(root / "usr/bin/sh")
    (root / "var/lib/dpkg/status").write_text(STATUS)
    (root / "usr/local/lib/python3.11/dist-packages/six-1.16.dist-info/METADATA").write_text(
        "Name: six\nVersion: 1.16\n"
    )
    return root


def test_a_system_in_a_folder(project, system):
    told = project("inspect", system, "--json").json
    files = [path for path in system.rglob("*") if path.is_file() and not path.is_symlink()]
    assert told == {
        "location": str(system),
        "system": "Tiny \x1b[2J 1",
        "machine": project("inspect", "--json").json["platform"].removeprefix("linux/"),
        "tree_digest": f"sha256:{tree_digest(scan(system))}",
        "size": sum(path.stat().st_size for path in files if path.name != "dash"),
        "files": len(files),
        "packages": [
            {"kind": "deb", "name": "tool", "version": "1.0-2"},
            {"kind": "pypi", "name": "six", "version": "1.16"},
        ],
    }
    shown = project("inspect", system).out.splitlines()
    assert shown[0] == f"{system}, a folder with the files of a system"
    assert shown[1] == "system        Tiny \\x1b[2J 1"
    assert shown[-1] == "packages      1 of Debian, 1 of Python"


def test_a_system_whose_files_say_little(project, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").symlink_to("os-release")
    shown = project("inspect", tmp_path).out.splitlines()
    assert (shown[1], shown[2], shown[-1]) == (
        "system        not said",
        "machine       not known",
        "packages      none in the databases of dpkg and of Python",
    )


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (
            "var/lib/dpkg/status",
            b"Package: tool\nStatus:\n\nPackage: x\xff\nStatus: install ok installed\nVersion: 1\n",
        ),
        ("usr/bin/sh", b"\x7fELF\x02"),
    ],
    ids=["packages", "program"],
)
def test_a_system_whose_files_are_wrong_is_shown(project, system, path, data):
    (system / path).unlink()
    (system / path).write_bytes(data)
    told = project("inspect", system)
    assert (told.status, told.err) == (0, "")
    assert "packages      1 of Debian, 1 of Python" in told.out


def test_what_is_mounted_in_a_system_is_not_read(project, system):
    """Files of /proc and /sys cannot be read, or are not the same twice; the tree digest leaves them out."""
    (system / "proc").mkdir(mode=0o555)
    expected = project("inspect", system, "--json").json
    inspect = [Path(sys.executable).with_name("reprobox"), "inspect", system, "--json"]
    mounted = ["unshare", "--user", "--map-root-user", "--pid", "--fork", f"--mount-proc={system}/proc", *inspect]
    done = subprocess.run(mounted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_of_somebody_else_is_told_to_be_one(project, tmp_path):
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    closed.chmod(0)
    told = project("inspect", closed / "inside")
    closed.chmod(0o700)
    assert told.status == 2
    assert told.err.startswith(f"error: {closed}/inside: it cannot be read: Permission denied\n")


@pytest.mark.parametrize("form", ["oci", "docker-archive"])
def test_an_image_in_a_folder_or_a_file(project, tmp_path, form):
    place = tmp_path / "image"
    made = project("realize", "--json").json
    assert project("export", "--format", form, "-o", place).status == 0
    own, told = project("inspect", "--json").json, project("inspect", place, "--json").json
    assert told["manifest"] == (made["image_digest"] if form == "oci" else None)
    assert told["platform"] == own["platform"]
    for name in ("labels", "environment", "command", "workdir", "user", "created"):
        assert told[name] == own["image"][name]
    assert [layer["diff_id"] for layer in told["layers"]] == [layer["diff_id"] for layer in own["layers"]]
    shown = project("inspect", place).out
    assert shown.startswith(f"{place}, an image for {told['platform']}\n")
    assert "command       /bin/sh /work/main.sh\n" in shown


def test_an_image_of_another_machine(project, tmp_path):
    place = tmp_path / "image"
    assert project("export", "--format", "oci", "-o", place).status == 0
    blobs = place / "blobs/sha256"

    def changed(digest, change):
        document = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
        change(document)
        data = json.dumps(document).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    other = {"amd64": "arm64", "arm64": "amd64"}[project("inspect", "--json").json["platform"].removeprefix("linux/")]
    labels = {"a": "\x1b[2J"}
    index = json.loads((place / "index.json").read_bytes())
    (entry,) = index["manifests"]
    manifest = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_bytes())
    config = changed(
        manifest["config"]["digest"], lambda it: (it.update(architecture=other), it["config"].update(Labels=labels))
    )
    entry |= changed(entry["digest"], lambda it: it["config"].update(config))
    entry["platform"] = {"os": "linux", "architecture": other}
    (place / "index.json").write_text(json.dumps(index))
    assert project("inspect", place, "--json").json["labels"] == labels
    shown = project("inspect", place).out
    assert shown.startswith(f"{place}, an image for linux/{other}\n")
    assert "labels        a=\\x1b[2J\n" in shown


def test_what_holds_no_image_is_told(project, tmp_path):
    assert project("vault", tmp_path / "kept", "--without-reprobox").status == 0
    told = project("inspect", tmp_path / "kept")
    assert told.status == 2
    assert told.err == (
        f"error: {tmp_path}/kept: this is a vault, and no image\n"
        f"  hint: `reprobox vault {tmp_path}/kept --check` says what it keeps\n"
    )
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(project.manifest, "a")
    told = project("inspect", tmp_path / "x.tar")
    assert told.status == 1
    assert told.err.startswith(f"error: {tmp_path}/x.tar: it is no image: it has neither index.json, as oci-archives")
