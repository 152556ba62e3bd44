"""When wheels that were installed ahead, over the base and the interpreter alone, are what the layer would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.digest import Entry, write_index
from reprobox.layers.installed_ahead import holds
from reprobox.tree import Tree
from tests.layers import d, f, l, w

SITE = "usr/local/lib/python3.11/dist-packages"
BASE = [
    d("etc"),
    d("usr"),
    d("usr/bin"),
    d("usr/lib"),
    d("usr/local"),
    d("usr/local/bin"),
    d("usr/local/lib"),
    f("usr/lib/libc.so.6", b"old"),
    f("opt/sitecustomize.py"),
]
PYTHON = [
    l("usr/bin/python3", "python3.11"),
    f("usr/bin/python3.11", b"interpreter", 0o755),
    d("usr/lib/python3.11"),
    f("usr/lib/python3.11/os.py"),
    l("usr/lib/python3.11/sitecustomize.py", "/etc/python3.11/sitecustomize.py"),
    f("usr/share/doc/python3.11/copyright"),
]
PRECEDENCE = (
    b"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local';"
    b" enabled and __import__('_distutils_hack').add_shim(); \n"
)
#: What the packages' scripts and other packages leave.
SYSTEM = [
    *PYTHON[:-1],
    d("usr/lib/python3.11/__pycache__"),
    f("usr/lib/python3.11/__pycache__/os.cpython-311.pyc"),
    f("usr/lib/python3.11/__pycache__/sitecustomize.cpython-311.pyc"),
    f("usr/lib/python3.11/distutils/core.py"),
    f("usr/lib/libc.so.6", b"new"),
    d("usr/local/lib/python3.11"),
    d(SITE),
    f("usr/lib/python3/dist-packages/setuptools-66.1.egg-info"),
    f("usr/lib/python3/dist-packages/distutils-precedence.pth", PRECEDENCE),
]
MADE = [
    d("usr"),
    d("usr/local"),
    d("usr/local/bin"),
    f("usr/local/bin/app", b"app", 0o755),
    d("usr/local/lib"),
    d("usr/local/lib/python3.11"),
    d(SITE),
    d(f"{SITE}/the_app"),
    f(f"{SITE}/the_app/__init__.py"),
    d(f"{SITE}/the_app-1.0.dist-info"),
    f(f"{SITE}/the_app-1.0.dist-info/RECORD"),
]


def held(folder: Path, *system: Entry, made: list[Entry] = MADE, without: str = "") -> bool:
    """Whether what was made over base and interpreter holds over base and ``system``, but for a path of it."""
    (folder / "layer").mkdir(parents=True)
    (folder / "parents").write_bytes(write_index(Tree.merged([BASE, PYTHON]).sorted()))
    (folder / "layer" / "index").write_bytes(write_index(made))
    now = Tree.merged([BASE, [*SYSTEM, *system]])
    now.entries.pop(without.encode(), None)
    return holds(folder, now)


def test_what_packages_leave_besides_makes_no_difference(tmp_path):
    assert held(tmp_path / "one")
    assert held(tmp_path / "two", f(f"{SITE}/other/__init__.py"), f(f"{SITE}/other-2.0.dist-info/RECORD"))
    assert held(tmp_path / "three", made=[*MADE, d(f"{SITE}/empty")])


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(f("usr/bin/python3.11", b"another", 0o755), id="another interpreter"),
        pytest.param(l("usr/bin/python3", "python3.12"), id="another python3"),
        pytest.param(f("usr/lib/python3.11/os.py", b"another"), id="another standard library"),
        pytest.param(l("usr/local/lib/python3.11", "/opt/python"), id="a link where a folder was made"),
        pytest.param(d(SITE, 0o2775), id="a site folder that hands its group on"),
        pytest.param(f(f"{SITE}/the_app/__init__.py", b"older"), id="a file that would be replaced"),
        pytest.param(f("usr/local/bin/app", b"app", 0o755), id="a file that was there already"),
        pytest.param(f(f"{SITE}/the_app-0.9.dist-info/RECORD"), id="an earlier version"),
        pytest.param(f(f"{SITE}/The.App-0.9.egg-info"), id="an earlier version under another spelling"),
        pytest.param(f(f"{SITE}/sitecustomize.py"), id="a module that customizes every interpreter"),
        pytest.param(f("usr/bin/pyvenv.cfg"), id="a virtual environment"),
        pytest.param(f("opt/sitecustomize.py", b"another"), id="a module that customizes otherwise"),
        pytest.param(f(f"{SITE}/usercustomize/__init__.py"), id="a package that customizes"),
        pytest.param(f("usr/lib/python3/dist-packages/start.pth"), id="a line that is carried out at every start"),
    ],
)
def test_what_else_the_installation_follows_from_must_be_the_same(tmp_path, changed):
    assert not held(tmp_path / "here", changed)


def test_the_interpreter_must_still_be_there(tmp_path):
    assert not held(tmp_path / "here", without="usr/lib/python3.11/os.py")


def test_an_installation_that_removed_something_is_done_again(tmp_path):
    assert not held(tmp_path / "here", made=[*MADE, w("usr/local/lib/gone")])
