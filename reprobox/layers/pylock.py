"""``pylock.toml`` (PEP 751): what one says for a Python of the environment, and a lock's packages written as one.

Source: https://packaging.python.org/en/latest/specifications/pylock-toml/; read with the model of ``packaging``.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.pylock import (
    Package,
    PackageArchive,
    PackageDirectory,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)

from reprobox.digest import sha256
from reprobox.errors import ManifestError, Problem
from reprobox.layers.requirement_files import Read
from reprobox.lock import Input

if TYPE_CHECKING:
    from reprobox.layers.interpreter import Python

MAX_BYTES = 16 << 20
_MADE = "make the file anew with the tool that wrote it, for this Python and platform"
_Source = PackageWheel | PackageSdist | PackageArchive


class Selected(NamedTuple):
    """One file that a ``pylock.toml`` selects.

    ``size`` is in bytes, 0 where it is not said; ``path`` is in the project, and empty where there is a ``url``;
    ``direct`` says that no index has it.
    """

    package: str
    version: str
    file: str
    sha256: str
    size: int
    url: str
    path: str
    direct: bool
    key: str


def files_of(path: str, read: Read) -> dict[str, str]:
    """Digest of the file, by its path in the project."""
    return {posixpath.normpath(path): sha256(read(path))[:16]}


def select(
    path: str,
    read: Read,
    python: Python,
    *,
    extras: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    build: Sequence[str] = (),
) -> list[Selected]:
    """What ``python`` would install, by name. The folder of the file itself is left out: it is the code.

    Without ``groups``, the file's own default groups. Packages of ``build`` are taken as source.
    Raises :class:`ManifestError` naming the key of the file.
    """
    document = _parsed(path, read)
    try:
        chosen = list(
            document.select(
                environment=python.markers(),  # type: ignore[arg-type]  # a TypedDict of the same keys
                tags=list(python.tags()),
                extras=extras,
                dependency_groups=groups or None,
                prefer_sdist_predicate=lambda name: name in build,
            )
        )
    except PylockSelectError as error:
        raise _refusal(
            path, "", f"it does not fit Python {python.version} on {python.uv_platform}: {error}", _MADE
        ) from None
    place = {id(package): f"packages[{number}]" for number, package in enumerate(document.packages)}
    found = [_selected(path, place[id(package)], package, source) for package, source in chosen if not _is_own(source)]
    return sorted(found, key=lambda item: item.package)


def _parsed(path: str, read: Read) -> Pylock:
    data = read(path)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("larger than 16 MiB")
        return Pylock.from_dict(tomllib.loads(data.decode()))
    except PylockValidationError as error:
        raise _refusal(path, error.context or "", error.message, _MADE) from None
    except (ValueError, RecursionError) as error:
        raise _refusal(path, "", f"it is no pylock.toml: {error}", _MADE) from None


def _is_own(source: Any) -> bool:
    return isinstance(source, PackageDirectory) and posixpath.normpath(source.path) == "."


def _selected(path: str, key: str, package: Package, source: Any) -> Selected:
    if not isinstance(source, _Source):
        what = "a folder" if isinstance(source, PackageDirectory) else "a repository"
        hint = "put it on the path with a layer of the kind git or copy, or lock a wheel of it"
        raise _refusal(path, key, f"{package.name} comes from {what}, and not from a file with a hash", hint)
    digest = source.hashes.get("sha256", "")
    if not digest:
        known = ", ".join(sorted(source.hashes))
        raise _refusal(path, key, f"{package.name} has no sha256, only {known}", _MADE)
    url = source.url or ""
    name = getattr(source, "filename", "") or posixpath.basename((url or source.path or "").partition("#")[0])
    return Selected(
        package=package.name,
        version=str(package.version or _version_of(name)),
        file=name,
        sha256=digest.lower(),
        size=source.size or 0,
        url=url,
        path="" if url else _inside(path, key, source.path or ""),
        direct=isinstance(source, PackageArchive),
        key=key,
    )


def _version_of(name: str) -> str:
    return name.split("-")[1] if name.endswith(".whl") and name.count("-") >= 4 else ""


def _inside(path: str, key: str, place: str) -> str:
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), place))
    if place.startswith("/") or found.split("/")[0] == "..":
        hint = "copy it into the project: manifest and lock travel with it"
        raise _refusal(path, key, f"{place} is not a file of the project", hint)
    return found


def _refusal(path: str, key: str, message: str, hint: str) -> ManifestError:
    return ManifestError([Problem(file=path, line=0, key=key, message=message, hint=hint)])


# -- writing -----------------------------------------------------------------------------------------------------------


def write(inputs: Iterable[Input], python: str, places: Mapping[str, str]) -> str:
    """The locked wheels as a ``pylock.toml`` for a Python of this version (two numbers). ``places`` says where each is,
    by sha256: a URL, or a path from the file.

    Each package has the one file that is locked, so this is for machines like the locked one.
    """
    lines = ['lock-version = "1.0"', f'requires-python = "=={python}.*"', 'created-by = "reprobox"']
    for item in sorted(inputs, key=lambda item: item.facts["package"]):
        lines += ["", "[[packages]]", f'name = "{item.facts["package"]}"', f'version = "{item.facts["version"]}"']
        place = places[item.sha256]
        key = "url" if "://" in place else "path"
        said = f'{key} = "{place}", size = {item.size}, hashes = {{ sha256 = "{item.sha256}" }}'
        if "url" in item.facts:  # no index has it
            lines.append(f"archive = {{ {said} }}")
        elif item.type == "sdist":
            lines.append(f'sdist = {{ name = "{item.name}", {said} }}')
        else:
            lines.append(f'wheels = [{{ name = "{item.name}", {said} }}]')
    return "\n".join(lines) + "\n"
