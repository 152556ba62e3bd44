"""Bytecode that maintainer scripts ask for is made in the background, and is what they would have made themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.debian import seed
from tests.installation import World

PYTHON = Path("/usr/bin/python3.11")
MODULE = Path("/usr/lib/python3.11/py_compile.py")

pytestmark = [
    pytest.mark.userns,
    pytest.mark.tool("dpkg"),
    pytest.mark.tool("unshare"),
    pytest.mark.skipif(
        not (PYTHON.exists() and MODULE.exists()), reason="the machine's own Python is not Debian's 3.11"
    ),
]

SOURCES = {
    "opt/one/__init__.py": b"import os\n\n\ndef one(a, b=('x', 1)):\n    return [a, b, 'alpha', 1.5, os.sep]\n",
    "opt/one/two.py": b"class Two:\n    '''Two.'''\n\n    def __init__(self):\n        self.alpha = {'alpha', 'beta'}\n",
    "opt/one/three.py": "text = 'é'\nlast = 'compile' + 'known' + \"made\"\n".encode(),
}
#: As the scripts of python3.11 call it, and as py3compile does.
AS_SCRIPT = f"{PYTHON} -E -S {MODULE} /opt/one/*.py {MODULE}"
AS_MODULE = f"printf '%s\\n' /opt/one/*.py {MODULE} | {PYTHON} -m py_compile -"

#: Bytecode that tells its source by its time.
OTHERWISE = f"""env -u SOURCE_DATE_EPOCH {PYTHON} -c 'import py_compile; py_compile.compile("/opt/one/two.py")'"""


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path, ["/opt", "/usr/lib/python3.11/__pycache__"], files=SOURCES)


@pytest.mark.parametrize("script", [AS_SCRIPT, AS_MODULE, f"{AS_SCRIPT}\n{AS_MODULE}"])
def test_it_is_what_the_scripts_would_have_made(world, script):
    quick, plain = world.install(script), world.install(script, plain=True)
    assert (quick.status, plain.status) == (0, 0), quick.said + plain.said
    assert f"made bytecode in the background: {script.count('py_compile') // 2}" in quick.said
    assert "in the background" not in plain.said
    assert {"opt/one/__pycache__/two.cpython-311.pyc", "__pycache__/py_compile.cpython-311.pyc"} <= plain.paths
    assert quick.entries == plain.entries


@pytest.mark.parametrize("script", [AS_SCRIPT, AS_MODULE])
def test_many_files_are_shared_among_the_processors(tmp_path, script):
    modules = {f"opt/one/module_{number}.py": b"alpha = 'alpha', %d\n" % number for number in range(100)}
    world = World(tmp_path, ["/opt", "/usr/lib/python3.11/__pycache__"], files=SOURCES | modules)
    quick, plain = world.install(script), world.install(script, plain=True)
    assert quick.status == 0, quick.said
    processes = min(4, len(os.sched_getaffinity(0)))
    assert f"made bytecode in the background: {processes}" in quick.said
    assert "opt/one/__pycache__/module_99.cpython-311.pyc" in plain.paths
    assert quick.entries == plain.entries


def test_nobody_waits_for_it(world):
    """A script that looks for bytecode right away finds none: it is made after everything else."""
    slow = f"{PYTHON} -c \"print('x =', [(n, str(n)) for n in range(100000)])\" > /opt/one/slow.py"
    script = f"{slow}\n{AS_MODULE}\nif ls /opt/one/__pycache__/slow*; then exit 1; fi"
    quick = world.install(script)
    assert quick.status == 0, quick.said
    assert "opt/one/__pycache__/slow.cpython-311.pyc" in quick.paths


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"echo 'x = (' > /opt/one/wrong.py\n{AS_MODULE}", "not what it should be"),
        (f"{AS_MODULE}\necho '# more' >> /opt/one/two.py\nsleep 0.3", "not what it should be"),
        (f"{AS_MODULE}\nsleep 1\nrm /opt/one/__pycache__/two*", "not what it should be"),
        (f"{AS_MODULE}\nsleep 1\n{OTHERWISE}", "not what it should be"),
        (f"env -u PYTHONDONTWRITEBYTECODE {PYTHON} -c 'import py_compile'", "left bytecode"),
    ],
    ids=["syntax", "changed", "removed", "made-otherwise", "import"],
)  # fmt: skip
def test_where_it_may_differ_it_says_so(world, script, said):
    quick = world.install(script)
    assert quick.status == 75
    assert said in quick.said


def test_programs_that_import_the_module_get_the_original(world):
    script = f"{PYTHON} -B -c 'import py_compile; print(py_compile.compile(\"{MODULE}\"), py_compile.main.__module__)'"
    quick, plain = world.install(script), world.install(script, plain=True)
    assert quick.status == 0, quick.said
    assert quick.entries == plain.entries
    assert "in the background" not in quick.said


def test_a_failure_of_the_installation_is_one(world):
    assert world.install("exit 3").status == 100


def test_what_cannot_be_left_for_later_is_done_at_once(world):
    script = f"{PYTHON} -m py_compile /opt/one/two.py /opt/one/missing.py && exit 1\nls /opt/one/__pycache__/two*"
    quick, plain = world.install(script), world.install(script, plain=True)
    assert quick.status == plain.status == 0, quick.said
    assert quick.entries == plain.entries


def test_it_runs_on_every_python_that_reprobox_does():
    program = Path(seed.__file__).with_name("compile_later.py")
    note = "/run/reprobox-later/asked-of-nobody"
    done = subprocess.run([sys.executable, "-I", "-S", program, "x", note], check=False, capture_output=True)
    assert done.returncode == 1, done.stderr
