"""``pip``: Python packages, resolved by uv for the Python that the environment will have, installed from wheels."""

from __future__ import annotations

import contextlib
import functools
import json
import posixpath
import re
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from reprobox.backend import Bind
from reprobox.digest import Entry, sha256
from reprobox.errors import ManifestError, ReproboxError, ResolveError, UsageError
from reprobox.git.worktree import within
from reprobox.layers import build_wheels, install_wheels
from reprobox.layers.interpreter import Python, find_python
from reprobox.layers.kept_wheels import keep
from reprobox.layers.kind import INPUTS, TOOLS, Commands, Resolution, ResolveRequest, StepRequest, World
from reprobox.layers.package_names import imported_as, meant
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.manifest import IN_IMAGE, Layer, Manifest
from reprobox.pypi import NoSolutionError, Package, Question, Uv, Wheel, indented, uv_version
from reprobox.tables import Check, Finding, Rule, at_most_one, exactly_one, key, pattern
from reprobox.value_checks import nonempty, relative_inside

if TYPE_CHECKING:  # what reads other formats is loaded where a layer needs it
    from reprobox.layers.pylock import Selected
    from reprobox.layers.requirement_files import Asked, Read, Said

#: Types of inputs that are installed.
FILES = ("wheel", "sdist")
_BUILDER = f"{TOOLS}/build_wheels.py"
_BUILT = "/tmp/reprobox-built/"  # noqa: S108 - inside the step
_PROGRAM = f"{TOOLS}/install_wheels.py"
_LARGEST = 8 << 30  # a wheel whose size and hash the index does not tell is read whole, if it is not larger than this


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
        read = _reader(manifest, layer, project)
        if layer.options.pylock:
            from reprobox.layers.pylock import files_of

            return files_of(layer.options.pylock, read)
        return dict(_asked(manifest, layer, read).files)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin one wheel for each package, and the uv that will install them.

        What the ``pip`` layers below have is kept as it is, and not installed again.
        """
        world = request.world
        try:
            python = find_python(world, request.below, request.platform)
        except ResolveError as error:
            raise ResolveError(error.message, where=_where(request), hint=error.hint) from None
        uv = _uv(world)
        if uv.unused and not any(layer.kind == self.name for layer in request.below):  # told once
            said = f"pip's setting {', '.join(uv.unused)} is not used to lock"
            world.say(f"{said}: name the file with `constraints` in the layer")
        below = _pins(item for layer in request.below for item in layer.inputs)
        if request.layer.options.pylock:
            wheels = _from_pylock(request, python, below)
        else:
            wheels = _from_index(request, uv, python, below)
        inside, folder = _placed(request)
        tools = _build_inputs(wheels, uv, python, request)
        return Resolution(
            inputs=(*wheels, *tools, _uv_input(uv, request, python)) if wheels else (),
            options={"python": python.path, **inside},
            facts={"platform": python.uv_platform, "python": python.version, **folder},
        )

    def foresee(self, request: ResolveRequest) -> None:
        """Ask the index for the Python that the layer was locked for."""
        facts = request.previous.facts if request.previous else {}
        if request.layer.options.pylock or not {"platform", "python"} <= facts.keys():
            return
        version, platform = str(facts["python"]), str(facts["platform"])
        below = _pins(item for layer in request.below for item in layer.inputs)
        with contextlib.suppress(ReproboxError):  # it is told when the layer is resolved
            asked = _asked(
                request.manifest,
                request.layer,
                _reader(request.manifest, request.layer, request.world.project),
                version,
            )
            _uv(request.world).begin(_question(request, asked, version, platform, below))

    def step(self, request: StepRequest) -> Commands:
        """One command: the program that installs those wheels that no layer like this one has already."""
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
        program = Bind(source=Path(install_wheels.__file__).absolute(), target=_PROGRAM)
        names = [item.name for item in wheels]
        built = _building(request.layer, sources, uv)
        files = dict(request.files) if sources else {name: request.files[name] for name in (*names, uv)}
        files[uv] = (None if sources else _unpacked_uv(request, tool)) or files[uv]
        inputs = (Bind(source=file, target=f"{INPUTS}/{name}") for name, file in files.items())
        into = ("--venv", str(place)) if place else ()
        made = (_BUILT,) if sources else ()
        python = str(request.layer.options["python"])
        return Commands(
            commands=(*built, (python, "-s", "-B", _PROGRAM, *into, INPUTS, uv, *names, *made)),
            binds=(program, *_builder(sources), *inputs),
            kept=kept,
            kept_in=kept_in,
        )


def _unpacked_uv(request: StepRequest, uv: Input) -> Path | None:
    """The program in the locked uv's wheel, which stands for it: unpacked once for all layers, not in each."""
    if request.derived is None:
        return None
    write = functools.partial(install_wheels.write_uv, str(request.files[uv.name]))
    with contextlib.suppress(zipfile.BadZipFile):
        return request.derived("uv-program", uv.sha256, write)
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


def _builder(sources: Sequence[Input]) -> tuple[Bind, ...]:
    return (Bind(source=Path(build_wheels.__file__).absolute(), target=_BUILDER),) if sources else ()


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


def _pins(inputs: Iterable[Input]) -> dict[str, str]:
    return {item.facts["package"]: item.facts["version"] for item in inputs if item.type in FILES}


# -- what is asked for -------------------------------------------------------------------------------------------------


def _asked(manifest: Manifest, layer: Layer, read: Read, python: str = "") -> Asked:
    """What the layer asks for, in whatever way it says so, for a Python version; any, if left out."""
    from reprobox.layers.pyproject import read_project
    from reprobox.layers.requirement_files import Asked, read_requirements

    options = layer.options
    if options.requirements:
        asked = read_requirements(options.requirements, read)
    elif options.project:
        asked = read_project(options.project, read, extras=options.extras, groups=options.groups, python=python)
    else:
        asked = Asked(requirements=tuple(_listed(manifest, layer)))
    if not options.constraints:
        return asked
    more = read_requirements(options.constraints, read, constraints=True)
    return replace(asked, constraints=(*asked.constraints, *more.constraints), files={**asked.files, **more.files})


def _listed(manifest: Manifest, layer: Layer) -> Iterator[Said]:
    """The list ``packages``, each with its place: ``research.toml:12: layers[1].packages[0]``."""
    from packaging.requirements import Requirement

    from reprobox.layers.requirement_files import Said

    for number, text in enumerate(layer.options.packages):
        yield Said(str(Requirement(text)), _place(manifest, layer, "packages", number))


def _reader(manifest: Manifest, layer: Layer, project: Path) -> Read:
    """Reads files of the project; one that is not there is a problem of the key that names it."""
    name = next(name for name in (*_SOURCES, "constraints") if getattr(layer.options, name))

    def read(path: str) -> bytes:
        at = "constraints" if path == layer.options.constraints else name
        try:
            return within(project, path).read_bytes()
        except (OSError, ReproboxError) as error:
            missing = not (project / path).exists()
            said = f"there is no file {path}" if missing else getattr(error, "message", f"{path} cannot be read")
            hint = "write it, or name another: paths start at the manifest"
            raise ManifestError([manifest.problem(("layers", layer.index, at), said, hint)]) from None

    return read


_SOURCES = ("packages", "requirements", "pylock", "project")


def _place(manifest: Manifest, layer: Layer, *path: str | int) -> str:
    problem = manifest.problem(("layers", layer.index, *path), "")
    return f"{problem.file}:{problem.line}: {problem.key}" if problem.line else f"{problem.file}: {problem.key}"


def _where(request: ResolveRequest, asked: Asked | None = None, package: str = "") -> str:
    """Where ``package`` is asked for: ``requirements.txt:3``, ``research.toml:12: layers[1].packages[0]``; else the key
    of the layer that asks."""
    name = next(name for name in _SOURCES if getattr(request.layer.options, name))
    layer = _place(request.manifest, request.layer, name)
    return next((said.where for said in asked.requirements if said.name == package), layer) if asked else layer


# -- which versions ----------------------------------------------------------------------------------------------------


def _from_index(request: ResolveRequest, uv: Uv, python: Python, below: Mapping[str, str]) -> list[Input]:
    """A wheel for each package that uv chooses for what is asked."""
    read = _reader(request.manifest, request.layer, request.world.project)
    asked = _asked(request.manifest, request.layer, read, python.version)
    packages = [item for item in _solve(uv, request, asked, python, below) if item.name not in below]
    names = {item.name for item in packages}
    for number, name in enumerate(_build(request)):
        if name not in names:
            where = _place(request.manifest, request.layer, "build", number)
            raise ResolveError(
                f"no package {name} is needed here", where=where, hint="correct the name, or leave it out"
            )
    return [_wheel_input(package, python, asked, request) for package in packages]


def _solve(
    uv: Uv, request: ResolveRequest, asked: Asked, python: Python, below: Mapping[str, str]
) -> tuple[Package, ...]:
    try:
        return uv.resolve(_question(request, asked, python.version, python.uv_platform, below))
    except NoSolutionError as error:
        raise _no_solution(error.message, request, asked, python, below) from None


def _question(request: ResolveRequest, asked: Asked, version: str, platform: str, below: Mapping[str, str]) -> Question:
    """What uv is asked, for a Python of this version and a platform in uv's words."""
    kept = request.previous.inputs if request.previous and not request.upgrade else ()
    held = [f"{name}=={number}" for name, number in sorted(below.items())]
    return Question(
        requirements=[said.plain for said in asked.requirements],
        python=version,
        platform=platform,
        constraints=[*(said.text for said in asked.constraints), *held],
        preferences=_pins(kept),
        prereleases=asked.prereleases,
        build=sorted({*_build(request), *_built_below(request)}),
    )


def _build(request: ResolveRequest) -> list[str]:
    """Packages that are to be built from source, normalised as PEP 503 says."""
    from packaging.utils import canonicalize_name

    return [canonicalize_name(name) for name in request.layer.options.build]


def _built_below(request: ResolveRequest) -> Iterator[str]:
    """What the layers below have from source need not have a wheel here either."""
    return (item.facts["package"] for layer in request.below for item in layer.inputs if item.type == "sdist")


def _no_solution(
    reason: str, request: ResolveRequest, asked: Asked, python: Python, below: Mapping[str, str]
) -> ResolveError:
    """The reason in full, the requirement it is about, and what might help."""
    target = f"Python {python.version} on {python.uv_platform}"
    if unknown := re.search(r"\b(\S+) was not found in the package registry", reason):
        name, message = unknown[1], f"there is no package {unknown[1]}"
        hint = meant(name, [*below, *_previous_names(request)]) or "check its spelling, and which index is asked"
    elif without := re.search(r"\b([\w.-]+)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable )?wheels", reason):
        name, message = without[1], f"{without[1]} has no wheel for {target}"
        hint = imported_as(name) or _only_elsewhere(name, reason) or _NO_WHEEL.format(name)
    else:
        name, message = _only_one_named(reason, asked), f"no set of packages satisfies the layer for {target}"
        held = [f"{other}=={below[other]}" for other in sorted(below) if re.search(rf"\b{re.escape(other)}==", reason)]
        hint = "relax one of the versions that are named"
        if held:
            hint = f"a layer below holds {', '.join(held)}: ask for what fits it, or put both into one layer"
    return ResolveError(f"{message}; uv says:\n{indented(reason)}", where=_where(request, asked, name), hint=hint)


def _only_elsewhere(name: str, reason: str) -> str:
    """A marker, for a package that only other operating systems have."""
    there = re.search(rf"Wheels are available for `{re.escape(name)}` [^\n]*platforms?: ([^\n]*)", reason)
    system = "win32" if there and "win" in there[1] else "darwin"
    if there is None or "linux" in there[1]:
        return ""
    return f"where another system needs it, mark it: \"{name}; sys_platform == '{system}'\"; else leave it out"


_NO_WHEEL = (
    'choose a version that has wheels, or let it be built from source: add build = ["{}"] to the layer,'
    " and what compiling it needs to an apt layer above"
)


def _only_one_named(reason: str, asked: Asked) -> str:
    """The package that is asked for and that the reason speaks of, if it is one alone."""
    names = dict.fromkeys(said.name for said in asked.requirements)
    named = [name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", reason)]
    return named[0] if len(named) == 1 else ""


def _previous_names(request: ResolveRequest) -> list[str]:
    return list(_pins(request.previous.inputs)) if request.previous else []


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
            wheel = next(_ranked(package.wheels, python))
            facts = {**_facts(package.name, package.version, python), "for": name}
            yield _input("build", wheel, facts, world)
    except (NoSolutionError, StopIteration) as error:
        said = f"; uv says:\n{indented(error.message)}" if isinstance(error, NoSolutionError) else ""
        raise ResolveError(
            f"what {source.name} needs to be built cannot be locked: {', '.join(requires)}{said}",
            where=_where(request),
            hint="choose another version of it, or one that has wheels",
        ) from None
    except ResolveError as error:
        raise ResolveError(error.message, where=_where(request), hint=error.hint) from None


# -- what a pylock.toml selects ----------------------------------------------------------------------------------------


def _from_pylock(request: ResolveRequest, python: Python, below: Mapping[str, str]) -> list[Input]:
    """The wheels that the file selects for this Python."""
    from reprobox.layers.pylock import select

    options = request.layer.options
    read = _reader(request.manifest, request.layer, request.world.project)
    build = _build(request)
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
    if kind == "sdist" and item.package not in _build(request):
        raise ResolveError(
            f"{item.key}: {item.package} {item.version} is locked as source, without a wheel for"
            f" Python {python.version} on {python.uv_platform}",
            where=request.layer.options.pylock,
            hint=_NO_WHEEL.format(item.package),
        )
    facts = _facts(item.package, item.version, python)
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
    return _input(kind, wheel, facts, request.world)


# -- which files -------------------------------------------------------------------------------------------------------


def _wheel_input(package: Package, python: Python, asked: Asked, request: ResolveRequest) -> Input:
    """The wheel that suits the interpreter best; one that was locked before stays while it suits."""
    before = {item.sha256 for item in request.previous.inputs} if request.previous and not request.upgrade else set()
    kind = "wheel"
    wheels = list(_ranked(package.wheels, python))
    if package.source and package.name in _build(request):
        kind, wheels = "sdist", [package.source]
    if not wheels:
        raise ResolveError(
            f"{package.name} {package.version} has no wheel for Python {python.version} on {python.uv_platform}",
            where=_where(request, asked, package.name),
            hint=_NO_WHEEL.format(package.name),
        )
    wanted = asked.hashes_of(package.name)
    hashed = [item for item in wheels if item.sha256 in wanted or not item.sha256] if wanted else wheels
    wheel = next((item for item in hashed if item.sha256 in before), next(iter(hashed), wheels[0]))
    found = _input(kind, wheel, _facts(package.name, package.version, python), request.world)
    if found.sha256 not in wanted and (wanted or asked.hashed):
        raise _unhashed(package, asked, request)
    return found


def _unhashed(package: Package, asked: Asked, request: ResolveRequest) -> ResolveError:
    said = f"{package.name} {package.version} has no hash, and --require-hashes is said"
    if asked.hashes_of(package.name):
        said = f"no file of {package.name} {package.version} that suits has one of the hashes that are asked for"
    return ResolveError(said, where=_where(request, asked, package.name), hint=_REHASH)


_REHASH = "make the hashes anew with `uv pip compile --generate-hashes`, or find out why the file is another"


def _facts(package: str, version: str, python: Python) -> dict[str, str]:
    return {"package": package, "python": ".".join(map(str, python.release)), "version": version}


@functools.cache
def _order(python: Python) -> Mapping[object, int]:
    """The tags that the interpreter takes, and their places, the best first."""
    order: dict[object, int] = {}
    for tag in python.tags():
        order.setdefault(tag, len(order))
    return order


def _ranked(wheels: Iterable[Wheel], python: Python) -> Iterator[Wheel]:
    """The wheels that the interpreter takes, best first: as the order of tags says, then the higher build number."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    order = _order(python)
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
    if digest and wheel.url.startswith("file:"):
        with contextlib.suppress(OSError):
            size = Path(urllib.parse.unquote(urllib.parse.urlsplit(wheel.url).path)).stat().st_size
    if not digest or not size:  # an index of plain pages: the file itself has to say
        data = world.get(wheel.url, fresh=False, limit=_LARGEST)
        digest, size = digest or sha256(data), len(data)
        if sha256(data) == digest:
            world.store.add_blob(data)
    if wheel.direct:
        facts = {**facts, "url": wheel.url.partition("#")[0]}
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
