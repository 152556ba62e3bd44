"""`inspect`: the same facts of an environment on every backend, before and after it is built."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile

import pytest

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


def test_what_the_sandbox_cannot_hold_or_nobody_has_is_refused(project):
    told = project("inspect", "some.sif")
    assert told.status == 2
    assert told.err == (
        "error: some.sif: the sandbox holds folders of layers, which have no labels\n"
        "  hint: say who holds it: --backend singularity for a SIF, --backend docker for the name of an image\n"
    )
    shutil.rmtree(project.root / "src")
    project.lock.unlink()
    assert project("inspect").status == 3


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
