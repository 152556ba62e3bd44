"""``pip``: Python packages, resolved by uv for the Python that the environment will have, installed from wheels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from reprobox.backend import Bind
from reprobox.digest import sha256
from reprobox.errors import ResolveError
from reprobox.layers import install_wheels
from reprobox.layers.interpreter import Python, find_python
from reprobox.layers.kind import INPUTS, TOOLS, Commands, Resolution, ResolveRequest, StepRequest, World
from reprobox.layers.package_names import imported_as, meant
from reprobox.lock import Input, LockedLayer
from reprobox.manifest import Check, Finding, Layer, Rule, exactly_one, key, relative_inside
from reprobox.pypi import NoSolutionError, Package, Question, Uv, Wheel, indented, uv_version

_PROGRAM = f"{TOOLS}/install_wheels.py"
_LARGEST = 8 << 30  # a wheel whose size and hash the index does not tell is read whole, if it is not larger than this


def _requirement(text: str) -> Finding | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        return Finding(
            f'"{text}" is no requirement: {reason}', 'for example "numpy", "numpy>=2" or "scipy[dev]==1.15.*"'
        )
    if parsed.url:
        return Finding(f'"{text}" names a URL, which is not available yet', "write a name and versions instead")
    return None


requirement = Check(find=_requirement)
"""A requirement as PEP 508 writes it, without a URL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipOptions:
    """The keys of a ``pip`` layer."""

    RULES: ClassVar[tuple[Rule, ...]] = (exactly_one("packages", "requirements", "pylock", "project"),)

    packages: tuple[str, ...] = key(
        "Packages, as pip writes them.", default=(), check=requirement, nonempty=True, hint='add packages = ["…"]'
    )
    requirements: str | None = key("A requirements file.", default=None, check=relative_inside, available=False)
    pylock: str | None = key("A pylock.toml.", default=None, check=relative_inside, available=False)
    project: str | None = key(
        "Folder with a pyproject.toml whose dependencies are meant.",
        default=None,
        check=relative_inside,
        available=False,
    )
    placement: Literal["system", "venv"] = key(
        "Beside the interpreter's own packages, or in a virtual environment.", default="system", available=False
    )


class Pip:
    """The kind."""

    name = "pip"
    recipe = 1
    pinned = True
    options = PipOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """The layers that may bring the interpreter, and those that installed for it."""
        nearest = (next((other.name for other in reversed(above) if other.kind == kind), "") for kind in ("apt", "pip"))
        return tuple(name for name in nearest if name)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin one wheel for each package, and the uv that will install them.

        What the ``pip`` layers below have is kept as it is, and not installed again.
        """
        world = request.world
        try:
            python = find_python(world, request.below, request.platform)
        except ResolveError as error:
            raise ResolveError(error.message, where=_where(request), hint=error.hint) from None
        uv = Uv(world.store, world.index, offline=world.offline)
        if uv.unused and not any(layer.kind == self.name for layer in request.below):  # told once
            world.say(f"pip's settings {', '.join(uv.unused)} are not used to lock; uv's own settings are")
        below = _pins(item for layer in request.below for item in layer.inputs)
        packages = _solve(uv, request, python, below)
        wheels = [_wheel_input(package, python, request) for package in packages if package.name not in below]
        return Resolution(
            inputs=(*wheels, _uv_input(uv, request, python)) if wheels else (),
            options={"python": python.path},
            facts={"platform": python.uv_platform, "python": python.version},
        )

    def step(self, request: StepRequest) -> Commands:
        """One command: the program that installs wheels, run by the environment's Python."""
        wheels = [item for item in request.layer.inputs if item.type == "wheel"]
        if not wheels:
            return Commands(commands=())
        (uv,) = (item.name for item in request.layer.inputs if item.type == "uv")
        program = Bind(source=Path(install_wheels.__file__).absolute(), target=_PROGRAM)
        files = (Bind(source=path, target=f"{INPUTS}/{name}") for name, path in request.files.items())
        names = (item.name for item in wheels)
        return Commands(
            commands=((str(request.layer.options["python"]), "-s", "-B", _PROGRAM, INPUTS, uv, *names),),
            binds=(program, *files),
        )


def _pins(inputs: Iterable[Input]) -> dict[str, str]:
    return {item.facts["package"]: item.facts["version"] for item in inputs if item.type == "wheel"}


# -- which versions ----------------------------------------------------------------------------------------------------


def _solve(uv: Uv, request: ResolveRequest, python: Python, below: Mapping[str, str]) -> tuple[Package, ...]:
    kept = request.previous.inputs if request.previous and not request.upgrade else ()
    question = Question(
        requirements=_requirements(request),
        python=python.version,
        platform=python.uv_platform,
        constraints=[f"{name}=={version}" for name, version in sorted(below.items())],
        preferences=_pins(kept),
    )
    try:
        return uv.resolve(question)
    except NoSolutionError as error:
        raise _no_solution(error.message, request, python, below) from None


def _requirements(request: ResolveRequest) -> list[str]:
    from packaging.requirements import Requirement

    return [str(Requirement(text)) for text in request.layer.options.packages]


def _no_solution(reason: str, request: ResolveRequest, python: Python, below: Mapping[str, str]) -> ResolveError:
    """The reason in full, the requirement it is about, and what might help."""
    asked = f"Python {python.version} on {python.uv_platform}"
    if unknown := re.search(r"\b(\S+) was not found in the package registry", reason):
        name, message = unknown[1], f"there is no package {unknown[1]}"
        hint = meant(name, [*below, *_previous_names(request)]) or "check its spelling, and which index is asked"
    elif without := re.search(r"\b([\w.-]+)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable )?wheels", reason):
        name, message = without[1], f"{without[1]} has no wheel for {asked}"
        hint = imported_as(name) or _NO_WHEEL
    else:
        name, message = _only_one_named(reason, request), f"no set of packages satisfies the layer for {asked}"
        held = [f"{other}=={below[other]}" for other in sorted(below) if re.search(rf"\b{re.escape(other)}==", reason)]
        hint = "relax one of the versions that are named"
        if held:
            hint = f"a layer below holds {', '.join(held)}: ask for what fits it, or put both into one layer"
    return ResolveError(f"{message}; uv says:\n{indented(reason)}", where=_where(request, name), hint=hint)


_NO_WHEEL = "choose a version that has wheels; building from source is not available yet"


def _only_one_named(reason: str, request: ResolveRequest) -> str:
    """The package that is asked for and that the reason speaks of, if it is one alone."""
    named = [
        name for name in dict.fromkeys(_names(request)) if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", reason)
    ]
    return named[0] if len(named) == 1 else ""


def _previous_names(request: ResolveRequest) -> list[str]:
    return list(_pins(request.previous.inputs)) if request.previous else []


def _where(request: ResolveRequest, package: str = "") -> str:
    """``research.toml:12: layers[1].packages[0]`` of the requirement that names ``package``, else of the list."""
    names = _names(request)
    at = (names.index(package),) if package in names else ()
    problem = request.manifest.problem(("layers", request.layer.index, "packages", *at), "")
    return f"{problem.file}:{problem.line}: {problem.key}" if problem.line else f"{problem.file}: {problem.key}"


def _names(request: ResolveRequest) -> list[str]:
    """The packages that are asked for, in order, normalised as PEP 503 says."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    return [canonicalize_name(Requirement(text).name) for text in request.layer.options.packages]


# -- which files -------------------------------------------------------------------------------------------------------


def _wheel_input(package: Package, python: Python, request: ResolveRequest) -> Input:
    """The wheel that suits the interpreter best; one that was locked before stays while it suits."""
    before = {item.sha256 for item in request.previous.inputs} if request.previous and not request.upgrade else set()
    wheels = list(_ranked(package.wheels, python))
    if not wheels:
        raise ResolveError(
            f"{package.name} {package.version} has no wheel for Python {python.version} on {python.uv_platform}",
            where=_where(request, package.name),
            hint=_NO_WHEEL,
        )
    wheel = next((item for item in wheels if item.sha256 in before), wheels[0])
    facts = {"package": package.name, "python": ".".join(map(str, python.release)), "version": package.version}
    return _input("wheel", wheel, facts, request.world)


def _ranked(wheels: Iterable[Wheel], python: Python) -> Iterator[Wheel]:
    """The wheels that the interpreter takes, best first: as the order of tags says, then the higher build number."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    order: dict[object, int] = {}
    for tag in python.tags():
        order.setdefault(tag, len(order))
    fitting = []
    for wheel in wheels:
        try:
            _, _, build, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        places = [order[tag] for tag in tags if tag in order]
        if places:
            fitting.append((min(places), build, wheel))
    fitting.sort(key=lambda item: item[1], reverse=True)
    yield from (wheel for _, _, wheel in sorted(fitting, key=lambda item: item[0]))


def _input(kind: str, wheel: Wheel, facts: Mapping[str, str], world: World) -> Input:
    digest, size = wheel.sha256, wheel.size
    if not digest or not size:  # an index of plain pages: the file itself has to say
        data = world.get(wheel.url, fresh=False, limit=_LARGEST)
        digest, size = digest or sha256(data), len(data)
        if sha256(data) == digest:
            world.store.add_blob(data)
    found = Input(type=kind, name=wheel.name, sha256=digest, size=size, facts=facts)
    world.remember(found, [wheel.url])
    return found


def _uv_input(uv: Uv, request: ResolveRequest, python: Python) -> Input:
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
        wheel = next(item for item in _ranked(package.wheels, static) if "musllinux" in item.name)
    except (NoSolutionError, StopIteration) as error:
        raise ResolveError(
            f"the index has no static uv {version} for {machine}, which installs packages in the environment"
            + (f"; uv says:\n{indented(error.message)}" if isinstance(error, NoSolutionError) else ""),
            hint="upgrade uv beside reprobox, or add the index that has it with [index] extra in reprobox's settings",
        ) from None
    return _input("uv", wheel, {"version": version}, world)
