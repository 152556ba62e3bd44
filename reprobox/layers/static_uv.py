"""The static uv that installs packages in the environment: locked like what it installs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from reprobox.errors import ResolveError
from reprobox.layers.interpreter import Python
from reprobox.layers.kind import ResolveRequest, World
from reprobox.layers.wheel_files import file_input, ranked
from reprobox.lock import Input, LockedLayer
from reprobox.pypi import NoSolutionError, Question, Uv, indented, uv_version


def uv_input(uv: Uv, request: ResolveRequest, python: Python) -> Input:
    """The static uv for the environment's machine: as locked below or before, else of the version that is used here."""
    locked = _locked_uv(request.previous if not request.upgrade else None, request.below)
    if locked is not None:
        return locked
    version = uv_version()
    memo = request.world.store.memo("uv", f"wheel-{version}-{python.machine}.json")
    try:
        return Input(**json.loads(memo.read_bytes()))
    except (OSError, ValueError, TypeError):
        found = _find_uv(uv, version, python.machine, request.world)
    fields = {name: getattr(found, name) for name in ("type", "name", "sha256", "size")}
    request.world.store.replace(memo, json.dumps({**fields, "facts": dict(found.facts)}).encode())
    return found


def _locked_uv(previous: LockedLayer | None, below: Sequence[LockedLayer]) -> Input | None:
    layers = (*reversed(below), *([previous] if previous else ()))
    return next((item for layer in layers for item in layer.inputs if item.type == "uv"), None)


def _find_uv(uv: Uv, version: str, machine: str, world: World) -> Input:
    static = Python(path="", version="3.11", libc=("musl", 1, 2), machine=machine)
    question = Question(
        requirements=[f"uv=={version}"], python=static.version, platform=static.uv_platform, dependencies=False
    )
    try:
        (package,) = uv.resolve(question)
        wheel = next(item for item in ranked(package.wheels, static) if "musllinux" in item.name)
    except (NoSolutionError, StopIteration) as error:
        raise ResolveError(
            f"the index has no static uv {version} for {machine}, which installs packages in the environment"
            + (f"; uv says:\n{indented(error.message)}" if isinstance(error, NoSolutionError) else ""),
            hint="upgrade uv beside reprobox, or add the index that has it with [index] extra in reprobox's settings",
        ) from None
    return file_input("uv", wheel, {"version": version}, world)
