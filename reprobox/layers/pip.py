"""``pip``: Python packages, resolved by uv for the Python that the environment will have, installed from wheels."""

from __future__ import annotations

import contextlib
import functools
import posixpath
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from reprobox.backend import Bind
from reprobox.digest import Entry, sha256
from reprobox.errors import ManifestError, ReproboxError, ResolveError, UsageError
from reprobox.layers import build_wheels, compile_wheels, install_wheels, installed_ahead
from reprobox.layers.asked_packages import asked_of, built_from_source, place_of, reader_of, where_asked
from reprobox.layers.interpreter import Python, find_python
from reprobox.layers.kept_wheels import keep
from reprobox.layers.kind import (
    INPUTS,
    TOOLS,
    AheadRequest,
    Commands,
    Derived,
    Made,
    Resolution,
    ResolveRequest,
    StepRequest,
    World,
)
from reprobox.layers.static_uv import uv_input, write_program
from reprobox.layers.wheel_files import FILES, NO_WHEEL, facts_of, file_input, pins, ranked, wheel_input
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.manifest import IN_IMAGE, Layer, Manifest
from reprobox.pypi import NoSolutionError, Package, Question, Uv, Wheel, indented
from reprobox.table_rules import Check, Finding, Rule, at_most_one, exactly_one, pattern
from reprobox.tables import key
from reprobox.value_checks import nonempty, relative_inside

if TYPE_CHECKING:  # what reads other formats is loaded where a layer needs it
    from reprobox.layers.pylock import Selected
    from reprobox.layers.requirement_files import Asked, Read

_BUILDER = f"{TOOLS}/build_wheels.py"
_BUILT = "/tmp/reprobox-built/"  # noqa: S108 - inside the step
_PROGRAM = f"{TOOLS}/install_wheels.py"


def _requirement(text: str) -> Finding | None:
    from packaging.requirements import InvalidRequirement, Requirement

    from reprobox.layers.requirement_files import url_problem

    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        return Finding(
            f'"{text}" is no requirement: {reason}', 'for example "numpy", "numpy>=2" or "scipy[dev]==1.15.*"'
        )
    if parsed.url and (wrong := url_problem(parsed.url)):
        return Finding(f'"{text}" {wrong[0]}', wrong[1])
    return None


requirement = Check(find=_requirement)
"""A requirement as PEP 508 writes it; a URL must be the one of a wheel."""


package = pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a package", 'for example "docopt"')


def _only_with(name: str, *others: str) -> Rule:
    """Where ``name`` is there, one of ``others`` must be too."""

    def find(given: AbstractSet[str]) -> Finding | None:
        if name in given and not given & set(others):
            return Finding(f"`{name}` needs `{'` or `'.join(others)}`", f"leave `{name}` out")
        return None

    return Rule(find, {})


@dataclass(frozen=True, kw_only=True, slots=True)
class PipOptions:
    """The keys of a ``pip`` layer."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one("packages", "requirements", "pylock", "project"),
        at_most_one("constraints", "pylock"),
        _only_with("extras", "project", "pylock"),
        _only_with("groups", "project", "pylock"),
    )

    packages: tuple[str, ...] = key(
        "Packages, as pip writes them.", default=(), check=requirement, nonempty=True, hint='add packages = ["…"]'
    )
    requirements: str | None = key("A requirements file.", default=None, check=relative_inside)
    pylock: str | None = key("A pylock.toml.", default=None, check=relative_inside)
    project: str | None = key(
        "Folder with a pyproject.toml whose dependencies are meant.", default=None, check=relative_inside
    )
    extras: tuple[str, ...] = key("Extras of the project.", default=(), check=nonempty)
    groups: tuple[str, ...] = key("Dependency groups of the project.", default=(), check=nonempty)
    constraints: str | None = key(
        "A requirements file that only says which versions may be.", default=None, check=relative_inside
    )
    build: tuple[str, ...] = key(
        "Packages that are built from source, with build requirements that are locked too.", default=(), check=package
    )
    placement: Literal["image", "project"] = key(
        "In the image, or in a virtual environment in the project's folder.", default="image"
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

    def reads(self, manifest: Manifest, layer: Layer, project: Path) -> Mapping[str, str]:
        """The local files that say what the layer asks for: a digest of what each means, by its path."""
        read = reader_of(manifest, layer, project)
        if layer.options.pylock:
            from reprobox.layers.pylock import files_of

            return files_of(layer.options.pylock, read)
        return dict(asked_of(manifest, layer, read).files)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin one wheel for each package, and the uv that will install them.

        What the ``pip`` layers below have is kept as it is, and not installed again.
        """
        world = request.world
        try:
            python = find_python(world, request.below, request.platform)
        except ResolveError as error:
            raise ResolveError(error.message, where=where_asked(request), hint=error.hint) from None
        uv = _uv(world)
        if uv.unused and not any(layer.kind == self.name for layer in request.below):  # told once
            said = f"pip's setting {', '.join(uv.unused)} is not used to lock"
            world.say(f"{said}: name the file with `constraints` in the layer")
        below = pins(item for layer in request.below for item in layer.inputs)
        if request.layer.options.pylock:
            wheels = _from_pylock(request, python, below)
        else:
            wheels = _from_index(request, uv, python, below)
        inside, folder = _placed(request)
        tools = _build_inputs(wheels, uv, python, request)
        return Resolution(
            inputs=(*wheels, *tools, uv_input(uv, request, python)) if wheels else (),
            options={"python": python.path, **inside},
            facts={"platform": python.uv_platform, "python": python.version, **folder},
        )

    def foresee(self, request: ResolveRequest) -> None:
        """Ask the index for the Python that the layer was locked for."""
        facts = request.previous.facts if request.previous else {}
        if request.layer.options.pylock or not {"platform", "python"} <= facts.keys():
            return
        version, platform = str(facts["python"]), str(facts["platform"])
        below = pins(item for layer in request.below for item in layer.inputs)
        with contextlib.suppress(ReproboxError):  # it is told when the layer is resolved
            asked = asked_of(
                request.manifest,
                request.layer,
                reader_of(request.manifest, request.layer, request.world.project),
                version,
            )
            _uv(request.world).begin(_question(request, asked, version, platform, below))

    def step(self, request: StepRequest) -> Commands | Made:
        """What was installed ahead; or one command, which installs the wheels that no layer like this one has yet."""
        if request.ahead is not None and installed_ahead.holds(request.ahead, request.root()):
            return Made(folder=request.ahead)
        return self._installing(request)

    def _installing(self, request: StepRequest) -> Commands:
        wheels: Sequence[Input] = [item for item in request.layer.inputs if item.type == "wheel"]
        kept: tuple[Entry, ...] = ()
        kept_in = None
        sources = [item for item in request.layer.inputs if item.type == "sdist"]
        if request.earlier is not None and not sources:  # nobody knows what a source will leave
            found = keep(request.earlier, wheels, request.files)
            kept, kept_in, wheels = found.entries, request.earlier.tree, found.fresh
        place = request.layer.options.get("venv")
        tool = next((item for item in request.layer.inputs if item.type == "uv"), None)
        if tool is None or not (wheels or place or sources):
            return Commands(commands=(), kept=kept, kept_in=kept_in)
        uv = tool.name
        names = [item.name for item in wheels]
        built = _building(request.layer, sources, uv)
        files = dict(request.files) if sources else {name: request.files[name] for name in (*names, uv)}
        files[uv] = (None if sources else _unpacked_uv(tool, files[uv], request.derived)) or files[uv]
        inputs = (Bind(source=file, target=f"{INPUTS}/{name}") for name, file in files.items())
        into = ("--venv", str(place)) if place else ()
        made = (_BUILT,) if sources else ()
        python = str(request.layer.options["python"])
        return Commands(
            commands=(*built, (python, "-s", "-B", _PROGRAM, *into, INPUTS, uv, *names, *made)),
            binds=(*_programs(sources), *inputs),
            kept=kept,
            kept_in=kept_in,
            quick=bool(kept),
        )

    def ahead(self, request: AheadRequest) -> bool:
        """Install what goes into the image and is not built from source; for a virtual environment, unpack uv."""
        layer = request.step.layer
        if any(item.type == "sdist" for item in layer.inputs):
            return False
        step = self._installing(request.step)
        return bool(step.commands) and "venv" not in layer.options and installed_ahead.install(request, step)


def _unpacked_uv(uv: Input, wheel: Path, derived: Derived | None) -> Path | None:
    """The program in the locked uv's wheel, which stands for it: unpacked once for all layers, not in each."""
    if derived is None:
        return None
    write = functools.partial(write_program, wheel)
    with contextlib.suppress(zipfile.BadZipFile):
        return derived("uv-program", uv.sha256, write)
    return None


def _building(layer: LockedLayer, sources: Sequence[Input], uv: str) -> tuple[tuple[str, ...], ...]:
    """The command that builds wheels from sources, each with what is locked for it; none without sources."""
    if not sources:
        return ()
    tools = [item for item in layer.inputs if item.type == "build"]
    words = [str(layer.options["python"]), "-s", "-B", _BUILDER, INPUTS, uv, _BUILT]
    for source in sources:
        own = (item.name for item in tools if source.facts["package"] in item.facts["for"].split())
        words += [build_wheels.SOURCE, source.name, *own]
    return (tuple(words),)


def _programs(sources: Sequence[Input]) -> tuple[Bind, ...]:
    """What the commands run, and what that imports."""
    modules = (install_wheels, compile_wheels, *((build_wheels,) if sources else ()))
    paths = [Path(module.__file__).absolute() for module in modules]
    return tuple(Bind(source=path, target=f"{TOOLS}/{path.name}") for path in paths)


def packages_of(target: LockedTarget) -> tuple[list[Input], str]:
    """The locked wheels of all layers, and the Python that they are for, in two numbers. Raises :class:`UsageError`."""
    wheels = [item for layer in target.layers if layer.kind == Pip.name for item in layer.inputs if item.type in FILES]
    if not wheels:
        hint = "pylock.toml is for Python packages: use another --format"
        raise UsageError(f"target {target.name!r} has no Python packages in its lock", hint=hint)
    return wheels, wheels[0].facts["python"]


def _placed(request: ResolveRequest) -> tuple[dict[str, str], dict[str, str]]:
    """For a layer in the project's folder: where commands see its virtual environment, and where it is in the project.

    It lies in the folder of the code, which is mounted when something runs. A target has one.
    """
    manifest, layer = request.manifest, request.layer
    if layer.placement == IN_IMAGE:
        return {}, {}
    others = [other for other in manifest.layers if other.placement != IN_IMAGE and other.index < layer.index]
    if others:
        said = f"layer {others[0].name!r} is in the project's folder too, and there is room for one"
        hint = "put both lists into one layer"
        raise ManifestError([manifest.problem(("layers", layer.index, "placement"), said, hint)])
    if manifest.code.git:
        said = "the code comes from a repository, so there is no folder of the project that is mounted"
        hint = "leave it out: the packages go into the image"
        raise ManifestError([manifest.problem(("layers", layer.index, "placement"), said, hint)])
    (target,) = manifest.targets
    name = f".reprobox/venv-{target}"
    folder = posixpath.normpath(posixpath.join(manifest.code.path, name))
    return {"venv": posixpath.join(manifest.code.target, name)}, {"folder": folder}


def _uv(world: World) -> Uv:
    return Uv(world.store, world.index, offline=world.offline, ahead=world.ahead)


# -- which versions ----------------------------------------------------------------------------------------------------


def _from_index(request: ResolveRequest, uv: Uv, python: Python, below: Mapping[str, str]) -> list[Input]:
    """A wheel for each package that uv chooses for what is asked."""
    read = reader_of(request.manifest, request.layer, request.world.project)
    asked = asked_of(request.manifest, request.layer, read, python.version)
    packages = [item for item in _solve(uv, request, asked, python, below) if item.name not in below]
    names = {item.name for item in packages}
    for number, name in enumerate(built_from_source(request)):
        if name not in names:
            where = place_of(request.manifest, request.layer, "build", number)
            raise ResolveError(
                f"no package {name} is needed here", where=where, hint="correct the name, or leave it out"
            )
    return [wheel_input(package, python, asked, request) for package in packages]


def _solve(
    uv: Uv, request: ResolveRequest, asked: Asked, python: Python, below: Mapping[str, str]
) -> tuple[Package, ...]:
    try:
        return uv.resolve(_question(request, asked, python.version, python.uv_platform, below))
    except NoSolutionError as error:
        from reprobox.layers.no_solution import no_solution

        raise no_solution(error.message, request, asked, python, below) from None


def _question(request: ResolveRequest, asked: Asked, version: str, platform: str, below: Mapping[str, str]) -> Question:
    """What uv is asked, for a Python of this version and a platform in uv's words."""
    kept = request.previous.inputs if request.previous and not request.upgrade else ()
    held = [f"{name}=={number}" for name, number in sorted(below.items())]
    return Question(
        requirements=[said.plain for said in asked.requirements],
        python=version,
        platform=platform,
        constraints=[*(said.text for said in asked.constraints), *held],
        preferences=pins(kept),
        prereleases=asked.prereleases,
        build=sorted({*built_from_source(request), *_built_below(request)}),
    )


def _built_below(request: ResolveRequest) -> Iterator[str]:
    """What the layers below have from source need not have a wheel here either."""
    return (item.facts["package"] for layer in request.below for item in layer.inputs if item.type == "sdist")


# -- what building takes ---------------------------------------------------------------------------------------------


def _build_inputs(chosen: Sequence[Input], uv: Uv, python: Python, request: ResolveRequest) -> list[Input]:
    """The wheels that the sources among ``chosen`` are built with; the fact ``for`` says which of them need each."""
    found: dict[str, Input] = {}
    for source in (item for item in chosen if item.type == "sdist"):
        for item in _tools(source, uv, python, request):
            before = found.get(item.sha256)
            users = f"{before.facts['for']} {item.facts['for']}" if before else item.facts["for"]
            found[item.sha256] = replace(item, facts={**item.facts, "for": users})
    return sorted(found.values(), key=lambda item: item.name)


def _tools(source: Input, uv: Uv, python: Python, request: ResolveRequest) -> Iterator[Input]:
    from reprobox.layers.sdist import build_requirements

    world, name = request.world, source.facts["package"]
    world.fetch([source])
    kept = request.previous.inputs if request.previous and not request.upgrade else ()
    before = {item.facts["package"]: item.facts["version"] for item in kept if item.type == "build"}
    try:
        requires = build_requirements(world.store.blob(source.sha256).read_bytes(), source.name)
        question = Question(
            requirements=requires, python=python.version, platform=python.uv_platform, preferences=before
        )
        packages = uv.resolve(question)
        for package in packages:
            wheel = next(ranked(package.wheels, python))
            facts = {**facts_of(package.name, package.version, python), "for": name}
            yield file_input("build", wheel, facts, world)
    except (NoSolutionError, StopIteration) as error:
        said = f"; uv says:\n{indented(error.message)}" if isinstance(error, NoSolutionError) else ""
        raise ResolveError(
            f"what {source.name} needs to be built cannot be locked: {', '.join(requires)}{said}",
            where=where_asked(request),
            hint="choose another version of it, or one that has wheels",
        ) from None
    except ResolveError as error:
        raise ResolveError(error.message, where=where_asked(request), hint=error.hint) from None


# -- what a pylock.toml selects ----------------------------------------------------------------------------------------


def _from_pylock(request: ResolveRequest, python: Python, below: Mapping[str, str]) -> list[Input]:
    """The wheels that the file selects for this Python."""
    from reprobox.layers.pylock import select

    options = request.layer.options
    read = reader_of(request.manifest, request.layer, request.world.project)
    build = built_from_source(request)
    chosen = select(options.pylock, read, python, extras=options.extras, groups=options.groups, build=build)
    for item in chosen:
        if below.get(item.package, item.version) != item.version:
            raise ResolveError(
                f"{item.key}: {item.package} {item.version} is asked for, and a layer below has"
                f" {item.package} {below[item.package]}",
                where=options.pylock,
                hint="lock both with one version, or put both into one layer",
            )
    return [_selected_input(item, python, read, request) for item in chosen if item.package not in below]


def _selected_input(item: Selected, python: Python, read: Read, request: ResolveRequest) -> Input:
    kind = "wheel" if item.file.endswith(".whl") else "sdist"
    if kind == "sdist" and item.package not in built_from_source(request):
        raise ResolveError(
            f"{item.key}: {item.package} {item.version} is locked as source, without a wheel for"
            f" Python {python.version} on {python.uv_platform}",
            where=request.layer.options.pylock,
            hint=NO_WHEEL.format(item.package),
        )
    facts = facts_of(item.package, item.version, python)
    if item.path:
        data = read(item.path)
        found = Input(
            type="wheel", name=item.file, sha256=sha256(data), size=len(data), facts={**facts, "path": item.path}
        )
        if found.sha256 != item.sha256:
            where, hint = request.layer.options.pylock, "restore the file, or lock it anew"
            raise ResolveError(f"{item.key}: {item.path} is not the file that was locked", where=where, hint=hint)
        request.world.store.add_blob(data)
        return found
    wheel = Wheel(name=item.file, url=item.url, sha256=item.sha256, size=item.size, direct=item.direct)
    return file_input(kind, wheel, facts, request.world)
