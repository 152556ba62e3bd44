"""``reprobox verify``: what is here against what is said, each wrong thing with the fact, the fix and the status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from reprobox.cli import main

pytestmark = pytest.mark.userns


def copied(store: Path, place: Path) -> None:
    subprocess.run(["cp", "--archive", store, place], check=True)


@pytest.fixture(scope="module")
def sealed(_template, session_folder) -> Path:
    """A store with all layers of the project, and its lock with the seal."""
    place = session_folder / "verify"
    shutil.copytree(_template / "project", place / "project")
    copied(_template / "store", place / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOX_STORE", str(place / "store"))
        assert main(["lock", "--seal", "-C", str(place / "project"), "-q"]) == 0
    return place


@pytest.fixture
def whole(fresh, sealed, store):
    """The project, sealed, with all its layers in a store of its own."""
    copied(sealed / "store", store)
    shutil.copy(sealed / "project/research.lock", fresh.lock)
    return fresh


def layer(project, name: str) -> Path:
    (target,) = tomllib.loads(project.lock.read_text())["targets"].values()
    (identity,) = (layer["id"] for layer in target["layers"] if layer["name"] == name)
    return Path(os.environ["REPROBOX_STORE"], "layers", identity.removeprefix("sha256:"))


def realize(project, *options: str) -> str:
    time.sleep(0.05)  # files that changed just before they were read are not trusted, and no record is left
    return project("realize", "--json", *options).json["location"]


def rows(told) -> dict[str, str]:
    return {line.split()[0]: line for line in told.out.splitlines()}


def test_all_is_well(whole):
    realize(whole)
    told = whole("verify")
    assert told.status == 0, told.err
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        ["manifest", "ok"],
        ["code", "ok"],
        ["lock", "ok"],
        ["inputs", "-"],
        ["layers", "ok"],
        ["seal", "ok"],
        ["sandbox", "ok"],
        ["verified:", "lock"],
    ]
    assert "4 of 4 here" in rows(told)["layers"]


def test_json_says_what_was_verified(whole):
    told = whole("verify", "--json").json
    assert told["ok"]
    assert told["status"] == 0
    made = whole("realize", "--json").json
    (target,) = told["targets"]
    assert target["tree_digest"] == made["tree_digest"]
    assert target["image_digest"] == made["image_digest"]
    assert target["layers"] == {item["name"]: item["diff_id"] for item in made["layers"]}
    assert target["sealed"]
    assert told["lock"] == whole("lock", "--json").json["lock"]
    assert told["findings"] == []


def test_nothing_built_is_nothing_wrong(fresh):
    told = fresh("verify", "--offline")
    assert told.status == 0
    assert rows(told)["layers"].split(maxsplit=2)[1:] == ["-", "0 of 4 here, as they were built"]


def test_a_stale_lock(whole):
    whole.edit('COLOUR = "blue"', 'COLOUR = "red"')
    told = whole("verify")
    assert told.status == 3
    assert told.err == (
        f"error: {whole.manifest}: changed since the lock was made: env.COLOUR (changed)\n"
        "  hint: run `reprobox lock`, or take back the change\n"
    )
    assert "WRONG" in rows(told)["manifest"]
    assert "verified" not in told.out


def test_changed_files_of_a_layer_stale_it(whole):
    (whole.root / "conf/name").write_text("other\n")
    told = whole("verify")
    assert told.status == 3
    assert "changed since the lock was made: layers.settings (its files changed)" in told.err


def test_code_that_is_not_the_locked_one(whole):
    (whole.root / "src/main.sh").write_text("echo other\n")
    told = whole("verify")
    assert told.status == 3
    assert told.err == (
        f"error: {whole.root}/src: the code is not what was locked\n"
        "  hint: run `reprobox lock` to pin it as it is, or restore it\n"
    )


def test_an_edited_lock(whole):
    whole.lock.write_text(whole.lock.read_text().replace("epoch = ", "epoch = 1"))
    told = whole("verify")
    assert told.status == 3
    assert "its content does not match its checksum" in told.err


def test_no_lock(whole):
    whole.lock.unlink()
    told = whole("verify")
    assert (told.status, told.err) == (
        3,
        f"error: {whole.lock}: there is no lock\n  hint: make one with `reprobox lock`\n",
    )


def test_a_file_of_a_layer_that_changed(whole):
    path = layer(whole, "greeting") / "tree/greeting"
    path.chmod(0o644)
    path.write_text("SMALL\n")
    told = whole("verify")
    assert told.status == 5
    assert told.err == (
        f"error: {path.parent.parent}: layer 'greeting': /greeting has changed\n"
        "  hint: move it away with `reprobox cache verify --repair`, so that it is fetched or built again\n"
    )


def test_a_layer_of_other_inputs(whole):
    path = layer(whole, "greeting") / "layer.json"
    record = json.loads(path.read_text())
    record["inputs"]["options"] = {"script": "something else"}
    path.write_text(json.dumps(record))
    told = whole("verify")
    assert told.status == 5
    assert "layer 'greeting': its record says that it was built from something else" in told.err


def test_a_record_that_is_none(whole):
    (layer(whole, "greeting") / "layer.json").write_text("{")
    told = whole("verify")
    assert told.status == 5
    assert "its record or its index is not one" in told.err


def test_a_seal_that_is_not_kept(whole):
    text = whole.lock.read_text()
    sealed = next(line for line in text.splitlines() if line.startswith("greeting = "))
    whole.lock.write_text(text.replace(sealed, 'greeting = "sha256:' + "0" * 64 + '"'))
    told = whole("verify")
    assert told.status == 5
    assert "target 'default': layer 'greeting' is sha256:" in told.err
    assert "and sealed was sha256:0000" in told.err


def test_all_that_is_wrong_is_told_at_once_and_wrong_bytes_count_more(whole):
    whole.edit('COLOUR = "blue"', 'COLOUR = "red"')
    path = layer(whole, "greeting") / "tree/greeting"
    path.chmod(0o644)
    path.write_text("SMALL\n")
    told = whole("verify", "--json")
    assert told.status == 5
    assert [finding["status"] for finding in told.json["findings"]] == [3, 5]


def test_a_target_that_is_not_there(whole):
    told = whole("verify", "--target", "gpu")
    assert told.status == 2


def test_a_target_that_is_not_locked(whole):
    whole.add("[targets.cpu]\n[targets.gpu]")
    assert whole("lock", "--target", "cpu").status == 0
    for rebuild in ((), ("--rebuild",)):
        told = whole("verify", "--target", "gpu", *rebuild)
        assert told.status == 3
        assert "changed since the lock was made: targets.gpu (not locked)" in told.err
    told = whole("verify", "--target", "cpu")
    assert (told.status, "targets.gpu" in told.err) == (0, False), told.err


# -- what other backends hold ------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_what_docker_holds(whole, docker):
    location = realize(whole, "--backend", "docker")
    try:
        told = whole("verify")
        assert told.status == 0, told.err
        assert rows(told)["docker"].split()[1:4] == ["ok", "holds", f"{location},"]
        container = docker("create", location, "true").strip()
        docker("cp", whole.manifest, f"{container}:/greeting")
        docker("commit", container, location)
        docker("rm", container)
        told = whole("verify")
        assert told.status == 5
        assert f"error: {location}: its tree digest is sha256:" in told.err
        assert "remove it, and make it anew with `reprobox realize --backend docker`" in told.err
    finally:
        docker("image", "rm", "--force", location)
    assert "holds nothing of it any more" in rows(whole("verify"))["docker"]


@pytest.mark.apptainer
def test_what_singularity_holds(whole):
    location = Path(realize(whole, "--backend", "singularity"))
    told = whole("verify")
    assert told.status == 0, told.err
    assert rows(told)["singularity"].split()[1:4] == ["ok", "holds", f"{location},"]
    data = bytearray(location.read_bytes())
    at = data.index(b"hsqs") + 200
    data[at : at + 64] = bytes(64)
    location.write_bytes(data)
    told = whole("verify")
    assert told.status == 5
    assert f"error: {location}: it" in told.err
