"""What import-linter cannot see: what is loaded when a program really starts."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def loaded_by(statement: str, *options: str) -> set[str]:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint(chr(10), *sys.modules)"
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def foreign(modules: set[str]) -> set[str]:
    own = {"reprobox", "__main__"}
    return {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names | own}


#: The launcher, and what it imports when it is asked to.
IN_THE_CHILD = "reprobox.sandbox.launcher, reprobox.normalise, reprobox.layer_copies, reprobox.image"


def test_the_launcher_runs_in_a_bare_interpreter():
    assert not foreign(loaded_by(f"import {IN_THE_CHILD}", "-IS"))


def test_a_current_run_loads_nothing_slow():
    loaded = loaded_by("import reprobox.cli.fast, reprobox.sandbox.launcher", "-S", "-I")
    assert not foreign(loaded)
    assert not loaded & {"argparse", "asyncio", "ctypes.util", "http.client", "importlib.metadata", "ssl", "tomllib"}


def test_a_run_in_a_container_loads_nothing_that_builds():
    loaded = loaded_by("import reprobox_docker.use")
    assert not loaded & {"reprobox_docker.step", "reprobox_docker.images", "reprobox.normalise"}


def test_realizing_what_is_locked_loads_no_graph():
    assert "networkx" not in loaded_by("import reprobox.realize, reprobox.cli.realize")


def test_knowing_what_is_installed_loads_no_client_of_anything():
    loaded = loaded_by("from reprobox.plugins import Plugins; Plugins()")
    assert not loaded & {"networkx", "http.client", "ssl", "urllib3", "tomlkit"}


@pytest.mark.parametrize("verb", ["--help", "--version"])
def test_asking_for_help_loads_nothing_heavy(verb):
    loaded = loaded_by(
        f"import contextlib, reprobox.cli\nwith contextlib.suppress(SystemExit): reprobox.cli.main([{verb!r}])"
    )
    assert not loaded & {"networkx", "rich", "urllib3", "pysequoia", "tomlkit"}


def calls(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_only_the_command_line_prints_or_exits():
    for path in (ROOT / "reprobox").rglob("*.py"):
        inside = (
            path.name in ("build_wheels.py", "compile_later.py", "compile_wheels.py", "install_wheels.py")
            or "sandbox" in path.parts
        )  # programs of their own, in a child
        if "cli" not in path.parts and not inside:
            assert not calls(path) & {"print", "sys.exit", "exit"}, path


def test_every_dependency_is_explained():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*metadata["dependencies"], *metadata["optional-dependencies"]["publish"]]
    names = {item.partition(">")[0] for item in wanted}
    lines = (ROOT / "docs/explanation/dependencies.md").read_text().splitlines()
    told = {name for line in lines if line.startswith("| ") for name in line.split("|")[1].strip().split(", ")}
    assert told - {"library", "---"} == names


def test_no_lint_exception_stands_without_a_reason():
    for line in (ROOT / "pyproject.toml").read_text().partition("\nignore = [")[2].partition("\n]")[0].splitlines():
        assert not line.strip() or "#" in line


def test_plugins_have_the_version_of_what_they_are_for():
    from reprobox import __version__

    for project in (ROOT / "plugins").glob("*/pyproject.toml"):
        metadata = tomllib.loads(project.read_text())
        source = (project.parent / metadata["tool"]["hatch"]["version"]["path"]).read_text()
        assert f'__version__ = "{__version__}"' in source, project
        assert metadata["project"]["name"] == project.parent.name
        (package,) = metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        assert (project.parent / package / "py.typed").is_file()


def test_every_plugin_is_held_to_the_arrows():
    packages = {path.name for path in (ROOT / "plugins").glob("*/reprobox_*")}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert packages <= set(settings["root_packages"])
    contracts = {contract["id"]: contract for contract in settings["contracts"]}
    assert packages <= set(contracts["core"]["forbidden_modules"])
    assert packages <= set(contracts["plugins"]["source_modules"])
