"""A small project over this machine's own programs, locked and realized once; every test gets a copy of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli import main
from reprobox.testing import small_root
from tests.cli.publications import published, reader  # noqa: F401 - fixtures
from tests.engines import availability

PROGRAMS = ("sh", "bash", "cat", "cp", "env", "ls", "mkdir", "pwd", "true", "sleep", "touch")
MANIFEST = """\
[project]
name = "small"
version = "1.0"

[base]
rootfs = "{rootfs}"

[code]
path = "src"
target = "/work"

[[layers]]
name = "settings"
kind = "copy"
files = [{{ from = "conf/", to = "/etc/small" }}]

[[layers]]
name = "greeting"
kind = "run"
script = "cat /etc/small/name > /greeting; mkdir -p /opt/deep"

[env]
LANG = "C.UTF-8"
COLOUR = "blue"

[mounts]
"/data" = {{ mode = "ro", source = "data" }}
"/out" = {{ mode = "rw", source = "out" }}

[run]
command = ["/bin/sh", "/work/main.sh"]
workdir = "/work"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON document."""
        return json.loads(self.out)


class Project:
    """A project folder, and reprobox called in it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    @property
    def manifest(self) -> Path:
        return self.root / "research.toml"

    @property
    def lock(self) -> Path:
        return self.root / "research.lock"

    def edit(self, old: str, new: str) -> None:
        """Replace what is there exactly once in the manifest."""
        text = self.manifest.read_text()
        assert text.count(old) == 1
        self.manifest.write_text(text.replace(old, new))

    def add(self, text: str) -> None:
        """Add layers, above the tables that come after them."""
        self.edit("[env]\n", f"{text}\n\n[env]\n")

    def __call__(self, *argv: str | Path) -> Told:
        """Call the command line in this process; what was captured before is forgotten."""
        self._capsys.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return Told(status=status, out=out, err=err)

    def process(self, *argv: str | Path, stdin: str = "", **environment: str) -> Told:
        """Call it as a process of its own: `run` and `shell` become their command."""
        done = subprocess.run(
            [sys.executable, "-m", "reprobox.cli", *map(str, argv)],
            cwd=self.root,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Told(status=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="session")
def _template(session_folder: Path) -> Path:
    """The project as everyone finds it: locked, and its layers in the store beside it."""
    availability.require("userns")
    place = session_folder / "cli"
    small_root(place / "root", PROGRAMS)
    root = place / "project"
    for name, text in {
        "conf/name": "small\n",
        "data/numbers": "1 2 3\n",
        "src/main.sh": "cat /greeting /data/numbers; echo done > /out/result\n",
        "research.toml": MANIFEST.format(rootfs=place / "root"),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOX_STORE", str(place / "store"))
        assert main(["lock", "-C", str(root), "-q"]) == 0
        assert main(["realize", "-C", str(root), "-q"]) == 0
    return place


@pytest.fixture
def fresh(
    _template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    """A copy of the project, locked, with an empty store of its own."""
    root = tmp_path / "project"
    shutil.copytree(_template / "project", root)
    monkeypatch.chdir(root)
    return Project(root, capsys)


@pytest.fixture
def project(fresh: Project, _template: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the project, locked, with all its layers in a store that others use too."""
    monkeypatch.setenv("REPROBOX_STORE", str(_template / "store"))
    return fresh


@pytest.fixture
def realized(project: Project) -> Project:
    """The same, with a launch record: `run` starts at once."""
    time.sleep(0.05)  # files that changed just before they were read are not trusted
    assert project("realize").status == 0
    assert list(Path(os.environ["REPROBOX_STORE"], "realizations").glob(f"*{project.root.parent.name}*@@sandbox.json"))
    return project


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Offer objects as plugins, as installed distributions do: ``offered(name=plugin)``; an exception is a broken one."""

    class Point:
        dist = None

        def __init__(self, name: str, plugin: object) -> None:
            self.name, self.value, self._plugin = name, f"{name}:plugin", plugin

        def load(self) -> object:
            if isinstance(self._plugin, Exception):
                raise self._plugin
            return self._plugin

    def offer(**plugins: object) -> None:
        points = [Point(name, plugin) for name, plugin in plugins.items()]
        monkeypatch.setattr("reprobox.plugins.metadata.entry_points", lambda **_: points)

    return offer
