"""``apt``: packages of the base's distribution.

Resolved by real apt over indices whose signatures were checked here, run in the base's root or, for a base of another
machine's architecture, in one of this machine; built by real apt from the locked .debs alone, without an index and
without network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from reprobox.backend import Bind
from reprobox.debian import archive, deb, solver, suites, system
from reprobox.debian.archive import Index, Origin
from reprobox.debian.release import ExpiredKeyError, Keyring, UnknownSignerError, read_key_file
from reprobox.debian.sources import Source, host_sources
from reprobox.digest import Json
from reprobox.errors import FetchError, IntegrityError, OfflineError, Problem, ReproboxError, ResolveError
from reprobox.layers.bootstrap import tool_root
from reprobox.layers.kind import INPUTS, TOOLS, BeforeRequest, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Input, Lock
from reprobox.manifest import Layer, Manifest
from reprobox.table_rules import pattern
from reprobox.tables import key
from reprobox.value_checks import apt_package, host_path, word

_CONFIGURATION = Path(solver.__file__).resolve().with_name("step-apt.conf")
_CONFIGURED_AT = f"{TOOLS}/apt.conf"
_QUICK = tuple(
    _CONFIGURATION.with_name(name) for name in ("install.sh", "compile_later.py", "update_ca_certificates.pl")
)
_SMALL, _LARGE = 20_000, 16_000_000  # bytes of a package that is decompressed beforehand, in memory

Place: TypeAlias = tuple[str | int, ...]  # of a key in the manifest: ("layers", 1, "packages", 0)


archive_uri = pattern(
    r"(?:https?://\S+|file:/\S+)", "the address of an archive", "begin it with https://, http:// or file:/"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AptSource:
    """A package archive besides the base's own."""

    uris: tuple[str, ...] = key(
        "Addresses of the archive; the first that answers is used.",
        check=archive_uri,
        nonempty=True,
        hint='add uris = ["https://…"]',
    )
    suites: tuple[str, ...] = key(
        "Suites to use; a path that ends in / is a flat repository.",
        check=word,
        nonempty=True,
        hint='add suites = ["…"], as the archive\'s instructions have it',
    )
    components: tuple[str, ...] = key(
        "Components to use; a flat repository has none.", default=("main",), check=word, nonempty=True
    )
    architectures: tuple[str, ...] = key(
        "Debian architectures to use, where it is not for all of them.", default=(), check=word
    )
    key: str = key(
        "File with the public keys that sign it, armored or binary.",
        check=host_path,
        hint='add key = "keys/….asc", the archive\'s public key in the project folder',
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AptOptions:
    """The keys of an ``apt`` layer."""

    packages: tuple[str, ...] = key(
        "Packages to install: name, name=version or name:architecture; a version may end in *.",
        check=apt_package,
        nonempty=True,
        hint='add packages = ["…"]',
    )
    recommends: bool = key("Install recommended packages too.", default=False)
    sources: tuple[AptSource, ...] = key("Archives besides the base's own.", default=())


class Apt:
    """The kind."""

    name = "apt"
    recipe = 1
    options = AptOptions
    pinned = True

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """The nearest apt layer above, which stands on the others: there is one dpkg database."""
        return tuple(islice((other.name for other in reversed(above) if other.kind == self.name), 1))

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin every package that must be installed, as apt decides it."""
        asked: AptOptions = request.layer.options
        base = system.installed(request.world, request.below[0], request.platform)
        architectures = _architectures(request, asked, base.foreign)
        origins, indices = _open(request, architectures)
        _check_twice(request, asked)
        _check_names(request, asked, base.status, indices)
        question = solver.Question(
            packages=asked.packages,
            status=_status(request, base.status),
            architectures=architectures,
            recommends=asked.recommends,
            indices=indices,
            **_elsewhere(request),
        )
        answer = _solve(request, question)
        _check_pins(request, answer)
        inputs = archive.with_sha1(request.world, [_input(request, choice) for choice in _sorted(answer.choices)])
        return Resolution(
            inputs=inputs,
            options={
                "architectures": [name for name in architectures[1:] if name not in base.foreign],
                "manual": _manual(request, asked, question.status, inputs),
                "removed": sorted(answer.removed),
            },
            facts=_facts(request, indices, origins, answer),
        )

    def before(self, request: BeforeRequest) -> bool:
        """Decompress packages for dpkg, which has nothing else to do while it does that; the largest ones first."""
        asked = sorted(request.layer.inputs, key=lambda item: item.size, reverse=True)
        for item in asked if not request.layer.options["removed"] else ():
            if request.awaited():
                break
            if _SMALL <= item.size <= _LARGE:
                with contextlib.suppress(IntegrityError):  # it is for dpkg to tell
                    deb.write_decompressed(request.input(item), request.folder / item.name)
        return any(request.folder.iterdir())

    def step(self, request: StepRequest) -> Commands:
        """Install exactly the locked .debs, and mark what was asked for as such."""
        options = request.layer.options
        manual, removed = _strings(options["manual"]), _strings(options["removed"])
        automatic = [name for name in map(_installed_name, request.layer.inputs) if not _asked_for(name, manual)]
        files = [f"{INPUTS}/{name}" for name in request.files]
        install = ("apt-get", *(() if removed else ("--no-remove",)), "install")
        commands: list[tuple[str, ...]] = [
            ("dpkg", "--add-architecture", name) for name in _strings(options["architectures"])
        ]
        quick = bool(files) and not (removed or request.plain)
        if quick:
            commands.append(("/bin/sh", f"{TOOLS}/{_QUICK[0].name}", *install, *files))
        elif files or removed:
            commands.append((*install, *files, *(f"{name}-" for name in removed)))
        if automatic:
            commands.append(("apt-mark", "auto", *automatic))
        if manual:
            commands.append(("apt-mark", "manual", *manual))
        return Commands(
            installing=True,
            quick=quick,
            commands=tuple(commands),
            binds=(
                Bind(source=_CONFIGURATION, target=_CONFIGURED_AT),
                *(Bind(source=path, target=f"{TOOLS}/{path.name}") for path in (_QUICK if quick else ())),
                *(Bind(source=path, target=f"{INPUTS}/{name}") for name, path in _files(request).items()),
            ),
            environment={"APT_CONFIG": _CONFIGURED_AT, "DEBCONF_NONINTERACTIVE_SEEN": "true"},
        )


def _files(request: StepRequest) -> dict[str, Path]:
    """The packages as the step finds them, some decompressed: neither apt nor dpkg notes how a file is packed."""
    if request.plain or request.ahead is None:
        return dict(request.files)
    ready = {path.name: path for path in request.ahead.iterdir()}
    return {name: ready.get(name, path) for name, path in request.files.items()}


def _strings(value: Json) -> list[str]:
    assert isinstance(value, Sequence)
    return [str(item) for item in value]


def _names(asked: AptOptions) -> list[str]:
    """The packages asked for, without versions."""
    return [item.partition("=")[0] for item in asked.packages]


def _installed_name(item: Input) -> str:
    architecture = item.facts["architecture"]
    return item.facts["package"] if architecture == "all" else f"{item.facts['package']}:{architecture}"


def _asked_for(name: str, manual: Collection[str]) -> bool:
    return name in manual or name.partition(":")[0] in manual


# -- where packages come from ------------------------------------------------------------------------------------------


def _architectures(request: ResolveRequest, asked: AptOptions, foreign: Iterable[str]) -> tuple[str, ...]:
    """The native architecture, those that the base takes too, and those that packages are asked for."""
    native = archive.debian_architecture(request.platform)
    wanted = [name.partition(":")[2] for name in _names(asked)]
    named = [name for name in wanted if name not in ("", "all", "any", "native", native)]
    return tuple(dict.fromkeys((native, *foreign, *named)))


def _open(request: ResolveRequest, architectures: Sequence[str]) -> tuple[tuple[Origin, ...], tuple[Index, ...]]:
    """The base's own suites and those of the layer's sources, checked anew."""
    world, base = request.world, request.below[0]
    if base.kind == "bootstrap":
        trusted = system.trusted_by(world.project, request.manifest.base, base.facts.get("keys"))
        suite = request.manifest.base.reference.partition(":")[2]
        origins = suites.open_debian(world, suite, host_sources(), trusted)
    else:
        origins = suites.open_sources(world, system.base_system(world), system.host_system())
    origins += _declared(request)
    native, *foreign = architectures
    indices = list(archive.open_indices(world, origins, native))
    for name in foreign:
        indices += archive.open_indices(world, origins, name, needed=False)
    return origins, tuple(indices)


def _sources(layer: Layer) -> Iterator[Source]:
    """The suites that a layer declares besides the base's own, each with all addresses that may have it."""
    for declared in layer.options.sources:
        first, *others = (uri.rstrip("/") for uri in declared.uris)
        for suite in declared.suites:
            yield Source(
                uri=first,
                suite=suite,
                components=declared.components,
                architectures=declared.architectures,
                others=tuple(others),
                exact=False,
            )


def declared(manifest: Manifest | None) -> tuple[Source, ...]:
    """The sources of all layers: where a lock's packages may be had, besides what base and machine know."""
    layers = manifest.layers if manifest else ()
    return tuple(source for layer in layers if layer.kind == Apt.name for source in _sources(layer))


def _declared(request: ResolveRequest) -> tuple[Origin, ...]:
    """The layer's own sources, each held against the keys that the manifest gives for it."""
    found = []
    opened = iter(_sources(request.layer))
    for number, declared in enumerate(request.layer.options.sources):
        place = ("layers", request.layer.index, "sources", number)
        keyring = _keys(request, declared, (*place, "key"))
        for _, source in zip(declared.suites, opened, strict=False):
            try:
                found.append(suites.open_declared(request.world, source, keyring))
            except (UnknownSignerError, ExpiredKeyError) as error:
                hint = f"put the public key that the archive's own pages offer into {declared.key}"
                raise _at(request, (*place, "key"), error, hint) from None
            except (FetchError, IntegrityError) as error:
                raise _at(request, place, error, error.hint or "") from None
    return tuple(found)


def _keys(request: ResolveRequest, declared: AptSource, place: Place) -> Keyring:
    try:
        return read_key_file(request.world.project / declared.key)
    except ResolveError as error:
        raise _at(request, place, error, error.hint or "") from None


def _at(request: ResolveRequest, place: Place, error: ReproboxError, hint: str) -> ReproboxError:
    """The same error, told with the manifest's line and key."""
    found = request.manifest.problem(place, "")
    message = f"{error.where}: {error.message}" if error.where else error.message
    return type(error)(message, where=f"{found.file}:{found.line}: {found.key}", hint=hint)


def _elsewhere(request: ResolveRequest) -> dict[str, Any]:
    """Where apt runs for a base that cannot run here, and what the base's own apt would prefer."""
    world, asked = request.world, request.manifest.base
    if request.platform == world.here:
        return {}
    root = world.roots.get(asked.reference) or _tool_root(request)
    return {"root": root, "preferences": "" if asked.kind == "bootstrap" else system.preferences(world)}


def _tool_root(request: ResolveRequest) -> Lock:
    """A base of this machine, of the target's Debian release where it is one: then it is the same apt that solves."""
    world, asked = request.world, request.manifest.base
    if asked.kind == "bootstrap":
        trusted = system.trusted_by(world.project, asked, request.below[0].facts.get("keys"))
        return tool_root(world, asked.reference.partition(":")[2], host_sources(), trusted)
    base, host = system.base_system(world), system.host_system()
    trusted = Keyring({**host.trusted.certs, **base.trusted.certs}, [*base.trusted.places, *host.trusted.places])
    known = (*(replace(source, signed_by=()) for source in base.sources), *host.sources)
    return tool_root(world, system.debian_suite(world) or "stable", known, trusted)


# -- asking apt --------------------------------------------------------------------------------------------------------


def _status(request: ResolveRequest, status: bytes) -> bytes:
    """The base's dpkg status with what lower apt layers do to it."""
    for layer in request.below:
        if layer.kind == Apt.name:
            request.world.fetch(layer.inputs)
            debs = [request.world.store.blob(item.sha256) for item in layer.inputs]
            status = solver.extended_status(status, _strings(layer.options["removed"]), debs)
    return status


def _solve(request: ResolveRequest, question: solver.Question) -> solver.Answer:
    """Ask with the old pins where there are any; those that stand in the way are let go, and no others."""
    previous = request.previous
    kept = previous.inputs if previous is not None and not request.upgrade else ()
    missing = solver.no_longer_offered(request.world.store, kept, question.indices)
    gone = set(_brought(request, missing)) if kept else set()
    let_go: list[str] = []
    while True:
        forgotten = tuple(item for item in kept if item.sha256 in gone)
        answer = solver.ask(request.world, replace(question, kept=kept, forgotten=forgotten))
        if isinstance(answer, solver.Answer):
            break
        if not kept:
            raise _refused(request, question, answer)
        freed = solver.pins_in_the_way(answer, kept) or {item.facts["package"] for item in kept}
        let_go += sorted(freed)
        kept = tuple(item for item in kept if item.facts["package"] not in freed)
    if let_go:
        names = ", ".join(let_go[:5]) + (f" and {len(let_go) - 5} more" if len(let_go) > 5 else "")
        request.world.say(f"{request.layer.name}: what is asked now does not allow these as locked: {names}")
    return answer


def _brought(request: ResolveRequest, inputs: Sequence[Input]) -> Iterable[str]:
    """Hashes of those ``inputs`` that can still be had; it is no error if some cannot, they are chosen anew."""
    try:
        request.world.fetch(inputs)
    except (FetchError, OfflineError, IntegrityError):
        gone = [item.name for item in inputs if not request.world.store.has_blob(item.sha256)]
        request.world.say(f"{request.layer.name}: no longer to be had, so chosen anew: {', '.join(gone)}")
    return (item.sha256 for item in inputs if request.world.store.has_blob(item.sha256))


def _manual(request: ResolveRequest, asked: AptOptions, status: bytes, inputs: Iterable[Input]) -> Sequence[str]:
    """What was asked for, as ``apt-mark`` takes it: a virtual name stands for the package that provides it."""
    real = {item.facts["package"]: item.facts["package"] for item in inputs}
    if any(name.partition(":")[0] not in real for name in _names(asked)):  # it is there already, or virtual
        real = solver.names_and_provided(status, [request.world.store.blob(item.sha256) for item in inputs])
    marked = set()
    for name in _names(asked):
        package, colon, architecture = name.partition(":")
        if package in real:
            marked.add(f"{real[package]}{colon}{architecture}")
    return sorted(marked)


def _sorted(choices: Iterable[solver.Choice]) -> list[solver.Choice]:
    """In an order that does not depend on apt's, so that the lock keeps its lines."""
    return sorted(choices, key=lambda choice: (choice.package, choice.architecture))


def _input(request: ResolveRequest, choice: solver.Choice) -> Input:
    if choice.index is None:  # only the old lock has it
        assert request.previous is not None
        return next(item for item in request.previous.inputs if item.sha256 == choice.sha256)
    version = choice.version.partition(":")[2] or choice.version
    item = Input(
        type="deb",
        name=f"{choice.package}_{version}_{choice.architecture}.deb",
        sha256=choice.sha256,
        size=choice.size,
        facts={
            "package": choice.package,
            "version": choice.version,
            "architecture": choice.architecture,
            "path": choice.path,
            "archive": choice.index.release.archive,
            "suite": choice.index.suite,
        },
    )
    request.world.remember(item, [f"{choice.index.uri}/{choice.path}"])
    return item


def _facts(
    request: ResolveRequest, indices: Sequence[Index], origins: Sequence[Origin], answer: solver.Answer
) -> dict[str, Json]:
    told = archive.facts(indices, origins)
    if told["keys"] == request.below[0].facts.get("keys"):
        del told["keys"]
    return {**told, **({"downgraded": sorted(answer.downgraded)} if answer.downgraded else {})}


# -- what cannot be ----------------------------------------------------------------------------------------------------


def _check_twice(request: ResolveRequest, asked: AptOptions) -> None:
    """Refuse two versions of one package in one layer: apt would take the last."""
    pins: dict[str, str] = {}
    for number, item in enumerate(asked.packages):
        name, _, version = item.partition("=")
        if pins.setdefault(name, version) != version:
            message = f"{name!r} is asked for twice, and not in the same version"
            raise _problem(request, ("packages", number), message, "keep one of the two")


def _check_pins(request: ResolveRequest, answer: solver.Answer) -> None:
    """Refuse what would undo a version that a lower layer asks for by number."""
    below = {layer.name for layer in request.below}
    chosen = {choice.package: choice.version for choice in answer.choices}
    for layer in request.manifest.layers:
        for number, item in enumerate(layer.options.packages if layer.kind == Apt.name and layer.name in below else ()):
            name, pinned, version = item.partition("=")
            package = name.partition(":")[0]
            new = chosen.get(package, "nothing" if package in answer.removed else version)
            if pinned and not fnmatchcase(new, version):
                raise _problem(
                    request,
                    ("packages",),
                    f"they would replace {item!r}, which layers[{layer.index}].packages[{number}] asks for, by {new}",
                    f"ask for one version in both layers, or put the packages of {layer.name!r}"
                    f" and {request.layer.name!r} into one",
                )


def _problem(request: ResolveRequest, place: Place, message: str, hint: str) -> ResolveError:
    found = request.manifest.problem(("layers", request.layer.index, *place), message, hint)
    return ResolveError(message, where=f"{found.file}:{found.line}: {found.key}", hint=hint)


def _check_names(request: ResolveRequest, asked: AptOptions, status: bytes, indices: Sequence[Index]) -> None:
    """Refuse names that nothing offers: apt would take some of them as patterns, or as wishes to remove."""
    known = solver.package_names(request.world.store, indices)
    problems = []
    for number, item in enumerate(asked.packages):
        name = item.partition("=")[0].partition(":")[0]
        if name in known or f"\nPackage: {name}\n".encode() in b"\n" + status or solver.is_provided(name, indices):
            continue
        near = _near(name, known)
        hint = f"did you mean {near}?" if near else "check the name; the archive's suites are those of the base"
        message = f"no package is called {name!r} in {_suites(indices)}"
        problems.append(request.manifest.problem(("layers", request.layer.index, "packages", number), message, hint))
    if problems:
        raise UnknownPackagesError(problems)


class UnknownPackagesError(ResolveError):
    """Packages that nothing offers, each with its place in the manifest and near names."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))


def _near(name: str, known: Collection[str]) -> str:
    """Names like ``name``, as a choice in words. Names far off in length or beginning are not even compared."""
    usual = [f"{start}{name}{end}" for start in ("", "lib", "python3-") for end in ("", "-dev")]
    similar = [other for other in known if abs(len(other) - len(name)) <= 3 and set(other[:2]) & set(name[:2])]
    found = [other for other in usual if other in known] + get_close_matches(name, similar, n=3, cutoff=0.65)
    return " or ".join(repr(other) for other in dict.fromkeys(found[:3]))


def _suites(indices: Sequence[Index]) -> str:
    return ", ".join(dict.fromkeys(index.suite for index in indices))


def _refused(request: ResolveRequest, question: solver.Question, refusal: solver.Refusal) -> ResolveError:
    lines = [*refusal.errors]
    for name in solver.missing_versions(refusal):
        offered = ", ".join(solver.offered_versions(name, question.indices)) or "none"
        lines.append(f"versions of {name!r} that are offered: {offered}")
    if refusal.explanation:
        lines.append(refusal.explanation)
    place = request.manifest.problem(("layers", request.layer.index, "packages"), "")
    return ResolveError(
        "apt cannot install these packages:\n" + "\n".join(f"    {line}" for line in "\n".join(lines).split("\n")),
        where=f"{place.file}:{place.line}: {place.key}",
        hint="change the packages or versions named; `reprobox lock --upgrade` lets all versions move",
    )
