"""``bootstrap``: a base made of a distribution's own packages, without a registry or root.

What is locked is the set of ``mmdebstrap --variant=minbase``: the essential and required packages, apt, and what
these need.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from reprobox.backend import Bind
from reprobox.debian import archive, deb, seed, suites, system
from reprobox.debian.closure import base_packages, working_set
from reprobox.debian.control import Package
from reprobox.debian.release import Keyring
from reprobox.debian.sources import Source, host_sources
from reprobox.digest import Json
from reprobox.errors import LockError, PlatformError
from reprobox.layers.kind import INPUTS, Commands, Resolution, ResolveRequest, StepRequest, World
from reprobox.lock import BASE, Input, Lock, LockedLayer, root_lock
from reprobox.lock_text import read, write
from reprobox.manifest import Base, Layer
from reprobox.store import Store

_KEPT_FOR = 30 * 24 * 3600  # seconds that a root for tools is used
_LARGE = 1 << 15  # bytes of a package; dpkg decompresses a smaller one as quickly as one can tell it not to
_DPKG = ("dpkg", "--force-unsafe-io", "--no-triggers")
#: Nothing was booted here, which ``ischroot`` cannot see: libc6 would wait a second for an init to start itself anew.
_NOT_BOOTED = (
    'mkdir -p /run/reprobox-quick && ln -sf /bin/true /run/reprobox-quick/ischroot && PATH="/run/reprobox-quick:$PATH"'
    ' && export PATH && exec "$@"'
)


class Bootstrap:
    """The kind: ``[base] bootstrap = "debian:bookworm"``."""

    name = "bootstrap"
    recipe = 1
    options = Base
    pinned = True

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """A base stands on nothing."""
        return ()

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin every package of the base, from Release files whose signatures are checked here."""
        world, base = request.world, request.manifest.base
        remembered = request.previous.facts.get("keys") if request.previous else None
        trusted = system.trusted_by(world.project, base, remembered)
        suite = base.reference.partition(":")[2]
        return _pin(world, suite, request.platform, host_sources(), trusted)

    def step(self, request: StepRequest) -> Commands:
        """Unpack what can be unpacked here, let dpkg unpack what has scripts, and let it configure all."""
        options = request.layer.options
        by_dpkg = _strings(options["unpack"])
        left_to_dpkg = set(by_dpkg) - set(_strings(options["seed"]))
        copies = _copies(request, by_dpkg)
        planting = seed.Planting(
            debs=[path for name, path in request.files.items() if name not in left_to_dpkg],
            by_dpkg=frozenset(request.files[name] for name in by_dpkg),
            links=_strings(options["links"]),
            epoch=request.epoch,
            handed={request.files[name]: place for name, place in copies.items()},
        )
        configure = ("dpkg", "--force-unsafe-io", "--configure", "--pending")
        return Commands(
            installing=True,
            quick=not request.plain,
            seed=partial(seed.plant, planting=planting),
            binds=tuple(
                Bind(source=copies.get(name, request.files[name]), target=f"{INPUTS}/{name}") for name in by_dpkg
            ),
            commands=(
                (*_DPKG, "--force-depends", "--unpack", *(f"{INPUTS}/{name}" for name in by_dpkg)),
                configure if request.plain else ("/bin/sh", "-c", _NOT_BOOTED, "sh", *configure),
            ),
            environment={"DEBCONF_NONINTERACTIVE_SEEN": "true"},
        )


def _copies(request: StepRequest, by_dpkg: Sequence[str]) -> dict[str, Path]:
    """Where decompressed copies will lie of those packages for which that is worth it."""
    if request.scratch is None:
        return {}
    large = {item.name for item in request.layer.inputs if item.size >= _LARGE}
    return {name: request.scratch / name for name in by_dpkg if name in large}


def _pin(world: World, suite: str, platform: str, known: Sequence[Source], trusted: Keyring) -> Resolution:
    architecture = archive.debian_architecture(platform)
    origins = suites.open_debian(world, suite, known, trusted)
    for origin in origins:
        _check_architecture(origin, architecture)
    indices = archive.open_indices(world, origins, architecture)
    packages = base_packages(archive.universe(indices))
    inputs = archive.lock_packages(world, packages, indices)
    return Resolution(
        inputs=inputs,
        options=_options(world.store, packages, inputs, architecture),
        facts=archive.facts(indices, origins),
        dates=tuple(origin.release.date for origin in origins),
    )


def _check_architecture(origin: archive.Origin, architecture: str) -> None:
    there = [name for name in origin.release.fields.get("Architectures", "").split() if name != "all"]
    if there and architecture not in there:
        raise PlatformError(
            f"suite {origin.source.suite!r} has no packages for {architecture}; it has {', '.join(there)}",
            where=origin.source.dists,
            hint="choose a suite that has this platform, or set `platform` in [targets] to one that is there",
        )


def tool_root(world: World, suite: str, known: Sequence[Source], trusted: Keyring) -> Lock:
    """A base of this machine's own architecture, in which apt can run for another one.

    It decides nothing but which version of apt solves, so it is kept for some weeks.
    """
    memo = world.store.memo("roots", f"{suite}-{world.here.replace('/', '-')}")
    with contextlib.suppress(OSError, LockError):
        if time.time() - memo.stat().st_mtime < _KEPT_FOR or world.offline:
            return read(memo.read_text())
    world.say(f"making a root for apt: debian:{suite} for {world.here}")
    found = _pin(world, suite, world.here, known, trusted)
    base = LockedLayer(name=BASE, kind=Bootstrap.name, recipe=Bootstrap.recipe, request="")
    base = replace(base, inputs=found.inputs, options=found.options)
    root = root_lock(base, world.here, max(found.dates))
    world.store.remember("roots", memo.name, write(root).encode())
    return root


def _strings(value: Json) -> list[str]:
    assert isinstance(value, Sequence)
    return [str(item) for item in value]


def _options(store: Store, packages: Sequence[Package], inputs: Sequence[Input], architecture: str) -> dict[str, Json]:
    """What the step needs to know of the packages, so that it need not look into them.

    ``unpack`` are those that dpkg unpacks itself, in order; ``seed`` those of them without which it would not run.
    """
    unpack = []
    links: tuple[str, ...] = ()
    for item in inputs:
        data = store.blob(item.sha256).read_bytes()
        control = deb.control_files(data)
        if seed.needs_dpkg(control, control.get("triggers", b"")):
            unpack.append(item)
        if item.facts["package"] == "base-files":
            links = seed.merged_usr_links(data, architecture)
    unpack.sort(key=lambda item: (_turn(item.facts["package"]), item.name))
    working = working_set(packages)
    return {
        "architecture": architecture,
        "links": list(links),
        "seed": sorted(item.name for item in unpack if item.facts["package"] in working),
        "unpack": [item.name for item in unpack],
    }


def _turn(package: str) -> int:
    """The users and the folders that other packages' scripts expect come first."""
    return {"base-passwd": 0, "base-files": 1}.get(package, 2)
