"""A first manifest from what lies in a folder: guesses, each with its reason, for a person to look over.

Nothing is run and nothing is asked of the network. What another tool has written down (a lock, requirements, a project,
a conda environment, a Dockerfile) is believed before what the code imports.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reprobox.digest import Json
from reprobox.guess.conda import CondaEnvironment, read_conda
from reprobox.guess.dockerfile import Dockerfile, read_dockerfile
from reprobox.guess.imports import Imports, read_imports
from reprobox.guess.text import Table

__all__ = ["Guess", "Table", "guess"]

_DEBIAN = "bookworm"
_PYTHON = "3.11"  # the one of that Debian
_CODE = "/work"
_INPUTS = ("data", "dataset", "datasets", "input", "inputs")
_OUTPUTS = ("out", "output", "outputs", "result", "results", "figures", "logs")
_FIRST = ("main", "run", "train", "app")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """The tables of a manifest, in order, and what a person should know that no table says."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


def guess(folder: Path) -> Guess:
    """What ``folder`` suggests."""
    found = _Folder(folder)
    tables = (found.project(), found.base(), found.code(), *found.layers(), *found.mounts(), *found.run())
    return Guess(tables=tables, notes=tuple(found.notes()))


class _Folder:
    """The files of a folder that say something, each read once and where it is needed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    # what is there

    def _text(self, name: str) -> str | None:
        """The text of a file at the top; None where there is none that can be read."""
        try:
            data = (self._root / name).read_bytes()[: _MAX_BYTES + 1]
        except OSError:
            return None
        return None if len(data) > _MAX_BYTES else data.decode(errors="replace")

    def _there(self, *names: str) -> str | None:
        return next((name for name in names if (self._root / name).is_file()), None)

    @cached_property
    def _pyproject(self) -> Mapping[str, Any]:
        """The ``[project]`` table of pyproject.toml."""
        try:
            project = tomllib.loads(self._text("pyproject.toml") or "").get("project", {})
        except (tomllib.TOMLDecodeError, RecursionError):
            return {}
        return project if isinstance(project, dict) else {}

    @cached_property
    def _dockerfile(self) -> Dockerfile | None:
        text = self._text("Dockerfile")
        return None if text is None else read_dockerfile(text)

    @cached_property
    def _conda(self) -> CondaEnvironment | None:
        name = self._there("environment.yml", "environment.yaml")
        return read_conda(self._text(name) or "", name) if name else None

    @cached_property
    def _imports(self) -> Imports:
        return read_imports(self._root)

    @cached_property
    def _python_layer(self) -> Table | None:
        """The Python packages, from the most exact source that is there."""
        if pylock := self._there("pylock.toml"):
            return _pip("a lock of another tool is here", pylock=pylock)
        if self._pyproject.get("dependencies"):
            return _pip("pyproject.toml lists dependencies", project=".")
        if requirements := self._there("requirements.txt"):
            return _pip(f"{requirements} is here", requirements=requirements)
        if self._conda and self._conda.packages:
            return _pip(f"{self._conda.name} lists them", packages=list(self._conda.packages))
        if self._dockerfile and self._dockerfile.pip:
            return _pip("the Dockerfile installs them with pip", packages=list(self._dockerfile.pip))
        if self._imports.packages:
            return _pip(self._imports.why, packages=list(self._imports.packages))
        return None

    @property
    def _uses_python(self) -> bool:
        return self._python_layer is not None or bool(self._imports.files)

    @property
    def _image(self) -> str | None:
        return self._dockerfile.image if self._dockerfile else None

    @cached_property
    def _r_scripts(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self._root.glob("*.[rR]")) + sorted(_names(self._root, "*.Rmd")))

    # the tables

    def project(self) -> Table:
        name = self._pyproject.get("name")
        why = "the name in pyproject.toml" if isinstance(name, str) else "the folder's name"
        keys: dict[str, Json] = {"name": _slug(name if isinstance(name, str) else self._root.name)}
        for key in ("version", "description", "license"):
            value = self._pyproject.get(key)
            if isinstance(value, str) and value.strip() and "\n" not in value:
                keys[key] = value
        return Table(head="[project]", keys=keys, why=why)

    def base(self) -> Table:
        if self._image:
            return Table(head="[base]", keys={"image": self._image}, why="the Dockerfile builds on it")
        why = "a small Debian, from its own packages: no registry is needed"
        return Table(head="[base]", keys={"bootstrap": f"debian:{_DEBIAN}"}, why=why)

    def code(self) -> Table:
        folders = [f"{name}/" for name in (*self._folders(_INPUTS), *self._folders(_OUTPUTS))]
        why = "the Dockerfile's WORKDIR" if self._target != _CODE else "this folder, mounted when it runs"
        keys: dict[str, Json] = {"path": ".", "target": self._target}
        return Table(head="[code]", keys=keys | ({"exclude": folders} if folders else {}), why=why)

    def layers(self) -> Iterator[Table]:
        packages = list(self._dockerfile.apt) if self._dockerfile else []
        reasons = ["the Dockerfile installs them with apt"] if packages else []
        if self._uses_python and not self._image_has_python and "python3" not in packages:
            packages.insert(0, "python3")
            reasons.append("there is Python code" if self._imports.files else "the Python packages need it")
        if self._r_scripts and "r-base-core" not in packages and "r-base" not in packages:
            packages.append("r-base-core")
            reasons.append(f"{self._r_scripts[0]} is R code")
        if packages:
            keys: dict[str, Json] = {"name": "system", "kind": "apt", "packages": packages}
            yield Table(head="[[layers]]", keys=keys, why="; ".join(reasons))
        if self._python_layer:
            yield self._python_layer

    def mounts(self) -> Iterator[Table]:
        keys: dict[str, Json] = {}
        for name in self._folders(_INPUTS):
            keys[f"{self._target}/{name}"] = {"mode": "ro", "source": name}
        for name in self._folders(_OUTPUTS):
            keys[f"{self._target}/{name}"] = {"mode": "rw", "source": name}
        if keys:
            yield Table(head="[mounts]", keys=keys, why="folders of these names are data (ro) and results (rw)")

    def run(self) -> Iterator[Table]:
        command, why = self._command()
        if command:
            yield Table(head="[run]", keys={"command": list(command), "workdir": self._target}, why=why)

    def notes(self) -> Iterator[str]:
        if self._dockerfile and self._dockerfile.others:
            yield f"the Dockerfile also has {', '.join(self._dockerfile.others)}: see whether the work needs that"
        if self._conda and self._conda.others:
            yield f"{self._conda.name} also names {', '.join(self._conda.others)}: look for them as apt packages"
        yield from self._python_notes()
        if self._imports.optional:
            yield f"imported where it may be missing, and left out: {', '.join(self._imports.optional)}"
        if self._r_scripts:
            yield "R packages are Debian packages too: library(ggplot2) is r-cran-ggplot2"
        if not any(table.head == "[[layers]]" for table in (*self.layers(), *self.mounts(), *self.run())):
            yield "nothing here says what the environment needs: add layers"

    # what they are made of

    def _python_notes(self) -> Iterator[str]:
        if self._image_has_python:
            return
        if self._conda and self._conda.python and not _within(_PYTHON, f"=={self._conda.python}.*"):
            yield f"{self._conda.name} wants Python {self._conda.python}; Debian {_DEBIAN} has {_PYTHON}"
        wanted = self._pyproject.get("requires-python")
        if isinstance(wanted, str) and not _within(_PYTHON, wanted):
            yield f"pyproject.toml wants Python {wanted}; Debian {_DEBIAN} has {_PYTHON}"

    @property
    def _image_has_python(self) -> bool:
        return self._image is not None and self._image.rpartition("/")[2].startswith(("python:", "python@"))

    @property
    def _target(self) -> str:
        return (self._dockerfile.workdir if self._dockerfile else None) or _CODE

    def _folders(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if (self._root / name).is_dir() and not any(self._root.glob(f"{name}/*.py"))]

    def _command(self) -> tuple[tuple[str, ...], str]:
        if self._dockerfile and self._dockerfile.command:
            return self._dockerfile.command, "the Dockerfile's command"
        for program, scripts in (
            ("python3", self._imports.scripts),
            ("Rscript", self._r_scripts),
            ("sh", tuple(sorted(_names(self._root, "*.sh")))),
        ):
            named = [name for first in _FIRST for name in scripts if Path(name).stem == first]
            if named or len(scripts) == 1:
                name = (named or list(scripts))[0]
                return (program, f"{self._target}/{name}"), f"{name} looks like the start"
        return (), ""


def _names(root: Path, pattern: str) -> list[str]:
    return [path.name for path in root.glob(pattern) if path.is_file()]


def _pip(why: str, **keys: Json) -> Table:
    return Table(head="[[layers]]", keys={"name": "python", "kind": "pip", **keys}, why=why)


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._") or "research"


def _within(version: str, wanted: str) -> bool:
    """Whether a version fits; True also where nobody can tell."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(wanted).contains(f"{version}.9")
    except InvalidSpecifier:
        return True
