"""ENTRYPOINT and CMD of an image, [run] of a manifest, and arguments: what is started is the same on every backend."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
import tomllib

import pytest

from reprobox import launch
from reprobox.cli import main
from reprobox.manifest import Run
from reprobox.plugins import Plugins
from reprobox.realize import entry_point
from reprobox.testing import small_root
from tests.cli.conftest import PROGRAMS, Project
from tests.engines import availability
from tests.images import Layout

pytestmark = pytest.mark.userns
BACKENDS = [
    "sandbox",
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("singularity", marks=pytest.mark.apptainer),
]
#: What the base image says, what the manifest says, and what is started without and with the arguments ``a b``.
TABLE = {
    "nothing": ({}, "", None, "a b"),
    "cmd": ({"Cmd": ["/bin/echo", "c"]}, "", "c", "a b"),
    "both": ({"Entrypoint": ["/bin/echo", "e"], "Cmd": ["c"]}, "", "e c", "e /bin/echo a b"),
    "command": ({"Entrypoint": ["/bin/echo", "e"]}, 'command = ["/bin/echo", "m"]', "m", "a b"),
    "entrypoint": ({"Cmd": ["c"]}, 'entrypoint = ["/bin/echo", "n"]', "n", "n /bin/echo a b"),
    "two": ({"Cmd": ["c"]}, 'entrypoint = ["/bin/echo", "n"]\ncommand = ["m"]', "n m", "n /bin/echo a b"),
    "none": ({"Entrypoint": ["/bin/echo", "e"], "Cmd": ["c"]}, "entrypoint = []", None, "a b"),
}


@pytest.fixture(scope="module")
def root_tar(tmp_path_factory) -> bytes:
    root = small_root(tmp_path_factory.mktemp("root") / "root", (*PROGRAMS, "echo"))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(root, ".")
    return data.getvalue()


@pytest.fixture
def project(root_tar, tmp_path, monkeypatch, capsys, request, session_folder):
    says, run = TABLE[request.param][:2]
    layout = Layout(tmp_path / "layout")
    layout.tag(layout.image(root_tar, **{"Cmd": [], "WorkingDir": "", **says}))
    (tmp_path / "research.toml").write_text(
        f'[project]\nname = "entry"\n[base]\noci = "layout"\n[code]\npath = "src"\n[run]\n{run}\n'
    )
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPROBOX_STORE", str(session_folder / "entry-points"))
    time.sleep(0.05)
    assert main(["lock", "-q"]) == 0
    return Project(tmp_path, capsys)


@pytest.fixture
def backend(request):
    """The backend, or a reason to skip; what Docker was given is taken away again."""
    if request.param not in Plugins().backends:
        availability.lacking(f"the plugin for {request.param} is not installed")
    yield request.param
    if request.param == "docker":
        for name in ("entry-default", "small-default"):
            command = ["docker", "images", "--quiet", f"reprobox/{name}"]
            images = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, check=False)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_started_is_as_the_table_says(name):
    base, run, plain, given = TABLE[name]
    entrypoint, command = entry_point(Run(**tomllib.loads(run)), base)
    record = {"entrypoint": entrypoint, "command": command, "shell": ["/bin/sh"]}

    def started(argv: list[str]) -> str | None:
        return " ".join(argv).removeprefix("/bin/echo ") or None

    assert started(launch.command_line(record, [])) == plain
    assert started(launch.command_line(record, ["/bin/echo", "a", "b"])) == given
    assert launch.command_line(record, None) == ["/bin/sh"]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("project", ["both"], indirect=True)
def test_every_backend_starts_the_same(project, backend):
    told = project.process("run", "--backend", backend)
    assert (told.status, told.out) == (0, "e c\n"), told.err
    told = project.process("run", "--backend", backend, "--", "a b", "")
    assert (told.status, told.out) == (0, "e a b \n"), told.err
    told = project.process("shell", "--backend", backend, stdin="echo in a shell; exit 3\n")
    assert (told.status, told.out) == (3, "in a shell\n"), told.err


@pytest.mark.parametrize("project", ["none"], indirect=True)
def test_nothing_to_start_is_refused(project):
    told = project("run")
    assert told.status == 2
    assert told.err.endswith(
        "error: run.command: there is no command to run\n"
        "  hint: give one: `reprobox run -- COMMAND`, or add [run] command to the manifest\n"
    )


@pytest.mark.parametrize("project", ["two"], indirect=True)
def test_the_image_that_is_handed_on_says_the_same(project):
    assert project("export", "--format", "oci", "-o", "out").status == 0
    blobs = project.root / "out/blobs/sha256"
    index = json.loads((project.root / "out/index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())["config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/echo", "n"], ["m"])
