"""``reprobox verify --rebuild``: from an empty store, by every builder, and the first divergence down to its content."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprobox.cli import main
from tests.cli.conftest import Project

pytestmark = pytest.mark.userns

STAMP = '[[layers]]\nname = "stamp"\nkind = "run"\nscript = "mkdir /srv; cat /proc/uptime > /srv/stamp; true"\n'


@pytest.fixture
def stamped(fresh):
    """The project with a step that writes the time, locked, and nothing built."""
    fresh.add(STAMP)
    assert fresh("lock").status == 0
    return fresh


def unfinished() -> list[Path]:
    return list(Path(os.environ["REPROBOX_STORE"], "tmp").iterdir())


def rebuild_line(told) -> str:
    return next(line for line in told.out.splitlines() if line.startswith("rebuild"))


def test_what_is_rebuilt_is_what_is_in_the_store(project):
    told = project("verify", "--rebuild")
    assert told.status == 0, told.err
    assert rebuild_line(told).endswith(": the same as the store")
    assert "[1/4] building base" in told.err


@pytest.mark.docker
def test_two_builders_agree_with_the_seal_and_with_one_another(fresh):
    assert fresh("lock", "--seal").status == 0
    told = fresh("verify", "--rebuild", "--builder", "sandbox", "--builder", "docker", "--json")
    assert told.status == 0, told.err
    document = told.json
    (target,) = document["targets"]
    assert [build["builder"] for build in target["rebuilt"]] == ["sandbox", "docker"]
    for build in target["rebuilt"]:
        assert build["layers"] == target["layers"]
        assert (build["tree_digest"], build["image_digest"]) == (target["tree_digest"], target["image_digest"])
    assert document["checks"][-1]["said"].endswith(": the same as the seal and the store and one another")
    assert not unfinished()


def test_a_step_that_writes_the_time_is_caught_where_there_is_nothing_to_compare_with(stamped):
    told = stamped("verify", "--rebuild")
    assert told.status == 5
    lines = told.err.splitlines()
    at = lines.index("error: layer 'stamp' (run) of target 'default' did not come out the same")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["sandbox", "sandbox"]
    assert lines[at + 3] == "  /srv/stamp: content"
    assert [line[:7] for line in lines[at + 4 : at + 6]] == ["      -", "      +"]
    assert lines[at + 6].startswith("  hint: the step does not always give the same bytes: let it write no times")
    assert "verified" not in told.out
    assert not unfinished()
    assert not list(Path(os.environ["REPROBOX_STORE"], "layers").iterdir())  # nothing of it is kept


@pytest.mark.docker
def test_it_is_caught_by_each_builder(stamped):
    assert stamped("realize").status == 0
    told = stamped("verify", "--rebuild", "--builder", "docker", "--layer", "stamp", "--json")
    assert told.status == 5
    (divergence,) = told.json["divergences"]
    assert (divergence["layer"], divergence["one"], divergence["other"]) == ("stamp", "the store", "docker")
    (difference,) = divergence["differences"]
    assert (difference["path"], difference["kind"]) == ("/srv/stamp", "content")


def test_sealed_bytes_that_are_nowhere_here(stamped):
    """What is sealed elsewhere cannot be shown; a step that differs from itself can."""
    assert stamped("lock", "--seal").status == 0
    shutil.rmtree(os.environ["REPROBOX_STORE"])
    told = stamped("verify", "--rebuild", "--json")
    assert told.status == 5
    (divergence,) = told.json["divergences"]
    assert (divergence["layer"], divergence["one"], divergence["other"]) == ("stamp", "sandbox", "sandbox (2)")
    assert divergence["differences"][0]["path"] == "/srv/stamp"


def test_a_seal_that_nobody_can_build(project):
    assert project("lock", "--seal").status == 0
    text = project.lock.read_text()
    sealed = next(line for line in text.splitlines() if line.startswith("greeting = "))
    project.lock.write_text(text.replace(sealed, 'greeting = "sha256:' + "0" * 64 + '"'))
    told = project("verify", "--rebuild", "--json")
    assert told.status == 5
    (divergence,) = told.json["divergences"]
    assert divergence["layer"] == "greeting"
    assert divergence["one_digest"] == "sha256:" + "0" * 64
    assert divergence["said"].startswith("the sealed bytes are nowhere here; sandbox makes the same ones each time")


def test_one_layer_and_what_it_stands_on(project):
    told = project("verify", "--rebuild", "--layer", "settings", "--times", "2", "--json")
    assert told.status == 0, told.err
    builds = told.json["targets"][0]["rebuilt"]
    assert [sorted(build["layers"]) for build in builds] == [["base", "settings"]] * 2
    assert {build["tree_digest"] for build in builds} == {""}


def test_a_stale_lock_is_not_rebuilt(project):
    project.edit("cat /etc/small/name", "cat /etc/small/name /etc/small/name")
    told = project("verify", "--rebuild")
    assert told.status == 3
    assert rebuild_line(told).endswith("not done: the lock is stale")
    assert "building" not in told.err


def test_a_step_that_fails_names_a_log_that_stays(fresh):
    fresh.edit('"cat /etc/small/name > /greeting; mkdir -p /opt/deep"', '"echo why; exit 7"')
    assert fresh("lock").status == 0
    told = fresh("verify", "--rebuild")
    assert told.status == 1
    assert "the step ended with status 7" in told.err
    log = told.err.split("the full log is ")[1].split(";")[0]
    assert "why" in Path(log).read_text()
    assert not unfinished()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--builder", "sandbox"), "error: --builder is about building again\n  hint: add --rebuild\n"),
        (("--times", "2"), "error: --times is about building again\n  hint: add --rebuild\n"),
        (("--rebuild", "--times", "0"), "a number from 1 to 20, not '0'"),
        (("--rebuild", "--builder", "nix"), "error: there is no backend 'nix'\n"),
        (
            ("--rebuild", "--layer", "greetings"),
            "target 'default' has no layer 'greetings'\n  hint: it has base, settings, greeting, skeleton\n",
        ),
    ],
    ids=["builder", "times", "no times", "unknown builder", "unknown layer"],
)
def test_wrong_use(project, options, words):
    told = project("verify", *options)
    assert told.status == 2
    assert words in told.err


@pytest.mark.parametrize("builder", ["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def test_interrupted_it_leaves_nothing(fresh, builder):
    fresh.edit('"cat /etc/small/name > /greeting; mkdir -p /opt/deep"', '"touch /started; sleep 61"')
    assert fresh("lock").status == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "reprobox.cli", "verify", "--rebuild", "--builder", builder],
        cwd=fresh.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building greeting" in line:
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not unfinished()


# -- where inputs come from --------------------------------------------------------------------------------------------

LOCKS = Path(__file__).resolve().parents[1] / "locks" / "format-1"


@pytest.fixture
def from_vault(tmp_path, monkeypatch, capsys) -> Project:
    """A sealed project whose base only a registry or a vault has, and nothing in the store."""
    root = tmp_path / "kept"
    assert main(["vault", str(LOCKS / "vault"), "--extract", str(root), "--lock", "base-image"]) == 0
    monkeypatch.chdir(root)
    return Project(root, capsys)


def test_inputs_come_from_a_vault_by_their_hashes(from_vault):
    told = from_vault("verify", "--rebuild", "--offline", "--vault", LOCKS / "vault")
    assert told.status == 0, told.err
    assert rebuild_line(told).endswith(": the same as the seal")


def test_offline_an_input_that_is_nowhere_is_named(from_vault):
    told = from_vault("verify", "--rebuild", "--offline")
    assert told.status == 6
    assert "config.json" in told.err
    assert not unfinished()
    assert from_vault("verify", "--offline").status == 0  # nothing is needed for a look


def test_a_damaged_input_is_not_built_from(from_vault):
    assert from_vault("realize", "--offline", "--vault", LOCKS / "vault").status == 0
    blob = max(Path(os.environ["REPROBOX_STORE"]).glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    told = from_vault("verify", "--rebuild", "--offline")
    assert told.status == 5
    assert rebuild_line(told).endswith("not done: some of its inputs are damaged")
    assert f"error: {blob}: " in told.err
    assert "its bytes are not those of its name" in told.err
