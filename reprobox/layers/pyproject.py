"""A folder with a ``pyproject.toml``: the dependencies that it declares, with extras and dependency groups.

The folder itself is never installed: it is the code, which is mounted when it runs (`uv sync --no-install-project`).
Sources: the specifications of pyproject.toml (PEP 621) and of dependency groups (PEP 735).
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packaging.dependency_groups import resolve_dependency_groups
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from reprobox.digest import canonical, sha256
from reprobox.errors import ManifestError, Problem
from reprobox.layers.requirement_files import Asked, Read, Said, decoded, url_problem
from reprobox.wording import did_you_mean

FILE_NAME = "pyproject.toml"
_STATIC = "write them out in pyproject.toml, or put them into a requirements file and name that with `requirements`"


def read_project(
    folder: str, read: Read, *, extras: Sequence[str] = (), groups: Sequence[str] = (), python: str = ""
) -> Asked:
    """What the project in ``folder`` depends on, for a Python version of two or three numbers (any, if left out).

    Raises :class:`ManifestError` naming the key of ``pyproject.toml`` that is wrong.
    """
    path = posixpath.normpath(posixpath.join(folder, FILE_NAME))
    project = _Project(path, _parsed(decoded(read(path), path), path))
    project.check_python(python)
    said = [*project.dependencies(), *project.extras(extras), *project.groups(groups)]
    return Asked(requirements=tuple(said), files={path: project.digest()})


class _Project:
    """The tables of one ``pyproject.toml`` that say what it depends on."""

    def __init__(self, path: str, document: Mapping[str, Any]) -> None:
        self._path = path
        self._project = document.get("project", {})
        self._groups = document.get("dependency-groups", {})
        self._sources = document.get("tool", {}).get("uv", {}).get("sources", {})
        self._followed: set[str] = set()
        if not isinstance(self._project, dict) or not isinstance(self._groups, dict):
            raise self.refusal("project", "expected tables [project] and [dependency-groups]")
        if not isinstance(self._project.get("optional-dependencies", {}), dict):
            raise self.refusal("project.optional-dependencies", "expected a table")

    def refusal(self, key: str, message: str, hint: str = "") -> ManifestError:
        return ManifestError([Problem(file=self._path, line=0, key=key, message=message, hint=hint)])

    def digest(self) -> str:
        """Of what is read here: other tables may change as they like."""
        names = ("name", "requires-python", "dependencies", "optional-dependencies", "dynamic")
        said = {name: self._project[name] for name in names if name in self._project}
        return sha256(canonical([said, self._groups, self._sources]))[:16]

    def check_python(self, version: str) -> None:
        wanted = self._project.get("requires-python")
        if not wanted or not version:
            return
        try:
            fits = SpecifierSet(wanted).contains(version, prereleases=True)
        except (InvalidSpecifier, TypeError):
            raise self.refusal("project.requires-python", f"{wanted!r} is no range of versions") from None
        if not fits:
            hint = "choose a base or an apt layer with such a Python, or widen the range"
            raise self.refusal("project.requires-python", f"it asks for Python {wanted}, and this is {version}", hint)

    def dependencies(self) -> Iterator[Said]:
        self._check_static("dependencies")
        yield from self._requirements("project.dependencies", self._project.get("dependencies", []))

    def extras(self, names: Sequence[str]) -> Iterator[Said]:
        if names:
            self._check_static("optional-dependencies")
        declared = self._project.get("optional-dependencies", {})
        known = {canonicalize_name(name): name for name in declared}
        for name in names:
            own = known.get(canonicalize_name(name))
            if own is None:
                hint = did_you_mean(name, declared, "it has no extras")
                raise self.refusal("project.optional-dependencies", f"there is no extra {name!r}", hint)
            if own not in self._followed:
                self._followed.add(own)
                yield from self._requirements(f"project.optional-dependencies.{own}", declared[own])

    def groups(self, names: Sequence[str]) -> Iterator[Said]:
        known = {canonicalize_name(name) for name in self._groups}
        for name in names:
            if canonicalize_name(name) not in known:
                hint = did_you_mean(name, self._groups, "it has no dependency groups")
                raise self.refusal("dependency-groups", f"there is no group {name!r}", hint)
            try:
                found = resolve_dependency_groups(self._groups, name)
            except Exception as error:  # noqa: BLE001 - groups of several exceptions, and of several kinds
                reasons = getattr(error, "exceptions", (error,))
                raise self.refusal(f"dependency-groups.{name}", "; ".join(map(str, reasons))) from None
            yield from self._requirements(f"dependency-groups.{name}", found)

    def _check_static(self, name: str) -> None:
        if name in self._project.get("dynamic", ()):
            raise self.refusal("project.dynamic", f"the {name} are known only to the build backend", _STATIC)

    def _requirements(self, key: str, listed: Any) -> Iterator[Said]:
        """Each requirement with its place; the project's own extras are followed, since it is not installed itself."""
        if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
            raise self.refusal(key, "expected a list of strings")
        for index, text in enumerate(listed):
            place = f"{key}[{index}]"
            requirement = self._requirement(place, text)
            if canonicalize_name(requirement.name) == canonicalize_name(str(self._project.get("name", ""))):
                yield from self.extras(sorted(requirement.extras))
            else:
                yield Said(str(requirement), f"{self._path}: {place}")

    def _requirement(self, key: str, text: str) -> Requirement:
        try:
            found = Requirement(text)
        except InvalidRequirement as error:
            raise self.refusal(key, f'"{text}" is no requirement: {str(error).splitlines()[0]}') from None
        if found.url and (wrong := url_problem(found.url)):
            raise self.refusal(key, f'"{text}" {wrong[0]}', wrong[1])
        if canonicalize_name(found.name) in {canonicalize_name(name) for name in self._sources}:
            raise self.refusal(
                f"tool.uv.sources.{found.name}",
                f"{found.name} comes from a source of its own, which is not taken",
                "lock it with `uv export --format pylock.toml` and name that file with `pylock`, or remove the source",
            )
        return found


def _parsed(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError([Problem(file=path, line=0, key="", message=f"not TOML: {error}")]) from None
