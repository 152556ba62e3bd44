"""What to tell a person whose packages cannot be had together: uv's reason, the line that asks, and what may help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reprobox.errors import ResolveError
from reprobox.layers.asked_packages import where_asked
from reprobox.layers.interpreter import Python
from reprobox.layers.kind import ResolveRequest
from reprobox.layers.package_names import imported_as, meant
from reprobox.layers.wheel_files import NO_WHEEL, pins
from reprobox.pypi import indented

if TYPE_CHECKING:
    from reprobox.layers.requirement_files import Asked


def no_solution(
    reason: str, request: ResolveRequest, asked: Asked, python: Python, below: Mapping[str, str]
) -> ResolveError:
    """The reason in full, the requirement it is about, and what might help."""
    target = f"Python {python.version} on {python.uv_platform}"
    if unknown := re.search(r"\b(\S+) was not found in the package registry", reason):
        name, message = unknown[1], f"there is no package {unknown[1]}"
        hint = meant(name, [*below, *_previous_names(request)]) or "check its spelling, and which index is asked"
    elif without := re.search(r"\b([\w.-]+)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable )?wheels", reason):
        name, message = without[1], f"{without[1]} has no wheel for {target}"
        hint = imported_as(name) or _only_elsewhere(name, reason) or NO_WHEEL.format(name)
    else:
        name, message = _only_one_named(reason, asked), f"no set of packages satisfies the layer for {target}"
        held = [f"{other}=={below[other]}" for other in sorted(below) if re.search(rf"\b{re.escape(other)}==", reason)]
        hint = "relax one of the versions that are named"
        if held:
            hint = f"a layer below holds {', '.join(held)}: ask for what fits it, or put both into one layer"
    return ResolveError(f"{message}; uv says:\n{indented(reason)}", where=where_asked(request, asked, name), hint=hint)


def _only_elsewhere(name: str, reason: str) -> str:
    """A marker, for a package that only other operating systems have."""
    there = re.search(rf"Wheels are available for `{re.escape(name)}` [^\n]*platforms?: ([^\n]*)", reason)
    system = "win32" if there and "win" in there[1] else "darwin"
    if there is None or "linux" in there[1]:
        return ""
    return f"where another system needs it, mark it: \"{name}; sys_platform == '{system}'\"; else leave it out"


def _only_one_named(reason: str, asked: Asked) -> str:
    """The package that is asked for and that the reason speaks of, if it is one alone."""
    names = dict.fromkeys(said.name for said in asked.requirements)
    named = [name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", reason)]
    return named[0] if len(named) == 1 else ""


def _previous_names(request: ResolveRequest) -> list[str]:
    return list(pins(request.previous.inputs)) if request.previous else []
