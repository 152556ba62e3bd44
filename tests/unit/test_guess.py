"""A first manifest: what each kind of file suggests, which wins, and that odd files stop nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprobox.guess import guess
from reprobox.guess.conda import read_conda
from reprobox.guess.dockerfile import Dockerfile, read_dockerfile
from reprobox.guess.imports import read_imports
from reprobox.guess.text import manifest_text
from reprobox.manifest import Manifest
from reprobox.manifest_reader import parse
from reprobox.plugins import Plugins

KINDS = Plugins(discover=False).kinds


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def guessed(root: Path) -> Manifest:
    """What is guessed, as a manifest; every guess must be one that can be locked."""
    found = parse(manifest_text(guess(root).tables), kinds=KINDS)
    assert not found.unavailable
    return found


def layers(root: Path) -> dict[str, object]:
    return {layer.name: layer.options for layer in guessed(root).layers}


def pip(root: Path) -> dict[str, object]:
    options = layers(root)["python"]
    return {
        name: value for name in ("packages", "requirements", "pylock", "project") if (value := getattr(options, name))
    }


# -- which source wins -------------------------------------------------------------------------------------------------

PYPROJECT = '[project]\nname = "My.Paper"\nversion = "2.1"\nlicense = "MIT"\nrequires-python = ">=3.12"\ndependencies = ["numpy"]\n'
CONDA = "dependencies:\n  - scipy=1.11\n"
DOCKERFILE = "FROM ubuntu:22.04\nRUN apt-get install -y git && pip install pandas\n"
SOURCES = {
    "pylock.toml": ("", {"pylock": "pylock.toml"}),
    "pyproject.toml": (PYPROJECT, {"project": "."}),
    "requirements.txt": ("numpy\n", {"requirements": "requirements.txt"}),
    "environment.yml": (CONDA, {"packages": ("scipy==1.11.*",)}),
    "Dockerfile": (DOCKERFILE, {"packages": ("pandas",)}),
    "fit.py": ("import sympy\n", {"packages": ("sympy",)}),
}


def test_what_is_more_exact_is_believed_first(tmp_path):
    put(tmp_path, {name: text for name, (text, _) in SOURCES.items()})
    for name, (_, expected) in SOURCES.items():
        assert pip(tmp_path) == expected
        (tmp_path / name).unlink()
    assert layers(tmp_path) == {}
    assert guess(tmp_path).notes == ("nothing here says what the environment needs: add layers",)


def test_the_project_is_named_after_its_pyproject_or_its_folder(tmp_path):
    (tmp_path / "Über Paper (v2)").mkdir()
    assert guessed(tmp_path / "Über Paper (v2)").project.name == "uber-paper-v2"
    put(tmp_path, {"pyproject.toml": PYPROJECT + 'description = "Says \\"hi\\" \\u007f"\n'})
    found = guessed(tmp_path).project
    assert (found.name, found.version, found.license, found.description) == ("my.paper", "2.1", "MIT", 'Says "hi" \x7f')
    assert guess(tmp_path).notes == ("pyproject.toml wants Python >=3.12; Debian bookworm has 3.11",)
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert guessed(tmp_path).project.version is None


def test_python_is_installed_where_something_needs_it(tmp_path):
    assert layers(put(tmp_path, {"a.py": "import os\n"}))["system"].packages == ("python3",)
    put(tmp_path, {"Dockerfile": "FROM debian:12\nRUN apt-get update; apt-get -y install python3 git\n"})
    assert layers(tmp_path)["system"].packages == ("python3", "git")
    put(tmp_path, {"Dockerfile": "FROM registry.example/python:3.12\n"})
    assert layers(tmp_path) == {}
    assert guessed(tmp_path).base.image == "registry.example/python:3.12"


# -- folders and the command -------------------------------------------------------------------------------------------


def test_data_and_results_are_mounted_and_no_code(tmp_path):
    put(tmp_path, {"data/x.csv": "", "results/.gitignore": "", "datasets/loader.py": "", "main.py": "print(1)\n"})
    found = guessed(tmp_path)
    assert {path: (mount.mode, mount.source) for path, mount in found.mounts.items()} == {
        "/work/data": ("ro", "data"),
        "/work/results": ("rw", "results"),
    }
    assert found.code.exclude == ("data/", "results/")
    assert found.run.command == ("python3", "/work/main.py")


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"one.py": "if __name__ == '__main__':\n    go()\n", "lib.py": "x = 1\n"}, ("python3", "/work/one.py")),
        ({"b.py": "f()\n", "train.py": "f()\n", "run.py": "f()\n"}, ("python3", "/work/run.py")),
        ({"a.py": "f()\n", "b.py": "f()\n"}, ()),
        ({"sub/main.py": "f()\n"}, ()),
        ({"fit.R": "fit()\n"}, ("Rscript", "/work/fit.R")),
        ({"main.sh": "true\n", "other.sh": "true\n"}, ("sh", "/work/main.sh")),
        (
            {"a.py": "f()\n", "Dockerfile": 'FROM x\nWORKDIR /app\nENTRYPOINT ["python"]\nCMD ["a.py"]\n'},
            ("python", "a.py"),
        ),
        ({"Dockerfile": "FROM x\nCMD echo $HOME\n"}, ("/bin/sh", "-c", "echo $HOME")),
    ],
)
def test_the_command(tmp_path, files, command):
    assert guessed(put(tmp_path, files)).run.command == command


def test_r_code_needs_r(tmp_path):
    found = guess(put(tmp_path, {"fit.R": "library(ggplot2)\n"}))
    assert layers(tmp_path)["system"].packages == ("r-base-core",)
    assert found.notes == ("R packages are Debian packages too: library(ggplot2) is r-cran-ggplot2",)


# -- Dockerfiles -------------------------------------------------------------------------------------------------------


def test_a_dockerfile():
    found = read_dockerfile(
        """\
# syntax=docker/dockerfile:1
ARG PYTHON=3.11
FROM --platform=linux/amd64 python:${PYTHON}-slim AS Base
RUN --mount=type=cache,target=/var/cache/apt \\
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
      # comments stand between
      git \\
      libhdf5-dev=1.10.8* && rm -rf /var/lib/apt/lists/*
FROM other AS unused
RUN apt-get install -y nothing-of-this
FROM base
ENV TOKEN=secret
RUN pip3 install --no-cache-dir -r requirements.txt "numpy>=2" scipy . && python -m pip install -U pip
RUN make -C /src install
WORKDIR /app
"""
    )
    assert found == Dockerfile(
        image="python:3.11-slim",
        apt=("git", "libhdf5-dev=1.10.8*"),
        pip=("numpy>=2", "scipy"),
        workdir="/app",
        others=("ENV", "RUN make"),
    )


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("", None),
        ("FROM", None),
        ("FROM scratch", None),
        ("FROM $UNSET", None),
        ("FROM ${UNSET:-debian:12}", "debian:12"),
        ("FROM a AS b\nFROM b AS a\nFROM a", None),  # stages that build on each other end somewhere
        ("from debian:12", "debian:12"),
        ("RUN before from\nFROM debian:12\nRUN 'unclosed", "debian:12"),
    ],
)
def test_the_image_of_a_dockerfile(text, image):
    found = read_dockerfile(text)
    assert found.image == image or (image is None and found.image in ("a", "b"))


@pytest.mark.parametrize("workdir", ["relative", "/", "/proc/x", "$HOME", "/a/../b"])
def test_a_workdir_that_cannot_be_mounted_is_left(workdir):
    assert read_dockerfile(f"FROM x\nWORKDIR {workdir}\n").workdir is None


# -- conda -------------------------------------------------------------------------------------------------------------


def test_a_conda_environment():
    found = read_conda(
        """\
name: paper
channels:
  - conda-forge
dependencies:
  - python=3.10
  - numpy=1.26          # fast
  - conda-forge::pandas>=2
  - scipy=1.11.4=py310h0
  - pytorch
  - gcc_linux-64
  - pip
  - pip:
    - "torchmetrics==1.2"
    - -e .
  - matplotlib
variables:
  - no-dependency
""",
        "environment.yml",
    )
    assert found.packages == (
        "numpy==1.26.*",
        "pandas>=2",
        "scipy==1.11.4.*",
        "torch",
        "torchmetrics==1.2",
        "matplotlib",
    )
    assert (found.others, found.python) == (("gcc_linux-64",), "3.10")


def test_what_conda_wants_that_debian_lacks_is_noted(tmp_path):
    put(tmp_path, {"environment.yml": "dependencies:\n- python=3.9\n- numpy\n- cudatoolkit=11\n"})
    assert guess(tmp_path).notes == (
        "environment.yml also names cudatoolkit: look for them as apt packages",
        "environment.yml wants Python 3.9; Debian bookworm has 3.11",
    )


# -- imports -----------------------------------------------------------------------------------------------------------

CODE = """\
import os, sys
import numpy as np
import sklearn.linear_model
from PIL import Image
from . import relative
from helpers import mine
from package.module import too
def later():
    import yaml
try:
    import cupy
except ImportError:
    import numpy
if TYPE_CHECKING:
    import typing_only
"""


def test_imports_of_code_and_notebooks(tmp_path):
    notebook = {"cells": [
        {"cell_type": "markdown", "source": ["import words"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "import cv2\n", "!ls\n"]},
    ]}  # fmt: skip
    put(
        tmp_path,
        {
            "main.py": CODE,
            "helpers.py": "",
            "package/module.py": "",
            "look.ipynb": json.dumps(notebook),
            ".venv/lib/x.py": "import hidden\n",
            "env2/pyvenv.cfg": "",
            "env2/lib/x.py": "import of_an_environment\n",
            "node_modules/x.py": "import of_node\n",
        },
    )
    found = read_imports(tmp_path)
    assert found.packages == ("numpy", "opencv-python-headless", "pillow", "pyyaml", "scikit-learn")
    assert found.optional == ("cupy",)
    assert found.files == 4


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"print 'two'\n", b"(" * 100_000, b"x = " + b"-" * 50_000 + b"1", b"\0", b"#" * (1 << 21)]
)
def test_files_that_are_no_python_say_nothing(tmp_path, data):
    (tmp_path / "odd.py").write_bytes(data)
    (tmp_path / "good.py").write_text("import numpy\n")
    assert read_imports(tmp_path).packages == ("numpy",)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"cells": 1}', '{"cells": [1]}', '{"cells": [{"cell_type": "code"}]}']
)
def test_notebooks_that_are_none_say_nothing(tmp_path, text):
    (tmp_path / "odd.ipynb").write_text(text)
    assert read_imports(tmp_path).packages == ()


def test_odd_folders_stop_nobody(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "requirements.txt").mkdir()
    (tmp_path / "Dockerfile").mkdir()
    (tmp_path / "pyproject.toml").write_bytes(b"\xff")
    (tmp_path / "a.py").write_text("import numpy\n")
    assert pip(tmp_path) == {"packages": ("numpy",)}
