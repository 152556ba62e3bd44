"""A second machine with one engine has nothing but the manifest and the lock, and gets the environment that was sealed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.engines.project import Project
from tests.engines.second_machine import Machine, installed

pytestmark = [pytest.mark.userns, pytest.mark.network, pytest.mark.docker, pytest.mark.registry, pytest.mark.slow]

MANIFEST = """\
[project]
name = "abroad"

[base]
image = "{base}"

[[layers]]
name = "system"
kind = "apt"
packages = ["jq"]

[run]
command = ["jq", "-n", "6 * 7"]
"""
FILES = ("research.toml", "research.lock")
#: This Python may be in root's home, which is open there.
READER = "useradd --create-home --uid 4321 reader; chmod 755 /root"
PYTHON = "apt-get update -q; apt-get install -q -y --no-install-recommends python3 ca-certificates"


@pytest.fixture(scope="module")
def folder():
    """At the same path here and there: the engine's daemon mounts what the second machine asks for."""
    with tempfile.TemporaryDirectory(prefix="reprobox-abroad-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def sealed(session_folder, base_image) -> Project:
    path = session_folder / "abroad"
    path.mkdir()
    (path / "research.toml").write_text(MANIFEST.format(base=base_image))
    project = Project(path=path, store=session_folder / "abroad-store")
    project("lock", "--seal")
    return project


@pytest.fixture(scope="module")
def python(docker, base_tar):
    """A base with Python."""
    base = docker("import", base_tar, "reprobox-test-base").strip()
    yield installed("reprobox-test-python", base, PYTHON)
    docker("image", "rm", "--force", "reprobox-test-python", "reprobox-test-base")


def taken_there(project: Project, place: Path) -> Path:
    place.mkdir()
    for name in FILES:
        shutil.copy(project.path / name, place)
    return place


def test_a_machine_with_docker_only(sealed, python, folder):
    place = taken_there(sealed, folder / "docker")
    socket = "/var/run/docker.sock"
    machine = Machine(image=python, options=("--volume", f"{socket}:{socket}", "--volume", f"{folder}:{folder}"))
    environment = {"REPROBOX_STORE": str(folder / "docker-store")}
    refused = machine.reprobox("realize", "-C", place, environment=environment)
    assert refused.returncode == 4, refused.stderr  # Docker lets nobody make namespaces: the sandbox works not there
    argv = ("realize", "-C", place, "--builder", "docker", "--backend", "docker", "--json")
    done = machine.reprobox(*argv, environment=environment)
    assert done.returncode == 0, done.stderr
    check(sealed, json.loads(done.stdout))
    ran = machine.reprobox("run", "-C", place, "--backend", "docker", environment=environment)
    assert (ran.returncode, ran.stdout) == (0, "42\n"), ran.stderr


@pytest.mark.apptainer
def test_a_machine_with_apptainer_only_as_an_ordinary_user(sealed, python, folder, docker):
    place = taken_there(sealed, folder / "apptainer")
    store = folder / "apptainer-store"
    script = Path(__file__).with_name("install-apptainer.sh")
    image = installed("reprobox-test-apptainer", python, f"sh {script}; {READER}")
    store.mkdir()
    for path in (place, store):
        os.chown(path, 4321, 4321)
    loose = [f"--security-opt={word}=unconfined" for word in ("seccomp", "systempaths", "apparmor")]
    machine = Machine(
        image=image, options=("--user", "4321:4321", "--device", "/dev/fuse", *loose, "--volume", f"{folder}:{folder}")
    )
    environment = {"REPROBOX_STORE": str(store), "HOME": "/home/reader", "USER": "reader"}
    argv = ("realize", "-C", place, "--builder", "singularity", "--backend", "singularity", "--json")
    done = machine.reprobox(*argv, environment=environment)
    assert done.returncode == 0, done.stderr
    check(sealed, json.loads(done.stdout))
    ran = machine.reprobox("run", "-C", place, "--backend", "singularity", environment=environment)
    assert (ran.returncode, ran.stdout) == (0, "42\n"), ran.stderr
    docker("image", "rm", "--force", image)


def check(sealed: Project, told: dict[str, object]) -> None:
    assert not any(layer["cached"] for layer in told["layers"])
    here = sealed.realize()
    assert told["tree_digest"] == here["tree_digest"]
    assert [layer["diff_id"] for layer in told["layers"]] == [layer["diff_id"] for layer in here["layers"]]
