"""The program that installs wheels, run by real interpreters into virtual environments, with the real uv."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from reprobox.layers import install_wheels
from reprobox.pypi import uv_version
from reprobox.tree import scan
from tests.python_index import uv_wheel, wheel

PROGRAM = Path(install_wheels.__file__)
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
    """A fresh virtual environment at ``target``, always the same path, with the wheels in it; returns its packages.

    What the program says goes to ``install.log`` beside it.
    """
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
    target.with_name("install.log").write_text(done.stdout)
    (site,) = target.glob("lib/python3*/site-packages")
    return site


def test_the_same_bytes_with_one_processor_and_with_all(tmp_path, inputs):
    install(tmp_path / "env", inputs)
    (tmp_path / "env").rename(tmp_path / "all")
    cpu = min(os.sched_getaffinity(0))
    install(tmp_path / "env", inputs, prefix=("taskset", "-c", str(cpu)), letters=LETTERS[::-1])
    assert set(scan(tmp_path / "all")) ^ set(scan(tmp_path / "env")) == set()


# -- compiled ahead ----------------------------------------------------------------------------------------------------

NOT_CLASHING = "def"


class Ahead:
    """The program, with a folder of its own for what is compiled ahead."""

    def __init__(self, folder: Path, inputs: Path) -> None:
        self.folder = folder / "ahead"
        self.folder.mkdir()
        self.program = folder / "program.py"
        text = PROGRAM.read_text()
        assert text.count(install_wheels.AHEAD) == 2  # what it is, and where the program says what it does
        self.program.write_text(text.replace(install_wheels.AHEAD, str(self.folder)))
        self.target = folder / "env"
        self.inputs = inputs

    def compile(self, letters: str = NOT_CLASHING) -> int:
        """As for the environment that :meth:`install` makes, of which there are only the interpreter and its place."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.target)], check=True)
        wheels = [str(self.inputs / f"both_{letter}-1.0-py3-none-any.whl") for letter in letters]
        command = [str(self.target / "bin" / "python3"), "-s", "-B", str(self.program), "--ahead", str(self.folder)]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}
        return subprocess.run([*command, *wheels], env=environment, check=False).returncode

    def install(self) -> tuple[int, set[object]]:
        """How many modules were taken, and all entries of the environment."""
        install(self.target, self.inputs, letters=NOT_CLASHING, program=self.program)
        found = re.search(r"(\d+) modules were compiled ahead", (self.folder.parent / "install.log").read_text())
        return int(found[1]) if found else 0, set(scan(self.target))


@pytest.fixture
def ahead(tmp_path, inputs) -> Ahead:
    return Ahead(tmp_path, inputs)


def test_what_was_compiled_ahead_is_what_would_be_compiled(ahead):
    taken, plain = ahead.install()
    assert taken == 0
    assert ahead.compile() == 0
    assert not list(ahead.folder.rglob("*.py"))
    taken, entries = ahead.install()
    assert taken == 3 * 72 + 1, "the modules of all, one that is no Python, and the one that all have"
    assert entries == plain


def test_what_was_compiled_of_another_source_or_by_another_interpreter_is_not_taken(ahead):
    _, plain = ahead.install()
    assert ahead.compile() == 0
    tag = sys.implementation.cache_tag
    (pyc,) = ahead.folder.rglob(f"d/__pycache__/m1.{tag}.pyc")
    data = bytearray(pyc.read_bytes())
    data[8] ^= 1  # of the source's hash
    pyc.write_bytes(data)
    (gone,) = ahead.folder.rglob(f"e/__pycache__/m1.{tag}.pyc")
    gone.unlink()
    taken, entries = ahead.install()
    assert taken == 3 * 72 + 1 - 2 * install_wheels.BATCH, "two batches were compiled again"
    assert entries == plain
    (ahead.folder / "interpreter").write_text("another")
    assert ahead.install() == (0, plain)


def test_wheels_that_clash_are_not_compiled_ahead(ahead):
    assert ahead.compile(LETTERS) == 1


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


def test_it_is_written_for_old_interpreters():
    ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    old = [path for name in ("python3.8", "python3.9", "python3.10") if (path := shutil.which(name))]
    for interpreter in old:
        done = subprocess.run(
            [interpreter, "-c", f"import runpy; runpy.run_path({str(PROGRAM)!r})"],
            capture_output=True,
            text=True,
            check=False,
        )
        if "command not found" not in done.stderr:  # a pyenv shim without its version
            assert done.returncode == 0, done.stderr


def test_large_wheels_are_unpacked_on_disk_and_nothing_of_it_stays(tmp_path, inputs, monkeypatch):
    wheels = [str(path) for path in inputs.glob("both_*")]
    assert install_wheels.scratch_place(wheels) == tempfile.gettempdir()
    monkeypatch.setattr(install_wheels, "IN_MEMORY", 1000)
    assert install_wheels.scratch_place(wheels) == sys.prefix
    install(tmp_path / "env", inputs)
    (tmp_path / "env").rename(tmp_path / "memory")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.read_text().replace("IN_MEMORY = 1 << 30", "IN_MEMORY = 1000"))
    install(tmp_path / "env", inputs, program=program)
    assert set(scan(tmp_path / "memory")) ^ set(scan(tmp_path / "env")) == set()
