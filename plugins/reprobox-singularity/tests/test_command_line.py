"""The backend by way of the command line, as a researcher meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprobox.testing import small_root
from tests.engines.project import Project, digests

pytestmark = [pytest.mark.apptainer, pytest.mark.userns, pytest.mark.slow]

MANIFEST = """\
[project]
name = "small"
version = "1.0"

[base]
rootfs = "root"

[[layers]]
name = "greeting"
kind = "run"
script = "mkdir -p /opt/greeting; chown 1234:5678 /opt/greeting; echo hello >/opt/greeting/word; rm /bin/yes"

[env]
WORDS = "it's \\"two\\" $words"

[run]
command = ["/bin/sh", "-c", "cat /opt/greeting/word; echo \\"$WORDS\\""]
"""
SAID = 'hello\nit\'s "two" $words\n'


@pytest.fixture(scope="module")
def small(session_folder) -> Project:
    """A project that is locked, with its store."""
    folder = session_folder / "singularity"
    folder.mkdir()
    (folder / "project/root").mkdir(parents=True)
    small_root(folder / "project/root")
    (folder / "project/research.toml").write_text(MANIFEST)
    project = Project(path=folder / "project", store=folder / "store")
    project("lock")
    return project


def test_it_is_offered_and_works(small):
    (told,) = [plugin for plugin in json.loads(small("plugins", "--json")) if "singularity" in plugin["backends"]]
    assert told["origin"] == "reprobox-singularity"
    assert not told["problem"]


def test_steps_that_it_builds_are_those_of_the_sandbox(small, session_folder):
    other = small.with_inputs_only(session_folder / "singularity/built")
    ours, theirs = other.realize("--builder", "singularity"), small.realize()
    assert [layer["diff_id"] for layer in ours["layers"]] == [layer["diff_id"] for layer in theirs["layers"]]
    assert digests(ours) == digests(theirs)
    assert (ours["builder"], theirs["builder"]) == ("singularity", "sandbox")


def test_it_runs_the_first_time_and_quickly_again(small):
    assert small("run", "--backend", "singularity") == SAID
    assert small("run", "--backend", "singularity") == SAID
    assert small.call("run", "--backend", "singularity", "--", "/bin/sh", "-c", "exit 7").returncode == 7
    told = small.realize("--backend", "singularity")
    assert Path(told["location"]).name == told["image_digest"].removeprefix("sha256:") + ".sif"


def test_an_export_is_what_is_realized(small, session_folder):
    exported, realized = session_folder / "singularity/exported.sif", session_folder / "singularity/realized.sif"
    assert small("export", "--format", "sif", "-o", exported).startswith(f"wrote {exported} (sif, ")
    small("realize", "--backend", "singularity", "--output", realized)
    assert exported.read_bytes() == realized.read_bytes()
    bare = session_folder / "singularity/bare"
    small("export", "--format", "squashfs", "-o", bare)
    assert bare.read_bytes().startswith(b"hsqs")


def test_a_format_that_nobody_writes_is_refused(small, tmp_path):
    done = small.call("export", "--format", "tgz", "-o", tmp_path / "x")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --format: nothing here writes the format 'tgz'\n  hint: formats: {', '.join(FORMATS)}\n"
    )


FORMATS = ("oci", "docker-archive", "rootfs", "pylock", "sbom", "spdx", "cyclonedx", "sif", "squashfs")


def test_a_step_that_fails_can_be_looked_into(small, session_folder, tmp_path):
    text = MANIFEST.replace("rm /bin/yes", "echo left >/opt/left; exit 3")
    (small.path / "research.toml").write_text(text)
    try:
        small("lock")
        done = small.call("realize", "--builder", "singularity")
        assert done.returncode == 1
        assert "the step ended with status 3" in done.stderr
        assert "`reprobox shell --failed greeting` opens a shell" in done.stderr
        looked = small.call(
            "shell", "--failed", "greeting", "--builder", "singularity", input="cat /opt/left; id -u\n", stdin=None
        )
        assert looked.stdout == "left\n0\n", looked.stderr
    finally:
        (small.path / "research.toml").write_text(MANIFEST)
        small("lock")
