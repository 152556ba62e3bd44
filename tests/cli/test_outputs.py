"""``realize``, its seal, and ``export``: what is made, where it is put, and that it is always the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.userns
SCRIPT = Path(__file__).parents[1] / "independent" / "tree_digest.py"


def independent(tree: Path) -> str:
    """The tree digest as a script that knows nothing of reprobox finds it."""
    return subprocess.run([sys.executable, SCRIPT, tree], capture_output=True, text=True, check=True).stdout.strip()


# -- realize -----------------------------------------------------------------------------------------------------------


def test_realize_builds_what_is_missing_and_then_nothing(fresh):
    told = fresh("realize")
    assert told.status == 0
    for name in ("base", "settings", "greeting", "skeleton"):
        assert f"\n{name} " in f"\n{told.out}"
    assert told.out.count("built in") == 4
    again = fresh("realize")
    assert again.err == ""
    assert again.out.count("in the store") == 4
    assert [line for line in told.out.splitlines() if "digest" in line] == [
        line for line in again.out.splitlines() if "digest" in line
    ]


def test_what_is_left_out_of_a_layer_is_a_line_a_reason(project):
    project.add('[[layers]]\nname = "odd"\nkind = "run"\nscript = "cd /opt; touch .wh.a .wh.b .wh.c .wh.d .wh.e"')
    assert project("lock").status == 0
    told = project("realize")
    (line,) = [line.strip() for line in told.out.splitlines() if "left out" in line]
    names = "/opt/.wh.a, /opt/.wh.b, /opt/.wh.c and 2 more (--json has all)"
    assert line == f"left out: {names}: names that start with .wh. cannot be in an image (5 files)"
    odd = next(layer for layer in project("realize", "--json").json["layers"] if layer["name"] == "odd")
    assert len(odd["dropped"]) == 5


def test_realize_never_locks(project):
    before = project.lock.read_bytes()
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')
    assert project("realize").status == 3
    assert project.lock.read_bytes() == before


def test_realize_writes_the_whole_file_system(project, tmp_path):
    told = project("realize", "--output", tmp_path / "root", "--json")
    assert told.status == 0
    assert told.json["location"] == str(tmp_path / "root")
    assert (tmp_path / "root" / "greeting").read_text() == "small\n"
    assert independent(tmp_path / "root") == told.json["tree_digest"]
    assert not (tmp_path / "root" / "work" / "main.sh").exists()


@pytest.mark.parametrize(("name", "meant"), [("x.sif", "singularity"), ("x.sqfs", "singularity"), ("x.tar", "docker")])
def test_a_name_that_asks_for_a_file_is_none_for_a_folder(project, tmp_path, name, meant):
    told = project("realize", "--output", tmp_path / name)
    assert told.status == 2
    assert told.err == (
        f"error: {tmp_path / name}: sandbox would make a folder of this name\n"
        f"  hint: give --backend {meant} for the file, or a name without {name[1:]} for the folder\n"
    )
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("kind", ["rootfs", "oci", "docker-archive"])
def test_a_place_that_has_no_room_is_named(project, tmp_path, kind):
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = 'mount -t tmpfs -o size=64k none "$0"; "$@"; status=$?; ls -A "$0"; exit $status'
    export = [sys.executable, "-m", "reprobox.cli", "export", "--format", kind, "-o", small / "x"]
    told = subprocess.run(
        [*mounted, script, small, *export], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (1, "")
    hint = "make room there, or give -o another place"
    assert told.stderr == f"error: {small}/x: no space is left on its disk\n  hint: {hint}\n"


def test_realize_with_the_code_in_it(project, tmp_path):
    plain = project("realize", "--json").json
    told = project("realize", "--with-code", "--output", tmp_path / "root", "--json")
    assert told.status == 0
    assert (tmp_path / "root" / "work" / "main.sh").read_text() == (project.root / "src" / "main.sh").read_text()
    assert independent(tmp_path / "root") == told.json["tree_digest"] != plain["tree_digest"]
    assert [layer["name"] for layer in told.json["layers"]][-1] == "code"
    assert project("realize", "--json").json["tree_digest"] == plain["tree_digest"]


def test_a_step_that_fails_shows_its_last_lines_and_its_log(fresh):
    fresh.edit("mkdir -p /opt/deep", "echo a word >&2; cat /nowhere")
    assert fresh("lock").status == 0
    told = fresh("realize")
    assert told.status == 1
    assert "layer 'greeting'" in told.err
    assert "a word" in told.err
    assert "/nowhere: No such file" in told.err
    assert ".log" in told.err
    assert "Traceback" not in told.err


# -- seals -------------------------------------------------------------------------------------------------------------


def test_a_seal_that_holds(fresh, store):
    told = fresh("lock", "--seal", "--json")
    assert told.status == 0
    assert told.json["sealed"] is True
    assert "tree_digest = " in fresh.lock.read_text()
    shutil.rmtree(store)
    assert fresh("realize").status == 0
    assert fresh("lock", "--json").json == {**told.json, "changed": False}


@pytest.mark.parametrize("keep_memo", [True, False])
def test_a_build_that_differs_from_its_seal_exits_5(fresh, store, keep_memo):
    fresh.edit("mkdir -p /opt/deep", "cat /proc/sys/kernel/random/uuid > /opt-id; true")
    assert fresh("lock", "--seal").status == 0
    time.sleep(0.05)  # the lock is old enough for a launch record, which must not start what is built below
    assert fresh("realize").status == 0
    shutil.rmtree(store / "layers") if keep_memo else shutil.rmtree(store)
    told = fresh("realize", "--json")
    assert told.status == 5
    assert told.json["error"]["status"] == 5
    assert "layer 'greeting' is not the sealed one: first in /opt-id\n" in told.json["error"]["message"]
    assert "settings" not in told.err.replace("building settings", "").replace("built settings", "")
    assert fresh("run", "--", "true").status == 5
    assert fresh("export", "--format", "oci", "-o", "layout").status == 5
    assert not (fresh.root / "layout").exists()
    assert fresh("lock", "--seal").status == 0


def test_a_changed_manifest_breaks_the_seal(fresh):
    assert fresh("lock", "--seal").status == 0
    fresh.edit('COLOUR = "blue"', 'COLOUR = "red"')
    assert fresh("lock", "--json").json["sealed"] is False


# -- export ------------------------------------------------------------------------------------------------------------


def content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(item.relative_to(path)): item.read_bytes()
        for item in path.rglob("*")
        if item.is_file() and not item.is_symlink()
    }


@pytest.mark.parametrize("form", ["oci", "docker-archive", "rootfs"])
def test_an_export_is_the_same_bytes_each_time(project, tmp_path, form):
    first = project("export", "--format", form, "-o", tmp_path / "one", "--json")
    second = project("export", "--format", form, "-o", tmp_path / "two", "--json")
    assert first.status == second.status == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {**first.json, "output": ""} == {**second.json, "output": ""}
    realized = project("realize", "--json").json
    assert first.json["tree_digest"] == realized["tree_digest"]
    assert first.json["image_digest"] == realized["image_digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "project", "two"]


def test_an_exported_root_has_the_digest_that_was_told(project, tmp_path):
    told = project("export", "--format", "rootfs", "-o", tmp_path / "root")
    assert told.status == 0
    assert f"tree digest   {independent(tmp_path / 'root')}\n" in told.out
    (tmp_path / "root" / "greeting").write_text("other\n")
    assert independent(tmp_path / "root") not in told.out


def test_an_exported_layout_is_an_image_of_the_layers(project, tmp_path):
    told = project("export", "--format", "oci", "-o", tmp_path / "layout", "--json").json
    index = json.loads((tmp_path / "layout" / "index.json").read_text())
    (manifest,) = index["manifests"]
    assert manifest["digest"] == told["image_digest"]
    for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    blob = tmp_path / "layout" / "blobs" / "sha256" / manifest["digest"].removeprefix("sha256:")
    document = json.loads(blob.read_text())
    config = json.loads((blob.parent / document["config"]["digest"].removeprefix("sha256:")).read_text())
    assert "COLOUR=blue" in config["config"]["Env"]
    assert config["config"]["Cmd"] == ["/bin/sh", "/work/main.sh"]
    assert config["config"]["WorkingDir"] == "/work"
    assert config["rootfs"]["diff_ids"] == [layer["diff_id"] for layer in project("realize", "--json").json["layers"]]


def test_an_exported_archive_has_its_tag(project, tmp_path):
    for more, tag in (([], "small:1.0"), (["--tag", "mine:2"], "mine:2")):
        path = tmp_path / tag.replace(":", "-")
        assert project("export", "--format", "docker-archive", "-o", path, *more, "--json").json["tag"] == tag
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            assert json.load(manifest)[0]["RepoTags"] == [tag]


def test_an_export_with_the_code(project, tmp_path):
    told = project("export", "--format", "rootfs", "-o", tmp_path / "root", "--with-code", "--json")
    assert (tmp_path / "root" / "work" / "main.sh").is_file()
    assert independent(tmp_path / "root") == told.json["tree_digest"]


@pytest.mark.parametrize(
    "verb", [["export", "--format", "oci", "-o"], ["export", "--format", "rootfs", "-o"], ["realize", "--output"]]
)
def test_an_output_that_exists_is_refused_and_kept(project, verb):
    (project.root / "file").write_text("mine\n")
    (project.root / "nothing").symlink_to("nowhere")
    for name in ("file", "src", "nothing"):
        told = project(*verb, name)
        assert told.status == 2
        assert f"{name}: it exists already" in told.err
    assert (project.root / "file").read_text() == "mine\n"
    assert os.readlink(project.root / "nothing") == "nowhere"


@pytest.mark.parametrize("verb", [["export", "--format", "docker-archive", "-o"], ["realize", "--output"]])
def test_an_output_in_no_folder_or_one_that_cannot_be_written(project, verb, monkeypatch):
    told = project(*verb, "nowhere/new")
    assert told.status == 2
    assert "its folder does not exist" in told.err
    (project.root / "closed").mkdir()
    real = os.access
    monkeypatch.setattr(
        "os.access", lambda path, *rest: Path(path).name != "closed" and real(path, *rest)
    )  # for root, too
    told = project(*verb, "closed/new")
    assert told.status == 2
    assert "its folder cannot be written" in told.err


def test_an_export_that_fails_leaves_nothing(project, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reprobox.cli.export.write_layout", full)
    told = project("export", "--format", "oci", "-o", tmp_path / "layout")
    assert told.status == 1
    assert "no space is left on its disk" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["project"]
