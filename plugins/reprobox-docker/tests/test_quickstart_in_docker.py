"""The quickstart, each builder from an empty store: the same layers, and the same tree in what Docker exports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.docker, pytest.mark.userns, pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    ignore = shutil.ignore_patterns("research.lock", "*.png", "*.npz")
    return Path(shutil.copytree(ROOT / "examples/quickstart", tmp_path_factory.mktemp("project") / "q", ignore=ignore))


def reprobox(project: Path, store: Path, *argv: str) -> str:
    command = [sys.executable, "-m", "reprobox.cli", *argv]
    done = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "REPROBOX_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told(project, session_folder):
    """What ``realize --json`` says, by builder; only the inputs are shared."""
    stores = {builder: session_folder / f"by-{builder}" for builder in ("sandbox", "docker")}
    reprobox(project, stores["sandbox"], "lock")
    shutil.copytree(stores["sandbox"] / "blobs", stores["docker"] / "blobs")
    answers = {}
    for builder, store in stores.items():
        wish = ("realize", "--json", "--builder", builder, "--backend", "docker")
        answers[builder] = json.loads(reprobox(project, store, *wish))
    return answers


def test_every_layer_is_the_same(told):
    layers = {
        builder: [(layer["name"], layer["diff_id"]) for layer in answer["layers"]] for builder, answer in told.items()
    }
    assert layers["docker"] == layers["sandbox"]
    assert told["docker"]["tree_digest"] == told["sandbox"]["tree_digest"]
    assert told["docker"]["image_digest"] == told["sandbox"]["image_digest"]
    assert not any(layer["cached"] for layer in told["docker"]["layers"])


def test_what_docker_exports_has_the_tree_digest(told, docker, tmp_path):
    location = told["docker"]["location"]
    with tarfile.open(docker.export(location, tmp_path / "tree.tar")) as archive:
        archive.extractall(tmp_path / "tree", filter="fully_trusted") if hasattr(
            tarfile, "data_filter"
        ) else archive.extractall(tmp_path / "tree")
    script = ROOT / "tests/independent/tree_digest.py"
    done = subprocess.run([sys.executable, script, tmp_path / "tree"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0].removeprefix("sha256:") == told["sandbox"]["tree_digest"].removeprefix("sha256:")
    shutil.rmtree(tmp_path / "tree")


def test_it_runs_in_docker(told, project, session_folder):
    printed = reprobox(project, session_folder / "by-docker", "run", "--backend", "docker")
    assert "1 xor 1 -> 0.0" in printed
    assert (project / "out/loss.png").stat().st_uid == os.getuid()
