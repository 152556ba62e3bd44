"""The program that installs wheels, run by real interpreters into virtual environments, with the real uv."""

from __future__ import annotations

import ast
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from reprobox.digest import sha256
from reprobox.layers import compile_wheels, install_wheels
from reprobox.pypi import uv_version
from reprobox.tree import scan
from tests.python_index import uv_wheel, wheel

PROGRAM = Path(install_wheels.__file__)
COMPILER = Path(compile_wheels.__file__)
LETTERS = "abcdef"
CLASHING = "abc"  # and a and d have a program of one name

MODULE = "import os\n\n\ndef {name}(value, other=None):\n    return [value, other, 'alpha', 'beta', ('x', {number})]\n"


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with uv's wheel and wheels that share a file."""
    from uv import find_uv_bin

    folder = tmp_path_factory.mktemp("inputs")
    file, data = uv_wheel(uv_version(), Path(find_uv_bin()))
    (folder / file).write_bytes(data)
    for letter in LETTERS:
        modules = {f"{letter}/m{number}.py": MODULE.format(name=f"f{number}", number=number) for number in range(70)}
        common = {"same/__init__.py": "x = 1\n", f"{letter}/tests/t.py": "x = 1\n"}
        if letter in CLASHING:
            common["shared/__init__.py"] = f"owner = '{letter}'\n" + "#" * 100_000
        odd = {f"{letter}/template.py": "{% not Python %}\n", f"both_{letter}-1.0.data/purelib/d{letter}.py": "x = 1\n"}
        entry = f"[console_scripts]\n{'same' if letter in 'ad' else letter} = {letter}.m1:f1\n"
        odd[f"both_{letter}-1.0.dist-info/entry_points.txt"] = entry
        scripts = {f"both_{letter}-1.0.data/scripts/s{letter}.py": "#!python\nprint()\n"}
        file, data = wheel(f"both-{letter}", "1.0", files={**modules, **common, **odd, **scripts})
        (folder / file).write_bytes(data)
    return folder


def install(
    target: Path,
    inputs: Path,
    *,
    prefix: tuple[str, ...] = (),
    letters: str = LETTERS,
    names: Sequence[str] | None = None,
    program: Path = PROGRAM,
) -> Path:
    """A fresh virtual environment at ``target``, always the same path, with the wheels in it; returns its packages."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    (uv,) = (name for name in os.listdir(inputs) if name.startswith("uv-"))
    if names is None:
        names = [f"both_{letter}-1.0-py3-none-any.whl" for letter in letters]
    environment = {
        "PATH": "/usr/bin:/bin",
        "SOURCE_DATE_EPOCH": "1700000000",
        "PYTHONHASHSEED": "0",
        "UV_COMPILE_BYTECODE": "1",  # as images set it
        "UV_TARGET": "/nowhere",
    }
    command = [*prefix, str(target / "bin" / "python3"), "-s", "-B", str(program), str(inputs), uv, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = target.glob("lib/python3*/site-packages")
    return site


def test_the_same_bytes_with_one_processor_and_with_all(tmp_path, inputs):
    install(tmp_path / "env", inputs)
    (tmp_path / "env").rename(tmp_path / "all")
    cpu = min(os.sched_getaffinity(0))
    install(tmp_path / "env", inputs, prefix=("taskset", "-c", str(cpu)), letters=LETTERS[::-1])
    assert set(scan(tmp_path / "all")) ^ set(scan(tmp_path / "env")) == set()


def test_what_is_installed(tmp_path, inputs):
    site = install(tmp_path / "env", inputs)
    tag = sys.implementation.cache_tag
    assert (site / "a" / "m1.py").is_file()
    compiled = (site / "a" / "__pycache__" / f"m1.{tag}.pyc").read_bytes()
    assert compiled[4] & 0b11 == 0b11, "hash-based, and checked against its source (PEP 552)"
    assert (site / "__pycache__" / f"da.{tag}.pyc").is_file()
    assert not (site / "a" / "tests" / "__pycache__").exists()
    assert not (site / "a" / "__pycache__" / f"template.{tag}.pyc").exists()
    assert (tmp_path / "env" / "bin" / "sa.py").read_text().startswith(f"#!{tmp_path}/env/bin/python3\n")
    about = sorted(path.name for path in (site / "both_a-1.0.dist-info").iterdir())
    assert about == ["METADATA", "RECORD", "WHEEL", "entry_points.txt"], "nothing about the installation"


def test_of_files_with_one_name_the_last_wheel_wins(tmp_path, inputs):
    wheels = sorted(str(path) for path in inputs.glob("both_*"))
    assert [Path(wheel).name[5] for wheel in install_wheels.find_clashing(wheels)] == list("abcd")
    site = install(tmp_path / "env", inputs)
    assert (site / "shared" / "__init__.py").read_text().startswith("owner = 'c'")
    assert "from d.m1 import f1" in (tmp_path / "env" / "bin" / "same").read_text()


def test_bytecode_follows_from_the_wheel_alone(tmp_path, inputs):
    """A module compiled beside others must be what it is when its wheel is the only one."""
    several = install(tmp_path / "env", inputs)
    kept = {path.name: path.read_bytes() for path in (several / "c" / "__pycache__").iterdir()}
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in os.listdir(inputs):
        if name.startswith(("uv-", "both_c-")):
            os.link(inputs / name, alone / name)
    single = install(tmp_path / "env", alone, letters="c")
    assert {path.name: path.read_bytes() for path in (single / "c" / "__pycache__").iterdir()} == kept


def test_a_package_that_is_not_there_fails_it(tmp_path, inputs):
    with pytest.raises(AssertionError, match="both_z"):
        install(tmp_path / "env", inputs, letters="az")


@functools.cache
def old_interpreters() -> list[str]:
    """Those of this machine on which bytecode depends on what else a process has in memory; shims without one aside."""
    found = [path for name in ("python3.8", "python3.9", "python3.10") if (path := shutil.which(name))]
    return [
        path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]


def test_it_is_written_for_old_interpreters():
    for program in (PROGRAM, COMPILER):
        ast.parse(program.read_text(), feature_version=(3, 8))
    for interpreter in old_interpreters():
        load = f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import install_wheels"
        subprocess.run([interpreter, "-B", "-c", load], check=True)


def test_the_program_that_compiles_stays_as_it_is():
    """On old Pythons bytecode depends on the names that are in it: layers of such bases would be others."""
    assert sha256(COMPILER.read_bytes()) == "34e8411460bd3d6ae1f5512927a185b84791c4eff0e569c929e4252d53fb69ce"


def test_what_else_is_installed_and_imported_makes_no_difference_to_bytecode(tmp_path, inputs):
    """Neither the program that installs, nor what the environment loads when an interpreter starts."""
    names = "class both_names:\n    alpha_beta = 'gamma_delta'\n\n    def spam_eggs(self, wheel_names):\n        return self\n"
    file, data = wheel("named", "1.0", files={"named/__init__.py": names})
    (tmp_path / file).write_bytes(data)
    for interpreter in (*old_interpreters(), sys.executable):
        found = set()
        for start in ("", "both_names = alpha_beta = spam_eggs = wheel_names = 'gamma_delta'\n"):
            target = tmp_path / "env"
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run([interpreter, "-m", "venv", "--without-pip", str(target)], check=True)
            (site,) = target.glob("lib/python3*/site-packages")
            (site / "started.py").write_text(start)
            (site / "started.pth").write_text("import started\n")
            (uv,) = inputs.glob("uv-*")
            (tmp_path / uv.name).unlink(missing_ok=True)
            os.link(uv, tmp_path / uv.name)
            command = [str(target / "bin/python3"), "-s", "-B", str(PROGRAM), str(tmp_path), uv.name, file]
            subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}, check=True)
            (bytecode,) = site.glob("named/__pycache__/*.pyc")
            found.add(bytecode.read_bytes())
        assert len(found) == 1, interpreter


def test_large_wheels_are_unpacked_on_disk_and_nothing_of_it_stays(tmp_path, inputs, monkeypatch):
    wheels = [str(path) for path in inputs.glob("both_*")]
    assert install_wheels.scratch_place(wheels) == tempfile.gettempdir()
    monkeypatch.setattr(install_wheels, "IN_MEMORY", 1000)
    assert install_wheels.scratch_place(wheels) == sys.prefix
    install(tmp_path / "env", inputs)
    (tmp_path / "env").rename(tmp_path / "memory")
    program = tmp_path / PROGRAM.name
    shutil.copy(COMPILER, tmp_path)
    program.write_text(PROGRAM.read_text().replace("IN_MEMORY = 1 << 30", "IN_MEMORY = 1000"))
    install(tmp_path / "env", inputs, program=program)
    assert set(scan(tmp_path / "memory")) ^ set(scan(tmp_path / "env")) == set()
