"""A pip layer in the project's folder: the image does not know of it, and every command does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from reprobox import launch
from reprobox.cli import main
from reprobox.errors import BuildError, ManifestError, ReproboxError
from reprobox.git.worktree import collect
from reprobox.pypi import uv_version
from reprobox.testing import small_root
from reprobox.testing.small_environment import libraries
from tests.local import Local
from tests.python_index import BACKEND, Index, sdist, uv_wheel
from tests.servers import Server

pytestmark = [pytest.mark.userns, pytest.mark.tool("python3")]

HOST = "/usr/bin/python3"
LEFT_OUT = (
    *("__pycache__", "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages", "dist-packages"),
    *("config-*", "pydoc_data", "unittest", "asyncio", "distutils", "sqlite3", "curses", "xml", "wsgiref", "xmlrpc"),
)
HEAD = '[project]\nname = "placed"\n[base]\nrootfs = "base"\n[code]\nexclude = ["base/"]\n'
LAYER = '[[layers]]\nname = "python"\nkind = "pip"\nrequirements = "requirements.txt"\nplacement = "project"\n'
MAIN = "import os, sys, app\nprint(app.x, sys.prefix, os.environ['VIRTUAL_ENV'])\n"


@pytest.fixture(scope="module")
def base(session_folder: Path) -> Path:
    """A root with this machine's own Python."""
    root = small_root(session_folder / "placed-base", ("sh", "python3"))
    about = "import sysconfig; print(sysconfig.get_path('stdlib')); print('%d.%d' % __import__('sys').version_info[:2])"
    stdlib, version = subprocess.check_output([HOST, "-I", "-c", about], text=True).split()
    shutil.copytree(stdlib, root / stdlib.lstrip("/"), symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for library in libraries([find_uv_bin()]):  # the uv of this machine is no static one
        if not (root / library.lstrip("/")).exists():
            shutil.copy(library, root / library.lstrip("/"))
    (root / "usr/bin").mkdir(exist_ok=True)
    for name in ("python3", f"python{version}"):
        shutil.copy(root / "bin/python3", root / "usr/bin" / name)
    return root


@pytest.fixture
def index() -> Iterator[Index]:
    with Server() as server:
        made = Index(server)
        made.add_file("uv", *uv_wheel(uv_version(), Path(find_uv_bin())))
        for version in ("1.0", "2.0"):
            made.add("app", version, files={"app.py": f"x = {version}\n"})
        made.add("lib", "1.0")
        yield made


@pytest.fixture
def local(base, tmp_path, session_folder, index, monkeypatch) -> Local:
    """Its store is this module's: one that knows the index of this machine would take uv from there."""
    own_store = session_folder / "placed-store"
    monkeypatch.setenv("REPROBOX_STORE", str(own_store))
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(f'[index]\nurl = "{index.url}"\n')
    made = Local(tmp_path / "project", own_store, offline=False)
    made.file("requirements.txt", "app<2\nlib\n").file("main.py", MAIN).write(LAYER, head=HEAD)
    (made.path / "base").symlink_to(base)
    return made


def python_of(local: Local) -> str:
    version: str = local.project.lock(local.session.store).targets["default"].layers[-1].facts["python"]
    return version.rpartition(".")[0]


def run(local: Local) -> str:
    argv = [sys.executable, "-m", "reprobox.cli", "run", "-C", str(local.path), "--", "python3", "/work/main.py"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


VENV = ".reprobox/venv-default"


@pytest.mark.slow
def test_packages_change_and_the_image_does_not(local, index, store):
    lock = local.lock()
    names = [(layer.name, layer.placement, layer.parents) for layer in lock.targets["default"].layers]
    assert names == [
        ("base", "image", ()),
        ("skeleton", "image", ("base",)),
        ("python", "project", ("base",)),
    ]
    first = local.realize(seal=True)
    assert run(local) == f"1.0 /work/{VENV} /work/{VENV}"
    (layer,) = (item for item in first.result["layers"] if item["name"] == "python")
    assert layer["folder"] == VENV
    sealed = local.project.lock(local.session.store).targets["default"].seal
    assert sealed.layers["python"] == layer["diff_id"]

    local.file("requirements.txt", "app>=2\nlib\n").lock()
    kept = local.project.lock(local.session.store).targets["default"].seal
    assert kept.image_digest == sealed.image_digest
    assert kept.layers.keys() == sealed.layers.keys() - {"python"}
    second = local.realize()
    assert run(local) == f"2.0 /work/{VENV} /work/{VENV}"
    for digest in ("image_digest", "tree_digest"):
        assert second.result[digest] == first.result[digest]
    assert [item["name"] for item in second.result["layers"] if not item["cached"]] == ["python"]
    assert "app" not in " ".join(os.listdir(second.environment.layers[-1].tree))

    elsewhere = replace(local, store=store)
    again = elsewhere.realize()
    (other,) = (item for item in again.result["layers"] if item["name"] == "python")
    assert other["diff_id"] != layer["diff_id"]
    assert other["diff_id"] == next(i["diff_id"] for i in second.result["layers"] if i["name"] == "python")


def test_a_current_one_is_left_alone_and_a_missing_one_comes_back(local):
    local.lock()
    record = local.realize().record
    mark = local.path / VENV / "reprobox-layer"
    before = mark.stat()
    assert str(mark) in record["watched"]
    assert "putting python" in " ".join(local.listener.said)
    local.listener.said.clear()
    local.realize()
    assert (mark.stat().st_ino, local.listener.said) == (before.st_ino, [])
    record_file = Path(launch.record_path(str(local.store), str(local.path), "default", "sandbox"))
    assert json.loads(record_file.read_text())["files"] == record["files"]
    shutil.rmtree(local.path / ".reprobox")
    assert run(local).startswith("1.0 ")
    assert not [name for name in os.listdir(local.path / ".reprobox") if "old" in name or "new" in name]


def test_it_is_no_code(local):
    before = local.lock().code
    local.realize()
    assert (local.path / VENV / "bin/python3").is_symlink()
    assert local.lock().code == before
    assert not [
        item for item in collect(local.path, skip={os.fsencode(local.path / "base")}) if b"reprobox" in item.path
    ]
    assert (local.path / ".reprobox/.gitignore").read_text() == "*\n"


def test_a_project_that_cannot_be_written(local):
    local.lock()
    (local.path / ".reprobox").write_text("in the way")
    with pytest.raises(ReproboxError) as caught:
        local.realize()
    assert str(caught.value) == (
        f"{local.path / VENV}: layer 'python' cannot be put into the project: File exists\n"
        '  hint: make the project\'s folder writable, or leave `placement = "project"` out'
    )


def test_nothing_stands_on_it_and_there_is_one(local):
    for text, said in (
        (
            LAYER + '[[layers]]\nname = "more"\nkind = "run"\nscript = "true"\nafter = ["python"]\n',
            "layers[1].after[0]: layer 'python' is in the project, and no part of the image: nothing can stand on it",
        ),
        (
            LAYER + LAYER.replace('"python"', '"second"'),
            "layers[1].placement: layer 'python' is in the project's folder too, and there is room for one",
        ),
    ):
        with pytest.raises(ManifestError) as caught:
            local.write(text, head=HEAD).lock()
        assert said in str(caught.value)
        assert caught.value.problems[0].hint
    local.write(LAYER + '[[layers]]\nname = "more"\nkind = "run"\nscript = "true"\n', head=HEAD)
    layers = local.lock().targets["default"].layers
    assert [(layer.name, layer.parents) for layer in layers][1:] == [
        ("more", ("base",)),
        ("skeleton", ("more",)),
        ("python", ("base",)),
    ]


def test_code_in_a_folder_of_its_own(local):
    local.file("src/main.py", MAIN)
    local.write(LAYER, head=HEAD.replace("[code]\n", '[code]\npath = "src"\ntarget = "/code"\n')).lock()
    local.realize()
    assert (local.path / "src" / VENV / "bin/python3").is_symlink()
    (layer,) = (
        item
        for item in local.project.lock(local.session.store).targets["default"].layers
        if item.placement == "project"
    )
    assert layer.options["venv"] == f"/code/{VENV}"


def test_its_packages_can_be_exported_for_other_tools(local, index, capsys):
    local.lock()
    path = local.path / "pylock.toml"
    argv = ["export", "-C", str(local.path), "--format", "pylock", "-o", str(path)]
    assert main(argv) == 0
    assert (
        capsys.readouterr().out == f"wrote {path} (pylock, 2 packages for Python {python_of(local)} on linux/amd64)\n"
    )
    document = tomllib.loads(path.read_text())
    urls = [package["wheels"][0]["url"] for package in document["packages"]]
    assert urls == [index.url.replace("simple", f"files/{name}/{name}-1.0-py3-none-any.whl") for name in ("app", "lib")]
    before = local.project.lock(local.session.store).targets["default"].layers[-1]
    local.write(LAYER.replace('requirements = "requirements.txt"', 'pylock = "pylock.toml"'), head=HEAD)
    assert local.lock().targets["default"].layers[-1].id == before.id, "read back, it is the same layer"


@pytest.mark.slow
def test_a_package_is_built_from_source_the_same_each_time(local, index, store):
    """In the image and beside it; the build sees what is locked for it, and nothing of the environment but Python."""
    index.add("tinybackend", "1.0", files={"tinybackend.py": BACKEND})
    index.add_file("src", *sdist("src", "1.0", {"src.py": "import src_built\nx = src_built.place\n"}))
    local.file("requirements.txt", "src\napp<2\n").file(
        "main.py", "import src, src_built; print(src.x, src_built.epoch)\n"
    )
    local.write(LAYER + 'build = ["src"]\n', head=HEAD)
    lock = local.lock()
    first = local.realize(seal=True)
    assert run(local) == f"/tmp/reprobox-build/source/src-1.0 {lock.epoch}"
    again = replace(local, store=store).realize()
    assert again.lock == first.lock, "as it is sealed"
    (tree,) = (item.stored.tree for item in first.environment.outside)
    assert not list(tree.rglob("*tinybackend*"))
    local.write(LAYER.replace('placement = "project"\n', 'build = ["src"]\n'), head=HEAD).lock()
    local.realize()
    assert run(local) == f"/tmp/reprobox-build/source/src-1.0 {lock.epoch}"
    index.add_file("src", *sdist("src", "2.0", {"src.py": "x = 1\n"}, backend="nosuch"))
    local.file("requirements.txt", "src>=2\n").lock()
    with pytest.raises(
        BuildError, match=r"src-2\.0\.tar\.gz could not be built with what is locked for it: tinybackend-1\.0"
    ):
        local.realize()
