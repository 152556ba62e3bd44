"""Names of CPUs: what each is a descendant of, and which one this machine has. The only import of archspec.

Names are those of `archspec <https://github.com/archspec/archspec>`_ (``x86_64_v3``, ``zen3``, ``neoverse_v2``), which
follow the x86-64 psABI's levels and the compilers' names; written with dashes they are the same (``x86-64-v3``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Families of CPUs by the architecture that an OCI platform names.
FAMILIES = {"amd64": "x86_64", "arm64": "aarch64"}
_GCC = {"znver1": "zen", "znver2": "zen2", "znver3": "zen3", "znver4": "zen4", "znver5": "zen5"}
_LEVEL = re.compile(r"x86_64_v([2-4])")


def canonical(name: str) -> str:
    """The name as archspec spells it: ``x86-64-v3`` is ``x86_64_v3``; GCC's names are known too."""
    plain = name.lower().replace("-", "_")
    plain = re.sub(r"^(armv\d+\.\d+)_?a$", r"\1a", plain)
    return "x86_64" if plain == "x86_64_v1" else _GCC.get(plain, plain)


def family(name: str) -> str | None:
    """``x86_64``, ``aarch64``, …: the family of the CPU of that name; None if there is none."""
    import archspec.cpu

    found = archspec.cpu.TARGETS.get(canonical(name))
    return None if found is None else str(found.family)


def ancestors(name: str) -> tuple[str, ...]:
    """All that the CPU of that name is a descendant of; nothing where it is not known."""
    import archspec.cpu

    found = archspec.cpu.TARGETS.get(canonical(name))
    return () if found is None else tuple(str(parent) for parent in found.ancestors)


def names(architecture: str) -> tuple[str, ...]:
    """All CPUs of an architecture (``amd64``), as people write them: the levels as ``x86-64-v3``."""
    import archspec.cpu

    known = archspec.cpu.TARGETS
    return tuple(spelled(name) for name in sorted(known) if str(known[name].family) == FAMILIES.get(architecture))


def detect() -> tuple[str, tuple[str, ...]]:
    """The CPU of this machine, and all that it is a descendant of, nearest first."""
    import archspec.cpu

    host = archspec.cpu.host()
    return str(host), tuple(str(parent) for parent in host.ancestors)


def level(names_of_one: Iterable[str]) -> str | None:
    """The highest x86-64 level among the names of one CPU, as ``x86-64-v3``."""
    levels = sorted(name for name in names_of_one if _LEVEL.fullmatch(name))
    return spelled(levels[-1]) if levels else None


def spelled(name: str) -> str:
    """The name as people write it: ``x86-64-v3``."""
    return name.replace("_", "-") if name.startswith("x86_64") else name
