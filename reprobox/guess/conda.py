"""A conda environment's packages, as far as they are Python packages under the same or a known name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reprobox.layers.package_names import is_known
from reprobox.layers.pip import requirement

#: Python packages that conda calls otherwise.
_OTHERWISE = {
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "pytables": "tables",
    "pytorch": "torch",
}
_OWN = frozenset(("pip", "setuptools", "wheel"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaEnvironment:
    """``packages`` as pip writes them; ``others`` are conda packages that may be something else than Python's."""

    name: str
    packages: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    python: str | None = None


def read_conda(text: str, name: str) -> CondaEnvironment:
    """What the lists ``dependencies`` and ``pip`` of an ``environment.yml`` name; enough of YAML for that."""
    packages: list[str] = []
    others: list[str] = []
    python = None
    for said, from_pip in _items(text):
        package = said if from_pip else _translated(said)
        plain = re.split(r"[=<>!~ \[]", package, maxsplit=1)[0].lower()
        if plain in _OWN:
            continue
        if plain == "python" and not from_pip:
            python = next(iter(re.findall(r"\d+\.\d+", said)), None)
        elif requirement.find(package) is None and (from_pip or is_known(plain)):
            packages.append(package)
        elif not package.startswith("-"):
            others.append(plain)
    return CondaEnvironment(name=name, packages=tuple(packages), others=tuple(others), python=python)


def _items(text: str) -> Iterator[tuple[str, bool]]:
    """Entries of ``dependencies``, and whether each is in the list below ``- pip:``."""
    inside, pip_depth = False, None
    for line in text.splitlines():
        plain = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if plain and not plain[0].isspace() and not plain.startswith("-"):
            inside = plain == "dependencies:"
        found = re.fullmatch(r"(\s*)-\s+(.*)", plain)
        if not inside or not found:
            continue
        depth, said = len(found[1]), found[2].strip("\"'")
        if said == "pip:":
            pip_depth = depth
            continue
        if pip_depth is not None and depth <= pip_depth:
            pip_depth = None
        yield said, pip_depth is not None


def _translated(said: str) -> str:
    """``conda-forge::numpy=1.26=py311_0`` as ``numpy==1.26.*``."""
    name, operator, version = re.fullmatch(r"([^=<>!~ ]*) *([=<>!~]*)(.*)", said.rpartition("::")[2]).groups()  # type: ignore[union-attr]
    name = _OTHERWISE.get(name.lower(), name)
    version = version.partition("=")[0] if operator in ("=", "==") else version
    if operator == "=":
        return f"{name}=={version.removesuffix('.*').removesuffix('*')}.*"
    return f"{name}{operator}{version}".replace(" ", "")
