"""``init``: writes a first manifest, says why, and never takes anything away."""

from __future__ import annotations

import json
import os

import pytest

from reprobox.cli import main
from reprobox.plugins import Plugins
from reprobox.project import Project

MANIFEST = """\
[project]  # the folder's name
name = "paper"

[base]  # a small Debian, from its own packages: no registry is needed
bootstrap = "debian:bookworm"

[code]  # this folder, mounted when it runs
path = "."
target = "/work"
exclude = ["data/"]

[[layers]]  # there is Python code
name = "system"
kind = "apt"
packages = ["python3"]

[[layers]]  # the code imports them, such as train.py (numpy)
name = "python"
kind = "pip"
packages = ["numpy"]

[mounts]  # folders of these names are data (ro) and results (rw)
"/work/data" = { mode = "ro", source = "data" }

[run]  # train.py looks like the start
command = ["python3", "/work/train.py"]
workdir = "/work"
"""


@pytest.fixture
def paper(tmp_path):
    root = tmp_path / "paper"
    (root / "data").mkdir(parents=True)
    (root / "train.py").write_text("import numpy\nprint(numpy.zeros(2))\n")
    return root


def test_a_first_manifest_and_the_reasons(paper, capsys):
    assert main(["init", "-C", str(paper)]) == 0
    out, err = capsys.readouterr()
    assert (paper / "research.toml").read_text() == MANIFEST
    assert Project.find(paper).manifest(Plugins().kinds).project.name == "paper"
    assert err == ""
    assert out == (
        f"wrote {paper}/research.toml:\n"
        "  project        the folder's name\n"
        "  base           a small Debian, from its own packages: no registry is needed\n"
        "  code           this folder, mounted when it runs\n"
        "  layers.system  there is Python code\n"
        "  layers.python  the code imports them, such as train.py (numpy)\n"
        "  mounts         folders of these names are data (ro) and results (rw)\n"
        "  run            train.py looks like the start\n"
        "look it over, then pin every byte with `reprobox lock`\n"
    )


def test_the_same_for_programs(paper, capsys, monkeypatch):
    monkeypatch.chdir(paper)
    assert main(["init", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"] == str(paper / "research.toml")
    assert document["guesses"][0] == {"table": "project", "why": "the folder's name"}
    assert document["notes"] == []


@pytest.mark.parametrize("link", [False, True])
def test_a_manifest_is_never_overwritten(paper, capsys, link):
    place = paper / "research.toml"
    if link:
        place.symlink_to("nowhere")
    else:
        place.write_text("# mine\n")
    assert main(["init", "-C", str(paper)]) == 2
    assert capsys.readouterr().err == (
        f"error: {place}: there is a research.toml already\n"
        "  hint: edit it, or move it away: `reprobox init` never overwrites one\n"
    )
    assert place.is_symlink() if link else place.read_text() == "# mine\n"


def test_a_place_that_cannot_be_written(paper, capsys):
    assert main(["init", "-C", str(paper / "nowhere")]) == 2
    assert f"error: {paper}/nowhere: there is no such folder\n  hint: " in capsys.readouterr().err
    if os.geteuid():
        paper.chmod(0o555)
        assert main(["init", "-C", str(paper)]) == 1
        assert "it cannot be written: Permission denied\n  hint: " in capsys.readouterr().err
