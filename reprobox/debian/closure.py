"""Which packages make a base: the essential and required ones, apt, and all that they need.

The set of ``debootstrap --variant=minbase`` and ``mmdebstrap --variant=minbase``, by the same simple rule as
debootstrap (no backtracking): the first alternative that can be had. It holds for base systems, whose dependencies
distributions keep simple; whatever comes on top is left to apt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reprobox.debian.control import Package, Relation, Universe
from reprobox.errors import ResolveError

#: Taken where it is among the alternatives: the base is made with merged /usr, so nothing is to be converted.
_PREFERRED = ("usr-is-merged",)


def base_packages(universe: Universe, *, extra: tuple[str, ...] = ("apt",)) -> tuple[Package, ...]:
    """The packages of a minimal base with ``extra`` ones, sorted by name.

    Raises :class:`ResolveError` where a dependency cannot be satisfied or two of the packages conflict.
    """
    chosen: dict[str, Package] = {}
    for package in (*universe.containing(b"Essential: yes"), *universe.containing(b"Priority: required")):
        chosen[package.name] = package
    for name in extra:
        wanted = universe.newest(name)
        if wanted is None:
            raise ResolveError(f"the archive has no package {name!r}, which a base needs")
        chosen[name] = wanted
    queue = sorted(chosen)
    for name in queue:  # grows while it is walked
        for alternatives in chosen[name].relations("Pre-Depends", "Depends"):
            if not any(_present(wanted, chosen) for wanted in alternatives):
                needed = _choose(universe, alternatives, chosen[name])
                chosen[needed.name] = needed
                queue.append(needed.name)
    _check_conflicts(chosen)
    return tuple(chosen[name] for name in sorted(chosen))


def working_set(packages: Iterable[Package]) -> frozenset[str]:
    """Names of what must be unpacked before any script can run: the essential packages and what they need."""
    chosen = {package.name: package for package in packages}
    queue = [name for name in chosen if chosen[name].essential]
    for name in queue:  # grows while it is walked
        for alternatives in chosen[name].relations("Pre-Depends", "Depends"):
            for wanted in alternatives:
                found = [
                    other.name for other in chosen.values() if other.name == wanted.name or _provides(other, wanted)
                ]
                queue += [other for other in found if other not in queue]
    return frozenset(queue)


def _present(wanted: Relation, chosen: dict[str, Package]) -> bool:
    package = chosen.get(wanted.name)
    if package and wanted.accepts(package.version):
        return True
    return any(_provides(package, wanted) for package in chosen.values())


def _provides(package: Package, wanted: Relation) -> bool:
    return wanted.name in package["Provides"] and any(
        offer.name == wanted.name and (not wanted.operator or bool(offer.version and wanted.accepts(offer.version)))
        for (offer, *_) in package.relations("Provides")
    )


def _choose(universe: Universe, alternatives: tuple[Relation, ...], dependant: Package) -> Package:
    for wanted in sorted(alternatives, key=lambda item: item.name not in _PREFERRED):
        package = next(_candidates(universe, wanted), None)
        if package:
            return package
    raise ResolveError(
        f"{dependant.name} {dependant.version} needs {' | '.join(map(str, alternatives))}, which no index offers",
        hint="the mirror may be in the middle of an update: try again, or name another one in the configuration",
    )


def _candidates(universe: Universe, wanted: Relation) -> Iterator[Package]:
    newest = universe.newest(wanted.name)
    if newest and wanted.accepts(newest.version):
        yield newest
    yield from universe.providers(wanted)


def _check_conflicts(chosen: dict[str, Package]) -> None:
    for package in chosen.values():
        for wanted, *_ in package.relations("Conflicts", "Breaks"):
            for other in chosen.values():
                named = other.name == wanted.name and wanted.accepts(other.version)
                if other is not package and (named or _provides(other, wanted)):
                    raise ResolveError(
                        f"{package.name} {package.version} and {other.name} {other.version} exclude each other"
                    )
